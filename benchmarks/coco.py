"""COCO's annotations as ground truth: which categories and captions an image has."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness.errors import BadInputError
from harness.files import read_json, read_jsonl, sha256_json, write_json
from harness.paths import cache_folder

Truth = dict[str, dict[str, list[str]]]
"""Image id -> {"instances": category names, each once; "captions": texts}."""
_KINDS = ("instances", "captions")


def coco_truth(folder: Path) -> Truth:
    """Instances and captions from all COCO files of a folder (2014: those of train and of val).

    COCO's files take half a gigabyte and ten seconds to read; the index that is made of them is kept in the cache folder, under
    the files' names, sizes and times.

    Raises:
        BadInputError: no instances or no captions, or a file of another form.
    """
    files = {kind: sorted(folder.glob(f"*{kind}*.json")) for kind in _KINDS}
    for kind, found in files.items():
        if not found:
            raise BadInputError(
                f"the COCO {kind} are missing",
                where=str(folder / f"{kind}_val2014.json"),
                remedy="harness data get coco-annotations, or unpack annotations_trainval2014.zip there",
            )
    every = [(path.resolve(), path.stat()) for kind in _KINDS for path in files[kind]]
    key = sha256_json([1, *([str(path), stat.st_size, stat.st_mtime_ns] for path, stat in every)])
    index = cache_folder() / "coco" / f"{key}.json"
    if index.exists():
        try:
            kept: Truth = json.loads(index.read_text(encoding="utf-8"))
            return kept
        except ValueError:
            index.unlink()
    truth: Any = defaultdict(lambda: {"instances": {}, "captions": []})
    for kind, paths in files.items():
        for path in paths:
            content = read_json(path, f"COCO {kind}")
            try:
                names = {row["id"]: row["name"] for row in content.get("categories", [])}
                for row in content["annotations"]:
                    own = truth[str(row["image_id"])]
                    if kind == "instances":
                        own["instances"][names[row["category_id"]]] = None
                    else:
                        own["captions"].append(row["caption"])
            except (KeyError, TypeError, AttributeError) as error:
                raise BadInputError(
                    f"this is not a COCO {kind} file: {error!r} is missing",
                    where=str(path),
                    remedy="harness data check coco-annotations compares it with the official one",
                ) from None
    result = {name: {"instances": list(own["instances"]), "captions": own["captions"]} for name, own in truth.items()}
    write_json(index, result)
    return result


def truth_rows(path: Path) -> Truth:
    """The same from JSON lines {image_id, instances: [category], captions: [text]}.

    Raises:
        BadInputError: a row is of another form, or an image has two different ones.
    """
    truth: Truth = {}
    for number, row in enumerate(read_jsonl(path, "annotations"), 1):
        try:
            name = str(row["image_id"])
            instances, captions = list(row["instances"]), list(row["captions"])
        except (KeyError, TypeError):
            raise BadInputError(
                "an annotation is {image_id, instances: [category], captions: [text]}", where=f"{path}:{number}"
            ) from None
        own = {"instances": instances, "captions": captions}
        if truth.setdefault(name, own) != own:
            raise BadInputError(f"image {name} is annotated twice, and not in the same way", where=f"{path}:{number}")
    return truth
