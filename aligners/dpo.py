"""DPO (Rafailov et al., NeurIPS 2023), and the losses that share its inputs: hinge, IPO, SimPO and KTO of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from aligners import losses
from aligners.base import Aligner, AlignerSettings, Logps, Loss

if TYPE_CHECKING:
    from torch import Tensor

PairLoss = Literal["sigmoid", "hinge", "ipo", "simpo", "kto-pair"]
DEFAULTS: Mapping[str, Mapping[str, Any]] = {"ipo": {"per_token": True}, "simpo": {"per_token": True, "beta": 2.0}}
"""Defaults of a loss that differ from those of the fields."""
ONLY: Mapping[str, tuple[str, ...]] = {
    "label_smoothing": ("sigmoid", "simpo"),
    "per_token": ("sigmoid", "hinge", "ipo", "simpo"),
    "length_penalty": ("sigmoid",),
    "gamma": ("simpo",),
}
"""Settings that only some losses use."""


class DPOSettings(AlignerSettings):
    """DPO's settings."""

    dependents: ClassVar[Mapping[str, tuple[str, ...]]] = {"loss": ("beta", *ONLY)}
    beta: float = Field(
        0.1,
        gt=0,
        description="strength of the pull towards the reference (ipo: its tau); simpo: scale of the reward, 2.0",
    )
    loss: PairLoss = Field(
        "sigmoid",
        description="sigmoid: DPO; hinge: SLiC; ipo: squared distance to 1/(2 beta); simpo: without a reference",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="label smoothing: probability that a preference is reversed (sigmoid, simpo)"
    )
    per_token: bool = Field(
        False,
        description="mean over a response's tokens, not their sum (length-normalised DPO); true for ipo and simpo",
    )
    length_penalty: float = Field(
        0.0, ge=0, description="reward subtracted per token of a response (R-DPO's alpha; sigmoid)"
    )
    gamma: float = Field(1.0, ge=0, description="simpo: reward margin that the preferred response should reach")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_loss(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        loss = values.get("loss")
        return {**(DEFAULTS.get(loss, {}) if isinstance(loss, str) else {}), **values}

    @model_validator(mode="after")
    def _only_what_the_loss_uses(self) -> Self:
        for name, users in ONLY.items():
            if self.loss not in users and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} has no effect on the loss {self.loss}, only on {', '.join(users)}: leave it out"
                )
        return self


class DPO(Aligner[DPOSettings]):
    """Compares the two responses to the original image."""

    name, source = "dpo", "Rafailov et al., NeurIPS 2023; of the other losses, see docs/methods.md"
    summary = "direct preference optimisation, or with method.loss: hinge, IPO, SimPO or KTO of pairs"

    def __init__(self, settings: DPOSettings | None = None) -> None:
        super().__init__(settings)
        if self.settings.loss == "kto-pair":
            # Its estimates of the divergence: mean log-ratios of the step before, so that they do not depend on the micro-batch.
            self.state = {"kl_chosen": 0.0, "kl_rejected": 0.0}

    def after_step(self, means: Mapping[str, float]) -> None:
        """Estimate KTO's divergences from the step's rewards, which are beta times log-ratios."""
        if self.state:
            self.state = {f"kl_{name}": means[f"reward_{name}"] / self.settings.beta for name in ("chosen", "rejected")}

    @property
    def uses_reference(self) -> bool:
        """SimPO has no reference."""
        return self.settings.loss != "simpo"

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.dpo`, `losses.hinge`, `losses.ipo`, `losses.simpo` and `losses.kto_pair`."""
        settings = self.settings
        lengths = {name: policy[name].mask.sum(-1) for name in ("chosen", "rejected")}
        # Of SimPO, these are log-probabilities.
        ratio = {
            name: (policy[name].sums - (reference[name].sums if self.uses_reference else 0))
            / (length if settings.per_token else 1)
            for name, length in lengths.items()
        }
        if settings.loss == "hinge":
            return Loss(losses.hinge(**ratio, beta=settings.beta))
        if settings.loss == "ipo":
            return Loss(losses.ipo(**ratio, tau=settings.beta))
        if settings.loss == "simpo":
            loss = losses.simpo(
                **ratio, beta=settings.beta, gamma=settings.gamma, label_smoothing=settings.label_smoothing
            )
            return Loss(loss, _rewards(ratio, settings.beta))
        if settings.loss == "kto-pair":
            return Loss(losses.kto_pair(**ratio, beta=settings.beta, **self.state))
        penalty = settings.length_penalty * (lengths["chosen"] - lengths["rejected"])
        return Loss(losses.dpo(**ratio, beta=settings.beta, label_smoothing=settings.label_smoothing, extra=penalty))


def _rewards(logps: Mapping[str, Tensor], beta: float) -> dict[str, Tensor]:
    """SimPO's rewards beta log pi(y|m,x) / |y|, under the names by which the trainer logs the rewards of other methods; [batch] each."""
    chosen, rejected = (beta * logps[name].detach() for name in ("chosen", "rejected"))
    return {
        "reward_chosen": chosen,
        "reward_rejected": rejected,
        "margin": chosen - rejected,
        "accuracy": (chosen > rejected).float(),
    }
