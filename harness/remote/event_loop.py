"""Coroutines for callers that are not asynchronous, also in a notebook, whose cells run inside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

Result = TypeVar("Result")
_TICK_S = 0.2
"""Time between two looks of the waiting thread at its signals."""


class EventLoop:
    """One event loop, in this thread, or in a second thread if this one already runs a loop (asyncio allows one loop per thread).

    Tasks that a coroutine leaves behind go on with the next coroutine, and are cancelled by `close`.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1, "event loop") if _runs_here() else None
        self._task: asyncio.Task[Any] | None = None

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Wait for a coroutine's result. Ctrl-C, or a notebook's interrupt, cancels it."""
        if self._thread is None:
            return self._runner.run(coroutine)
        self._task = None
        future = self._thread.submit(self._run_cancellable, coroutine)
        try:
            ended = False
            while not ended:  # between two waits, this thread takes the signals that others received
                ended = bool(futures.wait([future], timeout=_TICK_S).done)
        except KeyboardInterrupt:
            if not future.cancel() and self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
                futures.wait([future])
            raise
        return future.result()

    def _run_cancellable(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        self._task = self._runner.get_loop().create_task(coroutine)
        return self._runner.run(_result_of(self._task))

    def close(self) -> None:
        """Cancel what is left, and end the loop."""
        if self._thread is None:
            self._runner.close()
            return
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _result_of(task: asyncio.Task[Result]) -> Result:
    return await task


def _runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
