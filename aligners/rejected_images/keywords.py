"""Keywords of a response: the words of its graph (`keyword_graph`, MFPO's own way), or its noun phrases ranked by MultipartiteRank.

MultipartiteRank: candidates that share a stem form a topic; candidates of different topics are linked in both directions with the
reciprocal distance between their positions; the first candidate of a topic is boosted; PageRank ranks them.

Source: Boudin, NAACL 2018, eq. 1 and 2.
Differences: every occurrence of a phrase is a candidate of its own, with one position. The paper has one candidate for all occurrences of
a phrase, and its eq. 1 sums the reciprocal distances between all of their positions. So a phrase that is repeated counts through the
boost of its first occurrence only, and the ranks of phrases that occur several times differ from the paper's.
Topics are candidates whose lemma sets overlap by at least half (the paper clusters stems at a similarity of 0.25 by average linkage);
texts here are a few sentences, where this gives the same topics.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aligners.rejected_images.keyword_graph import GraphConstants, graph_rank, graph_weights
from harness.models.known import folder_hash

Ranking = Literal["graph", "multipartite"]

KEYWORD_RULE = 2
"""Raised when a text gets other keywords. 2: words with a capital are looked up in lower case, too, if there is no tagger."""
_DAMPING = 0.85
_NOT_NOUNS_LISTED = """
show shows shown see seen sees contain contains describe describes feature features also left right top bottom middle
side sitting standing lying holding wearing looking walking placed located visible several various many few one two
three four five red blue green yellow purple brown black white orange pink gray grey large small big little tall long
new old image picture photo photograph scene background foreground near next close front behind above below around
along inside outside together suggest indicate appear seem create add include engage surround capture depict fine
overall different main central clear atmosphere distance view area part addition parked riding displayed setting
"""
_NOT_NOUNS = frozenset(_NOT_NOUNS_LISTED.split())
"""Words (forms or lemmas) that do not name objects, for use without a tagger: verbs and colours of descriptions, places, and
words for the image itself."""


@dataclass(frozen=True)
class Keyword:
    """A phrase as it is in the text, its lemmas, and its weight."""

    phrase: str
    lemmas: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class KeywordCandidate:
    """A noun phrase: text, content lemmas, and the index of its first token."""

    phrase: str
    lemmas: tuple[str, ...]
    position: int


def pipeline(name: str) -> Any:
    """A spaCy pipeline: "blank" is the English tokenizer with the lookup lemmatizer, anything else an installed package.

    Raises:
        BadInputError: it is not installed, or cannot be loaded.
    """
    folder = Path(name)
    return _loaded(name, folder_hash(folder) if folder.is_dir() else "")


@functools.cache
def _loaded(name: str, contents: str) -> Any:
    """The same, kept for this process while the contents of a pipeline's folder are these."""
    import spacy

    from harness.core.errors import BadInputError, shown

    if name == "blank":
        nlp = spacy.blank("en")
        nlp.add_pipe("lemmatizer", config={"mode": "lookup"})
        nlp.initialize()
        return nlp
    try:
        return spacy.load(name, disable=["ner"])
    except OSError:
        raise BadInputError(
            f"the spaCy pipeline '{name}' is not installed", remedy=f"install the package {name}, or use 'blank'"
        ) from None
    except (ImportError, ValueError) as error:  # a component or its package is not there, or its files do not fit
        raise BadInputError(
            f"the spaCy pipeline cannot be loaded: {shown(str(error), 300)[1:-1]}",
            where=name,
            remedy="install the package that it needs, or use another pipeline, or 'blank'",
        ) from None


def keywords(text: str, top_k: int, nlp: Any, ranking: Ranking = "graph") -> list[Keyword]:
    """The `top_k` objects that a text is about, best first.

    Args:
        text: the preferred response.
        top_k: maximum number.
        nlp: a pipeline from `pipeline`; the docstrings of the rankings say what they use.
        ranking: by MFPO's graph of words, or by MultipartiteRank of noun phrases.
    """
    doc = nlp(text)
    if not _is_tagged(doc):
        _lemmatise_capitals(doc, nlp)
    return _by_graph(doc, top_k, has_vectors(nlp)) if ranking == "graph" else _by_multipartite_rank(doc, top_k)


def _is_tagged(doc: Any) -> bool:
    """Whether nouns are known. Pipelines of some languages (French, Spanish) set parts of speech without tags."""
    return bool(doc.has_annotation("POS"))


