"""Reading preference data sets: Parquet as published by RLAIF-V and RLHF-V, folders of it, and JSON lines."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aligners.data.records import BadRecordError, from_record
from harness.errors import BadInputError, HarnessError
from harness.files import sha256_json
from harness.progress import console, progress
from harness.types import ImageRef, PreferenceExample

KNOWN = {
    "rlaif-v": ("openbmb/RLAIF-V-Dataset", "about 83,000 pairs, some 12 GB"),
    "rlhf-v": ("openbmb/RLHF-V-Dataset", "about 5,700 pairs, some 300 MB"),
}
"""Names of public data sets on the hub, and what is said before they are downloaded."""
_SPILL = 2**30
"""Encoded images beyond this many bytes are kept in files of the cache folder rather than in memory."""


@dataclass(frozen=True)
class Dropped:
    """A record that was left out: file and row, its id, and why."""

    where: str
    id: str
    reason: str


@dataclass(frozen=True)
class PreferenceSet:
    """Checked examples, what was dropped, and a fingerprint of the examples' content."""

    examples: list[PreferenceExample]
    dropped: list[Dropped]
    fingerprint: str
    label: str


def read_preferences(
    source: str,
    *,
    on_error: Literal["fail", "skip"] = "fail",
    limit: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> PreferenceSet:
    """Read and check a preference data set.

    Args:
        source: a `.parquet` or `.jsonl` file, a folder of Parquet files, or a name in `KNOWN`.
        on_error: a bad record stops the reading, or is left out and listed in `dropped`.
        limit: keep a seeded sample of this many records, in their order.
        seed: of the sample.
        cache: where images are kept when they are many; None keeps them in memory.

    Raises:
        BadInputError: no such data, a broken file, or (unless skipped) a bad record, named by file and row.
    """
    files = _files(source)
    rows = list(_positions(files))
    if limit is not None and limit < len(rows):
        rows = sorted(random.Random(seed).sample(rows, limit))
    wanted: dict[int, set[int]] = {}
    for file, row in rows:
        wanted.setdefault(file, set()).add(row)
    examples: list[PreferenceExample] = []
    dropped: list[Dropped] = []
    seen: dict[str, str] = {}
    held = 0
    with progress(f"reading {source if source in KNOWN else Path(source).name}", len(rows)) as advance:
        for number, keep in wanted.items():
            for row, record in _records(files[number]):
                if row not in keep:
                    continue
                advance()
                where = f"{files[number]}:{row}"
                try:
                    example = _checked(record, row, files[number])
                    if example.id in seen:
                        raise BadRecordError(f"the id '{example.id}' was seen before, at {seen[example.id]}")
                except BadRecordError as error:
                    if on_error == "fail":
                        raise BadInputError(
                            str(error), where=where, remedy="mend the record, or leave bad ones out: --on-error skip"
                        ) from None
                    dropped.append(Dropped(where, str(record.get("id", record.get("idx", row))), str(error)))
                    continue
                seen[example.id] = where
                held += sum(len(image.data or b"") for image in example.images.values())
                examples.append(_spilled(example, cache) if cache and held > _SPILL else example)
    if not examples:
        raise BadInputError(f"no usable preference record among {len(rows)}", where=source)
    return PreferenceSet(examples, dropped, _fingerprint(examples), source)


def _files(source: str) -> list[Path]:
    if source in KNOWN:
        return _download(source)
    path = Path(source)
    if path.is_dir():
        files = sorted(path.rglob("*.parquet")) or sorted(path.glob("*.jsonl"))
        if not files:
            raise BadInputError("the folder holds neither Parquet nor JSON-lines files", where=source)
        return files
    if not path.is_file():
        raise BadInputError(
            "there is no such preference data",
            where=source,
            remedy=f"name a .parquet or .jsonl file, a folder of them, or one of: {', '.join(KNOWN)}",
        )
    if path.suffix not in (".parquet", ".jsonl"):
        raise BadInputError(f"preference data is .parquet or .jsonl, not '{path.suffix}'", where=source)
    return [path]


def _download(name: str) -> list[Path]:
    """The files of a public data set, from the hub's local cache or the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository, size = KNOWN[name]
    options: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset", "allow_patterns": ["*.parquet"]}
    try:
        folder = snapshot_download(**options, local_files_only=True)
    except LocalEntryNotFoundError:
        console.print(f"preference data {name}: downloading {repository} ({size}) from the hub")
        try:
            folder = snapshot_download(**options)
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            raise HarnessError(
                f"the data set {repository} could not be downloaded: {str(error).splitlines()[0][:200]}",
                where=name,
                remedy="check the network, or give a folder that holds its Parquet files: --data DIR",
            ) from error
    return _files(folder)


def _positions(files: list[Path]) -> Iterator[tuple[int, int]]:
    """(file number, row) of every record, without reading images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, file in enumerate(files):
        if file.suffix == ".jsonl":
            with file.open("rb") as stream:
                yield from ((number, row) for row, line in enumerate(stream, 1) if line.strip())
            continue
        try:
            count = pq.ParquetFile(file).metadata.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise BadInputError(
                f"this is not a complete Parquet file: {str(error).splitlines()[0][:200]}", where=str(file)
            ) from None
        yield from ((number, row) for row in range(1, count + 1))


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows from 1, read by row group; a broken line of JSON is a record with the key `broken`."""
    if file.suffix == ".jsonl":
        with file.open("rb") as stream:
            for row, line in enumerate(stream, 1):
                if line.strip():
                    yield row, _parsed(line)
        return
    import pyarrow.parquet as pq

    row = 0
    for block in pq.ParquetFile(file).iter_batches(batch_size=64):
        for record in block.to_pylist():
            row += 1
            yield row, record


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        return {"broken": f"the line is not valid JSON: {error}"}
    return record if isinstance(record, dict) else {"broken": "the line is not a JSON object"}


def _checked(record: dict[str, Any], row: int, file: Path) -> PreferenceExample:
    if "broken" in record:
        raise BadRecordError(str(record["broken"]))
    return from_record(record, f"{file.stem}-{row}", file.parent)


def _spilled(example: PreferenceExample, cache: Path) -> PreferenceExample:
    """The same example with its encoded images in files of the cache, named by their content."""
    import dataclasses

    from harness.files import atomic_path

    def spill(image: ImageRef) -> ImageRef:
        if image.data is None:
            return image
        path = cache / "images" / image.fingerprint()
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_bytes(image.data)
        return ImageRef(path=path, name=image.name)

    return dataclasses.replace(example, images={name: spill(image) for name, image in example.images.items()})


def _fingerprint(examples: list[PreferenceExample]) -> str:
    return sha256_json(
        [
            [
                one.id,
                one.prompt,
                dict(one.responses),
                {name: image.fingerprint() for name, image in one.images.items()},
                one.corrections,
                [[region.label, region.box] for region in one.regions],
            ]
            for one in examples
        ]
    )
