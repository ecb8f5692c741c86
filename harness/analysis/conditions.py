"""The conditions of a score that must be equal, so that a difference between two scores is one between the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.score_files import ScoresRecord

Conditions = tuple[tuple[str, str], ...]
"""(name, value as JSON) of every known condition; one that a score does not know is absent, and equals any value."""

_SAME_PARSER = ("nltk", "spacy", "vocabulary")
"""Keys of a suite's provenance that decide nothing: versions of packages, and the path of the vocabulary, whose hash is beside it."""
_JUDGE = ("temperature", "votes")
PARSER, ANSWERS = "parser", "answers"
"""Beginnings of the names: what made scores of the answers, and how the answers were made."""


def conditions_of(record: ScoresRecord) -> Conditions:
    """How answers were made (sampling) and scored (parser, vocabulary, ground truth, judge); settings and files are compared apart."""
    known = dict(_flat(record.provenance, PARSER)) if isinstance(record.provenance, Mapping) else {}
    sampling = record.sampling
    answers = {"max_new_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature:
        answers["top_p"] = sampling.top_p
    known |= {f"{ANSWERS}.{name}": value for name, value in answers.items()}
    if record.judge is not None:
        known |= {f"{PARSER}.judge.{name}": getattr(record.judge, name) for name in _JUDGE}
    return tuple(
        (name, json.dumps(value, sort_keys=True)) for name, value in sorted(known.items()) if value is not None
    )


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if name in _SAME_PARSER and not isinstance(value, Mapping):
            continue
        path = f"{prefix}.{name}"
        flat += _flat(value, path) if isinstance(value, Mapping) else [(path, value)]
    return flat


def common_conditions(several: Sequence[Conditions]) -> Conditions:
    """The conditions of scores that are pooled: a value for each name, or all of them if they differ."""
    values: dict[str, list[str]] = {}
    for conditions in several:
        for name, value in conditions:
            if value not in values.setdefault(name, []):
                values[name].append(value)
    return tuple((name, " / ".join(sorted(each))) for name, each in sorted(values.items()))


def unlike_conditions(first: Conditions, second: Conditions, part: str = "") -> str:
    """The first condition that both know and that differs, with both values; "" if there is none.

    Args:
        first: of one score.
        second: of the other.
        part: `PARSER` or `ANSWERS`, to compare only these.
    """
    if first == second:  # nearly always, and a board asks for every cell
        return ""
    others = dict(second)
    for name, value in first:
        if name.startswith(part) and others.get(name, value) != value:
            return f"{name.partition('.')[2]} {_short(value)}, not {_short(others[name])}"
    return ""


def _short(value: str) -> str:
    text = value.strip('"')
    return text if len(text) <= 40 else f"{text[:12]}…"
