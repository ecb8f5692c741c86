"""The base model and its captions that come with the package: what they are, that they are used, that their recipe still makes them."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.worlds.pocket import shipped
from harness.worlds.pocket.world import PocketWorld
from tests import warm
from tests.commands import json_here


def test_it_is_what_its_manifest_says() -> None:
    about = shipped.about()
    assert hashlib.sha256((shipped.FOLDER / "model.safetensors").read_bytes()).hexdigest() == about["sha256"]
    assert {"halbench[spacy]", "amber[spacy+exact]", "pope", "mmhal[pocket-truth]"} <= set(about["scores"])
    assert hashlib.sha256((shipped.FOLDER / "samples.json.gz").read_bytes()).hexdigest() == about["samples"]["sha256"]
    assert sum(path.stat().st_size for path in shipped.FOLDER.iterdir()) < 3.5e6


@pytest.mark.skipif(
    f"{sys.version_info.major}.{sys.version_info.minor}" != shipped.about()["python"],
    reason="the hash of the recipe is of another Python's syntax tree",
)
def test_its_recipe_is_that_of_the_sources() -> None:
    from harness.worlds.pocket.world import recipe_hash

    assert recipe_hash() == shipped.about()["recipe"], f"the recipe has changed: run {shipped.about()['command']}"


def test_packing_what_was_unpacked_gives_the_same_bytes(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    shipped.unpack(tmp_path / "plain")
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    shipped.pack(tmp_path / "plain", tmp_path / "packed")
    packed = {path.name: path.read_bytes() for path in (tmp_path / "packed").iterdir()}
    beside = ("made.json", "samples.json.gz")
    assert packed == {path.name: path.read_bytes() for path in shipped.FOLDER.iterdir() if path.name not in beside}
    shipped.pack_samples(shipped.samples(), tmp_path)
    assert gzip.decompress((tmp_path / "samples.json.gz").read_bytes()) == gzip.decompress(
        (shipped.FOLDER / "samples.json.gz").read_bytes()
    )


def test_the_pairs_of_seed_0_need_no_torch_and_are_the_same_everywhere(tmp_path: Path) -> None:
    """Another CPU rounds otherwise and would draw other tokens, so everybody would train on other pairs."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from harness.worlds.pocket.world import PocketWorld\n"
        "print(PocketWorld(0).preference_set('rlaif-v'))\n"
    )
    environment = os.environ | {"HARNESS_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    rows = pq.read_table(done.stdout.strip()).to_pylist()
    assert len(rows) == len(shipped.samples()) == 3_000
    sampled = [json.loads(row["origin_split"])["rejected"] == "sampled" for row in rows]
    both = zip(rows, shipped.samples(), sampled, strict=True)
    assert sum(sampled) > 1_000 and all(row["rejected"] == caption for row, caption, own in both if own)


@pytest.mark.slow
def test_the_model_still_says_its_captions(tmp_path: Path) -> None:
    """Near ties fall another way on another CPU, and what follows them differs."""
    from harness.models import load_model, load_processor
    from harness.worlds.pocket.preferences import sample_base
    from harness.worlds.pocket.training import Base

    shipped.unpack(tmp_path / "base")
    base = Base(load_model(tmp_path / "base", device="cpu"), load_processor(tmp_path / "base"))
    count = 250
    again = sample_base(base, shipped.SEED, count)
    equal = sum(one == other for one, other in zip(again, shipped.samples()[:count], strict=True))
    assert equal > 0.9 * count


def test_seed_0_waits_for_no_training_and_other_seeds_are_other_models(tmp_path: Path) -> None:
    code = (
        "import harness.worlds.pocket.world as world\n"
        "def no(*_): raise SystemExit('a model is trained')\n"
        "world.in_child = no\n"
        "print(world.PocketWorld(0).model())\n"
        "world.PocketWorld(1).model()\n"
    )
    environment = os.environ | {"HARNESS_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "a model is trained" in done.stderr
    folder = Path(done.stdout.strip())
    assert folder.parent.name.startswith("model-s0-") and (folder / "model.safetensors").exists()


@pytest.mark.slow
def test_it_answers_as_its_manifest_says(tmp_path: Path) -> None:
    """Through vLLM, on the questions of POPE alone: they are short."""
    command = ["eval", "--model", "pocket", "--suite", "pope", "--json"]
    environment = os.environ | {"HARNESS_CACHE": str(tmp_path / "cache")}
    done = warm.run(command, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [record] = json.loads(done.stdout)
    for name, metric in shipped.about()["scores"]["pope"].items():
        # Near ties of two tokens may fall either way on another CPU.
        assert record["metrics"][name]["value"] == pytest.approx(metric["value"], abs=0.01), name


@pytest.mark.slow
def test_a_short_recipe_trains_and_unlearns_nothing_it_needs() -> None:
    from harness.worlds.pocket.training import Recipe, train_base, yes_no_accuracy

    short = Recipe(
        pictures=300, tower_steps=60, lookup_steps=20, lookup_every=10, steps=10, caption_batch=8, accuracy_wanted=0.0
    )
    base = train_base(3, short)
    assert 0.3 < yes_no_accuracy(base, 3, 40) <= 1.0
    assert not any(value.isnan().any() for value in base.model.parameters())


@pytest.mark.exhaustive
def test_the_recipe_makes_a_model_of_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on this machine: on another CPU it is another model, whose intervals must overlap the shipped one's."""
    from harness.worlds.pocket.world import train_model

    train_model(shipped.SEED, tmp_path / "trained")
    command = [sys.executable, "-m", "harness", "eval", "--model", str(tmp_path / "trained"), "--data"]
    from harness.worlds.pocket.world import PocketWorld

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    data = PocketWorld(shipped.SEED).benchmarks("test")
    done = subprocess.run(
        [*command, str(data), "--suite", "halbench,amber,pope", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    )
    for record in json.loads(done.stdout):
        key = f"{record['suite']}[{record['variant']}]" if record["variant"] else record["suite"]
        for name, metric in shipped.about()["scores"][key].items():
            low, high = record["metrics"][name]["ci"]
            assert low <= metric["ci"][1] and high >= metric["ci"][0], (key, name)


@pytest.mark.slow
def test_a_world_can_be_made_beforehand() -> None:
    """`harness data get pocket`, as the step of an experiment does; with an unknown name beside it, nothing is made."""
    assert "nonsense" in json_here("data", "get", "pocket:99", "nonsense", code=2)
    rows = json_here("data", "get", "pocket")
    world = PocketWorld(0)
    paths = [world.model(), world.preferences(), world.benchmarks("validation"), world.benchmarks("test")]
    assert [(row["data"], row["file"]) for row in rows] == [("pocket", str(path)) for path in paths]
    assert all(Path(row["file"]).exists() for row in rows)
