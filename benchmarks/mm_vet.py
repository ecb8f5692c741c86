"""MM-Vet: 218 open questions that need several capabilities; a judge grades each answer from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.base import Benchmark, BenchmarkSettings, Totals, needed, ratio
from benchmarks.judged_files import GradesJudge, agreement, prompt_kind
from harness.core.declared import BarChart, OfflineFile
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_bytes
from harness.core.inside import Folder
from harness.core.reading import read_json
from harness.core.typed import Fields
from harness.core.types import ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge, JudgeRequest
from harness.judging.panel import Vote, ask
from harness.judging.replies import UnreadableError, spoken
from harness.judging.templates import read_template

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
COMBINATIONS = (
    "gen_know_rec", "rec", "ocr_spat", "math_ocr_spat", "rec_spat", "ocr", "math_ocr", "know_rec", "gen_ocr_rec_spat",
    "gen_know_ocr_rec", "ocr_rec_spat", "ocr_rec", "know_ocr_spat", "know_rec_spat", "gen_ocr_spat", "math_ocr_rec_spat",
)  # fmt: skip
"""Sets of capabilities that the official questions need, in alphabetical order; the official script's order depends on a hash."""
OFFICIAL_PROMPT = "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"
"""SHA-256 of the constant `prompt` in the official mm-vet_evaluator.py."""
_SCRIPT = "mm-vet_evaluator.py"
_OWN_PROMPT = """Compare a prediction with the ground truth of a question about an image, and grade how correct the prediction is: 0.0 is
totally wrong, 1.0 is totally right, and 0.1 to 0.9 are partially right. <AND> in the ground truth means that the prediction is right
only if it contains all of these elements, <OR> that one of them is enough. Reply with the number only.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---"""
_PARTS = ("", *(f".{name}" for name in CAPABILITIES), *(f".only.{name}" for name in COMBINATIONS))
_ZEROS = {f"{cell}{part}": 0.0 for part in _PARTS for cell in ("sum", "count")}


def official_grade(reply: str) -> float | None:
    """The official reading of a reply: the part before its first blank, as a number from 0 to 1; None if it is none ("nan" is one).

    Source: Yu et al., ICML 2024, mm-vet_evaluator.py.
    """
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return None if grade > 1.0 or grade < 0.0 else grade


def read_grade(reply: str) -> float:
    """The number from 0 to 1 that a reply consists of, apart from marks around it and the table's bar behind it.

    Raises:
        UnreadableError: it is something else.
    """
    text = spoken(reply).strip().strip("*`|\"'").strip().removesuffix(".").strip()
    try:
        grade = float(text) if text.isascii() else math.nan
    except ValueError:
        grade = math.nan
    if not 0 <= grade <= 1:
        raise UnreadableError("it is not a number from 0 to 1")
    return grade


def _specs() -> tuple[MetricSpec, ...]:
    return (
        MetricSpec("total", "MM-Vet", True, headline=True),
        *(MetricSpec(f"total.{name}", f"MM-Vet {name}", True) for name in CAPABILITIES),
        *(MetricSpec(f"total.only.{name}", f"MM-Vet only {name}", True) for name in COMBINATIONS),
        MetricSpec("votes_agree", "MM-Vet votes agree", True, kind="diagnostic"),
    )


