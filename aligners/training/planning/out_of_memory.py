"""The error when memory runs out in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aligners.training.memory.peak import Peak, memory_there
from harness.core.errors import HarnessError
from harness.models import devices

if TYPE_CHECKING:
    from aligners.training.encoding import EncodedExample
    from aligners.training.session import Session

_ON_CPU = "can't allocate memory"
"""Text in the message of torch's CPU allocator."""


@contextlib.contextmanager
def out_of_memory(
    run: Session, examples: Sequence[EncodedExample], micro: int, at_once: int | None = None
) -> Iterator[None]:
    """Context that reports which setting to lower when memory runs out; saved checkpoints are kept.

    Args:
        run: the current training.
        examples: the examples that go through the model.
        micro: examples per forward pass of a step.
        at_once: examples per forward pass here, if it is not a training step.

    Raises:
        HarnessError: memory ran out.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # torch's CPU allocator has no specific error class.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and _ON_CPU not in str(error):
            raise
        said = next(iter(str(error).splitlines()), "")
        train = run.train_settings.model_copy(update={"savings": run.policy.savings})
        peak = Peak.of_examples(run.aligner, run.job.model, train, examples, devices.has_accelerator(), run.shares)
        remedy = peak.remedy(train, micro, memory_there(run.policy.device.type == "cuda"), run.job.train)
        raise HarnessError(
            f"out of memory with {at_once or micro} examples per forward pass: {said}",
            remedy=f"{remedy}; then resume with --resume --name {run.job.output.name}",
        ) from error
