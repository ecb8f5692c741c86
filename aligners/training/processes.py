"""Several processes (`accelerate launch`): their state, and collective operations for sharded weights (FSDP 2)."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from harness.core.errors import BadInputError
from harness.core.packages import need_package
from harness.models import devices

if TYPE_CHECKING:
    from torch import Tensor

V = TypeVar("V")

CONFIGURATION = "harness launch --sharding fsdp (docs/training.md)"
_PATIENCE = timedelta(days=7)
"""How long a process waits for the others. While the first one prepares the data (rejected images take hours), the others wait in a
barrier, which NCCL ends after 10 minutes by default, and gloo after 30. If a process dies, the launcher ends the others."""


def this_process() -> Any:
    """Accelerate's state of this process; without a GPU the backend is gloo, which must be set at the first call.

    Raises:
        MissingPackageError: DeepSpeed was requested, and is not installed.
        BadInputError: it was requested in a process that was not started by a launcher.
    """
    from accelerate import PartialState

    if is_deepspeed():
        _check_deepspeed()
    return PartialState(cpu=not devices.has_accelerator(), timeout=_PATIENCE)


def is_deepspeed() -> bool:
    """Whether `accelerate launch` uses DeepSpeed, which shards gradients and moments."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def _check_deepspeed() -> None:
    need_package("deepspeed", "accelerate's configuration")
    if "RANK" not in os.environ:
        raise BadInputError(
            "DeepSpeed's processes must be started by accelerate",
            remedy="harness launch --sharding zero2 (docs/training.md)",
        )
    # Warnings of every run without meaning: transformers leaves the passes of a step to DeepSpeed, which uses a deprecated name of torch.
    logging.getLogger("accelerate.accelerator").addFilter(lambda line: "steps mismatch" not in line.getMessage())
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def is_sharded() -> bool:
    """Whether `accelerate launch` shards the weights.

    Every process must then call the model equally often: each call gathers weights from all of them.
    """
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shares_out(model: Any) -> bool:
    """Whether this process has only a shard of the model's weights."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def any_process(here: bool, process: Any) -> bool:
    """Whether something is so in this process or another; every process must call it.

    Args:
        here: whether it is so in this process.
        process: accelerate's state of this process.
    """
    if process.num_processes == 1:
        return here
    from accelerate.utils import gather_object

    return any(gather_object([here]))


def bfloat16_policy() -> Any:
    """FSDP's rounding in bfloat16: of gathered weights and inputs only, as autocast does it in a single process.

    Accelerate's policy also rounds the log-probabilities that the model returns, and the gradients before they are summed over the
    processes. Both are float32 here.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None)


def say_what_is_gathered_together(model: Any, layer: Any) -> None:
    """Tell accelerate before a stage which modules' weights are gathered together, if weights are sharded and the user did not specify
    it.

    Args:
        model: the model to train.
        layer: one of the language model's layers, which accelerate finds by the name of their class.
    """
    if shares_out(model):  # done in an earlier stage; the class has another name by now
        os.environ["FSDP_AUTO_WRAP_POLICY"] = "NO_WRAP"
    elif is_sharded():
        os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", type(layer).__name__)


def from_first(process: Any, value: Callable[[], V]) -> V:
    """A value that the first process computes for all; every process must call it.

    Args:
        process: accelerate's state of this process.
        value: computes it; called in the first process only.
    """
    if process.num_processes == 1:
        return value()
    from accelerate.utils import broadcast_object_list

    [result] = broadcast_object_list([value() if process.is_main_process else None])
    return cast("V", result)


def whole(values: Mapping[str, Any], first: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, gathered one by one; every process must call it.

    Args:
        values: tensors, sharded or not.
        first: whether this process keeps them; the others get none.
    """
    from torch.distributed.tensor import DTensor

    gathered: dict[str, Tensor] = {}
    for name, value in values.items():
        value = value.detach()
        tensor = value.full_tensor() if isinstance(value, DTensor) else value
        if first:
            gathered[name] = tensor.to("cpu", copy=True).contiguous()
    return gathered
