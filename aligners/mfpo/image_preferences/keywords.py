"""Keywords of a response: its noun phrases, ranked by MultipartiteRank.

Candidates that share a stem form a topic; candidates of different topics are linked in both directions with the sum of the
reciprocal distances between their positions; the first candidate of a topic is boosted; PageRank ranks them.

Source: Boudin, NAACL 2018, eq. 1 and 2.
Differences: topics are candidates whose lemma sets overlap by at least half (the paper clusters stems at a similarity of 0.25
by average linkage); texts here are a few sentences, where this gives the same topics.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
"""Words (forms or lemmas) that are not taken for things where no tagger is installed: verbs and colours of descriptions, places, and
words for the image itself."""


@dataclass(frozen=True)
class Keyword:
    """A phrase as it stands in the text, its lemmas, and its weight."""

    phrase: str
    lemmas: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Candidate:
    """A noun phrase: text, content lemmas, and the position of its first word."""

    phrase: str
    lemmas: tuple[str, ...]
    position: int


@functools.cache
def pipeline(name: str) -> Any:
    """A spaCy pipeline: "blank" is the English tokenizer with the lookup lemmatizer, anything else an installed package.

    Raises:
        HarnessError: the package is not installed.
    """
    import spacy

    from harness.errors import HarnessError

    if name == "blank":
        nlp = spacy.blank("en")
        nlp.add_pipe("lemmatizer", config={"mode": "lookup"})
        nlp.initialize()
        return nlp
    try:
        return spacy.load(name, disable=["ner"])
    except OSError:
        raise HarnessError(
            f"the spaCy pipeline '{name}' is not installed", remedy=f"install the package {name}, or use 'blank'"
        ) from None


def keywords(text: str, top_k: int, nlp: Any) -> list[Keyword]:
    """The `top_k` phrases that a text is about, best first.

    Args:
        text: the preferred response.
        top_k: how many at the most.
        nlp: a pipeline from `pipeline`; with a parser its noun chunks are the candidates, else runs of content words.
    """
    doc = nlp(text)
    candidates = _chunks(doc) if doc.has_annotation("DEP") else _runs(doc)
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


def _chunks(doc: Any) -> list[Candidate]:
    found = []
    for chunk in doc.noun_chunks:
        words = [token for token in chunk if not token.is_stop and token.is_alpha and token.lower_ not in _NOT_NOUNS]
        if words:
            found.append(
                Candidate(
                    " ".join(token.lower_ for token in words),
                    tuple(token.lemma_.lower() for token in words),
                    words[0].i,
                )
            )
    return found


def _runs(doc: Any) -> list[Candidate]:
    """Maximal runs of words that are neither stop words nor in `_NOT_NOUNS`: without a tagger the best that can be said."""
    found: list[Candidate] = []
    run: list[Any] = []
    for token in [*doc, None]:
        if (
            token is not None
            and token.is_alpha
            and not token.is_stop
            and token.lower_ not in _NOT_NOUNS
            and token.lemma_.lower() not in _NOT_NOUNS
        ):
            run.append(token)
            continue
        if run:
            found.append(
                Candidate(" ".join(word.lower_ for word in run), tuple(word.lemma_.lower() for word in run), run[0].i)
            )
        run = []
    return found


def cluster(lemmas: Sequence[Sequence[str]]) -> list[int]:
    """A topic number for each candidate: it joins the first topic with whose first candidate it shares half of its lemmas."""
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
    """Weights of candidates, summing to 1.

    Args:
        positions: word position of each candidate in the text.
        topics: its topic; candidates of one topic are not linked.
        alpha: strength of the boost of a topic's first candidate.
    """
    places, topic = np.asarray(positions), np.asarray(topics)
    apart = topic[:, None] != topic[None, :]
    weights = np.where(apart, 1 / np.maximum(1, np.abs(places[:, None] - places[None, :])), 0.0)  # [from, to]
    boosted = weights.copy()
    for first in {topics.index(one) for one in topics}:
        # Eq. 2: the first candidate's incoming edges get what leads to the others of its topic.
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
