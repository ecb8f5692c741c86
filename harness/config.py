"""Settings of the road's long steps: one place for defaults, unknown keys are errors.

A method's own settings (β, weights) live with the method; a benchmark's with the benchmark; a backend's with
the backend. What is here is common to all methods.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import BadInputError

M = TypeVar("M", bound=BaseModel)


class StrictModel(BaseModel):
    """A settings model: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraSettings(StrictModel):
    """Low-rank adapters on the language model's linear layers (never on the vision tower)."""

    rank: int = Field(64, ge=1)
    alpha: int = Field(128, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class Savings(StrictModel):
    """The trainer's five savings. Each can be switched off; loss and gradient agree with it on and off (tested)."""

    shared_prefix: bool = True
    reference_cache: bool = True
    feature_cache: bool = True
    chunked_logits: bool = True
    lean_layers: bool = True


class TrainSettings(StrictModel):
    """How a preference method is trained, whatever its loss."""

    learning_rate: float = Field(1e-5, gt=0)
    epochs: float = Field(1.0, gt=0)
    batch_size: int = Field(32, ge=1, description="examples per optimizer step")
    micro_batch_size: int = Field(4, ge=1, description="examples per forward pass")
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    adam_epsilon: float = Field(
        1e-8, gt=0, description="AdamW's: a gradient much smaller than it moves a weight by its size, not by its sign"
    )
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(4096, ge=16, description="tokens of prompt, image and response together")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    tuning: Literal["lora", "qlora", "full"] = Field(
        "lora", description="adapters, adapters on a base held in 4 bits, or all weights but the vision tower's"
    )
    lora: LoraSettings = LoraSettings()
    seed: int = 0
    save_steps: int = Field(200, ge=1)
    keep_stages: bool | None = Field(
        None, description="keep a checkpoint of every stage; by default of adapters, and not of full weights"
    )
    workers: int = Field(0, ge=0, description="processes that open and prepare images while the model computes")
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field((), description="where else the log goes")
    savings: Savings = Savings()

    COST_ONLY: ClassVar[frozenset[str]] = frozenset(
        {"micro_batch_size", "gradient_checkpointing", "save_steps", "keep_stages", "workers", "report_to"}
    )
    """Settings that change what a training takes and leaves, not what it computes: a run may be resumed with others."""

    @property
    def adapters(self) -> bool:
        """Whether adapters are trained, and the model under them is frozen."""
        return self.tuning != "full"

    @property
    def keeps_stages(self) -> bool:
        """Whether the checkpoint of every stage is kept."""
        return self.adapters if self.keep_stages is None else self.keep_stages

    def in_bfloat16(self, gpu: bool) -> bool:
        """Whether a step is computed in bfloat16; "auto" does so on GPUs."""
        return self.precision == "bfloat16" or (self.precision == "auto" and gpu)


def parse(model: type[M], values: dict[str, Any], what: str) -> M:
    """Validate settings; an unknown key or a bad value is a `BadInputError` that names it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or what
        if first["type"] == "extra_forbidden":
            raise BadInputError(
                f"unknown setting '{key}' of {what}", remedy=f"known: {', '.join(model.model_fields)}"
            ) from None
        if not first["loc"]:  # what a model says about several of its values
            raise BadInputError(f"the settings of {what} do not go together: {first['ctx']['error']}") from None
        raise BadInputError(f"bad value {first.get('input')!r} for '{key}' of {what}: {first['msg']}") from None


def overrides(pairs: list[str]) -> dict[str, Any]:
    """Turn `["a.b=1", "c=x"]` (from `--set`) into nested settings; values are read as YAML scalars.

    Raises:
        BadInputError: a pair without "=", or one key that is both a value and a group.
    """
    nested: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise BadInputError(f"--set takes KEY=VALUE, not '{pair}'")
        node = nested
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise BadInputError(f"--set {pair}: '{parent}' already has a value")
        value = yaml.safe_load(text)
        if isinstance(value, str):  # YAML 1.1 takes 1e-5 for text
            with contextlib.suppress(ValueError):
                value = float(value)
        node[leaf] = value
    return nested


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of settings; later layers win."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                result[key] = merged(result[key], value)
            else:
                result[key] = value
    return result


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a YAML recipe: a mapping with the keys `train` and `method`.

    Raises:
        BadInputError: missing, not YAML, not a mapping, or other keys than these two.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise BadInputError("the recipe does not exist", where=str(path)) from None
    except yaml.YAMLError as error:
        raise BadInputError(f"the recipe is not YAML: {error}", where=str(path)) from None
    if not isinstance(recipe, dict) or (unknown := set(recipe) - {"train", "method"}):
        raise BadInputError(
            f"a recipe has the keys 'train' and 'method', not {sorted(unknown) if isinstance(recipe, dict) else type(recipe).__name__}",
            where=str(path),
        )
    return recipe
