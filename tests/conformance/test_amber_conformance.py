"""AMBER against its inference.py: printed metrics, counters, and every noun, flag and mark of every description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.amber import AMBER, AmberSettings
from harness.core.stats import Counts
from harness.core.types import Item, Response, SampleScore

pytestmark = pytest.mark.conformance

DISCRIMINATIVE = (
    "disc_full_perfect",
    "disc_full_all_yes",
    "disc_full_all_no",
    "disc_full_noisy75",
    "disc_subset_odd",
    "disc_subset_lowercase",
    "disc_subset_noisy80_de",
    "disc_subset_noisy80_da",
    "disc_subset_noisy80_dr",
)
EDGES = ("edge_single_empty_response", "edge_duplicate_ids", "edge_unsorted")
# The official script's own spelling.
SECTIONS = {
    "Generative Task": "generative",
    "Descriminative Task": "discriminative",
    "Exsitence": "existence",
    "Attribute": "attribute",
    "State": "state",
    "Number": "number",
    "Action": "action",
    "Relation": "relation",
}
COUNTERS = {
    "chair_num": "kept",
    "chair_score": "flagged",
    "safe_cover_num": "truth",
    "safe_cover_score": "covered",
    "hallu_cover_num": "hallu",
    "hallu_cover_score": "cogged",
    "non_hallu_score": "clean",
    "non_hallu_num": "generative",
}
PREFIXES = {
    "": "discriminative",
    "ha_": "existence",
    "as_": "state",
    "an_": "number",
    "aa_": "action",
    "asso_": "relation",
}
CELLS = {
    "qa_correct_score": "correct",
    "qa_correct_num": "count",
    "qa_no_score": "correct_no",
    "qa_no_num": "truth_no",
    "qa_ans_no_score": "correct_no",
    "qa_ans_no_num": "answered_no",
}
COUNTERS |= {
    f"{prefix}{name}": f"{section}.{cell}" for prefix, section in PREFIXES.items() for name, cell in CELLS.items()
}


def benchmark_for(mode: str, conformance: Path) -> AMBER:
    table = conformance / "amber" / "similarity_table_B.json"
    return AMBER(AmberSettings(nouns="nltk", similarity={"A": "lemma", "B": f"table:{table}"}[mode]))


def files(conformance: Path, responses: Path) -> dict[str, Path]:
    data = conformance / "data" / "AMBER" / "data"
    return {
        "annotations": data / "annotations.json",
        "relations": data / "relation.json",
        "safe_words": data / "safe_words.txt",
        "responses": responses,
    }


def check(benchmark: AMBER, scores: list[SampleScore], expected: dict[str, Any]) -> None:
    """Compare printed metrics and counters; a section without items is left out where the script prints its zeros."""
    totals = Counts.of(scores).totals()
    official = benchmark.official(totals)
    compared = 0
    for section, printed in expected["metrics"].items():
        for name, value in printed.items():
            metric = f"{SECTIONS[section]}.{name.lower()}"
            if metric in official:
                assert official[metric] == str(value), metric
                compared += 1
    assert compared
    for name, value in expected["counters"].items():
        # Denominators of the script start at 0.001.
        assert totals[COUNTERS[name]] == pytest.approx(value, abs=0.0011), name


def read(benchmark: AMBER, conformance: Path, responses: Path) -> tuple[list[Item], dict[str, Response]]:
    items, found = benchmark.read_offline(files(conformance, responses))
    return [item for item in items if item.id in found], found


def test_every_recorded_case_is_listed_here(conformance: Path) -> None:
    listed = {*DISCRIMINATIVE, *EDGES, "generative_subset", "generative_full1004", "all_full_gen1004_plus_noisy75"}
    # Nothing to score: an empty list, and descriptions asked of a file that has none.
    assert set(recorded(conformance)) - {"edge_empty_list", "edge_g_metrics_on_disc_only"} == listed


def recorded(conformance: Path) -> dict[str, Any]:
    return json.loads((conformance / "amber" / "aggregates.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["A", "B"])
@pytest.mark.parametrize("case", ["generative_subset", "generative_full1004"])
def test_generative(conformance: Path, nltk_data: Path, case: str, mode: str) -> None:
    benchmark, path = benchmark_for(mode, conformance), conformance / "amber" / f"{case}.responses.jsonl"
    items, responses = read(benchmark, conformance, path)
    scores = benchmark.score(items, responses)
    by_id = {score.item_id: score for score in scores}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        details = by_id[str(row["id"])].details
        assert details["kept"] == row["kept_nouns"], row["id"]
        assert {name: details[name] for name in ("flags", "cover", "cog")} == row[mode], row["id"]
    check(benchmark, scores, recorded(conformance)[case][mode])


def test_all_nouns(conformance: Path, nltk_data: Path) -> None:
    from benchmarks.nouns import NltkNouns

    lines = (conformance / "amber" / "generative_full1004.responses.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    nouns = NltkNouns().nouns([row["response"] for row in rows])
    assert [[noun.word for noun in words] for words in nouns] == [row["nouns"] for row in rows]
    placed = [
        (row["response"][slice(*noun.span)], noun.word)
        for row, words in zip(rows, nouns, strict=True)
        for noun in words
        if noun.span
    ]
    assert len(placed) > 0.99 * sum(map(len, nouns))
    assert sum(said[0].lower() == word[0].lower() for said, word in placed) > 0.99 * len(placed)


@pytest.mark.slow
@pytest.mark.parametrize("case", DISCRIMINATIVE)
def test_discriminative(conformance: Path, case: str) -> None:
    benchmark = AMBER(AmberSettings(nouns="spacy", similarity="exact"))
    items, responses = read(benchmark, conformance, conformance / "amber" / f"{case}.json")
    check(benchmark, benchmark.score(items, responses), recorded(conformance)[case]["A"])


@pytest.mark.slow
def test_all_at_once(conformance: Path, nltk_data: Path, tmp_path: Path) -> None:
    lines = (conformance / "amber" / "generative_full1004.responses.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines] + json.loads(
        (conformance / "amber" / "disc_full_noisy75.json").read_text()
    )
    path = tmp_path / "responses.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    benchmark = benchmark_for("A", conformance)
    items, responses = benchmark.read_offline(files(conformance, path))
    assert len(items) == len(responses) == 15_220
    check(benchmark, benchmark.score(items, responses), recorded(conformance)["all_full_gen1004_plus_noisy75"]["A"])


@pytest.mark.parametrize("case", EDGES)
def test_edges(conformance: Path, nltk_data: Path, case: str) -> None:
    expected = recorded(conformance)[case]
    benchmark = benchmark_for("A", conformance)
    known = {item.id: item for item in read_all(benchmark, conformance)}
    # A name for each row, since the script takes an id twice where we refuse it.
    items = [
        Item(f"{place}", "", known[str(row["id"])].image, f"{place}", known[str(row["id"])].reference)
        for place, row in enumerate(expected["rows"])
    ]
    scores = benchmark.score(
        items, {str(place): Response(str(place), row["response"]) for place, row in enumerate(expected["rows"])}
    )
    for score, row in zip(
        scores, expected["A"]["trace"] if "trace" in expected["A"] else expected["trace"], strict=True
    ):
        assert score.details["kept"] == row["kept_nouns"]
        assert [score.details[name] for name in ("flags", "cover", "cog")] == [
            row[name] for name in ("flags", "cover", "cog")
        ]
    check(benchmark, scores, expected["A"])


def read_all(benchmark: AMBER, conformance: Path) -> list[Item]:
    return benchmark.read_offline(files(conformance, conformance / "amber" / "generative_full1004.responses.jsonl"))[0]
