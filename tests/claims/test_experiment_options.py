"""Each setting of an experiment's file and each option of `experiment`, `launch` and `quickstart` reaches the commands that it is for."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.core.errors import BadInputError, HarnessError
from harness.experiments.claims import read_claims
from harness.experiments.spec import read_experiment
from harness.experiments.workers import Here, Processes
from tests.commands import run_here
from tests.tiny import tiny_llava

SPEC: dict[str, Any] = {
    "title": "what is asked",
    "model": "./base",
    "suites": ["halbench"],
    "arms": {"one": {"method": "dpo"}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("made") / "base")


@pytest.fixture
def here(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base").symlink_to(model)
    (tmp_path / "other").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(*more: str, code: int = 0, **changes: Any) -> str:
    Path("a.yaml").write_text(yaml.safe_dump(SPEC | changes))
    ended, out, said = run_here(["experiment", "a.yaml", *more])
    assert ended == code, said
    return out if code == 0 else " ".join(said.split())


def commands(*more: str, **changes: Any) -> dict[str, list[str]]:
    """The last command of each kind that is left."""
    lines = [shlex.split(line) for line in experiment("--print", *more, **changes).splitlines()]
    return {line[1]: line for line in lines}


def given(command: list[str], option: str) -> str | None:
    return command[command.index(option) + 1] if option in command else None


@pytest.mark.claims(
    "experiment.model", "experiment.data", "experiment.limit", "experiment.seeds", "experiment.settings",
    "experiment.arms.method", "experiment.arms.data", "experiment.arms.settings",
)  # fmt: skip
def test_what_is_aligned(here: Path) -> None:
    plain = commands()["align"]
    assert (given(plain, "--method"), given(plain, "--model"), given(plain, "--limit")) == ("dpo", "./base", None)
    arms = {"one": {"method": "rlhfv", "settings": {"method.beta": 0.9}}}
    changes = {"model": "./other", "data": "mine.jsonl", "limit": 7, "seeds": [4], "settings": {"train.epochs": 9}}
    other = commands(arms=arms, **changes)["align"]
    assert (given(other, "--method"), given(other, "--model")) == ("rlhfv", "./other")
    assert (given(other, "--data"), given(other, "--limit")) == ("mine.jsonl", "7")
    assert {"train.epochs=9", "train.seed=4", "method.beta=0.9"} <= {*other}
    own = commands(data="mine.jsonl", arms={"one": {"method": "dpo", "data": "own.jsonl"}})["align"]
    assert given(own, "--data") == "own.jsonl"


@pytest.mark.claims(
    "experiment.suites", "experiment.benchmarks", "experiment.questions", "experiment.backend", "experiment.judge",
    "experiment.evaluation", "experiment.split", "experiment.noise",
)  # fmt: skip
def test_what_is_evaluated(here: Path) -> None:
    plain = commands()["eval"]
    assert (given(plain, "--suite"), given(plain, "--data"), given(plain, "--limit")) == ("halbench", "official", None)
    changes = {"benchmarks": "./data", "questions": 12, "backend": "transformers", "judge": "pocket-truth"}
    other = commands(suites=["pope", "amber"], evaluation={"sampling.max_new_tokens": 3}, **changes)["eval"]
    assert (given(other, "--suite"), given(other, "--data"), given(other, "--limit")) == ("pope,amber", "./data", "12")
    assert (given(other, "--backend"), given(other, "--judge")) == ("transformers", "pocket-truth")
    assert "sampling.max_new_tokens=3" in other
    asked = [shlex.split(line) for line in experiment("--print", noise=[250, "blank"]).splitlines()]
    assert [given(line, "--noise") for line in asked if line[1] == "eval"] == [None, "250", "blank"]
    drawn = commands(model="pocket", split="validation")["eval"]
    assert given(drawn, "--data") == "pocket@validation"


@pytest.mark.claims("experiment.arms.extends", "experiment.arms.grid", "experiment.arms.pairs", "experiment.claims")
def test_arms_and_claims(here: Path) -> None:
    arms = {
        "one": {"method": "rlhfv", "settings": {"method.beta": 0.3}},
        "two": {
            "extends": "one",
            "grid": {"method.gamma": [1, 2]},
            "pairs": {"train.epochs": [1, 2], "train.lora.rank": [2, 4]},
        },
    }
    lines = [shlex.split(line) for line in experiment("--print", arms=arms).splitlines()]
    aligned = [line for line in lines if line[1] == "align"]
    assert len(aligned) == 5 and all("method.beta=0.3" in line for line in aligned)
    told = {tuple(part for part in line if "gamma" in part or "epochs" in part or "rank" in part) for line in aligned}
    assert len(told) == 5
    experiment("--dry-run", arms=arms, claims=["chair_s(one) < chair_s(two, gamma=1, epochs=1, lora.rank=2)"], code=2)
    Path("b.yaml").write_text(yaml.safe_dump(SPEC | {"claims": ["chair_s(one) < chair_s(base)"]}))
    assert [claim.text for claim in read_claims(read_experiment(Path("b.yaml")))] == ["chair_s(one) < chair_s(base)"]


@pytest.mark.claims("experiment.title", "experiment.about")
def test_title_and_what_is_asked_stand_on_the_page(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.experiments import page
    from harness.experiments.graph import plan
    from harness.experiments.search import Searches
    from harness.experiments.state import ExperimentFolder
    from tests.scored_runs import make_run

    Path("a.yaml").write_text(yaml.safe_dump(SPEC | {"about": "Does it help?"}))
    experiment_file = read_experiment(Path("a.yaml"))
    steps = plan(experiment_file, here / "results")
    [run] = steps.runs
    config = {"method": "dpo", "model": "./base", "settings": {"train": {"seed": 0}, "method": {}}}
    label = next(iter(steps.worlds.values()))
    make_run(here / "results" / "runs", run, ["A dog."] * 40, "official", config=config, method="dpo", model=label)
    folder = ExperimentFolder(here / "results" / "a", here / "results")
    page.write_page(experiment_file, steps, folder, {}, Searches([]))
    text = (here / "results/a/index.md").read_text()
    assert text.startswith("# what is asked\n\nDoes it help?\n")


@pytest.mark.claims(
    "experiment --model", "experiment --data", "experiment --seeds", "experiment --backend", "experiment --results", "experiment --print",
    "experiment --dry-run", "experiment --status", "experiment --json", "experiment --yes",
)  # fmt: skip
def test_options_instead_of_the_file(here: Path) -> None:
    other = commands("--model", "./other", "--data", "mine.jsonl", "--seeds", "3", "--results", "there")["align"]
    assert (given(other, "--model"), given(other, "--data")) == ("./other", "mine.jsonl")
    assert "train.seed=3" in other and str(given(other, "--results")).startswith("there")
    for option in ("--dry-run", "--status"):
        shown = json.loads(experiment(option, "--json"))
        assert [step["state"] for step in shown["steps"]] == ["waiting", "waiting"]
        assert "1 arms x 1 seeds" in experiment(option)
    asked = commands("--backend", "transformers", backend="vllm")["eval"]
    assert given(asked, "--backend") == "transformers"
    assert not (here / "results").exists(), "nothing was done"
    many = ",".join(map(str, range(1001)))
    assert "--yes" in experiment("--dry-run", "--seeds", many, code=2)
    assert json.loads(experiment("--dry-run", "--seeds", many, "--yes", "--json"))["runs"] == 1001


@pytest.mark.claims("experiment --processes", "experiment --ray", "experiment --gpus", "experiment --slurm")
def test_who_does_the_steps(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.experiments import run as running
    from harness.experiments import slurm, workers

    asked: list[Any] = []

    class Cluster:
        """In the place of Ray's and Slurm's, which `test_runs.py` has."""

        def __init__(self, where: Any, more: Any) -> None:
            asked.append((where, more))

        def close(self) -> None:
            """Nothing was begun."""

    def steps(plan: Any, folder: Any, workers: Any) -> Any:
        if isinstance(workers, Here | Processes):
            asked.append(type(workers).__name__)
        raise HarnessError("enough")

    monkeypatch.setattr(workers, "OnRay", Cluster)
    monkeypatch.setattr(slurm, "OnSlurm", Cluster)
    monkeypatch.setattr(running, "run_steps", steps)
    for options in (
        [],
        ["--processes", "2"],
        ["--ray", "local"],
        ["--ray", "auto", "--gpus", "0.5"],
        ["--slurm", "partition=gpu", "--slurm", "timeout_min=9"],
    ):
        assert "enough" in experiment(*options, code=1)
    submitted = (["partition=gpu", "timeout_min=9"], Path("results/experiments/a/slurm"))
    assert asked == ["Here", "Processes", ("local", 0), ("auto", 0.5), submitted]
    assert "--ray" in experiment("--gpus", "1", code=2)
    assert "--slurm and --processes exclude" in experiment("--slurm", "local", "--processes", "2", code=2)


@pytest.mark.claims(
    "launch --processes",
    "launch --sharding",
    "launch --machines",
    "launch --rank",
    "launch --address",
    "launch --print",
)
def test_launch() -> None:
    align = ["align", "--method", "dpo", "--model", "m", "--name", "n"]

    def command(*options: str) -> list[str]:
        code, out, said = run_here(["launch", *options, "--print", *align])
        assert code == 0, said
        return shlex.split(out)

    plain = command("--processes", "2")
    assert given(plain, "--num_processes") == "2" and str(given(plain, "--config_file")).endswith("ddp.yaml")
    assert str(given(command("--processes", "2", "--sharding", "fsdp"), "--config_file")).endswith("fsdp.yaml")
    two = command("--processes", "4", "--machines", "2", "--rank", "1", "--address", "10.0.0.1:29500")
    assert (given(two, "--num_machines"), given(two, "--machine_rank")) == ("2", "1")
    assert (given(two, "--main_process_ip"), given(two, "--main_process_port")) == ("10.0.0.1", "29500")


@pytest.mark.claims(
    "quickstart --methods", "quickstart --suites", "quickstart --seeds", "quickstart --split", "quickstart --backend",
    "quickstart --results",
)  # fmt: skip
def test_quickstart(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The road itself is gone by `make quickstart`; here, what it would be."""
    from harness.experiments import quickstart

    asked: list[tuple[Any, ...]] = []

    def enough(*arguments: Any) -> Any:
        asked.append(arguments)
        raise BadInputError("enough")

    monkeypatch.setattr(quickstart, "run_quickstart", enough)
    own = ["--methods", "dpo,chip", "--suites", "pope", "--seeds", "1,2", "--split", "validation"]
    for options in ([], [*own, "--backend", "transformers", "--results", "there"]):
        assert run_here(["quickstart", *options])[0] == 2
    usual = (None, None, [0], "test", None, Path("results/quickstart"))
    assert asked == [usual, (["dpo", "chip"], "pope", [1, 2], "validation", "transformers", Path("there"))]


