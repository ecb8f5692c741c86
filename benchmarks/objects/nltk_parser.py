"""The official non-LLM parser of CHAIR and Object HalBench, to the digit.

Lower-case, sentence split and word tokens (Punkt, Treebank), WordNet noun lemma of every token, pairs of tokens merged from
the left by the table of double words, and of what is left the words of the vocabulary.

Source: Rohrbach et al., EMNLP 2018, in the form of RLHF-V's evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.objects.extract import Mention
from benchmarks.objects.vocabulary import Vocabulary
from benchmarks.objects.wordnet import noun_lemma
from harness.errors import HarnessError

_PAIRS = (
    "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light", "fire hydrant",
    "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove", "tennis racket", "wine glass",
    "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier", "potted plant", "laptop computer", "home plate", "train track",
)
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
_RESOURCES = {"words": ("corpora/wordnet", "tokenizers/punkt_tab"), "nouns": ("corpora/wordnet", "tokenizers/punkt_tab", "taggers/averaged_perceptron_tagger_eng")}


def missing_data(use: str = "words") -> list[str]:
    """NLTK resources that are not on this machine, of those that a use ("words", "nouns") needs."""
    import nltk

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
    """Raise a `HarnessError` that says how to get NLTK's data, if it is not there."""
    if absent := missing_data(use):
        names = " ".join(resource.partition("/")[2] for resource in absent)
        raise HarnessError(f"NLTK's data is missing: {', '.join(absent)}", where="extractor nltk",
                           remedy=f"python -m nltk.downloader {names}, or set NLTK_DATA to a folder that has it, or use --extractor spacy")


def tokens(text: str) -> list[str]:
    """Punkt's sentences, Treebank's tokens."""
    from nltk import word_tokenize

    return list(word_tokenize(text))


class NltkExtractor:
    """See the module."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        require_data()
        self.vocabulary = vocabulary
        doubles = {pair: pair for pair in _PAIRS}
        doubles |= {word: word for word in vocabulary.words if len(word.split()) == 2}
        for animal in _ANIMALS:
            doubles[f"baby {animal}"] = doubles[f"adult {animal}"] = animal
        doubles |= {"passenger jet": "jet", "passenger train": "train", "bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
        self._doubles = doubles
        self._firsts = {pair.partition(" ")[0] for pair in doubles}

    def words(self, text: str) -> list[tuple[str, int, int]]:
        """All words of a text after lemmas and merging: (word, first token, number of tokens)."""
        lemmas = [noun_lemma(token) for token in tokens(text.lower())]
        merged: list[tuple[str, int, int]] = []
        position = 0
        while position < len(lemmas):
            word = lemmas[position]
            pair = " ".join(lemmas[position:position + 2]) if word in self._firsts else ""
            if pair in self._doubles:
                merged.append((self._doubles[pair], position, 2))
                position += 2
            else:
                merged.append((word, position, 1))
                position += 1
        present = {word for word, _, _ in merged}
        if "toilet" in present and "seat" in present:  # "the seat of the toilet" is no chair
            merged = [row for row in merged if row[0] != "seat"]
        return merged

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """See `Extractor.mentions`."""
        return [self._mentions(text) for text in texts]

    def _mentions(self, text: str) -> list[Mention]:
        found = [(word, start, count) for word, start, count in self.words(text) if word in self.vocabulary.words]
        if not found:
            return []
        spans = _spans(text.lower(), tokens(text.lower()))
        result = []
        for word, start, count in found:
            first, last = spans[start], spans[start + count - 1]
            span = (first[0], last[1]) if first and last and len(text.lower()) == len(text) else None
            result.append(Mention(word, self.vocabulary.words[word], span))
        return result

    def provenance(self) -> dict[str, Any]:
        """Version and vocabulary."""
        import nltk

        return {"extractor": "nltk", "nltk": nltk.__version__, "vocabulary": self.vocabulary.source, "vocabulary_sha256": self.vocabulary.sha256}


def _spans(text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """Where the tokens stand; None for one that the tokenizer changed (quotation marks)."""
    spans: list[tuple[int, int] | None] = []
    start = 0
    for word in words:
        place = text.find(word, start)
        if place < 0:
            spans.append(None)
            continue
        spans.append((place, place + len(word)))
        start = place + len(word)
    return spans
