"""A set of rejected images on disk: a folder of Parquet parts that can be interrupted, continued, and written in shards.

    config.json what determines the set, written first
    part-00000.parquet ...              several shards: shard-1-of-4-part-00000.parquet ...
    manifest.json                       counts and files, written last; a shard's is shard-1-of-4.json, the last shard writes this one

A part in progress ends in `.unfinished`, so that it is not read as data before its shard is complete.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from aligners.preferences.cells import parquet_rows
from aligners.preferences.set_folder import CONFIG, MANIFEST, UNFINISHED, WHOLE, SetShard, join_shards, same_set
from aligners.rejected_images.keywords import keyword_notes
from aligners.rejected_images.parts import SetPart, SetRecipe, Write, write_here
from aligners.rejected_images.records import ImageSetConfig, ImageSetManifest
from aligners.rejected_images.size import predicted_bytes, predicted_copies
from aligners.rejected_images.table import FORMAT, MADE
from harness.core.disk import make_folder, need
from harness.core.errors import BadInputError
from harness.core.files import write_json
from harness.core.locks import writing
from harness.core.progress import progress
from harness.core.removal import REPLACED, move, remove
from harness.core.types import PreferenceExample

KIND = "image_preferences"
DROPPED = "dropped.jsonl"
"""Records of the preference data that were skipped; `harness data corrupt` writes it."""
_ASIDE = ".replaced"
PART_SIZE = 256
"""Examples per part."""


def write_set(
    folder: Path,
    examples: Sequence[PreferenceExample],
    recipe: SetRecipe,
    identity: dict[str, Any],
    *,
    shard: SetShard = WHOLE,
    part_size: int = PART_SIZE,
    write: Write = write_here,
    overwrite: bool = False,
    wait: bool = False,
) -> ImageSetManifest:
    """Write the missing parts of a set, or of one shard of it, and finally its manifest.

    Args:
        folder: the set's folder.
        examples: all examples, of which the shard takes its slice.
        recipe: how the rows are made; `regions` must not be "auto".
        identity: further identification of the set (data, fingerprint), JSON-able.
        shard: the slice to write.
        part_size: examples per part; must be equal for all shards of a set.
        write: function that writes the parts.
        overwrite: start an existing set again.
        wait: wait for another process that is writing this shard, for a set in the cache, which several trainings may need at once.

    Returns:
        The manifest of the shard.

    Raises:
        BadInputError: the folder contains another set or other files, or another process is writing this shard and `wait` is not set.
    """
    make_folder(folder)
    config = ImageSetConfig(
        kind=KIND,
        format=FORMAT,
        **identity,
        settings=recipe.settings.determining(),
        seed=recipe.seed,
        replace=recipe.replace,
        examples=len(examples),
        shards=shard.count,
        part_size=part_size,
    )
    what = "this set" + (f"'s shard {shard.number}" if shard.name else "")
    with (
        writing(folder / f".{shard.name or 'set'}.lock", what, folder, wait=wait),
        replacing_set(folder) if overwrite else nullcontext(),
    ):
        same_set(folder, config.written(), "set of rejected images")
        if (folder / shard.manifest).exists():
            return join_shards(folder, shard, ImageSetManifest, partial(_joined, folder))
        write_json(folder / CONFIG, config.written())
        manifest = _write_shard(folder, shard.of(examples), recipe, config, shard, part_size, write)
        remove(folder / REPLACED, within=folder)  # parts of the replaced set; this one is complete
        return manifest


def _write_shard(
    folder: Path,
    examples: Sequence[PreferenceExample],
    recipe: SetRecipe,
    config: ImageSetConfig,
    shard: SetShard,
    part_size: int,
    write: Write,
) -> ImageSetManifest:
    started = time.perf_counter()
    stem = f"{shard.name}-part" if shard.name else "part"
    for left_over in folder.glob(f".{stem}-*{UNFINISHED}.*"):  # left by a killed writer; we hold the lock
        remove(left_over, within=folder)
    parts = [
        SetPart(folder / f"{stem}-{number:05d}.parquet{UNFINISHED}", examples[start : start + part_size])
        for number, start in enumerate(range(0, len(examples), part_size))
    ]
    missing = [part for part in parts if not part.path.exists() and not _final(part.path).exists()]
    with progress("making rejected images", len(examples)) as advance:
        advance(len(examples) - sum(len(part.examples) for part in missing))
        if missing:
            _check_room(folder, missing, recipe)
            write(recipe, missing, advance)
    for part in parts:
        if part.path.exists():
            move(part.path, _final(part.path), within=folder)
    settings = recipe.settings
    ranked = keyword_notes(settings.keywords, settings.pipeline) if settings.how.where == "keywords" else None
    manifest = ImageSetManifest(
        **config.written(),
        shard=[shard.number, shard.count],
        **_counted([(_final(part.path), part.examples) for part in parts]),
        keywords=ranked,
        versions=_versions(),
        seconds=round(time.perf_counter() - started, 1),
    )
    write_json(folder / shard.manifest, manifest.written())
    return join_shards(folder, shard, ImageSetManifest, partial(_joined, folder))


def _check_room(folder: Path, parts: Sequence[SetPart], recipe: SetRecipe) -> None:
    """Check that the disk has room for the missing parts.

    Raises:
        BadInputError: it does not.
    """
    examples = [one for part in parts for one in part.examples]
    made = [one.images["original"] for one in examples if not recipe.given(one)]
    number = max(1, len(recipe.levels))
    copied = [one.images["original"] for one in examples] if recipe.whole else []
    copied += [one.images[name] for one in examples if recipe.given(one) for name in recipe.names]
    need(
        [
            (folder, number * predicted_bytes(made), f"{number * len(made):,} rejected images"),
            (folder, predicted_copies(copied), f"{len(copied):,} images of the data"),
        ]
    )


def _final(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(UNFINISHED))


def _counted(parts: Sequence[tuple[Path, Sequence[PreferenceExample]]]) -> dict[str, Any]:
    """Summary of the parts: counts by how the image was made, dropped examples, models, keywords, files."""
    made: Counter[str] = Counter()
    keywords: Counter[str] = Counter()
    models: dict[str, str] = {}
    dropped: list[str] = []
    files = []
    for path, examples in parts:
        rows = list(parquet_rows(path, columns=["id", "made", "keywords", "detector", "segmenter"]))
        made.update(row["made"] for row in rows)
        for row in rows:
            keywords.update(set(row["keywords"] or ()))
            models.update({role: row[role] for role in ("detector", "segmenter") if row[role]})
        written = {row["id"] for row in rows}
        dropped += [example.id for example in examples if example.id not in written]
        files.append({"name": path.name, "rows": len(rows), "bytes": path.stat().st_size})
    return {
        "counts": {name: made[name] for name in MADE} | {"dropped": len(dropped)},
        "dropped": dropped,
        "models": models,
        "frequent_keywords": _most_frequent(keywords),
        "files": files,
    }


def _versions() -> dict[str, str]:
    """Versions of the packages that determine the images' bytes."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "pyarrow", "spacy", "transformers")}


