"""`harness leaderboard`: differences, seeds, frontier, published figures, and what it is written as."""

from __future__ import annotations

import csv
import html
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.analysis.compare import compare
from harness.analysis.leaderboard import (
    Board,
    Cell,
    Column,
    add_balance,
    add_published,
    as_csv,
    as_json,
    as_latex,
    as_markdown,
    collect,
    pool_seeds,
    published_file,
    read_published,
    select,
    sort,
)
from harness.analysis.leaderboard.board import written, written_interval
from harness.analysis.leaderboard.captions import Caption
from harness.analysis.leaderboard.marks import best, frontier, marks
from harness.analysis.leaderboard.tables import explained
from harness.core import plugins, registry
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.runs.folders import open_run, survey
from tests.scored_runs import make_run, make_run_with_a_rate

CLEAN, INVENTED, LONG = "A dog.", "A dog and a cat.", "A dog and a horse, and much more than that."


def said(wrong: int, text: str = INVENTED, count: int = 40) -> list[str]:
    """So many descriptions with an invented object, the others without."""
    return [text] * wrong + [CLEAN] * (count - wrong)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    make_run(folder, "start", said(20), method="base")
    make_run(folder, "good", said(2), method="dpo")
    make_run(folder, "bad", said(38), method="mine")
    make_run(folder, "same", said(21), method="mine")
    return folder


def column(board: Board, metric: str) -> Column:
    return next(one for row in board.rows for one in row.cells if one.metric == metric)


def cell(board: Board, row: str, metric: str = "chair_s") -> Cell:
    return next(one for one in board.rows if one.name == row).cells[column(board, metric)]


def test_differences_are_those_of_compare_and_corrected_over_the_column(results: Path) -> None:
    [board] = collect(results)
    assert board.rows[0].name == "start", "the base comes first"
    [one], _ = compare([open_run(results / name) for name in ("start", "bad", "good", "same")])
    for pair in one.pairings:
        delta = cell(board, pair.other).delta
        assert delta is not None and delta.n == 40
        assert delta.difference == pair.differences["chair_s"] and delta.p == pair.corrected["chair_s"]
    chair = column(board, "chair_s")
    by_name = {row.name: marks(board, row, chair) for row in board.rows}
    assert by_name == {"start": "", "good": "*▲", "bad": "▼", "same": ""}
    assert cell(board, "start").delta is None
    words = " ".join(explained(board))
    assert "▲ better, ▼ worse than the base (paired bootstrap over images, Holm-corrected" in words


def test_a_run_is_compared_with_the_weights_that_it_was_trained_on(results: Path) -> None:
    """Two bases have the same name; a run of a third one is compared with neither."""
    make_run(results, "other-start", said(35), method="base")
    for name, weights in {"start": "a", "other-start": "b", "good": "b", "bad": "c", "same": "a"}.items():
        manifest = read_json(results / name / "manifest.json")
        write_json(results / name / "manifest.json", manifest | {"base": {"label": "m", "fingerprint": weights}})
    [board] = collect(results)
    differences = {
        row.name: cell.delta.difference.value
        for row in board.rows
        for column, cell in row.cells.items()
        if column.metric == "chair_s" and not column.matched and cell.delta is not None
    }
    assert differences == {"good": pytest.approx(2 / 40 - 35 / 40), "same": pytest.approx(21 / 40 - 20 / 40)}
    assert any(note.startswith("bad:") and "the base was not scored" in note for note in board.notes)


def test_only_the_suites_that_are_named(tmp_path: Path) -> None:
    make_run_with_a_rate(tmp_path / "results")
    for wanted, suites in ((None, {"halbench", "pope"}), (["pope"], {"pope"})):
        boards = collect(tmp_path / "results", suites=wanted)
        assert {column.suite for board in boards for column in board.columns} == suites
    with pytest.raises(BadInputError, match="nothing was scored yet"):
        collect(tmp_path / "results", suites=["amber"])


def test_without_a_base_there_are_no_differences_and_it_says_so(results: Path) -> None:
    [board] = collect([open_run(results / "good"), open_run(results / "bad")])
    assert cell(board, "good").delta is None
    assert "the base was not scored, so no differences are shown" in explained(board)


def test_other_files_are_neither_ranked_nor_compared(results: Path) -> None:
    path = results / "good" / "evals" / "halbench@pictures" / "scores-spacy.json"
    write_json(path, read_json(path) | {"files": {"instances.json": "sha256:other"}})
    [board] = collect(results)
    assert cell(board, "good").delta is None and best(board, column(board, "chair_s")) == {"start"}
    assert any("good: halbench is not compared" in note and "other benchmark files" in note for note in board.notes)


