"""Each setting of a method's images and stages changes what it is there for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligners.base import Aligner, PrepareContext, StageContext
from aligners.chip import CHiP
from aligners.mdpo import MDPO
from aligners.mfpo import MFPO
from aligners.rejected_images import ImagePreferenceSettings, generate
from aligners.rejected_images.image_set import set_files, set_rows
from aligners.rejected_images.regions import REGION_SOURCES
from harness.core.errors import HarnessError
from harness.core.types import PreferenceExample, Region
from tests.aligners.rejected_images.test_mfpo_parts import example
from tests.aligners.rejected_images.test_regions import asked
from tests.aligners.rejected_images.test_regions import settings as settings

DOG = (Region("dog", (10, 5, 30, 25)),)


def rows_of(folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """What is kept of the images that are made with these settings."""
    chosen = ImagePreferenceSettings.model_validate(settings)
    _, notes = generate([example("a", "A red dog.", DOG)], chosen, PrepareContext(folder, 0))
    return list(set_rows(set_files(Path(notes.kept_in))))


def pixels(row: dict[str, Any]) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(row["rejected_image"]["bytes"])), np.float64)


@pytest.mark.claims("images.top_k")
def test_so_many_keywords(tmp_path: Path) -> None:
    said = "A dog and a fire hydrant. The dog sits near a bench; the bench is green, and a man walks by."
    regions = tuple(Region(name, (5.0 * n, 5, 5.0 * n + 4, 25)) for n, name in enumerate(("dog", "bench", "man")))
    for top_k, most in ((1, 1), (3, 3)):
        chosen = ImagePreferenceSettings(top_k=top_k, regions="dataset")
        _, notes = generate([example("a", said, regions)], chosen, PrepareContext(tmp_path, 0))
        [row] = set_rows(set_files(Path(notes.kept_in)))
        assert 0 < len(set(row["keywords"])) <= most and (top_k == 1 or len(set(row["keywords"])) > 1)


@pytest.mark.claims("images.schedule", "images.scale", "images.step")
@pytest.mark.parametrize(("setting", "value"), [("schedule", "ddpm"), ("scale", "unit"), ("step", 100)])
def test_other_noise_is_another_image(setting: str, value: Any, tmp_path: Path) -> None:
    [plain], [other] = rows_of(tmp_path), rows_of(tmp_path, **{setting: value})
    assert other[setting] == value != plain[setting]
    assert not np.array_equal(pixels(plain), pixels(other))


@pytest.mark.claims("images.share")
def test_random_regions_cover_the_share(tmp_path: Path) -> None:
    import io

    for share in (0.2, 0.5):
        [row] = rows_of(tmp_path, corruption="random-regions", share=share)
        assert np.asarray(Image.open(io.BytesIO(row["mask"]))).sum() == share * 60 * 40


@pytest.mark.claims("images.strength")
def test_a_weaker_corruption_changes_less(tmp_path: Path) -> None:
    [usual], [weak] = rows_of(tmp_path, corruption="black"), rows_of(tmp_path, corruption="black", strength=0.1)
    original = np.asarray(example("a", "A red dog.", DOG).images["original"].open(), np.float64)
    assert np.abs(pixels(weak) - original).mean() < 0.5 * np.abs(pixels(usual) - original).mean()


@pytest.mark.claims("images.pipeline")
def test_a_pipeline_that_is_not_installed_is_said(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no_such_pipeline"):
        rows_of(tmp_path, pipeline="no_such_pipeline")


@pytest.mark.claims("images.text_threshold")
def test_words_below_the_threshold_name_no_box(settings: Callable[..., ImagePreferenceSettings]) -> None:
    many, none = (
        REGION_SOURCES["grounding-dino"](settings("grounding-dino", text_threshold=threshold)).locate(asked())
        for threshold in (0.01, 0.99)
    )
    assert sum(map(len, many)) > sum(map(len, none))


@pytest.mark.claims("images.precision", "images.batch_size")
def test_precision_and_batches_of_a_detector(settings: Callable[..., ImagePreferenceSettings]) -> None:
    import torch

    sizes: dict[int, list[int]] = {}
    for batch in (1, 4):
        source: Any = REGION_SOURCES["owlv2"](settings("owlv2", batch_size=batch, precision="float32"))
        seen = sizes.setdefault(batch, [])
        source.detector.model.register_forward_pre_hook(
            lambda _, __, given, seen=seen: seen.append(len(given["pixel_values"])), with_kwargs=True
        )
        source.locate(asked())
    assert max(sizes[1]) == 1 < max(sizes[4])
    low: Any = REGION_SOURCES["owlv2"](settings("owlv2", precision="bfloat16"))
    assert source.detector.model.dtype == torch.float32 and low.detector.model.dtype == torch.bfloat16


@pytest.mark.claims("mfpo.images", "mdpo.images", "chip.images")
@pytest.mark.parametrize("kind", [MFPO, MDPO, CHiP])
def test_the_images_of_a_method_are_made_by_its_settings(kind: type[Aligner], tmp_path: Path) -> None:
    method = kind(kind.Settings.model_validate({"images": {"corruption": "black"}}))
    context = PrepareContext(tmp_path, 0)
    [made] = method.prepare([example("a", "A red dog.", DOG)], context)
    assert context.notes["image_preferences"]["corruption"] == "black"
    assert not np.asarray(made.images["rejected"].open())[5:25, 10:30].any()


class Told(StageContext):
    """Remembers how it was asked for difficulties; the later an example, the harder."""

    def __init__(self) -> None:
        self.how: list[tuple[Any, ...]] = []

    def difficulty(
        self,
        examples: Sequence[PreferenceExample],
        measure: Any = "token",
        answer: Any = "chosen",
        max_new_tokens: int = 256,
    ) -> list[float]:
        self.how.append((measure, answer, max_new_tokens))
        return [float(number) for number in range(len(examples))]


@pytest.mark.claims("mfpo.stages.measure", "mfpo.stages.answer", "mfpo.stages.max_new_tokens", "mfpo.stages.count")
def test_how_difficult_examples_are(tmp_path: Path) -> None:
    """What these measures are is held to their formulas in `test_difficulty.py`."""
    rows = [dataclasses.replace(example(name, "A red dog.", DOG), id=name) for name in "abcd"]
    stages = {"measure": "predictive", "answer": "own", "max_new_tokens": 9, "count": 2}
    context = Told()
    found = MFPO(MFPO.Settings.model_validate({"stages": stages})).stages(rows, context)
    assert context.how == [("predictive", "own", 9)] and [len(stage.examples) for stage in found] == [2, 2]