class MMVet(Benchmark):
    """Mean grade of all questions, of those that need a capability, and of those that need exactly a set of capabilities.

    With several votes (the paper has five runs) a question's grade is the mean of its votes. An unreadable reply is requested again, and
    then the question is unscored; the official script grades it 0.

    Source: Yu et al., ICML 2024 (arXiv 2308.02490).
    """

    name, title, max_new_tokens, needs_judge = "mm-vet", "MM-Vet", 512, True
    source = "Yu et al., ICML 2024 (arXiv 2308.02490)"
    metrics = _specs()
    place = 120
    group = "general"
    charts = (BarChart("total", "mm-vet", "Mean grade of the answers on MM-Vet, {board}.", "MM-Vet total"),)
    offline_files = (
        OfflineFile("questions", "mm-vet.json"),
        OfflineFile("responses", "the official result file {id: answer}; not needed with --reviews"),
        OfflineFile("reviews", "the official grade file {id: {score: [...]}}"),
    )

    def __init__(self, settings: BenchmarkSettings | None = None) -> None:
        super().__init__(settings)
        self._script: Path | None = None

    @cached_property
    def _prompt(self) -> tuple[str, str]:
        """The prompt, and its SHA-256."""
        if self._script is None:
            return _OWN_PROMPT, sha256_bytes(_OWN_PROMPT.encode())
        return read_template(self._script, "prompt")

    def prompt_kind(self) -> str:
        """Of the judge's prompt."""
        return prompt_kind(self._prompt[1], OFFICIAL_PROMPT, sha256_bytes(_OWN_PROMPT.encode()))

    def items(self, data: Path) -> list[Item]:
        """`mm-vet.json`: {id: {imagename, question, answer, capability}}."""
        path = data / "mm-vet.json"
        if not path.exists():
            raise self.missing_files(path)
        self._script = data / _SCRIPT if (data / _SCRIPT).exists() else None
        return self._read(path, Folder(data / "images"))

    def _read(self, path: Path, images: Folder | None) -> list[Item]:
        items = []
        with self.reading(path):
            questions = Fields(read_json(path, "questions"), str(path), "file of questions")
            for name in questions.value:
                fields = questions.fields(name)
                where, needs = f"{path}, {name}", sorted(fields.texts("capability"))
                unknown = set(needs) - set(CAPABILITIES)
                if unknown or not needs or len(set(needs)) != len(needs):
                    fields.refuse("capability", f"a list of {', '.join(CAPABILITIES)}")
                picture = fields.text("imagename", empty=False)
                image = ImageRef(name=picture) if images is None else ImageRef(path=images.path(picture, where))
                question = fields.text("question", empty=False)
                reference = {"answer": fields.text("answer"), "capability": needs, "question": question}
                items.append(Item(str(name), question, image, picture, reference))
        if not items:
            raise BadInputError("the file has no question", where=str(path))
        return items

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--questions`, and `--responses` for a judge or `--reviews` of one."""
        items = self._read(needed(files, "questions", self.name), None)
        responses: dict[str, Response] = {}
        if "responses" in files:
            path = needed(files, "responses", self.name)
            answers = Fields(read_json(path, "responses"), str(path), "file of responses")
            responses = {name: Response(name, answers.text(name)) for name in answers.value}
        if "reviews" not in files:
            needed(files, "responses", self.name)
            return items, responses
        path = needed(files, "reviews", self.name)
        grades = Fields(read_json(path, "grades", finite=False), str(path), "file of grades")
        stored = {name: grades.fields(name).items("score") for name in grades.value}
        runs = {len(scores) for scores in stored.values()}
        if len(runs) != 1 or runs == {0}:
            raise BadInputError("the questions have different numbers of grades, or none", where=str(path))
        self.offline_judge = GradesJudge(
            path, {name: [str(one) for one in own] for name, own in stored.items()}, runs.pop()
        )
        return items, responses or {name: Response(name, "") for name in stored}

    def judge_requests(self, items: Sequence[Item], responses: Mapping[str, Response]) -> list[JudgeRequest]:
        """A further row of the official prompt's table for every answer."""
        requests = []
        for item in items:
            answer = item.reference["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
            row = " | ".join([item.reference["question"], answer, responses[item.id].text, ""])
            requests.append(JudgeRequest(item, responses[item.id], f"{self._prompt[0]}\n{row}"))
        return requests

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Ask the judge about every answer, and read its grade, of every vote."""
        if judge is None:
            raise HarnessError("MM-Vet needs a judge", remedy="choose one: --judge openai")
        requests = self.judge_requests(items, responses)
        votes: dict[str, list[Vote[float]]] = ask(judge, requests, read_grade)
        return [self._one(request, votes[request.item.id]) for request in requests]

    @staticmethod
    def _one(request: JudgeRequest, votes: Sequence[Vote[float]]) -> SampleScore:
        item, needs = request.item, request.item.reference["capability"]
        grades = [vote.value for vote in votes if vote.value is not None]
        official = [official_grade(vote.text) if vote.text is not None else None for vote in votes]
        details: dict[str, Any] = {
            "review": votes[0].text,
            "votes": [vote.value for vote in votes],
            # A reply that the official script cannot read it requests again, in another way than we do: there is no official grade then.
            "official_grades": official if all(one is not None and math.isfinite(one) for one in official) else None,
            "capability": needs,
            "judge_prompt": request.prompt,
            "reference": dict(item.reference),
        }
        if not grades:
            return SampleScore(item.id, item.group, {}, details=details, unscored=votes[0].reason)
        counts = _ZEROS | agreement(grades)
        for part in _parts(needs):
            counts |= {f"sum{part}": float(np.mean(grades)), f"count{part}": 1.0}
        return SampleScore(item.id, item.group, counts, details=details)

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Mean grades, as fractions."""
        found = {f"total{part}": ratio(totals[f"sum{part}"], totals[f"count{part}"]) for part in _PARTS}
        return found | {"votes_agree": ratio(totals["agreeing"], totals["pairs"])}

    def official_of(self, scores: Sequence[SampleScore]) -> dict[str, str]:
        """What the official script writes: per run the sum of grades / questions * 100, the mean of the runs, one decimal."""
        if any(score.details.get("official_grades") is None for score in scores):
            return {}
        by_part: dict[str, list[list[float]]] = {}
        for score in scores:
            for part in _parts(score.details["capability"]):
                by_part.setdefault(part, []).append(score.details["official_grades"])
        printed = {}
        for part, grades in by_part.items():
            runs = [sum(run) / len(grades) * 100 for run in zip(*grades, strict=True)]
            printed[f"total{part}"] = str(round(float(np.mean(runs)), 1))
        return printed

    def provenance(self) -> dict[str, Any]:
        """The judge's prompt."""
        return {"prompt": self.prompt_kind() or "official", "prompt_sha256": self._prompt[1]}


def _parts(needs: Sequence[str]) -> list[str]:
    """The figures that a question counts in: all, one per capability, and its set's if the official questions have it."""
    combination = "_".join(sorted(needs))
    parts = ["", *(f".{name}" for name in needs)]
    return [*parts, f".only.{combination}"] if combination in COMBINATIONS else parts