def _most_frequent(keywords: Counter[str]) -> dict[str, int]:
    """The 20 most frequent keywords with their numbers, equally frequent ones by the alphabet."""
    return dict(sorted(keywords.items(), key=lambda pair: (-pair[1], pair[0]))[:20])


def _joined(folder: Path, shards: Sequence[ImageSetManifest]) -> dict[str, Any]:
    """The keys of the whole set's manifest that replace a shard's; all shards must be complete."""
    # Counted in the parts: a keyword may be frequent in the set and not among the most frequent of a shard.
    keywords: Counter[str] = Counter()
    for row in set_rows(set_files(folder), ["keywords"]):
        keywords.update(set(row["keywords"] or ()))
    return {
        "counts": {name: sum(one.counts.get(name, 0) for one in shards) for name in (*MADE, "dropped")},
        "dropped": [name for one in shards for name in one.dropped],
        "models": {role: name for one in shards for role, name in one.models.items()},
        "frequent_keywords": _most_frequent(keywords),
        "files": [file.written() for one in shards for file in one.files],
        "seconds": round(sum(one.seconds for one in shards), 1),
    }


@contextmanager
def replacing_set(folder: Path) -> Iterator[None]:
    """Start a set again: its files, and no others, are set aside during the block, and removed when the new set is complete. If the
    block fails before a part is made, they are restored. The caller must hold the set's lock.

    Raises:
        BadInputError: the folder has files, but is not a set.
    """
    aside = folder / REPLACED
    if not (folder / CONFIG).exists() and not aside.exists():
        if any(not path.name.endswith(".lock") for path in folder.iterdir()):
            raise BadInputError("the folder is not a set of rejected images", where=str(folder))
        yield
        return
    # The configuration is set aside last and restored first. So if it is aside, a killed writer set all of the old set aside, which is
    # worth more than its incomplete new one. If it is not, the kill came between the moves, and the folder has parts of the old set.
    if (aside / f"{CONFIG}{_ASIDE}").exists():
        for path in list(_set_parts(folder)):
            remove(path, within=folder)
    else:
        aside.mkdir(exist_ok=True)
        for path in list(_set_parts(folder)):
            move(path, aside / f"{path.name}{_ASIDE}", within=folder)  # a search for Parquet files must find none here
    try:
        yield
    except BaseException:
        if not any(folder.glob("*part-*.parquet*")):
            for path in list(_set_parts(folder)):
                remove(path, within=folder)
            for path in sorted(aside.iterdir(), key=lambda path: path.name != f"{CONFIG}{_ASIDE}"):
                move(path, folder / path.name.removesuffix(_ASIDE), within=folder)
            remove(aside, within=folder)
        raise


def _set_parts(folder: Path) -> Iterator[Path]:
    """The files of a set, the configuration last."""
    for pattern in (MANIFEST, "shard-*.json", "*part-*.parquet", f"*part-*.parquet{UNFINISHED}", DROPPED, CONFIG):
        yield from sorted(folder.glob(pattern))


def set_files(folder: Path) -> list[Path]:
    """The parts of a set or a single Parquet file, in order.

    Raises:
        BadInputError: there is none, or the set is not finished.
    """
    if folder.is_file() and folder.suffix == ".parquet":
        return [folder]
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        begun = (folder / CONFIG).exists()
        raise BadInputError(
            "the set has no finished part yet" if begun else "there is no set of rejected images",
            where=str(folder),
            remedy="run the command that makes it again; it resumes"
            if begun
            else "make one: harness data corrupt PREFS -o DIR",
        )
    return files


def set_rows(files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a set, a few at a time."""
    for file in files:
        yield from parquet_rows(file, 16, columns)
