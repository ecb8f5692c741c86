"""What a benchmark declares of itself beside its metrics, so that tables, report and command line need not know it by name.

`benchmarks.base.Benchmark` says where each declaration stands and what it is where a benchmark declares nothing.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.core.types import MetricSpec

Verdict = Literal[
    "right",
    "wrong: false yes",
    "wrong: false no",
    "wrong: unreadable",
    "clean",
    "invented",
    "missed",
    "unscored",
]
"""What is to be said of one answer.

To a yes/no question: `right`, or what is wrong with it; an answer that cannot be read counts as wrong and is neither a yes nor a no.
To anything else: `invented` where something of it is not in the image (or a judge's rating says so), `missed` where nothing is
invented and nothing of what is there is named either, else `clean`. `unscored`: there is no verdict.
"""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_SAID = "said"
_LABEL = "label"


@dataclass(frozen=True, slots=True)
class OfflineFile:
    """A file that `harness score` takes for a suite: `--safe-words` for the option `safe_words`, which its `read_offline` reads.

    Raises:
        ValueError: the option is not written as a Python name is.
    """

    option: str
    help: str

    def __post_init__(self) -> None:
        _check_name(self.option)


@dataclass(frozen=True, slots=True)
class SettingOption:
    """A setting of the suite that scoring commands take as an option of its own: `--matched-words` for `matched_words`.

    Raises:
        ValueError: the setting is not written as a Python name is.
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
    """A plane of what is said (a metric that declares `invented_by`) and of what of it is invented.

    Attributes:
        metric: the metric that says how much is said.
        title: what the chart is about, the first words of its caption.
        said: the upright axis in words, without its unit; `invented`: the level one.
    """

    metric: str
    title: str
    said: str
    invented: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """One bar a checkpoint.

    Attributes:
        metric: what is drawn.
        name: of the file.
        caption: `{board}` becomes the board's model and data.
        axis: the axis in words, without its unit.
        mark: a value to compare with, in the metric's own unit (0.5 for half).
    """

    metric: str
    name: str
    caption: str
    axis: str
    mark: float | None = None


Chart = FrontierChart | BarChart


@dataclass(frozen=True, slots=True)
class MatchedForm:
    """The suite scores whole descriptions whose mentions have places, so that all can be cut to equally many words.

    Attributes:
        beside: the metric beside which the matched figures stand.
        responses: share of the cut responses with something hallucinated.
        mentions: share of the mentions left in them that are hallucinated.
    """

    beside: str
    responses: MetricSpec
    mentions: MetricSpec

    @property
    def metrics(self) -> tuple[MetricSpec, MetricSpec]:
        """Both of them."""
        return self.responses, self.mentions


def verdict_of(row: Mapping[str, Any], hallucinated_below: float | None = None) -> Verdict:
    """The verdict on an item's row, see `Verdict`, by what every row may hold.

    Args:
        row: of an item file (docs/ARCHITECTURE.md). A yes/no answer has `details.said` ("yes", "no", or None where it cannot be
            read) and `details.label`; a judged one has `details.rating`; any other is told by its evidence.
        hallucinated_below: a lower rating means that something is invented.
    """
    details = row["details"]
    if row.get("unscored") is not None:
        return "unscored"
    if {_SAID, _LABEL} <= details.keys():
        said = details[_SAID]
        if said == details[_LABEL]:
            return "right"
        return "wrong: false yes" if said == "yes" else "wrong: false no" if said == "no" else "wrong: unreadable"
    if hallucinated_below is not None and (rating := details.get("rating")) is not None:
        return "invented" if rating < hallucinated_below else "clean"
    found = {piece["verdict"] for piece in row["evidence"]}
    if "hallucinated" in found:
        return "invented"
    return "missed" if "missed" in found and "correct" not in found else "clean"


def is_right(verdict: Verdict) -> bool | None:
    """Whether a yes/no answer is right; None where the item is no yes/no question, or has no verdict."""
    return True if verdict == "right" else False if verdict.startswith("wrong") else None
