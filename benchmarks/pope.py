"""POPE: is there a ... in the image? Three splits: random, popular, adversarial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.base import Benchmark, Totals, harmonic, needed, ratio, response_text
from benchmarks.yesno import pope_official, tolerant
from harness.errors import BadInputError
from harness.files import read_json, read_jsonl
from harness.judging.base import Judge
from harness.types import ImageRef, Item, MetricSpec, Response, SampleScore

SPLITS = ("random", "popular", "adversarial")
_RATES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
_TITLES = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "yes_ratio": "yes-ratio"}
_HEADLINE = frozenset({"random.accuracy", "adversarial.accuracy", "f1", "yes_ratio"})


_ZEROS = {
    **{
        f"{split}{parser}.{cell}": 0.0
        for split in SPLITS
        for parser in ("", "[strict]")
        for cell in ("tp", "fp", "tn", "fn", "n", "yes")
    },
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
                        f"{prefix}{rate}{parser}", title, better, headline=f"{prefix}{rate}{parser}" in _HEADLINE
                    )
                )
    return (*specs, MetricSpec("unreadable", "POPE unreadable", higher_is_better=False))


class POPE(Benchmark):
    """Accuracy, precision, recall and F1 with "yes" as the positive class, and the share of "yes".

    `accuracy` and the like are the means of the splits that are there; `random.accuracy` is one split's. The official parser is
    the default; `[strict]` counts an answer that cannot be read as wrong.

    Source: Li et al., EMNLP 2023.
    """

    name, title, max_new_tokens = "pope", "POPE", 64
    source = "Li et al., EMNLP 2023"
    metrics = _specs()
    pictures: ClassVar[str] = "coco"
    """What the official files' names begin with."""

    def items(self, data: Path) -> list[Item]:
        """The questions of every split that is there: `coco_pope_random.json` (or SEEM's, `..._pope_seem_random.json`) and so on."""
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
                remedy=f"harness data get {self.name}, or harness data check {self.name} for what is where",
            )
        return items

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], dict[str, Response]]:
        """`--questions`: one split's file; `--responses`: {question_id, answer}."""
        questions = needed(files, "questions", self.name)
        split = next((name for name in SPLITS if name in questions.name), SPLITS[0])
        items = self._read(questions, split, Path())
        path = needed(files, "responses", self.name)
        responses: dict[str, Response] = {}
        for number, row in enumerate(read_jsonl(path, "responses"), 1):
            name = f"{split}/{row.get('question_id')}"
            if name in responses:
                raise BadInputError(f"question {row.get('question_id')} is answered twice", where=f"{path}:{number}")
            responses[name] = Response(name, response_text(row, "answer", f"{path}:{number}"))
        return items, responses

    def _read(self, path: Path, split: str, images: Path) -> list[Item]:
        with self.reading(path):
            return self._questions(path, split, images)

    @staticmethod
    def _questions(path: Path, split: str, images: Path) -> list[Item]:
        rows: list[dict[str, Any]]
        array = path.read_text(encoding="utf-8").lstrip().startswith("[")  # SEEM's files are one array
        rows = read_json(path, "questions") if array else list(read_jsonl(path, "questions"))
        items = []
        for number, row in enumerate(rows, 1):
            if not {"question_id", "image", "text", "label"} <= row.keys():
                raise BadInputError("a question is {question_id, image, text, label}", where=f"{path}:{number}")
            reference = {"split": split, "label": "no" if row["label"] == "no" else "yes"}
            items.append(
                Item(
                    f"{split}/{row['question_id']}",
                    row["text"],
                    ImageRef(path=images / row["image"]),
                    row["image"],
                    reference,
                )
            )
        if len({item.id for item in items}) < len(items):
            raise BadInputError("a question_id occurs twice", where=str(path))
        return items

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Per split and parser: true and false positives and negatives."""
        return [self._one(item, responses[item.id].text) for item in items]

    @staticmethod
    def _one(item: Item, answer: str) -> SampleScore:
        split, label = item.reference["split"], item.reference["label"]
        official, read = pope_official(answer), tolerant(answer, item.prompt)
        counts = _ZEROS.copy()
        for parser, said in (("", official), ("[strict]", read)):
            # An answer that cannot be read is wrong: it adds to the false ones, but is neither yes nor no.
            cell = ("t" if said == label else "f") + ("p" if (label == "yes") == (said == label) else "n")
            counts[f"{split}{parser}.{cell}"] = 1.0
            counts[f"{split}{parser}.n"] = 1.0
            counts[f"{split}{parser}.yes"] = float(said == "yes")
        counts["unreadable"] = float(read is None)
        return SampleScore(
            item.id, item.group, counts, details={"said": official, "read": read, "label": label, "split": split}
        )

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Rates per split, and their mean over the splits that have questions."""
        result: dict[str, np.ndarray] = {}
        for parser in ("", "[strict]"):
            for split in SPLITS:
                tp, fp, tn, fn, count, yes = (
                    totals[f"{split}{parser}.{cell}"] for cell in ("tp", "fp", "tn", "fn", "n", "yes")
                )
                precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
                values = (ratio(tp + tn, count), precision, recall, harmonic(precision, recall), ratio(yes, count))
                result |= {f"{split}.{rate}{parser}": value for rate, value in zip(_RATES, values, strict=True)}
            there = np.stack([np.asarray(totals[f"{split}{parser}.n"]) > 0 for split in SPLITS])
            for rate in _RATES:
                values_ = np.stack([result[f"{split}.{rate}{parser}"] for split in SPLITS])
                result[f"{rate}{parser}"] = ratio(np.where(there, values_, 0.0).sum(0), there.sum(0))
        result["unreadable"] = ratio(totals["unreadable"], totals["n"])
        return result

    def official(self, totals: Totals) -> dict[str, str]:
        """What the official script prints for one split's file: unrounded floats."""
        splits = [split for split in SPLITS if totals[f"{split}.n"] > 0]
        if len(splits) != 1:
            return {}
        values = {rate: float(value) for rate, value in self.aggregate(totals).items() if rate in _RATES}
        # It divides by zero, and prints no rate at all, where no answer or no label is yes, or none of both agree.
        if not np.isfinite(list(values.values())).all() or values["f1"] == 0:
            return {}
        return {rate: str(value) for rate, value in values.items()}


class POPEAOKVQA(POPE):
    """POPE on A-OKVQA's images, with SEEM's objects. They are COCO's, so POPE's images serve where it has none of its own."""

    name, title, pictures = "pope-aokvqa", "POPE A-OKVQA", "aokvqa"


class POPEGQA(POPE):
    """POPE on GQA's images, with SEEM's objects."""

    name, title, pictures = "pope-gqa", "POPE GQA", "gqa"
