"""The charts' data, and `harness plot`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.analysis.leaderboard import collect
from harness.core.declared import BarChart
from harness.core.errors import BadInputError
from harness.core.files import write_json, write_jsonl
from harness.reports.charts import svg
from harness.reports.figures import Bars, Figure, Lines, Scatter, figures
from harness.reports.gather import gather
from harness.reports.plots import write_plots
from harness.runs.folders import Run, open_run
from tests.harness.reports.test_report import COUNT, data_folder, make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("plots")
    data = data_folder(folder / "data")
    inventions = dict.fromkeys(range(0, COUNT, 2), "A dog and a horse and a dog.")
    drawn_files = [
        make_run(folder / "results", data, "base", inventions, "base"),
        make_run(folder / "results", data, "aligned", {0: "A dog and a horse.", 1: "Nothing."}),
    ]
    log = [
        {
            "stage": stage,
            "step": step,
            "loss": 1.0,
            "loss_text": 0.5,
            "margin": step,
            "margin_image_rejected": 2.0 * step,
        }
        for stage in ("easy", "hard")
        for step in range(1, 101)
    ]
    write_jsonl(drawn_files[1].path / "train_log.jsonl", log)
    (drawn_files[0].path / "train_log.jsonl").unlink()
    return drawn_files


def drawn(runs: list[Run]) -> dict[str, Figure]:
    suites, _ = gather(runs, look_up=False)
    return {figure.name: figure for figure in figures(collect(runs), suites, runs)}


def test_the_figures_say_what_was_scored(runs: list[Run]) -> None:
    pictures = drawn(runs)
    assert list(pictures) == [
        "frontier-halbench-spacy-m-here",
        "yes-ratio-m-here",
        "classes-halbench-spacy-here",
        "together-halbench-spacy-here",
        "margins-aligned",
        "loss-aligned",
    ]
    plane = pictures["frontier-halbench-spacy-m-here"].content
    assert isinstance(plane, Scatter)
    points = {point.label: point for point in plane.points}
    assert (points["base"].x, points["base"].y) == (50.0, 100.0) and points["aligned"].y == pytest.approx(100 * 59 / 60)
    assert points["base"].x_ci is not None and points["base"].x_ci[0] < 50 < points["base"].x_ci[1]
    classes = pictures["classes-halbench-spacy-here"].content
    assert isinstance(classes, Bars) and classes.series == ["base", "aligned"]
    assert classes.rows == [("horse", [100.0, 100.0])]
    pairs = pictures["together-halbench-spacy-here"].content
    assert isinstance(pairs, Bars) and pairs.rows == [("horse beside dog", [30.0, 1.0])]
    ratio = pictures["yes-ratio-m-here"].content
    assert isinstance(ratio, Bars) and ratio.rows == [("base", [100.0]), ("aligned", [100.0])] and ratio.mark == 50


def test_suites_draw_metrics_of_theirs_under_names_of_their_own() -> None:
    """A suite's charts are part of the report of every board that has its metric."""
    from harness.analysis.leaderboard.board import Board, Cell, Column, Row
    from harness.analysis.leaderboard.captions import Caption
    from harness.core import registry

    drawn_as: dict[str, str] = {}
    for name in registry.entries("benchmarks"):
        kind = registry.load("benchmarks", name)
        suite = kind()
        known = {metric.id: metric for metric in suite.metrics}
        for chart in kind.charts:
            if not isinstance(chart, BarChart):
                continue
            assert chart.metric in known and "{board}" in chart.caption and chart.name not in drawn_as
            drawn_as[chart.name] = name
            metric = known[chart.metric]
            cells = {
                Column(name, variant, metric.id, metric.title, metric.higher_is_better, metric.unit): Cell(
                    value, (value / 2, value), 8, 8
                )
                for variant, value in (("", 0.25), ("likelihood", 0.5))
            }
            board = Board("m", "here", [Row("base", "base", "m", cells=cells)], list(cells), Caption(), ("m", "here"))
            [figure] = figures([board], [], [])
            assert figure.name == f"{chart.name}-m-here" and "m on here" in figure.caption
            content = figure.content
            factor = 100 if metric.unit == "%" else 1
            assert isinstance(content, Bars)
            assert content.rows == [("base", [0.25 * factor]), ("base [likelihood]", [0.5 * factor])]
            assert svg(content).count("<rect") == 2
    assert {"mme", "mmstar", "hallusionbench", "llava-bench", "mm-vet", "pope"} <= set(drawn_as.values())


def test_training_curves_run_through_the_stages(runs: list[Run]) -> None:
    margins = drawn(runs)["margins-aligned"].content
    assert isinstance(margins, Lines) and margins.stages == [(0.0, "easy"), (100.0, "hard")]
    assert list(margins.lines) == ["chosen over rejected", "over the rejected image"]
    first, second = margins.lines.values()
    assert first[0] == (1.5, 1.5), "200 steps are thinned to means of two"
    assert first[50] == (101.5, 1.5) and second[50] == (101.5, 3.0), "a mean spans no two stages"
    loss = drawn(runs)["loss-aligned"]
    assert (
        isinstance(loss.content, Lines)
        and list(loss.content.lines) == ["loss", "text"]
        and "Means of 2" in loss.caption
    )


def test_svg_escapes_names(runs: list[Run]) -> None:
    bars = Bars([("<b>", [1.0, None])], ["<i>", "x"], "<u>", intervals=[[(0.5, 1.5), None]], mark=1.0)
    text = svg(bars)
    assert "<b>" not in text and "<i>" not in text and "&lt;b&gt;" in text and "nan" not in text


@pytest.mark.slow
def test_the_files(runs: list[Run], tmp_path: Path) -> None:
    rows, left_out = write_plots(runs, tmp_path, ["svg", "pdf", "png"])
    assert len(rows) == 6 and not left_out
    heads = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    for row in rows:
        for file in map(Path, row["files"]):
            assert file.read_bytes().startswith(heads[file.suffix])
    text = (tmp_path / "classes-halbench-spacy-here.svg").read_text()
    assert "horse" in text and "aligned" in text and 'width="241' in text, "text stays text, a column wide"
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_plots(runs, tmp_path, ["svg", "pdf", "png"])
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}, "the same data give the same files"
    with pytest.raises(BadInputError, match="unknown format 'gif'"):
        write_plots(runs, tmp_path, ["gif"])


def test_what_cannot_be_drawn_is_said(runs: list[Run], tmp_path: Path) -> None:
    write_json(tmp_path / "idle" / "manifest.json", {"kind": "align", "base": {"label": "m"}})
    _, left_out = write_plots([*runs, open_run(tmp_path / "idle")], tmp_path / "out", ["svg"])
    assert left_out == ["idle: nothing was scored"]


def test_the_command(runs: list[Run], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "plot", "--results", str(runs[0].path.parent), "--format", "svg"]
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(
        [*command, "-o", "out", "--json"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    plots = json.loads(done.stdout)["plots"]
    assert all((tmp_path / file).is_file() for plot in plots for file in plot["files"]) and len(plots) == 6
    wrong = subprocess.run(
        [*command, "--results", "none"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert wrong.returncode == 2 and "no folder 'none'" in wrong.stderr
