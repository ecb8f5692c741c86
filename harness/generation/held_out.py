"""Images of evaluation suites, about which no prompt is asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aligners.preferences.overlap import EvaluationSet, evaluation_sets, overlaps
from harness.core.errors import BadInputError, shown
from harness.core.paths import cache_folder
from harness.judging.candidates import Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was left out because evaluation suites ask about it, by suite.

    Attributes:
        held_out: number of different images.
        held_out_prompts: number of prompts about them.
        compared_with: the suites whose images were compared.
    """

    held_out: dict[str, int] = field(default_factory=dict)
    held_out_prompts: dict[str, int] = field(default_factory=dict)
    compared_with: list[str] = field(default_factory=list)


def held_out_sets(root: Path | None) -> list[EvaluationSet]:
    """The suites whose images are left out of the prompts.

    Args:
        root: the benchmark data root that the user names, which must have a suite; None: the cache folder's, which may have none.

    Raises:
        BadInputError: the named root is no folder, or has no suite's questions.
    """
    remedy = (
        "give the folder that `harness data get --root` wrote to, with a folder for each suite; or leave out --held-out"
    )
    if root is not None and not root.is_dir():
        raise BadInputError(f"--held-out needs a folder, and there is no folder {shown(str(root))}", remedy=remedy)
    sets = evaluation_sets(root or cache_folder() / "benchmarks")
    if root is not None and not _compared(sets):
        raise BadInputError("the folder of --held-out has no suite's questions", where=str(root), remedy=remedy)
    return sets


def without_held_out(prompts: list[Prompt], sets: Sequence[EvaluationSet]) -> tuple[list[Prompt], LeftOut]:
    """The prompts whose images no suite asks about, and what was left out; which suites were compared is logged.

    Raises:
        BadInputError: suites ask about all images.
    """
    compared = _compared(sets)
    absent = [_absent(suite) for suite in sets if suite.missing]
    rest = f"; not here: {', '.join(absent)}" if absent else ""
    logger.info(f"images compared with those of: {', '.join(compared) or 'no evaluation suite'}{rest}")
    if not compared:
        return prompts, LeftOut()
    overlap = [one for one in overlaps({prompt.id: prompt.image for prompt in prompts}, sets) if one.all]
    shared = {name for one in overlap for name in one.all}
    if len(shared) == len(prompts):
        raise BadInputError("all images are images of the evaluation suites", remedy="take other --prompts")
    return [prompt for prompt in prompts if prompt.id not in shared], LeftOut(
        {one.suite: len(one.distinct(one.all)) for one in overlap},
        {one.suite: len(one.all) for one in overlap},
        compared,
    )


def _compared(sets: Sequence[EvaluationSet]) -> list[str]:
    return [suite.suite for suite in sets if not suite.missing]


def _absent(suite: EvaluationSet) -> str:
    """Its name, with the reason unless its files were just never fetched."""
    return suite.suite if suite.missing.endswith(" are missing") else f"{suite.suite} ({suite.missing})"
