"""Whether an intermediate checkpoint has everything that the processes saved, and was saved with the sharding that the run is resumed with.

transformers loads what it finds: without the optimizer's state the moments begin at 0, and another sharding ends in an error of a library.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from aligners.training.processes import is_deepspeed, is_sharded
from aligners.training.resume import begin_again
from harness.core.errors import BadInputError

logger = logging.getLogger(__name__)

_NONE, _FSDP, _DEEPSPEED = "none", "fsdp", "zero2"
"""Values of `harness launch --sharding`."""
_FILES = {
    _FSDP: ("pytorch_model_fsdp*", "optimizer_0", "optimizer.bin"),
    _DEEPSPEED: ("global_step*", "latest"),
    _NONE: ("optimizer.pt",),
}
"""Sharding -> patterns of the files that only a checkpoint with it has."""
_PARTS = {
    "weights": ("pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp.bin"),
    "optimizer's state": ("optimizer_0/.metadata", "optimizer.bin"),
}
"""Parts of a checkpoint of FSDP -> the file that is written last, for sharded and for gathered states."""
_MOMENTS = "global_step*/*zero_pp_rank_*_optim_states.pt"
"""DeepSpeed's files with the moments, one per process."""
RANDOM_STATE = "rng_state.pth"
"""The file of one process alone; several have numbers in their files' names."""
_RANDOM_STATES = re.compile(r"rng_state_(\d+)\.pth")


def check_shards(checkpoint: Path, processes: int) -> None:
    """Check that a checkpoint of a run can be resumed by these processes, before anything is loaded.

    Weights and optimizer of a run without sharding are not looked at: `resume` compares them with the model.

    Args:
        checkpoint: the checkpoint.
        processes: number of processes.

    Raises:
        BadInputError: it was saved with another sharding, or something is missing that a process saved.
    """
    now = _FSDP if is_sharded() else _DEEPSPEED if is_deepspeed() else _NONE
    begun = sharding_of(checkpoint)
    if begun not in (None, now):
        raise BadInputError(
            f"this run was begun with --sharding {begun}, and its checkpoint cannot be resumed with --sharding {now}",
            where=str(checkpoint),
            remedy=f"{_launch(str(begun))}; or {begin_again(checkpoint)}",
        )
    if now == _FSDP:
        for part, files in _PARTS.items():
            if not any((checkpoint / file).is_file() for file in files):
                raise _missing(f"the {part} ({files[0]})", checkpoint)
    if now == _DEEPSPEED:
        _check_moments(checkpoint, processes)
    _check_random_states(checkpoint, processes)


def sharding_of(checkpoint: Path) -> str | None:
    """The value of `harness launch --sharding` that a checkpoint was saved with; None if it has no optimizer's state of any kind."""
    return next((kind for kind, files in _FILES.items() if any(any(checkpoint.glob(file)) for file in files)), None)


def random_states(checkpoint: Path) -> list[int]:
    """The processes whose random state a checkpoint has, if it was saved by several."""
    found = (_RANDOM_STATES.fullmatch(path.name) for path in checkpoint.iterdir())
    return sorted(int(match[1]) for match in found if match)


def _check_moments(checkpoint: Path, processes: int) -> None:
    """Check that there are DeepSpeed's moments of just these processes: it cannot divide them anew, and begins at 0 if some are missing."""
    saved = len(list(checkpoint.glob(_MOMENTS)))
    if not saved:
        raise _missing(f"the optimizer's state ({_MOMENTS})", checkpoint)
    if saved != processes:
        raise BadInputError(
            f"a checkpoint of this run has the optimizer's state of {saved} processes, and there are {processes}: DeepSpeed needs as many",
            where=str(checkpoint),
            remedy=f"resume with as many processes as the run was begun with; or {begin_again(checkpoint)}",
        )


def _check_random_states(checkpoint: Path, processes: int) -> None:
    """Check that no process's random state is missing; another number of processes than at the beginning has no correct one."""
    saved = random_states(checkpoint)
    if not saved and not (checkpoint / RANDOM_STATE).is_file():
        raise _missing(RANDOM_STATE, checkpoint)
    # One process alone has a file of another name, so several processes saved at least two.
    for rank in range(max(saved[-1] + 1, 2) if saved else 0):
        if rank not in saved:
            raise _missing(f"rng_state_{rank}.pth", checkpoint)
    if (begun := len(saved) or 1) != processes:
        logger.warning(
            f"the checkpoint has the random numbers of {begun} processes, and there are {processes}: dropout will not draw the same"
        )


def _launch(sharding: str) -> str:
    """How to resume with a sharding."""
    if sharding == _NONE:
        return "resume with --sharding none, or in one process"
    return f"resume with harness launch --sharding {sharding}"


def _missing(what: str, checkpoint: Path) -> BadInputError:
    return BadInputError(
        f"{what} is missing in a checkpoint of this run", where=str(checkpoint), remedy=begin_again(checkpoint)
    )
