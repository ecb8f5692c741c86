"""Our own extractor on spaCy: works with nothing downloaded, and reads better with a pipeline that has a tagger.

Phrases are matched on lemmas, longest first. "men" are people. "orange" before a noun is a colour; with a tagger any
vocabulary word that is an adjective or a verb in its sentence is no object.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from benchmarks.objects.extract import Mention
from benchmarks.objects.vocabulary import Vocabulary
from harness.types import Span

_HIDES = {
    "home plate": None, "train track": None, "toilet seat": "toilet", "passenger jet": "jet", "passenger train": "train",
}
"""Phrases that are no object, or another one than their words say."""
_COLOURS = frozenset({"orange"})


@functools.cache
def blank_english() -> Any:
    """spaCy's English tokenizer with the lookup lemmatizer (the tables are a package of spaCy's makers)."""
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("lemmatizer", config={"mode": "lookup"})
    nlp.initialize()
    return nlp


class SpacyExtractor:
    """See the module."""

    def __init__(self, vocabulary: Vocabulary, nlp: Any = None) -> None:
        self.vocabulary = vocabulary
        self.nlp = nlp or blank_english()
        self._phrases: dict[tuple[str, ...], str | None] = {}
        hidden = {phrase: vocabulary.words.get(word or "") for phrase, word in _HIDES.items()}
        for phrase, label in {**vocabulary.words, **hidden}.items():
            for form in (phrase, " ".join(_lemma(token) for token in self.nlp(phrase))):
                self._phrases.setdefault(tuple(form.split()), label)
        self._longest = max(map(len, self._phrases))

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """See `Extractor.mentions`."""
        return [self._match(doc) for doc in self.nlp.pipe(texts, batch_size=256)]

    def _match(self, doc: Any) -> list[Mention]:
        lemmas = [_lemma(token) for token in doc]
        words = [token.lower_ for token in doc]
        found: list[Mention] = []
        position = 0
        while position < len(lemmas):
            for length in range(min(self._longest, len(lemmas) - position), 0, -1):
                for forms in (lemmas, words):
                    phrase = tuple(forms[position:position + length])
                    if phrase in self._phrases:
                        break
                else:
                    continue
                label = self._phrases[phrase]
                if label and not self._is_colour(doc, position, length):
                    span: Span = (doc[position].idx, doc[position + length - 1].idx + len(doc[position + length - 1]))
                    found.append(Mention(" ".join(phrase), label, span))
                position += length
                break
            else:
                position += 1
        return found

    def _is_colour(self, doc: Any, position: int, length: int) -> bool:
        """Whether a single vocabulary word is used as something other than a noun."""
        if length > 1:
            return False
        token = doc[position]
        if token.pos_:
            return token.pos_ in ("ADJ", "VERB", "ADV")
        following = doc[position + 1] if position + 1 < len(doc) else None
        return token.lower_ in _COLOURS and following is not None and following.is_alpha and not following.is_stop

    def provenance(self) -> dict[str, Any]:
        """Version, pipeline and vocabulary."""
        import spacy

        meta = self.nlp.meta
        name = f"{meta['lang']}_{meta['name']}" if meta.get("name") else "blank en, lookup lemmas"
        return {"extractor": "spacy", "spacy": spacy.__version__, "pipeline": name,
                "vocabulary": self.vocabulary.source, "vocabulary_sha256": self.vocabulary.sha256}


def _lemma(token: Any) -> str:
    return (token.lemma_ or token.lower_).lower()
