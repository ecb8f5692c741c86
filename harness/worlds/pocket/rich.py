"""Scenes with more in them than captions tell, after the statistics of COCO.

Captions and questions are about the same one to four objects as in the plain scenes, drawn without regard to whether they cover each
other. Behind them are objects of other classes that nobody mentions, most of them small and several of a class, and shapes that are no
objects. They are in the annotations, as in COCO: naming one is no hallucination, leaving it out costs recall.

What is known of COCO, and where from:

- 7.7 objects of 3.5 classes in a picture on average (Lin et al., "Microsoft COCO: Common Objects in Context", arXiv 1405.0312, section 5);
- 41 % of the objects are small (an area below 32² pixels), 34 % medium and 24 % large (above 96² pixels), as the page about COCO's
  detection evaluation says; in a picture of 640 x 480 pixels these are 5.8 % and 17.3 % of its side (the root of its area).

The means and the sizes of the unmentioned objects follow them; `tests/harness/worlds/test_rich.py` measures what comes out. The mentioned
ones are all large, because a caption's objects must be recognisable at this resolution, so the share of large objects is above COCO's.
No published figure on how much COCO's objects cover each other was at hand: that at least `_VISIBLE` of a mentioned and
`_VISIBLE_BEHIND` of an unmentioned object's box is free is this project's choice, as are the number and the size of the other shapes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from harness.worlds.pocket.scenes import (
    CLASSES,
    COLOURS,
    PARTNER,
    SIDE,
    VARIANTS,
    Box,
    Scene,
    Scrap,
    Split,
    Thing,
    draw_names,
    generator,
)

SMALL, LARGE = 32 / (640 * 480) ** 0.5, 96 / (640 * 480) ** 0.5
"""Limits of COCO's medium objects, as shares of the picture's side."""
_MEDIUM_OF_UNSAID = 34 / (34 + 41)
_SMALLEST = 3
_EXTRA_CLASSES = (0.42, 0.38, 0.20)
"""Probability of no, one and two classes of unmentioned objects."""
_EXTRA = 8.3
"""Mean number of unmentioned objects, where there are any."""
_MOST_EXTRA = 30
_VISIBLE, _VISIBLE_BEHIND = 0.55, 0.4
_SHAPES: tuple[Literal["ellipse", "triangle", "stroke"], ...] = ("ellipse", "triangle", "stroke")


def make_rich_scenes(seed: int, split: Split, count: int) -> list[Scene]:
    """The first `count` scenes of a split. Splits share no randomness."""
    return [make_rich_scene(seed, split, index) for index in range(count)]


def make_rich_scene(seed: int, split: Split, index: int) -> Scene:
    """The scene with this number in this split of the world with this seed."""
    rng = generator("rich scene", seed, split, index)
    hardness = rng.random()
    ground = _Ground()
    things: list[Thing] = []
    names = draw_names(rng, split)
    for position in rng.permutation(len(names)):
        for attempt in range(60):
            size = 20 if attempt > 40 else int(rng.integers(20, 25 if hardness > 0.75 else 41))
            thing = _thing(rng, names[position], size)
            if ground.put_in_front(thing.box, _VISIBLE):
                things.append(thing)
                break  # as in the plain scenes, a thing without a place is left out
    unsaid = _unsaid(rng, frozenset(names), ground)
    clutter = tuple(_scrap(rng) for _ in range(int(rng.integers(3, 9))))
    contrast = 0.65 if hardness > 0.88 else 1.0
    return Scene(index, tuple(things), int(rng.integers(3)), int(rng.integers(2**31)), contrast, tuple(unsaid), clutter)


class _Ground:
    """Which object is seen at every pixel."""

    def __init__(self) -> None:
        self.seen = np.zeros((SIDE, SIDE), np.int16)
        self.areas: list[int] = []

    def put_in_front(self, box: Box, visible: float) -> bool:
        """Put an object in front of the others, unless less than this share of one of them would be seen."""
        left, top, right, bottom = box
        after = self.seen.copy()
        after[top:bottom, left:right] = len(self.areas) + 1
        counts = np.bincount(after.ravel(), minlength=len(self.areas) + 2)
        if any(counts[number] < visible * area for number, area in enumerate(self.areas, 1)):
            return False
        self.seen = after
        self.areas.append((right - left) * (bottom - top))
        return True

    def put_behind(self, box: Box, visible: float) -> bool:
        """Put an object behind the others, unless less than this share of it would be seen."""
        left, top, right, bottom = box
        free = self.seen[top:bottom, left:right] == 0
        if free.mean() < visible:
            return False
        self.areas.append(free.size)
        self.seen[top:bottom, left:right][free] = len(self.areas)
        return True


def _unsaid(rng: np.random.Generator, said: frozenset[str], ground: _Ground) -> list[Thing]:
    """Unmentioned objects, from back to front. None is the partner of a mentioned one, so that captions invent as often as in the plain
    scenes."""
    count = int(rng.choice(3, p=_EXTRA_CLASSES))
    if not count:
        return []
    partners = {other for pair in PARTNER.items() if said & set(pair) for other in pair}
    free = [name for name in CLASSES if name not in said | partners]
    names = [free[place] for place in rng.choice(len(free), count, replace=False)]
    total = min(_MOST_EXTRA, count + int(rng.geometric(1 / (_EXTRA - count + 1))) - 1)
    things: list[Thing] = []
    for number in range(total):
        name = names[number % count] if number < count else names[int(rng.integers(count))]
        low, high = (SMALL, LARGE) if rng.random() < _MEDIUM_OF_UNSAID else (_SMALLEST / SIDE, SMALL)
        size = max(_SMALLEST, round(SIDE * float(np.exp(rng.uniform(np.log(low), np.log(high))))))
        for _ in range(20):
            thing = _thing(rng, name, size)
            if ground.put_behind(thing.box, _VISIBLE_BEHIND):
                things.append(thing)
                break
    return things[::-1]


def _thing(rng: np.random.Generator, name: str, size: int) -> Thing:
    x, y = (int(value) for value in rng.integers(0, SIDE - size + 1, 2))
    return Thing(name, str(rng.choice(list(COLOURS))), size, x, y, int(rng.integers(VARIANTS)))


def _scrap(rng: np.random.Generator) -> Scrap:
    width, height = (int(value) for value in rng.integers(4, 13, 2))
    x, y = int(rng.integers(0, SIDE - width)), int(rng.integers(0, SIDE - height))
    red, green, blue = (int(value) for value in rng.integers(40, 221, 3))
    return Scrap(_SHAPES[int(rng.integers(3))], (red, green, blue), (x, y, x + width, y + height))
