"""A run is evaluated from wherever one stands: what it was trained on is found by its place, never by a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.core.errors import BadInputError
from harness.models import fingerprint, recorded, resolve
from harness.runs.folders import find_run, open_run
from harness.runs.targets import each_once, target_of, target_of_endpoint, target_of_model
from tests.commands import harness, run_here
from tests.harness.serving.fake_vision import small_pope
from tests.tiny import tiny_llava, tiny_photograph

EVAL = ["eval", "--suite", "pope", "--limit", "4", "--backend", "transformers", "--json"]


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A folder in which somebody aligned a model that lies beside, by its relative name."""
    origin = tmp_path / "origin"
    tiny_llava(origin / "base")
    tiny_photograph(origin / "0.png", 0)
    pair = {"image": "0.png", "prompt": "What is this?", "chosen": "a red cat", "rejected": "a blue dog"}
    (origin / "pairs.jsonl").write_text("".join(json.dumps(pair | {"id": str(n)}) + "\n" for n in range(4)))
    sets = ["--set", "train.lora={rank: 8, alpha: 16}", "--set", "train.learning_rate=3e-3", "--set", "train.epochs=4"]
    harness(origin, "align", "--method", "dpo", "--model", "./base", "--data", "pairs.jsonl", "--name", "mine", *sets)
    return small_pope(origin, images=2)


