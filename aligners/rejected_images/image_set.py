"""A set of rejected images on disk: a folder of Parquet parts that can be interrupted, continued, and written in shards.

    config.json                         what determines it, written first
    part-00000.parquet ...              several shards: shard-1-of-4-part-00000.parquet ...
    manifest.json                       counts and files, written last; a shard's is shard-1-of-4.json, the last shard writes this one

A part under way ends in `.unfinished`: nothing reads it as data before its whole shard is there.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aligners.preferences.cells import parquet_rows
from aligners.rejected_images.keywords import keyword_notes
from aligners.rejected_images.parts import SetPart, SetRecipe, Write, write_here
from aligners.rejected_images.size import predicted_bytes
from aligners.rejected_images.table import FORMAT, MADE
from harness.core.disk import make_folder, need
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.core.locks import writing
from harness.core.progress import progress
from harness.core.removal import REPLACED, move, remove
from harness.core.types import PreferenceExample

T = TypeVar("T")
MANIFEST, CONFIG = "manifest.json", "config.json"
_UNFINISHED, _ASIDE = ".unfinished", ".replaced"
PART_SIZE = 256
"""Examples a part."""


@dataclass(frozen=True)
class SetShard:
    """The `number`-th of `count` stretches of the examples, from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> SetShard:
        """Read `i/n`.

        Raises:
            BadInputError: it is not of that form, or i is not one of 1 to n.
        """
        number, _, count = text.partition("/")
        given = re.fullmatch(r"[0-9]{1,6}/[0-9]{1,6}", text) is not None
        if not (given and 1 <= int(number) <= int(count)):
            raise BadInputError(
                f"--shard must be i/n with i from 1 to n, and n with at most six digits, e.g. 2/4, not '{text[:80]}'"
            )
        return cls(int(number), int(count))

    @property
    def name(self) -> str:
        """What its files begin with; sorted names are in the order of the examples."""
        return f"shard-{self.number:0{len(str(self.count))}d}-of-{self.count}" if self.count > 1 else ""

    @property
    def manifest(self) -> str:
        """Its manifest's file name."""
        return f"{self.name}.json" if self.name else MANIFEST

    def of(self, examples: Sequence[T]) -> Sequence[T]:
        """Its own stretch; all stretches together, in order, are the examples."""
        start, end = (len(examples) * edge // self.count for edge in (self.number - 1, self.number))
        return examples[start:end]


def write_set(
    folder: Path,
    examples: Sequence[PreferenceExample],
    recipe: SetRecipe,
    identity: dict[str, Any],
    *,
    shard: SetShard = SetShard(),
    part_size: int = PART_SIZE,
    write: Write = write_here,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write what is not there yet of a set, or of one shard of it, and its manifest last.

    Args:
        folder: the set's folder.
        examples: all examples, of which the shard takes its stretch.
        recipe: how the rows are made; `regions` is not "auto" any more.
        identity: what else says which set this is (data, fingerprint), JSON-able.
        shard: which stretch.
        part_size: examples a part; shards of one set may not differ in it.
        write: who writes the parts.
        overwrite: begin a set that is there again.

    Returns:
        The manifest of the shard.

    Raises:
        BadInputError: the folder holds another set or other files, or another process is writing this shard.
    """
    make_folder(folder)
    config = {
        "kind": "image_preferences",
        "format": FORMAT,
        **identity,
        "settings": recipe.settings.determining(),
        "seed": recipe.seed,
        "replace": recipe.replace,
        "examples": len(examples),
        "shards": shard.count,
        "part_size": part_size,
    }
    what = "this set" + (f"'s shard {shard.number}" if shard.name else "")
    with (
        writing(folder / f".{shard.name or 'set'}.lock", what, folder),
        replacing_set(folder) if overwrite else nullcontext(),
    ):
        _same_set(folder, config)
        if (folder / shard.manifest).exists():
            return _joined(folder, shard)
        write_json(folder / CONFIG, config)
        manifest = _write_shard(folder, shard.of(examples), recipe, config, shard, part_size, write)
        remove(folder / REPLACED, within=folder)  # the set that was here before; this one is complete
        return manifest


def _write_shard(
    folder: Path,
    examples: Sequence[PreferenceExample],
    recipe: SetRecipe,
    config: dict[str, Any],
    shard: SetShard,
    part_size: int,
    write: Write,
) -> dict[str, Any]:
    started = time.perf_counter()
    stem = f"{shard.name}-part" if shard.name else "part"
    for left_over in folder.glob(f".{stem}-*{_UNFINISHED}.*"):  # of a writer that was killed; we hold the lock
        remove(left_over, within=folder)
    parts = [
        SetPart(folder / f"{stem}-{number:05d}.parquet{_UNFINISHED}", examples[start : start + part_size])
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
    manifest = config | {
        "shard": [shard.number, shard.count],
        **_counted([(_final(part.path), part.examples) for part in parts]),
        "keywords": keyword_notes(recipe.settings.keywords, recipe.settings.pipeline)
        if recipe.settings.how.where == "keywords"
        else None,
        "versions": _versions(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(folder / shard.manifest, manifest)
    return _joined(folder, shard)


def _check_room(folder: Path, parts: Sequence[SetPart], recipe: SetRecipe) -> None:
    """The disk has room for the parts that are missing.

    Raises:
        BadInputError: it has not.
    """
    examples = [one for part in parts for one in part.examples]
    made = [one.images["original"] for one in examples if recipe.replace or "rejected" not in one.images]
    need([(folder, predicted_bytes(made), f"{len(made):,} rejected images")])


def _final(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_UNFINISHED))


def _counted(parts: Sequence[tuple[Path, Sequence[PreferenceExample]]]) -> dict[str, Any]:
    """What the parts hold: counts by how the image was made, which examples were dropped, models, keywords, files."""
    made: Counter[str] = Counter()
    found: Counter[str] = Counter()
    models: dict[str, str] = {}
    dropped: list[str] = []
    files = []
    for path, examples in parts:
        rows = list(parquet_rows(path, columns=["id", "made", "keywords", "detector", "segmenter"]))
        made.update(row["made"] for row in rows)
        for row in rows:
            found.update(set(row["keywords"] or ()))
            models.update({role: row[role] for role in ("detector", "segmenter") if row[role]})
        there = {row["id"] for row in rows}
        dropped += [one.id for one in examples if one.id not in there]
        files.append({"name": path.name, "rows": len(rows), "bytes": path.stat().st_size})
    return {
        "counts": {name: made[name] for name in MADE} | {"dropped": len(dropped)},
        "dropped": dropped,
        "models": models,
        "frequent_keywords": dict(found.most_common(20)),
        "files": files,
    }


def _versions() -> dict[str, str]:
    """The packages that the images' bytes come from."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "pyarrow", "spacy", "transformers")}


def _joined(folder: Path, shard: SetShard) -> dict[str, Any]:
    """The shard's manifest; if it is the last one to be there, the whole set's is written."""
    own: dict[str, Any] = read_json(folder / shard.manifest, "manifest")
    names = [SetShard(number, shard.count).manifest for number in range(1, shard.count + 1)]
    if shard.count > 1 and all((folder / name).exists() for name in names) and not (folder / MANIFEST).exists():
        shards = [read_json(folder / name, "manifest") for name in names]
        frequent: Counter[str] = Counter()
        for one in shards:
            frequent.update(one["frequent_keywords"])
        whole = {name: value for name, value in own.items() if name != "shard"} | {
            "counts": {name: sum(one["counts"][name] for one in shards) for name in own["counts"]},
            "dropped": [name for one in shards for name in one["dropped"]],
            "models": {role: name for one in shards for role, name in one["models"].items()},
            "frequent_keywords": dict(frequent.most_common(20)),
            "files": [file for one in shards for file in one["files"]],
            "seconds": round(sum(one["seconds"] for one in shards), 1),
        }
        write_json(folder / MANIFEST, whole)
    return own


def _same_set(folder: Path, config: dict[str, Any]) -> None:
    """A set that is continued must be the same set."""
    before = folder / CONFIG
    if before.exists():
        old, new = read_json(before, "configuration"), json.loads(json.dumps(config))
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if changed:
            raise BadInputError(
                f"the set was begun with other settings ({', '.join(changed)})",
                where=str(before),
                remedy="use the same settings, write to another folder, or start again with --overwrite",
            )
    elif not (folder / REPLACED).exists() and (
        strange := sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))
    ):  # beside a set that is begun again other files may lie, as they did before
        raise BadInputError(
            f"the folder is not empty, and is not a set of rejected images ({', '.join(strange[:3])})",
            where=str(folder),
            remedy="write to another folder",
        )


