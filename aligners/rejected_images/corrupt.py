"""`harness data corrupt`: writes a preference set with its rejected images, which can be checked, published, and used as data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from aligners.base import ranked_of
from aligners.preferences import DataOptions, read_preferences
from aligners.preferences.set_folder import WHOLE, SetShard
from aligners.rejected_images.generate import check_levels, said, sources
from aligners.rejected_images.image_set import DROPPED, PART_SIZE, write_set
from aligners.rejected_images.parts import SetRecipe, Write, write_here
from aligners.rejected_images.records import ImageSetManifest
from aligners.rejected_images.regions import choose_source
from aligners.rejected_images.resolved import resolved_facts
from aligners.rejected_images.settings import ImagePreferenceSettings
from harness.core.errors import BadInputError
from harness.core.files import write_jsonl
from harness.core.paths import cache_folder
from harness.core.types import PreferenceExample
from harness.core.worlds import pairs_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorruptRequest:
    """What the user asked for. `write` makes the parts: in this process, in several, or with Ray Data. `levels`: make a list of rejected
    images for every example, see `generate.generate`."""

    data: str
    output: Path
    settings: ImagePreferenceSettings
    seed: int = 0
    limit: int | None = None
    on_error: Literal["fail", "skip"] = "fail"
    shard: SetShard = WHOLE
    part_size: int = PART_SIZE
    replace: bool = False
    overwrite: bool = False
    write: Write = write_here
    options: DataOptions = field(default_factory=DataOptions)
    levels: tuple[float, ...] = ()


def corrupt(request: CorruptRequest) -> ImageSetManifest:
    """Write or resume the set; returns its (or the shard's) manifest.

    Raises:
        BadInputError: the data, a setting or the folder is unusable.
    """
    if request.limit is not None and request.limit < 1:
        raise BadInputError(f"--limit must be at least 1, not {request.limit}")
    if request.overwrite and request.shard.count > 1:
        raise BadInputError(
            "--overwrite would remove the files of the other shards",
            remedy=f"remove the folder {request.output} yourself, then start the shards",
        )
    data = read_preferences(
        pairs_of(request.data, "mfpo"),
        on_error=request.on_error,
        limit=request.limit,
        seed=request.seed,
        cache=cache_folder(),
        options=request.options,
    )
    recipe = SetRecipe(request.settings, request.seed, whole=True, replace=request.replace, levels=request.levels)
    _check_given(data.examples, recipe)
    if request.levels:
        check_levels(() if request.replace else data.examples, request.settings, request.levels, "--levels ")
    wanted = [one for one in data.examples if not recipe.given(one)]
    if given := len(data.examples) - len(wanted):
        what = "a list of rejected images" if request.levels else "a rejected image"
        logger.info(
            f"{given:,} of {len(data.examples):,} examples already have {what}, which is kept (--replace makes new ones)"
        )
    settings = request.settings.model_copy(update={"regions": choose_source(request.settings.regions, wanted)})
    logger.info(f"rejected images: {settings.described()}{sources(settings)}")
    manifest = write_set(
        request.output,
        data.examples,
        replace(recipe, settings=settings),
        {
            "data": request.data,
            "fingerprint": data.fingerprint,
            **({"levels": [*request.levels]} if request.levels else {}),
            **resolved_facts(settings),
        },
        shard=request.shard,
        part_size=request.part_size,
        write=request.write,
        overwrite=request.overwrite,
    )
    if data.dropped:
        path = request.output / DROPPED
        write_jsonl(path, ({"where": d.where, "id": d.id, "reason": d.reason} for d in data.dropped))
        logger.warning(f"{len(data.dropped)} records were skipped: {path}")
    said(manifest.counts, settings)
    return manifest


def _check_given(examples: Sequence[PreferenceExample], recipe: SetRecipe) -> None:
    """Check that the set has a column for the rejected images of the data.

    Raises:
        BadInputError: lists of images, of which the set has none, or one image per example, in a set of lists.
    """
    if not recipe.levels:
        if ranked := next((example for example in examples if ranked_of(example.images)), None):
            raise BadInputError(
                "the data have lists of rejected images, which a set would lose",
                where=f"{ranked.id}, ranked_images",
                remedy="make a set of lists (--levels), train on the data as they are, or leave out the column",
            )
    elif not recipe.replace and (
        single := next((example for example in examples if "rejected" in example.images), None)
    ):
        raise BadInputError(
            "the data have one rejected image per example, which a set of lists would lose",
            where=f"{single.id}, rejected_image",
            remedy="leave out --levels, or replace the images of the data: --replace",
        )
