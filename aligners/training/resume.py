"""Resuming an interrupted run: its state is loaded completely, as it was written, or an error says why not.

transformers' trainer is lenient: it accepts weights under other names, and a checkpoint without an optimizer state.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligners.contract import valid_state
from harness.core.errors import BadInputError
from harness.models.weights import safetensors_shapes
from harness.records.training_files import StageRow

if TYPE_CHECKING:
    from torch import Tensor

    from aligners.base import Aligner
    from aligners.training.session import Session

WHOLE, ADAPTER = "model.safetensors", "adapter_model.safetensors"
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "BOOL": "bool"}
"""safetensors' names of types, and torch's."""
_OPTIMIZER, _SCHEDULER, _STATE = "optimizer.pt", "scheduler.pt", "trainer_state.json"


def stored(model: Any) -> dict[str, Any]:
    """The tensors of a model in a checkpoint; tied weights, such as a head and the embeddings, once."""
    tied = dict(model.named_parameters(remove_duplicate=False)).keys() - dict(model.named_parameters()).keys()
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def begin_again(checkpoint: Path) -> str:
    """The remedy if a checkpoint cannot be resumed from."""
    return f"remove {checkpoint}: --resume then continues from what was finished before it; or start the run again with --overwrite"


def tensors(
    path: Path, expected: Mapping[str, Any], remedy: str, *, widen: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of a file, which must be exactly the expected ones; this is checked before the first is yielded.

    Args:
        path: a safetensors file.
        expected: name -> a tensor of the shape and type that it must have.
        remedy: what to do if they differ.
        widen: accept bfloat16 where float32 is expected, and yield it in float32, which is exact.

    Raises:
        BadInputError: the file is missing, cut off or broken; or a tensor is missing, unexpected, or has another shape or type.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise BadInputError(
            f"{path.name} is missing in a checkpoint of this run", where=str(path.parent), remedy=remedy
        )
    try:
        shapes = safetensors_shapes(path)
    except BadInputError as error:
        raise BadInputError(error.problem, where=error.where, remedy=remedy) from None
    _refuse_names(shapes.keys(), expected.keys(), path, remedy)
    with safe_open(path, framework="pt") as opened:
        for name, value in expected.items():
            here = (list(shapes[name]), _TYPES.get(opened.get_slice(name).get_dtype(), "another"))
            wanted = (list(value.shape), str(value.dtype).removeprefix("torch."))
            exact = widen and (here[1], wanted[1]) == ("bfloat16", "float32")
            if here[0] != wanted[0] or (here[1] != wanted[1] and not exact):
                raise _refused(
                    f"'{name}' is {here[0]} {here[1]}, and {wanted[0]} {wanted[1]} in the model", path, remedy
                )
        for name, value in expected.items():
            yield name, opened.get_tensor(name).to(value.dtype)


def _refuse_names(names: Any, expected: Any, path: Path, remedy: str) -> None:
    if missing := sorted(expected - names):
        raise _refused(
            f"{len(missing)} of {len(expected)} tensors of the model are missing, first '{missing[0]}'", path, remedy
        )
    if strange := sorted(names - expected):
        raise _refused(f"{len(strange)} tensors do not belong to the model, first '{strange[0]}'", path, remedy)


def _refused(problem: str, path: Path, remedy: str) -> BadInputError:
    return BadInputError(f"a checkpoint of this run does not fit its model: {problem}", where=str(path), remedy=remedy)


def load_weights(session: Session, checkpoint: Path) -> None:
    """Load an intermediate checkpoint's weights, all or none.

    Raises:
        BadInputError: as of `tensors`.
    """
    import torch

    model, remedy = session.policy.model, begin_again(checkpoint)
    if session.train_settings.adapters:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        adapter = dict(tensors(checkpoint / ADAPTER, get_peft_model_state_dict(model), remedy))
        report = set_peft_model_state_dict(model, adapter)
        if report.unexpected_keys:
            raise _refused(f"'{report.unexpected_keys[0]}' does not belong to the model", checkpoint / ADAPTER, remedy)
        return
    weights = stored(session.policy.plain)
    with torch.no_grad():
        for name, value in tensors(checkpoint / WHOLE, weights, remedy):
            weights[name].copy_(value)


def save_whole(session: Session, checkpoint: Path) -> None:
    """Write all weights of an intermediate checkpoint under their names in the model, which `load_weights` expects."""
    from safetensors.torch import save_file

    checkpoint.mkdir(parents=True, exist_ok=True)
    values = {name: value.detach().cpu().contiguous() for name, value in stored(session.policy.plain).items()}
    save_file(values, checkpoint / WHOLE, metadata={"format": "pt"})
    session.policy.plain.config.save_pretrained(checkpoint)


def check_optimizer(checkpoint: Path, optimizer: Any) -> None:
    """Check that the state of the optimizer and of its schedule exists and fits the trained weights.

    Raises:
        BadInputError: a file is missing or cannot be read, or it belongs to another model.
    """
    remedy = begin_again(checkpoint)
    for name in (_OPTIMIZER, _SCHEDULER):
        if not (checkpoint / name).is_file():
            raise BadInputError(f"{name} is missing in a checkpoint of this run", where=str(checkpoint), remedy=remedy)
    with _reading(checkpoint / _SCHEDULER, remedy):
        _unpickled(checkpoint / _SCHEDULER)
    path = checkpoint / _OPTIMIZER
    with _reading(path, remedy):
        kept = _unpickled(path)
        groups = [list(group["params"]) for group in kept["param_groups"]]
        states = {
            number: {name: getattr(value, "shape", None) for name, value in state.items()}
            for number, state in kept["state"].items()
        }
    trained = [group["params"] for group in optimizer.param_groups]
    if [len(group) for group in groups] != [len(group) for group in trained]:
        raise _refused(
            f"the optimizer's state has {sum(map(len, groups))} weights, but {sum(map(len, trained))} are trained",
            path,
            remedy,
        )
    for numbers, weights in zip(groups, trained, strict=True):
        for number, weight in zip(numbers, weights, strict=True):
            moments = states.get(number, {})
            if any(moments.get(name) != weight.shape for name in ("exp_avg", "exp_avg_sq")):
                raise _refused(
                    f"the optimizer's state of weight {number} is missing or of another shape than {list(weight.shape)}",
                    path,
                    remedy,
                )


def check_readable(checkpoint: Path, name: str) -> None:
    """Check that a file exists and can be read, such as the random numbers' state, on which dropout depends.

    Raises:
        BadInputError: it is missing or cannot be read.
    """
    remedy = begin_again(checkpoint)
    if not (checkpoint / name).is_file():
        raise BadInputError(f"{name} is missing in a checkpoint of this run", where=str(checkpoint), remedy=remedy)
    from transformers.trainer_pt_utils import safe_globals

    with _reading(checkpoint / name, remedy), safe_globals():
        _unpickled(checkpoint / name)


def check_state(checkpoint: Path, step: int) -> None:
    """Check that the trainer's state is of the step in the folder's name.

    Raises:
        BadInputError: it is of another step.
    """
    path = checkpoint / _STATE
    state = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(state, dict) or state.get("global_step") != step:
        raise BadInputError(
            f"the state of a checkpoint of step {step} is of another step",
            where=str(path),
            remedy=begin_again(checkpoint),
        )


def restore_state(aligner: Aligner, checkpoint: Path) -> None:
    """Give a method the state that it had at an intermediate checkpoint; nothing for a method without one.

    Raises:
        BadInputError: the checkpoint has none, or another method's.
    """
    if not aligner.state:
        return
    path = checkpoint / _STATE
    kept = json.loads(path.read_text(encoding="utf-8")).get("stateful_callbacks", {}).get("MethodState", {})
    _restore(aligner, kept.get("attributes"), path, begin_again(checkpoint))


def restore_finished(aligner: Aligner, summary: StageRow, folder: Path) -> None:
    """Give a method the state that it had at the end of a finished stage, whose summary has it.

    Raises:
        BadInputError: the summary has none, or another method's.
    """
    if aligner.state:
        _restore(aligner, summary.method_state, folder, begin_again(folder))


def _restore(aligner: Aligner, state: Any, path: Path, remedy: str) -> None:
    if not valid_state(state, set(aligner.state)):
        raise BadInputError(
            f"the state of the method '{aligner.name}' ({', '.join(aligner.state)}) is missing in a checkpoint of this run, or damaged",
            where=str(path),
            remedy=remedy,
        )
    aligner.state = {name: float(value) for name, value in state.items()}


def _unpickled(path: Path) -> Any:
    """Load a file of torch without running code; tensors are memory-mapped."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


@contextlib.contextmanager
def _reading(path: Path, remedy: str) -> Iterator[None]:
    """Context that turns exceptions into an error about the file."""
    try:
        yield
    except Exception as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise BadInputError(
            f"a checkpoint of this run cannot be read: {path.name} is damaged ({said})", where=str(path), remedy=remedy
        ) from error
