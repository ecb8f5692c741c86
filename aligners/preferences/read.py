"""Reading preference data: every record is checked; texts are in memory, images stay in their files."""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from aligners.base import rejected_names
from aligners.preferences.cells import RowGroups, SourceCell
from aligners.preferences.extras import extra_columns
from aligners.preferences.formats import BadRecordError, Format, Record, detect, find_format, first_values
from aligners.preferences.formats.base import GENERATED, MADE, MADE_BY_US, TURNS, says_something
from aligners.preferences.opening import open_table
from aligners.preferences.options import DataOptions
from aligners.preferences.pictures import Pictures
from aligners.preferences.records import check_meaning, example_from, name_of
from aligners.preferences.sources import KNOWN, Files, find_files
from aligners.preferences.tables import BROKEN, Table
from harness.core.errors import BadInputError, shown
from harness.core.files import sha256_json
from harness.core.images import TREATMENTS, ImageFacts
from harness.core.progress import progress
from harness.core.types import ImageRef, PreferenceExample

logger = logging.getLogger(__name__)

_UNREAD_LINES = 12

_BLOCK = 64
"""Number of records that are checked together."""
_SAMPLE = 64
"""Number of a file's records by which its format is recognised."""


@dataclass(frozen=True)
class Dropped:
    """A record that was left out: file and row, its id, and why."""

    where: str
    id: str
    reason: str


@dataclass(frozen=True)
class PreferenceSet:
    """Checked examples, dropped records, and a fingerprint of the examples' content.

    Attributes:
        examples: in the data's order. Images are opened on access.
        dropped: records that were left out.
        fingerprint: SHA-256 over texts and images.
        label: the source as the user named it.
        formats: names of the formats that the files have.
        facts: digest of an image -> its size and how decoding changes it.
        rows: example id -> file and row it was read from.
        unread: unused column -> number of records with a value in it.
        taken: format -> {"image", "prompt", "chosen", "rejected": the file's column that each is taken from}.
    """

    examples: list[PreferenceExample]
    dropped: list[Dropped]
    fingerprint: str
    label: str
    formats: tuple[str, ...] = ()
    facts: Mapping[str, ImageFacts] = field(default_factory=dict, repr=False)
    rows: Mapping[str, str] = field(default_factory=dict, repr=False)
    unread: Mapping[str, int] = field(default_factory=dict)
    taken: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def images(self) -> dict[str, ImageRef]:
        """Every image once, by its digest."""
        return {image.fingerprint(): image for example in self.examples for image in example.images.values()}

    @property
    def treated(self) -> dict[str, int]:
        """Number of images that decoding changes, by kind of change (`harness.core.images.TREATMENTS`)."""
        counts = Counter(name for facts in self.facts.values() for name in facts.treated)
        return {name: counts[name] for name in TREATMENTS if counts[name]}


def read_preferences(
    source: str,
    *,
    on_error: Literal["fail", "skip"] = "fail",
    limit: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    format_name: str | None = None,
    allow_download: bool = False,
    options: DataOptions | None = None,
) -> PreferenceSet:
    """Read and check a preference data set. Unused columns are logged.

    Args:
        source: a file of a type in `folder_files.SUFFIXES`, a folder of them, a data set of the hub (`hub_data.HubData`), or a name in
            `KNOWN`; `FORMAT:FILE` also names the format.
        on_error: a bad record raises an error, or is skipped and listed in `dropped`.
        limit: keep a seeded sample of this many records, in their order.
        seed: of the sample.
        cache: folder of regrouped copies of Parquet files and of downloaded images; None: neither is made, and gzip files are
            unpacked into the usual one.
        format_name: the format; by default it is recognised by the columns.
        allow_download: fetch images that are given by URL.
        options: renamed columns, and a further folder of images.

    Raises:
        BadInputError: no such data, no known format, a broken file, or (unless skipped) a bad record, named by file and row.
    """
    place, named = _named(source, format_name)
    files = find_files(place)
    groups = RowGroups()
    options = options or DataOptions()
    tables = [open_table(file, groups, cache, options.columns) for file in files.files]
    wanted = _sampled(tables, limit, seed)
    pictures = Pictures(files.root, cache, allow_download, options.image_root, files.store)
    reader = _Reader(files, pictures, on_error, options)
    total = sum(map(len, wanted))
    with progress(f"reading {place if place in KNOWN else Path(place).name}", total) as advance:
        for table, rows in zip(tables, wanted, strict=True):
            if rows:
                reader.read(table, rows, named, advance)
    if not reader.examples:
        reasons: dict[str, str] = {}
        for dropped in reader.dropped:
            reasons.setdefault(dropped.reason, f"{Path(dropped.where).name}: {dropped.reason}")
        first = "; ".join(list(reasons.values())[:3])
        if not total:
            raise BadInputError("the data contain no record", where=source, remedy="give the right file")
        raise BadInputError(
            f"no usable preference record among {total}{f'; the first: {first}' if first else ''}",
            where=source,
            remedy="fix the records, or give the right file",
        )
    examples = list(reader.examples.values())
    preferences = PreferenceSet(
        examples,
        reader.dropped,
        _fingerprint(examples),
        source,
        tuple(reader.formats),
        reader.facts(),
        reader.rows,
        dict(reader.unread),
        reader.formats,
    )
    for name, count in preferences.treated.items():
        logger.info(f"{count} images are {TREATMENTS[name]}")
    if reader.without_pair:
        logger.warning(f"{reader.without_pair:,} of {total:,} records prefer no answer to another, and give no pair")
    for line in unread_lines(preferences.unread, total):
        logger.warning(line)
    return preferences


