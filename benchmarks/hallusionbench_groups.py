"""HallusionBench's metrics from marked answers: groups of questions, groups of figures, and the kinds of errors.

Sources: Guan et al., CVPR 2024; evaluation.py and utils.py of the official repository, whose rules are restated here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Mark = Literal["0", "1", "2"]
"""Incorrect, correct, unclear."""
ErrorKind = Literal["language", "visual", "mixed"]
WITHOUT_FIGURE = "0"
"""`figure_id` of the original of a question, which for category VS is no figure."""


@dataclass(frozen=True)
class Place:
    """A row of the official file without its texts. All values are as in the file."""

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: str
    label: str

    @property
    def id(self) -> str:
        """The row's id, which is unique in the file."""
        return "_".join((self.category, self.subcategory, self.set_id, self.figure_id, self.question_id))

    @property
    def question(self) -> str:
        """The question's id, independent of the figure."""
        return "_".join((self.category, self.subcategory, self.set_id, self.question_id))

    @property
    def cluster(self) -> str:
        """The set, which contains all questions about all versions of a figure."""
        return "_".join((self.category, self.subcategory, self.set_id))

    @property
    def original(self) -> bool:
        """Whether it is about the original figure, or in VS about no figure."""
        return self.figure_id == WITHOUT_FIGURE

    @property
    def has_image(self) -> bool:
        """Whether a picture is shown."""
        return self.visual_input != "0"

    def is_right(self, mark: Mark) -> bool:
        """Whether a mark is right; without a figure, not to know is right, too."""
        return mark == "1" or (mark == "2" and self.category == "VS" and self.original)


def groups_of(place: Place) -> dict[str, str]:
    """Kind of group -> the group that a row belongs to: its question's (all, easy, hard, with an image) and its figure's."""
    groups = {"q": place.question, ("q.hard" if place.visual_input == "2" else "q.easy"): place.question}
    if place.has_image:
        groups["q.images"] = place.question
    if not (place.category == "VS" and place.original):
        groups["f"] = "_".join((place.category, place.subcategory, place.set_id, place.figure_id))
    return groups


def group_sizes(places: Iterable[Place]) -> Counter[tuple[str, str]]:
    """(kind, group) -> number of its rows."""
    return Counter(pair for place in places for pair in groups_of(place).items())


def needs_same(place: Place, mark: Mark, original: Mark | None) -> bool:
    """Whether the kind of error depends on whether the answer is the same as to the original."""
    if place.original or mark != "0" or original is None:
        return False
    if place.category == "VD":
        return original == "1"
    return original == "0" or (original == "1" and place.visual_input == "2")


def kind_of_error(place: Place, mark: Mark, original: Mark | None, same: bool | None) -> ErrorKind | None:
    """Language hallucination, visual illusion or both, of a wrong answer; None if the answer to the original or `same` is unknown.

    Args:
        place: the row.
        mark: of its answer, which is wrong.
        original: mark of the answer to the same question about the original.
        same: whether both answers say the same.
    """
    if place.original:
        return "visual" if place.category == "VD" else "language"
    if original is None or (needs_same(place, mark, original) and same is None):
        return None
    if place.category == "VD":
        return "mixed" if needs_same(place, mark, original) and same else "visual"
    if original == "0":
        return "language" if mark == "0" and same else "mixed"
    return "language" if needs_same(place, mark, original) and same else "visual"


