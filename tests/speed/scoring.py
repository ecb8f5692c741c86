"""Measurements of the scorers, on made-up responses of the official sizes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.amber import AMBER, AmberSettings
from benchmarks.nouns import Vectors
from benchmarks.objects import make_extractor, read_vocabulary
from benchmarks.objects.nltk_parser import missing_data
from benchmarks.pope import POPE, SPLITS
from harness.core.stats import Counts
from harness.core.types import ImageRef, Item, Response

_PROSE = (
    "the image shows a view of several things near and behind it with some light from above while another one stands "
    "quietly there next to many small old bright details that make this scene look calm and pleasant to everyone"
)


def descriptions(count: int, words: int = 90, seed: int = 0) -> list[str]:
    """Prose of so many words with an object in every eighth place, seeded."""
    rng = random.Random(seed)
    filler = _PROSE.split()
    objects = [word for word in read_vocabulary().words if " " not in word]
    texts = []
    for _ in range(count):
        text = [rng.choice(objects) if place % 8 == 3 else rng.choice(filler) for place in range(words)]
        sentences = [" ".join(text[start : start + 15]).capitalize() + "." for start in range(0, words, 15)]
        texts.append(" ".join(sentences))
    return texts


def whole_suites() -> Iterator[tuple[str, float, float]]:
    """(what, seconds, bound) of AMBER's 15,220 and POPE's 9,000 answers, from items and responses to metrics."""
    rng = random.Random(0)
    vocabulary = sorted({word for word in read_vocabulary().words if " " not in word})
    associations = {word: rng.sample(vocabulary, 3) for word in vocabulary}
    shared: dict[str, Any] = {
        "associations": associations,
        "vocabulary": frozenset(vocabulary),
        "safe": frozenset(vocabulary[:9]),
    }
    items, responses = [], {}
    for number, text in enumerate(descriptions(1004), 1):
        chosen = rng.sample(vocabulary, 14)
        truth = {"id": number, "type": "generative", "truth": chosen[:8], "hallu": chosen[8:]}
        items.append(Item(str(number), "", ImageRef(name="x"), str(number), {"annotation": truth, **shared}))
        responses[str(number)] = Response(str(number), text)
    for number in range(1005, 15_221):
        truth = {"id": number, "type": "discriminative-attribute-state", "truth": rng.choice(("yes", "no"))}
        items.append(Item(str(number), "", ImageRef(name="x"), str(number % 1004), {"annotation": truth, **shared}))
        responses[str(number)] = Response(str(number), rng.choice(("Yes", "No", "yes.")))
    nouns = "spacy" if missing_data("nouns") else "nltk"
    for finder in dict.fromkeys(("spacy", nouns)):
        benchmark = AMBER(AmberSettings(nouns=finder, similarity="exact"))
        benchmark.score(items[:3], responses)
        yield f"AMBER, 15,220 responses ({finder} nouns)", _seconds(benchmark, items, responses), 3.0
    questions = [
        Item(f"{split}/{n}", "", ImageRef(name="x"), str(n // 6), {"split": split, "label": rng.choice(("yes", "no"))})
        for split in SPLITS
        for n in range(3000)
    ]
    answers = {item.id: Response(item.id, rng.choice(("Yes", "No", "No, there is no dog."))) for item in questions}
    yield "POPE, 9,000 answers", _seconds(POPE(), questions, answers), 0.2


def _seconds(benchmark: Any, items: list[Item], responses: dict[str, Response]) -> float:
    """The better of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        totals = Counts.of(benchmark.score(items, responses)).totals()
        benchmark.aggregate(totals)
        benchmark.official(totals)
        times.append(time.perf_counter() - start)
    return min(times)


def extraction() -> Iterator[tuple[str, float]]:
    """(what, responses of 90 words a second) of each extractor."""
    texts = descriptions(6000)
    for name in ("spacy", *(() if missing_data() else ("nltk",))):
        extractor = make_extractor(name, read_vocabulary())
        extractor.mentions(texts[:100])
        start = time.perf_counter()
        extractor.mentions(texts)
        yield f"CHAIR extraction, {name}", len(texts) / (time.perf_counter() - start)


def similarity() -> float:
    """How many times faster the pairs of 1,004 descriptions are compared than by one `nlp(a).similarity(nlp(b))` a pair.

    The pipeline has the parts of a full one (tok2vec, tagger, parser, entities) with random weights, and random vectors.
    """
    import numpy as np
    import spacy

    rng = random.Random(0)
    words = sorted({word for word in read_vocabulary().words if " " not in word})[:240]
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    nlp.add_pipe("tagger").add_label("NN")  # type: ignore[attr-defined]
    nlp.add_pipe("parser").add_label("nsubj")  # type: ignore[attr-defined]
    nlp.add_pipe("ner").add_label("ORG")  # type: ignore[attr-defined]
    nlp.initialize()
    vectors = np.random.default_rng(0).standard_normal((len(words), 300)).astype("float32")
    for word, vector in zip(words, vectors, strict=True):
        nlp.vocab.set_vector(word, vector)
    pairs = [(rng.choice(words), rng.choice(words)) for _ in range(64_809)]
    start = time.perf_counter()
    for first, other in pairs[:300]:
        nlp(first).similarity(nlp(other))
    naive = (time.perf_counter() - start) / 300 * len(pairs)
    similar = Vectors(nlp)
    start = time.perf_counter()
    similar.prepare({one for one, _ in pairs}, {other for _, other in pairs})
    for first, other in pairs:
        similar(first, other)
    return naive / (time.perf_counter() - start)
