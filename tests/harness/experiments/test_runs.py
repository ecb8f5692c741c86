"""An experiment as a person runs it: killed, changed, shared with another, in several processes, on Ray; on a small untrained model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from harness.experiments.execute import run_steps
from harness.experiments.graph import plan
from harness.experiments.spec import read_experiment
from harness.experiments.state import ExperimentFolder
from harness.worlds.pocket.formats import write_benchmarks
from tests import warm
from tests.commands import run_here
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph

pytestmark = pytest.mark.slow

SPEC: dict[str, Any] = {
    "title": "DPO against MFPO on a model that knows nothing",
    "model": "./base",
    "data": "./prefs",
    "seeds": [0, 1],
    "suites": ["halbench"],
    "benchmarks": "./data",
    "questions": 12,
    "backend": "transformers",
    "evaluation": {"sampling.max_new_tokens": 8},
    "settings": {
        "train": {"learning_rate": 2e-3, "batch_size": 8, "micro_batch_size": 8, "max_length": 256, "save_steps": 1}
        | {"lora": {"rank": 4, "alpha": 8}}
    },
    "arms": {"dpo": {"method": "dpo"}, "mfpo": {"method": "mfpo", "settings": {"method.stages.count": 1}}},
    "claims": ["mean_length(dpo) < mean_length(mfpo)"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    tiny_llava(folder / "base")
    tiny_pairs(folder / "prefs", 24)
    write_benchmarks(0, "validation", folder / "data")
    return folder


def command(folder: Path, name: str, *more: str, **changes: Any) -> list[str]:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(SPEC | changes))
    return ["experiment", f"{name}.yaml", *more]


def run(folder: Path, name: str, *more: str, code: int = 0, **changes: Any) -> subprocess.CompletedProcess[str]:
    done = warm.run(command(folder, name, *more, **changes), cwd=folder)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def states(folder: Path, name: str, results: str, **changes: Any) -> dict[str, str]:
    shown = json.loads(run(folder, name, "--status", "--json", "--results", results, **changes).stdout)
    return {step["name"]: step["state"] for step in shown["steps"]}


def figures(folder: Path, results: str) -> dict[str, Any]:
    return {
        str(path.relative_to(folder / results)): json.loads(path.read_text())["metrics"]
        for path in sorted((folder / results).glob("runs/*/evals/*/scores-*.json"))
    }


@pytest.fixture(scope="module")
def calm(folder: Path) -> dict[str, Any]:
    """Scores of the experiment in one process that nothing disturbed."""
    done = run(folder, "calm", "--results", "calm")
    assert "mean_length(dpo) < mean_length(mfpo)" in done.stdout and len(done.stdout.splitlines()) == 2, done.stdout
    return figures(folder, "calm")


def test_one_file_leads_to_a_page(folder: Path, calm: dict[str, Any]) -> None:
    assert len(calm) == 5  # two arms, two seeds, the base
    assert set(states(folder, "calm", "calm").values()) == {"done"}
    page = (folder / "calm/calm/index.md").read_text()
    assert "Made by `harness experiment calm.yaml`." in page
    assert "| dpo | dpo |" in page and "| mfpo | mfpo |" in page and "Settings by method: dpo 1, mfpo 1." in page
    html = (folder / "calm/calm/index.html").read_text()
    assert "<script" not in html and "mean_length(dpo) &lt; mean_length(mfpo)" in html
    found = json.loads((folder / "calm/calm/experiment.json").read_text())
    assert [len(runs) for runs in found["arms"].values()] == [2, 2] and found["claims"][0]["verdict"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "calm/runs").rglob("*.safetensors")}
    run(folder, "calm", "--results", "calm")
    assert {path: path.stat().st_mtime_ns for path in (folder / "calm/runs").rglob("*.safetensors")} == before


def test_the_function_does_what_the_command_does(folder: Path, calm: dict[str, Any]) -> None:
    code = "import json, harness; print(json.dumps(harness.experiment('calm.yaml', results='calm')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == json.loads((folder / "calm/calm/experiment.json").read_text())
    assert figures(folder, "calm") == calm


def test_kill_9_anywhere_loses_nothing(folder: Path, calm: dict[str, Any]) -> None:
    """Killed in the first alignment, and in a later one; the third start ends as if nothing had happened."""
    for wanted in (1, 3):
        process = warm.start(command(folder, "killed", "--results", "killed"), cwd=folder, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while len(list((folder / "killed").glob("runs/*/config.json"))) < wanted and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(folder, "killed", "--results", "killed")
    assert figures(folder, "killed") == calm


def test_a_changed_line_redoes_what_depends_on_it_and_nothing_else(folder: Path, calm: dict[str, Any]) -> None:
    changes = {"arms": SPEC["arms"] | {"dpo": {"method": "dpo", "settings": {"method.beta": 0.5}}}}
    left = {name: state for name, state in states(folder, "calm", "calm", **changes).items() if state != "done"}
    assert len([name for name in left if name.startswith("align-dpo")]) == 2
    assert {state for name, state in left.items() if name.startswith("eval")} == {"changed"}
    assert not [name for name in left if name.startswith("align-mfpo")]
    printed = run(folder, "calm", "--print", "--results", "calm", **changes).stdout.splitlines()
    assert len(printed) == 4 and all(line.startswith("harness ") for line in printed)


def test_a_dry_run_predicts_time_and_money_as_align_and_eval_do(folder: Path, calm: dict[str, Any]) -> None:
    """What is like a step that is done takes as long; what is not is planned; nothing is made."""
    train = SPEC["settings"]["train"]
    changes: dict[str, Any] = {
        "arms": SPEC["arms"]
        | {"mild": {"method": "dpo", "settings": {"method.beta": 0.5}}, "long": {"method": "dpo", "settings": {"train.epochs": 40}}},
        "settings": {"train": train}, "noise": [999],
    }  # fmt: skip
    before = sorted((folder / "calm").rglob("*"))
    shown = json.loads(run(folder, "calm", "--dry-run", "--json", "--results", "calm", **changes).stdout)
    assert sorted((folder / "calm").rglob("*")) == before
    steps = {step["name"]: step for step in shown["steps"]}
    done = [step for step in steps.values() if step["state"] == "done"]
    assert len(done) == 4 and all("predicted" not in step for step in done)
    took = [step["seconds"] for step in done if step["name"].startswith("align-dpo")]
    predicted = {
        name: [step["predicted"] for step in steps.values() if name in step["command"]]
        for name in ("method.beta=0.5", "train.epochs=40")
    }
    assert [one["seconds"] for one in predicted["method.beta=0.5"]] == pytest.approx([sum(took) / 2] * 2)
    assert predicted["method.beta=0.5"][0]["basis"] == "mean of 2 steps that are done"
    planned = [
        "align",
        "--method",
        "dpo",
        "--model",
        "./base",
        "--data",
        "./prefs",
        "--dry-run",
        "--json",
        "--set",
        "train.epochs=40",
    ]
    sets = [part for step in done[:1] for part in step["command"] if part.startswith("train.")]
    code, out, said = run_here([*planned, *(part for one in sets for part in ("--set", one))], folder)
    assert code == 0, said
    assert len({one["seconds"] for one in predicted["train.epochs=40"]}) == 1, "seeds are planned once"
    # Both are measured, on a machine that may be busy; one epoch in place of 40 would be seen.
    ratio = predicted["train.epochs=40"][0]["seconds"] / json.loads(out)["time"]["seconds"]
    assert 1 / 8 < ratio < 8 and predicted["train.epochs=40"][0]["basis"].startswith("forward and backward")
    asked = [step["predicted"] for step in steps.values() if step["kind"] in ("eval", "noise")]
    assert len(asked) == 4 and all(
        one["seconds"] > 0 and one["basis"] == "the rate of earlier answers" for one in asked
    )
    # Four checkpoints of each seed, and once the base model, which the seeds share.
    rate = steps["eval-s1-0"]["predicted"]["seconds"] / 4
    expected = {"eval-s0-0": 5 * rate, "noise-s0-0-999": 5 * rate, "noise-s1-0-999": 4 * rate}
    assert {name: steps[name]["predicted"]["seconds"] for name in expected} == pytest.approx(expected)
    left = [step["predicted"]["seconds"] for step in steps.values() if "predicted" in step]
    kinds = shown["predicted"].pop("kinds")
    assert {kind: (found["steps"], found["done"]) for kind, found in kinds.items()} == {
        "align": (8, 4), "eval": (2, 0), "noise": (2, 0),
    }  # fmt: skip
    assert sum(found["seconds"] for found in kinds.values()) == pytest.approx(sum(left))
    assert shown["predicted"] == {
        "seconds": pytest.approx(sum(left)), "usd_at_most": 0, "steps_without_time": 0, "steps_without_price": 0,
    }  # fmt: skip
    # A judge costs as much for each of five checkpoints as `eval --dry-run` says for one.
    priced = {
        "suites": ["mmhal"], "judge": "openai", "claims": [], "seeds": [0],
        "evaluation": {"judge.model": "m", "judge.base_url": "http://127.0.0.1:9/v1", "judge.price": [2.0, 6.0]},
    }  # fmt: skip
    shown = json.loads(run(folder, "judged", "--dry-run", "--json", "--results", "calm", **priced).stdout)
    [judged] = [step["predicted"]["usd"] for step in shown["steps"] if step["kind"] == "eval"]
    options = [
        "--judge",
        "openai",
        "--judge-model",
        "m",
        "--judge-url",
        "http://127.0.0.1:9/v1",
        "--judge-price",
        "2,6",
    ]
    asks = [
        "eval",
        "--model",
        "./base",
        "--suite",
        "mmhal",
        "--data",
        "./data",
        "--limit",
        "12",
        "--backend",
        "transformers",
    ]
    code, out, said = run_here([*asks, *options, "--dry-run", "--json", "--results", "nowhere"], folder)
    assert code == 0, said
    [row] = json.loads(out)
    assert row["judge_usd_at_most"] > 0 and judged == pytest.approx(3 * row["judge_usd_at_most"])
    text = " ".join(run(folder, "judged", "--dry-run", "--results", "calm", **priced).stdout.split())
    assert f"judges at most ${judged:.2f}" in text and "what is left: 1 steps of unknown time, and about" in text


def test_the_time_of_a_training_that_does_not_fit_into_memory_is_unknown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=0))
    asked = command(
        folder,
        "large",
        "--dry-run",
        "--json",
        "--results",
        "large",
        seeds=[0],
        arms={"dpo": {"method": "dpo"}},
        claims=[],
    )
    code, out, said = run_here(asked, folder)
    assert code == 0, said
    [planned] = [step["predicted"] for step in json.loads(out)["steps"] if step["kind"] == "align"]
    assert planned["seconds"] is None and "would not fit into memory" in planned["basis"]


def test_what_two_experiments_share_is_done_once(folder: Path, calm: dict[str, Any]) -> None:
    changes = {"arms": {"other-name": {"method": "dpo"}}, "claims": []}
    assert sorted(states(folder, "second", "calm", **changes).values()) == ["done", "done", "waiting", "waiting"]


def test_a_failed_step_names_itself_and_the_others_go_on(folder: Path, calm: dict[str, Any]) -> None:
    changes = {"seeds": [0], "arms": SPEC["arms"] | {"broken": {"method": "dpo", "data": "./nowhere"}}, "claims": []}
    done = run(folder, "failing", "--results", "calm", code=1, **changes)
    assert "steps failed, align-dpo-base-" in done.stderr and "preference data does not exist" in done.stderr
    after = states(folder, "failing", "calm", **changes)
    failed = [name for name, state in after.items() if state == "failed"]
    assert [name.partition("-")[0] for name in failed] == ["align", "eval"] and len(after) == 4
    assert not set(after.values()) - {"done", "failed"}
    # The arms that are there were evaluated all the same.
    assert "| mfpo | mfpo | 0" in (folder / "calm/failing/index.md").read_text()
    assert "## Steps that failed" in (folder / "calm/failing/index.md").read_text()


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(("--processes", "2"), marks=pytest.mark.exhaustive),
        pytest.param(("--ray", "local"), marks=pytest.mark.exhaustive),
        ("--slurm", "local"),
    ],
    ids=["processes", "ray", "slurm"],
)
def test_other_workers_give_the_same_scores(how: tuple[str, ...], folder: Path, calm: dict[str, Any]) -> None:
    if how[0] == "--ray":
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    if how[0] == "--slurm":
        pytest.importorskip("submitit", reason="the extra 'slurm' is not installed")
    results = how[0].strip("-")
    run(folder, results, "--results", results, *how, seeds=[0], claims=[])  # one seed: two arms side by side
    same = figures(folder, results)
    assert len(same) == 3 and same.items() <= calm.items()


def test_seeds_side_by_side_share_their_base_model(folder: Path) -> None:
    """Both evaluations, and those about changed pictures, ask the base model, whose answers have one writer at a time."""
    changes: dict[str, Any] = {"arms": {"dpo": SPEC["arms"]["dpo"]}, "noise": ["blank"], "claims": []}
    run(folder, "seeds", "--results", "seeds", "--processes", "2", **changes)
    assert len(figures(folder, "seeds")) == 3  # the base, once, and a run a seed
    assert len(list((folder / "seeds").glob("runs/*/evals/*/noise/blank/scores-*.json"))) == 3


def test_a_method_and_a_suite_from_a_file_lead_to_a_page(folder: Path) -> None:
    """Named relative to the working directory, as on the command line; the page and the claims have the names of the classes."""
    (folder / "mine").mkdir()
    source = (Path(__file__).parents[2] / "plugin/harness_ipo.py").read_text()
    (folder / "mine/both.py").write_text(source.replace('"ipo"', '"mine"').replace('"exact"', '"alike"'))
    (folder / "data/alike").mkdir()
    questions = []
    for number in range(6):
        picture = tiny_photograph(folder / f"data/alike/{number}.png", number).name
        questions.append({"id": number, "question": "What is this?", "image": picture, "answer": "dog"})
    (folder / "data/alike/questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    changes: dict[str, Any] = {
        "seeds": [0], "suites": ["./mine/both.py:ExactMatch"], "arms": {"a": {"method": "./mine/both.py:IPO"}},
        "claims": ["alike.accuracy(a) > alike.accuracy(base)"],
    }  # fmt: skip
    done = run(folder, "file", "--results", "file", **changes)
    assert "alike.accuracy(a) > alike.accuracy(base)" in done.stdout and "no data" not in done.stdout, done.stdout
    page = (folder / "file/file/index.md").read_text()
    assert (
        "| a | mine |" in page
        and "Settings by method: mine 1." in page
        and "both.py" not in page.partition("## Arms")[0]
    )
    assert len(list((folder / "file").glob("runs/mine-base-*/evals/alike@data/scores*.json"))) == 1
    assert set(states(folder, "file", "file", **changes).values()) == {"done"}
    printed = run(folder, "file", "--print", "--results", "other", **changes).stdout
    assert "--method ./mine/both.py:IPO" in printed and "--suite ./mine/both.py:ExactMatch" in printed


def test_two_on_one_experiment_and_no_cluster_are_refused(folder: Path) -> None:
    process = warm.start(command(folder, "twice", "--results", "twice"), cwd=folder, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not (folder / "twice/twice/.experiment.lock").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)
        assert "another process is running" in run(folder, "twice", "--results", "twice", code=2).stderr
    finally:
        process.kill()
        process.wait()
    assert os.path.exists(folder / "twice")  # noqa: PTH110


class Beside:
    """Two slots on one machine; notes which steps are running when another starts. A step ends when the next one is waited for."""

    capacity = 2
    shares_cores = True
    shows_progress = False

    def __init__(self) -> None:
        self.running: list[tuple[str, Future[str | None]]] = []
        self.seen: list[tuple[str, list[str], bool]] = []

    def submit(self, command: Any, log: Path, *, alone: bool = False) -> Future[str | None]:
        self.running = [(name, future) for name, future in self.running if not future.done()]
        name = " ".join(command[:3] if command[0] == "data" else command[:1])
        self.seen.append((name, [other for other, _ in self.running], alone))
        future: Future[str | None] = Future()
        self.running.append((name, future))
        threading.Timer(0.2, future.set_result, (None,)).start()
        return future


def test_nothing_runs_beside_the_making_of_a_world(tmp_path: Path) -> None:
    text = "title: t\nsuites: [halbench]\nseeds: [0, 6]\narms: {a: {method: dpo}, b: {method: mdpo}}\n"
    (tmp_path / "a.yaml").write_text(text)
    steps = plan(read_experiment(tmp_path / "a.yaml"), tmp_path)
    workers = Beside()
    assert run_steps(steps, ExperimentFolder(tmp_path / "a", tmp_path), workers) == {}
    worlds = [row for row in workers.seen if row[2]]
    assert worlds == [("data get pocket", [], True), ("data get pocket:6", [], True)]
    assert not [row for row in workers.seen if any("get" in other for other in row[1])]
    assert ("align", ["align"], False) in workers.seen, "alignments run side by side"
