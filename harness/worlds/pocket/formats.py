"""Writes a split of the world in the benchmarks' official file formats (docs/ARCHITECTURE.md, "Folder layouts")."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.files import write_json, write_jsonl
from harness.worlds.pocket import general, text
from harness.worlds.pocket.draw import draw, png
from harness.worlds.pocket.scenes import (
    CLASSES,
    COLOURS,
    PARTNER,
    Scene,
    SceneMaker,
    Split,
    Thing,
    generator,
    make_scenes,
)

HALBENCH, POPE, AMBER, MMHAL = 300, 150, 200, 96
"""Number of pictures per suite; every suite has its own pictures."""

_AMBER_WORD = {"dining table": "table", "traffic light": "light"}
"""AMBER's words are single words, as its noun extraction returns them."""
_SAFE_WORDS = ("image", "picture", "left", "right", "top", "bottom", "middle")
_TOPICS = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")


def write_benchmarks(seed: int, split: Split, folder: Path, draw_scenes: SceneMaker = make_scenes) -> None:
    """Write all suites. Scenes are taken from the split in turn, so that no two suites share a picture."""
    sizes = (HALBENCH, POPE, AMBER, MMHAL, general.MMSTAR, general.MME, general.HALLUSION, general.LLAVA, general.MMVET)
    scenes = draw_scenes(seed, split, sum(sizes))
    borders = np.cumsum([0, *sizes])
    parts = [scenes[start:end] for start, end in itertools.pairwise(borders)]
    rng = generator("benchmarks", seed, split)
    _halbench(parts[0], folder / "halbench", rng)
    _pope(parts[1], folder / "pope", rng)
    _amber(parts[2], folder / "amber")
    _mmhal(parts[3], folder / "mmhal")
    general.write_mmstar(parts[4], folder / "mmstar", generator("multiple choice", seed, split))
    general.write_mme(parts[5], folder / "mme")
    general.write_hallusion(parts[6], folder / "hallusionbench")
    general.write_llava(parts[7], folder / "llava-bench")
    general.write_mmvet(parts[8], folder / "mm-vet")


