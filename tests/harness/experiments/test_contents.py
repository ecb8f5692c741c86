"""The keys of steps follow what their files contain; those of worlds, built-in methods and names on the hub are as they always were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.core.errors import BadInputError
from harness.core.files import sha256_file
from harness.experiments.graph import plan
from harness.experiments.run import open_experiment
from harness.experiments.spec import EXPERIMENTS, read_experiment
from harness.models import known
from tests.plugins import installed

METHOD = """
from aligners.base import Aligner, Loss

class Mine(Aligner):
    name, summary, source = "mine", "none", "this file"

    def loss(self, policy, reference):
        return Loss(policy["chosen"].sums, {})
"""
SUITE = """
from benchmarks.pope import POPE

class Mine(POPE):
    name = "mine"
"""
JUDGE = """
from harness.judging.candidates import CandidateJudge

class Mine(CandidateJudge):
    name, summary, source = "mine", "none", "this file"

    def judge(self, candidates, folder):
        yield from ()
"""
SPEC: dict[str, Any] = {
    "title": "t",
    "model": "./model",
    "benchmarks": "./bench",
    "suites": ["chair"],
    "settings": {"train.balance.data": "held.jsonl"},
    "evaluation": {"chair.prompt": "."},
    "arms": {
        "dpo": {"method": "dpo", "data": "pairs.jsonl"},
        "mfpo": {"method": "mfpo", "data": "sharegpt:pairs", "settings": {"method.images.detector": "./detector"}},
        "made": {"method": "dpo", "generate": {"judge": "chair", "prompts": "prompts.jsonl"}},
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that the experiment names by a path."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.chdir(tmp_path)
    for name in (
        "model/model.safetensors", "model/tokenizer.json", "pairs.jsonl", "pairs/1.jsonl", "pairs/images/1.png", "held.jsonl",
        "prompts.jsonl", "detector/model.safetensors", "bench/chair/images/1.jpg", "bench/halbench/annotations/instances.json",
        "bench/pope/coco_pope_random.json",
    ):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    return tmp_path


def keys(**changes: Any) -> dict[str, str]:
    """By kind of step and arm's label: the keys."""
    Path("a.yaml").write_text(yaml.safe_dump(SPEC | changes))
    steps = plan(read_experiment(Path("a.yaml")), Path("results")).steps
    return {f"{step.kind} {step.about.partition(',')[0].removeprefix('pairs for ')}": step.key for step in steps}


ALIGN, EVAL = {"align dpo", "align mfpo", "align made"}, {"eval 3 runs and the base on chair"}
MADE = {"generate made", "align made"}


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("model/model.safetensors", ALIGN | MADE | EVAL),
        ("model/tokenizer.json", ALIGN | MADE | EVAL),
        ("pairs.jsonl", {"align dpo"} | EVAL),
        ("pairs/1.jsonl", {"align mfpo"} | EVAL),
        ("pairs/images/1.png", {"align mfpo"} | EVAL),
        ("held.jsonl", ALIGN | EVAL),
        ("detector/model.safetensors", {"align mfpo"} | EVAL),
        ("prompts.jsonl", MADE | EVAL),
        ("bench/chair/images/1.jpg", EVAL),
        ("bench/halbench/annotations/instances.json", EVAL),  # CHAIR has none of its own
        ("bench/pope/coco_pope_random.json", set()),
        ("bench/chair/.hidden", set()),
        ("beside.txt", set()),  # in the folder that the prompt `.` would be
    ],
)
def test_a_changed_file_changes_what_is_made_of_it_and_nothing_else(name: str, again: set[str], folder: Path) -> None:
    before = keys()
    assert keys() == before and len(before) == 5
    Path(name).write_text("[]")
    after = keys()
    assert {step for step in after if after[step] != before[step]} == again
    Path(name).write_text("{}")
    assert keys() == before, "the contents decide, not when they were written"


