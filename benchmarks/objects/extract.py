"""The extractors, by name."""

from __future__ import annotations

from benchmarks.objects.base import Extractor
from benchmarks.objects.vocabulary import Vocabulary
from harness.core.errors import BadInputError, UnknownNameError


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
            remedy=f"python -m spacy download {pipeline}, or use --extractor spacy, which needs none",
        ) from None


EXTRACTORS = ("nltk", "llm", "spacy")
"""The names; `spacy:PIPELINE` is spaCy with an installed pipeline. `llm` needs a judge, so it cannot extract from a text alone."""


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
