"""Leaderboards from kept sums: the same figures as from the items, whatever was kept, and never those of another file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.leaderboard import as_csv, as_json, collect
from harness.analysis.leaderboard import kept as kept_module
from harness.core.errors import BadInputError
from harness.core.files import read_json, read_jsonl, write_jsonl
from harness.core.paths import cache_folder
from harness.core.stats import Counts, resampled
from harness.core.types import SampleScore
from harness.records.counts import ItemCounts, compact
from harness.records.sums import read_sums
from tests.scored_runs import make_run

COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 70_000) | st.floats(-9, 9), max_size=4)
SCORES = st.lists(st.tuples(st.sampled_from("wxyz"), COUNTS, st.booleans()), max_size=12).map(
    lambda rows: [
        SampleScore(str(number), group, {} if unscored else counts, unscored="why" if unscored else None)
        for number, (group, counts, unscored) in enumerate(rows)
    ]
)


def same(one: Counts, other: Counts) -> bool:
    return one.clusters == other.clusters and one.totals().keys() >= other.totals().keys() and all(
        np.array_equal(one.matrix[:, one.names.index(name)], other.matrix[:, other.names.index(name)]) for name in other.names
    )  # fmt: skip


@given(SCORES, st.randoms())
def test_item_counts_sum_as_the_scores_do(scores: list[SampleScore], rng: object) -> None:
    table = ItemCounts.of(scores)
    assert same(table.counts, Counts.of(scores)) and table.size == sum(score.unscored is None for score in scores)
    some = [score for score in scores if score.unscored is None][::2]
    rng.shuffle(some)  # type: ignore[attr-defined]
    assert same(table.of_items([score.item_id for score in some]), Counts.of(some))


@given(st.lists(st.integers(0, 2**33) | st.floats(-1e300, 1e300), max_size=9))
def test_fewer_bytes_hold_the_same_numbers(values: list[float]) -> None:
    assert compact(np.array(values, float)).astype(float).tolist() == [float(value) for value in values]


@pytest.mark.parametrize("largest", [1, 255, 65_000, 10**7, 0.5])
def test_resamples_are_exact_in_few_bytes(largest: float) -> None:
    matrix = np.random.default_rng(0).integers(0, 3, (50, 4)) * float(largest)
    counts = Counts(("a", "b", "c", "d"), tuple(map(str, range(50))), matrix)
    from harness.core.stats import SEED, resampling_weights

    expected = resampling_weights(50, 200, SEED).astype(float) @ matrix
    assert np.array_equal(np.stack(list(resampled(counts, 200).values()), axis=1), expected)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    clean, invented, long = "A dog.", "A dog and a cat.", "A dog and a horse, and much more than that."
    for name, method, texts in (
        ("start", "base", [invented] * 20 + [clean] * 20),
        ("good", "dpo", [invented] * 3 + [long] * 37),
        ("half", "dpo", [clean] * 20),
    ):
        make_run(tmp_path / "results", name, texts, method=method)
    return tmp_path / "results"


def written(results: Path) -> str:
    boards = collect(results)
    return as_csv(boards) + json.dumps(as_json(boards))


def test_kept_or_not_the_figures_are_the_same(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(results)
    assert any((cache_folder() / "scores" / "differences").rglob("*.json"))
    assert written(results) == first, "with everything kept"
    for path in (cache_folder() / "scores").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0broken{")
    assert written(results) == first, "with what was kept broken"
    monkeypatch.setenv("HARNESS_CACHE", str(results / "start" / "manifest.json" / "cache"))
    assert written(results) == first, "with a cache that cannot be written"


def test_with_everything_kept_no_item_file_is_read(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(results)

    def refuse(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr("harness.records.sums._read", refuse)
    monkeypatch.setattr("harness.analysis.leaderboard.marks._computed", refuse)
    assert written(results) == first


def test_a_file_that_was_written_again_is_read_again(results: Path) -> None:
    path = results / "good" / "evals" / "halbench@pictures" / "items-spacy.jsonl"
    before = read_sums(path)
    text = path.read_text()
    stat = path.stat()
    # In place, of the same size and with the same time of modification: only the time of the change tells.
    path.write_text(text.replace('"mentions": 2.0', '"mentions": 7.0', 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = read_sums(path)
    assert after.totals["mentions"] == before.totals["mentions"] + 5 and after.kept is None, (
        "it may change again at once"
    )
    time.sleep(0.1)
    assert read_sums(path).kept is not None
    [board] = collect(results)
    note = next(note for note in board.notes if note.startswith("good"))
    assert "items-spacy.jsonl is not what was scored: its mentions sums to" in note


def test_a_benchmark_whose_code_changed_is_computed_again(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(results)
    from benchmarks.halbench import ObjectHalBench

    old = ObjectHalBench.aggregate

    def doubled(self: ObjectHalBench, totals: object) -> dict[str, np.ndarray]:
        return {name: value * 2 for name, value in old(self, totals).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectHalBench, "aggregate", doubled)  # its file is the same: the values tell
    [good] = [row for board in collect(results) for row in board.rows if row.name == "good"]
    [delta] = [cell.delta for column, cell in good.cells.items() if column.metric == "chair_s"]
    monkeypatch.undo()
    assert delta is not None
    expected = json.loads(first[first.index("[{") :])[0]["rows"]
    single = next(row for row in expected if row["checkpoint"] == "good")["metrics"]["halbench[spacy].chair_s"]
    assert delta.difference.value == 2 * single["difference_to_base"]["value"]


def test_code_is_part_of_the_key(tmp_path: Path) -> None:
    from benchmarks.halbench import ObjectHalBench
    from benchmarks.pope import POPE

    codes = {kept_module._code(kind().aggregate) for kind in (ObjectHalBench, POPE)}
    assert len(codes) == 2


def test_items_twice_or_of_another_kind_are_refused(results: Path) -> None:
    path = results / "good" / "evals" / "halbench@pictures" / "items-spacy.jsonl"
    rows = list(read_jsonl(path))
    write_jsonl(path, [*rows, rows[0]])
    with pytest.raises(BadInputError, match="appears twice"):
        read_sums(path)
    for key, value in (("counts", {"mentions": float("nan")}), ("evidence", [{"text": "x"}]), ("item", 3)):
        path.write_text(json.dumps(rows[0] | {key: value}) + "\n")
        with pytest.raises(BadInputError):
            read_sums(path)
    path.write_text(json.dumps(rows[0] | {"text": "\ud800" + rows[0]["text"]}) + "\n")
    assert read_sums(path).size == 1, "half a character in an answer is no reason"


def test_scores_out_of_range_leave_the_others(results: Path) -> None:
    path = results / "good" / "evals" / "halbench@pictures" / "scores-spacy.json"
    record = read_json(path)
    for value, said in (
        (float("nan"), "NaN"),
        (1e308, "1e+308"),
        (-5, "-5"),
        (10**30, "1000"),
        ("0.5", "0.5"),
        (True, "True"),
        (1.5, "1.5"),
    ):
        record["metrics"]["chair_s"]["value"] = value
        path.write_text(json.dumps(record))
        reasons: list[str] = []
        [board] = collect(results, left_out=reasons)
        assert {row.name for row in board.rows} == {"start", "half"}
        [reason] = reasons
        assert reason.startswith("good: evals/halbench@pictures/scores-spacy.json: ") and said in reason
