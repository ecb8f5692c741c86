"""The fallback for machines without vLLM: transformers' own generation, batched with left padding. The provenance records its use."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.core.errors import HarnessError
from harness.core.packages import is_installed
from harness.models import (
    batch_inputs,
    control_in,
    first_tokens,
    load_model,
    load_processor,
    prompt_inputs,
    with_adapters,
)
from harness.models.generation import end_tokens, only_ends, with_tokens
from harness.serving.base import Backend, BackendSettings, Completion, Request, TokenDetails, chosen, refusal
from harness.serving.beginnings import Beginnings
from harness.serving.draws import options_of


class TransformersSettings(BackendSettings):
    """Settings of the transformers backend."""

    batch_size: int = Field(16, ge=1, description="questions that are answered together")


class TransformersBackend(Backend):
    """Generates answers with transformers: slower than vLLM, with the packages that training needs anyway."""

    name = "transformers"
    Settings = TransformersSettings
    packages = ("torch", "transformers", "peft")
    gives_details = True
    gives_likelihoods = True
    continues = True
    settings: TransformersSettings

    def __init__(
        self, base: str | Path, adapters: Mapping[str, Path] | None = None, settings: BackendSettings | None = None
    ) -> None:
        super().__init__(base, adapters, settings)
        self.model: Any = None

    @classmethod
    def missing(cls) -> str | None:
        """See `Backend.missing`."""
        absent = [module for module in cls.packages if not is_installed(module)]
        return f"the package '{absent[0]}' is not installed (extra: train)" if absent else None

    def start(self) -> None:
        """Load the base and its adapters."""
        self.processor = load_processor(self.base)
        self.processor.tokenizer.padding_side = "left"
        if self.processor.tokenizer.pad_token_id is None:
            self.processor.tokenizer.pad_token = self.processor.tokenizer.eos_token
        self.model = load_model(self.base, self.settings.dtype)
        self._ends = set(end_tokens(self.model, self.processor.tokenizer))
        # Before the adapters: PEFT's wrapper generates with the configuration of the model inside it.
        self.model.generation_config = only_ends(self.model, self.processor.tokenizer)
        if self.adapters:
            # PEFT's names are those of torch modules, which have no dots.
            self._names = {name: f"adapter{number}" for number, name in enumerate(self.adapters)}
            folders = {self._names[name]: folder for name, folder in self.adapters.items()}
            self.model = with_adapters(self.model, folders)
            self._check_adapters()

    def _check_adapters(self) -> None:
        """Refuse an adapter that does not change a probe's log-probabilities: it is not applied, or was not trained.

        Raises:
            HarnessError: an adapter changes nothing.
        """
        import torch
        from PIL import Image

        picture = Image.effect_noise((64, 64), 80).convert("RGB")
        inputs = self._on_device(prompt_inputs(self.processor, "Describe this image.", picture))
        logits = {}
        with torch.no_grad():
            for target in ("base", *self.adapters):
                with self._selected(target):
                    logits[target] = self.model(**inputs).logits
        for name in self.adapters:
            if torch.equal(logits[name], logits["base"]):
                raise HarnessError(
                    f"the adapter '{name}' changes nothing: it was not trained, or its weights' names do not match this model",
                    where=str(self.adapters[name]),
                    remedy="evaluate the base itself (--base), or align again",
                )

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """See `Backend.generate`. Adjacent requests with the same target, sampling and choices are batched, with images or without."""
        for (target, sampling, choices, _, continued, stop), group in itertools.groupby(
            requests,
            key=lambda one: (one.target, one.sampling, one.choices, one.image.absent, one.beginning, one.stop),
        ):
            # Answers that are continued are so alone: their beginnings are of different lengths.
            for block in _blocks(group, 1 if continued or stop else self.settings.batch_size):
                for request in block:
                    if token := control_in(request.prompt, self.processor):
                        yield refusal(request, token)
                if readable := [one for one in block if control_in(one.prompt, self.processor) is None]:
                    yield from self._compare(target, readable) if choices else self._batch(target, sampling, readable)

    def _inputs(self, block: list[Request]) -> dict[str, Any]:
        """The inputs of a block of questions, with padding on the left."""
        prompts = [request.prompt for request in block]
        pictures = None if block[0].image.absent else [request.image.open() for request in block]
        return self._on_device(batch_inputs(self.processor, prompts, pictures, padding=True))

    def _compare(self, target: str, block: list[Request]) -> Iterator[Completion]:
        """The likeliest of each request's choices. `generate` places the left padding, which a plain forward pass would count."""
        import torch

        inputs, tokens = self._inputs(block), first_tokens(self.processor, block[0].choices)
        options: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False}
        with torch.no_grad(), self._selected(target):
            made = self.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
        likelihoods = made.logits[0].float().log_softmax(-1)[:, tokens].tolist()
        for request, row, mask in zip(block, likelihoods, inputs["attention_mask"], strict=True):
            yield chosen(request, row, int(mask.sum()))

    def _batch(self, target: str, sampling: Any, block: list[Request]) -> Iterator[Completion]:
        import torch

        inputs = self._inputs(block)
        beginning, stop = block[0].beginning, block[0].stop
        if beginning:
            inputs = with_tokens(inputs, self._beginnings.ids(beginning))
        options: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, **options_of(sampling, block)}
        if stop:
            options |= {"stop_strings": list(stop), "tokenizer": self.processor.tokenizer}
        with torch.no_grad(), self._selected(target):
            made = self.model.generate(
                **inputs,
                **options,
                return_dict_in_generate=True,
                output_logits=any(request.details for request in block),
            )
        output = made.sequences
        length = inputs["input_ids"].shape[1]
        tokenizer = self.processor.tokenizer
        for place, (request, row, mask) in enumerate(
            zip(block, output[:, length:].tolist(), inputs["attention_mask"], strict=True)
        ):
            end = next((position for position, token in enumerate(row) if token in self._ends), None)
            tokens = row[:end] if end is not None else row
            said = row[: len(tokens) + (end is not None)]
            # An answer that ends at a text has no end token, and is shorter than it may be.
            ended = end is not None or (bool(stop) and len(row) < sampling.max_new_tokens)
            yield Completion(
                request.id,
                target,
                self._beginnings.whole(beginning, tokens)
                if beginning
                else tokenizer.decode(tokens, skip_special_tokens=True).strip(),
                "stop" if ended else "length",
                int(mask.sum()),
                len(said),
                details=TokenDetails(
                    tuple(inputs["input_ids"][place][mask.bool()].tolist()),
                    tuple(said),
                    tuple(
                        float(step[place].float().log_softmax(-1)[token])
                        for step, token in zip(made.logits, said, strict=False)  # other rows of the batch may be longer
                    ),
                )
                if request.details
                else None,
            )

    @functools.cached_property
    def _beginnings(self) -> Beginnings:
        return Beginnings(self.processor)

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    def _selected(self, target: str) -> Any:
        """The context in which the target's adapter, or none, is active."""
        import contextlib

        if not self.adapters:
            return contextlib.nullcontext()
        if target == "base":
            return self.model.disable_adapter()
        if target not in self.adapters:
            raise HarnessError(f"no checkpoint is served under the name '{target}'")
        self.model.set_adapter(self._names[target])
        return contextlib.nullcontext()

    def close(self) -> None:
        """Drop the model."""
        self.model = None

    def provenance(self) -> dict[str, Any]:
        """Version, device and dtype, and that it is the fallback."""
        import transformers

        return {
            "backend": self.name,
            "note": "fallback: vLLM was not used",
            "distribution": f"transformers {transformers.__version__}",
            "device": str(self.model.device) if self.model is not None else None,
            "dtype": str(self.model.dtype).removeprefix("torch.") if self.model is not None else None,
            "settings": self.settings.model_dump(),
        }


def _blocks(rows: Iterable[Request], size: int) -> Iterator[list[Request]]:
    iterator = iter(rows)
    while block := list(itertools.islice(iterator, size)):
        yield block
