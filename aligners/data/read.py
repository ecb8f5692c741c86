"""Reading preference data: every record checked, its texts in memory, its images left where they are."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aligners.data.cells import RowGroups
from aligners.data.formats import BadRecordError, Format, Record, detect, find_format
from aligners.data.pictures import Pictures
from aligners.data.records import example_from
from aligners.data.sources import KNOWN, Files, find_files
from aligners.data.tables import BROKEN, Table, open_table
from harness.errors import BadInputError
from harness.files import sha256_json
from harness.images import TREATMENTS, ImageFacts
from harness.progress import console, progress
from harness.types import ImageRef, PreferenceExample

if TYPE_CHECKING:
    from aligners.base import AlignJob

_BLOCK = 64
"""Records that are looked at together."""
_SAMPLE = 64
"""Records of a file that its format is told by."""


@dataclass(frozen=True)
class Dropped:
    """A record that was left out: file and row, its id, and why."""

    where: str
    id: str
    reason: str


@dataclass(frozen=True)
class PreferenceSet:
    """Checked examples, what was dropped, and a fingerprint of the examples' content.

    Attributes:
        examples: in the data's order. Their images are opened when asked.
        dropped: what was left out.
        fingerprint: SHA-256 over texts and images.
        label: the source as it was named.
        formats: names of the formats that the files have.
        facts: digest of an image -> its size and what decoding does to it.
        rows: example id -> file and row it was read from.
    """

    examples: list[PreferenceExample]
    dropped: list[Dropped]
    fingerprint: str
    label: str
    formats: tuple[str, ...] = ()
    facts: Mapping[str, ImageFacts] = field(default_factory=dict, repr=False)
    rows: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def images(self) -> dict[str, ImageRef]:
        """Every image once, by its digest."""
        return {image.fingerprint(): image for example in self.examples for image in example.images.values()}

    @property
    def treated(self) -> dict[str, int]:
        """How many images decoding changes, by what it does (`harness.images.TREATMENTS`)."""
        counts = Counter(name for facts in self.facts.values() for name in facts.treated)
        return {name: counts[name] for name in TREATMENTS if counts[name]}


def preferences_of(job: AlignJob) -> PreferenceSet:
    """The data of an alignment, as its settings have it read."""
    return read_preferences(
        job.data,
        on_error=job.on_error,
        limit=job.limit,
        seed=job.train.seed,
        cache=job.cache,
        allow_download=job.allow_download,
    )


def read_preferences(
    source: str,
    *,
    on_error: Literal["fail", "skip"] = "fail",
    limit: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    format_name: str | None = None,
    allow_download: bool = False,
) -> PreferenceSet:
    """Read and check a preference data set.

    Args:
        source: a `.parquet`, `.jsonl` or `.json` file, a folder of them, or a name in `KNOWN`; `FORMAT:FILE` names its format too.
        on_error: a bad record stops the reading, or is left out and listed in `dropped`.
        limit: keep a seeded sample of this many records, in their order.
        seed: of the sample.
        cache: where copies of badly grouped Parquet files and fetched images are kept; None: neither is made.
        format_name: the format; by default it is told by the columns.
        allow_download: fetch images that are given by URL.

    Raises:
        BadInputError: no such data, no known format, a broken file, or (unless skipped) a bad record, named by file and row.
    """
    place, named = _named(source, format_name)
    found = find_files(place)
    groups = RowGroups()
    tables = [open_table(file, groups, cache) for file in found.files]
    wanted = _sampled(tables, limit, seed)
    reader = _Reader(found, Pictures(found.root, cache, allow_download), on_error)
    total = sum(map(len, wanted))
    with progress(f"reading {place if place in KNOWN else Path(place).name}", total) as advance:
        for table, rows in zip(tables, wanted, strict=True):
            if rows:
                reader.read(table, rows, named, advance)
    if not reader.examples:
        first = "; ".join(f"{Path(one.where).name}: {one.reason}" for one in reader.dropped[:3])
        raise BadInputError(
            f"no usable preference record among {total}{f'; the first: {first}' if first else ''}", where=source
        )
    examples = list(reader.examples.values())
    found_set = PreferenceSet(
        examples, reader.dropped, _fingerprint(examples), source, tuple(reader.formats), reader.facts(), reader.rows
    )
    for name, count in found_set.treated.items():
        console.print(f"[dim]{count} images are {TREATMENTS[name]}[/dim]")
    return found_set


def _named(source: str, format_name: str | None) -> tuple[str, Format | None]:
    """The place and the format of `FORMAT:PLACE`."""
    from aligners.data.formats import FORMATS

    head, colon, rest = source.partition(":")
    if colon and head in FORMATS and rest:
        return rest, find_format(format_name or head)
    return source, find_format(format_name) if format_name else None


def _sampled(tables: list[Table], limit: int | None, seed: int) -> list[Collection[int]]:
    """The rows of every table that are read."""
    numbers = [table.numbers() for table in tables]
    total = sum(map(len, numbers))
    if limit is None or limit >= total:
        return numbers
    places = [(number, row) for number, rows in enumerate(numbers) for row in rows]
    chosen: list[Collection[int]] = [[] for _ in tables]
    for number, row in sorted(random.Random(seed).sample(places, limit)):
        chosen[number].append(row)  # type: ignore[attr-defined]
    return chosen


class _Reader:
    """What was read so far."""

    def __init__(self, found: Files, pictures: Pictures, on_error: Literal["fail", "skip"]) -> None:
        self._found, self._pictures, self._on_error = found, pictures, on_error
        self.examples: dict[str, PreferenceExample] = {}
        self.dropped: list[Dropped] = []
        self.rows: dict[str, str] = {}
        self.formats: dict[str, None] = {}

    def read(self, table: Table, rows: Collection[int], named: Format | None, advance: Callable[..., None]) -> None:
        """The wanted rows of a table: images are looked at by several threads, everything else is done in order."""
        records = table.records(rows)
        first = list(itertools.islice(records, _SAMPLE))
        whole = [record for _, record in first if BROKEN not in record]
        kind = detect(table.file, whole, named) if whole else find_format("plain")
        self.formats.setdefault(kind.name)

        def checked(pair: tuple[int, Record]) -> PreferenceExample | BadRecordError:
            try:
                return self._example(table.file, *pair, kind)
            except BadRecordError as error:
                return error

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for block in _blocks(itertools.chain(first, records)):
                for (row, record), result in zip(block, pool.map(checked, block), strict=True):
                    self._take(table.file, row, record, result)
                    advance()

    def _example(self, file: Path, row: int, record: Record, kind: Format) -> PreferenceExample:
        if BROKEN in record:
            raise BadRecordError(str(record[BROKEN]))
        said = kind.said(record)
        name = next((str(one) for one in (said.id, said.number) if one is not None), self._fallback(file, row))
        images = {"original": self._pictures.find(said.image, file.parent, f"image of {name}")}
        if said.rejected_image is not None:
            images["rejected"] = self._pictures.find(said.rejected_image, file.parent, f"rejected image of {name}")
        return example_from(said, images, record, name)

    def _fallback(self, file: Path, row: int) -> str:
        return f"{file.relative_to(self._found.root).with_suffix('')}-{row}"

    def _take(self, file: Path, row: int, record: Record, result: PreferenceExample | BadRecordError) -> None:
        where = f"{file}:{row}"
        if isinstance(result, PreferenceExample) and result.id in self.examples and record.get("id") is None:
            # A data set's own numbering may begin again in each of its files; only an `id` promises to be the only one.
            result = replace(result, id=f"{result.id}@{self._fallback(file, row)}")
        if isinstance(result, PreferenceExample) and result.id in self.examples:
            result = BadRecordError(f"the id '{result.id}' was seen before, at {self.rows[result.id]}")
        if isinstance(result, PreferenceExample):
            self.examples[result.id] = result
            self.rows[result.id] = where
            return
        if self._on_error == "fail":
            raise BadInputError(
                str(result),
                where=where,
                remedy="mend the record, or leave bad ones out: --on-error skip; all of them: harness data check FILE",
            ) from None
        self.dropped.append(Dropped(where, str(record.get("id", record.get("idx", row))), str(result)))

    def facts(self) -> dict[str, ImageFacts]:
        """What was seen of the images that are used."""
        images = (image for example in self.examples.values() for image in example.images.values())
        return {image.fingerprint(): self._pictures.facts(image) for image in images}


def _blocks(pairs: Iterator[tuple[int, Record]]) -> Iterator[list[tuple[int, Record]]]:
    while block := list(itertools.islice(pairs, _BLOCK)):
        yield block


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
