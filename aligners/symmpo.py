"""SymMPO (Liu et al., NeurIPS 2025): every example is compared with a similar image and that image's preferred response, in both
directions."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from aligners import losses
from aligners.base import CHOSEN, REJECTED, Aligner, AlignerSettings, Branch, Logps, Loss, PrepareContext
from harness.core.errors import BadInputError
from harness.core.progress import progress
from harness.core.types import PreferenceExample, Turn

logger = logging.getLogger(__name__)

SIDE = 16
"""Pixels of the thumbnails that similarity is measured on."""


class SymMPOSettings(AlignerSettings):
    """SymMPO's settings; defaults are those of its public code."""

    lambda_pair: float = Field(0.5, ge=0, description="weight of the two image-pair terms")
    lambda_consistency: float = Field(1e-4, ge=0, description="weight of the squared difference of the two gaps")


class SymMPO(Aligner[SymMPOSettings]):
    """Five branches: both images with both preferred responses, and the rejected response.

    Differences: the paper finds the similar image by CLIP; here an example may have it (image and response "second"); otherwise it is
    the nearest by thumbnail among the examples with the same prompt. An example with a unique prompt is left out.
    """

    name, summary, source = (
        "symmpo",
        "symmetric multimodal preference optimisation",
        "Liu et al. (SymMPO), NeurIPS 2025",
    )
    branches = (
        CHOSEN,
        REJECTED,
        Branch("cross_response", response="second"),
        Branch("second", image="second", response="second"),
        Branch("cross_image", image="second"),
    )
    ours = "without a similar image in the data, the nearest by thumbnail is used; the paper uses CLIP"
    train_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-6, "tuning": "full"}

    def prepare(self, examples: Sequence[PreferenceExample], context: PrepareContext) -> Sequence[PreferenceExample]:
        """Give every example a second image and its preferred response.

        Raises:
            BadInputError: an example's responses continue a context, which those of another example do not.
        """
        if continued := next((example for example in examples if example.context), None):
            raise BadInputError(
                "the responses continue a context (shared_context), and the second image's response does not",
                where=continued.id,
                remedy="take another method, or data with whole answers",
            )
        alone = [example for example in examples if "second" not in example.images]
        partners = nearest_with_the_same_prompt(alone)
        made = [
            example if "second" in example.images else _with_second(example, partners[example.id])
            for example in examples
            if "second" in example.images or example.id in partners
        ]
        left_out = len(examples) - len(made)
        context.notes["second_images"] = {
            "given": len(examples) - len(alone),
            "found": len(partners),
            "left_out": left_out,
        }
        if left_out:
            logger.warning(f"{left_out} examples were dropped: no other example has their prompt")
        return made

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.symmpo`."""
        ratio = {branch.name: policy[branch.name].sums - reference[branch.name].sums for branch in self.branches}
        loss, terms = losses.symmpo(
            **ratio,
            beta=self.settings.beta,
            lambda_pair=self.settings.lambda_pair,
            lambda_consistency=self.settings.lambda_consistency,
        )
        return Loss(loss, {name: value.detach() for name, value in terms.items()})


def _with_second(example: PreferenceExample, partner: PreferenceExample) -> PreferenceExample:
    return replace(
        example,
        images={**example.images, "second": partner.images["original"]},
        responses={**example.responses, "second": partner.responses["chosen"]},
    )


def nearest_with_the_same_prompt(examples: Sequence[PreferenceExample]) -> dict[str, PreferenceExample]:
    """For every example the one with the same prompt, but another image and preferred response, whose thumbnail is nearest.

    Similarity is the cosine between mean-free RGB thumbnails of SIDE x SIDE pixels; of ties the first in order.

    Returns:
        Example id -> partner; examples without one are not included.
    """
    groups: dict[tuple[tuple[Turn, ...], str], list[PreferenceExample]] = defaultdict(list)
    for example in examples:
        groups[example.history, example.prompt].append(example)
    partners: dict[str, PreferenceExample] = {}
    with progress("searching similar images", len(examples)) as advance:
        for group in groups.values():
            prints = [one.images["original"].fingerprint() for one in group]
            thumbnails = np.stack([_thumbnail(one) for one in group])
            for number, example in enumerate(group):
                similarity = thumbnails @ thumbnails[number]
                for other in np.argsort(-similarity, kind="stable"):
                    same = prints[other] == prints[number]
                    if not same and group[other].responses["chosen"] != example.responses["chosen"]:
                        partners[example.id] = group[other]
                        break
                advance()
    return partners


def _thumbnail(example: PreferenceExample) -> np.ndarray:
    """Unit vector [SIDE * SIDE * 3] float32 of the original image, without its mean."""
    values = np.asarray(example.images["original"].open().resize((SIDE, SIDE)), np.float32).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)
