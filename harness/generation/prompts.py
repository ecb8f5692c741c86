"""The prompts to sample answers for: those of a preference set or of a file, or a standard question about every image of a folder."""

from __future__ import annotations

import codecs
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from aligners.preferences import DataOptions
from aligners.preferences.folder_files import holds_records, type_of
from aligners.preferences.formats import BadRecordError
from aligners.preferences.formats.base import TURNS, says_something
from aligners.preferences.pictures import Pictures
from aligners.preferences.read import Dropped, read_preferences, unread_lines
from aligners.preferences.records import without_placeholder
from aligners.preferences.tables import BROKEN, ArrayTable, LineTable, Table
from harness.core.errors import BadInputError
from harness.core.files import sha256_json
from harness.core.inside import Folder
from harness.core.paths import cache_folder
from harness.core.reading import open_binary
from harness.core.typed import Fields
from harness.core.types import ImageRef
from harness.core.worlds import pairs_of
from harness.judging.candidates import Prompt

logger = logging.getLogger(__name__)

QUESTIONS = (
    "Please describe this image in detail.",
    "What is shown in this picture? Describe everything that you can see.",
    "Write a detailed description of this image.",
    "Describe the objects in this image and where they are.",
)
"""Questions about the images of a folder; one for each image, selected by the image's digest."""
_PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"))
_ANSWERS = frozenset(("chosen", "rejected", "conversations", "messages", "rejected_response", "text"))
"""Columns that only preference data has; a file without them contains prompts."""
_READ = frozenset(("id", "image", "reference", *TURNS))
"""Columns of a file of prompts, beside that of the question."""
_ALONE = "and answers are sampled to a question alone: write what matters of them into the prompt"
_SAMPLE = 64
"""Number of a file's records that tell its columns."""


@dataclass(frozen=True)
class ReadPrompts:
    """Different prompts, and the records that were left out because they are invalid."""

    prompts: list[Prompt]
    dropped: list[Dropped]


def read_prompts(
    source: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    allow_download: bool = False,
    options: DataOptions | None = None,
    on_error: Literal["fail", "skip"] = "fail",
) -> ReadPrompts:
    """Read prompts; the same question about the same image counts once.

    Args:
        source: preference data as `harness align --data` takes it, a world, a `.jsonl` file of
            {image, prompt or question, id?, reference?: a good answer}, or a folder of images.
        limit: keep a seeded sample of this many, in their order.
        seed: of the sample.
        allow_download: fetch images that are given by URL.
        options: renamed columns, and a further folder of images.
        on_error: an invalid record raises an error, or is skipped and listed in `dropped`.

    Raises:
        BadInputError: there is no such data, (unless skipped) a record without an image or a question, or no prompt at all; or options
            have no effect.
    """
    path, options = Path(source), options or DataOptions()
    reader = _PromptReader(options, allow_download, on_error)
    if path.is_dir() and (pictures := _pictures(path)):
        reader.ask_of(pictures, path)
    elif path.suffix.lower() in (".jsonl", ".json") and path.is_file() and not _has_answers(path, options):
        reader.read_file(path)
    else:
        reader.read_preferences(source)
    distinct = list({(prompt.text, prompt.image.fingerprint()): prompt for prompt in reader.prompts}.values())
    if not distinct:
        first = f"; the first of {len(reader.dropped):,} records: {reader.dropped[0].reason}" if reader.dropped else ""
        raise BadInputError(f"there are no prompts{first}", where=source)
    if reader.dropped:
        first_dropped = reader.dropped[0]
        logger.warning(
            f"{len(reader.dropped):,} records are invalid and left out, the first: {first_dropped.where}: {first_dropped.reason}"
        )
    if limit is not None and limit < len(distinct):
        places = sorted(random.Random(seed).sample(range(len(distinct)), limit))
        distinct = [distinct[place] for place in places]
    return ReadPrompts(distinct, reader.dropped)


def _pictures(folder: Path) -> list[Path]:
    """The images directly in a folder without data files; those of an image folder belong to the records of its metadata."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if any(type_of(path.name) and holds_records(path) for path in files):
        return []
    return sorted(path for path in files if path.suffix.lower() in _PICTURES)


def _table(path: Path) -> Table:
    """A file of JSON objects, one per line or all in one array, recognised by its first character."""
    with open_binary(path, "prompts") as stream:
        array = stream.read(256).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    return ArrayTable(path) if array else LineTable(path, ())


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and row, record); the records as `Table.records` gives them."""
    table = _table(path)
    return ((f"{path}:{number}", record) for number, record in table.records(table.numbers()))


def _has_answers(path: Path, options: DataOptions) -> bool:
    return any(_ANSWERS & options.renamed(record).keys() for _, record in islice(_records(path), 8))


