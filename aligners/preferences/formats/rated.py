"""Answers of several models to one prompt, each rated on several aspects, as VLFeedback has them.

Source: Li et al., Silkie: Preference Distillation for Large Visual Language Models (arXiv 2312.10665), and the data card of
MMInstruction/VLFeedback: id, prompt, img_path (or image), models, completions: a list of {model, response, annotations: {aspect:
{Rating, Rationale}}}; the aspects are helpfulness, visual faithfulness and ethical considerations. As in the paper, an answer's score is
the mean of its ratings, and an answer is preferred to every answer with a lower score.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from aligners.preferences.formats.base import BadRecordError, Format, Record, Said, has_image, image_of, shown
from harness.core.typed import kind_of


class RatedAnswers(Format):
    """One image, one prompt, and several answers with ratings; a record has a pair for every two answers with different scores."""

    name, title = "vlfeedback", "answers of several models with ratings, as VLFeedback publishes them"
    needs = "image or img_path, prompt, completions (response, annotations with ratings)"
    columns_read = frozenset({"prompt", "completions", "models", "img_path"})

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        image = {} if has_image(sample) else {"image": "img_path"}
        return {**image, "prompt": "prompt", **dict.fromkeys(("chosen", "rejected"), "completions")}

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        if not (has_image(sample) or isinstance(sample.get("img_path"), str)) or not isinstance(
            sample.get("prompt"), str
        ):
            return False
        answers = _rows(sample.get("completions"))
        return bool(answers) and all({"response", "annotations"} <= answer.keys() for answer in answers)

    def pairs(self, record: Record) -> list[Said]:
        """See `Format`; [] if all answers have the same score. An answer without a score, or with the same text as another, makes no pair
        with it."""
        answers = _rows(record.get("completions"))
        if len(answers) < 2:
            raise BadRecordError("'completions' is not a list of two or more rated answers")
        image = image_of(record) if has_image(record) else record.get("img_path")
        scored = [(answer.get("response"), _score(answer.get("annotations"))) for answer in answers]
        known = [(text, score) for text, score in scored if score is not None]
        return [
            Said(record.get("prompt"), *((first, second) if better > worse else (second, first)), image)
            for (first, better), (second, worse) in itertools.combinations(known, 2)
            if better != worse and first != second
        ]

    def said(self, record: Record) -> Said:
        """The first pair. See `Format`."""
        pairs = self.pairs(record)
        if not pairs:
            raise BadRecordError("all rated answers have the same score")
        return pairs[0]


def _rows(completions: Any) -> list[Mapping[str, Any]]:
    """The answers; `datasets` may have them as an object of lists instead of a list of objects. [] if they have another form."""
    if isinstance(completions, Mapping) and all(isinstance(values, list) for values in completions.values()):
        columns = list(completions.values())
        if len({len(values) for values in columns}) == 1:
            return [dict(zip(completions, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(completions, list) and all(isinstance(answer, Mapping) for answer in completions):
        return completions
    return []


def _score(annotations: Any) -> float | None:
    """The mean of an answer's ratings; None if one of them was not given (null or N/A).

    Raises:
        BadRecordError: the annotations have another form, or a rating is not a number.
    """
    if not isinstance(annotations, Mapping) or not annotations:
        raise BadRecordError(f"'annotations' of an answer is {kind_of(annotations)}, not an object of rated aspects")
    ratings = []
    for aspect, about in annotations.items():
        rating = about.get("Rating") if isinstance(about, Mapping) else None
        if rating is None or str(rating).strip().upper() in ("", "N/A", "NA"):
            return None
        try:
            value = float(rating)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise BadRecordError(f"the rating of '{shown(aspect)}' is not a number: {shown(rating)}")
        ratings.append(value)
    return sum(ratings) / len(ratings)
