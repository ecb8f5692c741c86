"""Finding images that training data and evaluation sets share: by COCO number, by content, and by appearance.

POPE, CHAIR and Object HalBench ask about images of COCO, and most preference data is made from COCO too. The number in a file's name
identifies a COCO image even if it was scaled or saved again; equal bytes identify any image; and a perceptual hash identifies a scaled
copy without a name: the sign of each brightness step between neighbours in a picture of 17 by 16 points (256 bits), which scaling and
compression hardly change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core import registry
from harness.core.contract import items_of
from harness.core.errors import BadInputError
from harness.core.plugins import attributed
from harness.core.progress import progress
from harness.core.types import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

_COCO = re.compile(r"COCO_(?:train|val|test)20\d\d_(\d{12})(?!\d)|(?<!\d)(\d{12})(?!\d)")
_LARGEST_COCO = 600_000
_NEAR = 32
"""Number of bits of 256 in which copies of an image may differ. No two of 57 photographs differ in fewer than 88; copies at half the
size, saved again as JPEG of quality 40, differ in at most 24."""
_FLAT = 12
"""A picture with fewer steps in one direction is too plain to be recognised by its hash."""


@dataclass(frozen=True)
class EvaluationSet:
    """The images of a suite on this machine. `missing` is the reason if there are none."""

    suite: str
    images: Mapping[str, ImageRef] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Overlap:
    """What of the training data a suite also has, by how it was recognised. One image may occur under several names.

    Attributes:
        suite: its name.
        of: number of the suite's images.
        by_coco_number, by_content, by_look: names of training images.
        missing: why the suite's images are not known.
        contents: each of these names -> the image's fingerprint.
    """

    suite: str
    of: int
    by_coco_number: tuple[str, ...] = ()
    by_content: tuple[str, ...] = ()
    by_look: tuple[str, ...] = ()
    missing: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def all(self) -> list[str]:
        """Every name of a shared image once."""
        return sorted({*self.by_coco_number, *self.by_content, *self.by_look})

    def distinct(self, names: Iterable[str]) -> list[str]:
        """The first name of each different image among some of the names, in their order."""
        first: dict[str, str] = {}
        for name in names:
            first.setdefault(self.contents[name], name)
        return list(first.values())


def evaluation_sets(root: Path) -> list[EvaluationSet]:
    """The images of all registered benchmarks whose questions are below a data root."""
    sets = []
    for name in registry.entries("benchmarks"):
        try:
            with attributed():  # mistakes of a plugin that is not used must not stop the command
                items = items_of(registry.load("benchmarks", name)(), root / name)
        except BadInputError as error:
            sets.append(EvaluationSet(name, missing=error.problem))
            continue
        images = {str(item.image.path or item.image.name or item.group): item.image for item in items}
        sets.append(EvaluationSet(name, images))
    return sets


def coco_number(name: str) -> int | None:
    """The COCO number in a file's name, or None."""
    for match in _COCO.finditer(name):
        number = int(match.group(1) or match.group(2))
        if match.group(1) or number < _LARGEST_COCO:
            return number
    return None


def look(image: Image) -> np.ndarray | None:
    """The perceptual hash of an image, [4] uint64; None for a picture that is too plain."""
    small = np.asarray(image.convert("L").resize((17, 16), resample=3), dtype=np.int16)
    steps = (small[:, 1:] > small[:, :-1]).ravel()
    if not _FLAT <= int(steps.sum()) <= steps.size - _FLAT:
        return None
    bits: np.ndarray = np.packbits(steps).view(np.uint64)
    return bits


def overlaps(training: Mapping[str, ImageRef], sets: Sequence[EvaluationSet]) -> list[Overlap]:
    """Compare every training image with every suite.

    Args:
        training: images by the name to report; this name or the image's own may contain a COCO number.
        sets: the suites.

    Raises:
        BadInputError: a training image cannot be read.
    """
    here = {suite.suite: {key: image for key, image in suite.images.items() if _is_here(image)} for suite in sets}
    numbers = {name: _number(name, image) for name, image in training.items()}
    digests: dict[str, str] = {}
    looks: dict[str, np.ndarray] = {}
    if any(here.values()):
        digests = {name: image.fingerprint() for name, image in training.items()}
        looks = _looks(training, "hashing the training images")
    compared = []
    for suite in sets:
        known = {_number(key, image) for key, image in suite.images.items()} - {None}
        contents = {image.fingerprint() for image in here[suite.suite].values()}
        seen = _looks(here[suite.suite], f"how {suite.suite}'s images look") if here[suite.suite] else {}
        overlap = Overlap(
            suite.suite,
            len(suite.images),
            tuple(name for name, number in numbers.items() if number in known),
            tuple(name for name, digest in digests.items() if digest in contents),
            tuple(_near(looks, seen)),
            suite.missing,
        )
        compared.append(replace(overlap, contents={name: training[name].fingerprint() for name in overlap.all}))
    return compared


def _number(name: str, image: ImageRef) -> int | None:
    return next((number for one in (name, image.name, str(image.path or "")) if (number := coco_number(one))), None)


def _is_here(image: ImageRef) -> bool:
    return image.path.is_file() if image.path else image.data is not None or image.source is not None


def _looks(images: Mapping[str, ImageRef], title: str) -> dict[str, np.ndarray]:
    """Hashes of images; images that cannot be opened are left out, because other checks report them."""
    looks: dict[str, np.ndarray] = {}
    by_content: dict[str, Any] = {}
    with progress(title, len(images)) as advance:
        for name, image in images.items():
            content = _try(image.fingerprint)
            if content is not None and content not in by_content:
                by_content[content] = _try(lambda image=image: look(image.open()))  # type: ignore[misc]
            if by_content.get(content) is not None:
                looks[name] = by_content[content]
            advance()
    return looks


def _try(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BadInputError:
        return None


def _near(looks: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> list[str]:
    if not looks or not others:
        return []
    names, hashes, second = list(looks), np.stack(list(looks.values())), np.stack(list(others.values()))
    near: list[str] = []
    for start in range(0, len(names), 512):
        block = hashes[start : start + 512, None] ^ second[None]
        distance = np.bitwise_count(block).sum(-1, dtype=np.int64)
        near += [names[start + row] for row in np.flatnonzero(distance.min(-1) <= _NEAR)]
    return near