def _lemmatise_capitals(doc: Any, nlp: Any) -> None:
    """Give words that a lookup table left as they are the lemma of their lower-case form.

    Without a tagger, the lemma is looked up by the word as it is written. English tables have almost no words with a capital, so the
    first word of a sentence ("Dogs") would be another word than the same one elsewhere ("dogs"). German tables do have them.
    """
    from spacy.tokens import Doc

    words, spaces = [token.lower_ for token in doc], [bool(token.whitespace_) for token in doc]
    for token, lower in zip(doc, nlp(Doc(nlp.vocab, words=words, spaces=spaces)), strict=True):
        if token.lemma_ == token.text:
            token.lemma_ = lower.lemma_


def _lemma(token: Any) -> str:
    """The word that a token is a form of, in lower case."""
    return str(token.lemma_.lower())


def has_vectors(nlp: Any) -> bool:
    """Whether a pipeline has word vectors, from which the graph's sigma is computed; without them gamma is 0."""
    return bool(len(nlp.vocab.vectors))


def keyword_notes(ranking: Ranking, spacy_pipeline: str) -> dict[str, Any]:
    """How keywords were ranked, for a manifest."""
    notes: dict[str, Any] = {"ranking": ranking, "pipeline": spacy_pipeline}
    if ranking == "graph":
        constants = asdict(GraphConstants())
        if not has_vectors(pipeline(spacy_pipeline)):
            constants["gamma"] = 0.0
            notes["vectors"] = "none: the pipeline has no word vectors, so sigma is 0"
        notes["constants"] = {name.rstrip("_"): value for name, value in constants.items()}
    return notes


def _by_graph(doc: Any, top_k: int, with_vectors: bool) -> list[Keyword]:
    """Words ranked by `keyword_graph`; words that are adjacent in the text are one keyword.

    Nodes are lemmas: of nouns if the pipeline has a tagger, else of words that pass `_is_content`.
    """
    tagged = _is_tagged(doc)
    tokens = [token for token in doc if _is_content(token) and (not tagged or token.pos_ in ("NOUN", "PROPN"))]
    places: dict[str, list[int]] = {}
    vectors: dict[str, np.ndarray] = {}
    for token in tokens:
        places.setdefault(_lemma(token), []).append(token.i)
        if with_vectors:
            vectors.setdefault(_lemma(token), token.vector)
    if not places:
        return []
    lemmas = list(places)
    omega = graph_weights(
        list(places.values()), np.stack([vectors[lemma] for lemma in lemmas]) if with_vectors else None
    )
    rank = dict(zip(lemmas, graph_rank(omega), strict=True))
    chosen = set(sorted(lemmas, key=lambda lemma: (-rank[lemma], places[lemma][0]))[:top_k])
    made: dict[tuple[str, ...], Keyword] = {}
    for run in _neighbours([token for token in tokens if _lemma(token) in chosen], sure=tagged):
        words = tuple(_lemma(token) for token in run)
        # A word that is part of a longer keyword is not a keyword itself.
        if not any(set(words) <= set(other) for other in made):
            phrase = " ".join(token.lower_ for token in run)
            made[words] = Keyword(phrase, words, float(max(rank[word] for word in words)))
    return sorted(made.values(), key=lambda keyword: -keyword.weight)[:top_k]


def _neighbours(tokens: Sequence[Any], sure: bool) -> list[list[Any]]:
    """Runs of adjacent tokens in the text, longest runs first, else in order.

    Args:
        tokens: the words that were chosen, in the text's order.
        sure: they are known to be nouns. Otherwise a neighbour may be a verb ("dog sits"), and only words that are always adjacent are
        joined.
    """
    alone = Counter(_lemma(token) for token in tokens)
    pairs = Counter(
        (_lemma(left), _lemma(right)) for left, right in itertools.pairwise(tokens) if left.i + 1 == right.i
    )

    def belong_together(left: Any, right: Any) -> bool:
        first, second = _lemma(left), _lemma(right)
        beside = left.i + 1 == right.i and first != second
        return beside and (sure or pairs[first, second] == alone[first] == alone[second])

    runs: list[list[Any]] = []
    for token in tokens:
        if runs and belong_together(runs[-1][-1], token):
            runs[-1].append(token)
        else:
            runs.append([token])
    return sorted(runs, key=lambda run: (-len(run), run[0].i))


