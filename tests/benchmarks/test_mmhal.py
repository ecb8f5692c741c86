"""MMHal-Bench on cases worked by hand: every expected number below was computed on paper from the definitions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.mmhal import OFFICIAL_TEMPLATE, TYPES, MMHalBench, MMHalSettings
from benchmarks.ratings import parse_official, parse_strict, read_rating
from harness.core.errors import BadInputError, HarnessError
from harness.core.stats import Counts
from harness.core.types import Response
from harness.evaluation.score import check_coverage
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.judging.replies import UnreadableError
from tests.benchmarks.scoring import jsonl


@pytest.mark.parametrize(
    ("reply", "official", "read"),
    [
        ("Rating: 5, very informative", 5, 5),
        ("RATING: 0", 0, 0),
        ("Rating:5", 0, 5),
        ("Rating 5", 0, 5),
        ("**Rating**: 5", 0, 5),
        ("Rating: 10", 1, None),
        ("Rating: 7", 0, None),
        ("Rating: 4 ... Rating: 4", 4, 4),
        ("Rating: 4, no, Rating: 5", 0, None),
        ("Rating: 3.5", 3, None),
        ("", 0, None),
        ("I cannot say.", 0, None),
        ("The answer is right.\nRating: 4.", 4, 4),
        ("Overall I agree. Rating: 5. It is informative.", 5, 5),
        ("Rating: 4.0", 4, 4),
        ("Rating (0-6): 5", 0, 5),
        ("Rating [0–6]: 2", 0, 2),
        ("Rating scale (0 to 6): 4. Rating: 4", 4, 4),
        ("Rating on the scale of 0 to 6: see below.\nRating: 3", 3, 3),
        ("On a rating scale from 0 to 6, I give a clear verdict.\nRating: 3", 3, 3),
        ("Rating 0-6: 5", 0, 5),
        ("Rating 0-60: 5", 0, None),
        ("Rating (out of 6): 5", 0, 5),
        ("Rating: 4/6", 4, 4),
        ("Rating: 4 out of 6.", 4, 4),
        ("**Rating:** 5", 0, 5),
        ("### Rating\n\n**5**", 0, 5),
        ("Rating: [[4]]", 0, 4),
        ("Rating: \\boxed{4}", 0, 4),
        ("Rating: (4) somewhat informative", 0, 4),
        ("Rating: 4 - somewhat informative", 4, 4),
        ("Rating: 4\n\n3 dogs are named, and there are 3.", 4, 4),
        ("Rating - 4", 0, 4),
        ("My rating is 4.", 0, 4),
        ("A rating of 2 would be harsh. Rating: 4", 4, 4),
        ("<think>Perhaps Rating: 2? No.</think>Rating: 4", 0, 4),
        ("<think>Rating: 2", 2, None),
        ("Rating: -1", 0, None),
        ("Rating: −4", 0, None),
        ("Rating -4", 0, None),
        ("Rating: 4/10", 4, None),
        ("Rating: 4 out of 10", 4, None),
        ("Rating: 4 or 5", 4, None),
        ("Rating: 4 and 5", 4, None),
        ("Rating: 4-5", 4, None),
        ("Rating: 4 – 5", 4, None),
        ("Rating: 4 to 5", 4, None),
        ("Rating: 3,5", 3, None),
        ("Rating: 4½", 4, None),
        ("Rating: 4+", 4, None),
        ("Rating: 40 %", 4, None),
        ("Rating: 4%", 4, None),
        ("Rating: ~4", 0, None),
        ("Rating: 4th", 4, None),
        ("Overrating: 4", 4, None),
        ("Rating: " + "9" * 5000, 0, None),
    ],
)
def test_ratings(reply: str, official: int, read: int | None) -> None:
    assert parse_official(reply) == official
    assert parse_strict(reply) == read


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("Rating: 4/10", "not on the scale"),
        ("Rating: 4 or 5", "'4 or 5' is not a single"),
        ("Rating: -1", "'-1' is not a single"),
        ("Rating: 7", "above 6"),
        ("Rating: 3.5", "not an integer"),
        ("Rating: 4. Rating: 5", "differ: 4, 5"),
        ("I cannot say.", "no rating"),
    ],
)
def test_why_a_rating_cannot_be_read_is_said(tmp_path: Path, reply: str, why: str) -> None:
    with pytest.raises(UnreadableError, match=why):
        read_rating(reply)
    path = jsonl(tmp_path / "r.jsonl", [{"index": 0, "review": reply}])
    items, responses = (benchmark := MMHalBench()).read_offline({"reviews": path})
    [score] = benchmark.score(items, responses, benchmark.offline_judge)
    assert score.unscored and why in score.unscored and not score.counts


def test_mmhal_by_hand(tmp_path: Path) -> None:
    replies = ["Rating: 6", "Rating: 2", "Rating: 3", "no idea"]
    path = jsonl(tmp_path / "reviews.jsonl", [{"index": place, "review": text} for place, text in enumerate(replies)])
    items, responses = (benchmark := MMHalBench()).read_offline({"reviews": path})
    scores = benchmark.score(items, responses, benchmark.offline_judge)
    assert [score.unscored is None for score in scores] == [True, True, True, False] and not scores[3].counts
    values = benchmark.aggregate(Counts.of(scores).totals())
    assert float(values["score"]) == pytest.approx(11 / 3) and float(values["hallucination_rate"]) == pytest.approx(
        1 / 3
    )
    assert float(values["informativeness"]) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert float(values["score.attribute"]) == 6 and np.isnan(float(values["score.counting"]))
    # The script counts the unreadable reply as 0 and as a hallucination: 11/4, 2/4, (1 + 2/3)/4.
    official = benchmark.official_of(scores)
    assert (official["score"], official["hallucination_rate"], official["informativeness"]) == ("2.75", "0.50", "41.67")
    assert official["score.counting"] == "0.00"
    with pytest.raises(BadInputError, match="twice"):
        MMHalBench().read_offline({"reviews": jsonl(path, [{"index": 1, "review": ""}] * 2)})


def test_a_review_left_out_is_missing(tmp_path: Path) -> None:
    rows = [{"index": place, "review": "Rating: 3"} for place in (0, 3, 1)]
    items, responses = MMHalBench().read_offline({"reviews": jsonl(tmp_path / "r.jsonl", rows)})
    with pytest.raises(BadInputError, match="1 of 4 items have no response: 2"):
        check_coverage(items, responses, allow_partial=False)
    with pytest.raises(BadInputError, match="below 0"):
        MMHalBench().read_offline({"reviews": jsonl(tmp_path / "r.jsonl", [{"index": -1, "review": ""}])})


class Recorder(Judge):
    """Keeps what it is asked; says nothing of the second item."""

    name = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[str] = []

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        for place, request in reversed(list(enumerate(requests))):
            self.prompts.append(request.prompt)
            yield JudgeReply(request.item.id, None if place == 1 else "Rating: 1", "time-out" if place == 1 else None)

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.name}


def test_mmhal_asks_the_judge(tmp_path: Path) -> None:
    rows = [
        {
            "question_type": kind,
            "question_topic": "t",
            "image_id": str(place),
            "image_src": f"https://host/{place}.jpg",
            "image_content": ["dog {question}"],
            "question": f"Q{place}?",
            "gt_answer": f"G{place}",
        }
        for place, kind in enumerate(TYPES)
    ]
    (tmp_path / "response_template.json").write_text(json.dumps(rows))
    benchmark = MMHalBench()
    items = benchmark.items(tmp_path)
    assert items[3].image.path == tmp_path / "images" / "3.jpg" and items[3].prompt == "Q3?"
    responses = {item.id: Response(item.id, f"A{item.id} {{gt_answer}}") for item in items}
    judge = Recorder()
    scores = benchmark.score(items, responses, judge)
    assert [score.item_id for score in scores] == [item.id for item in items], (
        "in the order of the items, whatever the judge's"
    )
    assert "time-out" in (scores[1].unscored or "")
    # What stands in braces in an answer is the answer's, and no field.
    prompt = next(one for one in judge.prompts if "Q3?" in one)
    assert "A3 {gt_answer}" in prompt and "G3" in prompt and "dog {question}" in prompt and "Rating: N" in prompt
    template = tmp_path / "template.txt"
    template.write_text("{question}|{gt_answer}|{model_answer}")
    MMHalBench(MMHalSettings(template=template)).score(items, responses, judge)
    assert "Q0?|G0|A0 {gt_answer}" in judge.prompts
    with pytest.raises(HarnessError, match="judge"):
        benchmark.score(items, responses)


def mmhal_folder(folder: Path, count: int = 2) -> Path:
    rows = [
        {"image_src": f"{place}.jpg", "image_content": ["Dog", "Cat"], "question": "Q?", "gt_answer": "G"}
        for place in range(count)
    ]
    (folder / "response_template.json").write_text(json.dumps(rows))
    return folder


def test_the_official_script_is_taken_where_it_lies_and_only_if_it_is_the_official_one(tmp_path: Path) -> None:
    judge = Recorder()
    folder = mmhal_folder(tmp_path)
    benchmark = MMHalBench()
    benchmark.items(folder)
    assert benchmark.provenance()["template"] == "own wording"
    assert benchmark.variant_with(judge) == "recorder, own prompt"
    script = folder / "eval_gpt_mmhal.py"
    script.write_text("template = '{}|{}|{}|{}'\nraise SystemExit('it was run')\n")
    benchmark = MMHalBench()
    items = benchmark.items(folder)
    responses = {item.id: Response(item.id, "A {}") for item in items}
    with pytest.raises(BadInputError, match="SHA-256") as caught:
        benchmark.score(items, responses, judge)
    digest = hashlib.sha256(b"{}|{}|{}|{}").hexdigest()
    assert OFFICIAL_TEMPLATE in str(caught.value) and digest in str(caught.value) and not judge.prompts
    accepted = MMHalBench(MMHalSettings(template_sha256=digest))
    accepted.score(accepted.items(folder), responses, judge)
    assert judge.prompts == ["Dog, Cat|Q?|G|A {}"] * 2
    assert accepted.variant_with(judge) == f"recorder, prompt {digest[:8]}"
    (tmp_path / "t.txt").write_text("{question}")
    with pytest.raises(BadInputError, match="no placeholder for the answer"):
        MMHalBench(MMHalSettings(template=tmp_path / "t.txt")).judge_requests(items, responses)


class Moody(Judge):
    """Item 0: 5 and 2; item 1: 4, 4; item 2: unreadable, then 6."""

    name, samples, votes = "moody", True, 2

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        says = {"0": ("5", "2"), "1": ("4", "4"), "2": ("x", "6")}
        for request in requests:
            yield JudgeReply(request.item.id, f"Rating: {says[request.item.id][request.sample]}")

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.name}


def test_votes_are_averaged_and_their_agreement_reported(tmp_path: Path) -> None:
    benchmark = MMHalBench()
    items = benchmark.items(mmhal_folder(tmp_path, 3))
    scores = benchmark.score(items, {item.id: Response(item.id, "") for item in items}, Moody())
    assert [score.details["votes"] for score in scores] == [[5, 2], [4, 4], [None, 6]]
    values = benchmark.aggregate(Counts.of(scores).totals())
    assert float(values["score"]) == pytest.approx((3.5 + 4 + 6) / 3)
    assert float(values["hallucination_rate"]) == pytest.approx((0.5 + 0 + 0) / 3)
    assert float(values["votes_agree"]) == 1 / 2
    # The official script asks once: 5, 4, and 0 for what it cannot read.
    assert benchmark.official_of(scores)["score"] == "3.00"
