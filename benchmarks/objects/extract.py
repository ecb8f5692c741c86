"""The extractors: text in, mentions with class and character span out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from benchmarks.objects.vocabulary import Vocabulary
from harness.errors import UnknownNameError
from harness.types import Span


class Mention(NamedTuple):
    """An object that a text mentions: the word as the parser has it, its class, and where it stands."""

    word: str
    label: str
    span: Span | None


class Extractor(Protocol):
    """Finds the vocabulary's objects in texts."""

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """Per text its mentions in order, repeats kept."""

    def provenance(self) -> dict[str, Any]:
        """Versions of what parsed. JSON-able."""


def _nltk(vocabulary: Vocabulary) -> Extractor:
    from benchmarks.objects.nltk_parser import NltkExtractor

    return NltkExtractor(vocabulary)


def _spacy(vocabulary: Vocabulary) -> Extractor:
    from benchmarks.objects.spacy_parser import SpacyExtractor

    return SpacyExtractor(vocabulary)


EXTRACTORS: dict[str, Callable[[Vocabulary], Extractor]] = {"nltk": _nltk, "spacy": _spacy}


def make_extractor(name: str, vocabulary: Vocabulary) -> Extractor:
    """The extractor with this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in EXTRACTORS:
        raise UnknownNameError("extractor", name, EXTRACTORS)
    return EXTRACTORS[name](vocabulary)
