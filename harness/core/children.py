"""Running a function in a separate process, so that its memory returns to the operating system when it ends."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def in_child(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Call a function in a new process and wait for it.

    Args:
        function: importable by name; its arguments and its result must be picklable.
        arguments: positional arguments of the function.
        named: keyword arguments of the function.

    Raises:
        Exception: what the function raised.
    """
    context: Any = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=end_with_parent) as pool:
        return pool.submit(function, *arguments, **named).result()


def end_with_parent() -> None:
    """From now on, end this process when its parent is killed, because the work may already have been started again."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
