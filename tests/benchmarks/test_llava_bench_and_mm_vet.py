"""The files and judges of LLaVA-Bench and MM-Vet. The official figures: tests/conformance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.llava_bench import LLaVABench, read_pair
from benchmarks.mm_vet import MMVet, read_grade
from harness.core.errors import BadInputError
from harness.core.stats import Counts
from harness.core.types import Response
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.judging.replies import UnreadableError
from tests.benchmarks.scoring import jsonl
from tests.commands import json_here, run_here


class Saying(Judge):
    """Says replies in turn, and remembers the requests."""

    name = "saying"

    def __init__(self, *replies: str) -> None:
        super().__init__()
        self.replies, self.asked = replies, []  # type: ignore[var-annotated]

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        for request, reply in zip(requests, self.replies, strict=True):
            self.asked.append(request)
            yield JudgeReply(request.item.id, reply)

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.name}


def llava(root: Path) -> Path:
    kinds = ("conv", "detail")
    jsonl(
        root / "questions.jsonl",
        [{"question_id": n, "image": "a.jpg", "category": kind, "text": f"Q{n}?"} for n, kind in enumerate(kinds)],
    )
    jsonl(root / "context.jsonl", [{"id": "1", "image": "a.jpg", "caption": ["A dog.", "A cat."]}])
    jsonl(root / "answers_gpt4.jsonl", [{"question_id": n, "text": f"gpt {n}"} for n in range(2)])
    return root


def test_llava_bench_asks_in_the_official_layout(tmp_path: Path) -> None:
    suite = LLaVABench()
    items = suite.items(llava(tmp_path))
    judge = Saying("8 6\nbecause", "5 5")
    scores = suite.score(items, {item.id: Response(item.id, f"model {item.id}") for item in items}, judge)
    prompt = judge.asked[0].prompt
    assert prompt.startswith(
        "[Context]\nA dog.\nA cat.\n\n[Question]\nQ0?\n\n[Assistant 1]\ngpt 0\n\n[End of Assistant 1]\n\n"
    )
    assert "[Assistant 2]\nmodel 0\n\n[End of Assistant 2]\n\n[System]\n" in prompt and judge.asked[0].system
    values = {name: float(value) for name, value in suite.aggregate(Counts.of(scores).totals()).items()}
    assert values["relative"] == pytest.approx(1100 / 13) and values["relative.conv"] == 75
    assert suite.official_of(scores)["relative"] == "84.6" and suite.variant_with(judge) == "saying, own prompt"
    assert len({item.group for item in items}) == 1, "questions about one picture are one cluster"


def test_the_rules_of_llava_bench_are_read_from_the_official_file(tmp_path: Path) -> None:
    rule = {
        f"llava_bench_{kind}": {"role": "Helper", "prompt": f"Rule {kind}"} for kind in ("conv", "detail", "complex")
    }
    (llava(tmp_path) / "rule.json").write_text(json.dumps(rule))
    suite = LLaVABench()
    items = suite.items(tmp_path)
    [first, second] = suite.judge_requests(items, {item.id: Response(item.id, "x") for item in items})
    assert (
        "[Helper 2]\nx" in first.prompt
        and first.prompt.endswith("[System]\nRule conv\n\n")
        and "Rule detail" in second.prompt
    )
    assert suite.variant_with(Saying()).startswith("saying, prompt ")


@pytest.mark.parametrize(
    "reply", ["8 7", "8, 7", "8/10 7/10", "**8 7**", "\n8 7\nwhy", "8.0 7", "<think>1 2</think>8\t7"]
)
def test_ratings_that_are_read(reply: str) -> None:
    assert read_pair(reply) == (8, 7)


@pytest.mark.parametrize(
    "reply", ["", "8", "8 7 6", "11 3", "-1 3", "Assistant 1: 8 Assistant 2: 7", "nan 5", "8-7", "8 of 10"]
)
def test_ratings_that_are_not_read(reply: str) -> None:
    with pytest.raises(UnreadableError):
        read_pair(reply)


def vet(root: Path, **changes: Any) -> Path:
    row = {"imagename": "a.png", "question": "Q?", "answer": "x<AND>y", "capability": ["rec", "ocr"]} | changes
    (root / "mm-vet.json").write_text(json.dumps({"v1_0": row, "v1_1": row | {"capability": ["math"]}}))
    return root


def test_mm_vet_asks_for_a_row_of_the_table(tmp_path: Path) -> None:
    (vet(tmp_path) / "mm-vet_evaluator.py").write_text('prompt = """Compare\nthem"""\n')
    suite = MMVet()
    items = suite.items(tmp_path)
    judge = Saying("0.5", "1.0")
    scores = suite.score(items, {item.id: Response(item.id, "said") for item in items}, judge)
    assert judge.asked[0].prompt == "Compare\nthem\nQ? | x <AND> y | said | "
    values = {name: float(value) for name, value in suite.aggregate(Counts.of(scores).totals()).items()}
    assert (values["total"], values["total.rec"], values["total.math"], values["total.only.ocr_rec"]) == (
        0.75,
        0.5,
        1,
        0.5,
    )
    assert suite.official_of(scores)["total"] == "75.0" and suite.variant_with(judge).startswith("saying, prompt ")


@pytest.mark.parametrize(("reply", "grade"), [("0.5", 0.5), ("1", 1), ("**0.0**", 0), ("0.5 |", 0.5), (" 0.7.", 0.7)])
def test_grades_that_are_read(reply: str, grade: float) -> None:
    assert read_grade(reply) == grade


@pytest.mark.parametrize("reply", ["", "1.5", "-0.5", "nan", "Correctness", "0.5 or 0.6", "０.5"])
def test_grades_that_are_not_read(reply: str) -> None:
    with pytest.raises(UnreadableError):
        read_grade(reply)


def test_several_runs_of_stored_grades_are_votes(tmp_path: Path) -> None:
    vet(tmp_path)
    (tmp_path / "g.json").write_text(json.dumps({"v1_0": {"score": [0.0, 0.5]}, "v1_1": {"score": [1.0, 1.0]}}))
    files = ["--questions", str(tmp_path / "mm-vet.json"), "--reviews", str(tmp_path / "g.json")]
    record = json_here("score", "--suite", "mm-vet", *files)
    assert record["metrics"]["total"]["value"] == 0.625 and record["metrics"]["total"]["official"] == "62.5"
    assert record["metrics"]["votes_agree"]["value"] == 0.5


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    def said(suite: str, *files: str) -> str:
        code, _, error = run_here(["score", "--suite", suite, *files])
        assert code == 2
        return error

    def reviews(rows: list[dict[str, Any]]) -> str:
        return said("llava-bench", "--reviews", str(jsonl(tmp_path / "r.jsonl", rows)))

    row = {"question_id": 1, "category": "llava_bench_conv", "content": "8 7"}
    assert "reviewed twice" in reviews([row, row]) and "no review" in reviews([])
    assert "'category' is 'x'" in reviews([row | {"category": "x"}])
    assert "no 'content'" in reviews([{"question_id": 1, "category": "llava_bench_conv"}])
    assert "could not be scored" in reviews([row | {"content": "8 of 10"}])
    for changes, message in (
        ({"capability": ["cooking"]}, "capability"),
        ({"capability": []}, "capability"),
        ({"answer": 1}, "answer"),
    ):
        assert message in said("mm-vet", "--questions", str(vet(tmp_path, **changes) / "mm-vet.json"), "--reviews", "x")
    questions = ("--questions", str(vet(tmp_path) / "mm-vet.json"))
    assert "needs --responses" in said("mm-vet", *questions)
    (tmp_path / "g.json").write_text(json.dumps({"v1_0": {"score": [0.0, 0.5]}, "v1_1": {"score": [1.0]}}))
    assert "different numbers of grades" in said("mm-vet", *questions, "--reviews", str(tmp_path / "g.json"))
    (tmp_path / "g.json").write_text(json.dumps({"v1_9": {"score": [0.0]}}))
    assert "belong to no item" in said("mm-vet", *questions, "--reviews", str(tmp_path / "g.json"))
    for suite in (LLaVABench(), MMVet()):
        with pytest.raises(BadInputError, match=f"harness data get {suite.name}"):
            suite.items(tmp_path / "none")
    (llava(tmp_path) / "context.jsonl").write_text("")
    with pytest.raises(BadInputError, match=r"no description of a\.jpg"):
        LLaVABench().items(tmp_path)
