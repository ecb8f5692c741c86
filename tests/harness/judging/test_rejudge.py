"""The road of judged scores: a plan with its cost, other judges on the same answers, their agreement."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.remote.endpoint import KEY_VARIABLE
from harness.worlds.pocket.formats import write_benchmarks
from tests import commands
from tests.harness.judging.fake_endpoint import SECRET, FakeServer, serving
from tests.tiny import tiny_llava

EVALUATE = ("--model", "./base", "--data", "data", "--suite", "mmhal", "--backend", "transformers", "--limit", "12")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model's answers to a dozen questions, graded by the judge that knows the truth."""
    folder = tmp_path_factory.mktemp("rejudge")
    tiny_llava(folder / "base")
    write_benchmarks(0, "validation", folder / "data")
    harness(folder, "eval", *EVALUATE, "--judge", "pocket-truth")
    return folder


def harness(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return commands.harness(folder, *arguments, code=code, **{KEY_VARIABLE: SECRET})


def judge(server: FakeServer, *more: str) -> list[str]:
    return ["--judge-model", "judge", "--judge-url", server.url, *more]


def rejudge(folder: Path, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return harness(folder, "rejudge", "--run", "base-base", "--data", "data", *more, code=code)


@pytest.mark.slow
def test_another_judge_grades_the_same_answers(folder: Path, server: FakeServer) -> None:
    [run] = folder.glob("results/base-*")
    run = run.rename(folder / "results" / "base-base") if run.name != "base-base" else run
    evals = run / "evals" / "mmhal@data"
    before = (evals / "responses.jsonl").read_bytes()
    old = (evals / "scores-pocket-truth.json").read_bytes()

    [plan] = json.loads(rejudge(folder, *judge(server, "--judge-price", "2,8"), "--dry-run", "--json").stdout)
    assert plan["items"] == plan["answered"] == plan["judge_calls"] >= 12 and plan["to_generate"] == 0
    assert plan["judge_usd_at_most"] == pytest.approx(
        (plan["judge_prompt_tokens"] * 2 + plan["judge_completion_tokens_at_most"] * 8) / 1e6
    )
    assert "at most $" in rejudge(folder, *judge(server, "--judge-price", "2,8"), "--dry-run").stdout
    assert not server.asked, "a plan asked the judge"

    done = rejudge(folder, *judge(server, "--judge-votes", "2"), "--json")
    [record] = json.loads(done.stdout)
    assert record["variant"] == "judge, own prompt" and record["judge"]["answered_by"] == ["judge-2024-08-06"]
    assert record["metrics"]["score"]["value"] == 4.0 and record["metrics"]["votes_agree"]["value"] == 1.0
    assert set(server.asked.values()) == {2} and len(server.asked) == record["n"]
    assert (evals / "responses.jsonl").read_bytes() == before, "answers were generated"
    assert (evals / "scores-pocket-truth.json").read_bytes() == old
    board = json.loads(harness(folder, "leaderboard", "--json").stdout)[0]["rows"][0]["metrics"]
    assert {"mmhal[pocket-truth].score", "mmhal[judge, own prompt].score"} <= board.keys()

    asked = server.asked.total()
    rejudge(folder, *judge(server, "--judge-votes", "2"))
    assert server.asked.total() == asked, "a kept verdict was asked for again"

    truth = evals / "items-pocket-truth.jsonl"
    scores: dict[str, Any] = json.loads(
        harness(folder, "calibrate", "--reference", str(truth), *judge(server), "--json").stdout
    )
    ratings = [json.loads(line)["details"]["rating"] for line in truth.read_text().splitlines()]
    assert scores["reference"]["exact"] == pytest.approx(ratings.count(4) / len(ratings))
    assert scores["itself"]["exact"] == 1.0 and server.asked.total() == asked, "the same prompts were paid for again"
    assert "with itself" in harness(folder, "calibrate", "--reference", str(truth), *judge(server)).stdout

    written = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".jsonl")]
    assert not [path for path in written if SECRET in path.read_text(encoding="utf-8")]
    assert SECRET not in done.stdout + done.stderr


ODD = {
    "Rating: 4.": 4,
    "Rating (0-6): 5": 5,
    "**Rating: 3**": 3,
    "Rating: 4/6": 4,
    "My rating is 2.": 2,
    "Rating: 0, hallucination": 0,
    "Rating: 4/10": None,
    "Rating: 4 or 5": None,
    "Rating: -1": None,
    "Rating: 7": None,
    "Rating: 3.5": None,
    "Rating: 2-3": None,
}
"""What judges write -> the rating; None where it leaves a doubt."""


@pytest.mark.slow
def test_odd_ratings_are_read_or_left_unscored(folder: Path, server: FakeServer) -> None:
    """Through the whole command: an unclear rating is never guessed, and the judge's words are kept."""
    [run] = folder.glob("results/base-*")
    server.scripted["odd"] = list(ODD) * 20
    options = ("--judge-model", "odd", "--judge-url", server.url, "--max-unscored", "1")
    done = harness(folder, "rejudge", "--run", run.name, "--data", "data", *options, "--json")
    [record] = json.loads(done.stdout)
    lines = (run / "evals" / "mmhal@data" / "items-odd-own-prompt.jsonl").read_text().splitlines()
    details = [json.loads(line)["details"] for line in lines]
    assert {row["review"] for row in details} == set(ODD)
    assert [row["rating"] for row in details] == [ODD[row["review"]] for row in details]
    assert record["unscored"] == sum(row["rating"] is None for row in details) > 0


@pytest.mark.slow
def test_what_cannot_be_rejudged(folder: Path, server: FakeServer) -> None:
    done = harness(
        folder, "rejudge", "--run", "base-base", "--data", "data", "--suite", "halbench", *judge(server), code=2
    )
    assert "no answers to halbench" in done.stderr and "harness eval" in done.stderr
    done = rejudge(folder, "--judge", "pocket-truth", "--set", "judge.model=x", code=2)
    assert "unknown setting 'model'" in done.stderr
    done = rejudge(folder, *judge(server, "--max-cost", "1"), code=1)
    assert "--judge-price" in done.stderr
    done = rejudge(
        folder,
        *judge(server, "--judge-price", "1,10", "--max-cost", "0.0001", "--set", "judge.temperature=0.5"),
        code=1,
    )
    assert "budget" in done.stderr and "--max-cost" in done.stderr


@pytest.mark.slow
def test_an_evaluation_can_be_planned(folder: Path, server: FakeServer) -> None:
    arguments = ["eval", *EVALUATE[:-2], "--dry-run", "--json", *judge(server)]
    [plan] = json.loads(harness(folder, *arguments).stdout)
    assert plan["to_generate"] == plan["items"] - plan["answered"] > 0 < plan["answered"]
    assert plan["judge_usd_at_most"] is None
