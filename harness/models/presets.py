"""The official way of LLaVA-1.5: `official:MODEL` is a model with the image processing and the conversation of its authors' code.

The converted checkpoints on the hub crop an image to its centre and write no system sentence. The authors' code (LLaVA,
`llava/mm_utils.py`, `expand2square`, with `image_aspect_ratio: pad`; and `llava/conversation.py`, `conv_vicuna_v1`) pads an image to a
square with the mean colour, so that nothing is cut off, and begins with Vicuna's system sentence. The papers' figures for LLaVA-1.5 come
from that code.

A preset is a folder that links to the weights and has its own processor files. Training, vLLM and transformers read it like any other
checkpoint, its template and image settings are a part of every cache's key, and `preset.json` makes its fingerprint differ.

Rounding: the authors resize with Pillow, transformers with torchvision, whose pixels differ by a level or two of 255.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, shown
from harness.core.files import atomic_folder, read_json, sha256_json, write_json
from harness.core.paths import cache_folder
from harness.models.checkpoints import PRESET, fingerprint, is_gone
from harness.models.processors import load_processor
from harness.remote import hub

logger = logging.getLogger(__name__)

PREFIX = "official:"
FAMILY = "llava"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TEMPLATE = (
    '{{ "' + SYSTEM + ' " }}'
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "USER: "
    "{%- if message['content'] is string -%}{{ ' ' + message['content'] }}{%- else -%}"
    "{{ ' ' }}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{{ ' ' }}"
    "{%- else -%}"
    "ASSISTANT: "
    "{%- if message['content'] is string -%}{{ ' ' + message['content'] }}{%- else -%}"
    "{{ ' ' }}{%- for part in message['content'] -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}</s>"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}"
)
"""`conv_vicuna_v1`: "SYSTEM USER: <image>\\nQUESTION ASSISTANT: ANSWER</s>"."""
_VERSION = 1
_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "config.json", "generation_config.json")
_NEEDED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


def official(location: str) -> Path:
    """The folder of a LLaVA-1.5 model with its authors' processing, made once in the cache.

    Args:
        location: folder or hub id of the full weights.

    Raises:
        BadInputError: it is another model.
        HarnessError: it cannot be downloaded.
    """
    folder = Path(location) if Path(location).is_dir() else hub.download(location, "model", _NEEDED)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if config.get("model_type") != FAMILY:
        raise BadInputError(
            f"'{PREFIX}' is the way of LLaVA-1.5, and this is a model of the type {shown(config.get('model_type'))}",
            where=location,
            remedy=f"leave '{PREFIX}' out",
        )
    about: dict[str, Any] = {
        "preset": "llava-1.5 official",
        "version": _VERSION,
        "weights": fingerprint(folder),
        "template": TEMPLATE,
        "image": "padded to a square with the mean colour",
    }
    target = cache_folder() / "presets" / sha256_json([about, str(folder.resolve())])[:32]
    if not (target / PRESET).is_file() or is_lost(str(target)):
        logger.info(f"{location}: with the processing of LLaVA's authors, in {target}")
        with atomic_folder(target) as made:
            _write(folder, made)
            write_json(made / PRESET, about)
    return target


def is_lost(location: str) -> bool:
    """Whether a preset's folder is gone, or the weights that it links to are."""
    folder = Path(location)
    if (folder / PRESET).is_file():
        return not all(path.exists() for path in folder.iterdir())
    return is_gone(location)


def _write(folder: Path, target: Path) -> None:
    processor = load_processor(folder)
    processor.chat_template = TEMPLATE
    processor.save_pretrained(target)
    written = [target / "processor_config.json", target / "preprocessor_config.json"]
    for path in (path for path in written if path.is_file()):
        content = read_json(path)
        image = content.get("image_processor", content)
        if "image_mean" in image:
            image |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
            write_json(path, content)
    for pattern in _WEIGHTS:
        for path in folder.glob(pattern):
            if not (target / path.name).exists():
                os.symlink(path.resolve(), target / path.name)  # noqa: PTH211 (to the file, not to a link of the hub's cache)
