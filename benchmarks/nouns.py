"""AMBER's two language tools: finding the nouns of a text, and deciding whether two words mean the same."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.objects.base import readable
from benchmarks.objects.nltk_parser import missing_data, noun_lemma, require_data
from benchmarks.objects.pipelines import pipeline_label
from benchmarks.objects.spacy_parser import RULES, blank_english
from harness.core.errors import BadInputError, UnknownNameError
from harness.core.files import read_json, sha256_file
from harness.core.names import name_from
from harness.core.types import Span
from harness.text.word_forms import CHARACTERS, chains, singulars
from harness.text.word_tokens import tokenize

OFFICIAL_PIPELINE = "en_core_web_lg"
THRESHOLD = 0.8


class Noun(NamedTuple):
    """A lemmatised noun and its span; None if the span is unknown."""

    word: str
    span: Span | None


class NounFinder(Protocol):
    """Finds the nouns of texts."""

    name: str

    def nouns(self, texts: Sequence[str], vocabulary: Container[str] = ()) -> list[list[Noun]]:
        """The lemmatised nouns of each text in order, with repetitions. `vocabulary` has the words that will be searched."""

    def provenance(self) -> dict[str, Any]:
        """Name and version of the tools."""


class Similarity(Protocol):
    """Decides whether two words mean the same."""

    name: str

    def prepare(self, words: Iterable[str], others: Iterable[str]) -> None:
        """Called first with the words that will be compared, so that they can be computed together."""

    def __call__(self, first: str, second: str) -> bool:
        """Whether two words mean the same."""

    def provenance(self) -> dict[str, Any]:
        """Name and version of the comparison."""


class NltkNouns:
    """The official way: Punkt, the perceptron tagger, tags that begin with NN, WordNet noun lemmas; case is kept."""

    name = "nltk"

    def __init__(self) -> None:
        require_data("nouns")

    def nouns(self, texts: Sequence[str], vocabulary: Container[str] = ()) -> list[list[Noun]]:
        """See `NounFinder.nouns`."""
        return [self._nouns(text) for text in texts]

    @staticmethod
    def _nouns(text: str) -> list[Noun]:
        from nltk import pos_tag

        tokens = tokenize(text)
        tags = pos_tag([token.text for token in tokens])
        return [
            Noun(noun_lemma(token.text), (token.start, token.end) if token.start >= 0 else None)
            for token, (_, tag) in zip(tokens, tags, strict=True)
            if tag.startswith("NN")
        ]

    def provenance(self) -> dict[str, Any]:
        """NLTK's version."""
        import nltk

        return {"nouns": "nltk tagger", "nltk": nltk.__version__}


class SpacyNouns:
    """Works without downloads: lemmas of all words.

    There is no tagger, so only the vocabulary excludes words that are not nouns. And the lemma table treats some nouns as verbs
    ("ground" from "grind"), so words of the vocabulary are not changed.
    """

    name = "spacy"

    def nouns(self, texts: Sequence[str], vocabulary: Container[str] = ()) -> list[list[Noun]]:
        """See `NounFinder.nouns`."""
        nlp = blank_english()
        table = nlp.get_pipe("lemmatizer").lookups.get_table("lemma_lookup")
        texts = [readable(text.translate(CHARACTERS)) for text in texts]
        lemmas: dict[str, str] = {}

        def lemma(word: str) -> str:
            if word not in lemmas:
                forms = (word, table.get(word, word).lower(), *singulars(word))
                lemmas[word] = next((form for form in forms if form in vocabulary), forms[1])
            return lemmas[word]

        def nouns_in(doc: Any, chained: Sequence[Sequence[int]]) -> list[Noun]:
            inner = {part for parts in chained for part in parts}
            nouns = [
                Noun(lemma(token.lower_), (token.idx, token.idx + len(token)))
                for token in doc
                if token.is_alpha and token.i not in inner
            ]
            for parts in chained:  # as one word, like the official tokens: "bear-shaped" is not a bear
                words = [doc[part].lower_ for part in parts]
                first, last = doc[parts[0]], doc[parts[-1]]
                whole = next(
                    (form for mark in ("-", "") if (form := lemma(mark.join(words))) in vocabulary), "-".join(words)
                )
                nouns.append(Noun(whole, (first.idx, last.idx + len(last))))
            return sorted(nouns, key=_place) if chained else nouns

        docs = nlp.tokenizer.pipe(texts, batch_size=256)
        return [nouns_in(doc, chains(doc) if "-" in text else ()) for doc, text in zip(docs, texts, strict=True)]

    def provenance(self) -> dict[str, Any]:
        """spaCy's version."""
        import spacy

        return {"nouns": "spacy lookup lemmas, no tagger", "rules": RULES, "spacy": spacy.__version__}


def _place(noun: Noun) -> int:
    return noun.span[0] if noun.span else -1


