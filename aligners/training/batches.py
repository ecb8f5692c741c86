"""Prepared batches, and the processes that make them while the model computes.

The objects that make batches have no weights and can be pickled, so that loader processes may be forked or spawned (Python's default
from 3.14 on).
"""

from __future__ import annotations

import contextlib
import pickle
import signal
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aligners.training.layout import Batch, Block, collate
from harness.core.errors import HarnessError
from harness.models import picture_inputs, quiet_transformers

if TYPE_CHECKING:
    from aligners.base import Branch
    from aligners.training.encoding import EncodedExample
    from aligners.training.families import Family


class Preparer:
    """Lays examples out, and adds the processor's outputs for images whose features are not cached. Runs on the CPU."""

    def __init__(
        self,
        processor: Any,
        family: Family,
        inner: Any,
        kept: Collection[str],
        *,
        shared_prefix: bool = True,
        one_block: bool = False,
    ) -> None:
        """Keep what is needed of a model and its processor.

        Args:
            processor: processor of the model.
            family: family of the model.
            inner: the model's inner model, of which only class and configuration are used.
            kept: fingerprints of the images whose features are cached.
            shared_prefix: as in `layout.collate`.
            one_block: as in `layout.collate`.
        """
        self.processor, self.family, self.inner, self.kept = processor, family, _without_weights(inner), kept
        self.shared_prefix, self.one_block = shared_prefix, one_block

    def __getstate__(self) -> bytes:
        return pickle.dumps({**self.__dict__, "kept": frozenset(self.kept)})

    def __setstate__(self, state: bytes) -> None:
        # A spawned process imports transformers when it unpickles these bytes, with our usual settings.
        quiet_transformers()
        self.__dict__.update(pickle.loads(state))

    def batch(self, examples: Sequence[EncodedExample], branches: Sequence[Branch]) -> Batch:
        """A prepared batch, not yet on the model's device."""
        pad = self.processor.tokenizer.pad_token_id or 0
        return self.prepare(collate(examples, branches, pad, self.shared_prefix, one_block=self.one_block))

    def prepare(self, batch: Batch) -> Batch:
        """Add to every block the keys of its images' cached features, or the processor's outputs for its images."""
        return replace(batch, blocks=[self._block(block) for block in batch.blocks])

    def _block(self, block: Block) -> Block:
        fingerprints = [image.fingerprint() for image in block.images]
        if all(one in self.kept for one in fingerprints):
            return replace(block, images=[], features=fingerprints)
        # Idefics3's processor treats the list as one row's images, and its model concatenates all rows' tiles, so there is no padding.
        pictures = [image.open() for image in block.images]
        block = replace(block, images=[], image_inputs=picture_inputs(self.processor, pictures))
        return replace(block, position_ids=self.family.positions(self.inner, block))


def _without_weights(inner: Any) -> Any:
    """A module of the same class and configuration without weights; methods that only use the configuration work."""
    from torch import nn

    kind: Any = type(inner)
    shell = kind.__new__(kind)
    nn.Module.__init__(shell)
    shell.config = inner.config
    return shell


def loader(batches: Any, workers: int) -> Any:
    """A `DataLoader` over prepared batches with `workers` processes; 0 prepares them in this process.

    Args:
        batches: a sequence of batches that can be pickled.
        workers: processes.
    """
    from torch.utils.data import DataLoader

    return DataLoader(
        _Careful(batches), batch_size=1, collate_fn=_only, num_workers=workers, worker_init_fn=_leave_interrupts
    )


class _Careful:
    """Returns batches, or instead of a failed batch the exception; from a loader process, torch would only pass on its text."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.batches[index]
        except HarnessError as error:
            return {"error": error}


def checked(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a loader's result, if it is a batch.

    Raises:
        HarnessError: it could not be made; this is the original error.
    """
    if "error" in inputs:
        raise inputs["error"]
    return inputs


@contextlib.contextmanager
def loaders_end() -> Iterator[None]:
    """Context that reports what to do if a loader process is killed.

    Raises:
        HarnessError: one was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise HarnessError(
            f"a process that prepares images ended: {str(error).splitlines()[0]}",
            remedy="if the machine ran out of memory, use fewer of them: --set train.workers=0 --resume",
        ) from error


def _only(rows: Sequence[Any]) -> Any:
    """The loader's batches have one element, which is a complete batch."""
    (row,) = rows
    return row


def _leave_interrupts(worker: int) -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal; this process ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