class _PromptReader:
    """Collects prompts, and the records that were left out."""

    def __init__(self, options: DataOptions, allow_download: bool, on_error: Literal["fail", "skip"]) -> None:
        self._options, self._allow_download, self._on_error = options, allow_download, on_error
        self.prompts: list[Prompt] = []
        self.dropped: list[Dropped] = []

    @contextmanager
    def _checked(self, where: str, name: str) -> Iterator[None]:
        """Context of one record: what is wrong with it stops the command, or the record is dropped.

        Raises:
            BadInputError: it is invalid, and invalid records are not skipped.
        """
        try:
            yield
        except (BadInputError, BadRecordError) as error:
            reason = error.problem if isinstance(error, BadInputError) else str(error)
            if self._on_error == "fail":
                raise BadInputError(
                    reason, where=where, remedy="fix the record, or skip invalid ones: --on-error skip"
                ) from None
            self.dropped.append(Dropped(where, name, reason))

    def ask_of(self, pictures: Iterable[Path], root: Path) -> None:
        """A standard question about every picture of a folder.

        Raises:
            BadInputError: a picture is broken; or there are options for records.
        """
        if self._options.described():
            raise BadInputError(
                "--columns and --image-root have no effect on a folder of images without records",
                where=str(root),
                remedy="leave them out",
            )
        folder = Folder(root)
        for path in pictures:
            with self._checked(str(path), path.name):
                image = ImageRef(path=folder.path(path.name, str(path)), name=path.name)
                image.facts()  # a broken picture is reported now, with its name
                question = QUESTIONS[int(image.fingerprint()[:8], 16) % len(QUESTIONS)]
                self.prompts.append(Prompt(path.name, question, image))

    def read_file(self, path: Path) -> None:
        """The prompts of a file without answers.

        Raises:
            BadInputError: a record is invalid, or `--columns` names a column that the file lacks.
        """
        first = [record for _, record in islice(_records(path), _SAMPLE) if BROKEN not in record]
        if first:
            self._options.check(dict.fromkeys(name for record in first for name in record), str(path))
        pictures = Pictures(path.parent, cache_folder(), self._allow_download, self._options.image_root)
        seen, unread, total = set[str](), Counter[str](), 0
        for where, record in _records(path):
            total += 1
            with self._checked(where, str(record.get("id", total))):
                prompt, others = self._prompt(self._options.renamed(record), where, path, pictures)
                if prompt.id in seen:
                    raise BadRecordError(f"two prompts have the id '{prompt.id}'")
                seen.add(prompt.id)
                unread.update(others)
                self.prompts.append(prompt)
        for line in unread_lines(unread, total):
            logger.warning(line)

    def _prompt(
        self, record: Mapping[str, Any], where: str, path: Path, pictures: Pictures
    ) -> tuple[Prompt, list[str]]:
        """The prompt of a record, and the record's columns that are not used.

        Raises:
            BadInputError, BadRecordError: it is invalid.
        """
        if BROKEN in record:
            raise BadRecordError(str(record[BROKEN]))
        if turns := [name for name in TURNS if says_something(record.get(name))]:
            raise BadRecordError(f"the record has turns before the prompt ('{turns[0]}'), {_ALONE}")
        row = Fields(record, where, "prompt")
        question = "prompt" if row.has("prompt") else "question"
        image = pictures.find(row.text("image", empty=False), path.parent, "the image")
        text = without_placeholder(row.text(question, empty=False))
        reference = row.text("reference", "").strip()
        unread = [name for name in record if name not in {*_READ, question} and says_something(record[name])]
        return Prompt(_id(record, image, text), text, image, source=path.name, reference=reference), unread

    def read_preferences(self, source: str) -> None:
        """The prompts of preference data, which has answers.

        Raises:
            BadInputError: the data cannot be read, or a prompt has earlier turns.
        """
        data = read_preferences(
            pairs_of(source, None),
            on_error=self._on_error,
            cache=cache_folder(),
            allow_download=self._allow_download,
            options=self._options,
        )
        self.dropped += data.dropped
        for example in data.examples:
            with self._checked(data.rows[example.id], example.id):
                if example.history:
                    raise BadRecordError(f"the prompt has earlier turns, {_ALONE}")
                image, responses = example.images["original"], example.responses
                reference = responses.get("standard", responses["chosen"])
                self.prompts.append(
                    Prompt(example.id, example.prompt, image, example.regions, example.source, reference)
                )


def _id(record: Mapping[str, Any], image: ImageRef, text: str) -> str:
    given = record.get("id")
    if isinstance(given, str | int) and not isinstance(given, bool) and str(given).strip():
        return str(given)
    return sha256_json([image.fingerprint(), text])[:16]
