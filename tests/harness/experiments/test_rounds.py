"""Rounds of generating and aligning: their steps, and two of them on the shipped model, killed in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.core.errors import BadInputError
from harness.core.files import sha256_file
from harness.experiments.claims import read_claims
from harness.experiments.execute import run_steps
from harness.experiments.graph import plan
from harness.experiments.page import _different_pairs
from harness.experiments.spec import read_experiment
from harness.experiments.state import ExperimentFolder
from harness.experiments.workers import Here
from harness.models import fingerprint
from harness.runs.folders import open_run
from harness.worlds.pocket.draw import draw, png
from harness.worlds.pocket.scenes import make_scenes

ARMS = """generate: {judge: pocket-truth}
rounds: 2
arms:
  a: {method: dpo}
  b: {method: dpo, settings: {method.beta: 1}}
claims: ["chair_s(a, round=2) < chair_s(a, round=1)"]
"""
HEAD = "title: t\nsuites: [halbench]\n"


def test_a_round_starts_from_the_checkpoint_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(HEAD + ARMS)
    experiment = read_experiment(tmp_path / "a.yaml")
    assert [arm.label for arm in experiment.arms] == ["a, round=1", "a, round=2", "b, round=1", "b, round=2"]
    assert [claim.left for claim in read_claims(experiment)] == ["a, round=2"]
    steps = plan(experiment, tmp_path).steps
    # Both arms share the first round's pairs, which the base model makes.
    assert [step.kind for step in steps] == [
        "world", "generate", "align", "align", "eval",
        "export", "generate", "align", "export", "generate", "align", "eval", "eval",
    ]  # fmt: skip
    world, pairs, first, other, _, export, again, second, *_ = steps
    assert pairs.needs == (world.name,)
    assert first.needs == other.needs == (pairs.name,)
    assert export.needs == again.needs == (first.name,) and second.needs == (export.name, again.name)
    option = dict(zip(second.command, second.command[1:], strict=False))
    assert option["--start"] == str(tmp_path / export.makes) and option["--data"] == str(tmp_path / again.makes)
    assert again.command[2] == first.run and len({step.key for step in steps}) == len(steps)
    for step in steps:
        assert set(step.needs) <= {before.name for before in steps[: steps.index(step)]}
    # Another setting of the first round changes everything behind it, and nothing else.
    (tmp_path / "a.yaml").write_text(HEAD + ARMS.replace("beta: 1", "beta: 2"))
    changed = {step.key for step in plan(read_experiment(tmp_path / "a.yaml"), tmp_path).steps}
    assert [step.kind for step in steps if step.key not in changed] == [
        "align", "eval", "export", "generate", "align", "eval",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("arms:\n  a: {method: dpo, data: x, generate: {judge: chair}}\n", 4, "has data, and generates pairs"),
        ("arms:\n  a: {method: dpo, generate: {limit: 3}}\n", 4, "names no judge"),
        ("arms:\n  a: {method: dpo, rounds: 2}\n", 4, "nothing to generate"),
        ("rounds: 2\narms:\n  a: {method: dpo}\n", 3, "no arm generates its pairs"),
        ("generate: {judge: chair}\nrounds: 2\narms:\n  a: {method: dpo, search: {method.beta: [1]}}\n", 6, "be searched"),
    ],
)  # fmt: skip
def test_contradictions_are_said_with_their_line(text: str, line: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(HEAD + text)
    with pytest.raises(BadInputError, match=said) as caught:
        read_experiment(tmp_path / "a.yaml")
    assert str(caught.value.where).endswith(f"line {line}")


@pytest.mark.parametrize(
    ("generate", "said"),
    [
        ("{judge: cher}", "unknown judge of candidates 'cher'"),
        ("{judge: chair, settings: {samples: 3}}", "groups sample, pair, judge and backend, not 'samples'"),
        ("{judge: chair, settings: {sample.sampels: 3}}", "unknown setting 'sampels'"),
    ],
)
def test_an_unknown_judge_or_setting_is_said_with_its_line(generate: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{HEAD}arms:\n  a:\n    method: dpo\n    generate: {generate}\n")
    with pytest.raises(BadInputError, match=said) as caught:
        plan(read_experiment(tmp_path / "a.yaml"), tmp_path)
    assert str(caught.value.where).endswith("line 6")


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("seeds: [6]\ndata: world@rlhf-v\narms: {a: {method: dpo}, b: {method: dpo, generate: {judge: chair}}}", "pocket:6@rlhf-v"),
        ("model: llava-v1.6-7b\narms: {a: {method: mfpo}, b: {method: mfpo, generate: {judge: chair}}}", "rlhf-v"),
    ],
)  # fmt: skip
def test_prompts_are_those_of_the_data_that_the_arm_would_be_trained_on(text: str, asked: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(HEAD + text)
    steps = plan(read_experiment(tmp_path / "a.yaml"), tmp_path).steps
    trained = next(step.command for step in steps if step.kind == "align")
    generated = next(step.command for step in steps if step.kind == "generate")
    assert trained[trained.index("--data") + 1] == generated[generated.index("--prompts") + 1] == asked


def test_prompts_that_are_named_are_those_of_each_seed(tmp_path: Path) -> None:
    text = "seeds: [0, 6]\narms:\n  a:\n    method: dpo\n    generate: {judge: chair, prompts: world@rlaif-v}\n"
    (tmp_path / "a.yaml").write_text(HEAD + text)
    steps = plan(read_experiment(tmp_path / "a.yaml"), tmp_path).steps
    asked = [step.command[step.command.index("--prompts") + 1] for step in steps if step.kind == "generate"]
    assert asked == ["pocket@rlaif-v", "pocket:6@rlaif-v"]
    (tmp_path / "a.yaml").write_text(HEAD + text.replace("rlaif-v", "silkie"))
    with pytest.raises(BadInputError, match="no preference data named 'silkie'") as caught:
        plan(read_experiment(tmp_path / "a.yaml"), tmp_path)
    assert str(caught.value.where).endswith("line 7")


def test_without_its_pairs_nothing_is_aligned(tmp_path: Path) -> None:
    """The second round's pairs cannot be made, although the checkpoint that it would start from is exported."""
    (tmp_path / "a.yaml").write_text(HEAD + ARMS)
    steps = plan(read_experiment(tmp_path / "a.yaml"), tmp_path)
    called: list[str] = []

    def call(command: list[str]) -> None:
        called.append(command[0])
        if command[0] == "data" and command[2] != "pocket":
            raise BadInputError("the judge cannot be reached")

    failed = run_steps(steps, ExperimentFolder(tmp_path / "a", tmp_path), Here(call))
    assert called == ["data", "data", "align", "align", "eval", "export", "data", "export", "data"]
    *_, export, pairs, second, _, _, _, evaluated, _ = steps.steps
    assert export.name not in failed and failed[pairs.name] == "the judge cannot be reached"
    assert failed[second.name] == f"it needs {pairs.name}, which failed"
    assert failed[evaluated.name] == f"it needs {second.name}, which failed"


