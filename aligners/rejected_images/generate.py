"""Rejected images for an alignment: the same set as `harness data corrupt` writes, in the cache under a hash of everything that
determines it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from aligners.base import PrepareContext, ranked_of, rejected_names
from aligners.preferences.cells import CellImage, RowGroups, SourceCell
from aligners.preferences.opening import open_table
from aligners.preferences.set_folder import CONFIG
from aligners.rejected_images.image_set import set_files, write_set
from aligners.rejected_images.parts import SetRecipe
from aligners.rejected_images.records import ImagePreferenceNotes
from aligners.rejected_images.regions import choose_source
from aligners.rejected_images.resolved import resolved_facts
from aligners.rejected_images.samples import write_samples
from aligners.rejected_images.settings import ImagePreferenceSettings
from aligners.rejected_images.table import FORMAT, MADE
from harness.core.diffusion import Diffusion
from harness.core.errors import BadInputError
from harness.core.files import sha256_bytes, sha256_json
from harness.core.types import ImageRef, PreferenceExample

logger = logging.getLogger(__name__)


def generate(
    examples: Sequence[PreferenceExample],
    settings: ImagePreferenceSettings,
    context: PrepareContext,
    levels: Sequence[float] = (),
) -> tuple[list[PreferenceExample], ImagePreferenceNotes]:
    """Add a rejected image, or a list of them, to every example that has none.

    Args:
        examples: the examples.
        settings: how the images are made.
        context: cache, seed and run.
        levels: with levels, rising and from (0, 1], a list of as many images is added, each corrupted at a level of the settings' strength
            (`ImagePreferenceSettings.at`); without, `images["rejected"]`.

    Returns:
        The examples (fewer, if `on_nothing` is "drop"), and notes for the run's manifest.

    Raises:
        BadInputError: two levels give the same image, or an example has a list of another length.
    """
    names = rejected_names(len(levels)) if levels else ("rejected",)
    if levels:
        check_levels(examples, settings, levels)
    wanted = [example for example in examples if names[0] not in example.images]
    chosen = settings.model_copy(update={"regions": choose_source(settings.regions, wanted)})
    counts = dict.fromkeys(MADE, 0) | {"dropped": 0, "given": len(examples) - len(wanted)}
    result, folder, ranked = list(examples), None, None
    how: dict[str, Any] = {}  # nothing is known of how the data's images were made
    if wanted:
        recipe = SetRecipe(chosen, context.seed, whole=False, levels=tuple(levels))
        identity: dict[str, Any] = {
            "contents": _contents(wanted, chosen.regions),
            **({"levels": [*levels]} if levels else {}),
            **resolved_facts(chosen),
        }
        key = sha256_json([FORMAT, identity, chosen.determining(), context.seed])
        folder = context.cache / "image_preferences" / key[:32]
        if not (folder / CONFIG).exists():
            logger.info(f"rejected images: {chosen.described()}{sources(chosen)}")
        manifest = write_set(folder, wanted, recipe, identity, wait=True)
        # Sets of earlier versions do not say how many images are unchanged.
        counts |= {name: manifest.counts.get(name, 0) for name in (*MADE, "dropped") if name != "given"}
        ranked = manifest.keywords
        how = {
            "source": chosen.regions if chosen.how.where == "keywords" else None,
            **settings.recorded(),
            **({"levels": [*levels]} if levels else {}),
        }
        result = _with_images(examples, folder, names)
    said(counts, settings)
    notes = {
        **counts,
        **(how or {"source": "given"}),
        "keywords": ranked,
        "kept_in": str(folder) if folder else None,
    }
    if context.output is not None:
        notes["samples"] = write_samples(result, folder, context.output, names[-1])
    return result, ImagePreferenceNotes.model_validate(notes)


def check_levels(
    examples: Sequence[PreferenceExample],
    settings: ImagePreferenceSettings,
    levels: Sequence[float],
    option: str = "--set method.levels=",
) -> None:
    """Make sure that the images of a list differ, and that a list in the data has one image per level.

    Raises:
        BadInputError: they do not, or the lowest level leaves the image as it is.
    """
    lowest = settings.at(levels[0])
    if isinstance(lowest, Diffusion) and lowest.kept == 1:
        raise BadInputError(
            f"the level {levels[0]:g} of {settings.described()} is step 0, which adds no noise",
            remedy="take a higher level, or a larger step",
        )
    for weaker, stronger in pairwise(levels):
        if settings.at(weaker) == settings.at(stronger):
            raise BadInputError(
                f"the levels {weaker:g} and {stronger:g} of {settings.described()} are the same diffusion step",
                remedy="take levels that are further apart, or a larger step",
            )
    for example in examples:
        length = len(ranked_of(example.images))
        if length not in (0, len(levels)):
            raise BadInputError(
                f"the example has a list of {length} rejected images, and {len(levels)} are compared",
                where=example.id,
                remedy=f"give as many levels: {option}{[round(n / length, 2) for n in range(1, length + 1)]}",
            )


def sources(settings: ImagePreferenceSettings) -> str:
    """Text with the source of the regions, if the corruption uses regions."""
    return f"; regions from {settings.regions}" if settings.how.where == "keywords" else ""


def said(counts: dict[str, int], settings: ImagePreferenceSettings) -> None:
    """Log how often no keyword was found in an image, what was done then, and how many images are unchanged."""
    nothing = counts["whole-image"] + counts["dropped"]
    if nothing and settings.how.where == "keywords":
        logger.warning(
            f"no keyword was found in the image of {nothing:,} of {sum(counts.values()):,} examples: in "
            f"{counts['whole-image']:,} the whole image was corrupted, {counts['dropped']:,} were dropped (a keyword counts as "
            "not found if the corruption changes nothing in its regions)"
        )
    if unchanged := counts.get("unchanged", 0):
        logger.warning(
            f"the rejected image of {unchanged:,} of {sum(counts.values()):,} examples is the same as the original: the corruption "
            "changes nothing of it, so these examples train no image preference (another --corruption, or leave them out)"
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


def _with_images(examples: Sequence[PreferenceExample], folder: Path, names: Sequence[str]) -> list[PreferenceExample]:
    """The examples with their images of the set, which stay in its files; examples without any are left out."""
    groups = RowGroups()
    tables = [open_table(file, groups, None) for file in set_files(folder)]
    made = {row["id"]: _images(row, names) for table in tables for _, row in table.records(table.numbers())}
    result = []
    for example in examples:
        if names[0] in example.images:
            result.append(example)
        elif example.id in made:
            result.append(replace(example, images={**example.images, **made[example.id]}))
    return result


def _images(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, ImageRef]:
    """The images in a row's cell, by name: a list of them, or the one. They are read once here, row group by row group, so that they are
    not read again for their digests."""
    listed: SourceCell | None = row.get("ranked_images")
    images = {}
    for number, name in enumerate(names):
        source = CellImage(row["rejected_image"], None) if listed is None else CellImage(listed, number)
        images[name] = ImageRef(source=source, name=f"{row['id']}, {name}", digest=sha256_bytes(source.read()))
    return images
