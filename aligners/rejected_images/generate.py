"""Rejected images for an alignment: the same set as `harness data corrupt` writes, in the cache under a hash of everything that
determines it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aligners.base import PrepareContext
from aligners.preferences.cells import CellImage, RowGroups, SourceCell
from aligners.preferences.opening import open_table
from aligners.preferences.set_folder import CONFIG
from aligners.rejected_images.image_set import set_files, write_set
from aligners.rejected_images.parts import SetRecipe
from aligners.rejected_images.records import ImagePreferenceNotes
from aligners.rejected_images.regions import choose_source
from aligners.rejected_images.samples import write_samples
from aligners.rejected_images.settings import ImagePreferenceSettings
from aligners.rejected_images.table import FORMAT, MADE
from harness.core.files import sha256_bytes, sha256_json
from harness.core.types import ImageRef, PreferenceExample

logger = logging.getLogger(__name__)


def generate(
    examples: Sequence[PreferenceExample],
    settings: ImagePreferenceSettings,
    context: PrepareContext,
) -> tuple[list[PreferenceExample], ImagePreferenceNotes]:
    """Add `images["rejected"]` to every example that has none.

    Returns:
        The examples (fewer, if `on_nothing` is "drop"), and notes for the run's manifest.
    """
    wanted = [example for example in examples if "rejected" not in example.images]
    chosen = settings.model_copy(update={"regions": choose_source(settings.regions, wanted)})
    counts = dict.fromkeys(MADE, 0) | {"dropped": 0, "given": len(examples) - len(wanted)}
    result, folder, ranked = list(examples), None, None
    if wanted:
        recipe = SetRecipe(chosen, context.seed, whole=False)
        identity = {"contents": _contents(wanted, chosen.regions)}
        key = sha256_json([FORMAT, identity, chosen.determining(), context.seed])
        folder = context.cache / "image_preferences" / key[:32]
        if not (folder / CONFIG).exists():
            logger.info(f"rejected images: {chosen.described()}{sources(chosen)}")
        manifest = write_set(folder, wanted, recipe, identity, wait=True)
        counts |= {name: manifest.counts[name] for name in (*MADE, "dropped") if name != "given"}
        ranked = manifest.keywords
        result = _with_images(examples, folder)
    said(counts, settings)
    notes = {
        **counts,
        "source": chosen.regions if chosen.how.where == "keywords" else None,
        **settings.recorded(),
        "keywords": ranked,
        "kept_in": str(folder) if folder else None,
    }
    if context.output is not None:
        notes["samples"] = write_samples(result, folder, context.output)
    return result, ImagePreferenceNotes.model_validate(notes)


def sources(settings: ImagePreferenceSettings) -> str:
    """Text with the source of the regions, if the corruption uses regions."""
    return f"; regions from {settings.regions}" if settings.how.where == "keywords" else ""


def said(counts: dict[str, int], settings: ImagePreferenceSettings) -> None:
    """Log how often no keyword was found in an image, and what was done then."""
    nothing = counts["whole-image"] + counts["dropped"]
    if nothing and settings.how.where == "keywords":
        logger.warning(
            f"no keyword was found in the image of {nothing:,} of {sum(counts.values()):,} examples: in "
            f"{counts['whole-image']:,} the whole image was corrupted, {counts['dropped']:,} were dropped"
        )


def _contents(examples: Sequence[PreferenceExample], regions: str) -> str:
    """A digest of everything that the generator uses."""
    return sha256_json(
        [
            [
                example.id,
                example.responses["chosen"],
                example.images["original"].fingerprint(),
                [[region.label, region.box] for region in example.regions] if regions == "dataset" else None,
            ]
            for example in examples
        ]
    )


def _with_images(examples: Sequence[PreferenceExample], folder: Path) -> list[PreferenceExample]:
    """The examples with their images of the set, which stay in its files; examples without one are left out."""
    groups = RowGroups()
    tables = [open_table(file, groups, None) for file in set_files(folder)]
    made = {
        row["id"]: _image(row["id"], row["rejected_image"])
        for table in tables
        for _, row in table.records(table.numbers())
    }
    result = []
    for example in examples:
        if "rejected" in example.images:
            result.append(example)
        elif example.id in made:
            result.append(replace(example, images={**example.images, "rejected": made[example.id]}))
    return result


def _image(name: str, cell: SourceCell) -> ImageRef:
    """The image in a cell. It is read once here, row group by row group, so that it is not read again for its digest."""
    source = CellImage(cell, None)
    return ImageRef(source=source, name=f"{name}, rejected", digest=sha256_bytes(source.read()))