JUDGES = """arms:
  truth: {method: dpo, generate: {judge: pocket-truth}}
  chair: {method: dpo, generate: {judge: chair}}
  gaps: {method: dpo, generate: {judge: chair, settings: {pair.min_gap: 0.5}}}
  fewer: {method: dpo, generate: {judge: continuation, settings: {sample.samples: 1}}}
  warmer: {method: dpo, generate: {judge: chair, settings: {sample.temperature: 1.0}}}
  sentences: {method: dpo, generate: {judge: detectors, settings: {judge.first: boxes}}}
"""


def test_arms_that_sample_the_same_answers_share_them(tmp_path: Path) -> None:
    """Judges, gaps and numbers of answers differ; other temperatures, seeds, rounds and sentences are other answers."""
    (tmp_path / "a.yaml").write_text(f"{HEAD}seeds: [0, 1]\nrounds: 2\n{JUDGES}")
    steps = plan(read_experiment(tmp_path / "a.yaml"), tmp_path)
    made = [step for step in steps.steps if step.kind == "generate"]
    assert len(made) == 2 * 2 * 6
    first = [step for step in made if "round=1" in step.about]
    for of_seed in (first[:6], first[6:]):
        truth, chair, gaps, fewer, warmer, sentences = of_seed
        for step, other in (
            (chair, truth),
            (gaps, chair),
            (fewer, truth),
        ):  # of the same judge, if there is a set of it
            assert step.command[-2:] == ("--answers-of", str(tmp_path / other.makes)) and step.after == (other.name,)
        assert not any("--answers-of" in step.command for step in (truth, warmer, sentences))
    later = [step for step in made if "round=2" in step.about]
    assert not any("--answers-of" in step.command for step in later), "every arm has a model of its own by now"
    # Without the first set the others sample for themselves.
    called: list[list[str]] = []

    def call(command: list[str]) -> None:
        called.append(command)
        if "pocket-truth" in command:
            raise BadInputError("no boxes")

    run_steps(steps, ExperimentFolder(tmp_path / "a", tmp_path), Here(call))
    assert sum("chair" in command for command in called) == 2 * 3 * 2
    taken = {command[command.index("--answers-of") + 1] for command in called if "--answers-of" in command}
    assert taken == {str(tmp_path / step.makes) for step in (first[1], first[7])}, "only those of chair"


