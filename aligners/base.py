"""The aligner contract.

A method says which branches it compares and a loss over their log-probabilities; if it needs to, how it prepares
data and in which stages it trains. Everything else is the trainer's (`aligners.training`), which knows methods by this contract only.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeVar, get_original_bases

from harness.core.config import merged
from harness.core.types import PreferenceExample

if TYPE_CHECKING:  # torch is imported only for training
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Branch:
    """One (image, response) pair of an example, by name."""

    name: str
    image: str = "original"
    response: str = "chosen"


CHOSEN = Branch("chosen")
REJECTED = Branch("rejected", response="rejected")
IMAGE_REJECTED = Branch("image_rejected", image="rejected")


def rejected_names(length: int) -> tuple[str, ...]:
    """Names of the images in a list of rejected ones, from the one that was changed least to the one that was changed most."""
    return tuple(f"rejected_{number}" for number in range(1, length + 1))


def rejected_of(branches: Sequence[Branch]) -> list[str]:
    """Names of the rejected images that branches compare: the one, or those of a list."""
    names = dict.fromkeys(branch.image for branch in branches)
    return [name for name in names if is_rejected(name)]


def ranked_of(images: Iterable[str]) -> list[str]:
    """Those of the names of images that belong to a list of rejected ones."""
    return [name for name in images if name.startswith("rejected_")]


def is_rejected(image: str) -> bool:
    """Whether an image of this name is a rejected one."""
    return image == "rejected" or bool(ranked_of([image]))


def image_list(length: int) -> tuple[Branch, ...]:
    """The preferred response given each image of a list of rejected ones, in the list's order."""
    return tuple(Branch(f"image_{name}", image=name) for name in rejected_names(length))


@dataclass(frozen=True, slots=True)
class BranchLogps:
    """Log-probabilities of one branch's responses under one model, float32.

    Attributes:
        sums: [batch], sum over response tokens, the end token included if the response has one.
        tokens: [batch, length], per token; 0 where `mask` is False.
        mask: [batch, length] bool, True at response tokens.
        corrected: [batch, length] bool, True at tokens that the correction changed; only for aligners whose
            `needs` has `Needs.CORRECTIONS`.
        divergence: [batch, length], KL(reference || policy) in nats at every response token, 0 where `mask` is False; of the policy only,
            and only for aligners whose `needs` has `Needs.REFERENCE_DISTRIBUTION`.
        weights: [batch, length] float32, the data's weight of every token, 0 where `mask` is False; of the policy only, and only for
            aligners whose `needs` has `Needs.WEIGHTS`.
    """

    sums: Tensor
    tokens: Tensor
    mask: Tensor
    corrected: Tensor | None = None
    divergence: Tensor | None = None
    weights: Tensor | None = None


Logps = Mapping[str, BranchLogps]
"""Branch name -> log-probabilities."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss: `per_example` is [batch], and its mean is minimised. `metrics`: name -> [batch], detached; means are logged."""

    per_example: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class AlignerSettings(BaseModel):
    """Settings of a method. Subclasses add their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dependents: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Setting -> the settings whose defaults depend on its value; see `layered`."""
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")


