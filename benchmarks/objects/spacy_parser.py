"""Our own extractor on spaCy: works without downloads, and better with a pipeline that has a tagger.

Phrases are matched on lemmas, longest first. "men" are people, "a baby elephant" is not a person. "orange" before a noun is a colour;
with a tagger any vocabulary word that is an adjective or a verb in its sentence is not an object.

A hyphenated word has the class of its last part: "teddy-bear" and "snow-board" are in the vocabulary, "coffee-table" ends in a table,
and "bear-shaped", "tie-dye", "bus-stop" name no object; neither do measures such as "two-person". "dog-cat" is two objects.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from benchmarks.objects.base import Mention, readable
from benchmarks.objects.doubles import ANIMALS
from benchmarks.objects.vocabulary import Vocabulary
from harness.core.types import Span
from harness.text.word_forms import CHARACTERS, NUMBERS, chains, plain, plurals

_HIDES = {
    "home plate": None,
    "train track": None,
    "toilet seat": "toilet",
    "passenger jet": "jet",
    "passenger train": "train",
}
"""Phrases that name no object, or another one than their words."""
RULES = 2
"""Version of this module's rules, stored with the scores."""
_LONGEST = 10_000_000
"""Maximum length of a response for a pipeline; spaCy's own limit of a million characters is for memory."""
_FORMS = 50_000
"""Approximate number of words whose forms are cached."""
_COLOURS = frozenset({"orange"})
_AGES = ("baby", "adult")
_MEASURED = frozenset({"bed", "beds", "chair", "chairs"})
"""Objects that stay objects after a number word: a twin-bed is a bed, but a two-person tent is not a person."""


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
        hidden |= {f"{age} {animal}": vocabulary.words.get(animal) for age in _AGES for animal in ANIMALS}
        phrases = {**vocabulary.words, **hidden}
        for phrase, label in phrases.items():
            for form in (phrase, " ".join(_lemma(token) for token in self.nlp(phrase))):
                self._phrases.setdefault(tuple(form.split()), label)
        for phrase, label in phrases.items():  # missing in the lemma table: "TVs", "smartphones"
            *first, last = phrase.split()
            for plural in plurals(last):
                self._phrases.setdefault((*first, plural), label)
        self._longest = max(map(len, self._phrases))
        self._firsts = {phrase[0] for phrase in self._phrases}
        self._table: Any = None
        if self.nlp.pipe_names == ["lemmatizer"] and self.nlp.get_pipe("lemmatizer").mode == "lookup":
            self._table = self.nlp.get_pipe("lemmatizer").lookups.get_table("lemma_lookup")
        self._known: dict[int, tuple[str, str]] = {}

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """See `Extractor.mentions`."""
        texts = [readable(text.translate(CHARACTERS)) for text in texts]
        if len(self._known) > _FORMS:
            self._known.clear()
        # The lookup pipeline only tokenises: lemmas are looked up once per word, in `_forms`. (spaCy's memory zones would drop rare
        # words after every part, and be four times as slow.)
        docs = (
            self.nlp.tokenizer.pipe(texts, batch_size=256)
            if self._table is not None
            else self.nlp.pipe(texts, batch_size=256)
        )
        return [self._match(doc, "-" in text) for doc, text in zip(docs, texts, strict=True)]

    def _match(self, doc: Any, hyphens: bool) -> list[Mention]:
        """Phrases from the left, the longest first; a phrase matches by its lemmas or by its exact words."""
        lemmas, words = self._forms(doc)
        places: Sequence[tuple[int, int]] | None = (
            None  # first and last token of each word, if these are not the word's index
        )
        if hyphens and (chained := chains(doc)):
            lemmas, words, places = self._joined(lemmas, words, chained)
        mentions: list[Mention] = []
        free = 0  # the first token that is not part of a phrase
        for position, (lemma, word) in enumerate(zip(lemmas, words, strict=True)):
            if position < free or (lemma not in self._firsts and word not in self._firsts):
                continue
            for length in range(min(self._longest, len(lemmas) - position), 0, -1):
                end = position + length
                if (phrase := self._phrase(lemmas, words, position, end)) is None:
                    continue
                first, last = (places[position][0], places[end - 1][1]) if places else (position, end - 1)
                label = self._phrases[phrase]
                if label and not self._is_colour(doc, first, last):
                    span: Span = (doc[first].idx, doc[last].idx + len(doc[last]))
                    mentions.append(Mention(" ".join(phrase), label, span))
                free = end
                break
        return mentions

    def _phrase(self, lemmas: Sequence[str], words: Sequence[str], begin: int, end: int) -> tuple[str, ...] | None:
        """The vocabulary's phrase that equals these words, or None."""
        both = (tuple(lemmas[begin:end]), tuple(words[begin:end]))
        return next((one for one in both if one in self._phrases), None)

    def _joined(
        self, lemmas: list[str], words: list[str], chained: Sequence[Sequence[int]]
    ) -> tuple[list[str], list[str], list[tuple[int, int]]]:
        """Words joined at hyphens, and the tokens of each.

        The parts of hyphenated words that name no object become empty, so that they match nothing.
        """
        begins = {parts[0]: parts for parts in chained}
        new_lemmas: list[str] = []
        new_words: list[str] = []
        places: list[tuple[int, int]] = []

        def add(lemma: str, word: str, first: int, last: int) -> None:
            new_lemmas.append(lemma)
            new_words.append(word)
            places.append((first, last))

        place = 0
        while place < len(words):
            parts = begins.get(place)
            if parts is None:
                add(lemmas[place], words[place], place, place)
                place += 1
                continue
            whole = "".join(words[part] for part in parts)
            place = parts[-1] + 1
            if (whole,) in self._phrases:
                add(whole, whole, parts[0], parts[-1])
                continue
            for part in parts:  # "controlled" is not a control
                word = words[part]
                add(word if word.endswith(("ed", "ing")) else lemmas[part], word, part, part)
            end = len(new_lemmas)
            begins_at = range(max(0, end - self._longest), end)
            measure = NUMBERS.fullmatch(words[parts[0]]) and words[parts[-1]] not in _MEASURED
            if measure or not any(self._phrase(new_lemmas, new_words, begin, end) for begin in begins_at):
                for position in range(end - len(parts), end):
                    new_lemmas[position] = new_words[position] = ""
        return new_lemmas, new_words, places

    def _forms(self, doc: Any) -> tuple[list[str], list[str]]:
        """Lemmas and lower-case words. A lemma from a table depends only on the word, so each word is looked up once.

        It is looked up in lower case, because the table has "men" and not "Men" at the start of a sentence.
        """
        if self._table is None:
            return [_lemma(token) for token in doc], [token.lower_ for token in doc]
        keys = doc.to_array("ORTH").tolist()
        known, strings = self._known, self.nlp.vocab.strings
        for key in set(keys) - known.keys():
            known[key] = self._form(plain(strings[key].lower()))
        return [known[key][0] for key in keys], [known[key][1] for key in keys]

    def _form(self, word: str) -> tuple[str, str]:
        return self._table.get(word, word).lower(), word

    def _is_colour(self, doc: Any, first: int, last: int) -> bool:
        """Whether a single vocabulary word is used as something other than a noun."""
        if last > first:
            return False
        token = doc[first]
        if token.pos_:
            return token.pos_ in ("ADJ", "VERB", "ADV")
        following = doc[first + 1] if first + 1 < len(doc) else None
        return token.lower_ in _COLOURS and following is not None and following.is_alpha and not following.is_stop

    def provenance(self) -> dict[str, Any]:
        """Version, pipeline and vocabulary."""
        import spacy

        meta = self.nlp.meta
        name = f"{meta['lang']}_{meta['name']}" if meta.get("name") else "blank en, lookup lemmas"
        return {
            "extractor": "spacy",
            "rules": RULES,
            "spacy": spacy.__version__,
            "pipeline": name,
            "vocabulary": self.vocabulary.source,
            "vocabulary_sha256": self.vocabulary.sha256,
        }


def _lemma(token: Any) -> str:
    return (token.lemma_ or token.lower_).lower()
