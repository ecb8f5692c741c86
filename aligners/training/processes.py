"""Several processes (`accelerate launch`): which one this is, and what all must do together where they share the weights out (FSDP 2)."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.core.errors import BadInputError
from harness.core.packages import need_package
from harness.models import devices

if TYPE_CHECKING:
    from torch import Tensor

CONFIGURATION = "harness launch --sharding fsdp (docs/training.md)"


def this_process() -> Any:
    """Accelerate's account of this process among all; without a GPU they are joined by gloo, which must be said at the first call.

    Raises:
        MissingPackageError: DeepSpeed was requested, and is not installed.
        BadInputError: it was requested in a process that no launcher started.
    """
    from accelerate import PartialState

    if is_deepspeed():
        _check_deepspeed()
    return PartialState(cpu=not devices.has_accelerator())


def is_deepspeed() -> bool:
    """Whether `accelerate launch` was told to share gradients and moments out by DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def _check_deepspeed() -> None:
    need_package("deepspeed", "accelerate's configuration")
    if "RANK" not in os.environ:
        raise BadInputError(
            "DeepSpeed's processes must be started by accelerate",
            remedy="harness launch --sharding zero2 (docs/training.md)",
        )
    # Said in every run, and about nothing: transformers leaves the passes of a step to DeepSpeed, and that calls torch by an old name.
    logging.getLogger("accelerate.accelerator").addFilter(lambda line: "steps mismatch" not in line.getMessage())
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def is_sharded() -> bool:
    """Whether `accelerate launch` was told to share the weights out.

    Every process must then call the model equally often: each call gathers weights from all of them, and waits for them.
    """
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shares_out(model: Any) -> bool:
    """Whether this process holds a share of the model's weights only."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def say_what_is_gathered_together(model: Any, layer: Any) -> None:
    """Tell accelerate before a stage which modules' weights are gathered together, where weights are shared out and the user named none.

    Args:
        model: the model as it is trained.
        layer: one of the language model's layers, which accelerate finds by the name of their class.
    """
    if shares_out(model):  # in an earlier stage: nothing is left to do, and the class has another name by now
        os.environ["FSDP_AUTO_WRAP_POLICY"] = "NO_WRAP"
    elif is_sharded():
        os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", type(layer).__name__)


def whole(values: Mapping[str, Any], first: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, gathered one by one; every process must call it.

    Args:
        values: tensors, shared out or not.
        first: whether this process is the one that keeps them; the others get none.
    """
    from torch.distributed.tensor import DTensor

    gathered: dict[str, Tensor] = {}
    for name, value in values.items():
        value = value.detach()
        tensor = value.full_tensor() if isinstance(value, DTensor) else value
        if first:
            gathered[name] = tensor.to("cpu", copy=True).contiguous()
    return gathered
