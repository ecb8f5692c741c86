"""The model that is trained, as the trainer sees it: hidden states of a batch, and what is kept of its images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aligners.base import BranchLogps
from aligners.branches import Batch, gather_logps
from harness.config import LoraSettings, Savings
from harness.progress import console, progress
from harness.types import ImageRef

if TYPE_CHECKING:
    from torch import Tensor

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Full paths, so that no adapter lands in the vision tower, where serving would ignore it."""
FEATURE_BUDGET = 4 * 2**30
"""Bytes of tower features kept in memory; above it they are computed in every step."""
_KEEPS_FEATURES = frozenset({"llava"})
"""Families whose tower gives one block of features an image, whatever its size."""


class Policy:
    """A model with its processor; tower frozen, features kept where the family allows it.

    Attributes:
        model: the transformers model, wrapped by PEFT when it is tuned by LoRA.
    """

    def __init__(
        self, model: Any, processor: Any, tuning: str, lora: LoraSettings, savings: Savings, bfloat16: bool
    ) -> None:
        self.plain, self.processor, self.savings, self.bfloat16 = model, processor, savings, bfloat16
        self.model = self._tunable(model, tuning, lora)
        self._features: dict[int, Tensor] = {}

    @staticmethod
    def _tunable(model: Any, tuning: str, lora: LoraSettings) -> Any:
        model.requires_grad_(False)
        if tuning == "full":
            for name, value in model.named_parameters():
                value.requires_grad_("vision_tower" not in name)
            return model
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=LORA_TARGETS,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)

    @property
    def device(self) -> Any:
        """Where the model is."""
        return next(self.plain.parameters()).device

    def keep_features(self, images: Iterable[ImageRef]) -> str:
        """Compute the tower's features once an image, if the family and the memory allow it; says what was done."""
        import torch

        wanted = list({id(image): image for image in images}.values())
        family = self.plain.config.model_type
        if not self.savings.feature_cache:
            return "off"
        if family not in _KEEPS_FEATURES:
            notice = f"not for {family}: images are encoded in every step"
            console.print(f"[dim]feature cache: {notice}[/dim]")
            return notice
        with progress("encoding images once", len(wanted)) as advance, torch.no_grad():
            for start in range(0, len(wanted), 128):
                block = wanted[start : start + 128]
                features = self._tower(self._pixels(block))
                if features[0].nbytes * len(wanted) > FEATURE_BUDGET:
                    notice = f"{features[0].nbytes * len(wanted) / 2**30:.1f} GB of features: images are encoded in every step"
                    console.print(f"[dim]feature cache: {notice}[/dim]")
                    return notice
                # The references keep their images alive, so an id stands for one image as long as the cache lives.
                self._features.update({id(image): row for image, row in zip(block, features.cpu(), strict=True)})
                advance(len(block))
        self._kept = wanted
        return f"{len(wanted)} images"

    def logps(self, batch: Batch) -> dict[str, BranchLogps]:
        """Log-probabilities of all branches of a batch, with gradient where gradients are on."""
        return gather_logps(
            self.hidden(batch), self.plain.get_output_embeddings(), batch.layouts, self.savings.chunked_logits
        )

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states [rows, length, width]."""
        inner = self.plain.model
        mask = self._additive(batch.allowed)
        if all(id(image) in self._features for image in batch.images):
            import torch

            kept = torch.stack([self._features[id(image)] for image in batch.images]).to(self.device)
            embedded = inner.get_input_embeddings()(batch.input_ids)
            images = inner.multi_modal_projector(kept.to(embedded.dtype)).to(embedded.dtype)
            places = (batch.input_ids == self.plain.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(places, images)
            output = inner.language_model(
                inputs_embeds=embedded, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
            )
        else:
            output = inner(
                input_ids=batch.input_ids,
                attention_mask=mask,
                position_ids=batch.position_ids,
                use_cache=False,
                **self._image_inputs(batch.images),
            )
        return output.last_hidden_state

    def _additive(self, allowed: Tensor) -> Tensor:
        """0 where a position may look and the type's lowest value elsewhere: understood by every attention kernel."""
        import torch

        dtype = torch.bfloat16 if self.bfloat16 else self.plain.dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
            ~allowed, torch.finfo(dtype).min
        )

    def _pixels(self, images: Sequence[ImageRef]) -> Tensor:
        pictures = [image.open() for image in images]
        values = self.processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        return values.to(self.device, self.plain.dtype)

    def _image_inputs(self, images: Sequence[ImageRef]) -> dict[str, Any]:
        encoded = self.processor.image_processor(images=[image.open() for image in images], return_tensors="pt")
        return {
            name: value.to(self.device, self.plain.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in encoded.items()
        }

    def _tower(self, pixel_values: Tensor) -> Tensor:
        """The features that the projector takes, [n, tokens, width], as the model's own forward selects them."""
        import torch

        config = self.plain.config
        states = self.plain.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
        layers = config.vision_feature_layer
        skip = 1 if config.vision_feature_select_strategy == "default" else 0
        chosen = [states[layer][:, skip:] for layer in ([layers] if isinstance(layers, int) else layers)]
        return torch.cat(chosen, -1)
