"""Each option of `eval`, `rejudge` and `merge` does what it says: commands against endpoints on this machine, with and without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.remote.endpoint import KEY_VARIABLE
from harness.worlds.pocket.formats import write_benchmarks
from tests.commands import json_here as run
from tests.harness.judging import fake_endpoint
from tests.harness.judging.fake_endpoint import FakeServer
from tests.harness.judging.fake_endpoint import serving as judging
from tests.harness.serving.fake_vision import SECRET, VisionServer, seeing, small_pope


class Mute(fake_endpoint.Handler):
    """Gives no rating to the first prompt that it is asked."""

    first = ""

    @classmethod
    def words(cls, prompt: str, kind: str, turn: int) -> str:
        cls.first = cls.first or prompt
        return "I never say." if prompt == cls.first else "Rating: 3"


ANSWERED = 4
"""Questions that are answered."""


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn world's suites in their official layouts."""
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(0, "validation", folder / "drawn")
    return folder / "drawn"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmarks: Path) -> Path:
    """A folder with POPE of forty questions, one of which the endpoint refuses, and the drawn world's suites."""
    small_pope(tmp_path, forbidden=7)
    (tmp_path / "drawn").symlink_to(benchmarks)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def server() -> Iterator[VisionServer]:
    with seeing() as running:
        yield running


@pytest.fixture
def judge() -> Iterator[FakeServer]:
    with judging() as running:
        yield running


def evaluate(server: VisionServer, *more: str, data: str = "data", suite: str = "pope", code: int = 0) -> Any:
    asked = ["eval", "--endpoint", server.url, "--model", "seer", "--suite", suite, "--data", data]
    return run(*asked, "--max-unscored", "0.1", *more, code=code)


@pytest.mark.claims("eval --suite", "eval --model", "eval --endpoint", "eval --data", "eval --results", "eval --limit")
def test_what_is_asked_and_where_it_goes(here: Path, server: VisionServer, benchmarks: Path) -> None:
    [record] = evaluate(server, "--limit", "8", "--results", "elsewhere")
    assert (record["suite"], record["model"], record["data"], record["n"]) == ("pope", "seer", "data", 8)
    assert (here / "elsewhere" / "seer" / "evals" / "pope@data" / "responses.jsonl").exists()
    assert not (here / "results").exists()
    assert sum(count for (_, prompt), count in server.answered.items() if "dog" in prompt) == 8
    [record] = evaluate(server, "--limit", "4", data="drawn", suite="halbench")
    assert (record["suite"], record["data"]) == ("halbench", "drawn")


@pytest.mark.claims("eval --set", "openai sampling.max_new_tokens", "eval --overwrite")
def test_settings_and_overwrite(here: Path, server: VisionServer) -> None:
    evaluate(server, "--limit", "4")
    asked = server.answered.total()
    evaluate(server, "--limit", "4")
    assert server.answered.total() <= asked + 1, "only the endpoint was looked at"
    evaluate(server, "--limit", "4", "--overwrite")
    assert server.answered.total() >= asked + 4
    evaluate(server, "--limit", "4", "--set", "sampling.max_new_tokens=9", "--overwrite")
    assert server.bodies[-1]["max_tokens"] == 9


@pytest.mark.claims("openai sampling.temperature", "openai sampling.top_p", "openai sampling.seed")
def test_sampling_travels(here: Path, server: VisionServer) -> None:
    evaluate(server, "--limit", "4")
    assert server.bodies[-1]["temperature"] == 0 and not {"top_p", "seed"} & server.bodies[-1].keys()
    drawn = ["sampling.temperature=0.6", "sampling.top_p=0.7", "sampling.seed=5"]
    evaluate(server, "--limit", "4", *(part for one in drawn for part in ("--set", one)))
    body = server.bodies[-1]
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.6, 0.7, 5)


