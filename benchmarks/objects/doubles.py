"""The official table of double words: pairs that count as one word, in some cases a different one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.objects.vocabulary import Vocabulary

_PAIRS = (
    "motor bike",
    "motor cycle",
    "air plane",
    "traffic light",
    "street light",
    "traffic signal",
    "stop light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "suit case",
    "sports ball",
    "baseball bat",
    "baseball glove",
    "tennis racket",
    "wine glass",
    "hot dog",
    "cell phone",
    "mobile phone",
    "teddy bear",
    "hair drier",
    "potted plant",
    "laptop computer",
    "home plate",
    "train track",
)
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
_OTHERS = {
    "passenger jet": "jet",
    "passenger train": "train",
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}


def double_words(vocabulary: Vocabulary) -> dict[str, str]:
    """Pair of words -> the word that it is, with the vocabulary's own pairs."""
    doubles = {pair: pair for pair in _PAIRS}
    doubles |= {word: word for word in vocabulary.words if len(word.split()) == 2}
    for animal in ANIMALS:
        doubles[f"baby {animal}"] = doubles[f"adult {animal}"] = animal
    return doubles | _OTHERS


def found_doubles(words: Sequence[str], doubles: Mapping[str, str]) -> list[str]:
    """The double words of a phrase, from the left, no word used twice."""
    pairs: list[str] = []
    place = 0
    while place + 1 < len(words):
        pair = doubles.get(f"{words[place]} {words[place + 1]}")
        if pair:
            pairs.append(pair)
        place += 2 if pair else 1
    return pairs
