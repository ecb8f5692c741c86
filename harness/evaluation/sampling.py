"""The sampling that stored answers were drawn with, where a later command asks with another one: it would not find them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.records.score_files import read_scores
from harness.serving.base import Sampling


def differing(stored: Mapping[str, Any] | None, asked: Sampling) -> dict[str, Any]:
    """The stored settings that are not those asked for; {} if nothing is stored."""
    values = asked.model_dump()
    return {
        name: value
        for name, value in (stored or {}).items()
        if name in values and value is not None and value != values[name]
    }


def in_words(stored: Mapping[str, Any], asked: Sampling) -> str:
    """Differing settings as text, such as `sampling.max_new_tokens=9, not 512`."""
    return "; ".join(f"sampling.{name}={value}, not {getattr(asked, name)}" for name, value in stored.items())


def options(settings: Mapping[str, Any]) -> str:
    """The options of a command that set the sampling."""
    return " ".join(f"--set sampling.{name}={value}" for name, value in settings.items())


def no_answers(name: str, log: Path, asked: Sampling) -> BadInputError:
    """The error for a log without an answer to any question of a suite. The scores beside it say how its answers were drawn.

    Args:
        name: the evaluated checkpoint's run.
        log: the response log.
        asked: the sampling of this command.
    """
    problem = f"no stored answer of '{name}' belongs to these questions"
    drawn = [_drawn(path) for path in sorted(log.parent.glob("scores*.json"))]
    others = [different for stored in drawn if (different := differing(stored, asked))]
    if others and len(others) == len(drawn) and all(other == others[0] for other in others):
        return BadInputError(
            f"{problem}: they were generated with {in_words(others[0], asked)}",
            where=str(log),
            remedy=f"give the same settings: {options(others[0])}",
        )
    return BadInputError(
        problem,
        where=str(log),
        remedy="the data, the weights or the template changed, or the sampling: give the --set sampling.* of the command that generated "
        "the answers, or generate new ones with harness eval",
    )


def _drawn(scores: Path) -> dict[str, Any]:
    """The sampling in a score file; {} if the file cannot be read, which must not hide the error that is being explained."""
    try:
        sampling = read_scores(scores).sampling
    except BadInputError:
        return {}
    return {} if sampling is None else dict(sampling.written())
