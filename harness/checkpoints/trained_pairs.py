"""The pairs that a run was trained on, read again; never other pairs that are now at the same path."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligners.preferences import PreferenceSet, read_preferences
from aligners.preferences.options import DataOptions
from aligners.preferences.read import local_path, path_in, placed_at
from aligners.training.held_out import pair_content
from harness.core.errors import BadInputError, HarnessError
from harness.core.paths import cache_folder
from harness.core.worlds import pairs_of, world_of_pairs
from harness.records.manifest_file import AlignConfig
from harness.runs.folders import Run

logger = logging.getLogger(__name__)


def trained_on(run: Run, config: AlignConfig) -> set[str]:
    """Hashes of the pairs that a run was trained on.

    Args:
        run: aligned and complete.
        config: its configuration.

    Raises:
        BadInputError: they cannot be read any more, or what is in their place are others, so it is unknown which pairs are held out.
    """
    recorded: dict[str, Any] = ((run.manifest.summary if run.manifest else None) or {}).get("data") or {}
    expected = recorded.get("fingerprint")
    refused: list[BadInputError] = []
    for source, image_root in _places(run, config, recorded):
        try:
            data = _read(source, image_root, config)
        except HarnessError as error:
            refused.append(
                BadInputError(
                    "the pairs that the run was trained on cannot be read, so it is unknown which ones are held out: "
                    f"{error.problem}",
                    where=error.where,
                    remedy="put them back where they were, or run this in the folder that the run was made in",
                )
            )
            continue
        if expected is None:
            logger.warning(f"{run.path}: the manifest has no fingerprint of the data, so {source} is taken for them")
        elif data.fingerprint != expected:
            refused.append(
                BadInputError(
                    "these are not the pairs that the run was trained on, so it is unknown which ones are held out: their fingerprint "
                    f"is {data.fingerprint[:12]}…, that of the run's is {expected[:12]}…",
                    where=source,
                    remedy="put back the data that the run was trained on, or align again",
                )
            )
            continue
        return {pair_content(example) for example in data.examples}
    raise refused[0]


def _read(source: str, image_root: Path | None, config: AlignConfig) -> PreferenceSet:
    return read_preferences(
        source,
        limit=config.limit,
        seed=config.settings["train"]["seed"],
        on_error="skip",
        cache=cache_folder(),
        options=DataOptions(config.columns or {}, image_root),
    )


def _places(run: Run, config: AlignConfig, recorded: dict[str, Any]) -> Iterator[tuple[str, Path | None]]:
    """Where the pairs may be, the likeliest place first, each with the folder of their images: where they were in the training; at
    the path that the user gave, seen from here, and from the folders around the run, one of which is usually the one that the run was
    made in. Data of a world or of the hub have one place.
    """
    root = Path(config.image_root) if config.image_root else None
    if world_of_pairs(config.data) is not None:
        yield pairs_of(config.data, config.method), root
        return
    seen: set[Path] = set()
    if (location := recorded.get("location")) and (path := Path(location)).exists():
        seen.add(path.resolve())
        yield placed_at(config.data, path), Path(recorded["image_root"]) if "image_root" in recorded else root
    here = local_path(config.data)
    if here is None or here.resolve() not in seen:
        seen |= {here.resolve()} if here else set()
        yield config.data, root
    if (given := path_in(config.data)) is None:
        return
    for folder in run.path.resolve().parents:
        path = folder / given
        if path.exists() and path.resolve() not in seen:
            seen.add(path.resolve())
            yield placed_at(config.data, path), folder / root if root else None
