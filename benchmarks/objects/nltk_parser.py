"""The official non-LLM parser of CHAIR and Object HalBench, with identical results.

It lower-cases, splits sentences and words (Punkt, Treebank), takes the WordNet noun lemma of every token, merges pairs of tokens from
the left by the table of double words, and keeps words of the vocabulary.

Source: Rohrbach et al., EMNLP 2018, in the form of RLHF-V's evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.objects.base import Mention
from benchmarks.objects.doubles import double_words
from benchmarks.objects.vocabulary import Vocabulary
from harness.core.errors import HarnessError
from harness.core.paths import cache_folder
from harness.text.word_tokens import tokenize
from harness.text.wordnet import noun_lemma

_WORDS = ("corpora/wordnet", "tokenizers/punkt_tab")
_RESOURCES = {"words": _WORDS, "nouns": (*_WORDS, "taggers/averaged_perceptron_tagger_eng")}


def missing_data(use: str = "words") -> list[str]:
    """The missing NLTK resources of those that a use ("words", "nouns") needs."""
    import nltk

    own = str(cache_folder() / "nltk_data")  # `harness data get nltk`
    if own not in nltk.data.path:
        nltk.data.path.append(own)
    absent = []
    for resource in _RESOURCES[use]:
        try:
            nltk.data.find(resource)
        except LookupError:
            try:
                nltk.data.find(f"{resource}.zip")
            except LookupError:
                absent.append(resource)
    return absent


def require_data(use: str = "words") -> None:
    """Raise a `HarnessError` that says how to get NLTK's data, if it is missing."""
    if absent := missing_data(use):
        raise HarnessError(
            f"NLTK's data is missing: {', '.join(absent)}",
            where="extractor nltk",
            remedy="harness data get nltk, or set NLTK_DATA to a folder that contains it, or use --extractor spacy",
        )


class NltkExtractor:
    """See the module."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        require_data()
        self.vocabulary = vocabulary
        self._doubles = double_words(vocabulary)
        self._firsts = {pair.partition(" ")[0] for pair in self._doubles}

    def words(self, text: str) -> list[tuple[str, int, int]]:
        """All words of a text after lemmatising and merging: (word, start, end) with its position in the text; -1, -1 if unknown."""
        merged: list[tuple[str, int, int]] = []
        first: tuple[str, int, int] | None = None  # a word that can start a pair
        for token, start, end in tokenize(text.lower()):
            word = noun_lemma(token)
            if first:
                pair = self._doubles.get(f"{first[0]} {word}")
                if pair:
                    merged.append((pair, first[1], end if start >= 0 else -1))
                    first = None
                    continue
                merged.append(first)
                first = None
            if word in self._firsts:
                first = (word, start, end)
            else:
                merged.append((word, start, end))
        if first:
            merged.append(first)
        present = {word for word, _, _ in merged}
        if "toilet" in present and "seat" in present:  # "the seat of the toilet" is not a chair
            merged = [row for row in merged if row[0] != "seat"]
        return merged

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """See `Extractor.mentions`."""
        return [self._mentions(text) for text in texts]

    def _mentions(self, text: str) -> list[Mention]:
        known = self.vocabulary.words
        # If lower-casing changes the length (a dotted capital I), positions no longer match.
        aligned = len(text.lower()) == len(text)
        return [
            Mention(word, known[word], (start, end) if aligned and 0 <= start < end else None)
            for word, start, end in self.words(text)
            if word in known
        ]

    def provenance(self) -> dict[str, Any]:
        """Version and vocabulary."""
        import nltk

        return {
            "extractor": "nltk",
            "nltk": nltk.__version__,
            "vocabulary": self.vocabulary.source,
            "vocabulary_sha256": self.vocabulary.sha256,
        }
