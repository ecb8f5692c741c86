"""MFPO's three parts: keywords, regions and noise; stages by difficulty."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.base import PrepareContext
from aligners.mfpo.image_preferences import ImagePreferenceSettings, generate
from aligners.mfpo.image_preferences.corruptions import alpha_bar, noise, random_numbers
from aligners.mfpo.image_preferences.keywords import cluster, keywords, multipartite_rank, pipeline
from aligners.mfpo.stages import StageSettings, split_by_difficulty
from harness.types import ImageRef, PreferenceExample, Region


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def example(name: str, said: str, regions: tuple[Region, ...]) -> PreferenceExample:
    values = np.random.default_rng(len(name)).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return PreferenceExample(
        name,
        "Describe this image.",
        {"original": ImageRef(data=png(values))},
        {"chosen": said, "rejected": "A cup."},
        None,
        regions,
    )


def test_rank_of_two_topics_by_hand() -> None:
    # Two candidates of two topics link to each other with equal weight: by symmetry each has half of the rank.
    np.testing.assert_allclose(multipartite_rank([0, 3], [0, 1]), [0.5, 0.5])


def test_rank_against_a_linear_solution() -> None:
    positions, topics = [0, 2, 5, 9], [0, 1, 0, 2]
    weights = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            if topics[i] != topics[j]:
                weights[i, j] = 1 / abs(positions[i] - positions[j])
    # Candidate 0 is the first of its topic; what leads to its sibling 2 is added to what leads to it.
    boosted = weights.copy()
    for source in (1, 3):
        boosted[source, 0] += 1.1 * np.exp(1 / 1) * weights[source, 2]
    step = boosted / boosted.sum(1, keepdims=True)
    exact = np.linalg.solve(np.eye(4) - 0.85 * step.T, np.full(4, 0.15 / 4))
    np.testing.assert_allclose(multipartite_rank(positions, topics), exact / exact.sum(), atol=1e-9)


def test_topics_are_shared_lemmas() -> None:
    assert cluster([("dog",), ("big", "dog"), ("cat",), ("dog",)]) == [0, 0, 1, 0]


def test_keywords_are_things_and_not_colours_or_the_image() -> None:
    found = keywords(
        "The image shows two red dogs on the left and a dining table. The dogs sleep.", 5, pipeline("blank")
    )
    assert {"dog", "table"} <= {lemma for keyword in found for lemma in keyword.lemmas}
    assert not {"image", "red", "left", "show"} & {lemma for keyword in found for lemma in keyword.lemmas}


def test_noise_is_inside_the_mask_only_and_has_the_schedules_statistics() -> None:
    image = np.full((200, 200, 3), 153, np.uint8)  # 0.2 on the scale of [-1, 1]
    mask = np.zeros((200, 200), bool)
    mask[50:150, 50:150] = True
    step = 40
    noisy = noise(image, mask, random_numbers("seed"), step / 1000)
    assert np.array_equal(noisy[~mask], image[~mask])
    kept = 1.0
    for s in range(step):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * s / 999)
    assert alpha_bar(step) == pytest.approx(kept, rel=1e-12)
    inside = noisy[mask].astype(float) / 127.5 - 1
    assert inside.mean() == pytest.approx(np.sqrt(kept) * 0.2, abs=0.01)
    assert inside.std() == pytest.approx(np.sqrt(1 - kept), rel=0.03)
    assert np.array_equal(noisy, noise(image, mask, random_numbers("seed"), step / 1000))
    assert not np.array_equal(noisy, noise(image, mask, random_numbers("other seed"), step / 1000))


def test_generator_keeps_what_is_outside_the_named_boxes(tmp_path: Path) -> None:
    rows = [
        example("a", "A red dog.", (Region("dog", (10, 5, 30, 25)), Region("cup", (35, 5, 55, 25)))),
        example("bb", "A boat.", (Region("dog", (10, 5, 30, 25)),)),
    ]
    made, notes = generate(rows, ImagePreferenceSettings(step=900), PrepareContext(tmp_path, 0))
    assert (notes["regions"], notes["whole-image"], notes["source"]) == (1, 1, "dataset")
    before, after = (np.asarray(made[0].images[name].open()) for name in ("original", "rejected"))
    changed = (before != after).any(-1)
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:30] = True
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.9
    assert (np.asarray(made[1].images["rejected"].open()) != np.asarray(made[1].images["original"].open())).any(
        -1
    ).mean() > 0.9
    kept = pq.read_table(next(Path(notes["kept_in"]).glob("*.parquet"))).to_pylist()
    assert kept[0]["keywords"] and kept[0]["boxes"] == [[10, 5, 30, 25]] and kept[0]["step"] == 900
    again, _ = generate(rows, ImagePreferenceSettings(step=900), PrepareContext(tmp_path, 0))
    assert again[0].images["rejected"].data == made[0].images["rejected"].data


def test_a_label_of_two_words_is_found_whatever_its_lemmas_are(tmp_path: Path) -> None:
    rows = [
        example("a", "A dining table.", (Region("dining table", (10, 5, 30, 25)),)),
        example("bb", "Two tables.", (Region("dining table", (1, 5, 30, 25)),)),
    ]
    _, notes = generate(rows, ImagePreferenceSettings(), PrepareContext(tmp_path, 0))
    assert notes["regions"] == 2


def test_nothing_found_can_be_dropped_and_is_counted(tmp_path: Path) -> None:
    rows = [
        example("a", "A red dog.", (Region("dog", (10, 5, 30, 25)),)),
        example("bb", "A boat.", (Region("dog", (10, 5, 30, 25)),)),
    ]
    made, notes = generate(rows, ImagePreferenceSettings(on_nothing="drop"), PrepareContext(tmp_path, 0))
    assert [one.id for one in made] == ["a"]
    assert notes["dropped"] == 1


def test_detector_and_segmenter_of_the_real_architectures_run(tmp_path: Path) -> None:
    from tests.tiny_detectors import tiny_grounding_dino, tiny_sam

    settings = ImagePreferenceSettings(
        regions="grounding-dino+sam",
        detector=str(tiny_grounding_dino(tmp_path / "dino")),
        segmenter=str(tiny_sam(tmp_path / "sam")),
        box_threshold=0.01,
        text_threshold=0.01,
    )
    made, notes = generate([example("a", "A red dog.", ())], settings, PrepareContext(tmp_path, 0))
    assert notes["source"] == "grounding-dino+sam"
    assert notes["regions"] + notes["whole-image"] == 1
    assert made[0].images["rejected"].open().size == (60, 40)


def test_stages_are_cut_by_entropy_easy_first() -> None:
    rows = [example(name, "A dog.", ()) for name in ("a", "b", "c", "d", "e", "f")]
    stages = split_by_difficulty(rows, [0.5, 0.1, 0.9, 0.3, 0.7, 0.2], StageSettings())
    assert [(stage.name, [one.id for one in stage.examples]) for stage in stages] == [
        ("easy", ["b", "f"]),
        ("medium", ["d", "a"]),
        ("hard", ["e", "c"]),
    ]
    uneven = split_by_difficulty(rows, [0.5, 0.1, 0.9, 0.3, 0.7, 0.2], StageSettings(count=2, borders=(0.5,)))
    assert [len(stage.examples) for stage in uneven] == [3, 3]
    with pytest.raises(ValueError, match="rising borders"):
        StageSettings(count=3, borders=(0.9, 0.1))