def _save(scenes: list[Scene], folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scene, name in zip(scenes, names, strict=True):
        (folder / name).write_bytes(png(draw(scene)))


def _halbench(scenes: list[Scene], folder: Path, rng: np.random.Generator) -> None:
    """Eight kinds of prompts in turn; COCO instances, and five faithful captions per picture."""
    numbers = [scene.index + 1 for scene in scenes]
    names = [f"COCO_val2014_{number:012d}.png" for number in numbers]
    _save(scenes, folder / "images", names)
    prompts = text.DETAILED_PROMPTS
    write_jsonl(
        folder / "obj_halbench_300_with_image.jsonl",
        (
            {"image_id": number, "question": prompts[position % len(prompts)], "image": name}
            for position, (number, name) in enumerate(zip(numbers, names, strict=True))
        ),
    )
    categories = [{"id": position + 1, "name": name} for position, name in enumerate(CLASSES)]
    images = [{"id": number, "file_name": name} for number, name in zip(numbers, names, strict=True)]
    instances = [
        {
            "image_id": number,
            "category_id": CLASSES.index(thing.name) + 1,
            "bbox": [thing.x, thing.y, thing.size, thing.size],
        }
        for number, scene in zip(numbers, scenes, strict=True)
        for thing in scene.drawn
    ]
    captions = [
        {
            "image_id": number,
            "caption": text.write_caption(text.faithful_mentions(scene), int(rng.integers(text.STYLES))),
        }
        for number, scene in zip(numbers, scenes, strict=True)
        for _ in range(5)
    ]
    write_json(
        folder / "annotations" / "instances_val2014.json",
        {
            "images": images,
            "categories": categories,
            "annotations": [{"id": i + 1, **row} for i, row in enumerate(instances)],
        },
    )
    write_json(
        folder / "annotations" / "captions_val2014.json",
        {
            "images": images,
            "annotations": [{"id": i + 1, **row} for i, row in enumerate(captions)],
        },
    )


def _pope(scenes: list[Scene], folder: Path, rng: np.random.Generator) -> None:
    """Six questions per picture, half of them with the answer yes; absent objects at random, by frequency, by co-occurrence."""
    names = [f"COCO_val2014_{scene.index + 1:012d}.png" for scene in scenes]
    _save(scenes, folder / "images", names)
    frequency = Counter(thing.name for scene in scenes for thing in scene.drawn)
    together = Counter(
        (one.name, other.name) for scene in scenes for one in scene.drawn for other in scene.drawn if one is not other
    )
    partners = {second: first for first, second in PARTNER.items()} | PARTNER

    def absent(scene: Scene, kind: str, count: int) -> list[str]:
        free = [name for name in CLASSES if name not in scene.names]
        if kind == "random":
            return [str(name) for name in rng.choice(free, count, replace=False)]
        if kind == "popular":
            return sorted(free, key=lambda name: (-frequency[name], name))[:count]
        # The official adversarial split ranks by co-occurrence in the whole data set; here that is known: the partner.
        tempting = {partners[name] for name in scene.names if name in partners}
        return sorted(
            free, key=lambda name: (name not in tempting, -sum(together[there, name] for there in scene.names), name)
        )[:count]

    for kind in ("random", "popular", "adversarial"):
        rows: list[dict[str, Any]] = []
        for scene, image in zip(scenes, names, strict=True):
            there = sorted(scene.said)[:3]
            for present, missing in zip(there, absent(scene, kind, len(there)), strict=True):
                for name, label in ((present, "yes"), (missing, "no")):
                    rows.append(
                        {"question_id": len(rows) + 1, "image": image, "text": text.exists(name), "label": label}
                    )
        write_jsonl(folder / f"coco_pope_{kind}.json", rows)


def _amber_rows(scene: Scene) -> list[tuple[str, str, str]]:
    """(type, question, truth) of a scene's discriminative questions, in AMBER's types as far as the world has them."""
    rows: list[tuple[str, str, str]] = []
    colours = list(COLOURS)
    for thing in scene.ordered[:2]:
        wrong = colours[(colours.index(thing.colour) + 1 + scene.index % 5) % 6]
        for colour, truth in ((thing.colour, "yes"), (wrong, "no")):
            rows.append(("discriminative-attribute-state", f"Is the {thing.name} {colour} in this image?", truth))
    return rows


def _amber_relations(scene: Scene) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for left, right in zip(scene.ordered, scene.ordered[1:], strict=False):
        if text.left_of(left, right):
            question = "Is the {} to the left of the {} in this image?"
            rows.append(("discriminative-relation", question.format(left.name, right.name), "yes"))
            rows.append(("relation", question.format(right.name, left.name), "no"))
    return rows[:2]


def _amber_absent(scene: Scene) -> list[str]:
    """Objects that the model tends to hallucinate, then other absent objects; at most four."""
    free = [name for name in CLASSES if name not in scene.names and name not in scene.tempting]
    return (scene.tempting + [free[(scene.index * 7 + step * 5) % len(free)] for step in range(4)])[:4]


def _amber(scenes: list[Scene], folder: Path) -> None:
    """Annotation of id k is element k-1, as in the official files: generative first, then the kinds of questions in turn."""
    names = [f"AMBER_{position + 1}.png" for position in range(len(scenes))]
    _save(scenes, folder / "image", names)
    word = lambda name: _AMBER_WORD.get(name, name)  # noqa: E731
    annotations: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []

    def add(image: str, query: str, **annotation: Any) -> None:
        number = len(annotations) + 1
        annotations.append({"id": number, **annotation})
        queries.append({"id": number, "image": image, "query": query})

    for scene, image in zip(scenes, names, strict=True):
        add(
            image,
            text.SHORT_PROMPT,
            type="generative",
            truth=[word(name) for name in dict.fromkeys(thing.name for thing in (*scene.ordered, *scene.unsaid))],
            hallu=[word(name) for name in scene.tempting],
        )
    for scene, image in zip(scenes, names, strict=True):
        for kind, query, truth in _amber_rows(scene):
            add(image, query, type=kind, truth=truth)
    for scene, image in zip(scenes, names, strict=True):
        for name in dict.fromkeys(_amber_absent(scene)):
            add(image, text.exists(name, "this"), type="discriminative-hallucination", truth="no")
    for scene, image in zip(scenes, names, strict=True):
        for kind, query, truth in _amber_relations(scene):
            add(image, query, type=kind, truth=truth)
    data = folder / "data"
    write_json(data / "annotations.json", annotations)
    write_json(data / "query" / "query_all.json", queries)
    write_json(data / "relation.json", {word(name): [] for name in CLASSES})
    (data / "safe_words.txt").write_text("\n".join(_SAFE_WORDS), encoding="utf-8")


def _mmhal(scenes: list[Scene], folder: Path) -> None:
    """Ninety-six questions, eight types by position modulo eight, in the official template's keys."""
    names = [f"pocket_{scene.index:06d}.png" for scene in scenes]
    _save(scenes, folder / "images", names)
    rows = []
    for position, (scene, image) in enumerate(zip(scenes, names, strict=True)):
        kind = _TOPICS[position % 8]
        question = _mmhal_question(kind, scene)
        rows.append(
            {
                "question_type": kind,
                "question_topic": "drawing",
                "image_id": image.removesuffix(".png"),
                "image_src": image,
                "image_content": str(sorted(scene.names)),
                "question": question.prompt,
                "gt_answer": question.answer,
                "model_answer": "",
            }
        )
    write_json(folder / "response_template.json", rows)


def _mmhal_question(kind: str, scene: Scene) -> text.Question:
    first: Thing = scene.ordered[0]
    if kind == "attribute":
        return text.colour_question(first)
    if kind == "adversarial":
        name = (scene.tempting or [name for name in CLASSES if name not in scene.names])[0]
        return text.Question("existence", text.exists(name), f"No, there is no {name}.")
    if kind == "counting":
        return text.number_question(scene)
    if kind in ("relation", "comparison") and len(scene.things) > 1:
        second = scene.ordered[-1] if kind == "relation" else scene.ordered[1]
        if (left := text.left_of(first, second)) is not None:
            return text.Question(
                "relation", f"Is the {first.name} to the left of the {second.name} in this image?", text.yes(left)
            )
    if kind in ("relation", "comparison", "other"):
        return text.place_question(first)
    prompt = (
        text.SHORT_PROMPT if kind == "environment" else text.DETAILED_PROMPTS[scene.index % len(text.DETAILED_PROMPTS)]
    )
    return text.Question("caption", prompt, text.write_caption(text.faithful_mentions(scene), 1))
