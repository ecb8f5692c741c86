"""Writes the suites that measure more than hallucination in their official file formats: multiple choice, and pairs of yes/no questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from harness.core.files import write_json, write_jsonl
from harness.worlds.pocket import text
from harness.worlds.pocket.draw import draw, png
from harness.worlds.pocket.scenes import CLASSES, COLOURS, Scene

MMSTAR, MME, HALLUSION, LLAVA, MMVET = 120, 160, 60, 24, 60
"""Scenes for each suite; MME draws `MME_IMAGES` of them for each of its four tasks."""
MME_IMAGES = 30
_LETTERS = "ABCD"
_PLACES = ("at the top left", "at the top right", "at the bottom left", "at the bottom right")
_SUFFIX = " Please answer yes or no."

Choice = tuple[str, str, str, list[str], int]
"""Category, sub-category, question, options, and the place of the right one."""


def write_mmstar(scenes: Sequence[Scene], folder: Path, rng: np.random.Generator) -> None:
    """`mmstar.parquet` as on the hub: pictures are bytes in the table, and the questions list their options."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, object]] = []
    for scene in scenes:
        picture = png(draw(scene))
        for category, part, question, options, right in _choices(scene, rng):
            listed = ", ".join(f"{letter}: {option}" for letter, option in zip(_LETTERS, options, strict=False))
            rows.append(
                {
                    "index": len(rows),
                    "question": f"{question}\nOptions: {listed}",
                    "image": {"bytes": picture, "path": None},
                    "answer": _LETTERS[right],
                    "category": category,
                    "l2_category": part,
                    "meta_info": {"source": "pocket", "split": "val", "image_path": f"pocket/{scene.index}.png"},
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "mmstar.parquet", compression="none")


def _choices(scene: Scene, rng: np.random.Generator) -> list[Choice]:
    """Two questions about a scene, of five kinds in turn."""
    thing, count = scene.ordered[0], len(scene.things)
    free = [name for name in CLASSES if name not in scene.names]
    colours = [colour for colour in COLOURS if colour != thing.colour]
    kinds: list[Callable[[], Choice]] = [
        lambda: _choice(
            "fine-grained perception", "object counting", text.number_question(scene).prompt,
            text.NUMBERS[count], [one for one in text.NUMBERS[1:] if one != text.NUMBERS[count]], rng,
        ),
        lambda: _choice(
            "instance reasoning", "single-instance reasoning", text.colour_question(thing).prompt,
            thing.colour, colours, rng,
        ),
        lambda: _choice(
            "fine-grained perception", "recognition", "Which of these objects is in the image?", thing.name, free, rng
        ),
        lambda: _choice(
            "fine-grained perception", "localization", text.place_question(thing).prompt, text.place(thing),
            [place for place in _PLACES if place != text.place(thing)], rng,
        ),
        lambda: _relation(scene, rng),
    ]  # fmt: skip
    return [kinds[(scene.index + step) % len(kinds)]() for step in (0, 2)]


def _choice(
    category: str, part: str, question: str, right: str, wrong: Sequence[str], rng: np.random.Generator
) -> Choice:
    """The right option among three wrong ones, in a random order."""
    options = [right, *(wrong[place] for place in rng.choice(len(wrong), 3, replace=False))]
    order = [int(place) for place in rng.permutation(4)]
    return category, part, question, [options[place] for place in order], order.index(0)


def _relation(scene: Scene, rng: np.random.Generator) -> Choice:
    """Which of two things is on the left; the colour of a thing if no two are clearly apart."""
    pair = _side_by_side(scene)
    if pair is None:
        thing = scene.ordered[-1]
        others = [colour for colour in COLOURS if colour != thing.colour]
        question = text.colour_question(thing).prompt
        return _choice("instance reasoning", "single-instance reasoning", question, thing.colour, others, rng)
    left, right = pair
    options = ["Yes", "No"] if rng.random() < 0.5 else ["No", "Yes"]
    first, second = (left, right) if rng.random() < 0.5 else (right, left)
    question = f"Is the {first} to the left of the {second} in this image?"
    answer = options.index("Yes" if first == left else "No")
    return "instance reasoning", "cross-instance relation reasoning", question, options, answer


def _side_by_side(scene: Scene) -> tuple[str, str] | None:
    """The names of two neighbours that are clearly apart, left one first."""
    for one, other in zip(scene.ordered, scene.ordered[1:], strict=False):
        if text.left_of(one, other):
            return one.name, other.name
    return None


def write_hallusion(scenes: Sequence[Scene], folder: Path) -> None:
    """Questions about drawn pictures and edited copies (VD), and about none, the original and an edited copy (VS, every third scene)."""
    rows: list[dict[str, str | None]] = []
    for scene in (scene for scene in scenes if len(scene.things) > 1):
        removed = scene.index % 2 == 0
        category = "VS" if scene.index % 3 == 0 else "VD"
        subcategory, versions = ("existence", _without_first(scene)) if removed else ("colour", _recoloured(scene))
        figures: list[tuple[str, str, Scene, Scene | None]] = [("1", "0", scene, scene), ("2", "1", versions, versions)]
        if category == "VS":  # figure 0 is none; the expected answer is that of the original
            figures = [("0", "0", scene, None), ("1", "1", scene, scene), ("2", "2", versions, versions)]
        for visual, figure, true, drawn in figures:
            name = None if drawn is None else f"./{category}/{subcategory}/{scene.index}_{figure}.png"
            if drawn is not None:
                target = folder / "hallusion_bench" / str(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(png(draw(drawn)))
            for number, (question, holds) in enumerate(_hallusion_questions(scene, versions, removed)):
                answer = holds(true)
                rows.append(
                    {
                        "category": category,
                        "subcategory": subcategory,
                        "visual_input": visual,
                        "set_id": str(scene.index),
                        "figure_id": figure,
                        "sample_note": "pocket",
                        "question_id": str(number),
                        "question": question,
                        "gt_answer_details": f"{text.yes(answer)}. {text.write_caption(text.faithful_mentions(true), 1)}",
                        "gt_answer": str(int(answer)),
                        "filename": name,
                    }
                )
    write_json(folder / "HallusionBench.json", rows)


def _without_first(scene: Scene) -> Scene:
    return dataclasses.replace(scene, things=tuple(thing for thing in scene.things if thing is not scene.ordered[0]))


def _recoloured(scene: Scene) -> Scene:
    """The first thing in another colour."""
    first, colours = scene.ordered[0], list(COLOURS)
    other = dataclasses.replace(first, colour=colours[(colours.index(first.colour) + 1 + scene.index % 5) % 6])
    return dataclasses.replace(scene, things=tuple(other if thing is first else thing for thing in scene.things))


def _hallusion_questions(scene: Scene, edited: Scene, removed: bool) -> list[tuple[str, Callable[[Scene], bool]]]:
    """Two questions, each with what it asks of a scene."""
    if removed:
        names = (scene.ordered[0].name, scene.ordered[1].name)
        return [(text.exists(name, "this"), lambda shown, name=name: name in shown.names) for name in names]  # type: ignore[misc]
    name, colours = scene.ordered[0].name, [one.ordered[0].colour for one in (scene, edited)]
    return [
        (
            f"Is the {name} {colour} in this image?",
            lambda shown, colour=colour: any(one.name == name and one.colour == colour for one in shown.things),  # type: ignore[misc]
        )
        for colour in colours
    ]


def write_llava(scenes: Sequence[Scene], folder: Path) -> None:
    """Open questions, with a faithful description of each picture as context and the true answer in the place of GPT-4's."""
    questions: list[dict[str, object]] = []
    answers: list[dict[str, object]] = []
    context: list[dict[str, object]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        name = f"{scene.index}.png"
        (folder / "images" / name).write_bytes(png(draw(scene)))
        described = text.write_caption(text.faithful_mentions(scene), 1)
        context.append({"id": name, "image": name, "caption": described})
        asked = [("conv", text.colour_question(scene.ordered[0])), ("complex", text.place_question(scene.ordered[-1]))]
        asked.append(("detail", text.Question("caption", text.DETAILED_PROMPTS[scene.index % 8], described)))
        for kind, question in asked:
            row = {
                "question_id": len(questions),
                "image": name,
                "category": kind,
                "text": question.prompt,
            }
            answers.append({"question_id": len(questions), "text": question.answer, "model_id": "truth"})
            questions.append(row)
    for name, rows in (("questions", questions), ("answers_gpt4", answers), ("context", context)):
        write_jsonl(folder / f"{name}.jsonl", rows)


def write_mmvet(scenes: Sequence[Scene], folder: Path) -> None:
    """Questions with short true answers, and the capabilities that they need."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = {}
    for number, scene in enumerate(scenes):
        name = f"v1_{number}"
        (folder / "images" / f"{name}.png").write_bytes(png(draw(scene)))
        question, needs = (
            (text.colour_question(scene.ordered[0]), ["rec"]),
            (text.place_question(scene.ordered[0]), ["rec", "spat"]),
            (text.number_question(scene), ["math", "ocr"]),
        )[number % 3]
        rows[name] = {
            "imagename": f"{name}.png",
            "imagesource": "pocket",
            "question": question.prompt,
            "answer": question.answer,
            "capability": needs,
        }
    write_json(folder / "mm-vet.json", rows)


def write_mme(scenes: Sequence[Scene], folder: Path) -> None:
    """The release's layout: for each task a folder with pictures and, beside each, a text file with a question for yes and one for no."""
    makers: dict[str, Callable[[Scene], tuple[str, str] | None]] = {
        "position": _position, "existence": _existence, "count": _count, "color": _colour,
    }  # fmt: skip
    made: dict[str, int] = dict.fromkeys(makers, 0)
    for scene in scenes:
        # Positions come first: not every scene has two things that are clearly apart.
        for task, maker in sorted(makers.items(), key=lambda pair: (made[pair[0]], pair[0] != "position")):
            if made[task] < MME_IMAGES and (questions := maker(scene)):
                made[task] += 1
                target = folder / task
                target.mkdir(parents=True, exist_ok=True)
                name = f"pocket_{scene.index:06d}"  # not twelve digits, which are a number of COCO
                (target / f"{name}.png").write_bytes(png(draw(scene)))
                lines = [f"{asked}{_SUFFIX}\t{label}" for asked, label in zip(questions, ("Yes", "No"), strict=True)]
                (target / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
                break


def _existence(scene: Scene) -> tuple[str, str]:
    absent = scene.tempting or [name for name in CLASSES if name not in scene.names]
    return text.exists(scene.ordered[0].name, "this"), text.exists(absent[0], "this")


def _count(scene: Scene) -> tuple[str, str]:
    count = len(scene.things)
    wrong = count + 1 if count < 4 and (scene.index % 2 or count == 1) else count - 1
    return _number(count, text.counted(scene)), _number(wrong, text.counted(scene))


def _number(count: int, noun: str) -> str:
    return (
        f"Is there {text.NUMBERS[count]} {noun} in this image?"
        if count == 1
        else f"Are there {text.NUMBERS[count]} {noun}s in this image?"
    )


def _position(scene: Scene) -> tuple[str, str] | None:
    pair = _side_by_side(scene)
    question = "Is the {} to the left of the {} in this image?"
    return pair and (question.format(*pair), question.format(*reversed(pair)))


def _colour(scene: Scene) -> tuple[str, str]:
    thing, colours = scene.ordered[0], list(COLOURS)
    wrong = colours[(colours.index(thing.colour) + 1 + scene.index % 5) % 6]
    return f"Is the {thing.name} {thing.colour} in this image?", f"Is the {thing.name} {wrong} in this image?"
