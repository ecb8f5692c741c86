"""What is run on the CPU and on the pretended GPU: every task gives values that are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_pairs, tiny_photograph, with_standard
from tests.tiny_detectors import tiny_grounding_dino, tiny_owlv2, tiny_sam, tiny_sam3
from tests.tiny_families import FAMILIES

SIZES = ((60, 40), (60, 90), (48, 64))
DETECTORS = {"grounding-dino+sam": tiny_grounding_dino, "owlv2+sam": tiny_owlv2, "sam3": None}
METHODS = ("dpo", "rlhfv", "mdpo", "mfpo", "symmpo", "chip", "mpo", "c-dpo", "lpoi", "opa-dpo")
SETTINGS = {
    "learning_rate": 2e-3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "max_length": 512,
    "save_steps": 1,
    "lora": {"rank": 4, "alpha": 8},
}


def make(folder: Path, families: Iterable[str]) -> None:
    """The pairs, pictures and models that the tasks read."""
    from harness.models import export_full

    with_standard(tiny_pairs(folder, 16))
    for family in families:
        export_full(*FAMILIES[family](), folder / family)
    for number, size in enumerate(SIZES):
        tiny_photograph(folder / f"{number}.png", number, size)
    for source, detector in DETECTORS.items():
        if detector:
            detector(folder / source)
    tiny_sam(folder / "sam")
    tiny_sam3(folder / "sam3")


def align(
    method: Any, family: str, folder: Path, out: Path, resume: bool = False, limit: int | None = None, **settings: Any
) -> list[float]:
    """The loss of every step."""
    from aligners.training.job import AlignJob
    from harness.core import registry
    from harness.core.config import TrainSettings

    out.mkdir(parents=True, exist_ok=True)
    aligner = registry.load("aligners", method) if isinstance(method, str) else method
    train = TrainSettings.model_validate({**SETTINGS, **settings})
    data = str(folder / "rlaif-v.parquet")
    from aligners.training import run as training

    training.train(
        aligner(), AlignJob(str(folder / family), data, out, train, out / "cache", limit=limit, resume=resume)
    )
    return [json.loads(line)["loss"] for line in (out / "train_log.jsonl").read_text().splitlines()]


def resumed(folder: Path, out: Path) -> list[float]:
    """The losses of a run that was torn off after its first step, and went on."""
    from aligners.dpo import DPO

    class TornOff(DPO):
        """DPO until the second pass."""

        passes = 0

        def loss(self, policy: Any, reference: Any) -> Any:
            """DPO's."""
            self.passes += 1
            if self.passes > 1:
                raise RuntimeError("torn off")
            return super().loss(policy, reference)

    with pytest.raises(RuntimeError, match="torn off"):
        align(TornOff, "llava-1.5", folder, out, precision="float32")
    return align("dpo", "llava-1.5", folder, out, resume=True, precision="float32")


def on_two_sides(folder: Path, out: Path) -> str:
    """What is said of a method that adds a tensor which is always on the CPU."""
    import torch

    from aligners.base import Loss
    from aligners.dpo import DPO

    class OnTwoSides(DPO):
        """DPO, and zeros."""

        def loss(self, policy: Any, reference: Any) -> Any:
            """DPO's."""
            found = super().loss(policy, reference)
            return Loss(found.per_example + torch.zeros(len(found.per_example)), found.metrics)

    try:
        align(OnTwoSides, "llava-1.5", folder, out)
    except RuntimeError as error:
        return str(error)
    return ""


def answers(family: str, folder: Path, out: Path) -> list[Any]:
    """Prompts, tokens and log-probabilities (as `verify` finds them) of a base's and an adapter's answers to three pictures at once."""
    from harness.checkpoints.ask import AskedCheckpoint
    from harness.checkpoints.probes import Probe
    from harness.checkpoints.verify import TrainedSide, served_side
    from harness.core.types import ImageRef
    from harness.serving.transformers import TransformersBackend, TransformersSettings

    base, adapter = str(folder / family), folder / "trained" / family / "checkpoint"
    probes = [Probe(str(n), "What is it?", ImageRef(path=folder / f"{n}.png"), size) for n, size in enumerate(SIZES)]
    asked = [AskedCheckpoint("base", base, None), AskedCheckpoint("aligned", base, adapter)]
    engine = TransformersBackend(base, {"aligned": adapter}, TransformersSettings(batch_size=3, dtype="float32"))
    engine.start()
    served = served_side(engine, asked, probes)
    trained = TrainedSide(asked, "float32")
    compared: list[Any] = []
    for checkpoint in asked:
        for probe in probes:
            told = served[checkpoint.name][probe.id]
            expected = trained.values(checkpoint, probe, told)
            assert expected.prompt_ids == told.prompt_ids
            np.testing.assert_allclose(expected.logprobs, told.logprobs, atol=1e-4)
            compared += [*told.prompt_ids, *told.token_ids, *told.logprobs]
    return compared


def regions(source: str, folder: Path, out: Path) -> list[float]:
    """Boxes, scores and areas that a region source finds."""
    from aligners.rejected_images import ImagePreferenceSettings
    from aligners.rejected_images.boxes import RegionQuery
    from aligners.rejected_images.keywords import Keyword
    from aligners.rejected_images.regions import REGION_SOURCES

    settings = ImagePreferenceSettings(
        regions=source,
        detector=str(folder / source) if DETECTORS[source] else None,
        segmenter=str(folder / ("sam" if DETECTORS[source] else "sam3")),
        box_threshold=0.01,
        text_threshold=0.01,
        precision="float32",
    )
    keywords = [Keyword(word, (word,), 1.0) for word in ("dog", "cup")]
    pictures = [Image.open(folder / f"{number}.png") for number in range(len(SIZES))]
    found = REGION_SOURCES[source](settings).locate([RegionQuery(picture, keywords) for picture in pictures])
    return [number for hits in found for hit in hits for number in (*hit.box, hit.score, float(hit.mask.sum()))]


TASKS: Mapping[str, Callable[[Path, Path], Any]] = {
    **{f"align {method}": partial(align, method, "llava-1.5", epochs=2, precision="float32") for method in METHODS},
    "align in full": partial(
        align, "dpo", "llava-1.5", limit=8, epochs=3, precision="bfloat16", tuning="full", gradient_checkpointing=True
    ),
    "resume": resumed,
    "two sides": on_two_sides,
    **{
        f"train {family}": partial(align, "dpo", family, limit=8, epochs=3, precision="bfloat16") for family in FAMILIES
    },
    **{f"answer {family}": partial(answers, family) for family in FAMILIES},
    **{f"find {source}": partial(regions, source) for source in DETECTORS},
}
"""By name: functions of the folder that `make` filled and of the task's own."""

EXHAUSTIVE = {
    *(f"align {method}" for method in METHODS if method != "mfpo"),
    *(f"train {family}" for family in ("llava-v1.6", "qwen2-vl", "qwen3-vl", "smolvlm", "smolvlm2")),
    *(f"answer {family}" for family in ("llava-v1.6", "qwen2-vl", "qwen3-vl", "smolvlm", "smolvlm2")),
    "find owlv2+sam",
}
"""The same again."""