@pytest.mark.claims("eval --max-unscored")
def test_what_may_be_unscored(here: Path, server: VisionServer) -> None:
    asked = ["eval", "--endpoint", server.url, "--model", "seer", "--suite", "pope", "--data", "data"]
    assert "1 of 40 requests were refused" in run(*asked, code=1)
    [record] = run(*asked, "--max-unscored", "0.03")
    assert record["n"] == 39


@pytest.mark.claims(
    "eval --shard", "eval --repeat", "merge --suite", "merge --data", "merge --results", "merge --noise"
)
def test_parts_and_repeats(here: Path, server: VisionServer) -> None:
    small_pope(here / "clean")
    asked = ["eval", "--endpoint", server.url, "--model", "seer", "--suite", "pope", "--data", "clean/data"]
    for part in ("1/2", "2/2"):
        [about] = run(*asked, "--shard", part, "--limit", "8", "--results", "parts")
        assert about["count"] == 2
    assert not (here / "parts/seer/evals/pope@data/responses.jsonl").exists()
    begin = ["merge", "seer", "--suite", "pope", "--data", "clean/data", "--results", "parts"]
    [merged] = run(*begin)
    assert "no shards to merge" in run(*begin, "--noise", "blank", code=2)
    assert (merged["suite"], merged["data"], merged["n"]) == ("pope", "data", 8)
    [record] = evaluate(server, "--limit", "8", "--repeat", "3", "--results", "again")
    assert (here / "again/seer/evals/pope@data/repeats/3/responses.jsonl").exists() and record["repeats"]


@pytest.mark.claims("eval --backend", "backend.openai.endpoints")
def test_backend(here: Path, server: VisionServer) -> None:
    """Named by its name and its setting, without the option that stands for both."""
    asked = ["eval", "--backend", "openai", "--model", "seer", "--suite", "pope", "--data", "data", "--limit", "4"]
    [record] = run(*asked, "--set", f"backend.endpoints=[{server.url}]")
    assert record["serving"]["backend"] == "openai" and server.answered.total() >= 4


@pytest.mark.claims("eval --resume")
def test_resume_is_what_eval_does_anyway_and_excludes_overwrite(here: Path, server: VisionServer) -> None:
    evaluate(server, "--limit", "4")
    asked = server.answered.total()
    evaluate(server, "--limit", "4", "--resume")
    assert server.answered.total() <= asked + 1
    assert "--resume keeps stored answers" in evaluate(server, "--resume", "--overwrite", code=2)


@pytest.mark.claims("eval --dry-run", "rejudge --dry-run")
def test_a_plan_asks_nothing(here: Path, server: VisionServer) -> None:
    [plan] = evaluate(server, "--limit", "4", "--dry-run")
    assert plan["to_generate"] == 4 and not server.answered and not (here / "results").exists()
    evaluate(server, "--limit", "4")
    scores = here / "results/seer/evals/pope@data/scores.json"
    scores.unlink()
    [plan] = run("rejudge", "--run", "seer", "--suite", "pope", "--data", "data", "--dry-run")
    assert plan["answered"] == 4 and not scores.exists()
    run("rejudge", "--run", "seer", "--suite", "pope", "--data", "data")
    assert scores.exists()


@pytest.mark.claims("eval --run", "rejudge --run", "rejudge --results", "rejudge --suite", "rejudge --data")
def test_runs_by_name(here: Path, server: VisionServer) -> None:
    with seeing("other") as second:
        for model, served in (("seer", server), ("other", second)):
            asked = [
                "eval",
                "--endpoint",
                served.url,
                "--model",
                model,
                "--suite",
                "pope",
                "--limit",
                "4",
                "--data",
                "data",
            ]
            run(*asked, "--results", "there")
        again = ["--suite", "pope", "--data", "data", "--results", "there"]
        for command in (["eval", "--endpoint", second.url, "--limit", "4"], ["rejudge"]):
            [record] = run(*command, "--run", "other", *again)
            assert record["target"] == "other"
    assert "no run 'other'" in run("rejudge", "--run", "other", "--suite", "pope", "--data", "data", code=2)


