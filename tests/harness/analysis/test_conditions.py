"""Scores that were made in different ways are not compared as if only the checkpoint differed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.mme import MME
from harness.analysis.compare import compare
from harness.analysis.leaderboard import as_markdown, collect, pool_seeds
from harness.analysis.leaderboard.board import Board, Cell
from harness.analysis.scored import read_rows, sample_scores
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.core.pairing import paired_items
from harness.core.types import ImageRef, Item, Response
from harness.evaluation.reliance import Answered, reliance
from harness.evaluation.score import item_rows, score_suite, write_scores
from harness.runs.folders import open_run
from tests.scored_runs import make_run

SAYS_A_CAT, TRUE = "A dog and a cat.", "A dog."


def said(wrong: int, of: int = 40) -> list[str]:
    return [SAYS_A_CAT] * wrong + [TRUE] * (of - wrong)


def change(run: Path, key: str, **values: Any) -> None:
    """Change what a score record says about how it was made."""
    [path] = (run / "evals/halbench@pictures").glob("scores-*.json")
    record = read_json(path)
    write_json(path, record | {key: (record[key] or {}) | values})


def cell(board: Board, name: str, metric: str = "chair_s") -> Cell:
    [row] = [row for row in board.rows if row.name == name]
    [column] = [column for column in row.cells if column.metric == metric]
    return row.cells[column]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Base, and a run with a fifth of its hallucinations."""
    make_run(tmp_path, "base", said(20), method="base")
    make_run(tmp_path, "dpo", said(4), method="dpo")
    return tmp_path


@pytest.mark.parametrize(
    ("key", "values", "what"),
    [
        ("sampling", {"max_new_tokens": 512}, "answered with max_new_tokens 512, not 9"),
        ("sampling", {"temperature": 1.0}, "answered with temperature 1.0, not 0.0"),
        ("provenance", {"vocabulary_sha256": "0" * 64}, "scored with vocabulary_sha256 000000000000…, not"),
        ("provenance", {"rules": 99}, "scored with rules 99, not"),
        (
            "provenance",
            {"annotations_sha256": "b" * 64},
            "scored with annotations_sha256 bbbbbbbbbbbb…, not aaaaaaaaaaaa…",
        ),
    ],
)
def test_what_was_made_differently_is_neither_ranked_nor_tested(
    results: Path, key: str, values: dict[str, Any], what: str
) -> None:
    [same] = collect(results)
    assert cell(same, "dpo").delta is not None and len(same.ranked(same.columns[0])) == 2
    change(results / "base", "sampling", temperature=0.0)
    change(results / "base", "provenance", annotations_sha256="a" * 64)
    change(results / "dpo", key, **values)
    [board] = collect(results)
    assert cell(board, "dpo").delta is None and list(board.ranked(board.columns[0])) == ["base"]
    assert f"dpo: halbench is not compared with the base: it was {what}" in "\n".join(board.notes)


def test_unknown_conditions_and_package_versions_do_not_separate(results: Path) -> None:
    """Of imported answers nobody knows the sampling, and records of earlier versions lack some keys."""
    change(results / "dpo", "sampling", max_new_tokens=None)
    change(results / "dpo", "provenance", spacy="0.0.1", new_key="new", vocabulary="elsewhere.txt")
    [board] = collect(results)
    assert cell(board, "dpo").delta is not None and len(board.ranked(board.columns[0])) == 2


def test_compare_says_what_else_differs(results: Path) -> None:
    change(results / "dpo", "sampling", max_new_tokens=512)
    runs = [open_run(results / name) for name in ("base", "dpo")]
    [comparison], reasons = compare(runs)
    assert comparison.note == "answered differently: dpo has max_new_tokens 512, not 9 as base" and not reasons


def test_compare_refuses_other_rules(results: Path) -> None:
    change(results / "dpo", "provenance", vocabulary_sha256="0" * 64)
    with pytest.raises(BadInputError, match="scored differently: dpo has vocabulary_sha256 000000000000"):
        compare([open_run(results / name) for name in ("base", "dpo")])


def test_pooled_rows_are_ranked_with_a_base_of_one_run(tmp_path: Path) -> None:
    """As of any model that is not an embedded world's."""
    make_run(tmp_path, "base", said(20), method="base", config={"method": "base"})
    for seed in range(3):
        for method, wrong in (("dpo", 8), ("mfpo", 4)):
            config = {"method": method, "settings": {"train": {"seed": seed}}}
            make_run(tmp_path, f"{method}{seed}", said(wrong + seed), method=method, config=config)
    [board] = pool_seeds(collect(tmp_path))
    assert set(board.ranked(board.columns[0])) == {"base", "dpo", "mfpo"}
    assert "12.5*" in as_markdown([board])


