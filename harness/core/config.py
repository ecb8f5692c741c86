"""Settings of the long steps: one place for defaults; unknown keys are errors.

A method's own settings (β, weights) live with the method; a benchmark's with the benchmark; a backend's with
the backend. This module has what is common to all methods.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from harness.core.errors import BadInputError, shown
from harness.core.typed import kind_of
from harness.core.yaml_values import parse_yaml, read_yaml

M = TypeVar("M", bound=BaseModel)
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LONGEST_KEY = 200
SEEDS = 2**32
"""Number of seeds that numpy accepts; a training's are those from 0 on."""


def _auto_or_count(value: Any) -> Any:
    """ "auto" or a whole number of at least 1, reported in one sentence, because pydantic's error for a union describes only its first
    type."""
    if value == "auto" or (not isinstance(value, bool) and re.fullmatch("0*[1-9][0-9]{0,8}", str(value))):
        return value
    raise PydanticCustomError("auto_or_count", "Input should be auto, or a whole number of at least 1")


class StrictModel(BaseModel):
    """A settings model: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraSettings(StrictModel):
    """Low-rank adapters on the language model's linear layers (never on the vision tower)."""

    rank: int = Field(64, ge=1, description="rank of the adapters")
    alpha: int = Field(128, ge=1, description="scale of the adapters: their output is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the adapters")
    targets: str | tuple[str, ...] | None = Field(
        None,
        description="layers that get adapters: name endings ([q_proj, v_proj]), or a regular expression over whole paths in the language "
        "model (layers.[0-9]+.mlp.*); default: all its linear layers",
    )


class Savings(StrictModel):
    """Optimisations of the trainer that change results by rounding only. Each can be switched off."""

    shared_prefix: bool = Field(True, description="compute image and prompt once for all responses of an example")
    reference_cache: bool = Field(True, description="store the reference's log-probabilities on disk, for all runs")
    feature_cache: bool = Field(True, description="compute image features once, and keep them in memory")
    chunked_logits: bool = Field(True, description="compute logits in chunks, at response tokens only")
    lean_layers: bool = Field(True, description="decoder layers with fewer copies of activations")


class BalanceSettings(StrictModel):
    """Margins of text and image preference on held-out pairs, measured during the training. The training does not depend on them."""

    data: str | None = Field(
        None,
        description="held-out preference data: a file, a known name or a world with another seed; default: nothing is measured",
    )
    pairs: int = Field(64, ge=1, description="use a sample of this many held-out pairs")
    every: int = Field(50, ge=1, description="steps between measurements; each stage's last step is measured, too")


class TrainSettings(StrictModel):
    """Settings of training that do not depend on the method."""

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate of AdamW")
    epochs: float = Field(1.0, gt=0, description="passes over the examples of each stage")
    batch_size: int = Field(32, ge=1, description="examples per optimizer step")
    micro_batch_size: Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_count)] = Field(
        "auto", description="examples per forward pass; auto: as many as the memory allows by prediction"
    )
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="AdamW's beta2, the decay rate of squared gradients")
    adam_epsilon: float = Field(
        1e-8,
        gt=0,
        description="AdamW's epsilon; gradients much smaller than it change a weight in proportion to their size",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    max_length: int = Field(4096, ge=16, description="tokens of prompt, image and response together")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool | None = Field(
        None,
        description="compute activations again in the backward pass; by default only if micro_batch_size=auto does not fit otherwise",
    )
    tuning: Literal["lora", "qlora", "full"] = Field(
        "lora",
        description="lora: adapters; qlora: adapters on a base in 4 bits; full: all weights except the vision tower's",
    )
    lora: LoraSettings = LoraSettings()
    seed: int = Field(
        0, ge=0, lt=SEEDS, description="seed of the order of examples, of adapters and of dropout, below 2**32"
    )
    save_steps: int = Field(
        200, ge=1, description="steps between intermediate checkpoints, from which --resume continues"
    )
    keep_stages: bool | None = Field(
        None, description="keep a checkpoint of every stage; default: true for adapters, false for full weights"
    )
    workers: int = Field(0, ge=0, description="processes that open and prepare images while the model computes")
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="loggers that also get the log"
    )
    savings: Savings = Savings()
    balance: BalanceSettings = BalanceSettings()

    COST_ONLY: ClassVar[frozenset[str]] = frozenset(
        {"micro_batch_size", "gradient_checkpointing", "save_steps", "keep_stages", "workers", "report_to", "savings"}
    )
    """Settings that change the cost of training, and which checkpoints are kept, but the result by rounding only: they may change with
    --resume.

    With dropout (`lora.dropout`), the examples per pass and the savings also decide which inputs are dropped, as another seed does: masks
    are drawn pass by pass, and have the shape of its tensors.
    """

    @property
    def adapters(self) -> bool:
        """Whether adapters are trained on a frozen model."""
        return self.tuning != "full"

    @property
    def keeps_stages(self) -> bool:
        """Whether the checkpoint of every stage is kept."""
        return self.adapters if self.keep_stages is None else self.keep_stages

    @property
    def micro(self) -> int:
        """Examples per forward pass, once that is decided (`aligners.training.memory.step`)."""
        if self.micro_batch_size == "auto":
            raise ValueError("the number of examples per forward pass is not decided yet")
        return self.micro_batch_size

    def in_bfloat16(self, gpu: bool) -> bool:
        """Whether a step is computed in bfloat16; "auto" does so on GPUs."""
        return self.precision == "bfloat16" or (self.precision == "auto" and gpu)


