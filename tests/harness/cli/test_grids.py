"""Tables at every width: no cell is cut, no line is wider than the terminal, nothing is lost."""

import io

import pytest
from rich.text import Text

from harness.cli.grids import print_grid
from harness.core.grid import Grid
from harness.core.terminal import Console

FIGURES = [[f"{row}{column}.0\n({row}9.{column}–{row}{column}.1)" for column in range(9)] for row in range(1, 4)]


def shown(width: int | None, name: str = "llava-1.5-7b", folds: bool = False) -> str:
    grid = Grid("llava on coco [spacy]", "what it means", lines=False)
    grid.column("checkpoint", "left", folds=folds)
    for number in range(9):
        grid.column(f"a long metric {number} ↓")
    for row, cells in enumerate(FIGURES):
        grid.row(f"{name}-{row}", *map(Text, cells))
    stream = io.StringIO()
    print_grid(grid, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_a_terminal_of_any_width_shows_every_figure_whole(width: int) -> None:
    text = shown(width)
    assert all(part in text for cells in FIGURES for cell in cells for part in cell.splitlines())
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert text.count("llava on coco [spacy]") == 1 and text.rstrip().endswith("what it means")


def test_a_wide_terminal_has_one_table_and_a_narrow_one_repeats_the_names() -> None:
    assert shown(200).count("llava-1.5-7b-2") == 1
    assert shown(80).count("llava-1.5-7b-2") >= 2


def test_a_long_name_is_folded_and_never_a_figure() -> None:
    text = shown(48, name="a-checkpoint-with-a-very-long-name-of-many-parts")
    assert all(part in text for cells in FIGURES for cell in cells for part in cell.splitlines())
    assert max(map(len, text.splitlines())) <= 48


def test_a_pipe_has_the_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert shown(None).count("llava-1.5-7b-2") == 1
    monkeypatch.setenv("COLUMNS", "80")
    assert shown(None).count("llava-1.5-7b-2") >= 2


def test_prose_gets_what_the_figures_leave() -> None:
    grid = Grid()
    grid.column("run", "left")
    grid.column("size")
    grid.column("why", "left", folds=True)
    grid.row("dpo", "12.5 GB", "stopped after the second stage, since the disk was full")
    stream = io.StringIO()
    print_grid(grid, Console(file=stream, width=40))
    text = stream.getvalue()
    assert "12.5 GB" in text and max(map(len, text.splitlines())) <= 40
    assert " ".join(line.split("│")[3].strip() for line in text.splitlines() if line.startswith("│")) == (
        "stopped after the second stage, since the disk was full"
    )


def test_cells_are_no_markup() -> None:
    grid = Grid("[bold]x[/bold]")
    grid.column("[red]head[/red]", "left")
    grid.row("[link=http://x]y[/link]")
    stream = io.StringIO()
    print_grid(grid, Console(file=stream, width=80))
    assert all(word in stream.getvalue() for word in ("[bold]x[/bold]", "[red]head[/red]", "[link=http://x]y[/link]"))