GENERATE: dict[str, Any] = {"judge": "chair", "limit": 9, "settings": {"sample.samples": 3}}


@pytest.mark.claims(
    "experiment.rounds", "experiment.generate.judge", "experiment.generate.prompts", "experiment.generate.limit",
    "experiment.generate.settings", "experiment.arms.rounds", "experiment.arms.limit", "experiment.arms.generate.judge",
    "experiment.arms.generate.prompts", "experiment.arms.generate.limit", "experiment.arms.generate.settings",
)  # fmt: skip
def test_what_is_generated(here: Path) -> None:
    def lines(**changes: Any) -> dict[str, list[list[str]]]:
        kinds: dict[str, list[list[str]]] = {}
        for line in experiment("--print", data="rlaif-v", **changes).splitlines():
            command = shlex.split(line)
            kinds.setdefault(command[1], []).append(command)
        return kinds

    once = lines(generate=GENERATE, backend="transformers", limit=5)
    [made], [aligned] = once["data"], once["align"]
    assert made[:4] == ["harness", "data", "generate", "./base"] and given(made, "--backend") == "transformers"
    assert (given(made, "--judge"), given(made, "--limit"), given(made, "--prompts")) == ("chair", "9", "rlaif-v")
    assert "sample.samples=3" in made and "export" not in once and "--start" not in aligned
    assert given(aligned, "--data") == given(made, "-o") and given(aligned, "--limit") == "5"
    arms = {
        "one": {
            "method": "dpo", "rounds": 3, "limit": 4,
            "generate": {"judge": "continuation", "prompts": "mine.jsonl", "limit": 8, "settings": {"judge": {"share": 0.3}}},
        },
        "two": {"method": "dpo"},
        "three": {"method": "dpo", "data": "own.jsonl"},
    }  # fmt: skip
    several = lines(generate=GENERATE, rounds=2, arms=arms)
    own = [line for line in several["data"] if given(line, "--judge") == "continuation"]
    assert [(given(line, "--prompts"), given(line, "--limit")) for line in own] == [("mine.jsonl", "8")] * 3
    assert all({"sample.samples=3", "judge.share=0.3"} <= {*line} for line in own)
    assert [given(line, "--data") for line in several["align"]].count("own.jsonl") == 1
    assert (len(several["data"]), len(several["export"]), len(several["align"])) == (5, 3, 6)
    assert [given(line, "--limit") for line in several["align"]].count("4") == 3
    # The arms' own values override the common ones; without a common judge only the arm that names one generates.
    assert len(lines(generate={"limit": 2}, arms=arms)["data"]) == 3


@pytest.mark.claims("experiment --set")
def test_any_key_is_set_on_the_command_line(here: Path) -> None:
    changed = commands("--set", "limit=3", "--set", "settings.train.epochs=2", settings={"train": {"batch_size": 9}})[
        "align"
    ]
    assert given(changed, "--limit") == "3" and {"train.epochs=2", "train.batch_size=9"} <= {*changed}
    assert "has no 'limt'" in experiment("--print", "--set", "limt=3", code=2)