def test_fewer_items_are_compared_where_they_match_with_the_count(results: Path) -> None:
    make_run(results, "short", said(2, count=30), method="mine", of=40)
    path = results / "short" / "evals" / "halbench@pictures" / "scores-spacy.json"
    write_json(path, read_json(path) | {"of": 40})
    [board] = collect(results)
    delta = cell(board, "short").delta
    assert delta is not None and delta.n == 30
    assert "short" not in board.ranked(column(board, "chair_s"))
    assert "30 of 40 items" in cell(board, "short").notes


def test_the_frontier_is_what_none_beats_in_both() -> None:
    chair = Column("halbench", "x", "chair_s", "CHAIRs", False, "%")
    recall = Column("halbench", "x", "object_recall", "recall", True, "%", invented_by="chair_s")
    from harness.analysis.leaderboard import Row

    points = {
        "worse": (0.5, 0.8),
        "quiet": (0.1, 0.5),
        "good": (0.2, 0.8),
        "tied": (0.2, 0.8),
        "beaten": (0.3, 0.7),
        "less": (0.2, 0.7),
    }
    rows = [
        Row(name, name, "m", cells={chair: Cell(x, None, 9, 9), recall: Cell(y, None, 9, 9)})
        for name, (x, y) in points.items()
    ]
    board = Board("m", "d", rows, [chair, recall], Caption(), ("m", "d"))
    assert frontier(board, recall) == {"quiet", "good", "tied"} and frontier(board, chair) == set()
    board.rows = rows[:1]
    assert frontier(board, recall) == set(), "one point alone is no frontier"


def seeds(folder: Path, **more: Any) -> Path:
    """Two worlds, two methods."""
    for seed in (0, 1):
        label = "pocket" if seed == 0 else f"pocket:{seed}"
        data, source = f"{label.replace(':', '-')}-test", f"{label}@test"
        about = {"model": label, "data": data, "source": source}
        make_run(
            folder,
            f"base{seed}",
            said(20 + 2 * seed),
            config={"model": label, "method": "base"},
            method="base",
            **about,
        )
        train = {"seed": seed, "learning_rate": 1.0}
        config = {"method": "dpo", "model": label, "data": label, "settings": {"train": train, "method": {"beta": 1}}}
        make_run(
            folder, f"dpo{seed}", said(4 + 4 * seed), config=config | {"location": f"/{seed}"}, method="dpo", **about
        )
    return folder


def test_seeds_are_pooled_with_their_spread(tmp_path: Path) -> None:
    boards = collect(seeds(tmp_path))
    assert len(boards) == 2
    [board] = pool_seeds(boards)
    assert (board.model, board.data) == ("pocket", "pocket-test")
    assert [(row.name, row.runs) for row in board.rows] == [("base", ("base0", "base1")), ("dpo", ("dpo0", "dpo1"))]
    pooled = cell(board, "dpo")
    assert pooled.value == pytest.approx(0.15) and pooled.spread == pytest.approx(0.1 / 2**0.5) and pooled.n == 80
    # The variance of the mean of two proportions of 40: a quarter of (0.1 * 0.9 + 0.2 * 0.8) / 40.
    assert pooled.ci is not None
    assert (pooled.ci[1] - pooled.ci[0]) / 3.92 == pytest.approx(((0.09 + 0.16) / 40 / 4) ** 0.5, rel=0.06)
    assert pooled.delta is not None and pooled.delta.difference.value == pytest.approx(-0.375) and pooled.delta.n == 80
    caption = str(board.caption)
    assert caption.startswith("mean over seeds (base 2, dpo 2), ") and "±7.1" in as_markdown([board])
    assert caption.count("matched: ") == 1 and "; n: halbench 40; " in caption, "what the seeds share is said once"
    assert as_json([board])[0]["caption"] == caption
    assert cell(board, "dpo", "chair_s_matched").value is not None, "cut within each seed"


