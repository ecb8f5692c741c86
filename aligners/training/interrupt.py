"""Ctrl-C during a stage: the current step is finished and saved, and the next Ctrl-C stops at once."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """Context in which the first Ctrl-C sets the yielded event and says so, and the second one raises `KeyboardInterrupt`.

    The event may also be set because another process was interrupted. Then a Ctrl-C that reaches this process later is still the first.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    signals = 0

    def ask(number: int, frame: Any) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            raise KeyboardInterrupt
        asked.set()
        logger.info("finishing this step and saving; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(when: str, folder: Path, run: str) -> HarnessError:
    """The error of an interrupted run, whose progress is kept in a stage's folder. `run`: its name."""
    return HarnessError(
        f"interrupted {when}; the training progress is kept",
        where=str(folder),
        remedy=f"run the same command with --resume --name {run}",
    )
