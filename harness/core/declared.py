"""Declarations of a benchmark in addition to its metrics, so that tables, report and command line do not depend on its name.

`benchmarks.base.Benchmark` documents the attribute and the default of each declaration.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.core.types import MetricSpec

Verdict = Literal[
    "correct",
    "wrong: false yes",
    "wrong: false no",
    "wrong: other option",
    "wrong: unreadable",
    "clean",
    "invented",
    "missed",
    "unscored",
]
"""The verdict on one answer.

For a yes/no or multiple-choice question: `correct`, or the kind of error. An unreadable answer counts as wrong, and as neither yes nor no.
For other questions: `invented` if a part of the answer is not in the image (or a judge's rating says so); `missed` if nothing is
invented, but the answer mentions none of the objects in the image; `clean` otherwise. `unscored`: there is no verdict.
"""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_SAID = "said"
_LABEL = "label"


@dataclass(frozen=True, slots=True)
class OfflineFile:
    """A file option of `harness score` for a suite: `safe_words` becomes `--safe-words`; `read_offline` reads the file.

    Raises:
        ValueError: the option is not a valid Python name.
    """

    option: str
    help: str

    def __post_init__(self) -> None:
        _check_name(self.option)


@dataclass(frozen=True, slots=True)
class SettingOption:
    """A setting of the suite that is also an option of scoring commands: `matched_words` becomes `--matched-words`.

    Raises:
        ValueError: the setting is not a valid Python name.
    """

    setting: str
    help: str

    def __post_init__(self) -> None:
        _check_name(self.setting)


def _check_name(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"'{name}' is not a valid option name: use letters, digits and _ only")


@dataclass(frozen=True, slots=True)
class FrontierChart:
    """A scatter chart of a metric that declares `invented_by` against the hallucination metric that it names.

    Attributes:
        metric: the metric that measures how much is reported.
        title: the beginning of the caption.
        said: label of the vertical axis, without its unit.
        invented: label of the horizontal axis, without its unit.
    """

    metric: str
    title: str
    said: str
    invented: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """A chart with one bar per checkpoint.

    Attributes:
        metric: the metric.
        name: the file name.
        caption: the caption; `{board}` is replaced by the board's model and data.
        axis: label of the axis, without its unit.
        mark: a value to compare with, in the unit of the metric (0.5 for half).
    """

    metric: str
    name: str
    caption: str
    axis: str
    mark: float | None = None


Chart = FrontierChart | BarChart


@dataclass(frozen=True, slots=True)
class MatchedForm:
    """Metrics at matched length, for a suite that scores descriptions whose mentions have positions, so that they can be cut.

    Attributes:
        beside: the metric next to which the matched metrics are shown.
        responses: fraction of the cut responses that contain a hallucination.
        mentions: fraction of hallucinated mentions in the cut responses.
    """

    beside: str
    responses: MetricSpec
    mentions: MetricSpec

    @property
    def metrics(self) -> tuple[MetricSpec, MetricSpec]:
        """Both metrics."""
        return self.responses, self.mentions


def verdict_of(row: Mapping[str, Any], hallucinated_below: float | None = None) -> Verdict:
    """The verdict on a row of an item file, see `Verdict`.

    Args:
        row: a row of an item file (docs/ARCHITECTURE.md). A yes/no or multiple-choice answer has `details.said` ("yes", "no", the
            option's letter, or None if unreadable) and `details.label`; a rated answer has `details.rating`; for other answers the
            evidence decides.
        hallucinated_below: a lower rating means a hallucination.
    """
    details = row["details"]
    if row.get("unscored") is not None:
        return "unscored"
    if {_SAID, _LABEL} <= details.keys():
        said = details[_SAID]
        if said == details[_LABEL]:
            return "correct"
        if said is None:
            return "wrong: unreadable"
        return "wrong: false yes" if said == "yes" else "wrong: false no" if said == "no" else "wrong: other option"
    if hallucinated_below is not None and (rating := details.get("rating")) is not None:
        return "invented" if rating < hallucinated_below else "clean"
    verdicts = {piece["verdict"] for piece in row["evidence"]}
    if "hallucinated" in verdicts:
        return "invented"
    return "missed" if "missed" in verdicts and "correct" not in verdicts else "clean"


def is_right(verdict: Verdict) -> bool | None:
    """Whether an answer is right; None if the item is neither a yes/no nor a multiple-choice question, or has no verdict."""
    return True if verdict == "correct" else False if verdict.startswith("wrong") else None