def _by_multipartite_rank(doc: Any, top_k: int) -> list[Keyword]:
    """Noun phrases, one per topic: noun chunks if the pipeline has a parser and spaCy knows the chunks of its language, else runs of
    content words."""
    has_chunks = doc.has_annotation("DEP") and doc.noun_chunks_iterator is not None
    candidates = _chunks(doc) if has_chunks else _runs(doc)
    if not candidates:
        return []
    topics = cluster([candidate.lemmas for candidate in candidates])
    weights = multipartite_rank([candidate.position for candidate in candidates], topics)
    best: dict[int, int] = {}
    for index, topic in enumerate(topics):
        if topic not in best or weights[index] > weights[best[topic]]:
            best[topic] = index
    chosen = sorted(best.values(), key=lambda index: (-weights[index], candidates[index].position))[:top_k]
    return [Keyword(candidates[index].phrase, candidates[index].lemmas, float(weights[index])) for index in chosen]


def _is_content(token: Any) -> bool:
    """Whether a word may name an object: not a stop word, and not in `_NOT_NOUNS`."""
    return bool(
        token.is_alpha and not token.is_stop and token.lower_ not in _NOT_NOUNS and _lemma(token) not in _NOT_NOUNS
    )


def _chunks(doc: Any) -> list[KeywordCandidate]:
    candidates = []
    for chunk in doc.noun_chunks:
        words = [token for token in chunk if not token.is_stop and token.is_alpha and token.lower_ not in _NOT_NOUNS]
        if words:
            candidates.append(
                KeywordCandidate(
                    " ".join(token.lower_ for token in words),
                    tuple(_lemma(token) for token in words),
                    words[0].i,
                )
            )
    return candidates


def _runs(doc: Any) -> list[KeywordCandidate]:
    """Maximal runs of words that are neither stop words nor in `_NOT_NOUNS`: the best approximation without a tagger."""
    candidates: list[KeywordCandidate] = []
    run: list[Any] = []
    for token in [*doc, None]:
        if token is not None and _is_content(token):
            run.append(token)
            continue
        if run:
            candidates.append(
                KeywordCandidate(" ".join(word.lower_ for word in run), tuple(_lemma(word) for word in run), run[0].i)
            )
        run = []
    return candidates


def cluster(lemmas: Sequence[Sequence[str]]) -> list[int]:
    """A topic number for each candidate: it joins the first topic whose first candidate shares half of its lemmas."""
    heads: list[set[str]] = []
    topics: list[int] = []
    for words in map(set, lemmas):
        match = next(
            (number for number, head in enumerate(heads) if len(words & head) * 2 >= max(len(words), len(head))), None
        )
        if match is None:
            heads.append(words)
            match = len(heads) - 1
        topics.append(match)
    return topics


def multipartite_rank(positions: Sequence[int], topics: Sequence[int], alpha: float = 1.1) -> np.ndarray:
    """Weights of candidates, summing to 1; each has one position (the module's docstring compares that with the paper).

    Args:
        positions: index of the first token of each candidate in the text, where punctuation counts.
        topics: its topic; candidates of one topic are not linked.
        alpha: strength of the boost of a topic's first candidate.
    """
    places, topic = np.asarray(positions), np.asarray(topics)
    apart = topic[:, None] != topic[None, :]
    weights = np.where(apart, 1 / np.maximum(1, np.abs(places[:, None] - places[None, :])), 0.0)  # [from, to]
    boosted = weights.copy()
    for first in {topics.index(one) for one in topics}:
        # Eq. 2: the first candidate's incoming edges get the weights of edges to the others of its topic.
        siblings = np.flatnonzero((topic == topic[first]) & (np.arange(len(topic)) != first))
        boosted[:, first] += alpha * math.exp(1 / (positions[first] + 1)) * weights[:, siblings].sum(1)
    return _pagerank(boosted)


def _pagerank(weights: np.ndarray) -> np.ndarray:
    """PageRank of a weighted directed graph, by power iteration; nodes without links spread evenly."""
    count = len(weights)
    sums = weights.sum(1, keepdims=True)
    step = np.where(sums > 0, weights / np.where(sums > 0, sums, 1), 1 / count)
    rank = np.full(count, 1 / count)
    for _ in range(200):
        following = (1 - _DAMPING) / count + _DAMPING * rank @ step
        if np.abs(following - rank).sum() < 1e-12:
            break
        rank = following
    return rank / rank.sum()
