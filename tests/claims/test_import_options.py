"""Each option of `import-results` about scoring does what it says; the others: tests/harness/evaluation/test_import_results.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core import registry
from harness.remote.endpoint import KEY_VARIABLE
from harness.worlds.pocket.formats import write_benchmarks
from tests.benchmarks.scoring import jsonl
from tests.claims.test_eval_options import Mute
from tests.commands import json_here as run
from tests.harness.judging.fake_endpoint import SECRET, FakeServer, serving

ANSWERED = 4


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn world's suites, and an answer to four items of some, by their ids."""
    folder = tmp_path_factory.mktemp("import-options")
    write_benchmarks(0, "validation", folder / "data")
    for suite in ("mmhal", "halbench", "amber", "hallusionbench"):
        items = registry.load("benchmarks", suite)().items(folder / "data" / suite)[:ANSWERED]
        said = [{"item": item.id, "text": f"A dog, a cat and a red teddy bear, number {item.id}."} for item in items]
        jsonl(folder / f"{suite}.jsonl", said)
    return folder


@pytest.fixture
def here(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return drawn


@pytest.fixture
def judge() -> Iterator[FakeServer]:
    with serving() as running:
        yield running


def imported(drawn: Path, suite: str, *more: str, code: int = 0) -> Any:
    begin = ["import-results", str(drawn / f"{suite}.jsonl"), "--suite", suite, "--data", str(drawn / "data")]
    return run(*begin, "--allow-partial", *more, code=code)


@pytest.mark.claims(
    "import-results --judge", "import-results --judge-model", "import-results --judge-url", "import-results --judge-votes",
    "import-results --judge-price", "import-results --max-cost", "import-results --set",
)  # fmt: skip
def test_who_judges_and_what_it_may_cost(here: Path, judge: FakeServer) -> None:
    record = imported(here, "mmhal", "--judge", "pocket-truth")
    assert record["judge"]["judge"] == "pocket-truth" and not judge.asked
    judged_by = ["--judge", "openai", "--judge-model", "strict", "--judge-url", judge.url, "--judge-price", "1,10"]
    record = imported(here, "mmhal", *judged_by, "--judge-votes", "2")
    assert record["variant"].startswith("strict") and set(judge.asked.values()) == {2}
    # A thousand tokens of prompt and a hundred of reply a call.
    assert record["judge"]["took"]["usd"] == pytest.approx(2 * ANSWERED * (1000 * 1 + 100 * 10) / 1e6)
    assert len(list(Path("results/mmhal/evals/mmhal@data").glob("scores*.json"))) == 2
    poor = [*judged_by, "--set", "judge.temperature=0.5", "--max-cost", "0.0001", "--name", "poor"]
    assert "budget" in imported(here, "mmhal", *poor, code=1)
    assert not Path("results/poor").exists(), "nothing is half-written"
    # The run's answers are judged again like any other run's, on the data that they were imported with.
    [record] = run("rejudge", "--run", "mmhal", *judged_by, "--set", "judge.temperature=0.7")
    assert (record["target"], record["n"], record["judge"]["temperature"]) == ("mmhal", ANSWERED, 0.7)


@pytest.mark.claims("import-results --max-unscored")
def test_what_may_be_without_a_verdict(here: Path) -> None:
    with serving() as mute:
        mute.RequestHandlerClass, Mute.first = Mute, ""
        own = ["--judge", "openai", "--judge-model", "m", "--judge-url", mute.url, "--set", "judge.asks=1"]
        assert "--max-unscored" in imported(here, "mmhal", *own, code=1)
        assert imported(here, "mmhal", *own, "--max-unscored", "0.9")["unscored"] == 1


@pytest.mark.claims(
    "import-results --extractor", "import-results --synonyms", "import-results --matched-words",
    "import-results --similarity", "import-results --scoring",
)  # fmt: skip
def test_how_answers_are_read(here: Path, tmp_path: Path) -> None:
    assert imported(here, "halbench")["counts"]["mentions"] == 3 * ANSWERED
    assert imported(here, "halbench", "--matched-words", "2")["counts"]["matched_mentions"] == ANSWERED
    (tmp_path / "syn.txt").write_text("dog, puppy\ncat\n")
    assert imported(here, "halbench", "--synonyms", "syn.txt")["counts"]["mentions"] == 2 * ANSWERED
    assert "no_such_pipeline" in imported(here, "halbench", "--extractor", "spacy:no_such_pipeline", code=2)
    assert "no_such_table" in imported(here, "amber", "--similarity", "table:no_such_table", code=2)
    assert imported(here, "amber", "--similarity", "exact")["variant"].endswith("+exact")
    assert imported(here, "hallusionbench", "--scoring", "match")["variant"] == "match"
