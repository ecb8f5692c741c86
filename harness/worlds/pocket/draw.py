"""Draws scenes with PIL: a bank of pictograms, pasted on plain, split or graded noisy backgrounds."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from harness.worlds.pocket.scenes import COLOURS, SIDE, Scene, Scrap, generator

Colour = tuple[int, ...]
_S = 96  # pictograms are drawn at this size and scaled down
_INK = (30, 30, 34)
_GLASS = (200, 230, 245)
_PAPER = (250, 250, 246)


def _fork(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.rectangle((43, 46, 53, 94), fill=c)
    d.rectangle((28, 34, 68, 48), fill=c)
    for x in (28, 40, 52, 62):
        d.rectangle((x, 4, x + 6, 40), fill=c)


def _knife(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.polygon([(42, 4), (62, 20), (62, 58), (42, 58)], fill=(225, 225, 230), outline=_INK)
    d.rectangle((42, 58, 56, 94), fill=c)


def _dining_table(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.ellipse((2, 20, 94, 50), fill=c, outline=dark, width=3)
    d.rectangle((42, 46, 54, 84), fill=dark)
    d.rectangle((24, 82, 72, 92), fill=dark)


def _chair(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.rectangle((22, 4, 34, 92), fill=c)
    d.rectangle((22, 46, 76, 58), fill=c)
    d.rectangle((64, 56, 76, 92), fill=c)
    d.rectangle((34, 10, 40, 46), fill=dark)


def _dog(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.rectangle((20, 40, 74, 66), fill=c)
    d.rectangle((60, 18, 90, 46), fill=c)
    d.polygon([(60, 18), (70, 2), (74, 20)], fill=dark)
    d.rectangle((22, 64, 32, 92), fill=c)
    d.rectangle((62, 64, 72, 92), fill=c)
    d.line((20, 44, 4, 24), fill=c, width=7)
    d.ellipse((74, 26, 80, 32), fill=_INK)
    d.rectangle((86, 34, 95, 42), fill=_INK)


def _frisbee(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.ellipse((2, 30, 94, 68), fill=c, outline=dark, width=4)
    d.ellipse((24, 38, 72, 60), fill=light)


def _laptop(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.rectangle((16, 10, 80, 58), fill=dark)
    d.rectangle((22, 16, 74, 52), fill=(190, 225, 245))
    d.polygon([(16, 60), (80, 60), (95, 86), (1, 86)], fill=c)


def _mouse(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.ellipse((26, 30, 70, 94), fill=c, outline=dark, width=3)
    d.line((48, 32, 48, 58), fill=_INK, width=4)
    d.line((28, 58, 68, 58), fill=_INK, width=3)
    d.line((48, 30, 60, 4), fill=_INK, width=4)


def _car(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.rectangle((2, 46, 94, 72), fill=c)
    d.polygon([(20, 46), (34, 24), (66, 24), (80, 46)], fill=c)
    d.polygon([(28, 44), (37, 30), (48, 30), (48, 44)], fill=_GLASS)
    d.polygon([(52, 44), (52, 30), (64, 30), (72, 44)], fill=_GLASS)
    d.ellipse((14, 62, 36, 84), fill=_INK)
    d.ellipse((60, 62, 82, 84), fill=_INK)


def _traffic_light(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.rectangle((30, 2, 66, 72), fill=_INK)
    d.rectangle((43, 72, 53, 95), fill=c)
    d.rectangle((26, 0, 70, 5), fill=c)
    for y, lamp in ((8, (235, 60, 50)), (29, (240, 200, 50)), (50, (60, 200, 80))):
        d.ellipse((39, y, 57, y + 18), fill=lamp)


def _couch(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.rectangle((10, 28, 86, 62), fill=dark)
    d.rectangle((2, 44, 20, 82), fill=c)
    d.rectangle((76, 44, 94, 82), fill=c)
    d.rectangle((18, 56, 78, 82), fill=c)
    d.line((48, 58, 48, 80), fill=_INK, width=3)


def _cat(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.ellipse((18, 28, 78, 88), fill=c)
    d.polygon([(20, 46), (22, 6), (46, 32)], fill=c)
    d.polygon([(76, 46), (74, 6), (50, 32)], fill=c)
    d.ellipse((32, 48, 42, 60), fill=(250, 250, 160))
    d.ellipse((54, 48, 64, 60), fill=(250, 250, 160))
    d.line((2, 64, 34, 68), fill=_INK, width=3)
    d.line((62, 68, 94, 64), fill=_INK, width=3)


def _person(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.ellipse((34, 2, 62, 30), fill=(236, 190, 150))
    d.rectangle((32, 30, 64, 66), fill=c)
    d.line((32, 34, 12, 60), fill=c, width=9)
    d.line((64, 34, 84, 60), fill=c, width=9)
    d.rectangle((34, 66, 45, 94), fill=(50, 54, 90))
    d.rectangle((51, 66, 62, 94), fill=(50, 54, 90))


def _umbrella(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.pieslice((2, 6, 94, 98), 180, 360, fill=c, outline=dark, width=3)
    d.line((48, 50, 48, 88), fill=_INK, width=5)
    d.arc((34, 78, 50, 95), 0, 180, fill=_INK, width=5)
    d.line((48, 6, 30, 52), fill=dark, width=3)
    d.line((48, 6, 66, 52), fill=dark, width=3)


def _boat(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.polygon([(4, 62), (92, 62), (76, 88), (20, 88)], fill=c)
    d.line((46, 8, 46, 62), fill=_INK, width=5)
    d.polygon([(50, 8), (50, 56), (84, 56)], fill=_PAPER, outline=dark)


def _bird(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.ellipse((20, 34, 72, 70), fill=c)
    d.ellipse((60, 20, 86, 46), fill=c)
    d.polygon([(84, 30), (96, 36), (84, 40)], fill=(240, 170, 40))
    d.polygon([(34, 44), (6, 14), (58, 42)], fill=dark)
    d.line((40, 68, 36, 90), fill=_INK, width=4)
    d.line((52, 68, 54, 90), fill=_INK, width=4)
    d.ellipse((72, 28, 78, 34), fill=_INK)


def _cup(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.rectangle((16, 22, 66, 86), fill=c)
    d.arc((56, 34, 92, 72), 270, 90, fill=c, width=9)
    d.ellipse((16, 14, 66, 32), fill=light, outline=dark, width=2)


def _pizza(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.polygon([(48, 94), (6, 16), (90, 16)], fill=(240, 205, 110))
    d.rectangle((4, 6, 92, 20), fill=c)
    for x, y in ((34, 34), (58, 34), (46, 56)):
        d.ellipse((x - 7, y - 7, x + 7, y + 7), fill=(200, 50, 40))


def _clock(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.ellipse((4, 4, 92, 92), fill=c)
    d.ellipse((16, 16, 80, 80), fill=_PAPER)
    d.line((48, 48, 48, 24), fill=_INK, width=6)
    d.line((48, 48, 66, 56), fill=_INK, width=6)


def _book(d: Any, c: Colour, dark: Colour, light: Colour) -> None:
    d.polygon([(48, 22), (4, 12), (4, 78), (48, 88)], fill=c)
    d.polygon([(48, 22), (92, 12), (92, 78), (48, 88)], fill=c)
    d.polygon([(48, 28), (12, 19), (12, 70), (48, 79)], fill=_PAPER)
    d.polygon([(48, 28), (84, 19), (84, 70), (48, 79)], fill=_PAPER)
    d.line((48, 24, 48, 86), fill=_INK, width=3)


_PICTOGRAMS: dict[str, Callable[[Any, Colour, Colour, Colour], None]] = {
    "fork": _fork,
    "knife": _knife,
    "dining table": _dining_table,
    "chair": _chair,
    "dog": _dog,
    "frisbee": _frisbee,
    "laptop": _laptop,
    "mouse": _mouse,
    "car": _car,
    "traffic light": _traffic_light,
    "couch": _couch,
    "cat": _cat,
    "person": _person,
    "umbrella": _umbrella,
    "boat": _boat,
    "bird": _bird,
    "cup": _cup,
    "pizza": _pizza,
    "clock": _clock,
    "book": _book,
}


@functools.cache
def sprite(name: str, colour: str, size: int, variant: int) -> Image.Image:
    """A pictogram with transparent ground: slightly turned, mirrored or recoloured by its variant."""
    return _pictogram(name, colour, variant).resize((size, size), Image.Resampling.LANCZOS)


@functools.cache
def _pictogram(name: str, colour: str, variant: int) -> Image.Image:
    """A sprite before it is scaled; rotating is the slowest step, so it is done once for all sizes."""
    rng = generator("sprite", name, colour, variant)
    body = np.clip(np.array(COLOURS[colour]) + rng.integers(-22, 23, 3), 0, 255)
    picture = Image.new("RGBA", (_S, _S), (0, 0, 0, 0))
    shades = (body, body * 0.65, body * 0.5 + 127)
    _PICTOGRAMS[name](ImageDraw.Draw(picture), *(tuple(int(value) for value in shade) for shade in shades))
    picture = picture.rotate(float(rng.uniform(-9, 9)), Image.Resampling.BICUBIC)
    if variant % 2:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture


@functools.lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """A bank of noise fields, [64, SIDE, SIDE, 3], unit variance: new noise for every picture would take most of the time."""
    return generator("grain").standard_normal((64, SIDE, SIDE, 3), dtype=np.float32)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB, SIDE x SIDE pixels."""
    rng = generator("background", scene.noise)
    ground = np.empty((SIDE, SIDE, 3), np.float32)
    upper, lower = rng.integers(165, 246, 3), rng.integers(145, 236, 3)
    if scene.background == 0:
        ground[:] = upper
    elif scene.background == 1:
        horizon = int(rng.integers(27, 48))
        ground[:horizon], ground[horizon:] = upper, lower
    else:
        share = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None]
        ground[:] = upper * (1 - share) + lower * share
    ground += (9 if scene.background == 2 else 5) * _grain()[int(rng.integers(64))]
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8), "RGB")
    for scrap in scene.clutter:
        _scribble(ImageDraw.Draw(picture), scrap)
    for thing in scene.drawn:
        figure = sprite(thing.name, thing.colour, thing.size, thing.variant)
        alpha = figure.getchannel("A")
        mask = alpha if scene.contrast == 1 else alpha.point(lambda value: int(value * scene.contrast))
        picture.paste(figure, (thing.x, thing.y), mask)
    return picture


def _scribble(d: Any, scrap: Scrap) -> None:
    left, top, right, bottom = scrap.box
    if scrap.shape == "ellipse":
        d.ellipse(scrap.box, fill=scrap.colour)
    elif scrap.shape == "triangle":
        d.polygon([(left, bottom), ((left + right) // 2, top), (right, bottom)], fill=scrap.colour)
    else:
        d.line(scrap.box, fill=scrap.colour, width=2)


def png(picture: Image.Image) -> bytes:
    """PNG bytes of a picture."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