def test_two_imported_runs_are_no_seeds_of_each_other(tmp_path: Path) -> None:
    for name, wrong in (("their-dpo", 2), ("their-mfpo", 30)):
        folder = make_run(tmp_path, name, said(wrong), method="imported", config={"model": "m", "method": "imported"})
        write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"kind": "imported"})
    [board] = pool_seeds(collect(tmp_path))
    assert {row.name for row in board.rows} == {"their-dpo", "their-mfpo"}
    assert {cell(board, row.name).value for row in board.rows} == {0.05, 0.75}


def test_a_pooled_row_whose_items_are_not_all_there_has_neither_interval_nor_difference(tmp_path: Path) -> None:
    make_run(tmp_path, "base", said(20), method="base", config={"method": "base"})
    for seed, wrong in enumerate((4, 6, 8)):
        config = {"method": "dpo", "settings": {"train": {"seed": seed}}}
        make_run(tmp_path, f"dpo{seed}", said(wrong), method="dpo", config=config)
    [whole] = pool_seeds(collect(tmp_path))
    assert cell(whole, "dpo").ci is not None and cell(whole, "dpo").delta is not None
    [items] = (tmp_path / "dpo0/evals/halbench@pictures").glob("items-*.jsonl")
    items.unlink()
    [board] = pool_seeds(collect(tmp_path))
    pooled = cell(board, "dpo")
    assert pooled.value == pytest.approx(0.15) and pooled.ci is None and pooled.delta is None
    assert any("the items of some seeds are missing" in note for note in pooled.notes)


def test_a_pooled_row_of_one_picture_has_all_its_items(tmp_path: Path) -> None:
    """It has no interval either, but for another reason."""
    for seed in range(2):
        config = {"method": "dpo", "settings": {"train": {"seed": seed}}}
        make_run(tmp_path, f"dpo{seed}", [TRUE], method="dpo", config=config)
    [board] = pool_seeds(collect(tmp_path))
    pooled = cell(board, "dpo")
    assert pooled.ci is None and not any("missing" in note for note in pooled.notes)


def test_groups_that_are_not_whole_are_left_out_of_pairs() -> None:
    first = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}
    second = {"a1": "a", "a2": "a", "b2": "b", "d1": "d"}
    assert paired_items([first, second]) == {"a1", "a2", "b2"}
    assert paired_items([first, second], whole_groups=True) == {"a1", "a2"}
    assert paired_items([second, first], whole_groups=True) == {"a1", "a2"}


@pytest.fixture
def pairs_of_mme(tmp_path: Path) -> Path:
    """Twenty images; the answers about the last ten are half wrong. `part` says the same as `base`, but nothing to their first question."""
    suite = MME()
    items = [
        Item(
            f"existence/{image}/{label}",
            f"Is there a {'dog' if label == 'yes' else 'cat'}?",
            ImageRef(name=str(image)),
            f"existence/{image}",
            {"task": "existence", "label": label},
        )
        for image in range(20)
        for label in ("yes", "no")
    ]
    for run in ("base", "part"):
        answers = {}
        for item in items:
            image, label = int(item.id.split("/")[1]), item.reference["label"]
            silent = run == "part" and image >= 10 and label == "yes"
            text = "Yes" if label == "yes" or image >= 10 else "No"
            answers[item.id] = Response(item.id, "", refusal="no") if silent else Response(item.id, text)
        about = {
            "target": run, "method": run, "model": "m", "data": "official", "serving": {"backend": "none"},
            "sampling": {"max_new_tokens": 9},
        }  # fmt: skip
        record, scores = score_suite(suite, items, answers, about=about, max_unscored=1.0)
        write_scores(tmp_path / run / "evals/mme@official", record, item_rows(items, answers, scores))
        write_json(tmp_path / run / "manifest.json", {"kind": "base", "name": run, "base": {"label": "m"}})
    return tmp_path


def test_equal_answers_do_not_differ_because_some_are_missing(pairs_of_mme: Path) -> None:
    """MME's accuracy+ counts an image on its second question; a run without an answer to the first has no such count."""
    [comparison], _ = compare([open_run(pairs_of_mme / name) for name in ("part", "base")])
    assert comparison.n == 20 and comparison.left_out == {"part": 10, "base": 20}
    [pair] = comparison.pairings
    assert {difference.value for difference in pair.differences.values()} == {0.0}
    [board] = collect(pairs_of_mme)
    delta = cell(board, "part", "accuracy_plus").delta
    assert delta is not None and delta.n == 20 and delta.difference.value == 0.0


def test_changed_pictures_are_compared_on_whole_groups(pairs_of_mme: Path) -> None:
    suite = MME()
    answered = []
    for run in ("base", "part"):
        [path] = (pairs_of_mme / run / "evals/mme@official").glob("items*.jsonl")
        rows = read_rows(path)
        scores = sample_scores(rows, list(rows))
        answered.append(Answered(scores, {item: Response(item, row.text) for item, row in rows.items()}))
    record = reliance(suite, *answered, clean_items="")
    assert record.n == 20 and {metric.gap.value for metric in record.metrics.values()} == {0.0}
