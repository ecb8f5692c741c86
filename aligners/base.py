"""The aligner contract.

A method says which branches it compares and a loss over their log-probabilities; if it needs to, how it prepares
data and in which stages it trains. Everything else is the trainer's (`aligners.training`), which knows methods by this contract only.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeVar, get_original_bases

from harness.core.types import PreferenceExample

if TYPE_CHECKING:  # torch is imported only when something is trained
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


@dataclass(frozen=True, slots=True)
class BranchLogps:
    """Log-probabilities of one branch's responses under one model, float32.

    Attributes:
        sums: [batch], sum over response tokens, the end token included.
        tokens: [batch, length], per token; 0 where `mask` is False.
        mask: [batch, length] bool, True at response tokens.
        corrected: [batch, length] bool, True at tokens that the correction changed; only for aligners whose
            `needs` has `Needs.CORRECTIONS`.
    """

    sums: Tensor
    tokens: Tensor
    mask: Tensor
    corrected: Tensor | None = None
    divergence: Tensor | None = None
    """[batch, length], KL(reference || policy) in nats at every response token, 0 where `mask` is False; of the policy only, and only
    for aligners whose `needs` has `Needs.REFERENCE_DISTRIBUTION`."""


Logps = Mapping[str, BranchLogps]
"""Branch name -> log-probabilities."""


@dataclass(frozen=True, slots=True)
class Loss:
    """`per_example`: [batch], what is minimised (its mean). `metrics`: name -> [batch], detached, logged as means."""

    per_example: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class AlignerSettings(BaseModel):
    """A method's own settings; subclasses add theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the examples that is trained on in turn, with an optimizer schedule of its own."""

    name: str
    examples: Sequence[PreferenceExample]
    reference: Literal["previous", "initial"] = "previous"
    """The reference is the model that this stage starts from, or the very first one."""


Measure = Literal["token", "predictive"]
"""Of an example's difficulty, see `aligners.training.difficulty`."""
Answer = Literal["chosen", "own"]
"""Whose answer a difficulty is measured on: the chosen response, or the starting model's own."""


class StageContext(ABC):
    """What `Aligner.stages` may ask of the trainer about the starting model."""

    @abstractmethod
    def difficulty(
        self,
        examples: Sequence[PreferenceExample],
        measure: Measure = "token",
        answer: Answer = "chosen",
        max_new_tokens: int = 256,
    ) -> list[float]:
        """How hard each example is for the starting model, given the original image; higher is harder. See `aligners.training.difficulty`.

        Args:
            examples: of this alignment.
            measure: `token`, the sum over the answer's tokens of -p log p with the token's own probability p, in nats; or `predictive`,
                the mean entropy of the whole distribution, in nats a token.
            answer: the chosen response, or the model's own, greedy one.
            max_new_tokens: of its own answer.
        """


@dataclass(frozen=True, slots=True)
class PrepareContext:
    """What `Aligner.prepare` may use: where to keep what it computes (content-addressed), and the seed.

    What it writes into `notes` (JSON-able) stands in the run's manifest. Into `output`, the run's folder, it may put samples
    of what it made; None where there is no run.
    """

    cache: Path
    seed: int
    notes: dict[str, Any] = field(default_factory=dict)
    output: Path | None = None


class Needs(enum.Flag):
    """What a method's loss is to be given beside the log-probabilities of its branches."""

    NOTHING = 0
    CORRECTIONS = enum.auto()
    """`BranchLogps.corrected`: the data say, or the trainer finds, which tokens a correction changed."""
    REFERENCE_DISTRIBUTION = enum.auto()
    """`BranchLogps.divergence`, at the price of a live pass of the reference, which is then the first model."""


S_co = TypeVar("S_co", bound=AlignerSettings, default=AlignerSettings, covariant=True)


class Aligner(ABC, Generic[S_co]):
    """A preference method: `class Mine(Aligner[MySettings])`, or `Aligner` alone where it has the common settings only.

    A method must have a name, summary and source, and the function `loss`. What its data must have it says by `branches` (an image or
    a response of an example, by name) and `needs`; what the data lack, `prepare` makes. See docs/plugins.md for a whole one.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    """Paper, venue and year."""
    branches: ClassVar[tuple[Branch, ...]] = (CHOSEN, REJECTED)
    needs: ClassVar[Needs] = Needs.NOTHING
    Settings: ClassVar[type[AlignerSettings]] = AlignerSettings
    """The class of `settings`; taken from the brackets behind `Aligner` where a method has some."""
    train_defaults: ClassVar[Mapping[str, Any]] = {}
    """The paper's training settings, where they differ from `TrainSettings`'."""

    ours: ClassVar[str] = ""
    """What is not the paper's, in a sentence for the model card; "" where everything is."""
    default_data: ClassVar[str | None] = None
    """Preference data that the paper trains on, taken where none is named; None: the model's usual ones."""

    def __init__(self, settings: S_co | None = None) -> None:
        self.settings: S_co = settings or cast("S_co", self.Settings())

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        given = [kind for base in get_original_bases(cls) for kind in get_args(base)]
        settings = [kind for kind in given if isinstance(kind, type) and issubclass(kind, AlignerSettings)]
        if settings and "Settings" not in vars(cls):
            cls.Settings = settings[0]

    def prepare(self, examples: Sequence[PreferenceExample], context: PrepareContext) -> Sequence[PreferenceExample]:
        """Add what the branches need (a rejected image, say). The default changes nothing."""
        return examples

    def stages(self, examples: Sequence[PreferenceExample], context: StageContext) -> list[Stage]:
        """Split the examples into stages. The default is one."""
        return [Stage("all", examples)]

    @abstractmethod
    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """The loss per example, from log-probabilities of the policy (with gradient) and the reference (without)."""
