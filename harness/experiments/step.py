"""A step of an experiment: one command, what it makes, and what it needs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.core.errors import BadInputError, HarnessError
from harness.experiments.evaluated import Evaluated
from harness.experiments.keys import dotted

RUNS = "runs"
"""Folder below the results for the runs of all experiments, so that runs that they share are made once."""
WORLDS = "worlds"
"""The same for the records of the worlds that were made."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: unique in the experiment, and the name of its record.
        kind: world, generate, export, align, eval or noise.
        command: arguments of `harness`.
        needs: names of the steps that must be done before.
        after: names of the steps that must have ended before, done or failed, because they write the same files.
        key: hash of what the step computes; a step whose key changed is done again.
        about: description of the step.
        run: name of the run, for an alignment.
        makes: folder below the results that the step makes; it is complete if it has a manifest. "" for evaluations.
        answers: of a generation, hashes of what determines the answers that it samples, apart from their number, and of the judge; empty
            for other steps.
        asked: what an evaluation scores; None for other steps.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    needs: tuple[str, ...]
    key: str
    about: str
    run: str = ""
    after: tuple[str, ...] = ()
    makes: str = ""
    answers: tuple[str, ...] = ()
    asked: Evaluated | None = None

    @property
    def does_without(self) -> bool:
        """Whether it goes on with those of its needs that were done: an evaluation leaves out the runs that failed."""
        return self.kind in ("eval", "noise")


def located(where: str, look_up: Any) -> Any:
    """The result of a look-up; its errors get the place in the file."""
    try:
        return look_up()
    except HarnessError as error:
        raise BadInputError(error.problem, where=where, remedy=error.remedy) from error


def sets(settings: Mapping[str, Any]) -> list[str]:
    """`--set` for every setting. JSON is valid YAML, so any value is read back unchanged."""
    return [
        part
        for key, value in dotted(settings).items()
        for part in ("--set", f"{key}={json.dumps(value, ensure_ascii=False)}")
    ]


def plain(label: str) -> str:
    """The last part of a model's label, as a part of a name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", label.rpartition("/")[2]).strip("-.") or "model"
