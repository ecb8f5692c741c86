"""Plain CHAIR on any set of images that COCO annotates."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from benchmarks.answers import ImageNames, identity
from benchmarks.coco import coco_truth
from benchmarks.halbench import SYNONYMS, HalBenchSettings, ObjectHalBench
from harness.core.errors import BadInputError
from harness.core.files import sha256_json
from harness.core.inside import Folder
from harness.core.reading import read_records
from harness.core.typed import Fields
from harness.core.types import ImageRef, Item

_NUMBER = re.compile(r"(\d+)$")
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))


class CHAIRSettings(HalBenchSettings):
    """Settings of Object HalBench, and the question."""

    prompt: str = Field("Please describe this image in detail.", description="the question about every image")


class CHAIR(ObjectHalBench):
    """CHAIR of descriptions of the images in `images/`, or of the questions in `questions.jsonl` {image_id, image, question}.

    The figure depends on the choice of images, the prompt and the token limit: publish them with it. Without own annotations, those of
    Object HalBench are used.

    Source: Rohrbach et al., EMNLP 2018.
    """

    name, title, place = "chair", "CHAIR", 20
    source = "Rohrbach et al., EMNLP 2018"
    falls_back_to = ("halbench",)
    Settings = CHAIRSettings
    settings: CHAIRSettings

    def items(self, data: Path) -> list[Item]:
        """One description per image, whose id is the number at the end of its file name, as in COCO."""
        own = data / "annotations"
        truth = coco_truth(own if own.is_dir() else data.parent / "halbench" / "annotations")
        if self.settings.synonyms is None and (official := data / SYNONYMS).exists():
            self._synonyms = official
        questions, images = data / "questions.jsonl", Folder(data / "images")
        rows: list[tuple[str, Path, str, str]] = []
        if questions.exists():
            with self.reading(questions):
                for where, record in read_records(questions, "questions"):
                    row = Fields(record, where, "question")
                    image = images.path(row.text("image", empty=False), where)
                    image_id = identity(record, "image_id", where, "question")
                    rows.append((image_id, image, row.text("question", empty=False), where))
        else:
            found = sorted(path for path in images.root.glob("*") if path.suffix.lower() in _SUFFIXES)
            rows = [
                (self._id(path), images.path(path.name, str(path)), self.settings.prompt, str(path)) for path in found
            ]
        if not rows:
            raise BadInputError(
                "there are no images to describe", where=str(images.root), remedy="put COCO images there"
            )
        items, names = [], ImageNames(truth)
        for number, (name, path, question, where) in enumerate(rows):
            image_id = self._annotated(names, name, where)
            items.append(Item(f"{image_id}#{number}", question, ImageRef(path=path), image_id, truth[image_id]))
        self._annotations = sha256_json({item.group: item.reference for item in items})
        return items

    @staticmethod
    def _id(path: Path) -> str:
        number = _NUMBER.search(path.stem)
        if not number:
            raise BadInputError(
                "the image's name does not end in its COCO number",
                where=str(path),
                remedy="list the images in questions.jsonl: {image_id, image, question}",
            )
        return str(int(number.group(1)))
