"""CHAIR's counts of one description, and extracting the description from a response."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from benchmarks.objects import Extractor, Mention, Vocabulary
from harness.core.types import Evidence, Item, SampleScore

_SPEAKER = "Assistant:"
_WORD = re.compile(r"\S+")


def classes_of(
    references: Mapping[str, Mapping[str, Any]], extractor: Extractor, vocabulary: Vocabulary
) -> dict[str, frozenset[str]]:
    """The classes in each image: those of its instances, and those that its captions mention.

    Args:
        references: image -> {"instances": category names, "captions": texts}.
        extractor: reads the captions, as it reads the descriptions.
        vocabulary: an instance's category is a class, or with another vocabulary than COCO's a word for one.
    """
    captions = [(image, caption) for image, reference in references.items() for caption in reference["captions"]]
    classes: dict[str, set[str]] = {image: set() for image in references}
    for (image, _), mentions in zip(captions, extractor.mentions([text for _, text in captions]), strict=True):
        classes[image] |= {mention.label for mention in mentions}
    for image, reference in references.items():
        classes[image] |= {vocabulary.words.get(name, name) for name in reference["instances"]}
    return {image: frozenset(names) for image, names in classes.items()}


def counted(
    item: Item,
    text: str,
    unmoved: Sequence[Mention],
    truth: frozenset[str],
    places: Sequence[int],
    matched_words: int | None,
) -> SampleScore:
    """Counts and evidence of one description.

    Args:
        item: what was asked.
        text: the description, see `cleaned`.
        unmoved: the mentions in `text`.
        truth: the classes in the image.
        places: position of each character of `text` in the original response, for the evidence.
        matched_words: also count the mentions in this number of first words.
    """
    mentions = [_moved(mention, places) for mention in unmoved]
    wrong = [mention for mention in mentions if mention.label not in truth]
    correct = {mention.label for mention in mentions} & truth
    evidence = [
        Evidence(mention.word, "hallucinated" if mention.label not in truth else "correct", mention.label, mention.span)
        for mention in mentions
    ]
    evidence += [Evidence(name, "missed", name) for name in sorted(truth - correct)]
    counts = {
        "responses": 1,
        "hallucinated_responses": bool(wrong),
        "responses_with_objects": bool(mentions),
        "mentions": len(mentions),
        "hallucinated_mentions": len(wrong),
        "found": len(correct),
        "truth": len(truth),
        "words": len(text.split(" ")),
    }
    if matched_words is not None:
        end = end_of_words(text, matched_words)
        first = [mention for mention in unmoved if mention.span is None or mention.span[1] <= end]
        false = [mention for mention in first if mention.label not in truth]
        counts |= {
            "matched_mentions": len(first),
            "matched_hallucinated_mentions": len(false),
            "matched_hallucinated_responses": bool(false),
        }
    return SampleScore(item.id, item.group, {name: float(value) for name, value in counts.items()}, tuple(evidence))


def cleaned(text: str) -> tuple[str, Sequence[int]]:
    """The text as in the official loader (every "Assistant:" removed, stripped), and the position of each character in `text`."""
    places: Sequence[int] = range(len(text))
    if _SPEAKER in text:
        removed = {index for start in _starts(text) for index in range(start, start + len(_SPEAKER))}
        places = [index for index in range(len(text)) if index not in removed]
        text = text.replace(_SPEAKER, "")
    start = len(text) - len(text.lstrip())
    text = text.strip()
    return text, places[start : start + len(text)]


def end_of_words(text: str, words: int) -> int:
    """End of the first `count` words of a text, in characters."""
    ends = [found.end() for found in islice(_WORD.finditer(text), words)]
    return ends[-1] if len(ends) == words else len(text)


def _starts(text: str) -> Iterator[int]:
    start = text.find(_SPEAKER)
    while start >= 0:
        yield start
        start = text.find(_SPEAKER, start + len(_SPEAKER))


def _moved(mention: Mention, places: Sequence[int]) -> Mention:
    if mention.span is None:
        return mention
    start, end = mention.span
    return mention._replace(span=(places[start], places[end - 1] + 1))
