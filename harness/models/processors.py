"""Loading models and processors, and the one way in which a question becomes a prompt, for training and serving alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInputError, HarnessError
from harness.files import sha256_json
from harness.models import devices, torchvision_shim
from harness.models.four_bits import four_bit_config, keep_trainable
from harness.models.known import known, settings_hashes


def quiet_transformers() -> None:
    """Import transformers the way the whole harness does: shim applied, its own bars and notices off (ours are shown instead)."""
    torchvision_shim.apply()
    from transformers.utils import logging as messages

    messages.disable_progress_bar()
    messages.set_verbosity_error()
    # PEFT imports bitsandbytes wherever it is installed, and that warns of a kernel for serving in 4 bits, which nothing here does.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def load_processor(location: str | Path) -> Any:
    """The checkpoint's own processor (tokenizer, image processor, chat template).

    Raises:
        BadInputError: there is none, or it has no chat template.
    """
    quiet_transformers()
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"no processor could be loaded: {_first_line(error).partition('. If you were')[0]}",
            where=str(location),
            remedy="copy the base model's processor files into the folder"
            if Path(location).is_dir()
            else "the model hub must be reachable, or the model in its cache (then HF_HUB_OFFLINE=1); or name a folder",
        ) from error
    if not hasattr(processor, "image_processor"):
        raise BadInputError("this is a text-only model: its processor takes no images", where=str(location))
    if not getattr(processor, "chat_template", None):
        raise BadInputError(
            "the processor has no chat template",
            where=str(location),
            remedy="add chat_template.jinja from the base model",
        )
    return processor


def load_model(location: str | Path, dtype: str = "auto", device: str | None = None, *, four_bits: bool = False) -> Any:
    """The model in evaluation mode, through transformers' Auto class for image-and-text models.

    Args:
        location: folder or hub id of full weights.
        dtype: "auto" (as stored), "float32", "bfloat16", "float16".
        device: e.g. "cuda"; None is a GPU where there is one, else the CPU.
        four_bits: hold the language model's linear layers in 4 bits (`four_bit_config`), and compute in `dtype`.

    Raises:
        BadInputError: it is not such a checkpoint.
        HarnessError: it is on a hub that cannot be reached, or what holds it in 4 bits is not installed.
    """
    quiet_transformers()
    import torch
    from transformers import AutoModelForImageTextToText

    device = device or devices.usual()
    # A quantised model is put where it stays while it is loaded.
    quantised = (
        {"quantization_config": four_bit_config(location, dtype), "device_map": {"": device}} if four_bits else {}
    )
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            location, dtype=dtype if dtype == "auto" else getattr(torch, dtype), trust_remote_code=False, **quantised
        )
    except OSError as error:
        if Path(location).is_dir():
            raise BadInputError(
                f"the checkpoint cannot be loaded: {_first_line(error)}", where=str(location)
            ) from error
        raise HarnessError(
            f"the model could not be had: {_first_line(error)}",
            where=str(location),
            remedy="check the name and the network, or give a folder that holds it",
        ) from error
    except ValueError as error:
        raise BadInputError(f"the checkpoint cannot be loaded: {_first_line(error)}", where=str(location)) from error
    if four_bits:
        keep_trainable(model)
        return model.eval()
    return model.to(device).eval()


def prompt_text(processor: Any, prompt: str) -> str:
    """One user turn with one image and this prompt, in the family's own chat template, ready for the answer."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