def test_pooled_margins_lack_no_items(tmp_path: Path) -> None:
    seeds(tmp_path)
    for seed in (0, 1):
        share = {"value": 1.0}
        margins = {"text": {"value": 1.0 + seed, "ci": [0.5, 2.5]}, "image": {"value": 2.0, "ci": [1.0, 3.0]}}
        end = {"after": "end", "steps": 4, "text_above_0": share, "image_above_0": share, "ratio": None} | margins
        path = tmp_path / f"dpo{seed}/manifest.json"
        manifest = read_json(path) | {"checkpoint": {"kind": "adapter", "fingerprint": "c"}}
        write_json(path, manifest | {"summary": {"balance": {"data": "held", "n": 40, "measured": [end]}}})
    boards = collect(tmp_path)
    add_balance(boards, tmp_path, ["balance"], [])
    [board] = pool_seeds(boards)
    margin = cell(board, "dpo", "text")
    assert margin.value == 1.5 and margin.spread == pytest.approx(0.5**0.5) and not margin.notes


def test_the_seed_is_left_out_of_every_name_of_a_world(tmp_path: Path) -> None:
    """Of data by the name of a set, too, and of the pairs that are held out."""
    for seed in (1, 2):
        settings = {"train": {"seed": seed, "balance": {"data": f"pocket:{seed}@rlaif-v"}}}
        config = {"method": "dpo", "model": f"pocket:{seed}", "data": f"pocket:{seed}@rlhf-v", "settings": settings}
        make_run(
            tmp_path, f"dpo{seed}", said(4), config=config, method="dpo", model=f"pocket:{seed}", data=f"pocket-{seed}-test",
            source=f"pocket:{seed}@test",
        )  # fmt: skip
    [board] = pool_seeds(collect(tmp_path))
    [row] = board.rows
    assert row.runs == ("dpo1", "dpo2") and row.config["data"] == "pocket@rlhf-v"


def test_what_differs_in_more_than_the_seed_is_another_row(tmp_path: Path) -> None:
    seeds(tmp_path)
    for seed in (0, 1):
        folder = tmp_path / f"dpo{seed}"
        train = {"seed": seed, "learning_rate": 2.0}
        config = {"method": "dpo", "model": "pocket", "settings": {"train": train, "method": {"beta": 1}}}
        make_run(
            tmp_path, f"fast{seed}", said(3), config=config | {"data": "pocket"}, method="dpo", model="pocket", data="pocket-test",
            source="pocket@test",
        )  # fmt: skip
        assert folder.is_dir()
    [board] = pool_seeds(collect(tmp_path))
    names = [row.name for row in board.rows]
    assert names == ["base", "dpo (train.learning_rate=1.0)", "dpo (train.learning_rate=2.0)"]
    # Two training seeds in one world are paired with the one base there.
    fast = cell(board, names[2])
    assert fast.delta is not None and fast.delta.difference.value == pytest.approx(3 / 40 - 0.5) and fast.spread == 0.0
    # Its two seeds are of the first world only: other pictures than the base's two, so not ranked with it.
    assert set(board.ranked(column(board, "chair_s"))) == {"base", "dpo (train.learning_rate=1.0)"}


def test_a_seed_alone_keeps_its_name_and_interval(results: Path) -> None:
    [plain], [pooled] = collect(results), pool_seeds(collect(results))
    assert [row.name for row in pooled.rows] == [row.name for row in plain.rows]
    assert cell(pooled, "good").ci == cell(plain, "good").ci and cell(pooled, "good").spread is None


def test_select_and_sort(results: Path) -> None:
    boards = collect(results)
    [board] = sort(boards, "CHAIRs")
    assert [row.name for row in board.rows] == ["good", "start", "same", "bad"]
    [board] = select(boards, methods=["d*"], metrics=["halbench.chair_s_refine", "chair_i"])
    assert [row.name for row in board.rows] == ["good"]
    assert [one.metric for one in board.columns] == ["chair_s_refine", "chair_i"]
    assert cell(board, "good").delta is not None, "a filter hides rows and changes no figure"
    for wrong in ({"suites": ["pope"]}, {"methods": ["mfpo"]}, {"models": ["x"]}, {"metrics": ["chairs_x"]}):
        with pytest.raises(BadInputError, match="was scored") as caught:
            select(boards, **wrong)
        assert "here: " in (caught.value.remedy or "")
    with pytest.raises(BadInputError, match="this column does not exist"):
        sort(boards, "accuracy")


def test_models_side_by_side(results: Path) -> None:
    make_run(results, "other", said(30), method="base", model="n")
    assert len(collect(results)) == 2
    [board] = collect(results, group_by="data")
    assert board.model == "m, n" and len(board.rows) == 5
    assert cell(board, "good").delta is not None, "against the base of its own model"


