"""The request for an evaluation, and the checks before anything is asked or served."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core import registry
from harness.core.config import parse
from harness.core.errors import BadInputError
from harness.evaluation.pictures import Change
from harness.evaluation.score import make_judge
from harness.evaluation.shards import Shard
from harness.evaluation.suites import Suite, check_inside, data_root, open_suite
from harness.judging.base import Judge
from harness.runs.targets import Target
from harness.serving.base import Backend, BackendSettings


@dataclass(frozen=True)
class EvalRequest:
    """What the user asked for. `data` is a data root, "official", or a world's label with an optional @split."""

    targets: Sequence[Target]
    suites: Sequence[str]
    data: str
    backend: type[Backend]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By group: a suite's name, "judge", "backend" or "sampling"."""
    judge: str | None = None
    max_unscored: float = 0.01
    limit: int | None = None
    overwrite: bool = False
    generate: bool = True
    """False: only stored answers are scored."""
    shard: Shard | None = None
    """Answer only this part of the images, and score nothing."""
    repeat: int = 1
    """Ask everything this many times; the first answers are scored, the others measure the spread."""
    changes: Sequence[Change] = ()
    """Ask everything again with each of these changes of the pictures, and compare (`harness.evaluation.reliance`)."""
    verify: bool = False
    """First verify that the checkpoint is served as it was trained (`harness.checkpoints.verify.ensure_verified`)."""

    @property
    def judge_settings(self) -> Mapping[str, Any]:
        """The judge's part of the settings."""
        return self.settings.get("judge", {})

    @property
    def backend_settings(self) -> BackendSettings:
        """The backend's part of the settings.

        Raises:
            BadInputError: it has no such setting.
        """
        values = dict(self.settings.get("backend", {}))
        return parse(self.backend.Settings, values, f"backend {self.backend.name}")

    @property
    def backend_identity(self) -> str:
        """The backend's name with those of its settings that can change an answer."""
        return self.backend_settings.identity(self.backend.name)


def prepare(request: EvalRequest) -> tuple[list[Suite], str, Judge | None]:
    """The suites with their items, each followed by its versions with changed pictures; the data's name; and the judge, if a suite needs
    one.

    Raises:
        BadInputError: names, settings or data are unusable, or the backend cannot serve the targets.
    """
    if request.limit is not None and request.limit < 1:
        raise BadInputError(f"--limit must be at least 1, not {request.limit}")
    if request.repeat > 1 and request.shard:
        raise BadInputError(
            "--repeat and --shard exclude each other", remedy="use --repeat without shards, with a smaller --limit"
        )
    if request.repeat > 1 and request.changes:
        raise BadInputError("--repeat and --noise exclude each other", remedy="use --repeat without --noise")
    known = {*registry.entries("benchmarks"), "judge", "backend", "sampling"}
    if unknown := sorted(set(request.settings) - known):
        raise BadInputError(
            f"unknown group of settings '{unknown[0]}'",
            remedy=f"--set GROUP.KEY=VALUE; groups: {', '.join(sorted(known))}",
        )
    _ = request.backend_settings
    _check_names(request.targets)
    _check_backend(request)
    others = {*registry.entries("benchmarks")} - {*request.suites}
    if idle := sorted(name for name, group in request.settings.items() if name in others and group):
        raise BadInputError(
            f"settings of '{idle[0]}' have no effect on the suites {', '.join(request.suites)}",
            remedy=f"leave them out, or add '{idle[0]}' to --suite",
        )
    root, data_name, world_judge = data_root(request.data)
    suites = [open_suite(name, root, request.settings, request.limit) for name in request.suites]
    _check_likelihoods(request, suites)
    if request.backend.remote:
        check_inside(suites, root)
    suites = [suite.changed(change) for suite in suites for change in (None, *request.changes)]
    if not any(suite.benchmark.needs_judge for suite in suites):
        if request.judge or request.judge_settings:
            raise BadInputError(
                f"no judge is asked about {', '.join(request.suites)}",
                remedy="leave out the options and settings of a judge",
            )
        return suites, data_name, None
    # A named judge model is used even in a world that has its own judge.
    default = "openai" if request.judge_settings else world_judge or "openai"
    return suites, data_name, make_judge(request.judge or default, request.judge_settings)


def _check_likelihoods(request: EvalRequest, suites: Sequence[Suite]) -> None:
    """Refuse a backend that cannot compare likelihoods where a suite's settings ask for that."""
    for suite in suites:
        if any(item.choices for item in suite.items) and not request.backend.gives_likelihoods:
            able = (registry.load("backends", name) for name in registry.entries("backends"))
            raise BadInputError(
                f"the backend '{request.backend.name}' gives no log-probabilities, so the answers to {suite.name} cannot be chosen by "
                "their likelihoods",
                remedy=f"leave out {suite.name}.answer=likelihood, or use --backend "
                + " or ".join(kind.name for kind in able if kind.gives_likelihoods),
            )


def _check_names(targets: Sequence[Target]) -> None:
    """Refuse two runs of the same name: an engine's adapters and the rows of scores are told apart by it."""
    folders: dict[str, Path] = {}
    for target in targets:
        first = folders.setdefault(target.name, target.folder)
        if os.path.realpath(first) != os.path.realpath(target.folder):
            raise BadInputError(
                f"two of the checkpoints are called '{target.name}', so their scores could not be told apart",
                where=f"{first}, {target.folder}",
                remedy="evaluate them in two commands; the leaderboard then shows both",
            )


def _check_backend(request: EvalRequest) -> None:
    """An endpoint cannot serve local weights, a local backend cannot serve an endpoint's model, and nothing serves imported answers."""
    for target in request.targets:
        if target.imported and request.generate:
            raise BadInputError(
                f"'{target.name}' contains answers that were imported from another tool, so there is no model to ask",
                where=str(target.folder),
                remedy=f"import more of them: harness import-results FILE --suite SUITE --name {target.name}; or judge them again: "
                f"harness rejudge --run {target.name}",
            )
        if target.remote and not request.backend.remote:
            raise BadInputError(
                f"'{target.name}' is a model behind an endpoint: the backend '{request.backend.name}' cannot serve it",
                remedy=f"--backend openai --endpoint URL --model {target.base}",
            )
        if request.backend.remote and not target.remote:
            raise BadInputError(
                f"the backend '{request.backend.name}' evaluates a model at an endpoint, but '{target.name}' has local weights",
                remedy="give the endpoint's model with --model, or use another --backend",
            )
