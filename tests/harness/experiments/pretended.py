"""Experiments whose alignments and evaluations are carried out without a model, so that searches take no time."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import yaml

from harness.core.yaml_values import parse_yaml
from harness.experiments.run import open_experiment
from tests.scored_runs import make_run

SPEC: dict[str, Any] = {
    "title": "DPO, searched",
    "model": "pocket",
    "seeds": [6],
    "suites": ["halbench", "pope"],
    "arms": {"dpo": {"method": "dpo", "search": {"method.beta": {"low": 0.5, "high": 40.0, "log": True}}}},
    "search": {"objective": "chair_s", "runs": 8, "seeds": [0, 1]},
    "claims": ["chair_s(dpo) < chair_s(base)"],
}

HALVED: dict[str, Any] = {
    "arms": {"dpo": {"method": "dpo", "search": {"method.beta": [1, 3, 7, 9, 30]}}},
    "search": {"objective": "chair_s", "sampler": "grid", "seeds": [0, 1, 2], "halving": True},
}


def given(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


class Pretended:
    """Carries out `align` and `eval` without a model: a run's share of hallucinating descriptions depends on beta and is least at 10."""

    capacity = 1
    shares_cores = False
    shows_progress = False
    about: ClassVar[dict[str, Any]] = {}
    """Of the scores, in place of the values that `make_run` gives."""

    def __init__(self, breaks: str = "", ends_after: int | None = None) -> None:
        self.commands: list[list[str]] = []
        self.betas: dict[str, float] = {}
        self.breaks, self.ends_after = breaks, ends_after

    def submit(self, command: Any, log: Path, *, alone: bool = False) -> Future[str | None]:
        if list(command[:2]) == ["data", "get"]:
            made: Future[str | None] = Future()
            made.set_result(None)
            return made
        if self.ends_after is not None and len(self.commands) >= self.ends_after:
            raise KeyboardInterrupt
        self.commands.append(list(command))
        future: Future[str | None] = Future()
        future.set_result(self._align(command) if command[0] == "align" else self._evaluate(command))
        return future

    def _align(self, command: list[str]) -> str | None:
        settings = dict(part.split("=", 1) for part in command if "=" in part)
        beta = float(parse_yaml(settings.get("method.beta", "3"), "beta", None))
        if self.breaks and settings.get("method.beta", "").startswith(self.breaks):
            return "out of luck"
        name, results = given(command, "--name"), Path(given(command, "--results"))
        self.betas[name] = beta
        (results / name).mkdir(parents=True)
        manifest = {
            "kind": "align",
            "name": name,
            "base": {"label": given(command, "--model")},
            "config": {"run": name},
        }
        (results / name / "manifest.json").write_text(json.dumps(manifest))
        (results / name / "beta").write_text(str(beta))
        return None

    def _evaluate(self, command: list[str]) -> str | None:
        results, source = Path(given(command, "--results")), given(command, "--data")
        data, model = source.replace(":", "-").replace("@", "-"), source.partition("@")[0]
        assert "validation" in data or "pocket-6-test" in data
        count = int(given(command, "--limit")) if "--limit" in command else 40
        for name in given(command, "--run").split(","):
            manifest = (results / name / "manifest.json").read_text()
            wrong = min(39, round(abs(float((results / name / "beta").read_text()) - 10)))
            said = [f"A dog{' and a cat' if number < wrong else ''}." for number in range(count)]
            make_run(results, name, said, data, method="dpo", model=model, **self.about)
            (results / name / "manifest.json").write_text(manifest)
        base = f"base-{model.replace(':', '-')}"
        make_run(results, base, ["A dog and a cat."] * count, data, method="base", model=model, **self.about)
        (results / f"base-{model.replace(':', '-')}" / "manifest.json").write_text(
            json.dumps({"kind": "base", "name": model, "base": {"label": model}})
        )
        return None

    def close(self) -> None:
        """Nothing was begun."""


def opened(folder: Path, results: str = "results", **changes: Any) -> Any:
    (folder / "a.yaml").write_text(yaml.safe_dump(SPEC | changes, sort_keys=False))
    return open_experiment(str(folder / "a.yaml"), {}, folder / results, many=False)


def trials(folder: Path, results: str = "results") -> list[Any]:
    found: list[Any] = json.loads((folder / results / "a" / "experiment.json").read_text())["search"]
    return [one["trials"] for one in found]
