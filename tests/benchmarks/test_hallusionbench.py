"""HallusionBench's files, judge and questions without an image. The official figures: tests/conformance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hallusionbench import HallusionBench, HallusionSettings
from benchmarks.hallusionbench_judge import official_mark, official_same, read_mark, read_same
from harness.core.errors import BadInputError, HarnessError
from harness.core.stats import Counts
from harness.core.types import NO_IMAGE, Response
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.judging.replies import UnreadableError
from tests.benchmarks.scoring import jsonl
from tests.commands import json_here, run_here


def row(figure: int, question: int, label: int, *, category: str = "VS", visual: int | None = None) -> dict[str, Any]:
    visual = figure if visual is None else visual
    return {
        "category": category, "subcategory": "chart", "visual_input": str(visual), "set_id": "0", "figure_id": str(figure),
        "question_id": str(question), "question": f"Is it {question}?", "gt_answer_details": "It is.", "gt_answer": str(label),
        "filename": f"./{category}/chart/0_{figure}.png" if visual else None,
    }  # fmt: skip


ROWS = [row(figure, question, int(figure < 2)) for figure in range(3) for question in range(2)]


def folder(root: Path, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    root.mkdir(exist_ok=True)
    (root / "HallusionBench.json").write_text(json.dumps(rows))
    return root


def match(items: Any, said: Sequence[str], suite: HallusionBench) -> dict[str, float]:
    scores = suite.score(items, {item.id: Response(item.id, text) for item, text in zip(items, said, strict=True)})
    return {name: float(value) for name, value in suite.aggregate(Counts.of(scores).totals()).items()}


def test_items(tmp_path: Path) -> None:
    items = HallusionBench().items(folder(tmp_path))
    assert [item.id for item in items[:3]] == ["VS_chart_0_0_0", "VS_chart_0_0_1", "VS_chart_0_1_0"]
    assert items[0].image == NO_IMAGE and items[0].image.absent
    assert items[2].image.path == tmp_path / "hallusion_bench" / "VS" / "chart" / "0_1.png"
    assert {item.group for item in items} == {"VS_chart_0"}, "a set is resampled as a whole"


@pytest.mark.claims("hallusionbench.scoring", "hallusionbench.suffix")
def test_groups_are_right_if_all_of_their_answers_are(tmp_path: Path) -> None:
    suite = HallusionBench(HallusionSettings(scoring="match", suffix="Yes or no?"))
    items = suite.items(folder(tmp_path))
    assert items[0].prompt == "Is it 0? Yes or no?" and suite.variant == 'match+suffix "Yes or no?"'
    values = match(items, ("It is unclear.", "Yes", "Yes", "No", "No", "Yes"), suite)
    # Not to know is right without a figure; question 0 is right everywhere, figure 1 and 2 are half right.
    assert values["a_acc"] == 4 / 6 and values["q_acc"] == 0.5 and values["f_acc"] == 0
    assert values["figures_inconsistent"] == 1 and values["figures_wrong"] == 0
    assert values["a_acc.images"] == 0.5 and values["a_acc.hard"] == 0.5 and values["q_acc.easy"] == 0.5
    assert not suite.needs_judge and HallusionBench().needs_judge
    with pytest.raises(HarnessError, match="--scoring match"):
        HallusionBench().score(items, {})


def test_a_group_with_an_item_without_a_score_does_not_count(tmp_path: Path) -> None:
    suite = HallusionBench(HallusionSettings(scoring="match"))
    items = suite.items(folder(tmp_path))
    totals = Counts.of(suite.score(items[1:], {item.id: Response(item.id, "Yes") for item in items})).totals()
    assert (totals["rows"], totals["q.n"], totals["f.n"]) == (5, 1, 2)


class Saying(Judge):
    """Says what a table has for a request, and remembers the requests."""

    name = "saying"

    def __init__(self, replies: dict[str, str]) -> None:
        super().__init__()
        self.replies, self.asked = replies, []  # type: ignore[var-annotated]

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        for request in requests:
            self.asked.append(request)
            yield JudgeReply(request.item.id, self.replies[request.item.id])

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.name}


def test_a_judge_compares_wrong_answers_with_the_original(tmp_path: Path) -> None:
    """Only where the kind of error depends on it: half of the calls of the official script decide nothing."""
    suite = HallusionBench()
    items = suite.items(folder(tmp_path))
    judge = Saying(
        {item.id: "correct" for item in items} | {"VS_chart_0_2_0": "incorrect.", "VS_chart_0_2_0#same": "Same"}
    )
    judge.replies["VS_chart_0_2_1"] = "It is not correct"
    scores = suite.score(items, {item.id: Response(item.id, f"said {item.id}") for item in items}, judge)
    assert [request.item.id for request in judge.asked[6:]] == ["VS_chart_0_2_0#same"]
    assert "said VS_chart_0_2_0" in judge.asked[6].prompt and "said VS_chart_0_0_0" in judge.asked[6].prompt
    values = suite.aggregate(Counts.of(scores).totals())
    assert float(values["errors.language"]) == 1 and float(values["a_acc"]) == 4 / 5
    assert scores[5].unscored and "cannot be parsed" in scores[5].unscored
    assert suite.variant_with(judge) == "saying, own prompt"


class Voting(Saying):
    """Gives three replies to a request, one a vote; the same one if there is only one."""

    votes, samples = 3, True

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        for request in requests:
            replies = self.replies[request.item.id].split("/")
            yield JudgeReply(request.item.id, replies[request.sample // self.asks % len(replies)])


def test_the_majority_decides_whether_a_wrong_answer_repeats_the_original(tmp_path: Path) -> None:
    suite = HallusionBench()
    items = suite.items(folder(tmp_path))
    judge = Voting({item.id: "correct" for item in items} | {"VS_chart_0_2_0": "incorrect"})
    for replies, kinds in (("different/same/same", (1, 0)), ("same/different/different", (0, 1))):
        judge.replies["VS_chart_0_2_0#same"] = replies
        scores = suite.score(items, {item.id: Response(item.id, "said") for item in items}, judge)
        values = suite.aggregate(Counts.of(scores).totals())
        assert (float(values["errors.language"]), float(values["errors.visual"])) == kinds


READ = {"correct": "1", "“Correct”.": "1", "Incorrect": "0", "The answer is **unclear**": "2"}


@pytest.mark.parametrize("reply", READ)
def test_replies_that_are_read(reply: str) -> None:
    assert read_mark(reply) == READ[reply] == official_mark(reply)


@pytest.mark.parametrize("reply", ["not correct", "correct or incorrect", "", "isn't correct", "uncorrect", "Yes"])
def test_replies_that_are_not_read(reply: str) -> None:
    with pytest.raises(UnreadableError):
        read_mark(reply)


def test_same_and_different() -> None:
    assert read_same("Same.") and not read_same("different") and official_same("not the same")
    with pytest.raises(UnreadableError):
        read_same("not the same")


def test_prompts_of_the_script_next_to_the_questions(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "utils.py").write_text(
        "def evaluate_by_chatgpt(sample):\n    prompt = 'Judge: '\n    prompt += sample['question']\n    prompt += '!'\n"
        "def check_same_by_chatgpt(sample):\n    prompt = 'Same?'\n    prompt += response2\n"
    )
    suite = HallusionBench()
    items = suite.items(root)
    responses = {item.id: Response(item.id, "x") for item in items}
    with pytest.raises(BadInputError, match="do not contain gt_answer_details, output_entry"):
        suite.judge_requests(items, responses)
    from harness.judging.templates import read_built_prompt

    assert read_built_prompt(root / "utils.py", "evaluate_by_chatgpt")[0] == "Judge: {question}!"
    assert read_built_prompt(root / "utils.py", "check_same_by_chatgpt")[0] == "Same?{response2}"
    parts = "".join(
        f"    prompt += {part}\n"
        for part in ("sample['question']", "sample['gt_answer_details']", "sample[output_entry]")
    )
    other = f"def evaluate_by_chatgpt(sample):\n    prompt = 'Judge: '\n{parts}"
    other += "def check_same_by_chatgpt(sample):\n    prompt = sample[output_entry]\n    prompt += response2\n"
    (root / "utils.py").write_text(other)
    suite = HallusionBench()
    items = suite.items(root)
    assert suite.judge_requests(items, responses)[0].prompt == "Judge: Is it 0?It is.x"
    assert suite.variant_with(Saying({})).startswith("saying, prompt ")
    for source in ("", "def evaluate_by_chatgpt(x):\n    prompt = make(x)\n", "def ("):
        (root / "utils.py").write_text(source)
        with pytest.raises(BadInputError):
            read_built_prompt(root / "utils.py", "evaluate_by_chatgpt")


@pytest.mark.claims("score --scoring")
def test_the_official_result_file_alone(tmp_path: Path) -> None:
    """It has the columns of the questions; the rows that the script saves have its marks, too."""
    saved = [one | {"model_prediction": "Yes", "gpt4v_output_gpt_check": one["gt_answer"], "same": "1"} for one in ROWS]
    (tmp_path / "r.json").write_text(json.dumps(saved))
    files = ["--responses", str(tmp_path / "r.json")]
    record = json_here("score", "--suite", "hallusionbench", *files, "--reviews", str(tmp_path / "r.json"))
    assert record["metrics"]["a_acc"]["value"] == 4 / 6 and record["judge"]["judge"] == "stored reviews"
    record = json_here("score", "--suite", "hallusionbench", *files, "--scoring", "match")
    assert record["metrics"]["a_acc"]["value"] == 4 / 6 and record["variant"] == "match"


WRONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "twice": ([ROWS[0], ROWS[0]], "appears twice"),
    "no original": ([ROWS[2]], "no row with figure_id 0"),
    "category": ([row(0, 0, 0, category="XX")], "'category' is 'XX'"),
    "label": ([row(0, 0, 2)], "'gt_answer' is"),
    "outside": ([ROWS[0], ROWS[2] | {"filename": "../../../etc/passwd"}], "leaves the data folder"),
    "nothing": ([], "no question"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_questions_are_refused(case: str, tmp_path: Path) -> None:
    rows, message = WRONG[case]
    with pytest.raises(BadInputError, match=message):
        HallusionBench().items(folder(tmp_path, rows))


def test_wrong_responses_are_refused(tmp_path: Path) -> None:
    questions = folder(tmp_path) / "HallusionBench.json"
    base = ["score", "--suite", "hallusionbench", "--scoring", "match", "--questions", str(questions)]

    def said(rows: list[dict[str, Any]], *more: str) -> str:
        responses = jsonl(tmp_path / "r.jsonl", rows)
        code, _, error = run_here([*base, "--responses", str(responses), *more])
        assert code == 2
        return error

    assert "answered twice" in said([{"id": "VS_chart_0_0_0", "answer": "Yes"}] * 2)
    assert "5 of 6 items have no response" in said([{"id": "VS_chart_0_0_0", "answer": "Yes"}])
    assert "no 'category'" in said([{"answer": "Yes"}])
    reviews = jsonl(tmp_path / "v.jsonl", [{"id": "VS_chart_0_0_0", "judge_reply": "correct"}] * 2)
    assert "does not use --reviews" in said([{"id": "VS_chart_0_0_0", "answer": "Yes"}], "--reviews", str(reviews))
    base[4] = "judge"
    assert "reviewed twice" in said([{"id": "VS_chart_0_0_0", "answer": "Yes"}], "--reviews", str(reviews))
    with pytest.raises(BadInputError, match="harness data get hallusionbench"):
        HallusionBench().items(tmp_path / "none")
