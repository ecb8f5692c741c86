"""Loading models and processors, and turning a question into a prompt, in the same way for training and serving."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, shown
from harness.core.files import sha256_json
from harness.core.types import Turn
from harness.models import devices, pretrained
from harness.models.completion import complete
from harness.models.control import refuse_control
from harness.models.four_bits import four_bit_config, keep_trainable
from harness.models.known import known, settings_hashes
from harness.models.messages import messages_of
from harness.models.servable import loadable


def load_processor(location: str | Path) -> Any:
    """The checkpoint's own processor (tokenizer, image processor, chat template); what older ones lack is taken from the files next to
    it.

    Raises:
        BadInputError: there is none, it has no chat template, or no file has what it lacks.
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
    """The model in evaluation mode, through transformers' Auto class for image-and-text models; every weight must be in its files.

    Args:
        location: folder or hub id of full weights.
        dtype: "auto" (as stored), "float32", "bfloat16", "float16".
        device: e.g. "cuda"; None: a GPU if there is one, else the CPU.
        four_bits: hold the language model's linear layers in 4 bits (`four_bit_config`), and compute in `dtype`.

    Raises:
        BadInputError: it is not such a checkpoint, or its files lack a weight.
        HarnessError: it is on a hub that cannot be reached, or the package for 4 bits is not installed.
    """
    pretrained.quiet_transformers()
    import torch

    device = device or devices.usual()
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if Path(location).is_dir():
        location = loadable(location)
    if four_bits:  # a quantised model is loaded directly onto its device
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


def prompt_text(processor: Any, prompt: str, *, image: bool = True, history: Sequence[Turn] = ()) -> str:
    """A conversation with one image (or none) that ends with this prompt, in the family's own chat template, ready for the answer.

    Raises:
        BadInputError: a text holds a control token (`harness.models.control`), or the template does not write a turn of the history.
    """
    refuse_control({"the question": prompt, **{f"the {turn.role} turn": turn.text for turn in history}}, processor)
    return template_text(processor, prompt, image=image, history=history)


def template_text(processor: Any, prompt: str, *, image: bool = True, history: Sequence[Turn] = ()) -> str:
    """`prompt_text` without the check for control tokens, for prompts whose tokens are only counted."""
    turns = messages_of(processor, prompt, {"type": "image"} if image else None, history)
    text: str = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return text


def text_options(processor: Any) -> dict[str, Any]:
    """Arguments for encoding a text in the chat template, for a tokenizer, a processor and vLLM alike; every caller that encodes such a
    text passes them.

    Some templates write the tokenizer's first token themselves (Gemma 3, Mistral 3, Llama 4, Pixtral); the tokenizer would add it a
    second time. This is the rule of transformers' `apply_chat_template(tokenize=True)`, which is what the checkpoints were trained with.
    """
    first = processor.tokenizer.bos_token
    written = first is not None and prompt_text(processor, "probe").startswith(first)
    return {"add_special_tokens": False} if written else {}


def prompt_inputs(processor: Any, prompt: str, image: Any, history: Sequence[Turn] = ()) -> dict[str, Any]:
    """The model's inputs for a question about an upright RGB image: [1, length] `input_ids`, image tokens expanded, pixel values, ..."""
    return batch_inputs(processor, [prompt], [image], [history])


def batch_inputs(
    processor: Any,
    prompts: Sequence[str],
    images: Sequence[Any] | None,
    histories: Sequence[Sequence[Turn]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`prompt_inputs` of several questions with an image each (None: without), [prompts, length]; `options` are for the processor."""
    histories = histories or [()] * len(prompts)
    # One list of images per text: SmolVLM's processor takes a plain list as the images of one text.
    return dict(
        processor(
            text=[
                prompt_text(processor, prompt, image=images is not None, history=history)
                for prompt, history in zip(prompts, histories, strict=True)
            ],
            **({} if images is None else {"images": [[image] for image in images]}),
            return_tensors="pt",
            **text_options(processor),
            **options,
        )
    )


def picture_inputs(processor: Any, pictures: Sequence[Any]) -> dict[str, Any]:
    """The tensors that a processor makes of upright RGB images, without a text; the list counts as one row's images.

    The image processor alone would not do: Mistral 3's processor tells it the size of merged patches, InternVL's to cut tiles.
    `processor(images=...)` would not either: some make a text of their own then, or demand one.
    """
    import torch

    options = processor._merge_kwargs(
        processor.valid_processor_kwargs, tokenizer_init_kwargs=processor.tokenizer.init_kwargs, return_tensors="pt"
    )
    inputs, _ = processor._process_images(list(pictures), **options["images_kwargs"])
    unused = getattr(processor, "unused_input_names", ())  # only used for the prompt's ids
    return {name: value for name, value in inputs.items() if torch.is_tensor(value) and name not in unused}


def own_prompt_ids(processor: Any, prompt: str, image: Any) -> list[int]:
    """The prompt's ids by the processor's own `apply_chat_template`, without any code of ours: the reference for all others."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
    turns = [{"role": "user", "content": content}]
    found = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
    ids = found["input_ids"]
    return [int(token) for token in (ids if isinstance(ids[0], int) else ids[0])]


def template_with_first_token(processor: Any) -> str | None:
    """A chat template that writes the token that the tokenizer puts before a text; None if the processor's own template needs no change.

    OpenAI-compatible servers take special tokens only from the template, so a template that leaves the first token to the tokenizer, as
    LLaVA-1.5's does, would be served without it.
    """
    text = prompt_text(processor, "probe")
    whole = processor.tokenizer(text, **text_options(processor))["input_ids"]
    bare = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    added = processor.tokenizer.convert_ids_to_tokens(whole[: len(whole) - len(bare)])
    if not added or whole[len(added) :] != bare:  # a token after the text is not part of the prompt's beginning
        return None
    return f"{{{{ {json.dumps(''.join(added))} }}}}{processor.chat_template}"


def template_hash(processor: Any) -> str:
    """SHA-256 over everything that turns a prompt and an image into token ids: template, tokenizer, image processor settings."""
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
    """`template_hash` of a checkpoint's processor; for a folder with unchanged files, from the cache.

    Raises:
        BadInputError: it has no usable processor.
    """
    if not (folder := Path(location)).is_dir():
        return template_hash(load_processor(location))
    return known("template", settings_hashes(folder), lambda: template_hash(load_processor(folder)))