@pytest.mark.parametrize("as_package", [False, True])
def test_changed_code_of_a_plugin_changes_what_it_takes_part_in(
    as_package: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {"aligners": METHOD, "benchmarks": SUITE, "candidate_judges": JUDGE}
    files = {kind: folder / f"{kind}.py" for kind in sources}
    names = {kind: f"./{kind}.py:Mine" for kind in sources}
    for kind, source in sources.items():
        files[kind].write_text(source)
        if as_package:
            plugin = installed(folder / f"site-{kind}", source, {f"{kind}.mine": "Mine"})
            monkeypatch.syspath_prepend(str(plugin.site))
            files[kind], names[kind] = plugin.file, "mine"
    generate = {"judge": names["candidate_judges"], "prompts": "pocket"}
    changes: dict[str, Any] = {
        "suites": ["pope", names["benchmarks"]],
        "settings": {},
        "arms": {
            "dpo": {"method": "dpo", "data": "pocket"},
            "mine": {"method": names["aligners"], "data": "pocket"},
            "made": {"method": "dpo", "generate": generate},
        },
    }
    before, scored = keys(**changes), "eval 3 runs and the base on pope"
    for kind, again in (
        ("aligners", {"align mine", scored}),
        ("benchmarks", {scored}),
        ("candidate_judges", {*MADE, scored}),
    ):
        files[kind].write_text(sources[kind] + "# changed\n")
        after = keys(**changes)
        assert {step for step in after if after[step] != before[step]} == again, kind
        before = after


def test_a_plugin_that_is_a_file_has_the_name_of_its_class(folder: Path) -> None:
    """In names of runs, claims and searches; commands have what the file says."""
    for name, source in (("method", METHOD), ("suite", SUITE), ("judge", JUDGE)):
        (folder / f"{name}.py").write_text(source)
    generate = {"judge": "./judge.py:Mine", "prompts": "pocket"}
    changes: dict[str, Any] = {
        "model": "pocket", "benchmarks": None, "settings": {}, "suites": ["chair", "./suite.py:Mine"],
        "arms": {"a": {"method": "./method.py:Mine", "search": {"method.beta": [0.1, 1]}}, "b": {"method": "dpo", "generate": generate}},
        "search": {"objective": "mine.accuracy", "sampler": "grid", "seeds": [1]},
        "claims": ["accuracy(a) > accuracy(base)", "mine.accuracy(a) > mine.accuracy(b)"],
    }  # fmt: skip
    Path("a.yaml").write_text(yaml.safe_dump(SPEC | changes))
    opened = open_experiment("a.yaml", {}, Path("results"), many=False)
    commands = {step.kind: step.command for step in opened.unsearched.steps}
    made = {step.kind: step.makes for step in opened.unsearched.steps}
    align = next(step for step in opened.unsearched.steps if step.about.startswith("a,"))
    assert align.run.startswith("mine-pocket-") and align.command[1:3] == ("--method", "./method.py:Mine")
    assert made["generate"].startswith("pairs/mine-pocket-") and "./judge.py:Mine" in commands["generate"]
    assert commands["eval"][1:3] == ("--suite", "chair,./suite.py:Mine")
    [trial] = [step for step, _ in opened.searches.round if step.kind == "eval"]
    assert trial.command[1:3] == ("--suite", "./suite.py:Mine") and "on mine, seed 1" in trial.about
    Path("a.yaml").write_text(yaml.safe_dump(SPEC | changes | {"suites": ["chair", "./gone.py:Mine"]}))
    with pytest.raises(BadInputError) as caught:
        open_experiment("a.yaml", {}, Path("results"), many=False)
    assert "a.yaml, line" in str(caught.value.where)


def test_what_has_no_path_has_the_keys_that_it_always_had(tmp_path: Path) -> None:
    """So that the runs on a user's disk stay those of the experiments."""
    searched = open_experiment("mfpo/table8", {}, tmp_path, many=False).searches.round
    assert next(step.run for step, _ in searched if step.kind == "align") == "mfpo-pocket-1ac7616ccd"
    for name, given, kept in (
        ("mfpo/table8", {}, ["align-mfpo-pocket-6-d2859826d2", "eval-s6-0 1ccbdefc86"]),
        (
            "mfpo/table8",
            {"model": "llava-1.5-7b", "data": "rlhf-v"},
            ["align-mfpo-llava-1.5-7b-95b19c4e8b", "eval-s6-0 28c6601586"],
        ),
        (
            "pocket-rounds",
            {},
            [
                "generate-pocket-truth-pocket-6-34176857a5",
                "generate-chair-pocket-6-ec71f85c80",
                "align-dpo-pocket-6-616930d78c",
            ],
        ),
    ):
        steps = plan(read_experiment(EXPERIMENTS / f"{name}.yaml", given), tmp_path).steps
        assert set(kept) <= {step.name for step in steps} | {f"{step.name} {step.key[:10]}" for step in steps}, given


def test_a_folder_is_read_again_only_if_a_file_looks_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noted(path: Path) -> str:
        read.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(known, "sha256_file", noted)
    (folder / "outside").mkdir()
    (folder / "outside/2.png").write_text("2")
    (folder / "pairs/linked").symlink_to(folder / "outside")
    (folder / "pairs/linked again").symlink_to(folder / "outside")
    (folder / "pairs/itself").symlink_to(folder / "pairs")
    first = known.folder_hash(Path("pairs"))
    assert sorted(read) == ["1.jsonl", "1.png", "2.png"], "just written, so their times say nothing yet"
    monkeypatch.setattr(known, "SETTLED", -1.0)
    assert [known.folder_hash(Path("pairs")) for _ in range(3)] == [first] * 3 and len(read) == 6
    (folder / "outside/2.png").write_text("3")
    assert known.folder_hash(Path("pairs")) != first
    (folder / "outside/2.png").rename(folder / "outside/3.png")
    (folder / "outside/3.png").write_text("2")
    assert known.folder_hash(Path("pairs")) != first, "names count"