def make_noun_finder(name: str) -> NounFinder:
    """Make a noun finder by name: nltk, spacy, or auto."""
    if name == "auto":
        name = "spacy" if missing_data("nouns") else "nltk"
    finders: dict[str, type[NounFinder]] = {"nltk": NltkNouns, "spacy": SpacyNouns}
    if name not in finders:
        raise UnknownNameError("noun finder", name, finders)
    return finders[name]()


class Exact:
    """The same word."""

    name = "exact"

    def prepare(self, words: Iterable[str], others: Iterable[str]) -> None:
        """Nothing to do."""

    def __call__(self, first: str, second: str) -> bool:
        """Whether they are equal."""
        return first == second

    def provenance(self) -> dict[str, Any]:
        """A text that says that it is not the official way."""
        return {"similarity": "exact (official: spacy vectors)"}


class Lemma(Exact):
    """The same WordNet noun lemma."""

    name = "lemma"

    def __init__(self) -> None:
        require_data()

    def __call__(self, first: str, second: str) -> bool:
        """Whether their lemmas are equal."""
        return noun_lemma(first) == noun_lemma(second)

    def provenance(self) -> dict[str, Any]:
        """Name of the comparison."""
        return {"similarity": "wordnet noun lemma"}


class SimilarityTable(Exact):
    """The same word, or an unordered pair in a table: a JSON list of [word, word], or an object whose "pairs" is one.

    Its name has the file's, and a part of the hash of its contents: other pairs make another number.
    """

    def __init__(self, path: Path) -> None:
        content = read_json(path, "similarity table")
        rows: Any = content.get("pairs") if isinstance(content, dict) else content
        if not isinstance(rows, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair) for pair in rows
        ):
            raise BadInputError("a similarity table is a list of [word, word]", where=str(path))
        self._pairs = {frozenset(pair) for pair in rows}
        digest = sha256_file(path)
        self.name = f"table:{name_from(path.stem)}-{digest[:8]}"
        self._source = {"similarity": f"table {path.name}", "sha256": digest}

    def __call__(self, first: str, second: str) -> bool:
        """Whether they are equal or in the table."""
        return first == second or frozenset((first, second)) in self._pairs

    def provenance(self) -> dict[str, Any]:
        """The table and its hash."""
        return self._source


class Vectors(Exact):
    """spaCy's vector similarity above 0.8, the official way with `en_core_web_lg`. Every word is parsed once.

    `pipeline` is a name, a folder, or a loaded pipeline. The name of any but the official one says which it is.
    """

    def __init__(self, pipeline: Any) -> None:
        self._nlp, self._pipeline = pipeline, ""
        self.name = "spacy:loaded"
        if isinstance(pipeline, str):
            import spacy

            try:
                self._nlp, self._pipeline = spacy.load(pipeline), pipeline
            except OSError:
                raise BadInputError(
                    f"the spaCy pipeline '{pipeline}' is not installed",
                    remedy=f"python -m spacy download {pipeline}, or another --similarity",
                ) from None
            self.name = "spacy" if pipeline == OFFICIAL_PIPELINE else f"spacy:{pipeline_label(pipeline)}"
        self._docs: dict[str, Any] = {}
        self._known: dict[tuple[str, str], bool] = {}

    def prepare(self, words: Iterable[str], others: Iterable[str]) -> None:
        """Parse all words together."""
        new = sorted({*words, *others} - self._docs.keys())
        self._docs.update(zip(new, self._nlp.pipe(new, batch_size=256), strict=True))

    def __call__(self, first: str, second: str) -> bool:
        """Whether their similarity is above the official threshold."""
        key = (first, second)
        if key not in self._known:
            self.prepare((first,), (second,))
            docs = self._docs[first], self._docs[second]
            self._known[key] = bool(docs[0].similarity(docs[1]) > THRESHOLD)
        return self._known[key]

    def provenance(self) -> dict[str, Any]:
        """Pipeline and version."""
        version = self._nlp.meta.get("version")
        return {"similarity": f"spacy vectors > {THRESHOLD}", "pipeline": self._pipeline, "version": version}


def make_similarity(name: str) -> Similarity:
    """Make a similarity from `--similarity`: lemma, exact, table:FILE, spacy[:PIPELINE], or auto."""
    import spacy.util

    kind, _, rest = name.partition(":")
    if kind == "auto":
        kind = "spacy" if spacy.util.is_package(OFFICIAL_PIPELINE) else "exact"
    makers: dict[str, Callable[[], Similarity]] = {
        "exact": Exact,
        "lemma": Lemma,
        "table": lambda: SimilarityTable(Path(rest)),
        "spacy": lambda: Vectors(rest or OFFICIAL_PIPELINE),
    }
    if kind not in makers:
        raise UnknownNameError("similarity", kind, makers)
    return makers[kind]()