def unread_lines(unread: Mapping[str, int], total: int) -> list[str]:
    """A line for every unused column, the most frequent first."""
    ranked = sorted(unread.items(), key=lambda pair: -pair[1])
    lines = [f"the column {shown(name)} is not used ({count:,} of {total:,} records have it)" for name, count in ranked]
    more = len(lines) - _UNREAD_LINES
    return (
        lines
        if more <= 0
        else [*lines[:_UNREAD_LINES], f"{more:,} more columns are not read: harness data check --json lists them"]
    )


def _named(source: str, format_name: str | None) -> tuple[str, Format | None]:
    """Split `FORMAT:PLACE` into place and format."""
    from aligners.preferences.formats import FORMATS

    head, colon, rest = source.partition(":")
    if colon and head in FORMATS and rest:
        return rest, find_format(format_name or head)
    return source, find_format(format_name) if format_name else None


def path_in(source: str) -> Path | None:
    """The path that a source of `read_preferences` has, without a format's name in front; None for a known name."""
    place, _ = _named(source, None)
    return None if place in KNOWN else Path(place)


def local_path(source: str) -> Path | None:
    """The file or folder that a source of `read_preferences` names; None for a name of the hub, and for what does not exist."""
    path = path_in(source)
    try:
        return path if path is not None and path.exists() else None
    except OSError:  # a text that is too long for a name
        return None


def columns_of(source: str, cache: Path | None = None, named: Mapping[str, str] | None = None) -> set[str]:
    """Names of the columns in the first records of each file of a source of `read_preferences`.

    Args:
        source, cache: as of `read_preferences`.
        named: `DataOptions.columns`; images in these columns are not read.

    Raises:
        BadInputError: no such data, or a broken file.
    """
    place, _ = _named(source, None)
    groups, columns = RowGroups(), set[str]()
    for file in find_files(place).files:
        table = open_table(file, groups, cache, named)
        for _, record in itertools.islice(table.records(table.numbers()), _SAMPLE):
            columns |= record.keys() - {BROKEN}
    return columns


def placed_at(source: str, path: Path) -> str:
    """The source with another file or folder, in the same format."""
    place, _ = _named(source, None)
    return f"{source.removesuffix(place)}{path}"


