"""MPO (Wang et al., 2024): DPO, BCO and the likelihood of the preferred response, the recipe of InternVL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from aligners import losses
from aligners.base import Aligner, AlignerSettings, Logps, Loss


class MPOSettings(AlignerSettings):
    """MPO's settings; defaults are the paper's."""

    lambda_preference: float = Field(0.8, ge=0, description="weight of DPO's term (the paper's w_p)")
    lambda_quality: float = Field(0.2, ge=0, description="weight of BCO's term, whether each response is good (w_q)")
    lambda_generation: float = Field(1.0, ge=0, description="weight of the preferred response's likelihood (w_g)")
    shift: Literal["running-mean", "none"] = Field(
        "running-mean", description="BCO's delta: the mean of the rewards of earlier steps, or 0 as in TRL 1"
    )


class MPO(Aligner[MPOSettings]):
    """The running mean of the rewards is the method's state: it begins at 0, the reward of a model that is its own reference."""

    name, summary = "mpo", "mixed preference optimisation: DPO + BCO + likelihood of the preferred response"
    source = "Wang et al. (MPO, InternVL), 2024, arXiv 2411.10442"
    ours = "BCO's shift is the mean over earlier steps; the public code includes the present micro-batch"
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 5e-6,
        "weight_decay": 0.05,
        "warmup_ratio": 0.03,
        "tuning": "full",
    }

    def __init__(self, settings: MPOSettings | None = None) -> None:
        super().__init__(settings)
        if self.settings.shift == "running-mean":
            self.state = {"reward": 0.0, "steps": 0.0}

    def after_step(self, means: Mapping[str, float]) -> None:
        """Take the step's mean reward of both responses into the running mean."""
        if self.state:
            steps = self.state["steps"] + 1
            reward = (means["reward_chosen"] + means["reward_rejected"]) / 2
            self.state = {"reward": self.state["reward"] + (reward - self.state["reward"]) / steps, "steps": steps}

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.mpo`."""
        settings, chosen = self.settings, policy["chosen"]
        ratio = {name: policy[name].sums - reference[name].sums for name in ("chosen", "rejected")}
        loss, terms = losses.mpo(
            **ratio,
            chosen_logp=chosen.sums / chosen.mask.sum(-1),
            beta=settings.beta,
            shift=self.state.get("reward", 0.0),
            lambda_preference=settings.lambda_preference,
            lambda_quality=settings.lambda_quality,
            lambda_generation=settings.lambda_generation,
        )
        return Loss(loss, {name: value.detach() for name, value in terms.items()})
