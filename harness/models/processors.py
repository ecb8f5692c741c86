"""Loading models and processors, and the one way in which a question becomes a prompt, for training and serving alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, shown
from harness.core.files import sha256_json
from harness.models import devices, pretrained
from harness.models.completion import complete
from harness.models.control import refuse_control
from harness.models.four_bits import four_bit_config, keep_trainable
from harness.models.known import known, settings_hashes
from harness.models.servable import loadable


def load_processor(location: str | Path) -> Any:
    """The checkpoint's own processor (tokenizer, image processor, chat template), with what older ones lack from the files next to it.

    Raises:
        BadInputError: there is none, it has no chat template, or what it lacks stands nowhere.
    """
    processor = pretrained.processor(location)
    if not hasattr(processor, "image_processor"):
        raise BadInputError(
            "this is a text-only model: its processor accepts no images",
            where=str(location),
            remedy="choose a vision-language model: harness list models",
        )
    if processor.tokenizer.eos_token_id is None:
        raise BadInputError(
            "the tokenizer has no end token",
            where=f"eos_token of tokenizer_config.json in {location}",
            remedy="copy the base model's tokenizer files",
        )
    complete(processor, location)
    with pretrained.reading(
        location, "the chat template cannot be used", remedy="copy the base model's chat_template.jinja"
    ):
        prompt_text(processor, "probe")
    return processor


def load_model(location: str | Path, dtype: str = "auto", device: str | None = None, *, four_bits: bool = False) -> Any:
    """The model in evaluation mode, through transformers' Auto class for image-and-text models; every weight is from its files.

    Args:
        location: folder or hub id of full weights.
        dtype: "auto" (as stored), "float32", "bfloat16", "float16".
        device: e.g. "cuda"; None is a GPU where there is one, else the CPU.
        four_bits: hold the language model's linear layers in 4 bits (`four_bit_config`), and compute in `dtype`.

    Raises:
        BadInputError: it is not such a checkpoint, or its files leave a weight out.
        HarnessError: it is on a hub that cannot be reached, or what holds it in 4 bits is not installed.
    """
    pretrained.quiet_transformers()
    import torch

    device = device or devices.usual()
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if Path(location).is_dir():
        location = loadable(location)
    if four_bits:  # a quantised model is put where it stays while it is loaded
        options |= {"quantization_config": four_bit_config(location, dtype), "device_map": {"": device}}
    model = pretrained.weights("AutoModelForImageTextToText", location, **options)
    _check_ends(model, location)
    if four_bits:
        keep_trainable(model)
        return model.eval()
    return model.to(device).eval()


def _check_ends(model: Any, location: str | Path) -> None:
    ends = model.generation_config.eos_token_id
    if not all(
        isinstance(one, int) for one in (ends if isinstance(ends, list) else [ends] if ends is not None else [])
    ):
        raise BadInputError(
            f"the end tokens are not token ids: {shown(ends)}",
            where=f"eos_token_id of generation_config.json in {location}",
            remedy="copy the base model's file, or remove it",
        )


def prompt_text(processor: Any, prompt: str) -> str:
    """One user turn with one image and this prompt, in the family's own chat template, ready for the answer.

    Raises:
        BadInputError: the prompt holds a control token (`harness.models.control`).
    """
    refuse_control({"the question": prompt}, processor)
    return template_text(processor, prompt)


def template_text(processor: Any, prompt: str) -> str:
    """`prompt_text` of a prompt that is only counted: a control token in it is taken as the tokenizer takes it."""
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    text: str = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    return text


def text_options(processor: Any) -> dict[str, Any]:
    """How a text in the chat template becomes ids, for a tokenizer, a processor and vLLM alike; whoever encodes such a text passes it.

    Some templates write the tokenizer's first token themselves (Gemma 3, Mistral 3, Llama 4, Pixtral); the tokenizer would write it a
    second time. It is the rule of transformers' `apply_chat_template(tokenize=True)`, which is what the checkpoints were trained with.
    """
    first = processor.tokenizer.bos_token
    written = first is not None and prompt_text(processor, "probe").startswith(first)
    return {"add_special_tokens": False} if written else {}


def prompt_inputs(processor: Any, prompt: str, image: Any) -> dict[str, Any]:
    """What the model takes of a question about an upright RGB image: [1, length] `input_ids`, image tokens expanded, pixel values, ..."""
    return batch_inputs(processor, [prompt], [image])


def batch_inputs(processor: Any, prompts: Sequence[str], images: Sequence[Any], **options: Any) -> dict[str, Any]:
    """`prompt_inputs` of several questions with an image each, [prompts, length]; `options` (padding) are for the processor."""
    # One list of images a text: SmolVLM's takes a plain list for the images of one text.
    return dict(
        processor(
            text=[prompt_text(processor, prompt) for prompt in prompts],
            images=[[image] for image in images],
            return_tensors="pt",
            **text_options(processor),
            **options,
        )
    )


def own_prompt_ids(processor: Any, prompt: str, image: Any) -> list[int]:
    """The prompt's ids by the processor's own `apply_chat_template`, which nothing of ours is part of: what all others are held to."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
    turns = [{"role": "user", "content": content}]
    found = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
    ids = found["input_ids"]
    return [int(token) for token in (ids if isinstance(ids[0], int) else ids[0])]


def template_with_first_token(processor: Any) -> str | None:
    """A chat template that writes what the tokenizer puts before a text; None where the processor's own needs nothing added.

    OpenAI-compatible servers let the template alone write special tokens, so one that leaves the first to the tokenizer, as LLaVA-1.5's
    does, would be served without it.
    """
    text = prompt_text(processor, "probe")
    whole = processor.tokenizer(text, **text_options(processor))["input_ids"]
    bare = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    added = processor.tokenizer.convert_ids_to_tokens(whole[: len(whole) - len(bare)])
    if not added or whole[len(added) :] != bare:  # a token behind the text is none of the prompt's beginning
        return None
    return f"{{{{ {json.dumps(''.join(added))} }}}}{processor.chat_template}"


def template_hash(processor: Any) -> str:
    """SHA-256 over all that turns a prompt and an image into token ids: template, tokenizer, image processor settings."""
    return sha256_json(
        {
            "template": processor.chat_template,
            "probe": prompt_text(processor, "probe"),
            "vocabulary": sorted(processor.tokenizer.get_vocab().items()),
            "image": processor.image_processor.to_dict(),
            **({"options": options} if (options := text_options(processor)) else {}),
        }
    )


def template_hash_of(location: str | Path) -> str:
    """`template_hash` of a checkpoint's processor; of a folder whose files it was taken of before, without loading it.

    Raises:
        BadInputError: it has no processor, or one that does not do.
    """
    if not (folder := Path(location)).is_dir():
        return template_hash(load_processor(location))
    return known("template", settings_hashes(folder), lambda: template_hash(load_processor(folder)))