@contextmanager
def replacing_set(folder: Path) -> Iterator[None]:
    """Begin a set again: its files, and no others, are put aside for the block, and removed when the new set is complete.

    If the block fails before a part is made, they come back. The caller holds the set's lock.

    Raises:
        BadInputError: there are files, but no set.
    """
    aside = folder / REPLACED
    if not (folder / CONFIG).exists() and not aside.exists():
        if any(not path.name.endswith(".lock") for path in folder.iterdir()):
            raise BadInputError("the folder is not a set of rejected images", where=str(folder))
        yield
        return
    if aside.exists():  # of a writer that was killed: what it put aside is worth more than what it had begun
        for path in list(_set_parts(folder)):
            remove(path, within=folder)
    else:
        aside.mkdir()
        for path in list(_set_parts(folder)):
            move(path, aside / f"{path.name}{_ASIDE}", within=folder)  # whoever looks for Parquet files finds none here
    try:
        yield
    except BaseException:
        if not any(folder.glob("*part-*.parquet*")):
            for path in list(_set_parts(folder)):
                remove(path, within=folder)
            for path in list(aside.iterdir()):
                move(path, folder / path.name.removesuffix(_ASIDE), within=folder)
            remove(aside, within=folder)
        raise


def _set_parts(folder: Path) -> Iterator[Path]:
    """The files of a set, the configuration last."""
    for pattern in (MANIFEST, "shard-*.json", "*part-*.parquet", f"*part-*.parquet{_UNFINISHED}", CONFIG):
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
