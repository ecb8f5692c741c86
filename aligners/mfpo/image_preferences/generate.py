"""The image preference generator: keywords -> regions -> noise, kept as a Parquet set that can be looked at and reused."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from aligners.base import PrepareContext
from aligners.mfpo.image_preferences.keywords import keywords, pipeline
from aligners.mfpo.image_preferences.noise import STEPS, diffuse
from aligners.mfpo.image_preferences.regions import DatasetRegions, GroundingDinoSam, Located, RegionSource
from harness.config import StrictModel
from harness.files import atomic_path, sha256_json
from harness.progress import console, progress
from harness.types import ImageRef, PreferenceExample

FORMAT = 2
"""Raised when the generator's output changes."""


class ImagePreferenceSettings(StrictModel):
    """How the rejected images are made."""

    top_k: int = Field(5, ge=1, description="keywords an example")
    regions: Literal["auto", "dataset", "grounding-dino+sam"] = Field(
        "auto",
        description="where regions come from; auto: the data set's boxes if every example has them, else the detector",
    )
    step: int = Field(500, ge=1, le=STEPS, description="diffusion step t")
    on_nothing: Literal["whole-image", "drop"] = Field(
        "whole-image", description="what to do when no keyword is found in the image"
    )
    pipeline: str = Field("blank", description="spaCy pipeline for noun phrases; 'blank' needs no download")
    detector: str = "IDEA-Research/grounding-dino-base"
    segmenter: str = "facebook/sam-vit-base"
    box_threshold: float = Field(0.35, gt=0, lt=1)
    text_threshold: float = Field(0.25, gt=0, lt=1)


def generate(
    examples: Sequence[PreferenceExample],
    settings: ImagePreferenceSettings,
    context: PrepareContext,
) -> tuple[list[PreferenceExample], dict[str, Any]]:
    """Add `images["rejected"]` to every example that has none.

    Returns:
        The examples (fewer, if `on_nothing` is "drop"), and counts: how many were made, by whole-image noise, dropped,
        given by the data set; the region source and where the set is kept.
    """
    wanted = [example for example in examples if "rejected" not in example.images]
    source = settings.regions
    if source == "auto":
        source = "dataset" if all(example.regions for example in wanted) else "grounding-dino+sam"
    key = sha256_json(
        {
            "format": FORMAT,
            "source": source,
            "seed": context.seed,
            "settings": settings.model_dump(exclude={"regions", "on_nothing"}),
            "examples": [
                [
                    one.id,
                    one.responses["chosen"],
                    one.images["original"].fingerprint(),
                    [[region.label, region.box] for region in one.regions] if source == "dataset" else None,
                ]
                for one in wanted
            ],
        }
    )
    path = context.cache / "image_preferences" / f"{key[:32]}.parquet"
    if wanted and not path.exists():
        console.print(f"[dim]rejected images: regions from {source}, diffusion step {settings.step}[/dim]")
        _write(path, wanted, settings, _source(source, settings), context.seed)
    made = _read(path) if wanted else {}
    result: list[PreferenceExample] = []
    counts = {"regions": 0, "whole-image": 0, "dropped": 0, "given": len(examples) - len(wanted)}
    for example in examples:
        if "rejected" in example.images:
            result.append(example)
            continue
        found, data = made[example.id]
        kind = "regions" if found else "dropped" if settings.on_nothing == "drop" else "whole-image"
        counts[kind] += 1
        if kind != "dropped":
            image = ImageRef(data=data, name=f"{example.id}, rejected")
            result.append(replace(example, images={**example.images, "rejected": image}))
    if counts["whole-image"] or counts["dropped"]:
        console.print(
            f"[yellow]no keyword was found in the image of {counts['whole-image'] + counts['dropped']} examples: "
            f"{counts['whole-image']} got noise everywhere, {counts['dropped']} were dropped[/yellow]"
        )
    return result, {**counts, "source": source, "step": settings.step, "kept_in": str(path) if wanted else None}


def _source(name: str, settings: ImagePreferenceSettings) -> RegionSource:
    makers: dict[str, Callable[[], RegionSource]] = {
        "dataset": DatasetRegions,
        "grounding-dino+sam": lambda: GroundingDinoSam(
            settings.detector, settings.segmenter, settings.box_threshold, settings.text_threshold
        ),
    }
    return makers[name]()


def _write(
    path: Path,
    examples: Sequence[PreferenceExample],
    settings: ImagePreferenceSettings,
    source: RegionSource,
    seed: int,
) -> None:
    """One row an example: id, keywords, boxes, step, seed, mask (PNG), rejected image (PNG)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    nlp = pipeline(settings.pipeline)
    writer: Any = None
    with atomic_path(path) as temporary:
        with progress("making rejected images", len(examples)) as advance:
            for start in range(0, len(examples), 64):
                block = examples[start : start + 64]
                asked = [keywords(example.responses["chosen"], settings.top_k, nlp) for example in block]
                located = source.locate(block, asked)
                rows = [_row(*pair, settings.step, f"{seed}:{pair[0].id}") for pair in zip(block, located, strict=True)]
                table = pa.Table.from_pylist(rows, schema=_schema(pa))
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
                advance(len(block))
        writer.close()


def _schema(pa: Any) -> Any:
    box = pa.list_(pa.float32())
    return pa.schema(
        [
            ("id", pa.string()),
            ("keywords", pa.list_(pa.string())),
            ("boxes", pa.list_(box)),
            ("step", pa.int32()),
            ("seed", pa.string()),
            ("mask", pa.binary()),
            ("image", pa.binary()),
        ]
    )


def _row(example: PreferenceExample, located: list[Located], step: int, seed: str) -> dict[str, Any]:
    original = np.asarray(example.images["original"].open())
    mask = np.any([one.mask for one in located], axis=0) if located else np.ones(original.shape[:2], bool)
    return {
        "id": example.id,
        "keywords": [one.keyword for one in located],
        "boxes": [list(one.box) for one in located],
        "step": step,
        "seed": seed,
        "mask": _png(mask.astype(np.uint8) * 255),
        "image": _png(diffuse(original, mask, step, seed)),
    }


def _png(values: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _read(path: Path) -> dict[str, tuple[bool, bytes]]:
    """Example id -> (whether a region was found, PNG bytes)."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["id", "keywords", "image"])
    return {row["id"]: (bool(row["keywords"]), row["image"]) for row in table.to_pylist()}
