"""Progress bars for everything that takes more than two seconds. They go to standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.core.terminal import Console

console = Console(stderr=True)
"""Everything that is said to the person (not the result itself) goes here, to standard error."""

Advance = Callable[..., None]
"""`advance(n=1, note="")`: n more units are done; `note` is shown behind the bar."""


def be_quiet() -> None:
    """Show nothing from here on: of several training processes only the first one speaks."""
    console.quiet = True


def spinner(title: str) -> contextlib.AbstractContextManager[object]:
    """Show that work of unknown length continues. Use as a context."""
    return console.status(title)


@contextlib.contextmanager
def progress_of_many(title: str, total: int, few: int = 50) -> Iterator[Advance]:
    """The same where there is so much to do that it may take seconds; of `few` or less there is no bar."""
    if total <= few:
        yield lambda n=1, note=None: None
        return
    with progress(title, total) as advance:
        yield advance


@contextlib.contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """Show one bar for a piece of work of `total` units; yields the function that advances it."""
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(n: int = 1, note: str | None = None) -> None:
            if note is not None:
                bar.update(task, note=note)
            bar.update(task, advance=n)

        yield advance