def answered(server: VisionServer) -> dict[str, list[str]]:
    """Answers to MMHal-Bench, in a shard too: how each command that grades them begins."""
    asked = ["--endpoint", server.url, "--model", "seer"]
    suite = ["--suite", "mmhal", "--data", "drawn"]
    run("eval", *asked, *suite, "--limit", str(ANSWERED), "--judge", "pocket-truth")
    run("eval", *asked, *suite, "--limit", str(ANSWERED), "--shard", "1/1")
    return {
        "eval": ["eval", *asked, *suite, "--limit", str(ANSWERED)],
        "rejudge": ["rejudge", "--run", "seer", *suite],
        "merge": ["merge", "seer", *suite],
    }


COMMANDS = pytest.mark.parametrize("command", ["eval", "rejudge", "merge"])


@COMMANDS
@pytest.mark.claims(
    "eval --judge", "rejudge --judge", "merge --judge",
    "eval --judge-model", "rejudge --judge-model", "merge --judge-model",
    "eval --judge-url", "rejudge --judge-url", "merge --judge-url",
    "eval --judge-votes", "rejudge --judge-votes", "merge --judge-votes",
    "judge.openai.model", "judge.openai.base_url", "judge.openai.votes",
)  # fmt: skip
def test_who_judges_and_how_often(command: str, here: Path, server: VisionServer, judge: FakeServer) -> None:
    begin = answered(server)[command]
    [record] = run(*begin, "--judge", "pocket-truth")
    assert record["judge"]["judge"] == "pocket-truth" and not judge.asked
    own = ["--judge-model", "strict", "--judge-url", judge.url, "--judge-votes", "2"]
    [record] = run(*begin, "--judge", "openai", *own)
    assert record["judge"]["answered_by"] == ["strict-2024-08-06"] and record["variant"].startswith("strict")
    assert len(judge.asked) == record["n"] >= ANSWERED and set(judge.asked.values()) == {2}


@COMMANDS
@pytest.mark.claims(
    "eval --judge-price", "rejudge --judge-price", "merge --judge-price",
    "eval --max-cost", "rejudge --max-cost", "merge --max-cost",
    "rejudge --set", "eval --json", "rejudge --json", "merge --json", "merge --set",
    "judge.openai.price", "judge.openai.max_cost", "judge.openai.temperature",
)  # fmt: skip
def test_what_judging_may_cost(command: str, here: Path, server: VisionServer, judge: FakeServer) -> None:
    begin = answered(server)[command]
    judged_by = ["--judge", "openai", "--judge-model", "strict", "--judge-url", judge.url]
    [record] = run(*begin, *judged_by, "--judge-price", "1,10")
    # A thousand tokens of prompt and a hundred of reply a call.
    assert record["judge"]["took"]["usd"] == pytest.approx(record["n"] * (1000 * 1 + 100 * 10) / 1e6)
    poor = [*judged_by, "--set", "judge.temperature=0.5", "--judge-price", "1,10"]
    assert "budget" in run(*begin, *poor, "--max-cost", "0.0001", code=1)
    [record] = run(*begin, *poor, "--max-cost", "1")
    assert {max(temperatures) for temperatures in judge.temperatures.values()} == {0.5}


@COMMANDS
@pytest.mark.claims(
    "eval --extractor", "rejudge --extractor", "merge --extractor",
    "eval --synonyms", "rejudge --synonyms", "merge --synonyms",
    "eval --matched-words", "rejudge --matched-words", "merge --matched-words",
    "eval --similarity", "rejudge --similarity", "merge --similarity",
)  # fmt: skip
def test_what_is_taken_for_an_object(command: str, here: Path, server: VisionServer) -> None:
    asked = ["--endpoint", server.url, "--model", "seer"]
    suite = ["--suite", "halbench", "--data", "drawn"]
    run("eval", *asked, *suite, "--limit", "4")
    run("eval", *asked, *suite, "--limit", "4", "--shard", "1/1")
    begin = {
        "eval": ["eval", *asked, *suite, "--limit", "4"],
        "rejudge": ["rejudge", "--run", "seer", *suite],
        "merge": ["merge", "seer", *suite],
    }[command]
    assert run(*begin)[0]["variant"] == "spacy"
    assert "no_such" in run(*begin, "--extractor", "spacy:no_such", code=2)
    assert "no_such" in run(*begin, "--synonyms", "no_such.txt", code=2)
    assert run(*begin, "--matched-words", "3")[0]["settings"]["matched_words"] == 3
    assert "--similarity" in run(*begin, "--similarity", "exact", code=2), (
        "it is for AMBER, where `score` shows what it does"
    )


