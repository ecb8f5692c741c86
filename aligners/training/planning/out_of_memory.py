"""What is said when the memory did not suffice after all."""

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
"""In the message of torch's allocator for CPUs."""


@contextlib.contextmanager
def out_of_memory(
    run: Session, examples: Sequence[EncodedExample], micro: int, at_once: int | None = None
) -> Iterator[None]:
    """Say which setting to lower when the memory does not suffice; what was saved is kept.

    Args:
        run: the training under way.
        examples: what goes through the model.
        micro: examples a forward pass of a step.
        at_once: examples a forward pass here, where it is no step's.

    Raises:
        HarnessError: the memory did not suffice inside.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # torch's allocator for CPUs has no error class of its own.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and _ON_CPU not in str(error):
            raise
        said = next(iter(str(error).splitlines()), "")
        train = run.train_settings.model_copy(update={"savings": run.policy.savings})
        peak = Peak.of_examples(run.aligner, run.job.model, train, examples, devices.has_accelerator(), run.shares)
        raise HarnessError(
            f"out of memory with {at_once or micro} examples a forward pass: {said}",
            remedy=f"{peak.remedy(train, micro, memory_there(run.policy.device.type == 'cuda'))}; go on with --resume",
        ) from error
