"""Where keywords are found: boxes of the data, and the real detectors and segmenters, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligners.base import PrepareContext
from aligners.rejected_images import ImagePreferenceSettings, generate
from aligners.rejected_images.boxes import RegionQuery
from aligners.rejected_images.detectors import _nearest
from aligners.rejected_images.keywords import Keyword
from aligners.rejected_images.regions import REGION_SOURCES, DatasetRegions
from harness.core.errors import HarnessError
from harness.core.types import Region
from tests.aligners.rejected_images.test_mfpo_parts import example
from tests.tiny_detectors import tiny_grounding_dino, tiny_owlv2, tiny_sam, tiny_sam3

DETECTORS: dict[str, Callable[[Path], Path]] = {"grounding-dino": tiny_grounding_dino, "owlv2": tiny_owlv2}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ImagePreferenceSettings]:
    """Settings for a region source, with models on disk that are made once."""
    folder = tmp_path_factory.mktemp("models")
    sam, sam3 = str(tiny_sam(folder / "sam")), str(tiny_sam3(folder / "sam3"))
    detectors = {name: str(make(folder / name)) for name, make in DETECTORS.items()}

    def made(source: str, **changes: Any) -> ImagePreferenceSettings:
        return ImagePreferenceSettings(
            regions=source,
            detector=detectors.get(source.split("+")[0]),
            segmenter=sam3 if source == "sam3" else sam,
            **{"box_threshold": 0.01, "text_threshold": 0.01, **changes},
        )

    return made


def asked(count: int = 5) -> list[RegionQuery]:
    """Pictures of two sizes, with one to three keywords; the last has none."""
    words = ["dog", "cup", "red boat"]
    asked_for = []
    for number in range(count):
        size = (60, 40) if number % 2 else (48, 64)
        values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        phrases = words[: 1 + number % 3] if number < count - 1 else []
        keys = [Keyword(phrase, tuple(phrase.split()), 1.0) for phrase in phrases]
        asked_for.append(RegionQuery(Image.fromarray(values), keys))
    return asked_for


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(REGION_SOURCES) - {"dataset"}))
def test_every_source_finds_the_same_alone_and_in_a_batch(
    name: str, settings: Callable[..., ImagePreferenceSettings]
) -> None:
    images = asked()
    together = REGION_SOURCES[name](settings(name, batch_size=4)).locate(images)
    source = REGION_SOURCES[name](settings(name, batch_size=1))
    alone = [source.locate([image])[0] for image in images]
    assert not together[-1] and sum(map(len, together)) > 0
    for image, one, other in zip(images, together, alone, strict=True):
        assert [(hit.keyword, hit.box) for hit in one] == [(hit.keyword, hit.box) for hit in other]
        for hit, same in zip(one, other, strict=True):
            assert hit.keyword in {keyword.phrase for keyword in image.keywords}
            assert hit.score == pytest.approx(same.score, abs=1e-4) and 0 < hit.score <= 1
            assert hit.mask.shape == (image.picture.height, image.picture.width) and hit.mask.any()
            assert (hit.mask != same.mask).mean() < 0.01
            assert all(edge == round(edge) for edge in hit.box)
            left, top, right, bottom = hit.box
            assert 0 <= left < right <= image.picture.width and 0 <= top < bottom <= image.picture.height


@pytest.mark.claims("images.box_threshold")
@pytest.mark.parametrize("name", ["grounding-dino", "owlv2"])
def test_without_a_segmenter_masks_are_boxes_and_the_threshold_holds(
    name: str, settings: Callable[..., ImagePreferenceSettings]
) -> None:
    regions = REGION_SOURCES[name](settings(name)).locate(asked())
    for hit in (hit for hits in regions for hit in hits):
        left, top, right, bottom = map(int, hit.box)
        assert hit.mask.sum() == hit.mask[top:bottom, left:right].sum() == (right - left) * (bottom - top)
    scores = sorted({hit.score for hits in regions for hit in hits if hit.score is not None})
    middle = (scores[0] + scores[-1]) / 2
    higher = REGION_SOURCES[name](settings(name, box_threshold=middle)).locate(asked())
    assert [[hit.box for hit in hits] for hits in higher] == [
        [hit.box for hit in hits if hit.score is not None and hit.score > middle] for hits in regions
    ]
    assert 0 < sum(map(len, higher)) < sum(map(len, regions))


def test_owlv2_never_finds_the_blanks_that_fill_up_a_batch(settings: Callable[..., ImagePreferenceSettings]) -> None:
    images = asked(4)  # one, two, three and no keywords
    for image, hits in zip(images, REGION_SOURCES["owlv2"](settings("owlv2")).locate(images), strict=True):
        assert {hit.keyword for hit in hits} <= {keyword.phrase for keyword in image.keywords}


@pytest.mark.parametrize("name", ["grounding-dino", "grounding-dino+sam", "owlv2+sam", "sam3"])
def test_pictures_in_which_nothing_is_found_have_no_region(
    name: str, settings: Callable[..., ImagePreferenceSettings]
) -> None:
    assert REGION_SOURCES[name](settings(name, box_threshold=1 - 1e-9)).locate(asked()) == [[]] * len(asked())


@pytest.mark.parametrize("name", ["grounding-dino+sam", "owlv2+sam", "sam3"])
def test_all_run_in_bfloat16(name: str, settings: Callable[..., ImagePreferenceSettings]) -> None:
    found = REGION_SOURCES[name](settings(name, precision="bfloat16")).locate(asked())
    assert sum(map(len, found)) > 0


@pytest.mark.claims("images.regions")
def test_a_set_names_its_models_and_scores(settings: Callable[..., ImagePreferenceSettings], tmp_path: Path) -> None:
    rows = [example("a", "A red dog.", ()), example("bb", "A cup.", ())]
    made, notes = generate(rows, settings("owlv2+sam"), PrepareContext(tmp_path, 0))
    assert notes.regions == 2 and len(made) == 2
    from aligners.rejected_images.image_set import set_files, set_rows

    row = next(set_rows(set_files(Path(notes.kept_in))))
    assert row["detector"].endswith("owlv2") and row["segmenter"].endswith("sam")
    assert row["keywords"] and all(0 < score <= 1 for score in row["scores"])


@pytest.mark.parametrize(
    ("tokens", "phrases", "expected"),
    [
        ("dog", ["cat", "dog"], "dog"),
        ("dog .", ["cat", "dog"], "dog"),
        ("red dog", ["red", "red dog"], "red dog"),
        ("cafe", ["a", "café"], "café"),
        ("子 犬", ["犬", "子犬"], "子犬"),
        ("子", ["dog", "子犬"], "子犬"),
        ("fr", ["dog", "frisbee"], "frisbee"),
        ("fr ##is", ["dog", "frisbee"], "frisbee"),
        ("##bee", ["bee", "frisbee"], "frisbee"),
        ("fr", ["frisbee", "fries"], None),
        ("is", ["dog", "frisbee"], None),
        ("[UNK]", ["dog", "bunk"], None),
        (".", ["dog", "cat"], None),
    ],
)
def test_a_label_of_grounding_dino_is_the_phrase_that_its_tokens_come_from(
    tokens: str, phrases: list[str], expected: str | None
) -> None:
    from transformers import BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        ".",
        "dog",
        "red",
        "cafe",
        "fr",
        "is",
        "##is",
        "##bee",
        "bee",
        "子",
        "犬",
    ]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    [label] = tokenizer.batch_decode([tokenizer.convert_tokens_to_ids(tokens.split())])
    assert _nearest(label, phrases) == expected


def test_a_model_that_is_not_there_is_said(settings: Callable[..., ImagePreferenceSettings], tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be loaded"):
        REGION_SOURCES["sam3"](settings("sam3").model_copy(update={"segmenter": str(tmp_path / "none")}))


def test_boxes_of_the_data_outside_of_the_image_or_without_a_name_are_nothing(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 40))
    regions = [Region("dog", (100, 100, 120, 120)), Region("", (1, 1, 9, 9)), Region("big dog", (1, 1, 9, 9))]
    hits = DatasetRegions().locate([RegionQuery(picture, [Keyword("dog", ("dog",), 1.0)], regions)])[0]
    assert [hit.box for hit in hits] == [(100, 100, 120, 120), (1, 1, 9, 9)]
    made, notes = generate(
        [example("a", "A red dog.", (Region("dog", (100, 100, 120, 120)),))],
        ImagePreferenceSettings(step=900),
        PrepareContext(tmp_path, 0),
    )
    assert notes.whole_image == 1  # else the rejected image would be the original
    assert made[0].images["rejected"].open().tobytes() != made[0].images["original"].open().tobytes()
