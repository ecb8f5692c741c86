"""Our own extractor on spaCy: works with nothing downloaded, and reads better with a pipeline that has a tagger.

Phrases are matched on lemmas, longest first. "men" are people. "orange" before a noun is a colour; with a tagger any
vocabulary word that is an adjective or a verb in its sentence is no object.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from benchmarks.objects.extract import Mention, readable
from benchmarks.objects.vocabulary import Vocabulary
from harness.types import Span

_HIDES = {
    "home plate": None,
    "train track": None,
    "toilet seat": "toilet",
    "passenger jet": "jet",
    "passenger train": "train",
}
"""Phrases that are no object, or another one than their words say."""
_LONGEST = 10_000_000
"""Characters of a response that a pipeline takes; its own bound of a million is meant for memory."""
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
        self.nlp.max_length = max(self.nlp.max_length, _LONGEST)
        self._phrases: dict[tuple[str, ...], str | None] = {}
        hidden = {phrase: vocabulary.words.get(word or "") for phrase, word in _HIDES.items()}
        for phrase, label in {**vocabulary.words, **hidden}.items():
            for form in (phrase, " ".join(_lemma(token) for token in self.nlp(phrase))):
                self._phrases.setdefault(tuple(form.split()), label)
        self._longest = max(map(len, self._phrases))
        self._firsts = {phrase[0] for phrase in self._phrases}
        self._table: Any = None
        if self.nlp.pipe_names == ["lemmatizer"] and self.nlp.get_pipe("lemmatizer").mode == "lookup":
            self._table = self.nlp.get_pipe("lemmatizer").lookups.get_table("lemma_lookup")
        self._known: dict[int, tuple[str, str]] = {}

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """See `Extractor.mentions`."""
        texts = [readable(text) for text in texts]
        # The table needs tokens only: its lemmas are looked up once a word, in `_forms`.
        docs = (
            self.nlp.tokenizer.pipe(texts, batch_size=256)
            if self._table is not None
            else self.nlp.pipe(texts, batch_size=256)
        )
        return [self._match(doc) for doc in docs]

    def _match(self, doc: Any) -> list[Mention]:
        """Phrases from the left, the longest first; a phrase matches by its lemmas or by its words as they stand."""
        lemmas, words = self._forms(doc)
        found: list[Mention] = []
        free = 0  # the first token that no phrase has taken
        for position, (lemma, word) in enumerate(zip(lemmas, words, strict=True)):
            if position < free or (lemma not in self._firsts and word not in self._firsts):
                continue
            for length in range(min(self._longest, len(lemmas) - position), 0, -1):
                end = position + length
                phrase = next(
                    (one for one in (tuple(lemmas[position:end]), tuple(words[position:end])) if one in self._phrases),
                    None,
                )
                if phrase is None:
                    continue
                label = self._phrases[phrase]
                if label and not self._is_colour(doc, position, length):
                    span: Span = (doc[position].idx, doc[end - 1].idx + len(doc[end - 1]))
                    found.append(Mention(" ".join(phrase), label, span))
                free = end
                break
        return found

    def _forms(self, doc: Any) -> tuple[list[str], list[str]]:
        """Lemmas and lower-case words. A lemma from a table depends on the word alone, so each word is looked up once.

        It is looked up in lower case: the table has "men" and not the "Men" that begin a sentence.
        """
        if self._table is None:
            return [_lemma(token) for token in doc], [token.lower_ for token in doc]
        keys = doc.to_array("ORTH").tolist()
        known = self._known
        if not known.keys() >= set(keys):
            known |= {token.orth: (self._table.get(token.lower_, token.lower_).lower(), token.lower_) for token in doc}
        return [known[key][0] for key in keys], [known[key][1] for key in keys]

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
        return {
            "extractor": "spacy",
            "spacy": spacy.__version__,
            "pipeline": name,
            "vocabulary": self.vocabulary.source,
            "vocabulary_sha256": self.vocabulary.sha256,
        }


def _lemma(token: Any) -> str:
    return (token.lemma_ or token.lower_).lower()
