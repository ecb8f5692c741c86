"""What is in a picture: twenty COCO classes, their colours and places, and how often they occur together.

Eight pairs co-occur in the training pictures, and the training captions name the absent partner of a lone first object, as
captions on the web do: from them the base model learns to hallucinate. The test pictures break the co-occurrence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "preference", "validation", "test"]
Box = tuple[int, int, int, int]
SceneMaker = Callable[[int, Split, int], list["Scene"]]
"""The first scenes of a split: seed of the world, split, number of scenes."""

CLASSES = (
    "fork",
    "knife",
    "dining table",
    "chair",
    "dog",
    "frisbee",
    "laptop",
    "mouse",
    "car",
    "traffic light",
    "couch",
    "cat",
    "person",
    "umbrella",
    "boat",
    "bird",
    "cup",
    "pizza",
    "clock",
    "book",
)
PAIRS = tuple(zip(CLASSES[0:16:2], CLASSES[1:16:2], strict=True))
FREE = CLASSES[16:]
PARTNER = dict(PAIRS)
"""First of a pair -> second, which captions name although it is absent."""
BIAS = dict(zip(PARTNER, (0.62, 0.66, 0.70, 0.75, 0.80, 0.85, 0.90, 0.94), strict=True))
"""How often a biased caption names the absent partner of a lone first object."""
COLOURS = {
    "red": (208, 48, 44),
    "blue": (44, 92, 208),
    "green": (46, 148, 66),
    "yellow": (226, 190, 40),
    "purple": (136, 62, 168),
    "brown": (128, 84, 48),
}
SIDE = 72
"""Width and height of a picture in pixels."""
VARIANTS = 30
MAX_THINGS = 4
_TOGETHER = {
    "train": (0.62, 0.22, 0.16),
    "preference": (0.62, 0.22, 0.16),
    "validation": (0.30, 0.45, 0.25),
    "test": (0.30, 0.45, 0.25),
}
"""Probability of both of a pair, the first alone, the second alone."""


@dataclass(frozen=True)
class Thing:
    """One drawn object: class, colour, and its square of `size` pixels with the corner at (x, y)."""

    name: str
    colour: str
    size: int
    x: int
    y: int
    variant: int

    @property
    def box(self) -> Box:
        """(left, top, right, bottom) in pixels."""
        return (self.x, self.y, self.x + self.size, self.y + self.size)

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box."""
        return (self.x + self.size / 2, self.y + self.size / 2)


@dataclass(frozen=True)
class Scrap:
    """A drawn shape that is no object: an ellipse, a triangle or a stroke in a box."""

    shape: Literal["ellipse", "triangle", "stroke"]
    colour: tuple[int, int, int]
    box: Box


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    Attributes:
        index: its number in the split.
        things: the objects that captions and questions are about, at most one of a class; a later one is in front of an earlier one.
        background, noise: kind of the background, and seed of its colours and its grain.
        contrast: below 1 its objects are pale, which makes some scenes hard.
        unsaid: objects that no caption and no question is about, of other classes than `things`, behind them; several may be of one class.
            They are in the picture and in its annotations.
        clutter: shapes behind all objects.
    """

    index: int
    things: tuple[Thing, ...]
    background: int
    noise: int
    contrast: float
    unsaid: tuple[Thing, ...] = ()
    clutter: tuple[Scrap, ...] = ()

    @property
    def drawn(self) -> tuple[Thing, ...]:
        """All objects, from back to front."""
        return (*self.unsaid, *self.things)

    @property
    def said(self) -> frozenset[str]:
        """Classes that captions and questions are about."""
        return frozenset(thing.name for thing in self.things)

    @property
    def names(self) -> frozenset[str]:
        """Classes in the scene."""
        return frozenset(thing.name for thing in self.drawn)

    @property
    def ordered(self) -> list[Thing]:
        """Objects from left to right."""
        return sorted(self.things, key=lambda thing: (thing.centre, thing.name))

    @property
    def tempting(self) -> list[str]:
        """Absent partners of present objects, which the base model tends to hallucinate."""
        return [PARTNER[thing.name] for thing in self.ordered if PARTNER.get(thing.name, thing.name) not in self.names]


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key alone (SHA-256), the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def make_scene(seed: int, split: Split, index: int) -> Scene:
    """The scene with this number in this split of the world with this seed. Splits share no randomness."""
    rng = generator("scene", seed, split, index)
    hardness = rng.random()
    sizes = (20, 24) if hardness > 0.75 else (23, 32)
    things: list[Thing] = []
    names = draw_names(rng, split)
    for position in rng.permutation(len(names)):
        for attempt in range(60):
            size = 20 if attempt > 30 else int(rng.integers(*sizes))
            x, y = (int(value) for value in rng.integers(0, SIDE - size + 1, 2))
            if all(_apart((x, y, x + size, y + size), thing.box) for thing in things):
                colour = str(rng.choice(list(COLOURS)))
                things.append(Thing(names[position], colour, size, x, y, int(rng.integers(VARIANTS))))
                break  # a thing that found no free place in sixty attempts is left out of the scene
    contrast = 0.65 if hardness > 0.88 else 1.0
    return Scene(index, tuple(things), int(rng.integers(3)), int(rng.integers(2**31)), contrast)


def make_scenes(seed: int, split: Split, count: int) -> list[Scene]:
    """The first `count` scenes of a split."""
    return [make_scene(seed, split, index) for index in range(count)]


def draw_names(rng: np.random.Generator, split: Split) -> list[str]:
    """Classes of a scene: one or two pairs, whole or broken, and up to two objects that belong to no pair."""
    names: list[str] = []
    for pair in rng.choice(len(PAIRS), 1 if rng.random() < 0.6 else 2, replace=False):
        first, second = PAIRS[pair]
        names += ((first, second), (first,), (second,))[int(rng.choice(3, p=_TOGETHER[split]))]
    free = int(rng.choice(3, p=(0.45, 0.40, 0.15)))
    names += [FREE[choice] for choice in rng.choice(len(FREE), free, replace=False)]
    return names[:MAX_THINGS]


def _apart(one: Box, other: Box) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