def parse(model: type[M], values: Any, what: str) -> M:
    """Validate settings.

    Raises:
        BadInputError: an unknown key or an invalid value; the message names it.
    """
    if not isinstance(values, dict):
        raise BadInputError(
            f"'{what}' is a group of settings, not the value {shown(values)}",
            remedy=f"set one of them: {', '.join(model.model_fields)}",
        )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        loc = first["loc"]
        key = ".".join(str(part)[:60] for part in loc) or what
        if first["type"] == "extra_forbidden":
            raise BadInputError(
                f"unknown setting '{shown(key)[1:-1]}' of {what}", remedy=f"known: {', '.join(_known(model, loc[:-1]))}"
            ) from None
        if first["type"] in ("model_type", "dict_type") and loc:
            group = ", ".join(_known(model, loc))
            raise BadInputError(
                f"'{key}' of {what} is a group of settings, not the value {shown(first.get('input'))}",
                remedy=f"set one of them: {group}",
            ) from None
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        if not loc:  # an error of a validator that looks at several values
            raise BadInputError(f"the settings of {what} contradict each other: {reason}") from None
        raise BadInputError(f"bad value {shown(first.get('input'))} for '{key}' of {what}: {first['msg']}") from None


def _known(model: type[BaseModel], groups: Sequence[Any]) -> list[str]:
    """The settings of a model, or of a group in it."""
    for group in groups:
        field = model.model_fields.get(str(group))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)


def overrides(pairs: list[str]) -> dict[str, Any]:
    """Turn `["a.b=1", "c=x"]` (from `--set`) into nested settings; values are read as YAML (`harness.core.yaml_values`).

    Raises:
        BadInputError: a pair without "=", a key that cannot be a setting's name, a value that cannot be read, or one key that
            is both a value and a group.
    """
    nested: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise BadInputError(f"--set takes KEY=VALUE, not {shown(pair)}")
        if len(key) > _LONGEST_KEY or not _KEY.fullmatch(key):
            raise BadInputError(
                f"--set takes KEY=VALUE, and {shown(key)} is not a setting's name",
                remedy="use letters, digits, _ and -, and a dot after each group: train.lora.rank=32",
            )
        node = nested
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise BadInputError(f"--set {shown(pair)[1:-1]}: '{parent}' already has a value")
        value = parse_yaml(text, f"the value of --set {key}", None)
        if isinstance(node.get(leaf), dict) != isinstance(value, dict) and leaf in node:
            raise BadInputError(f"--set {shown(pair)[1:-1]}: '{leaf}' is given as a group and as a value")
        node[leaf] = merged(node.get(leaf, {}), value) if isinstance(value, dict) else value
    return nested


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of settings; later layers win.

    Raises:
        BadInputError: a later layer has a group of settings where an earlier one has a value, which would be lost.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            before = result.get(key)
            if isinstance(value, dict) and isinstance(before, dict):
                result[key] = merged(before, value)
            elif isinstance(value, dict) and before is not None:
                raise BadInputError(f"'{key}' is a group of settings, not {kind_of(before)}: {shown(before)}")
            else:
                result[key] = value
    return result


def named_once(settings: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The settings of `--set`, merged with those of other options (`--seed` is `train.seed`); both nested.

    Raises:
        BadInputError: both give a setting, with different values; or as `merged`.
    """
    _refuse_twice(settings, options, "")
    return merged(settings, options)


def _refuse_twice(settings: dict[str, Any], options: dict[str, Any], path: str) -> None:
    for key, value in options.items():
        if isinstance(value, dict):
            if isinstance(settings.get(key), dict):
                _refuse_twice(settings[key], value, f"{path}{key}.")
        elif key in settings and settings[key] != value:
            raise BadInputError(
                f"'{path}{key}' is given twice: {shown(settings[key])} by --set, and {shown(value)} by its own option",
                remedy="give only one of them",
            )


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a YAML recipe: a mapping with the keys `train` and `method`, each a group of settings.

    Raises:
        BadInputError: missing, not readable as YAML, not such a mapping, or other keys than these two.
    """
    recipe = read_yaml(path, "recipe")
    if recipe is None:
        return {}
    if not isinstance(recipe, dict):
        raise BadInputError(
            f"a recipe is a mapping with the keys 'train' and 'method', not {kind_of(recipe)}: {shown(recipe)}",
            where=str(path),
        )
    if unknown := sorted(set(recipe) - {"train", "method"}):
        raise BadInputError(
            f"a recipe has the keys 'train' and 'method', not {', '.join(map(shown, unknown[:5]))}", where=str(path)
        )
    if wrong := [key for key, value in recipe.items() if not isinstance(value, dict) and value is not None]:
        raise BadInputError(
            f"'{wrong[0]}' is a group of settings, not {kind_of(recipe[wrong[0]])}: {shown(recipe[wrong[0]])}",
            where=str(path),
        )
    return {key: value for key, value in recipe.items() if value is not None}