def layered(settings: type[AlignerSettings], *layers: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of layers of settings, such as a recipe and `--set`; later layers win.

    If a layer changes a setting that others depend on (`AlignerSettings.dependents`), the values that earlier layers have for those are
    dropped: they were chosen for the earlier value, and would hide the defaults of the new one.

    Args:
        settings: the class of the method's settings.
        layers: each with the keys `train` and `method`, or one of them.

    Raises:
        BadInputError: as `merged`.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        before, given = result.get("method"), layer.get("method")
        if isinstance(before, dict) and isinstance(given, dict):
            dropped = _outdated(settings, before, given)
            result = {**result, "method": {key: value for key, value in before.items() if key not in dropped}}
        result = merged(result, layer)
    return result


def _outdated(settings: type[AlignerSettings], before: Mapping[str, Any], given: Mapping[str, Any]) -> set[str]:
    """The settings that depend on one to which a layer gives another value than it had before."""
    return {
        name
        for key, names in settings.dependents.items()
        if key in given and given[key] != before.get(key, settings.model_fields[key].default)
        for name in names
    }


@dataclass(frozen=True, slots=True)
class Stage:
    """Examples that are trained on together. Stages follow each other; each has its own optimizer schedule."""

    name: str
    examples: Sequence[PreferenceExample]
    reference: Literal["previous", "initial"] = "previous"
    """The reference model: "previous" is the model that this stage starts from, "initial" the one that training started from."""


Measure = Literal["token", "predictive"]
"""How the difficulty of an example is measured, see `aligners.training.difficulty`."""
Answer = Literal["chosen", "own"]
"""The answer whose difficulty is measured: the chosen response, or the starting model's own answer."""


class StageContext(ABC):
    """Measurements of the starting model, which the trainer offers to `Aligner.stages`."""

    @abstractmethod
    def difficulty(
        self,
        examples: Sequence[PreferenceExample],
        measure: Measure = "token",
        answer: Answer = "chosen",
        max_new_tokens: int = 256,
    ) -> list[float]:
        """The difficulty of each example for the starting model, given the original image. Higher is harder.

        Args:
            examples: examples of this alignment.
            measure: `token` is the sum of -p log p over the answer's tokens, with p the probability of the token, in nats. `predictive`
                is the mean entropy of the whole distribution, in nats per token.
            answer: the chosen response, or the model's own greedy answer.
            max_new_tokens: maximum length of the model's own answer.

        Returns:
            One number per example, in the order of the examples.
        """


@dataclass(frozen=True, slots=True)
class PrepareContext:
    """What `Aligner.prepare` may use.

    Attributes:
        cache: folder for computed data; entries must be content-addressed.
        seed: the seed of the run.
        notes: values that `prepare` adds to the run's manifest; they must be serialisable as JSON.
        output: the run's folder, for samples of what was made; None if there is no run.
    """

    cache: Path
    seed: int
    notes: dict[str, Any] = field(default_factory=dict)
    output: Path | None = None


class Needs(enum.Flag):
    """Inputs of a loss in addition to the log-probabilities of its branches."""

    NOTHING = 0
    CORRECTIONS = enum.auto()
    """`BranchLogps.corrected`: which tokens a correction changed, from the data or found by the trainer."""
    WEIGHTS = enum.auto()
    """`BranchLogps.weights`: the data's weights of tokens."""
    REFERENCE_DISTRIBUTION = enum.auto()
    """`BranchLogps.divergence`. It costs a forward pass of the reference in every step; the reference is the initial model."""


S_co = TypeVar("S_co", bound=AlignerSettings, default=AlignerSettings, covariant=True)


class Aligner(ABC, Generic[S_co]):
    """A preference method. Subclass `Aligner[MySettings]`, or `Aligner` if the method has only the common settings.

    A method must define `name`, `summary`, `source` and `loss`. `branches` (pairs of an image and a response of an example, by name)
    and `needs` declare its inputs, and `prepare` makes inputs that the data lack. docs/plugins.md shows a complete method.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    """Paper, venue and year."""
    branches: tuple[Branch, ...] = (CHOSEN, REJECTED)
    """Of the class, or set by `__init__` if they depend on the settings."""
    needs: ClassVar[Needs] = Needs.NOTHING
    Settings: ClassVar[type[AlignerSettings]] = AlignerSettings
    """The class of `settings`: the type argument of `Aligner`, if there is one."""
    train_defaults: ClassVar[Mapping[str, Any]] = {}
    """Training settings of the paper that differ from the defaults of `TrainSettings`."""

    ours: ClassVar[str] = ""
    """What differs from the paper, as a sentence for the model card; "" if nothing does."""
    default_data: ClassVar[str | None] = None
    """The paper's preference data, the default of `--data`; None: the default of the model."""

    def __init__(self, settings: S_co | None = None) -> None:
        self.settings: S_co = settings or cast("S_co", self.Settings())
        self.state: dict[str, float] = {}
        """Numbers that the loss takes from earlier steps, such as a running mean. Set here, changed by `after_step` only, saved with every
        intermediate checkpoint, and restored by `--resume`."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        given = [kind for base in get_original_bases(cls) for kind in get_args(base)]
        settings = [kind for kind in given if isinstance(kind, type) and issubclass(kind, AlignerSettings)]
        if settings and "Settings" not in vars(cls):
            cls.Settings = settings[0]

    @property
    def uses_reference(self) -> bool:
        """Whether `loss` reads the reference's log-probabilities. If not, none are computed, and `loss` gets an empty `reference`."""
        return True

    def prepare(self, examples: Sequence[PreferenceExample], context: PrepareContext) -> Sequence[PreferenceExample]:
        """Add what the branches need, such as a rejected image. The default changes nothing."""
        return examples

    def stages(self, examples: Sequence[PreferenceExample], context: StageContext) -> list[Stage]:
        """Split the examples into stages. The default is one stage."""
        return [Stage("all", examples)]

    def after_step(self, means: Mapping[str, float]) -> None:
        """Update `state` after an optimizer step. The default has no state.

        Args:
            means: means over all examples of the step, whichever pass or process computed them: `loss`, the metrics of `loss`, and with a
                reference `reward_BRANCH`, beta times the log-ratio. The same in every process.
        """

    @abstractmethod
    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """Compute the loss per example.

        Args:
            policy: branch name -> log-probabilities under the trained model, with gradient.
            reference: branch name -> log-probabilities under the reference, without gradient; empty unless `uses_reference`.
        """
