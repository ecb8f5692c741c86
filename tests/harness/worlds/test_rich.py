"""The pocket world with crowded pictures: COCO's statistics, what is said and what is true of a picture, and its files."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import HarnessError
from harness.core.worlds import find_world
from harness.worlds.pocket import text, training
from harness.worlds.pocket.draw import draw
from harness.worlds.pocket.formats import write_benchmarks
from harness.worlds.pocket.rich import LARGE, SMALL, make_rich_scenes
from harness.worlds.pocket.scenes import CLASSES, PARTNER, SIDE, generator, make_scenes
from harness.worlds.pocket.world import PocketWorld, RichPocketWorld


def test_objects_classes_and_sizes_follow_coco() -> None:
    """7.7 objects of 3.5 classes on average; 41 % are small. The mentioned ones are all large, which takes from the medium ones (34 %)."""
    scenes = make_rich_scenes(0, "train", 2000)
    assert np.mean([len(scene.drawn) for scene in scenes]) == pytest.approx(7.7, abs=0.5)
    assert np.mean([len(scene.names) for scene in scenes]) == pytest.approx(3.5, abs=0.25)
    sides = np.array([thing.size / SIDE for scene in scenes for thing in scene.drawn])
    small, medium, large = (sides < SMALL).mean(), ((sides >= SMALL) & (sides < LARGE)).mean(), (sides >= LARGE).mean()
    assert 0.33 < small < 0.45 and 0.22 < medium < 0.38 and 0.24 < large < 0.40
    assert all(thing.size / SIDE > LARGE for scene in scenes for thing in scene.things)


def test_objects_cover_each_other_but_none_is_hidden() -> None:
    covered = 0
    scenes = make_rich_scenes(1, "test", 200)
    for scene in scenes:
        order = scene.drawn
        for place, thing in enumerate(order):
            left, top, right, bottom = thing.box
            free = np.ones((bottom - top, right - left), bool)
            for other in order[place + 1 :]:
                a, b, c, d = other.box
                free[max(b - top, 0) : max(d - top, 0), max(a - left, 0) : max(c - left, 0)] = False
            assert free.mean() >= (0.55 if thing in scene.things else 0.4), (scene.index, thing)
            covered += not free.all()
    assert 0.1 < covered / sum(len(scene.drawn) for scene in scenes) < 0.6


def test_captions_and_questions_are_about_the_mentioned_objects_only() -> None:
    rng = generator("test")
    crowded = 0
    for scene in make_rich_scenes(0, "train", 300):
        behind = {thing.name for thing in scene.unsaid}
        crowded += bool(behind)
        assert behind.isdisjoint(scene.said) and scene.names == behind | scene.said
        assert not behind & {PARTNER.get(name) for name in scene.said}
        assert {mention.name for mention in text.faithful_mentions(scene)} == scene.said
        for _ in range(8):
            question = text.draw_question(scene, rng)
            if question.kind in ("colour", "attribute", "place", "relation") or question.answer.startswith("Yes, "):
                assert not any(f"the {name} " in f"{question.prompt} " for name in behind), question
            elif question.kind == "existence" and question.answer.startswith("No"):
                assert not any(question.prompt == text.exists(name) for name in scene.names), question
    assert crowded > 100


def test_the_pictures_hold_what_the_scenes_say() -> None:
    for scene in make_rich_scenes(4, "test", 30):
        empty = np.asarray(draw(dataclasses.replace(scene, things=(), unsaid=()))).astype(int)
        changed = (np.asarray(draw(scene)).astype(int) != empty).any(-1)
        for thing in scene.drawn:
            left, top, right, bottom = thing.box
            assert changed[top:bottom, left:right].any(), thing
        for thing in scene.drawn:
            left, top, right, bottom = thing.box
            changed[top:bottom, left:right] = False
        assert not changed.any()
        without = np.asarray(draw(dataclasses.replace(scene, clutter=()))).astype(int)
        assert (without != np.asarray(draw(scene)).astype(int)).any()


@pytest.mark.slow
def test_annotations_hold_all_objects_and_questions_name_the_large_ones(tmp_path: Path) -> None:
    write_benchmarks(0, "validation", tmp_path, make_rich_scenes)
    truth = {scene.index + 1: scene for scene in make_rich_scenes(0, "validation", 450)}
    instances = json.loads((tmp_path / "halbench" / "annotations" / "instances_val2014.json").read_text())
    counted = Counter(row["image_id"] for row in instances["annotations"])
    assert all(counts == len(truth[image].drawn) for image, counts in counted.items()) and len(counted) == 300
    for line in (tmp_path / "pope" / "coco_pope_adversarial.json").read_text().splitlines():
        row = json.loads(line)
        scene = truth[int(row["image"].partition("2014_")[2].removesuffix(".png"))]
        asked = next(name for name in CLASSES if text.exists(name) == row["text"])
        assert (asked in scene.said) == (row["label"] == "yes") and asked not in scene.names - scene.said
    amber = json.loads((tmp_path / "amber" / "data" / "annotations.json").read_text())
    first = make_rich_scenes(0, "validation", 451)[450]
    assert {word.split()[-1] for word in amber[0]["truth"]} == {name.split()[-1] for name in first.names}
    rows = json.loads((tmp_path / "mmhal" / "response_template.json").read_text())
    numbers = [row["question"] for row in rows if row["question_type"] == "counting"]
    assert {"How many objects are in the image?", "How many large objects are in the image?"} == set(numbers)


@pytest.mark.slow
def test_it_is_a_world_of_its_own_with_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    world = find_world("pocket-rich:3")
    assert isinstance(world, RichPocketWorld) and world.label == "pocket-rich:3"
    assert world.benchmarks("validation") != PocketWorld(3).benchmarks("validation")
    assert world.draw_scenes(0, "test", 3) != make_scenes(0, "test", 3) == PocketWorld(3).draw_scenes(0, "test", 3)
    # No base model of it is in the package: seed 0 is trained, too.
    monkeypatch.setattr("harness.worlds.pocket.world.in_child", lambda *given: pytest.fail(f"trains {given[1]}"))
    with pytest.raises(pytest.fail.Exception, match="trains 0"):
        RichPocketWorld(0).model()


@pytest.mark.parametrize(("world", "wanted"), [(PocketWorld(1), 0.85), (RichPocketWorld(0), 0.75)])
def test_crowded_pictures_have_a_lower_bound_of_accuracy(
    world: PocketWorld, wanted: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base model that has learned to look at the picture is not thrown away after its training."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    recipes = []

    def stopped(seed: int, recipe: training.Recipe, draw_scenes: object) -> None:
        recipes.append(recipe)
        raise InterruptedError

    monkeypatch.setattr(training, "train_base", stopped)
    monkeypatch.setattr("harness.worlds.pocket.world.in_child", lambda function, *arguments: function(*arguments))
    with pytest.raises(InterruptedError):
        world.model()
    assert [recipe.accuracy_wanted for recipe in recipes] == [wanted]

    def too_weak(seed: int, recipe: training.Recipe, draw_scenes: object) -> None:
        raise HarnessError(
            "accuracy 51%", where=f"pocket world, seed {seed}", remedy="use another seed: --model WORLD:SEED"
        )

    monkeypatch.setattr(training, "train_base", too_weak)
    with pytest.raises(HarnessError, match="accuracy 51%") as caught:
        world.model()
    assert caught.value.where == f"the world {world.name}, seed {world.seed}"
    assert caught.value.remedy == f"use another seed: --model {world.name}:SEED"
    assert world.training.keys() <= {"accuracy_wanted"}, "what changes the model would have to be in its key"
