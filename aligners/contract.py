"""Checks of a method's class and of what its functions return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aligners.base import Aligner, Branch, Logps, Loss, Needs, PrepareContext, Stage, StageContext
from harness.core.errors import BadInputError, shown
from harness.core.names import check_name
from harness.core.plugins import is_plugin, wrong
from harness.core.types import PreferenceExample

if TYPE_CHECKING:
    from torch import Tensor

_RESERVED = frozenset({"loss", "stage", "step", "learning_rate", "examples_per_second", "tokens_per_second"})
"""Columns of the training log that a method must not use."""
_OURS = ("reward_", "margin", "accuracy")
"""Prefixes of the columns that the trainer computes for every method with a reference."""


def check_method(aligner: Aligner) -> None:
    """Make sure that a plugin's method declares what it compares.

    Raises:
        PluginError: its branches or its needs are invalid.
    """
    if not is_plugin(aligner):
        return
    branches = aligner.branches
    expected = "branches: a tuple of Branch, each with a unique name, one of them 'chosen'"
    if not isinstance(branches, tuple | list) or not all(isinstance(one, Branch) for one in branches):
        raise wrong(aligner, "branches", shown(branches), expected)
    names = [one.name for one in branches]
    if "chosen" not in names or len(set(names)) != len(names):
        raise wrong(aligner, "branches", f"the names {', '.join(map(str, names)) or 'of none'}", expected)
    if not isinstance(aligner.needs, Needs):
        known = ", ".join(f"Needs.{one.name}" for one in Needs)
        raise wrong(aligner, "needs", shown(aligner.needs), f"flags of aligners.base.Needs: {known}")


def prepared(
    aligner: Aligner, examples: Sequence[PreferenceExample], context: PrepareContext
) -> Sequence[PreferenceExample]:
    """`Aligner.prepare`, checked: it returns some of the given examples, each once.

    Raises:
        PluginError: what it gave are none.
    """
    kept = aligner.prepare(examples, context)
    if is_plugin(aligner):
        expected = "a list of PreferenceExample: the given ones, or changed copies with the same ids"
        _check_examples(aligner, "prepare", kept, {example.id for example in examples}, expected)
    return kept


def stages_of(aligner: Aligner, examples: Sequence[PreferenceExample], context: StageContext) -> list[Stage]:
    """`Aligner.stages`, checked: at least one, each with a unique name and some of the examples.

    Raises:
        PluginError: what it gave are none.
    """
    stages = aligner.stages(examples, context)
    if not is_plugin(aligner):
        return stages
    expected = "a list of Stage, each with a unique name and some of the examples"
    if not isinstance(stages, Sequence) or not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise wrong(aligner, "stages", shown(stages), expected)
    known, names = {example.id for example in examples}, set()
    for stage in stages:
        try:
            check_name(stage.name, "a stage's name")
        except (BadInputError, TypeError):
            raise wrong(
                aligner, "stages", f"a stage named {shown(stage.name)}", "a name that is allowed for a folder"
            ) from None
        if stage.name in names:
            raise wrong(aligner, "stages", f"two stages named '{stage.name}'", expected)
        names.add(stage.name)
        if stage.reference not in ("previous", "initial"):
            raise wrong(aligner, "stages", f"reference={shown(stage.reference)}", "'previous' or 'initial'")
        _check_examples(aligner, "stages", stage.examples, known, expected)
    return list(stages)


def _check_examples(aligner: Aligner, method: str, examples: Any, known: set[str], expected: str) -> None:
    """Make sure that a method returned only known examples."""
    if not isinstance(examples, Sequence) or isinstance(examples, str):
        raise wrong(aligner, method, shown(examples), expected)
    if not examples:
        raise wrong(aligner, method, "no example", expected)
    seen: set[str] = set()
    for example in examples:
        if not isinstance(example, PreferenceExample):
            raise wrong(aligner, method, f"{shown(example)} among the examples", expected)
        if example.id not in known:
            raise wrong(aligner, method, f"an example with the id {shown(example.id)}, which was not given", expected)
        if example.id in seen:
            raise wrong(aligner, method, f"the example {shown(example.id)} twice", expected)
        seen.add(example.id)


def loss_of(aligner: Aligner, policy: Logps, reference: Logps, ids: Sequence[str]) -> Loss:
    """`Aligner.loss`, checked. The caller checks whether the values are finite, because it knows the step.

    Args:
        aligner: the method.
        policy: the policy's log-probabilities, of a batch of examples.
        reference: the reference's log-probabilities.
        ids: ids of the examples, [batch].

    Raises:
        PluginError: it is not a `Loss` of these examples, or has no gradient although the policy has one.
    """
    import torch

    loss = aligner.loss(policy, reference)
    size = len(ids)
    if not isinstance(loss, Loss):
        kind = type(loss).__name__
        raise wrong(
            aligner, "loss", "None" if loss is None else f"a {kind}", "a Loss: Loss(values of the shape [batch])"
        )
    _check_values(aligner, "per_example", loss.per_example, size)
    differentiable = torch.is_grad_enabled() and any(branch.sums.requires_grad for branch in policy.values())
    if differentiable and not loss.per_example.requires_grad:
        raise wrong(
            aligner, "loss", "a loss without a gradient", "a loss that is computed from the policy's log-probabilities"
        )
    if not isinstance(loss.metrics, Mapping):
        raise wrong(
            aligner, "loss", f"metrics={shown(loss.metrics)}", "a dict of names and values of the shape [batch]"
        )
    for name, values in loss.metrics.items():
        logged = is_plugin(aligner) and aligner.uses_reference and name.startswith(_OURS)
        if not isinstance(name, str) or name in _RESERVED or logged:
            raise wrong(
                aligner,
                "loss",
                f"a metric named {shown(name)}",
                "another name: the trainer logs a value of its own under this one",
            )
        _check_values(aligner, f"metrics['{name}']", values, size)
        if is_plugin(aligner) and (bad := not_finite(values, ids)):
            raise wrong(aligner, "loss", f"{bad[1]} as the metric '{name}' of example {bad[0]}", "a finite number")
    return loss


def after_step(aligner: Aligner, means: Mapping[str, float]) -> None:
    """`Aligner.after_step`, checked: the state keeps its names and has finite numbers.

    Raises:
        PluginError: it does not.
    """
    names = set(aligner.state)
    aligner.after_step(means)
    if is_plugin(aligner) and not valid_state(aligner.state, names):
        expected = f"a dict of finite numbers named {', '.join(sorted(names)) or '(none)'}, as after __init__"
        raise wrong(aligner, "after_step", f"the state {shown(aligner.state)}", expected)


def valid_state(state: Any, names: set[str]) -> bool:
    """Whether this is a state with these names and finite numbers."""
    return (
        isinstance(state, Mapping)
        and set(state) == names
        and all(isinstance(value, int | float) and math.isfinite(value) for value in state.values())
    )


def not_finite(values: Tensor, ids: Sequence[str]) -> tuple[str, float] | None:
    """The first example whose value is not a finite number, and that value."""
    for name, value in zip(ids, values.detach().tolist(), strict=True):
        if not math.isfinite(value):
            return name, value
    return None


def _check_values(aligner: Aligner, what: str, values: Any, size: int) -> None:
    import torch

    expected = f"{what}: a tensor of the shape [{size}] and a floating-point type, one value per example"
    if not isinstance(values, torch.Tensor):
        raise wrong(aligner, "loss", f"a {type(values).__name__} as {what}", expected)
    if tuple(values.shape) != (size,):
        raise wrong(aligner, "loss", f"a tensor of the shape {list(values.shape)} as {what}", expected)
    if not values.is_floating_point():
        raise wrong(aligner, "loss", f"a tensor of {values.dtype} as {what}", expected)