def test_published_figures_are_marked_and_not_ranked(results: Path) -> None:
    figures = read_published(published_file([results]))
    assert len(figures) > 100 and all(figure.source and figure.place for figure in figures)
    boards = collect(results)
    [board] = add_published(boards, figures)
    muffin = next(row for row in board.rows if row.model == "Muffin")
    assert muffin.name == "Muffin (published)" and cell(board, muffin.name, "chair_s_refine").value == pytest.approx(
        0.505
    )
    rlhfv = next(row for row in board.rows if row.model == "RLHF-V")
    chair_i = column(board, "chair_i")
    assert rlhfv.cells[chair_i].value == pytest.approx(0.075)
    assert best(board, chair_i) == best(boards[0], chair_i)
    text = as_markdown([board])
    assert "Yu et al., RLHF-V, CVPR 2024, Table 1" in text and "not ranked" in text
    assert [row.name for row in sort([board], "CHAIRi")[0].rows][:4] == ["good", "start", "same", "bad"]
    [ranked] = add_published(boards, figures, rank=True)
    assert len(ranked.ranked(chair_i)) == 4 + len(
        [row for row in ranked.rows if row.published and chair_i in row.cells]
    )
    assert [row.name for row in sort([ranked], "CHAIRi")[0].rows][:2] != ["good", "start"]
    embedded = collect(seeds(results / "pocket"))
    assert not any(row.published for one in add_published(embedded, figures) for row in one.rows)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("m,,halbench,chair_i,much,%,s,p,", "not a number"),
        ("m,,halbench,chair_i,1,%,,p,", "no source"),
    ],
)
def test_published_files_are_checked(line: str, said: str, tmp_path: Path) -> None:
    head = "model,method,suite,metric,value,unit,source,place,note\n"
    (tmp_path / "published.csv").write_text(head + line + "\n")
    with pytest.raises(BadInputError, match=said):
        read_published(published_file([tmp_path]))
    (tmp_path / "published.csv").write_text("model,value\n")
    with pytest.raises(BadInputError, match="need the columns"):
        read_published(tmp_path / "published.csv")


def test_every_writing_says_the_same(results: Path) -> None:
    boards = collect(results)
    [board] = as_json(boards, ["x: why"])
    good = next(row for row in board["rows"] if row["checkpoint"] == "good")["metrics"]["halbench[spacy].chair_s"]
    assert (
        good["best"] and good["difference_to_base"]["value"] == pytest.approx(-0.45) and board["left_out"] == ["x: why"]
    )
    line = next(
        row
        for row in csv.DictReader(io.StringIO(as_csv(boards)))
        if (row["checkpoint"], row["metric"]) == ("good", "chair_s")
    )
    assert float(line["value"]) == good["value"] and float(line["p_holm"]) == good["difference_to_base"]["p_holm"]
    assert "Δ −45.0 (−60.0 to −30.0), p < 0.001" in as_markdown(boards, deltas=True)
    latex = as_latex(boards, deltas=True)
    assert r"\textbf{5.0}$^{+}$" in latex and r"$\Delta$ $-$45.0" in latex and latex.count("{") == latex.count("}")
    assert not set(latex) & set("▲▼◆ᵃ−–±Δ≤")


# What is odd: one item, all right, all wrong, nothing mentioned, broken folders.


def test_odd_sets_have_defined_values_or_a_dash_with_a_footnote(tmp_path: Path) -> None:
    make_run(tmp_path, "one", [INVENTED], data="single", method="base")
    make_run(tmp_path, "right", [CLEAN] * 20, method="base")
    make_run(tmp_path, "wrong", [INVENTED] * 20)
    make_run(tmp_path, "silent", ["Nothing to see here."] * 20)
    boards = collect(tmp_path)
    single = next(board for board in boards if board.data == "single")
    assert cell(single, "one").value == 1.0 and cell(single, "one").ci is None
    assert any("no interval" in note for note in cell(single, "one").notes)
    board = next(board for board in boards if board.data == "pictures")
    for name, value in (("right", 0.0), ("wrong", 1.0)):
        assert cell(board, name).value == value and "rule of three" in cell(board, name).notes[0]
    silent = cell(board, "silent", "chair_i")
    assert silent.value is None and silent.delta is None and "undefined" in silent.notes[0]
    delta = cell(board, "wrong").delta
    assert delta is not None and delta.difference.value == 1.0 and delta.difference.ci == (1.0, 1.0)
    for boards_ in (boards, pool_seeds(boards)):
        for text in (as_markdown(boards_), as_latex(boards_), as_csv(boards_), json.dumps(as_json(boards_))):
            assert "nan" not in text.lower().replace("finance", "") and "inf" not in text.lower()
    assert "–ᶜ" in as_markdown([board]) or "–ᵃ" in as_markdown([board]) or "–ᵇ" in as_markdown([board])


