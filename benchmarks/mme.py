"""MME: fourteen tasks of yes/no questions, two about each image, one with the answer yes and one with no."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.answer_files import AnswerSet, asked, picture_name, picture_of, same_question
from benchmarks.answers import AnswerRow
from benchmarks.base import Benchmark, Totals, needed, ratio
from benchmarks.suffix import YesNoSettings, with_suffix, without_suffix
from benchmarks.yesno import PARSER, tolerant
from harness.core.declared import BarChart, OfflineFile
from harness.core.errors import BadInputError, shown
from harness.core.files import sha256_json
from harness.core.inside import Folder
from harness.core.reading import read_text
from harness.core.types import ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = (*PERCEPTION, *COGNITION)
SUMS = {
    "perception": PERCEPTION,
    "cognition": COGNITION,
    "hallucination": ("existence", "count", "position", "color"),
    "hallucination.object": ("existence", "count"),
    "hallucination.attribute": ("position", "color"),
}
"""Scores that are sums over tasks. The hallucination subset is a convention of the literature, not of the official tool."""
_TITLES = {
    "perception": "MME perception",
    "cognition": "MME cognition",
    "hallucination": "MME hallucination",
    "hallucination.object": "MME halluc. object",
    "hallucination.attribute": "MME halluc. attribute",
}
_PARSERS = ("", "[tolerant]")
_OWN_SUFFIX = "Please answer yes or no."
_RELEASE = "MME_Benchmark_release_version"
_RESULTS = "Your_Results"
_LABELS = {"Yes": "yes", "No": "no"}
_ZEROS = {
    **{f"{task}.{cell}": 0.0 for task in TASKS for cell in ("n", "pairs")},
    **{f"{task}{parser}.{cell}": 0.0 for task in TASKS for parser in _PARSERS for cell in ("right", "both")},
    **{f"{task}.read": 0.0 for task in TASKS},
    "yes": 0.0,
    "unreadable": 0.0,
}


def mme_official(answer: str) -> str | None:
    """The official rule: "yes" or "no" if the word occurs in the first four characters, in any case; "yes" is searched first.

    Source: Fu et al., 2023, eval_tool/calculation.py.
    """
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def _specs() -> tuple[MetricSpec, ...]:
    specs = []
    for parser in _PARSERS:
        for name in SUMS:
            specs.append(
                MetricSpec(
                    f"score.{name}{parser}",
                    f"{_TITLES[name]}{parser}",
                    True,
                    "points",
                    headline=not parser and "." not in name,
                    kind="score",
                    group="hallucination" if name.startswith("hallucination") else None,
                )
            )
        specs += [
            MetricSpec(f"score.{task}{parser}", f"MME {task}{parser}", True, "points", kind="score") for task in TASKS
        ]
        specs += [
            MetricSpec(f"accuracy{parser}", f"MME accuracy{parser}", True),
            MetricSpec(f"accuracy_plus{parser}", f"MME accuracy+{parser}", True),
        ]
    specs.append(MetricSpec("yes_ratio", "MME yes-ratio", None, kind="diagnostic"))
    specs.append(MetricSpec("unreadable", "MME unreadable", higher_is_better=False, kind="diagnostic"))
    return tuple(specs)


class MME(Benchmark):
    """A task's score is 100 * accuracy + 100 * accuracy+, the share of images with both answers right; sums of tasks are scores, too.

    A sum is defined only if all of its tasks have questions. The official rule reads the first four characters of an answer: "None" is a
    no and "The answer is yes" neither. `[tolerant]` reads what a human reader would; an unreadable answer is wrong.

    Source: Fu et al., 2023 (arXiv 2306.13394).
    """

    name, title, max_new_tokens = "mme", "MME", 16
    source = "Fu et al., 2023 (arXiv 2306.13394)"
    Settings = YesNoSettings
    settings: YesNoSettings
    metrics = _specs()
    place = 90
    answer_keys = ("answer", "text", "response", "prediction")
    group = "general"
    charts = (
        BarChart(
            "yes_ratio",
            "yes-ratio-mme",
            "Share of “yes” on MME, {board}: half of the questions should be answered with yes.",
            "MME yes-ratio",
            mark=0.5,
        ),
    )
    whole_groups = True
    offline_files = (
        OfflineFile(
            "responses", f"the official result folder, like {_RESULTS}: TASK.txt with image, question, Yes/No, answer"
        ),
    )

    def __init__(self, settings: YesNoSettings | None = None) -> None:
        super().__init__(settings)
        self._paired_by_place = True
        self._digest: str | None = None

    @property
    def variant(self) -> str:
        """How the questions are asked, if not as published."""
        return self.settings.asked

    def items(self, data: Path) -> list[Item]:
        """The release's folders: a text file with two lines "question TAB Yes/No" next to every image, or in `questions_answers_YN`."""
        root = data / _RELEASE if (data / _RELEASE).is_dir() else data
        items: list[Item] = []
        for task in TASKS:
            if (root / task).is_dir():
                items += self._task(root / task, task)
        if not items:
            raise BadInputError(
                "MME's questions are missing",
                where=str(root / TASKS[0]),
                remedy="harness data check mme shows which folders are missing and how to get them",
            )
        self._digest = sha256_json([[item.id, item.prompt] for item in items])
        return items

    def _task(self, folder: Path, task: str) -> Iterator[Item]:
        texts, pictures = folder / "questions_answers_YN", folder / "images"
        texts, pictures = texts if texts.is_dir() else folder, pictures if pictures.is_dir() else folder
        images = {path.stem: path.name for path in sorted(pictures.iterdir()) if path.suffix.lower() in _IMAGES}
        inside = Folder(pictures)
        for path in sorted(texts.glob("*.txt")):
            if path.stem not in images:
                raise BadInputError(
                    "the questions have no image of their name", where=str(path), remedy="harness data check mme"
                )
            image = ImageRef(path=inside.path(images[path.stem], str(path)))
            rows = [(where, [images[path.stem], *cells]) for where, cells in _rows(path, 2)]
            yield from self._items(task, rows, {images[path.stem]: image})

    def _items(
        self, task: str, rows: Sequence[tuple[str, Sequence[str]]], images: Mapping[str, ImageRef]
    ) -> Iterator[Item]:
        """Items of rows (image, question, label); every image has one question with yes and one with no."""
        seen: dict[str, set[str]] = defaultdict(set)
        for where, (image, question, label, *_) in rows:
            if label not in _LABELS:
                raise BadInputError(f"the right answer is {shown(label)}, not Yes or No", where=where)
            if _LABELS[label] in seen[image]:
                raise BadInputError(f"the image {shown(image)} has two questions with the answer {label}", where=where)
            seen[image].add(_LABELS[label])
            prompt = with_suffix(question, self.settings.suffix, instruction=_OWN_SUFFIX)
            reference = {"task": task, "label": _LABELS[label]}
            picture = images.get(image) or ImageRef(name=f"{task}/{image}")
            name, group = f"{task}/{image}/{_LABELS[label]}", f"{task}/{image}"
            yield Item(name, prompt, picture, group, reference, self.settings.choices)
        for image, labels in seen.items():
            if len(labels) != 2:
                raise BadInputError(
                    f"the image {shown(image)} of '{task}' has only a question with the answer {labels.pop()}",
                    where=rows[0][0].rpartition(":")[0],
                    remedy="there are two questions for each image",
                )

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--responses`: the official result folder, TASK.txt with lines "image TAB question TAB Yes/No TAB answer"."""
        folder = needed(files, "responses", self.name)
        tasks = [task for task in TASKS if (folder / f"{task}.txt").is_file()]
        if not tasks:
            raise BadInputError(
                "the folder contains no result of MME",
                where=str(folder),
                remedy=f"it must contain {TASKS[0]}.txt and so on, each line: image, question, Yes or No, answer, separated by tabs",
            )
        items: list[Item] = []
        responses = {}
        for task in tasks:
            rows = list(_rows(folder / f"{task}.txt", 4))
            made = list(self._items(task, rows, {}))
            self._paired_by_place &= all(
                first.group == second.group for first, second in zip(made[::2], made[1::2], strict=True)
            )
            items += made
            for item, (_, cells) in zip(made, rows, strict=True):
                responses[item.id] = Response(item.id, cells[3])
        if not self._paired_by_place:
            self.notes.append(
                "the two questions of an image are not in neighbouring lines: the official script would pair other lines, and its figures "
                "are not shown"
            )
        return items, responses

    def answer_rows(self, path: Path) -> list[AnswerRow]:
        """The official result folder or one of its TASK.txt, else any table or JSON lines."""
        if not path.is_dir() and path.suffix != ".txt":
            return super().answer_rows(path)
        files = (
            [path] if path.is_file() else [path / f"{task}.txt" for task in TASKS if (path / f"{task}.txt").exists()]
        )
        made = []
        for file in files:
            for where, (image, question, label, said) in _rows(file, 4):
                row = AnswerRow({"answer": said}, where, ("answer",))
                row.doc = {"category": file.stem, "image": image, "question": question, "label": label}
                row.form = "MME's results"
                made.append(row)
        if not made:
            raise BadInputError(
                "there is no result of MME", where=str(path), remedy=f"give a folder with {TASKS[0]}.txt and so on"
            )
        return made

    def match_answers(self, rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
        """By task, picture and question."""
        items: dict[tuple[str, str], list[Item]] = defaultdict(list)
        for item in answers.items:
            items[item.reference["task"], picture_name(item.group)].append(item)
        for row in rows:
            named, question = row.doc.get("question_id"), asked(row)
            task, _, place = named.partition("/") if isinstance(named, str) else ("", "", "")
            task, picture = str(row.doc.get("category", task)), picture_of(row) or picture_name(place)
            pair = [] if question is None else items[task, picture]
            same = [item for item in pair if same_question(self._plain(item), str(question))]
            if len(same) != 1:
                raise BadInputError(
                    f"{len(same)} questions of the task {shown(task)} about the picture {shown(picture)} are {shown(question)}",
                    where=row.where,
                    remedy="give rows with category, image (or question_id: TASK/IMAGE) and question, or the official folder",
                )
            answers.add(same[0].id, row, f"the question {shown(question)} about {shown(picture)}")

    def _plain(self, item: Item) -> str:
        """An item's question without the instruction behind it."""
        return without_suffix(item.prompt, self.settings.suffix or None, _OWN_SUFFIX)

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Whether an answer is right by each parser; whether both answers to an image are right is counted at the second one."""
        said = {
            item.id: dict(zip(_PARSERS, (mme_official(text), tolerant(text, item.prompt)), strict=True))
            for item in items
            for text in (responses[item.id].text,)
        }
        pairs: dict[str, list[Item]] = defaultdict(list)
        scores = []
        for item in items:
            task, label = item.reference["task"], item.reference["label"]
            pairs[item.group].append(item)
            counts = _ZEROS | {
                f"{task}.n": 1.0,
                f"{task}.read": float(said[item.id][""] is not None),
                "yes": float(said[item.id][""] == "yes"),
                "unreadable": float(said[item.id]["[tolerant]"] is None),
            }
            pair = pairs[item.group]
            counts[f"{task}.pairs"] = float(len(pair) == 2)
            for parser in _PARSERS:
                right = [said[one.id][parser] == one.reference["label"] for one in pair]
                counts[f"{task}{parser}.right"] = float(right[-1])
                counts[f"{task}{parser}.both"] = float(len(pair) == 2 and all(right))
            own = said[item.id]
            details = {"said": own[""], "read": own["[tolerant]"], "label": label, "task": task}
            scores.append(SampleScore(item.id, item.group, counts, details=details))
        return scores

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Scores of tasks, 0 to 200, and their sums; NaN for a sum if one of its tasks has no question."""
        result: dict[str, np.ndarray] = {}
        for parser in _PARSERS:
            for task in TASKS:
                plain = ratio(totals[f"{task}{parser}.right"], totals[f"{task}.n"])
                both = ratio(totals[f"{task}{parser}.both"], totals[f"{task}.pairs"])
                result[f"score.{task}{parser}"] = plain * 100 + both * 100
            for name, tasks in SUMS.items():
                # Task by task, as the official script adds: the last digit depends on the order.
                result[f"score.{name}{parser}"] = sum((result[f"score.{task}{parser}"] for task in tasks), np.zeros(()))
            for name, cells in (("accuracy", ("right", "n")), ("accuracy_plus", ("both", "pairs"))):
                above, below = (
                    np.sum(
                        [totals[f"{task}{parser if cell in ('right', 'both') else ''}.{cell}"] for task in TASKS],
                        axis=0,
                    )
                    for cell in cells
                )
                result[f"{name}{parser}"] = ratio(above, below)
        result["yes_ratio"] = ratio(totals["yes"], totals["n"])
        result["unreadable"] = ratio(totals["unreadable"], totals["n"])
        return result

    def official(self, totals: Totals) -> dict[str, str]:
        """What the official script prints, if it succeeds: all fourteen tasks exist, and each has an answer that it can read."""
        if not self._paired_by_place or any(not totals[f"{task}.read"] for task in TASKS):
            return {}
        if any(2 * totals[f"{task}.pairs"] != totals[f"{task}.n"] for task in TASKS):
            return {}
        values = self.aggregate(totals)
        return {
            name: str(float(values[name])) for name in (f"score.{one}" for one in ("perception", "cognition", *TASKS))
        }

    def provenance(self) -> dict[str, Any]:
        """The version of our own parser, and what was asked: the questions are in more than a thousand files."""
        return {"tolerant_parser": PARSER} | ({"questions_sha256": self._digest} if self._digest else {})


_IMAGES = frozenset((".jpg", ".jpeg", ".png"))


def _rows(path: Path, cells: int) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of a text file whose lines are separated by tabs; blank lines are skipped."""
    for number, line in enumerate(read_text(path, "questions").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != cells:
            raise BadInputError(
                f"the line has {len(fields)} cells, separated by tabs, not {cells}",
                where=f"{path}:{number}",
                remedy="write one question per line; an answer must contain neither a tab nor a line break",
            )
        yield f"{path}:{number}", fields
