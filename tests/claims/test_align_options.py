"""Each option of `align` does what it says: small alignments with and without it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.core.files import read_json
from harness.runs.folders import open_run
from harness.runs.targets import base_model
from tests.commands import run_here
from tests.tiny import tiny_llava, tiny_pairs

PLUGIN = Path(__file__).parents[1] / "plugin" / "harness_ipo.py"
QUICK = ("batch_size=4", "micro_batch_size=4", "max_length=256", "lora.rank=2", "learning_rate=1e-3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and two sets of pairs."""
    folder = tmp_path_factory.mktemp("made")
    tiny_llava(folder / "base")
    tiny_llava(folder / "other", seed=1)
    tiny_pairs(folder / "pairs", 8)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "other", "pairs"):
        (tmp_path / name).symlink_to(made / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def align(*more: str, code: int = 0, method: str = "dpo", model: str = "./base", limit: str = "4") -> Any:
    """The manifest, or what is said where it fails."""
    command = ["align", "--method", method, "--model", model, "--data", "pairs/rlaif-v.parquet", "--limit", limit]
    sets = [part for one in QUICK for part in ("--set", f"train.{one}")]
    ended, out, said = run_here([*command, *sets, "--no-canary", "--json", *more])
    assert ended == code, said
    return json.loads(out) if code == 0 else " ".join(said.split())


@pytest.mark.slow
@pytest.mark.claims(
    "align --method", "align --model", "align --name", "align --results", "align --limit", "align --seed", "align --full",
    "align --json",
)  # fmt: skip
def test_what_is_aligned_and_where_it_goes(here: Path) -> None:
    plain = align("--name", "one", "--results", "there")
    assert (here / "there/one/checkpoint/adapter_model.safetensors").exists() and not (here / "results").exists()
    assert (plain["name"], plain["summary"]["data"]["examples"], plain["config"]["limit"]) == ("one", 4, 4)
    other = align("--name", "two", "--full", "--seed", "5", method="rlhfv", model="./other", limit="6")
    assert (other["config"]["method"], other["checkpoint"]["kind"]) == ("rlhfv", "full")
    assert other["summary"]["data"]["examples"] == 6 and other["config"]["settings"]["train"]["seed"] == 5
    assert other["base"]["fingerprint"] != plain["base"]["fingerprint"]


@pytest.mark.slow
@pytest.mark.claims("align --recipe", "align --set")
def test_settings_of_a_recipe_and_of_the_command(here: Path) -> None:
    (here / "recipe.yaml").write_text("train: {epochs: 2, schedule: linear}\nmethod: {beta: 0.7}\n")
    settings = align("--name", "one", "--recipe", "recipe.yaml", "--set", "train.schedule=constant")["config"][
        "settings"
    ]
    assert (settings["train"]["epochs"], settings["train"]["schedule"], settings["method"]["beta"]) == (
        2,
        "constant",
        0.7,
    )
    assert len((here / "results/one/train_log.jsonl").read_text().splitlines()) == 2
    assert align("--name", "two", "--recipe", "results/one")["config"]["settings"] == settings
    assert "'dpo', not of 'rlhfv'" in align("--recipe", "results/one", method="rlhfv", code=2)


@pytest.mark.slow
def test_a_method_in_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    shutil.copy(PLUGIN, here / "mine.py")
    run = align("--name", "one", method="./mine.py:IPO")
    assert run["config"]["method"] == "ipo" and run["packages"]["mine.py:IPO"].startswith("sha256-")
    assert "gap" in (here / "results/one/train_log.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.claims("align --overwrite", "align --resume")
def test_what_stands_there_is_kept_gone_on_with_or_replaced(here: Path) -> None:
    first = align("--name", "one")
    assert "--resume" in align("--name", "one", code=2) and "--overwrite" in align("--name", "one", code=2)
    assert align("--name", "one", "--resume")["finished"] == first["finished"], "it was complete"
    shutil.rmtree(here / "results/one/checkpoint")
    said = align("--name", "one", "--resume", code=2)
    assert "its checkpoint was removed" in said and "--overwrite" in said
    assert align("--name", "one", "--overwrite")["finished"] != first["finished"]


@pytest.mark.slow
@pytest.mark.claims("align --resume")
def test_without_a_name_the_interrupted_run_of_these_settings_is_continued(here: Path) -> None:
    first = align()
    run = here / "results" / first["name"]
    assert "leave out --resume" in align("--resume", code=2), "it is complete"
    (run / "manifest.json").unlink()
    said = align("--resume", "--set", "method.beta=0.3", code=2)
    assert f"{run.name} (other method.beta)" in said and f"--resume --name {run.name}" in said
    resumed = align("--resume")
    assert (resumed["name"], resumed["resumed"], "resumed" in first) == (run.name, True, False)
    assert [path.name for path in (here / "results").iterdir() if path.name[0] != "."] == [run.name]


@pytest.mark.claims("align --data")
def test_other_data_is_another_run(here: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(here / "pairs" / "rlaif-v.parquet")
    pq.write_table(table.slice(5), here / "few.parquet")
    assert align("--name", "one", "--data", "few.parquet", limit="8")["summary"]["data"]["examples"] == 3


WRITER = """
import json
from pathlib import Path

class SummaryWriter:
    def __init__(self, log_dir=None, **more):
        self.path = Path(log_dir) / "told.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
    def add_scalar(self, name, value, step=None):
        with self.path.open("a") as stream:
            stream.write(json.dumps([name, value, step]) + "\\n")
    def add_text(self, *arguments, **more): pass
    def add_hparams(self, *arguments, **more): pass
    def flush(self): pass
    def close(self): pass
"""
"""What tensorboardX has, written to a file: neither it nor TensorBoard is installed for the tests."""


@pytest.mark.claims("train.report_to")
def test_the_log_goes_elsewhere_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    if importlib.util.find_spec("tensorboard"):
        pytest.skip("TensorBoard is installed, and would be told")
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    (here / "site" / "tensorboardX").mkdir(parents=True)
    (here / "site" / "tensorboardX" / "__init__.py").write_text(WRITER)
    monkeypatch.syspath_prepend(here / "site")
    align("--name", "one", "--set", "train.report_to=[tensorboard]")
    told = [json.loads(line) for path in here.rglob("told.jsonl") for line in path.read_text().splitlines()]
    [row] = [json.loads(line) for line in (here / "results/one/train_log.jsonl").read_text().splitlines()]
    assert [value for name, value, step in told if name.endswith("/loss") and step == 1] == [row["loss"]]
    assert any(name.endswith("margin") for name, _, _ in told)


@pytest.mark.claims("eval --base", "rejudge --base")
def test_the_base_of_a_run_is_evaluated_with_it(here: Path) -> None:
    from tests.harness.serving.fake_vision import small_pope

    align("--name", "one")
    small_pope(here)
    suite = ["--run", "one", "--suite", "pope", "--data", "data", "--json", "--set", "sampling.max_new_tokens=2"]
    answer = ["--backend", "transformers", "--limit", "4"]

    def targets(*command: str) -> list[str]:
        ended, out, said = run_here(list(command))
        assert ended == 0, said
        return [row["target"] for row in json.loads(out)]

    assert targets("eval", *suite, *answer) == ["one"]
    assert len(targets("eval", *suite, *answer, "--base")) == 2
    assert targets("rejudge", *suite) == ["one"]
    assert len(targets("rejudge", *suite, "--base")) == 2
    assert read_json(here / "results/one/manifest.json")["kind"] == "align"


@pytest.mark.slow
@pytest.mark.claims("align --start")
def test_a_round_starts_from_the_checkpoint_of_the_one_before(here: Path) -> None:
    first = align("--name", "one")
    for name, merged in (("full", ()), ("adapter", ("--adapter",))):
        assert run_here(["export", "one", "-o", name, *merged])[0] == 0
    second = align("--name", "two", "--start", "full")
    exported = read_json(here / "full/manifest.json")["checkpoint"]
    assert second["base"] == {"label": "base", "location": str(here / "full"), "fingerprint": exported["fingerprint"]}
    assert second["base"]["fingerprint"] != first["base"]["fingerprint"]
    fingerprint = first["checkpoint"]["fingerprint"]
    assert second["config"]["start"] == {"run": "one", "fingerprint": fingerprint, "origin": first["base"]["location"]}
    assert "Started from the checkpoint of the run `one`" in (here / "results/two/checkpoint/README.md").read_text()
    # `eval --base` means the model that the first run started from.
    assert base_model(open_run(here / "results/two")).location == first["base"]["location"]
    assert "harness export RUN -o adapter" in align("--start", "adapter", code=2)
    assert "needs an exported checkpoint" in align("--start", "base", code=2)
    assert "was aligned from base, not from other" in align("--start", "full", model="./other", code=2)