def test_what_cannot_be_used_is_said_with_its_reason(results: Path) -> None:
    (results / "begun").mkdir()
    write_json(results / "begun" / "config.json", {})
    make_run(results, "broken", said(3), method="mine")
    path = results / "broken" / "evals" / "halbench@pictures" / "scores-spacy.json"
    path.write_text("{")
    make_run(results, "old", said(3), method="mine")
    path = results / "old" / "evals" / "halbench@pictures" / "scores-spacy.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "serving"})
    write_json(results / "idle" / "manifest.json", {"kind": "align", "base": {"label": "m"}})
    write_json(results / "good" / "manifest.json", read_json(results / "good" / "manifest.json") | {"harness": "0.0.1"})
    (results / "bad" / "evals" / "halbench@pictures" / "items-spacy.jsonl").unlink()
    runs, reasons = survey([results])
    [board] = collect(runs, left_out=reasons)
    text = "\n".join(reasons)
    assert "begun: not complete" in text
    assert "broken: evals/halbench@pictures/scores-spacy.json: the scores is not valid JSON" in text
    assert (
        "old: evals/halbench@pictures/scores-spacy.json: the scores cannot be used: it is from another version: it has no serving"
        in text
    )
    assert "idle: nothing was scored" in text
    assert f"good: made by version 0.0.1, this is {harness.__version__}" in text
    assert [row.name for row in board.rows] == ["start", "bad", "good", "same"]
    assert any("bad: items-spacy.jsonl is missing" in note for note in board.notes) and cell(board, "bad").delta is None
    with pytest.raises(BadInputError, match="no folder"):
        survey([results / "nowhere"])
    (results.parent / "empty").mkdir()
    with pytest.raises(BadInputError, match="there is no complete run"):
        survey([results.parent / "empty"])


def run(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "170", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "harness", "leaderboard", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
def test_the_command(results: Path) -> None:
    other = make_run(results.parent / "more", "good", said(1), method="other").parent
    done = run(str(results), str(other), "--sort", "chair_s", "--delta", cwd=results.parent)
    assert done.stdout.index("more/good") < done.stdout.index("results/good") and "Δ −45.0" in done.stdout
    page = results.parent / "board.html"
    run(str(results), "--html", str(page), "--published", cwd=results.parent)
    text = page.read_text()
    assert "default-src 'none'" in html.unescape(text) and "<script" not in text and "Muffin (published)" in text
    assert "no metric 'nope'" in run(str(results), "--metric", "nope", cwd=results.parent, code=2).stderr
    assert "no folder" in run("nowhere", cwd=results.parent, code=2).stderr


def test_installed_packages_are_searched_once_however_many_runs_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search takes 20 ms, and every run asks for its suites several times."""
    for number in range(6):
        make_run(tmp_path, f"run-{number}", ["A dog.", "A dog and a cat."])
    search, searches = importlib.metadata.entry_points, []

    def counted(**wanted: str) -> Any:
        searches.append(wanted)
        return search(**wanted)

    monkeypatch.setattr(importlib.metadata, "entry_points", counted)
    plugins._registered.cache_clear()
    registry._entries.cache_clear()
    [board] = collect(tmp_path)
    assert len(board.rows) == 6 and 0 < len(searches) <= len(registry.KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 100, 120, 200, None])
def test_no_figure_is_cut_at_any_width_nor_in_a_pipe(results: Path, width: int | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"NO_COLOR": "1"}
    command = [sys.executable, "-m", "harness", "leaderboard", str(results)]
    shown = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=environment | ({"COLUMNS": str(width)} if width else {}),
    ).stdout
    [board] = collect(results)
    for row in board.rows:
        for metric, value in row.cells.items():
            if metric in board.columns:
                assert written(value.value, metric.unit) in shown and written_interval(value.ci, metric.unit) in shown
    assert "…" not in shown and "halbench [spacy]" in shown and "CHAIRs[spacy]" not in shown
    if width:
        assert max(map(len, shown.splitlines())) <= width
