"""The prompts to sample answers for: those of a preference set or of a file, or a standard question about every image of a folder."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from aligners.preferences import DataOptions
from aligners.preferences.folder_files import holds_records, type_of
from aligners.preferences.formats import BadRecordError
from aligners.preferences.read import read_preferences
from aligners.preferences.records import without_placeholder
from harness.core.errors import BadInputError
from harness.core.files import sha256_json
from harness.core.inside import Folder
from harness.core.paths import cache_folder
from harness.core.reading import read_records
from harness.core.typed import Fields
from harness.core.types import ImageRef
from harness.core.worlds import pairs_of
from harness.judging.candidates import Prompt

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


def read_prompts(
    source: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    allow_download: bool = False,
    options: DataOptions | None = None,
) -> list[Prompt]:
    """Read prompts; the same question about the same image counts once.

    Args:
        source: preference data as `harness align --data` takes it, a world, a `.jsonl` file of
            {image, prompt or question, id?, reference?: a good answer}, or a folder of images.
        limit: keep a seeded sample of this many, in their order.
        seed: of the sample.
        allow_download: fetch images that preference data gives by URL.
        options: columns of preference data under other names, a folder of its images.

    Raises:
        BadInputError: there is no such data, a record without an image or a question, or no prompt at all.
    """
    path = Path(source)
    if path.is_dir() and (pictures := _pictures(path)):
        prompts = _asked_of(pictures, path)
    elif path.suffix.lower() in (".jsonl", ".json") and path.is_file() and not _has_answers(path):
        prompts = _of_file(path)
    else:
        prompts = _of_preferences(source, allow_download, options)
    distinct = list({(prompt.text, prompt.image.fingerprint()): prompt for prompt in prompts}.values())
    if not distinct:
        raise BadInputError("there are no prompts", where=source)
    if limit is not None and limit < len(distinct):
        places = sorted(random.Random(seed).sample(range(len(distinct)), limit))
        distinct = [distinct[place] for place in places]
    return distinct


def _pictures(folder: Path) -> list[Path]:
    """The images directly in a folder without data files; those of an image folder belong to the records of its metadata."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if any(type_of(path.name) and holds_records(path) for path in files):
        return []
    return sorted(path for path in files if path.suffix.lower() in _PICTURES)


def _asked_of(pictures: Iterable[Path], root: Path) -> Iterator[Prompt]:
    folder = Folder(root)
    for path in pictures:
        image = ImageRef(path=folder.path(path.name, str(path)), name=path.name)
        image.facts()  # a broken picture is reported now, with its name
        yield Prompt(path.name, QUESTIONS[int(image.fingerprint()[:8], 16) % len(QUESTIONS)], image)


def _has_answers(path: Path) -> bool:
    return any(_ANSWERS & record.keys() for _, record in islice(read_records(path, "prompts"), 8))


def _of_file(path: Path) -> Iterator[Prompt]:
    folder, seen = Folder(path.parent), set[str]()
    for where, record in read_records(path, "prompts"):
        row = Fields(record, where, "prompt")
        question = "prompt" if row.has("prompt") else "question"
        name = row.text("image", empty=False)
        image = ImageRef(path=folder.path(name, where), name=name)
        image.facts()
        try:
            text = without_placeholder(row.text(question, empty=False))
        except BadRecordError as error:
            raise BadInputError(str(error), where=where) from None
        label = _id(record, image, text)
        if label in seen:
            raise BadInputError(f"two prompts have the id '{label}'", where=where)
        seen.add(label)
        yield Prompt(label, text, image, source=path.name, reference=row.text("reference", "").strip())


def _id(record: dict[str, Any], image: ImageRef, text: str) -> str:
    given = record.get("id")
    if isinstance(given, str | int) and not isinstance(given, bool) and str(given).strip():
        return str(given)
    return sha256_json([image.fingerprint(), text])[:16]


def _of_preferences(source: str, allow_download: bool, options: DataOptions | None) -> Iterator[Prompt]:
    data = read_preferences(
        pairs_of(source, None),
        cache=cache_folder(),
        allow_download=allow_download,
        options=options,
    )
    for example in data.examples:
        if example.history:
            raise BadInputError(
                "the prompt has earlier turns, and answers are sampled to a question alone",
                where=data.rows[example.id],
                remedy="leave the record out, or write what matters of the earlier turns into the prompt",
            )
        image, responses = example.images["original"], example.responses
        reference = responses.get("standard", responses["chosen"])
        yield Prompt(example.id, example.prompt, image, example.regions, example.source, reference)
