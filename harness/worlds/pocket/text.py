"""Texts about a scene: captions, biased as on the web or faithful, and questions with their answers.

A caption is a style and a list of mentions, so that the same caption can be written with and without an invented object: this gives
corrected pairs with known spans. `parse_caption` reads the mentions back from any caption of these styles.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.worlds.pocket.scenes import BIAS, CLASSES, COLOURS, PARTNER, Scene, Thing

SHORT_PROMPT = "Describe this image."
DETAILED_PROMPTS = (
    "Please provide a detailed description of the image.",
    "What do you see in this picture? Describe it in detail.",
    "Give a thorough description of the picture.",
    "Describe the image in detail, naming every object.",
    "Please describe everything that is in the image.",
    "What is shown in this image? Answer in detail.",
    "Write a detailed caption for this picture.",
    "Tell me in detail what the image contains.",
)
NUMBERS = ("no", "one", "two", "three", "four")
_PLACES = ("on the left", "on the right", "in the middle", "at the top", "at the bottom")
STYLES = 4


class SceneMention(NamedTuple):
    """One object as a caption names it."""

    name: str
    colour: str
    place: str


def article(noun: str) -> str:
    """The noun phrase with its indefinite article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def place(thing: Thing) -> str:
    """The position of a thing as text, in thirds of the picture."""
    x, y = thing.centre
    horizontal = "left" if x < 27 else "right" if x > 45 else ""
    vertical = "top" if y < 27 else "bottom" if y > 45 else ""
    if vertical:
        return f"at the {vertical} {horizontal}".rstrip()
    return f"on the {horizontal}" if horizontal else "in the middle"


def faithful_mentions(scene: Scene) -> list[SceneMention]:
    """Every object of the scene, from left to right."""
    return [SceneMention(thing.name, thing.colour, place(thing)) for thing in scene.ordered]


def invented(name: str, rng: np.random.Generator) -> SceneMention:
    """An absent object, described as if it were present."""
    return SceneMention(name, str(rng.choice(list(COLOURS))), str(rng.choice(_PLACES)))


def biased_mentions(scene: Scene, rng: np.random.Generator) -> list[SceneMention]:
    """As `faithful_mentions`, with the absent partner of a lone first object inserted after it, with the pair's probability."""
    mentions: list[SceneMention] = []
    for mention in faithful_mentions(scene):
        mentions.append(mention)
        partner = PARTNER.get(mention.name)
        if partner and partner not in scene.names and rng.random() < BIAS[mention.name]:
            mentions.append(invented(partner, rng))
    return mentions


def write_caption(mentions: list[SceneMention], style: int) -> str:
    """A caption of one to four sentences in one of the four styles."""
    if not mentions:
        return "The image shows nothing."
    if style == 0:
        return f"The image shows {_join([article(m.name) for m in mentions])}."
    if style == 1:
        return " ".join(f"There is {article(f'{m.colour} {m.name}')} {m.place}." for m in mentions)
    if style == 2:
        return f"The picture contains {_join([article(f'{m.colour} {m.name}') for m in mentions])}."
    head, *rest = mentions
    first = f"We see {article(head.name)} {head.place}."
    if not rest:
        return first
    return f"{first} There {'are' if len(rest) > 1 else 'is'} also {_join([f'{article(m.name)} {m.place}' for m in rest])}."


def parse_caption(text: str) -> tuple[int, list[SceneMention]] | None:
    """Style and mentions of a caption, or None if it is not exactly one that `write_caption` writes.

    What a style leaves out (colour, place) is "" in the mentions.
    """
    style = next((number for start, number in _OPENINGS.items() if text.startswith(start)), None)
    if style is None:
        return None
    mentions = [
        SceneMention(match["name"], (match["colour"] or "").strip(), (match["place"] or "").strip())
        for match in _MENTION.finditer(text)
    ]
    return (style, mentions) if mentions and write_caption(mentions, style) == text else None


_OPENINGS = {"The image shows": 0, "There is": 1, "The picture contains": 2, "We see": 3}
_MENTION = re.compile(
    rf"\ban? (?P<colour>(?:{'|'.join(COLOURS)}) )?(?P<name>{'|'.join(CLASSES)})"
    r"(?P<place> (?:at the (?:top|bottom)(?: (?:left|right))?|on the (?:left|right)|in the middle))?"
)


@dataclass(frozen=True)
class Question:
    """A question and its answer; `kind` is existence, colour, attribute, number, place or relation."""

    kind: str
    prompt: str
    answer: str


def exists(name: str, wording: str = "the") -> str:
    """ "Is there a dog in the image?", or with "this", AMBER's wording, which is answered with one word."""
    return f"Is there {article(name)} in {wording} image?"


def colour_question(thing: Thing) -> Question:
    """ "What color is the dog in the image?"""
    return Question("colour", f"What color is the {thing.name} in the image?", f"The {thing.name} is {thing.colour}.")


def place_question(thing: Thing) -> Question:
    """ "Where is the dog in the image?"""
    return Question("place", f"Where is the {thing.name} in the image?", f"The {thing.name} is {place(thing)}.")


def number_question(scene: Scene) -> Question:
    """ "How many objects are in the image?", or "large objects", if there are others that no caption names."""
    count = len(scene.things)
    are = "are" if count != 1 else "is"
    return Question(
        "number",
        f"How many {counted(scene)}s are in the image?",
        f"There {are} {NUMBERS[count]} {counted(scene)}{'s' if count != 1 else ''}.",
    )


def counted(scene: Scene) -> str:
    """What `things` are called when they are counted."""
    return "large object" if scene.unsaid else "object"


def left_of(one: Thing, other: Thing) -> bool | None:
    """Whether one thing is clearly left of another; None if it is not clear."""
    gap = other.centre[0] - one.centre[0]
    return None if abs(gap) <= 8 else gap > 0


def yes(answer: bool) -> str:
    """One word."""
    return "Yes" if answer else "No"


def existence_question(scene: Scene, rng: np.random.Generator) -> Question:
    """A training question about the presence of an object; half of them are about present ones.

    A positive answer gives the object's position, which teaches the model to look it up in the image.
    """
    thing = scene.things[int(rng.integers(len(scene.things)))]
    absent = [name for name in CLASSES if name not in scene.names]
    other = absent[int(rng.integers(len(absent)))]
    is_present = rng.random() < 0.5
    if rng.random() < 0.15:
        return Question("existence", exists(thing.name if is_present else other, "this"), yes(is_present))
    if is_present:
        return Question("existence", exists(thing.name), f"Yes, there is {article(thing.name)} {place(thing)}.")
    return Question("existence", exists(other), f"No, there is no {other}.")


def draw_question(scene: Scene, rng: np.random.Generator) -> Question:
    """A training question about a scene: existence, colour, place, number or relation."""
    kind = rng.random()
    if kind < 0.44:
        return existence_question(scene, rng)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    if kind < 0.56:
        return colour_question(thing)
    if kind < 0.74:
        wrong = [colour for colour in COLOURS if colour != thing.colour]
        colour = thing.colour if rng.random() < 0.5 else wrong[int(rng.integers(len(wrong)))]
        return Question("attribute", f"Is the {thing.name} {colour} in this image?", yes(colour == thing.colour))
    if kind < 0.78:
        return number_question(scene)
    if kind >= 0.86 and len(scene.things) > 1:
        second = scene.things[(scene.things.index(thing) + 1) % len(scene.things)]
        if (answer := left_of(thing, second)) is not None:
            return Question(
                "relation", f"Is the {thing.name} to the left of the {second.name} in this image?", yes(answer)
            )
    return place_question(thing)


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
