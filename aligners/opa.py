"""OPA-DPO (Yang et al., CVPR 2025): a reference answer and the corrected own answer, first learned, then preferred to the own answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from aligners import losses
from aligners.base import (
    CHOSEN,
    REJECTED,
    Aligner,
    AlignerSettings,
    Branch,
    BranchLogps,
    Logps,
    Loss,
    Needs,
    PrepareContext,
)
from aligners.rejected_images import ImagePreferenceSettings, generate
from harness.core.errors import BadInputError
from harness.core.types import PreferenceExample

logger = logging.getLogger(__name__)

STANDARD = Branch("standard", response="standard")
BRANCHES = (
    CHOSEN,
    REJECTED,
    STANDARD,
    Branch("image_chosen", image="rejected"),
    Branch("image_standard", image="rejected", response="standard"),
)


class OPADPOSettings(AlignerSettings):
    """OPA-DPO's settings; defaults are those of its public run script, where nothing else is said."""

    phase: Literal["dpo", "opa"] = Field(
        "dpo",
        description="opa: learn both answers by their likelihood (on-policy alignment), which comes first; dpo: the preferences",
    )
    lambda_standard: float = Field(1.0, ge=0, description="weight of the pair of standard and own answer")
    lambda_revised: float = Field(1.0, ge=0, description="weight of the pair of revised and own answer")
    lambda_image: float = Field(0.2, ge=0, description="weight of the image terms within these")
    lambda_margin: float = Field(2.0, ge=0, description="weight of the anchors (the public code adds each twice)")
    anchor: Literal["preferred", "public-code"] = Field(
        "preferred",
        description="preferred (ours): standard and revised answer keep a positive reward; public-code: the revised one a negative reward",
    )
    images: ImagePreferenceSettings = ImagePreferenceSettings(corruption="pixels")


class OPADPO(Aligner[OPADPOSettings]):
    """The revised answer is `chosen`, the own one `rejected`, and the reference answer `standard` (the column standard_response).

    The paper first trains on both answers by their likelihood, so that they are likely enough to be preferred. That is a run of its own
    (`phase: opa`), whose export the second one starts from.
    """

    name, summary = "opa-dpo", "on-policy alignment DPO: reference and corrected answer against the model's own"
    source = "Yang et al. (OPA-DPO), CVPR 2025, arXiv 2501.09695"
    needs = Needs.WEIGHTS
    branches: tuple[Branch, ...] = BRANCHES
    ours = (
        "responses are compared as wholes, not position by position as in the public code; both preferred answers are anchored above 0; "
        "the image terms have the token weights of the text, not those of the kind of error; an end token has the weight 1"
    )
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-6,
        "epochs": 4,
        "warmup_ratio": 0.01,
        "lora": {"rank": 256, "alpha": 512},
    }

    def __init__(self, settings: OPADPOSettings | None = None) -> None:
        super().__init__(settings)
        if self.settings.phase == "opa":
            self.branches = (CHOSEN, STANDARD)

    @property
    def uses_reference(self) -> bool:
        """A likelihood has no reference."""
        return self.settings.phase == "dpo"

    def prepare(self, examples: Sequence[PreferenceExample], context: PrepareContext) -> Sequence[PreferenceExample]:
        """Make a rejected image for every example without one, for the second phase.

        Raises:
            BadInputError: an example has no standard response, or its responses continue a context.
        """
        if continued := next((one for one in examples if one.context), None):
            raise BadInputError(
                "the responses continue a context (shared_context), and the standard response does not",
                where=continued.id,
                remedy="take another method, or data with whole answers",
            )
        if without := next((one for one in examples if "standard" not in one.responses), None):
            raise BadInputError(
                "the example has no standard response",
                where=without.id,
                remedy="give the reference answer in the column standard_response; `chosen` is the corrected answer, `rejected` the "
                "model's own",
            )
        if self.settings.phase == "opa":
            return examples
        context.notes["with_token_weights"] = weighted = sum(bool(one.token_weights) for one in examples)
        if not weighted:
            logger.warning("no example has token weights (chosen_weights, rejected_weights): all tokens count 1")
        made, notes = generate(examples, self.settings.images, context)
        context.notes["image_preferences"] = notes.written()
        return made

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.opa_dpo`; of the first phase, the mean of -log pi(y|m,x) / |y| over both answers."""
        if self.settings.phase == "opa":
            means = [policy[name].sums / policy[name].mask.sum(-1) for name in ("chosen", "standard")]
            return Loss(-(means[0] + means[1]) / 2)

        def ratio(name: str, weighted: bool = False) -> losses.Tensor:
            return _likelihood(policy[name], policy[name], weighted) - _likelihood(
                reference[name], policy[name], weighted
            )

        settings = self.settings
        loss, terms = losses.opa_dpo(
            ratio("standard"),
            ratio("chosen"),
            ratio("rejected"),
            ratio("chosen", weighted=True),
            ratio("rejected", weighted=True),
            ratio("image_standard"),
            ratio("image_chosen", weighted=True),
            beta=settings.beta,
            lambda_standard=settings.lambda_standard,
            lambda_revised=settings.lambda_revised,
            lambda_image=settings.lambda_image,
            lambda_margin=settings.lambda_margin,
            lower_revised=settings.anchor == "public-code",
        )
        return Loss(loss, {name: value.detach() for name, value in terms.items()})


def _likelihood(logps: BranchLogps, layout: BranchLogps, weighted: bool) -> losses.Tensor:
    """Log-probability of a response, [batch]; `layout` has the weights of its tokens."""
    if not weighted:
        return logps.sums
    assert layout.weights is not None
    return losses.weighted_likelihood(logps.tokens, layout.weights)
