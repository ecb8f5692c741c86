"""Writing a set in parts: one atomic Parquet file for some examples, in this process, in several, or with Ray Data.

A part is a pure function of its examples, the settings and the seed, so it does not matter which process writes it, or when.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligners.base import rejected_names
from aligners.rejected_images.make import Maker
from aligners.rejected_images.settings import ImagePreferenceSettings
from aligners.rejected_images.table import as_table, given_row, made_schema, own_columns, whole_schema
from harness.core.children import end_with_parent
from harness.core.errors import HarnessError
from harness.core.files import atomic_path
from harness.core.ray_data import check_ray, results_of
from harness.core.types import PreferenceExample

_BLOCK = 64
"""Number of rows that are made and written at once."""
_ROW_GROUP = 16
"""Number of rows per row group: reading one image reads all of them."""


@dataclass(frozen=True)
class SetPart:
    """Some examples, and the file for their rows."""

    path: Path
    examples: Sequence[PreferenceExample]


@dataclass(frozen=True)
class SetRecipe:
    """What determines the rows besides the examples. `whole`: include the examples' own columns, so that the set can be used as data."""

    settings: ImagePreferenceSettings
    seed: int
    whole: bool
    replace: bool = False
    """Also make an image for examples that have one."""
    levels: tuple[float, ...] = ()
    """Make a list of rejected images for every example, see `Maker`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of an example's rejected images: the one, or those of a list."""
        return rejected_names(len(self.levels)) if self.levels else ("rejected",)

    def given(self, example: PreferenceExample) -> bool:
        """Whether the example's rejected images are in the data, and are kept."""
        return self.names[0] in example.images and not self.replace


class PartWriter:
    """Writes parts. It loads its models for the first part, and can be pickled for another process."""

    def __init__(self, recipe: SetRecipe) -> None:
        self.recipe = recipe
        self._maker: Maker | None = None

    def write(self, part: SetPart, advance: Callable[[int], None] | None = None) -> int:
        """Write one part; returns its number of examples."""
        import pyarrow.parquet as pq

        schema = (whole_schema if self.recipe.whole else made_schema)(listed=bool(self.recipe.levels))
        with atomic_path(part.path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for start in range(0, len(part.examples), _BLOCK):
                block = part.examples[start : start + _BLOCK]
                writer.write_table(as_table(list(self._rows(block)), schema), row_group_size=_ROW_GROUP)
                if advance:
                    advance(len(block))
        return len(part.examples)

    def _rows(self, examples: Sequence[PreferenceExample]) -> Iterator[dict[str, Any]]:
        """One row per example, in order; dropped examples have none."""
        self._maker = self._maker or Maker(self.recipe.settings, self.recipe.seed, self.recipe.levels)
        made = {row["id"]: row for row in self._maker.rows([one for one in examples if not self.recipe.given(one)])}
        for example in examples:
            row = given_row(example, self.recipe.names) if self.recipe.given(example) else made.get(example.id)
            if row is not None:
                yield own_columns(example) | row if self.recipe.whole else row


Write = Callable[[SetRecipe, Sequence[SetPart], Callable[[int], None]], None]
"""Writes all parts; calls its last argument with the number of newly finished examples."""


def write_here(recipe: SetRecipe, parts: Sequence[SetPart], advance: Callable[[int], None]) -> None:
    """Write the parts in this process, one after the other."""
    writer = PartWriter(recipe)
    for part in parts:
        writer.write(part, advance)


def write_in_processes(workers: int) -> Write:
    """Write the parts in several processes of this machine, which are distributed over its GPUs."""

    def write(recipe: SetRecipe, parts: Sequence[SetPart], advance: Callable[[int], None]) -> None:
        # Not forked, because torch and Arrow have threads and locks.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            workers, context, _begin, (recipe, workers, context.Value("i", 0))
        ) as pool:
            try:
                _submit(pool, parts, 2 * workers, advance)
            except concurrent.futures.process.BrokenProcessPool:
                raise HarnessError(
                    "a worker was killed, perhaps because memory ran out",
                    remedy="run the same command again with fewer --workers; it resumes",
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    return write


def _submit(
    pool: concurrent.futures.Executor, parts: Sequence[SetPart], most: int, advance: Callable[[int], None]
) -> None:
    """Keep at most `most` parts in flight, because an example may have its image in memory."""
    waiting, left = set[concurrent.futures.Future[int]](), iter(parts)
    while True:
        for part in left:
            waiting.add(pool.submit(_write, part))
            if len(waiting) >= most:
                break
        if not waiting:
            return
        done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
        for one in done:
            advance(one.result())


_writer: PartWriter | None = None
"""The writer of this worker process."""


def _begin(recipe: SetRecipe, workers: int, begun: Any) -> None:
    """Set up a worker process: its share of the cores, and its GPU."""
    global _writer
    _writer = PartWriter(recipe)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and waits for parts in flight
    end_with_parent()
    if recipe.settings.regions == "dataset":  # without a model, torch need not be imported
        return
    import torch

    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _write(part: SetPart) -> int:
    assert _writer is not None
    return _writer.write(part)


class _RayWriter:
    """Runs in an actor of Ray Data: one part per row. Every row has the same recipe."""

    def __init__(self) -> None:
        self.writer: PartWriter | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        recipe, part = pickle.loads(row["task"])
        self.writer = self.writer or PartWriter(recipe)
        return {"done": self.writer.write(part)}


def write_through_ray(workers: int) -> Write:
    """Write the parts with Ray Data: on the cluster of `RAY_ADDRESS`, or with local workers.

    All machines must see the folder. On a cluster with GPUs, each detector has its own.

    Raises:
        BadInputError: Ray is not installed.
    """
    check_ray("use --workers on one machine")

    def write(recipe: SetRecipe, parts: Sequence[SetPart], advance: Callable[[int], None]) -> None:
        tasks = [pickle.dumps((recipe, part)) for part in parts]
        gpus = 0 if recipe.settings.regions == "dataset" else 1
        for row in results_of(_RayWriter, tasks, workers, gpus=gpus):
            advance(int(row["done"]))

    return write