@pytest.mark.slow
def test_an_adapter_of_a_relative_base_is_evaluated_from_elsewhere(origin: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    tiny_llava(elsewhere / "base", seed=1)  # another model that happens to have the same name
    run, data = str(origin / "results" / "mine"), ["--data", str(origin / "data")]
    records = json.loads(harness(elsewhere, *EVAL, "--run", run, "--base", *data).stdout)
    assert {record["target"]: record["model"] for record in records} == {"base-base": "base", "mine": "base"}
    base = json.loads((elsewhere / "results" / "base-base" / "manifest.json").read_text())["base"]
    assert base["location"] == str(origin / "base") and base["fingerprint"] == fingerprint(origin / "base")
    # The base's own run, too, is found again from a third place.
    again = harness(tmp_path, *EVAL, "--run", str(elsewhere / "results" / "base-base"), *data)
    assert json.loads(again.stdout)[0]["checkpoint"] == records[0]["checkpoint"]

    shutil.move(origin / "base", tmp_path / "moved")
    gone = harness(elsewhere, *EVAL, "--run", run, *data, code=2).stderr
    assert "the adapter's base model is not at" in gone and str(origin / "base") in gone and "Traceback" not in gone
    (origin / "base").symlink_to(tmp_path / "moved")
    harness(elsewhere, *EVAL, "--run", run, *data)

    # A run that an earlier version named as the backends name the base model.
    named = (origin / "results" / "mine").rename(origin / "results" / "base")
    refused = harness(elsewhere, *EVAL, "--run", str(named), *data, code=2).stderr
    assert "a run cannot be called 'base'" in refused and f"rename its folder, for example to {named}-1" in refused


def test_no_run_gets_the_name_of_the_base_model(tmp_path: Path) -> None:
    align = ["align", "--method", "dpo", "--model", "pocket", "--name", "base"]
    code, _, said = run_here(align, tmp_path)
    assert code == 2 and "a run cannot be called 'base'" in said and "use another name" in said
    assert not list(tmp_path.iterdir())


def test_a_run_outside_of_the_results_is_itself(tmp_path: Path) -> None:
    """Even if the results have a run of the same name, and if the folder was renamed."""
    tiny_llava(tmp_path / "base")
    before = [
        target_of_endpoint("gpt", tmp_path / "old"),
        target_of_model(resolve(str(tmp_path / "base")), tmp_path / "old"),
    ]
    for target in before:
        target.begin()
    (tmp_path / "old" / "gpt").rename(tmp_path / "old" / "gpt of May")
    for name, target in (("gpt of May", before[0]), (before[1].name, before[1])):
        folder = tmp_path / "old" / name
        kept = (folder / "manifest.json").read_bytes()
        again = target_of(find_run(str(folder), tmp_path / "results"))
        assert (again.name, again.folder) == (name, folder)
        assert (again.fingerprint, again.template, again.base) == (target.fingerprint, target.template, target.base)
        assert (again.model, again.method, again.remote) == (target.model, target.method, target.remote)
        again.begin()
        assert (folder / "manifest.json").read_bytes() == kept
    tiny_llava(tmp_path / "base", seed=1)  # a base whose weights have changed is recorded in its own folder
    target_of(find_run(str(folder), tmp_path / "results")).begin()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["name"] == folder.name and manifest["base"]["fingerprint"] == fingerprint(tmp_path / "base")
    assert not (tmp_path / "results").exists() and not (tmp_path / "old" / "gpt").exists()


def test_two_runs_of_one_name_are_not_evaluated_together(tmp_path: Path) -> None:
    """Both would be printed, each with the scores of the second."""
    small_pope(tmp_path, images=2)
    for folder in ("one", "two"):
        target_of_endpoint("gpt", tmp_path / folder).begin()
    ask = [
        "eval",
        "--backend",
        "openai",
        "--endpoint",
        "http://127.0.0.1:9/v1",
        "--suite",
        "pope",
        "--data",
        "data",
        "--dry-run",
    ]
    code, _, said = run_here([*ask, "--run", "one/gpt,two/gpt"], tmp_path)
    said = " ".join(said.split())
    assert code == 2 and "two of the checkpoints are called 'gpt'" in said and "in two commands" in said
    assert "one/gpt, two/gpt" in said
    code, out, said = run_here([*ask, "--run", "one/gpt,one/gpt,./one/../one/gpt", "--json"], tmp_path)
    assert code == 0 and len(json.loads(out)) == 1, said


def test_base_models_of_the_same_folder_name_have_runs_of_their_own(tmp_path: Path) -> None:
    results, places = tmp_path / "results", [tmp_path / name / "checkpoint" for name in ("first", "second")]
    for seed, place in enumerate(places):
        tiny_llava(place, seed=seed)
    hashes = [fingerprint(place)[:8] for place in places]
    together = [target_of_model(resolve(str(place)), results) for place in (*places, places[0])]
    assert [target.name for target in each_once(together)] == ["base-checkpoint", f"base-checkpoint-{hashes[1]}"]
    assert [target.base for target in each_once(together)] == [str(place) for place in places]

    together[0].begin()
    before = (results / "base-checkpoint/manifest.json").read_text()
    for _ in range(2):
        second = target_of_model(resolve(str(places[1])), results)
        second.begin()
        assert (second.name, second.folder) == (f"base-checkpoint-{hashes[1]}", results / second.name)
    assert target_of_model(resolve(str(places[0])), results).name == "base-checkpoint"
    assert (results / "base-checkpoint/manifest.json").read_text() == before
    assert target_of(open_run(second.folder)).name == second.name

    # Weights find their run again from another place, and after the other model's run is gone.
    moved = places[0].rename(tmp_path / "checkpoint")
    assert target_of_model(resolve(str(moved)), results).name == "base-checkpoint"
    (results / "base-checkpoint").rename(tmp_path / "gone")
    assert target_of_model(resolve(str(places[1])), results).name == second.name


def test_a_run_and_a_model_are_two_things(tmp_path: Path) -> None:
    done = harness(small_pope(tmp_path), *EVAL, "--run", "mine", "--model", "./base", "--data", "data", code=2)
    assert "exclude each other" in done.stderr and "--base" in done.stderr


def test_names_keep_their_meaning_and_folders_their_place() -> None:
    assert recorded("pocket:3", "/gone").location is None, "a world makes its model again"
    assert recorded("pocket:3", "/gone").default_data == "pocket:3"
    assert (recorded("base", "/a/base").locate(), recorded("base", "/a/base").default_data) == ("/a/base", "official")
    hub = recorded("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf")
    assert hub.locate() == "llava-hf/llava-1.5-7b-hf"


def test_a_folder_that_is_gone_has_no_fingerprint(tmp_path: Path) -> None:
    assert fingerprint("somebody/model") != fingerprint("somebody/other")
    for gone in (tmp_path / "gone", "./gone"):
        with pytest.raises(BadInputError, match="does not exist") as caught:
            fingerprint(gone)
        assert caught.value.where == str(gone)