def official_figures(rows: Sequence[tuple[Place, Mark, bool]]) -> dict[str, str]:
    """Metric id -> the text that the official script prints; {} if it fails before it prints.

    Args:
        rows: place, mark, and whether the answer is the same as to the original, of every row.
    """
    marks = {place.id: mark for place, mark, _ in rows}
    originals = {place.question: mark for place, mark, _ in rows if place.original}
    complete = len(marks) == len(rows) and all(place.question in originals for place, _, _ in rows)
    if not complete or {place.category for place, _, _ in rows} != {"VD", "VS"}:
        return {}
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for place, mark, _ in rows:
        for kind, group in groups_of(place).items():
            right[kind][group].append(place.is_right(mark))
    if any(not right[kind] for kind in ("q.easy", "q.hard", "f")):
        return {}
    correct = [place.is_right(mark) for place, mark, _ in rows]
    shown: dict[str, Any] = {"a_acc": _percent(sum(correct), len(rows))}
    for kind, name in (("q", "q_acc"), ("q.easy", "q_acc.easy"), ("q.hard", "q_acc.hard"), ("f", "f_acc")):
        shown[name] = _percent(sum(map(all, right[kind].values())), len(right[kind]))
    wrong = [row for row, hit in zip(rows, correct, strict=True) if not hit]
    if wrong:  # without one it divides by zero after the first table
        labels = [place.label == "1" for place, _, _ in rows]
        yes = [hit == label for hit, label in zip(correct, labels, strict=True)]
        shown["pct_diff"] = sum(yes) / len(rows) - sum(labels) / len(rows)
        shown["fp_ratio"] = sum(place.label == "0" for place, _, _ in wrong) / len(wrong)
        none = sum(not any(own) for own in right["f"].values())
        shown["figures_wrong"] = _percent(none, len(right["f"]))
        mixed = len(right["f"]) - none - sum(map(all, right["f"].values()))
        shown["figures_inconsistent"] = _percent(mixed, len(right["f"]))
        kinds = Counter(kind_of_error(place, mark, originals[place.question], same) for place, mark, same in wrong)
        for kind in ("language", "visual", "mixed"):
            shown[f"errors.{kind}"] = _percent(kinds[kind], len(wrong))  # type: ignore[index]
    return {name: str(value) for name, value in shown.items()}


def _percent(above: int, below: int) -> float:
    return float(round(100 * above / below, 4))


CATEGORIES = ("", ".VD", ".VS")
KINDS = ("q", "q.easy", "q.hard", "q.images", "f")
ZEROS: Mapping[str, float] = {
    **{
        f"{cell}{category}": 0.0
        for cell in ("right", "rows")
        for category in (*CATEGORIES, ".easy", ".hard", ".images")
    },
    **{f"{kind}{category}.{cell}": 0.0 for kind in KINDS for category in CATEGORIES for cell in ("n", "right", "none")},
    **dict.fromkeys(("label_yes", "yes", "wrong_no", "language", "visual", "mixed", "classified"), 0.0),
}


def counts_of(
    rows: Sequence[tuple[Place, Mark, bool | None]], sizes: Mapping[tuple[str, str], int]
) -> list[dict[str, float]]:
    """The counts of each row. A group counts at its last row, and only if all of its rows are present.

    Args:
        rows: place, mark, and whether the answer is the same as to the original (None: unknown).
        sizes: rows of each group in the whole file.
    """
    originals = {place.question: mark for place, mark, _ in rows if place.original}
    seen: dict[tuple[str, str], list[bool]] = defaultdict(list)
    made = []
    for place, mark, same in rows:
        right, counts = place.is_right(mark), dict(ZEROS)
        parts = ["", f".{place.category}", ".hard" if place.visual_input == "2" else ".easy"]
        for part in (*parts, ".images") if place.has_image else parts:
            counts[f"rows{part}"], counts[f"right{part}"] = 1.0, float(right)
        label = place.label == "1"
        counts |= {"label_yes": float(label), "yes": float(right == label)}
        if not right:
            counts["wrong_no"] = float(not label)
            if kind := kind_of_error(place, mark, originals.get(place.question), same):
                counts |= {"classified": 1.0, kind: 1.0}
        for pair in groups_of(place).items():
            seen[pair].append(right)
            if len(seen[pair]) == sizes[pair]:
                for category in ("", f".{place.category}"):
                    counts |= {
                        f"{pair[0]}{category}.n": 1.0,
                        f"{pair[0]}{category}.right": float(all(seen[pair])),
                        f"{pair[0]}{category}.none": float(not any(seen[pair])),
                    }
        made.append(counts)
    return made


def mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several metrics, element by element."""
    return np.asarray(np.mean(values, axis=0))