def _sampled(tables: list[Table], limit: int | None, seed: int) -> list[Collection[int]]:
    """The rows of every table that will be read."""
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
    """Collects examples while tables are read."""

    def __init__(
        self, found: Files, pictures: Pictures, on_error: Literal["fail", "skip"], options: DataOptions
    ) -> None:
        self._found, self._pictures, self._on_error, self._options = found, pictures, on_error, options
        self.unread: Counter[str] = Counter()
        self.examples: dict[str, PreferenceExample] = {}
        self.dropped: list[Dropped] = []
        self.without_pair = 0
        """Number of records whose answers all have the same score."""
        self.rows: dict[str, str] = {}
        self.formats: dict[str, dict[str, str]] = {}

    def read(self, table: Table, rows: Collection[int], named: Format | None, advance: Callable[..., None]) -> None:
        """The wanted rows of a table: images are checked in several threads, everything else is done in order."""
        read = table.records(rows)
        first = list(itertools.islice(read, _SAMPLE))
        whole = [record for _, record in first if BROKEN not in record]
        if whole:
            self._options.check(dict.fromkeys(name for record in whole for name in record), str(table.named))
        records = ((row, self._options.renamed(record)) for row, record in itertools.chain(first, read))
        kind = find_format("plain")
        if whole:
            kind = detect(table.named, map(self._options.renamed, whole), named, self._options)
        self.formats.setdefault(kind.name, self._taken(kind, whole))

        def checked(pair: tuple[int, Record]) -> list[PreferenceExample] | BadRecordError:
            try:
                return self._examples(table.named, *pair, kind)
            except BadRecordError as error:
                return error
            except BadInputError as error:  # a cell or a picture of this record that cannot be read
                return BadRecordError(error.problem)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for block in _blocks(records):
                for (row, record), result in zip(block, pool.map(checked, block), strict=True):
                    self._take(table.named, row, record, result)
                    self._note(record, kind)
                    advance()

    def _taken(self, kind: Format, records: Sequence[Record]) -> dict[str, str]:
        """The columns that a format takes an example from, by the names of the file."""
        sample = first_values(map(self._options.renamed, records))
        image = next((name for name in ("images", "image") if sample.get(name) is not None), None)
        turns = [name for name in TURNS if name in kind.reads and says_something(sample.get(name))]
        found = {**({"image": image} if image else {}), **{name: name for name in turns}, **kind.taken(sample)}
        columns = first_values(records)
        return {part: self._options.name_in_file(name, columns) for part, name in found.items()}

    def _examples(self, file: Path, row: int, record: Record, kind: Format) -> list[PreferenceExample]:
        if BROKEN in record:
            raise BadRecordError(str(record[BROKEN]))
        check_meaning(record, kind.reads)
        pairs = kind.pairs(record)
        if not pairs:  # rated answers of which none is better than another
            return []
        name = name_of(record) or self._fallback(file, row)
        images = {"original": self._pictures.find(pairs[0].image, file.parent, f"image of {name}")}
        other, others = record.get("rejected_image"), record.get("rejected_images")
        if says_something(other) and says_something(others):
            raise BadRecordError("the record has both 'rejected_image' and 'rejected_images'")
        if (value := other if says_something(other) else others) is not None and says_something(value):
            found = self._pictures.find(value, file.parent, f"rejected image of {name}")
            if found.fingerprint() != images["original"].fingerprint():  # the same record would repeat the id
                images["rejected"] = found
        if says_something(ranked := record.get("ranked_images")):
            found_all = self._pictures.find_all(ranked, file.parent, f"ranked_images of {name}")
            images |= _ranked(images["original"], found_all)
        if len(pairs) == 1:
            return [example_from(pairs[0], images, record, name)]
        if record.get("chosen_spans") is not None or record.get("rejected_spans") is not None:
            raise BadRecordError("the record has spans of corrections, but more than two answers")
        return [example_from(said, images, record, f"{name}#{number}") for number, said in enumerate(pairs, 1)]

    def _note(self, record: Record, kind: Format) -> None:
        """Count the unused columns of a record that have a value."""
        if BROKEN in record:
            return
        known = kind.reads
        for ours, mark in ((MADE, MADE_BY_US), (GENERATED, GENERATED)):
            if record.keys() >= mark:
                known = known | ours
        self.unread.update(
            name
            for name, value in record.items()
            if name not in known and (isinstance(value, SourceCell) or says_something(value))
        )

    def _fallback(self, file: Path, row: int) -> str:
        return f"{file.relative_to(self._found.root).with_suffix('')}-{row}"

    def _take(self, file: Path, row: int, record: Record, result: list[PreferenceExample] | BadRecordError) -> None:
        where = f"{file}:{row}"
        for example in result if isinstance(result, list) else ():
            if example.id in self.examples and record.get("id") is None:
                # A data set's numbering (`idx`) may start again in each file; only an `id` must be unique.
                example = replace(example, id=f"{example.id}@{self._fallback(file, row)}")
            if example.id in self.examples:
                result = BadRecordError(f"the id '{example.id}' was seen before, at {self.rows[example.id]}")
                break
            self.examples[example.id] = example
            self.rows[example.id] = where
        if isinstance(result, list):
            self.without_pair += not result
            return
        if self._on_error == "fail":
            raise BadInputError(
                str(result),
                where=where,
                remedy="fix the record, or skip invalid ones: --on-error skip; list them all: harness data check FILE",
            ) from None
        self.dropped.append(Dropped(where, shown(record.get("id", record.get("idx", row))).strip("'"), str(result)))

    def facts(self) -> dict[str, ImageFacts]:
        """Facts of the images that are used."""
        images = (image for example in self.examples.values() for image in example.images.values())
        return {image.fingerprint(): self._pictures.facts(image) for image in images}


def _blocks(pairs: Iterator[tuple[int, Record]]) -> Iterator[list[tuple[int, Record]]]:
    while block := list(itertools.islice(pairs, _BLOCK)):
        yield block


def _ranked(original: ImageRef, images: Sequence[ImageRef]) -> dict[str, ImageRef]:
    """A list of rejected images by their names in an example.

    Raises:
        BadRecordError: two images of the list are the same, or one is the original.
    """
    if len({image.fingerprint() for image in (original, *images)}) <= len(images):
        raise BadRecordError("the images in 'ranked_images' must differ from each other and from the original")
    return dict(zip(rejected_names(len(images)), images, strict=True))


def _given(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if value is not None}


def _fingerprint(examples: list[PreferenceExample]) -> str:
    return sha256_json(
        [
            [
                example.id,
                example.prompt,
                dict(example.responses),
                {name: image.fingerprint() for name, image in example.images.items()},
                example.corrections,
                [[region.label, region.box] for region in example.regions],
                # Data without these columns has the fingerprint that it had before there were any.
                *([extra] if (extra := _given(extra_columns(example))) else []),
            ]
            for example in examples
        ]
    )
