"""Coroutines are run from synchronous code, also where a loop runs in the thread, as in a notebook."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.remote.event_loop import EventLoop


def plainly(call: Callable[[], Any]) -> Any:
    return call()


def in_a_cell(call: Callable[[], Any]) -> Any:
    """As a notebook runs a cell: synchronous code inside a running loop that leaves SIGINT to Python."""

    async def cell() -> Any:
        return call()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        return loop.run_until_complete(cell())


BOTH = pytest.mark.parametrize("where", [plainly, in_a_cell])


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


@BOTH
def test_results_and_errors_come_back(where: Callable[[Callable[[], Any]], Any]) -> None:
    async def failing() -> None:
        raise ValueError("no")

    def call() -> list[int]:
        with EventLoop() as loop:
            with pytest.raises(ValueError, match="no"):
                loop.run(failing())
            return [loop.run(double(number)) for number in range(3)]

    assert where(call) == [0, 2, 4]


@BOTH
def test_tasks_go_on_with_the_next_coroutine_and_end_with_the_loop(where: Callable[[Callable[[], Any]], Any]) -> None:
    async def begin() -> tuple[asyncio.Task[int], asyncio.Task[None]]:
        return asyncio.create_task(double(4)), asyncio.create_task(asyncio.sleep(3600))

    async def result_of(task: asyncio.Task[int]) -> int:
        return await task

    def call() -> bool:
        with EventLoop() as loop:
            soon, late = loop.run(begin())
            assert loop.run(result_of(soon)) == 8
        return late.cancelled()

    assert where(call)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as Python has it; a worker of xdist ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@BOTH
def test_an_interrupt_cancels_what_is_waited_for(
    where: Callable[[Callable[[], Any]], Any], interruptible: None
) -> None:
    ended = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def call() -> int:
        with EventLoop() as loop:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                loop.run(long())
            assert ended == ["cancelled"]
            return loop.run(double(1))

    assert where(call) == 2
