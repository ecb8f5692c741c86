"""Progress of everything that takes more than two seconds, on standard error: a bar in a terminal, plain lines in a pipe or file.

A job of ten hours that writes into a file of a cluster leaves one line every 30 seconds there, with count, rate and the time left.
`HARNESS_PROGRESS_SECONDS` sets another interval.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from harness.core.terminal import Console

console = Console(stderr=True)
"""The console for standard error: messages to the user, but not the result."""

Advance = Callable[..., None]
"""`advance(n=1, note="")`: n more units are done; `note` is shown after the bar."""

_SECONDS = 30.0  # between two lines
_WINDOW = 10  # lines: the rate is that of the last five minutes, so that a slow start is soon forgotten


def be_quiet() -> None:
    """Show nothing from now on: of several training processes, only the first one prints."""
    console.quiet = True


@contextlib.contextmanager
def spinner(title: str) -> Iterator[Callable[[str], None]]:
    """Show that work of unknown length continues. Yields the function that sets a note behind the title."""
    if shows_bars():
        with console.status(_fitting(title)) as status:
            yield lambda note: status.update(_fitting(f"{title} ({note})"))
        return
    lines = _Lines(title, None)
    with lines:
        yield lines.set_note


def _fitting(line: str) -> Text:
    """What fits in a line behind the spinner; as Text, because a note may look like markup."""
    text = Text(line)
    text.truncate(console.width - 2, overflow="ellipsis")
    return text


@contextlib.contextmanager
def progress_of_many(title: str, total: int, few: int = 50) -> Iterator[Advance]:
    """Like `progress`, but with no bar if there are at most `few` units."""
    if total <= few:
        yield lambda n=1, note=None: None
        return
    with progress(title, total) as advance:
        yield advance


@contextlib.contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """Show the progress of a piece of work of `total` units; yields the function that advances it.

    In a terminal (or a notebook with ipywidgets) it is a bar. Elsewhere it is a plain line every 30 seconds, and one at the end.
    Work may end before `total`: the bar is then full, and the last line says "350 of at most 700".
    """
    if not shows_bars():
        lines = _Lines(title, total)
        with lines:
            yield lines.advance
        lines.end()
        return
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
        bar.update(task, total=bar.tasks[task].completed)


def shows_bars() -> bool:
    """Whether standard error can redraw a line: a terminal (not a dumb one), or a notebook with ipywidgets, without which rich shows
    only a warning there."""
    return console.is_interactive or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


def duration(seconds: float) -> str:
    """A time in at most two units: `48 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Lines:
    """Prints a line about a piece of work at regular times, from a thread, so that work that has stopped moving is told too.

    Args:
        title: of the work.
        total: units in all; None where nobody knows.
    """

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total = title, total
        self._done, self._note, self._of = 0, "", "of"
        self._begun = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque([(self._begun, 0)], maxlen=_WINDOW)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._tick, args=(_interval(),), daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def advance(self, n: int = 1, note: str | None = None) -> None:
        """Count n more units."""
        with self._lock:
            self._done += n
            if note is not None:
                self._note = note

    def set_note(self, note: str) -> None:
        """Show this behind the count from now on."""
        self.advance(0, note)

    def end(self) -> None:
        """Print the last line."""
        with self._lock:
            if self.total and self._done < self.total:
                self._of = "of at most"
        self._print(f"{self._count()} in {duration(time.monotonic() - self._begun)}")

    def _tick(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self._print(self._state(time.monotonic()))

    def _state(self, now: float) -> str:
        """Count, rate and time left; the time so far, where nothing is counted."""
        with self._lock:
            done = self._done
        before, counted = self._marks[0]
        self._marks.append((now, done))
        rate = (done - counted) / (now - before) if now > before else 0.0
        parts = [self._count(), f"{duration(now - self._begun)} so far"] if done or self.total else []
        if not parts:
            return f"{duration(now - self._begun)} so far"
        if rate:
            parts.append(f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each")
            if self.total:
                parts.append(f"about {duration((self.total - done) / rate)} left")
        return ", ".join(parts)

    def _count(self) -> str:
        if self.total is None:
            return f"{self._done:,}"
        return f"{self._done:,} {self._of} {self.total:,}"

    def _print(self, state: str) -> None:
        with self._lock:
            note = f" ({self._note})" if self._note else ""
        with contextlib.suppress(Exception):  # a closed or full standard error is no error of the work
            console.print(f"{self.title}: {state}{note}", markup=False, highlight=False, soft_wrap=True)


def _interval() -> float:
    """Seconds between two lines; a value that is no positive number is not one."""
    try:
        seconds = float(os.environ.get("HARNESS_PROGRESS_SECONDS", _SECONDS))
    except ValueError:
        return _SECONDS
    return seconds if seconds > 0 else _SECONDS
