"""C-DPO (Peng et al., SENTINEL, ICCV 2025): DPO on one sentence of an answer, behind a context that both sentences continue."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aligners import losses
from aligners.base import Aligner, Logps, Loss, PrepareContext
from harness.core.types import PreferenceExample

logger = logging.getLogger(__name__)


class CDPO(Aligner):
    """The context is in the data (`shared_context`): the model sees it, and its tokens do not count.

    They would cancel in the difference of two log-ratios. What makes the difference to DPO is the data: sentences are cut answers
    (`responses_end: false`), so no end token is preferred in the middle of a description.
    """

    name, source = "c-dpo", "Peng et al. (SENTINEL), ICCV 2025"
    summary = "context-aware DPO: a sentence is compared with another behind the same context"
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 2e-6,
        "batch_size": 64,
        "epochs": 1,
        "lora": {"rank": 128, "alpha": 256},
    }

    def prepare(self, examples: Sequence[PreferenceExample], context: PrepareContext) -> Sequence[PreferenceExample]:
        """Say so if the data has no context: the loss is then that of DPO."""
        without = sum(not example.context for example in examples)
        if without == len(examples):
            logger.warning(
                "no example has a context (shared_context), so this is DPO; `harness data generate` makes some"
            )
        context.notes["with_context"] = len(examples) - without
        return examples

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.dpo`; a log-ratio is that of log pi(y|m,x,c), without the context's tokens (SENTINEL, eq. 3)."""
        ratio = {name: policy[name].sums - reference[name].sums for name in ("chosen", "rejected")}
        return Loss(losses.dpo(**ratio, beta=self.settings.beta))
