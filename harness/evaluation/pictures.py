"""The changes of a picture that show whether answers depend on it: diffusion noise, a grey picture, another item's picture.

Noise: Leng et al., CVPR 2024 (VCD), eq. 2, on the scale of CLIP's normalised input. Its use: docs/diagnostics.md.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from harness.core.diffusion import STEPS, Diffusion, random_numbers
from harness.core.errors import BadInputError, shown
from harness.core.files import sha256_json
from harness.core.types import NO_IMAGE, ImageRef, Item

SEED = 0
"""Seed of the noise and of the exchange of pictures; constant, so that runs are compared on the same pictures."""
_GREY = 128
_VERSION = 1
"""Part of a changed picture's identity; raised to invalidate answers to pictures of an earlier version."""
_WORDS = "steps from 0 to 999, blank, shuffled; comma-separated, each once"


@dataclass(frozen=True)
class Change:
    """One change of every picture of a suite; `step` is VCD's diffusion step, for noise only."""

    kind: Literal["noise", "blank", "shuffled"]
    step: int | None = None

    @classmethod
    def parse_list(cls, text: str) -> list[Self]:
        """From `0,250,blank`.

        Raises:
            BadInputError: a step outside of 0 to 999, an unknown word, or a change that is named twice.
        """
        changes: list[Self] = []
        for part in text.split(","):
            word = part.strip()
            if word in ("blank", "shuffled"):
                change = cls(word)  # type: ignore[arg-type]
            elif re.fullmatch(r"[0-9]{1,3}", word):
                change = cls("noise", int(word))
            elif re.fullmatch(r"[+-]?[0-9]{1,30}", word):
                raise BadInputError(
                    f"--noise: step {word} does not exist; VCD's schedule has steps 0 to {STEPS - 1}",
                    remedy=f"--noise takes {_WORDS}",
                )
            else:
                raise BadInputError(
                    f"--noise: {shown(word, 80)} is not a known change of a picture", remedy=f"it takes {_WORDS}"
                )
            if change in changes:
                raise BadInputError(f"--noise names {change.label} twice", remedy="name each change once")
            changes.append(change)
        return changes

    @property
    def label(self) -> str:
        """As tables show it."""
        return f"noise {self.step}" if self.kind == "noise" else self.kind

    @property
    def word(self) -> str:
        """The user's word for it, and the name of its folder."""
        return str(self.step) if self.kind == "noise" else self.kind

    @property
    def _diffusion(self) -> Diffusion:
        assert self.step is not None
        return Diffusion(self.step, "vcd", "clip")

    def about(self) -> dict[str, Any]:
        """Value for a score record: everything that determines the changed pictures."""
        record: dict[str, Any] = {"change": self.word, "kind": self.kind, "seed": SEED, "version": _VERSION}
        if self.kind == "noise":
            how = self._diffusion
            record |= {"step": how.step, "schedule": how.schedule, "scale": how.scale, "alpha_bar": how.kept}
        return record

    def items(self, items: Sequence[Item], pool: Sequence[ImageRef], suite: str) -> list[Item]:
        """The same questions about the changed pictures.

        Args:
            items: those that are asked; one with `NO_IMAGE` stays as it is.
            pool: all pictures of the whole suite, from which `shuffled` takes another one.
            suite: its name, for errors.

        Raises:
            BadInputError: no item has a picture, one's picture is missing or cannot be read, or there is no other picture.
        """
        with_picture = [item for item in items if item.image != NO_IMAGE]
        lost = [item.id for item in with_picture if item.image.absent]
        if lost or not with_picture:
            which = f" for the item {shown(lost[0], 80)}" if lost else ""
            raise BadInputError(
                f"--noise changes pictures, and {suite} has none{which}", remedy="leave out --noise or the suite"
            )
        made: dict[str, ImageRef] = {}  # all questions about a picture share one reference
        if self.kind == "shuffled":
            made = _others([image for image in pool if image != NO_IMAGE], suite)
        else:
            for item in with_picture:
                made.setdefault(item.image.fingerprint(), self._changed(item.image))
        made[NO_IMAGE.fingerprint()] = NO_IMAGE
        return [dataclasses.replace(item, image=made[item.image.fingerprint()]) for item in items]

    def _changed(self, image: ImageRef) -> ImageRef:
        name = f"{image.name or image.path or 'picture'} ({self.label})"
        if self.kind == "blank":
            size = image.size()
            return ImageRef(name=name, source=_Blank(size), digest=sha256_json(["blank", _VERSION, *size]))
        of = image.fingerprint()
        return ImageRef(name=name, source=_Noised(image, self._diffusion), digest=sha256_json([self.about(), of]))


def _others(pool: Sequence[ImageRef], suite: str) -> dict[str, ImageRef]:
    """Fingerprint of a picture -> the picture shown instead: its successor in a seeded order, so that each is used once."""
    known = {image.fingerprint(): image for image in pool}
    if len(known) < 2:
        raise BadInputError(
            f"--noise shuffled needs another item's picture, but all pictures of {suite} are the same",
            remedy="leave out shuffled",
        )
    order = sorted(known, key=lambda fingerprint: sha256_json(["shuffled", SEED, fingerprint]))
    return {own: known[order[(place + 1) % len(order)]] for place, own in enumerate(order)}


@dataclass(frozen=True)
class _Noised:
    """A picture with noise, encoded as PNG when it is read."""

    of: ImageRef
    how: Diffusion

    def read(self) -> bytes:
        return _noised(self.of, self.how)

    def size(self) -> tuple[int, int]:
        return self.of.size()


@functools.lru_cache(maxsize=16)  # the questions about a picture follow each other
def _noised(of: ImageRef, how: Diffusion) -> bytes:
    pixels = np.asarray(of.open())
    # The step is not part of the seed: a higher step adds more of the same noise.
    rng = random_numbers(f"image reliance:{SEED}:{of.fingerprint()}")
    return _png(how.add(pixels.reshape(-1, 3), rng).reshape(pixels.shape))


@dataclass(frozen=True)
class _Blank:
    """A grey picture of a size (width, height)."""

    area: tuple[int, int]

    def read(self) -> bytes:
        return _png(np.full((self.area[1], self.area[0], 3), _GREY, np.uint8))

    def size(self) -> tuple[int, int]:
        return self.area


def _png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] as PNG: without loss, and fast, since noise does not compress."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
