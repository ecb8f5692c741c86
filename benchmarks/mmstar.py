"""MMStar: 1,500 multiple-choice questions that cannot be answered without the image, in six categories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.answer_files import AnswerSet, asked
from benchmarks.answers import AnswerRow, PackedResponses, identity
from benchmarks.base import Benchmark, Totals, needed, ratio
from benchmarks.choices import LETTERS, PARSER, mmstar_official, options_of, read_choice
from benchmarks.pictures import stored_picture
from benchmarks.suffix import SuffixSettings, with_suffix, without_suffix
from harness.core.declared import BarChart, OfflineFile
from harness.core.errors import BadInputError, shown
from harness.core.tables import read_table
from harness.core.typed import Fields
from harness.core.types import ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "coarse perception": ("image scene and topic", "image style & quality", "image emotion"),
    "fine-grained perception": ("object counting", "recognition", "localization"),
    "instance reasoning": (
        "single-instance reasoning",
        "cross-instance attribute reasoning",
        "cross-instance relation reasoning",
    ),
    "logical reasoning": ("code & sequence reasoning", "diagram reasoning", "common reasoning"),
    "science & technology": (
        "biology & chemistry & physics",
        "electronics & energy & mechanical eng.",
        "geography & earth science & agriculture",
    ),
    "math": ("geometry", "numeric commonsense and calculation", "statistical reasoning"),
}
PER_CATEGORY = 250
"""Questions in each category of the official file; the official script divides by this number."""
_PUBLISHED_SUFFIX = "\nAnswer the question directly."
_FILES = ("mmstar.parquet", "MMStar.tsv")
_PARTS = tuple(
    part for category, below in CATEGORIES.items() for part in (category, *(f"{category}/{one}" for one in below))
)
_ZEROS = {
    **{f"{part}.n": 0.0 for part in _PARTS},
    **{f"{part}{parser}.right": 0.0 for part in _PARTS for parser in ("", "[tolerant]")},
    "unreadable": 0.0,
}


def _specs() -> tuple[MetricSpec, ...]:
    specs = []
    for parser in ("", "[tolerant]"):
        specs.append(MetricSpec(f"accuracy{parser}", f"MMStar{parser}", True, headline=True))
        specs += [MetricSpec(f"accuracy.{part}{parser}", f"MMStar {part}{parser}", True) for part in _PARTS]
    return (*specs, MetricSpec("unreadable", "MMStar unreadable", higher_is_better=False, kind="diagnostic"))


class MMStar(Benchmark):
    """Share of right answers, overall, per category and per sub-category.

    The official rule reads the first characters of the answer: "Answer: B" is an A, "Cannot be determined" a C. `[tolerant]` reads the
    option that a human reader would, from its letter or its text, and counts an unreadable answer as wrong.

    Source: Chen et al., NeurIPS 2024.
    """

    name, title, max_new_tokens = "mmstar", "MMStar", 32
    source = "Chen et al., NeurIPS 2024 (arXiv 2403.20330)"
    Settings = SuffixSettings
    settings: SuffixSettings
    metrics = _specs()
    place = 100
    answer_keys = ("prediction", "response", "text", "answer")
    group = "general"
    charts = (
        BarChart(
            "accuracy",
            "mmstar",
            "Accuracy on MMStar, {board}. Guessing among four options gives the marked quarter.",
            "MMStar accuracy",
            mark=0.25,
        ),
    )
    offline_files = (
        OfflineFile("questions", "mmstar.parquet, MMStar.tsv, or JSON lines {index, answer, category, l2_category}"),
        OfflineFile(
            "responses",
            "CSV, TSV or JSON lines {index, prediction}; --questions is not needed if the rows also have answer, category, l2_category",
        ),
    )

    @property
    def variant(self) -> str:
        """The instruction after the questions, if it is not the published one."""
        return self.settings.asked

    def items(self, data: Path) -> list[Item]:
        """The rows of `mmstar.parquet` or `MMStar.tsv`, with the pictures in their column `image`."""
        path = next((data / name for name in _FILES if (data / name).exists()), None)
        if path is None:
            raise self.missing_files(data / _FILES[0])
        with self.reading(path):
            items = list(self._read(path))
        for item in items:
            if item.image.data is None:
                raise BadInputError("the question has no picture", where=f"{path}, index {item.id}")
        return items

    def _read(self, path: Path) -> Iterator[Item]:
        seen: set[str] = set()
        for where, row in read_table(path, "questions"):
            item = self._item(row, where)
            if item.id in seen:
                raise BadInputError(f"the index {item.id} appears twice", where=where)
            seen.add(item.id)
            yield item
        if not seen:
            raise BadInputError("the file has no question", where=str(path))

    def _item(self, row: Mapping[str, Any], where: str) -> Item:
        fields = Fields(row, where, "question")
        name, question = identity(row, "index", where, "question"), fields.text("question", "")
        category = fields.choice("category", tuple(CATEGORIES))
        reference = {
            "answer": fields.choice("answer", LETTERS),
            "category": category,
            "l2_category": fields.choice("l2_category", CATEGORIES[category]),
            "options": options_of(question),
        }
        image = ImageRef(name=f"MMStar {name}")
        if row.get("image") is not None:
            image = stored_picture(row["image"], where, f"MMStar {name}")
        # Several questions may be about the same picture, which is then one cluster.
        group = image.fingerprint()[:16] if image.data is not None else name
        return Item(name, with_suffix(question, self.settings.suffix, _PUBLISHED_SUFFIX), image, group, reference)

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--responses`: the official table {index, ..., prediction}, as CSV, TSV or JSON lines; `--questions`: the keys."""
        path = needed(files, "responses", self.name)
        items = []
        if "questions" in files:
            with self.reading(needed(files, "questions", self.name)) as questions:
                items = list(self._read(questions))
        responses, others = PackedResponses(), set()
        for where, record in read_table(path, "responses"):
            # In the official table "answer" is the key, and "prediction" the model's answer.
            keys = {"answer"} if "prediction" in record else set()
            row = AnswerRow({key: value for key, value in record.items() if key not in keys}, where, self.answer_keys)
            name = identity(row.doc, "index", where)
            if name in responses:
                raise BadInputError(f"the index {name} is answered twice", where=where)
            others.add(row.key)
            if "questions" not in files:
                if "category" not in record or not keys:
                    raise BadInputError(
                        "the responses do not contain the right answers",
                        where=where,
                        remedy="name the questions: --questions mmstar.parquet",
                    )
                items.append(self._item({key: record[key] for key in record if key != "image"}, where))
            responses.add(row.response(name))
        if others := others - {"prediction"}:
            self.notes.append(f"answers were read from {' and '.join(sorted(map(shown, others)))}")
        return items, responses

    def match_answers(self, rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
        """By `index`, or by `question_id` with the question."""
        for row in rows:
            key = "index" if "index" in row.doc or asked(row) is None else "question_id"
            name = identity(row.doc, key, row.where)
            item = answers.by_id.get(name)
            plain = without_suffix(item.prompt, self.settings.suffix, _PUBLISHED_SUFFIX) if item else None
            answers.add_asked(name, row, f"{key} {name}", question=plain)
        if others := {row.key for row in rows} - {"prediction"}:
            self.notes.append(f"answers were read from {' and '.join(sorted(map(shown, others)))}")

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Whether an answer is right, by the official rule and by ours."""
        return [self._one(item, responses[item.id].text) for item in items]

    @staticmethod
    def _one(item: Item, said: str) -> SampleScore:
        gold, category = item.reference["answer"], item.reference["category"]
        official, read = mmstar_official(said), read_choice(said, item.reference["options"])
        counts = _ZEROS | {"unreadable": float(read is None)}
        for part in (category, f"{category}/{item.reference['l2_category']}"):
            counts[f"{part}.n"] = 1.0
            counts[f"{part}.right"] = float(official == gold)
            counts[f"{part}[tolerant].right"] = float(read == gold)
        details = {"said": official, "read": read, "label": gold, "category": category}
        return SampleScore(item.id, item.group, counts, details=details)

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Right answers / questions."""
        result = {}
        for parser in ("", "[tolerant]"):
            for part in _PARTS:
                result[f"accuracy.{part}{parser}"] = ratio(totals[f"{part}{parser}.right"], totals[f"{part}.n"])
            right = np.sum([totals[f"{category}{parser}.right"] for category in CATEGORIES], axis=0)
            result[f"accuracy{parser}"] = ratio(right, totals["n"])
        result["unreadable"] = ratio(totals["unreadable"], totals["n"])
        return result

    def official(self, totals: Totals) -> dict[str, str]:
        """The values in the official score file, which exists only for all 1,500 questions: unrounded fractions."""
        if any(float(totals[f"{category}.n"]) != PER_CATEGORY for category in CATEGORIES):
            return {}
        values = self.aggregate(totals)
        return {
            name: str(float(value)) for name, value in values.items() if name.startswith("accuracy") and "[" not in name
        }

    def provenance(self) -> dict[str, Any]:
        """The version of our own parser."""
        return {"tolerant_parser": PARSER}
