"""POPE: is there a ... in the image? Three splits: random, popular, adversarial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.answer_files import AnswerSet, picture_of
from benchmarks.answers import AnswerRow, identity
from benchmarks.base import Benchmark, Totals, harmonic, needed, ratio
from benchmarks.pope_answers import SPLITS, match, split_in_name
from benchmarks.suffix import YesNoSettings, with_suffix
from benchmarks.yesno import PARSER, pope_official, tolerant, yes_or_no
from harness.core.declared import BarChart, OfflineFile
from harness.core.errors import BadInputError, shown
from harness.core.inside import Folder
from harness.core.reading import read_records
from harness.core.typed import Fields
from harness.core.types import ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge

_RATES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
_TITLES = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "yes_ratio": "yes-ratio"}
_CELLS = ("tp", "fp", "tn", "fn", "n", "yes")
_HEADLINE = frozenset({"random.accuracy", "adversarial.accuracy", "f1", "yes_ratio"})


_ZEROS = {
    **{f"{split}{parser}.{cell}": 0.0 for split in SPLITS for parser in ("", "[strict]") for cell in _CELLS},
    "unreadable": 0.0,
}


def _specs() -> tuple[MetricSpec, ...]:
    specs = []
    for prefix in ("", *(f"{split}." for split in SPLITS)):
        for parser in ("", "[strict]"):
            for rate in _RATES:
                better = None if rate == "yes_ratio" else True
                title = f"POPE {prefix.removesuffix('.')} {_TITLES[rate]}{parser}".replace("  ", " ")
                specs.append(
                    MetricSpec(
                        f"{prefix}{rate}{parser}",
                        title,
                        better,
                        headline=f"{prefix}{rate}{parser}" in _HEADLINE,
                        kind="diagnostic" if rate == "yes_ratio" else "rate",
                    )
                )
    return (*specs, MetricSpec("unreadable", "POPE unreadable", higher_is_better=False, kind="diagnostic"))


def _charts(title: str, name: str) -> tuple[BarChart]:
    """The share of "yes" next to one half."""
    caption = f"Share of “yes” on {title}, {{board}}: half of the questions should be answered with yes."
    return (BarChart("yes_ratio", name, caption, f"{title} yes-ratio", mark=0.5),)


class POPE(Benchmark):
    """Accuracy, precision, recall and F1 with "yes" as the positive class, and the share of "yes".

    `accuracy` and the others are means over the available splits; `random.accuracy` is of one split. The official parser is the default;
    `[strict]` counts an unreadable answer as wrong.

    Source: Li et al., EMNLP 2023.
    """

    name, title, max_new_tokens = "pope", "POPE", 64
    source = "Li et al., EMNLP 2023"
    Settings = YesNoSettings
    settings: YesNoSettings
    metrics = _specs()
    place = 40
    group = "hallucination"
    charts = _charts("POPE", "yes-ratio")
    offline_files = (
        OfflineFile("questions", "one split's questions"),
        OfflineFile(
            "responses", "JSON lines {question_id, answer}, or {question, answer} in the order of the questions"
        ),
    )
    answer_keys = ("answer", "text", "response", "prediction")
    falls_back_to = ("pope",)
    pictures: ClassVar[str] = "coco"
    """Prefix of the official files' names."""

    @property
    def variant(self) -> str:
        """How the questions are asked, if not as published."""
        return self.settings.asked

    def items(self, data: Path) -> list[Item]:
        """The questions of every available split: `coco_pope_random.json` (or SEEM's, `..._pope_seem_random.json`) and so on."""
        items: list[Item] = []
        images = next(
            (path for path in (data / "images", data.parent / "pope" / "images") if path.is_dir()), data / "images"
        )
        for split in SPLITS:
            names = (f"{self.pictures}_pope_{split}.json", f"{self.pictures}_pope_seem_{split}.json")
            path = next((data / name for name in names if (data / name).exists()), None)
            if path:
                items += self._read(path, split, images)
        if not items:
            raise BadInputError(
                f"the questions of {self.title} are missing",
                where=str(data / f"{self.pictures}_pope_random.json"),
                remedy=f"harness data get {self.name}, or harness data check {self.name}, which shows the missing files",
            )
        return items

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--questions`: one split's file; `--responses`: answers as for `harness import-results`; those to other splits are ignored."""
        questions = needed(files, "questions", self.name)
        split = split_in_name(questions) or SPLITS[0]
        items = self._read(questions, split, None)
        path = needed(files, "responses", self.name)
        answers, rows, kinds = AnswerSet(items), [], set()
        for row in self.answer_rows(path):
            if row.key == "text" and "label" in row.row:
                raise BadInputError(
                    "this row is a question, not a response: it has a label",
                    where=row.where,
                    remedy="name --responses",
                )
            if row.doc.get("category") in SPLITS and row.doc["category"] != split:
                kinds.add(row.doc["category"])
            else:
                rows.append(row)
        match(rows, path, answers, split)
        if kinds:
            self.notes.append(f"answers to the splits {', '.join(sorted(kinds))} were ignored")
        self._note_form(rows)
        return items, answers.responses

    def match_answers(self, rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
        """By the split's name and `question_id`; by picture and question; or in the order of the questions."""
        match(rows, path, answers)
        self._note_form(rows)

    def _note_form(self, rows: Sequence[AnswerRow]) -> None:
        if rows and not any("question_id" in row.doc or picture_of(row) for row in rows):
            self.notes.append("the responses have no question_id: they were matched with the questions in order")
        elif others := sorted({row.key for row in rows} - {"answer"}):
            self.notes.append(f"answers were read from {' and '.join(map(shown, others))}")

    def _read(self, path: Path, split: str, images: Path | None) -> list[Item]:
        with self.reading(path):
            return self._questions(path, split, Folder(images) if images else None)

    def _questions(self, path: Path, split: str, images: Folder | None) -> list[Item]:
        """The questions of a split's file; SEEM's files are one array. Without `images`, no image will be opened."""
        items, ids, odd = [], set(), 0
        for where, row in read_records(path, "questions"):
            fields = Fields(row, where, "question")
            name, picture = identity(row, "question_id", where, "question"), fields.text("image", empty=False)
            if name in ids:
                raise BadInputError(f"the question_id {name} appears twice", where=where)
            ids.add(name)
            label = yes_or_no(fields, "label")
            reference = {"split": split, "label": label}
            if row["label"] != label:
                odd += 1
                reference["official_label"] = "yes"  # the official script reads everything except "no" as yes
            image = ImageRef(path=images.path(picture, where)) if images else ImageRef(name=picture)
            question = fields.text("text")
            if self.settings.suffix is not None:
                reference["question"] = question
            prompt = with_suffix(question, self.settings.suffix)
            items.append(Item(f"{split}/{name}", prompt, image, picture, reference, self.settings.choices))
        if odd:
            self.notes.append(
                f"{odd} labels in {path.name} are not exactly yes or no, but were read as such; the official script reads them as yes"
            )
        return items

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Per split and parser: true and false positives and negatives."""
        return [self._one(item, responses[item.id].text) for item in items]

    @staticmethod
    def _one(item: Item, answer: str) -> SampleScore:
        split, label = item.reference["split"], item.reference["label"]
        official, read = pope_official(answer), tolerant(answer, item.reference.get("question", item.prompt))
        counts = _ZEROS.copy()
        for parser, said in (("", official), ("[strict]", read)):
            counts[f"{split}{parser}.{_cell(said, label)}"] = 1.0
            counts[f"{split}{parser}.n"] = 1.0
            counts[f"{split}{parser}.yes"] = float(said == "yes")
        counts["unreadable"] = float(read is None)
        if (taken := item.reference.get("official_label", label)) != label:
            for cell, change in ((_cell(official, label), -1.0), (_cell(official, taken), 1.0)):
                counts[f"{split}.official.{cell}"] = counts.get(f"{split}.official.{cell}", 0.0) + change
        return SampleScore(
            item.id, item.group, counts, details={"said": official, "read": read, "label": label, "split": split}
        )

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Rates per split, and their mean over the splits that have questions."""
        result: dict[str, np.ndarray] = {}
        for parser in ("", "[strict]"):
            for split in SPLITS:
                tp, fp, tn, fn, count, yes = (totals[f"{split}{parser}.{cell}"] for cell in _CELLS)
                precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
                values = (ratio(tp + tn, count), precision, recall, harmonic(precision, recall), ratio(yes, count))
                result |= {f"{split}.{rate}{parser}": value for rate, value in zip(_RATES, values, strict=True)}
            asked = np.stack([np.asarray(totals[f"{split}{parser}.n"]) > 0 for split in SPLITS])
            for rate in _RATES:
                values_ = np.stack([result[f"{split}.{rate}{parser}"] for split in SPLITS])
                result[f"{rate}{parser}"] = ratio(np.where(asked, values_, 0.0).sum(0), asked.sum(0))
        result["unreadable"] = ratio(totals["unreadable"], totals["n"])
        return result

    def official(self, totals: Totals) -> dict[str, str]:
        """What the official script prints for one split's file: unrounded floats."""
        splits = [split for split in SPLITS if totals[f"{split}.n"] > 0]
        if len(splits) != 1:
            return {}
        changed = dict(totals)
        for cell in _CELLS:  # by labels as the script reads them
            name = f"{splits[0]}.{cell}"
            changed[name] = totals[name] + totals.get(f"{splits[0]}.official.{cell}", np.array(0.0))
        values = {rate: float(value) for rate, value in self.aggregate(changed).items() if rate in _RATES}
        # It fails with a division by zero, and prints no rates, if no answer is yes, no label is yes, or no answer and label are both
        # yes.
        if not np.isfinite(list(values.values())).all() or values["f1"] == 0:
            return {}
        return {rate: str(value) for rate, value in values.items()}

    def provenance(self) -> dict[str, Any]:
        """The version of our own parser."""
        return {"strict_parser": PARSER}


def _cell(said: str | None, label: str) -> str:
    """The cell of an answer. An unreadable answer is wrong: it counts as false, but is neither yes nor no."""
    return ("t" if said == label else "f") + ("p" if (label == "yes") == (said == label) else "n")


class POPEAOKVQA(POPE):
    """POPE on A-OKVQA's images, with SEEM's objects. They are COCO's, so POPE's images are used if its own folder has none."""

    name, title, pictures, place = "pope-aokvqa", "POPE A-OKVQA", "aokvqa", 50
    charts = _charts("POPE A-OKVQA", "yes-ratio-aokvqa")


class POPEGQA(POPE):
    """POPE on GQA's images, with SEEM's objects."""

    name, title, pictures, place = "pope-gqa", "POPE GQA", "gqa", 60
    charts = _charts("POPE GQA", "yes-ratio-gqa")