SMALL: dict[str, Any] = {
    "title": "two rounds",
    "seeds": [0],
    "suites": ["halbench"],
    "questions": 8,
    "backend": "transformers",
    "limit": 6,
    "rounds": 2,
    "generate": {
        "judge": "continuation",
        "prompts": "./pictures",
        "settings": {"sample.samples": 1, "sample.max_new_tokens": 48, "pair.length_balance": False},
    },
    "arms": {"dpo": {"method": "dpo"}},
    "claims": ["object_f1(dpo, round=2) > object_f1(dpo, round=1)"],
}


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({"a": [600, 600], "b": [600]}, ""),
        ({"a": [600, 571], "b": [1000]}, "The arms were trained on different numbers of pairs: 571 to 1,000."),
        ({}, ""),
    ],
)
def test_unequal_numbers_of_pairs_are_said(trained: dict[str, list[int]], said: str) -> None:
    assert _different_pairs(trained) == said


@pytest.mark.slow
def test_two_rounds_killed_in_between(tmp_path: Path) -> None:
    """Killed while the first round aligns. The second round's policy and reference are the first one's checkpoint."""
    (tmp_path / "pictures").mkdir()
    for number, scene in enumerate(make_scenes(0, "train", 10)):
        (tmp_path / f"pictures/{number}.png").write_bytes(png(draw(scene)))
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "-m", "harness", "experiment", "two.yaml", "--results", "results"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 170
    while not list(tmp_path.glob("results/runs/*/config.json")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [pairs] = tmp_path.glob("results/pairs/*/part-00000.parquet")
    before = pairs.stat().st_mtime_ns
    resumed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert pairs.stat().st_mtime_ns == before, "the pairs were made twice"
    found = json.loads((tmp_path / "results/two/experiment.json").read_text())
    assert not found["failed"] and list(found["arms"]) == ["dpo, round=1", "dpo, round=2"]
    [[first], [second]] = found["arms"].values()
    runs = [open_run(tmp_path / "results/runs" / name) for name in (first, second)]
    start = tmp_path / "results/starts" / first
    assert runs[1].base_label == runs[0].base_label == "pocket"
    assert runs[1].base_location == str(start) and runs[1].manifest is not None
    assert runs[1].manifest.base.fingerprint == fingerprint(str(start))
    sets = [json.loads(path.read_text()) for path in tmp_path.glob("results/pairs/*/manifest.json")]
    answered = {made["model"]["name"]: made["model"]["fingerprint"] for made in sets}
    assert set(answered) == {"base-pocket", first} and len(set(answered.values())) == 2
    # All rows, the base's too, are on one board.
    page = (tmp_path / "results/two/index.md").read_text().partition("## Leaderboard")[2].partition("## Arms")[0]
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert rows == ["checkpoint", "base-pocket", "dpo, round=1", "dpo, round=2"], page
    arms = (tmp_path / "results/two/index.md").read_text().partition("## Arms")[2]
    counts = [run.manifest.summary["data"]["examples"] for run in runs if run.manifest and run.manifest.summary]
    assert [line.split(" | ")[2] for line in arms.splitlines() if line.startswith("| dpo")] == [
        str(pairs) for pairs in counts
    ]
    states = {path: sha256_file(path) for path in (tmp_path / "results/runs").glob("*/manifest.json")}
    again = subprocess.run([*command, "--status"], cwd=tmp_path, capture_output=True, text=True)
    assert "8 steps; 8 done" in again.stdout, again.stdout
    assert {path: sha256_file(path) for path in states} == states
