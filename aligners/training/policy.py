"""The trained model, as the trainer uses it: values of a batch's response tokens, and cached features of its images."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from aligners.training.adapters import Adapted, adapted_modules
from aligners.training.batches import Preparer
from aligners.training.families import family_of, possible_savings
from aligners.training.layout import Batch, Block
from aligners.training.masks import layer_masks
from harness.core.config import LoraSettings, Savings
from harness.core.errors import HarnessError
from harness.core.progress import progress
from harness.core.types import ImageRef
from harness.models import picture_inputs

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

CHUNK = 1024
"""Number of response tokens whose logits are in memory at a time."""
FEATURE_BUDGET = 4 * 2**30
"""Maximum size of cached tower features in bytes; above it, features are computed in every step."""


class Policy:
    """A model with its processor; the tower is frozen, and its features are cached if the family allows it.

    Attributes:
        model: the transformers model, wrapped by PEFT when it is tuned by LoRA.
        family: properties of the model's family.
        adapted: the modules with adapters; None if all weights are trained.
        savings: the requested savings that are possible for the model.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        tuning: str,
        lora: LoraSettings,
        savings: Savings,
        bfloat16: bool,
        with_distribution: bool = False,
    ) -> None:
        """Wrap a model; `with_distribution` adds the divergence from the present model to `token_logps`."""
        from aligners.training.kernels import attention, layers

        attention.use(model)
        self.plain, self.processor, self.bfloat16 = model, processor, bfloat16
        self.family = family_of(model.config.model_type)
        self.savings = possible_savings(model.config, savings)
        self._not_possible = self.family.not_possible(model.config)
        if savings.shared_prefix and (reason := self._not_possible.get("shared_prefix")):
            logger.info(f"shared prefix: {reason}")
        self._wants_features = savings.feature_cache
        self._frozen = (
            copy.deepcopy(model).requires_grad_(False).eval() if with_distribution and tuning == "full" else None
        )
        self._with_distribution = with_distribution
        self.lean = layers.use(self.layers, savings.lean_layers)
        if self.lean not in ("on", "off"):
            logger.info(f"lean layers: {self.lean}")
        self.adapted: Adapted | None = None
        self.model = self._tunable(model, tuning, lora)
        # The training loop calls the model through its wrappers (DDP, FSDP), so that gradients are synchronised.
        # Not the bound method itself: in mixed precision, accelerate unwraps it and binds it to the model.
        self.model.forward = functools.partial(self.forward)
        self._features: dict[str, Tensor] = {}

    def _tunable(self, model: Any, tuning: str, lora: LoraSettings) -> Any:
        model.requires_grad_(False)
        if tuning == "full":
            for name, value in model.named_parameters():
                value.requires_grad_(self.family.trained_in_full(name))
            return model
        from peft import LoraConfig, get_peft_model

        self.adapted = adapted_modules(model, lora)
        if said := self.adapted.said():
            logger.info(said)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=self.adapted.pattern,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)

    @property
    def device(self) -> Any:
        """The device of the model."""
        return next(self.plain.parameters()).device

    @property
    def layers(self) -> Any:
        """The language model's layers."""
        return self.plain.model.get_submodule(self.family.language).layers

    def keep_features(self, images: Iterable[ImageRef]) -> str:
        """Compute and cache the tower's features of each image, if the family and the memory allow it; returns what was done."""
        import torch

        wanted = list({image.fingerprint(): image for image in images}.values())
        if not self._wants_features:
            return "off"
        if notice := self._not_possible.get("feature_cache"):
            logger.info(f"feature cache: {notice}")
            return notice
        with progress("encoding images once", len(wanted)) as advance, torch.no_grad():
            for start in range(0, len(wanted), 128):
                block = wanted[start : start + 128]
                features = self._tower(self._pixels(block))
                if features[0].nbytes * len(wanted) > FEATURE_BUDGET:
                    notice = f"{features[0].nbytes * len(wanted) / 2**30:.1f} GB of features: images are encoded in every step"
                    logger.info(f"feature cache: {notice}")
                    return notice
                self._features.update(
                    {image.fingerprint(): row for image, row in zip(block, features.cpu(), strict=True)}
                )
                advance(len(block))
        return f"{len(wanted)} images"

    @property
    def feature_bytes(self) -> int:
        """Bytes of one image's cached features; 0 if none are cached."""
        return next(iter(self._features.values())).nbytes if self._features else 0

    def forget_features(self) -> None:
        """Encode images in every step from now on."""
        self._features = {}

    def preparer(self, one_block: bool = False) -> Preparer:
        """An object that makes batches for this model, in any process."""
        return Preparer(
            self.processor,
            self.family,
            self.plain.model,
            self._features.keys(),
            shared_prefix=self.savings.shared_prefix,
            one_block=one_block,
        )

    @contextlib.contextmanager
    def with_savings(self, savings: Savings) -> Iterator[None]:
        """Context in which the model uses only these of its savings."""
        from aligners.training.kernels import layers

        before, features = self.savings, self._features
        self.savings = savings
        if not savings.feature_cache:
            self._features = {}
        layers.use(self.layers, savings.lean_layers)
        try:
            yield
        finally:
            self.savings, self._features = before, features
            layers.use(self.layers, before.lean_layers)

    def prepare(self, batch: Batch) -> Batch:
        """Add the processor's outputs for images whose features are not cached. Runs on the CPU."""
        return self.preparer().prepare(batch)

    def forward(self, batch: Batch, value: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """The forward pass of the wrapped model: `token_logps`, or `response_values` of another value."""
        return self.token_logps(batch) if value is None else self.response_values(batch, value)

    def token_logps(self, batch: Batch) -> Tensor:
        """Log-probabilities of all response tokens, branch after branch, for `layout.by_branch`, with gradient if enabled.

        Returns:
            [tokens] float32, or with the distribution [tokens, 2]: the second column is the divergence KL(initial model || this one).
        """
        import torch

        if not self._with_distribution:
            return self.response_values(batch, token_logp)
        with torch.no_grad(), self._first_model() as first:
            expected = self._states(batch, first)
        return self.response_values(batch, _logp_and_divergence, expected)

    def response_values(self, batch: Batch, value: Callable[..., Tensor], expected: Tensor | None = None) -> Tensor:
        """A value of every response token, branch after branch, with gradient if enabled.

        Args:
            batch: a prepared batch on the model's device.
            value: function of logits [n, vocabulary] float32 and target tokens [n], and of the initial model's logits if `expected` is
            given. With `savings.chunked_logits` it gets CHUNK tokens at a time, and no logits are stored for the backward pass: they are
            computed again there, or their gradient is computed at once (`frozen_head`).
            expected: the initial model's hidden states at the same tokens, [tokens, width].
        """
        import torch
        from torch.utils.checkpoint import checkpoint

        head = self.plain.get_output_embeddings()
        states = [self._states(batch, self.plain), *([] if expected is None else [expected])]
        targets = torch.cat([one.target[one.mask] for one in batch.layouts.values()])

        cap = getattr(self.plain.config.get_text_config(), "final_logit_softcapping", None)

        def values(tokens: Tensor, *states: Tensor) -> Tensor:
            logits = [head(states[0])]
            if len(states) > 1:
                logits.append((self._frozen or self.plain).get_output_embeddings()(states[1]))
            if cap is not None:  # in the model's own type, as its forward pass does
                logits = [torch.tanh(one / cap) * cap for one in logits]
            return value(logits[0].float(), tokens, *(one.float() for one in logits[1:]))

        if not self.savings.chunked_logits:
            return values(targets, *states)
        chunks = zip(targets.split(CHUNK), *(one.split(CHUNK) for one in states), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([values(*chunk) for chunk in chunks])
        frozen = head.bias is None and not any(one.requires_grad for one in head.parameters())
        if value is token_logp and frozen and cap is None:
            from aligners.training.kernels.frozen_head import FrozenHead

            return torch.cat([FrozenHead.apply(states, tokens, head.weight) for tokens, states in chunks])
        return torch.cat([checkpoint(values, *chunk, use_reentrant=False) for chunk in chunks])

    @contextlib.contextmanager
    def _first_model(self) -> Iterator[Any]:
        """The initial model: a copy, or this one without its adapter."""
        if self._frozen is not None:
            yield self._frozen
        else:
            with self.without_adapter():
                yield self.plain

    def without_adapter(self) -> contextlib.AbstractContextManager[None]:
        """Context in which an adapter is switched off, which gives the initial model; full weights are not changed."""
        return self.model.disable_adapter() if hasattr(self.model, "disable_adapter") else contextlib.nullcontext()

    def _states(self, batch: Batch, plain: Any) -> Tensor:
        """Hidden states that predict the response tokens, branch after branch, [tokens, width]."""
        import torch

        hidden = torch.cat([self._hidden(block, plain).flatten(0, 1) for block in batch.blocks])
        return hidden[torch.cat([one.predictor[one.mask] for one in batch.layouts.values()])]

    def _hidden(self, block: Block, plain: Any) -> Tensor:
        """Last hidden states [rows, length, width] of this model or its copy.

        Raises:
            HarnessError: the block has no pictures; the model would silently compute without them.
        """
        import torch

        inner = plain.model
        computed_in = torch.bfloat16 if self.bfloat16 else self.plain.dtype
        whole = self.family.seeing_whole_images(self.plain.config)
        mask = layer_masks(block, self.plain.config, computed_in, whole_images=whole)
        if missing := [one for one in block.features if one not in self._features]:
            raise HarnessError(
                f"a batch expects cached features of {len(missing)} images that are not cached",
                where=missing[0],
                remedy="--set train.savings.feature_cache=false, and report it: this is a bug in the trainer",
            )
        if not block.features and not block.image_inputs:
            raise HarnessError(
                "a batch reached the model without its images",
                remedy="--set train.workers=0, and report it: this is a bug in the trainer",
            )
        if block.features:
            kept = torch.stack([self._features[one] for one in block.features]).to(self.device)
            embedded = inner.get_input_embeddings()(block.input_ids)
            images = inner.multi_modal_projector(kept.to(embedded.dtype)).to(embedded.dtype)
            places = (block.input_ids == self.plain.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(places, images)
            output = inner.language_model(
                inputs_embeds=embedded, attention_mask=mask, position_ids=block.position_ids, use_cache=False
            )
        else:
            output = inner(
                input_ids=block.input_ids,
                attention_mask=mask,
                position_ids=block.position_ids,
                use_cache=False,
                **{
                    name: value.to(self.plain.dtype) if value.is_floating_point() else value
                    for name, value in block.image_inputs.items()
                },
            )
        return output.last_hidden_state

    def _pixels(self, images: Sequence[ImageRef]) -> Tensor:
        pictures = [image.open() for image in images]
        return picture_inputs(self.processor, pictures)["pixel_values"].to(self.device, self.plain.dtype)

    def _tower(self, pixel_values: Tensor) -> Tensor:
        """The input features of the projector, [n, tokens, width], selected as in the model's own forward."""
        import torch

        config = self.plain.config
        states = self.plain.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
        layers = config.vision_feature_layer
        skip = 1 if config.vision_feature_select_strategy == "default" else 0
        chosen = [states[layer][:, skip:] for layer in ([layers] if isinstance(layers, int) else layers)]
        return torch.cat(chosen, -1)


def token_logp(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token."""
    return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def _logp_and_divergence(logits: Tensor, tokens: Tensor, expected: Tensor) -> Tensor:
    """Log-probability of each token and the divergence from the expected distribution, [n, 2]."""
    import torch

    logs, wanted = logits.log_softmax(-1), expected.log_softmax(-1)
    divergence = (wanted.exp() * (wanted - logs)).sum(-1)
    return torch.stack([logs.gather(-1, tokens[:, None])[:, 0], divergence], -1)


def entropy_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Predictive entropy in nats, independent of the token."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)
