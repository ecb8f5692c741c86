"""The extractors: text in, mentions with class and character span out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from benchmarks.objects.vocabulary import Vocabulary
from harness.core.errors import BadInputError, UnknownNameError
from harness.core.types import Span


class Mention(NamedTuple):
    """An object that a text mentions: the word as the parser has it, its class, and where it stands."""

    word: str
    label: str
    span: Span | None


_CHUNK = re.compile(r"\S{1000,}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    """The text as spaCy can read it, with every character in its place.

    Halves of characters, which some JSON holds, become replacement characters. Of a thousand and more characters without a blank,
    which no sentence has and which take its tokenizer minutes, nothing is read.
    """
    return _CHUNK.sub(lambda found: "x" * len(found.group()), _SURROGATE.sub("\ufffd", text))


class Extractor(Protocol):
    """Finds the vocabulary's objects in texts."""

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """Per text its mentions in order, repeats kept."""

    def provenance(self) -> dict[str, Any]:
        """Versions of what parsed. JSON-able."""


def _nltk(vocabulary: Vocabulary) -> Extractor:
    from benchmarks.objects.nltk_parser import NltkExtractor

    return NltkExtractor(vocabulary)


def _spacy(vocabulary: Vocabulary, pipeline: str) -> Extractor:
    from benchmarks.objects.spacy_parser import SpacyExtractor

    if not pipeline:
        return SpacyExtractor(vocabulary)
    import spacy

    try:
        return SpacyExtractor(vocabulary, spacy.load(pipeline))
    except OSError as error:
        raise BadInputError(
            f"the spaCy pipeline '{pipeline}' cannot be loaded: {error}",
            remedy=f"python -m spacy download {pipeline}, or --extractor spacy, which needs none",
        ) from None


EXTRACTORS = ("nltk", "llm", "spacy")
"""The names; `spacy:PIPELINE` is spaCy with an installed pipeline. What `llm` lists comes from a judge, not from a text alone."""


def make_extractor(name: str, vocabulary: Vocabulary) -> Extractor:
    """The extractor of texts with this name: nltk, spacy or spacy:PIPELINE.

    Raises:
        UnknownNameError: there is none.
        BadInputError: the pipeline is not installed.
    """
    kind, _, pipeline = name.partition(":")
    if kind == "nltk" and not pipeline:
        return _nltk(vocabulary)
    if kind == "spacy":
        return _spacy(vocabulary, pipeline)
    raise UnknownNameError("extractor", name, EXTRACTORS)