@COMMANDS
@pytest.mark.claims("eval --scoring", "rejudge --scoring", "merge --scoring")
def test_what_reads_an_answer(command: str, here: Path, server: VisionServer) -> None:
    """A judge, or the words themselves."""
    asked = ["--endpoint", server.url, "--model", "seer"]
    suite = ["--suite", "hallusionbench", "--data", "drawn"]
    run("eval", *asked, *suite, "--limit", "4", "--scoring", "match")
    run("eval", *asked, *suite, "--limit", "4", "--shard", "1/1")
    begin = {
        "eval": ["eval", *asked, *suite, "--limit", "4"],
        "rejudge": ["rejudge", "--run", "seer", *suite],
        "merge": ["merge", "seer", *suite],
    }[command]
    assert run(*begin, "--scoring", "match")[0]["variant"] == "match"
    assert run(*begin, "--scoring", "judge", "--judge", "pocket-truth")[0]["variant"] == "pocket-truth"


@pytest.mark.parametrize("command", ["rejudge", "merge"])
@pytest.mark.claims("rejudge --max-unscored", "merge --max-unscored")
def test_what_may_be_without_a_verdict(command: str, here: Path, server: VisionServer) -> None:
    """The share of items of which the judge says nothing that can be read."""
    begin = answered(server)[command]
    with judging() as mute:
        mute.RequestHandlerClass, Mute.first = Mute, ""
        own = [*begin, "--judge", "openai", "--judge-model", "m", "--judge-url", mute.url, "--set", "judge.asks=1"]
        assert "--max-unscored" in run(*own, code=1)
        [record] = run(*own, "--max-unscored", "0.9")
    assert record["unscored"] == 1


def test_a_plan_counts_the_answers_and_verdicts_of_every_repeat(
    here: Path, server: VisionServer, judge: FakeServer
) -> None:
    asked = ["eval", "--endpoint", server.url, "--model", "seer", "--suite", "mmhal", "--data", "drawn", "--limit", "4"]
    asked += ["--judge", "openai", "--judge-model", "strict", "--judge-url", judge.url, "--judge-price", "1,10"]
    run(*asked, "--repeat", "2")
    [plan] = run(*asked, "--repeat", "2", "--dry-run")
    items = plan["items"]
    assert (plan["answered"], plan["to_generate"], plan["seconds"]) == (2 * items, 0, 0)
    assert (plan["judge_calls"], plan["judge_kept"], plan["judge_usd_at_most"]) == (0, 2 * items, 0)
    [plan] = run(*asked, "--repeat", "3", "--dry-run")
    assert (plan["items"], plan["answered"], plan["to_generate"]) == (items, 2 * items, items)
    assert (plan["judge_calls"], plan["judge_kept"]) == (items, 2 * items) and plan["judge_usd_at_most"] > 0
    [plan] = run(*asked, "--repeat", "2", "--overwrite", "--dry-run")
    assert (plan["answered"], plan["to_generate"]) == (0, 2 * items) and plan["seconds"] > 0
    assert (plan["judge_calls"], plan["judge_kept"]) == (2 * items, 0) and plan["judge_usd_at_most"] > 0
    assert run(*asked, "--repeat", "2", "--dry-run")[0]["answered"] == 2 * items, "a plan replaces nothing"
