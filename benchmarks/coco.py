"""COCO's annotations as ground truth: the categories and captions of an image."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.answers import identity
from harness.core.errors import BadInputError
from harness.core.files import sha256_json, to_cache, write_json
from harness.core.paths import cache_folder
from harness.core.reading import read_json, read_records
from harness.core.removal import discard
from harness.core.typed import Fields

Truth = dict[str, dict[str, list[str]]]
"""Image id -> {"instances": category names, each once; "captions": texts}."""
_KINDS = ("instances", "captions")


def coco_files(folder: Path) -> list[Path]:
    """The files that `coco_truth` reads, each once.

    Raises:
        BadInputError: there are no instances or no captions.
    """
    return sorted({path for paths in _files(folder).values() for path in paths})


def _files(folder: Path) -> dict[str, list[Path]]:
    files = {kind: sorted(folder.glob(f"*{kind}*.json")) for kind in _KINDS}
    for kind, paths in files.items():
        if not paths:
            raise BadInputError(
                f"the COCO {kind} are missing",
                where=str(folder / f"{kind}_val2014.json"),
                remedy="harness data get coco-annotations, or unpack annotations_trainval2014.zip there",
            )
    return files


def coco_truth(folder: Path) -> Truth:
    """Instances and captions from all COCO files of a folder (2014: those of train and of val).

    COCO's files take half a gigabyte and ten seconds to read; the index of them is cached, by the files' names, sizes and times.

    Raises:
        BadInputError: there are no instances or no captions, or a file has another form.
    """
    files = _files(folder)
    every = [(path.resolve(), path.stat()) for kind in _KINDS for path in files[kind]]
    key = sha256_json([1, *([str(path), stat.st_size, stat.st_mtime_ns] for path, stat in every)])
    index = cache_folder() / "coco" / f"{key}.json"
    if index.exists():
        try:
            kept: Truth = json.loads(index.read_text(encoding="utf-8"))
            return kept
        except ValueError:
            discard(index, within=index.parent)
    truth: Any = defaultdict(lambda: {"instances": {}, "captions": []})
    for kind, paths in files.items():
        for path in paths:
            try:
                _add(truth, kind, Fields(read_json(path, f"COCO {kind}"), str(path), f"COCO {kind}"))
            except BadInputError as error:
                raise BadInputError(
                    error.problem,
                    where=error.where,
                    remedy=error.remedy or "harness data check coco-annotations compares it with the official file",
                ) from None
    result = {name: {"instances": list(own["instances"]), "captions": own["captions"]} for name, own in truth.items()}
    with to_cache(index):
        write_json(index, result)
    return result


def _add(truth: Any, kind: str, content: Fields) -> None:
    """Add the annotations of one of COCO's files."""
    names = {}
    if kind == "instances":
        names = {row.integer("id"): row.text("name", empty=False) for row in content.records("categories")}
    for row in content.records("annotations"):
        image = truth[str(row.integer("image_id"))]
        if kind == "captions":
            image["captions"].append(row.text("caption"))
            continue
        category = row.integer("category_id")
        if category not in names:
            row.refuse("category_id", f"the id of one of the {len(names)} categories")
        image["instances"][names[category]] = None


def truth_rows(path: Path) -> Truth:
    """The ground truth from JSON lines (or a JSON array) {image_id, instances: [category], captions: [text]}.

    Raises:
        BadInputError: a row has another form, or an image has two different rows.
    """
    truth: Truth = {}
    for where, row in read_records(path, "annotations"):
        fields = Fields(row, where, "annotation")
        name = identity(row, "image_id", where, "annotation")
        own = {"instances": fields.texts("instances"), "captions": fields.texts("captions")}
        if truth.setdefault(name, own) != own:
            raise BadInputError(f"image {name} is annotated twice, with different annotations", where=where)
    return truth
