"""Adding what processors of older checkpoints lack from the files next to them, with a note in the log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.models import pretrained
from harness.models.weights import read_object

logger = logging.getLogger(__name__)

_FILES = ("processor_config.json", "preprocessor_config.json")
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "siglip": 0}
"""Number of tokens that a vision tower puts before the patch tokens (CLIP's class token), by its `model_type`."""


def complete(processor: Any, location: str | Path) -> None:
    """Add to a processor, in place, what transformers requires and its files lack.

    LLaVA processors saved before transformers 4.45 lack `patch_size`, `vision_feature_select_strategy` and
    `num_additional_image_tokens`, whose values are in the configuration. Some fine-tuning scripts save the chat template only with the
    tokenizer.

    Raises:
        BadInputError: no file has it; the message names the file and the keys to add.
    """
    added = missing_settings(processor, location)
    for name, value in added.items():
        setattr(processor, name, value)
    taken = [f"{name} ({value}) from config.json" for name, value in added.items()]
    if not getattr(processor, "chat_template", None):
        template = getattr(getattr(processor, "tokenizer", None), "chat_template", None)
        if not template:
            raise BadInputError(
                "the processor has no chat template",
                where=str(location),
                remedy="add chat_template.jinja from the base model",
            )
        processor.chat_template = template
        taken.append("the chat template from the tokenizer")
    if taken:
        logger.info(f"{location}: missing in the processor's files, taken: {', '.join(taken)}")


def missing_settings(processor: Any, location: str | Path) -> dict[str, Any]:
    """The values that a LLaVA processor needs and its files lack, from the configuration.

    Raises:
        BadInputError: the configuration lacks them, too.
    """
    if not hasattr(processor, "patch_size") or not hasattr(processor, "vision_feature_select_strategy"):
        return {}  # processors of other families count their image tokens automatically
    said = _said(location)
    wanted = {
        "patch_size": processor.patch_size is None,
        "vision_feature_select_strategy": processor.vision_feature_select_strategy is None,
        # Without it transformers counts 0, which is wrong for a tower with a class token.
        "num_additional_image_tokens": hasattr(processor, "num_additional_image_tokens")
        and "num_additional_image_tokens" not in said,
    }
    if not any(wanted.values()):
        return {}
    config = pretrained.configuration(_configured_by(location))
    vision = getattr(config, "vision_config", None)
    known = {
        "patch_size": getattr(vision, "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
        "num_additional_image_tokens": _CLASS_TOKENS.get(str(getattr(vision, "model_type", None))),
    }
    if lacking := [name for name, absent in wanted.items() if absent and known[name] is None]:
        raise BadInputError(
            f"the processor does not have {', '.join(lacking)}, nor does config.json",
            where=str(Path(location) / _FILES[0]) if Path(location).is_dir() else f"{_FILES[0]} of {location}",
            remedy=f"add {' and '.join(lacking)} there, with the values that the model was trained with",
        )
    return {name: known[name] for name, absent in wanted.items() if absent}


def _said(location: str | Path) -> dict[str, Any]:
    """The content of the processor's files, which are local or in the hub's cache, because it was loaded."""
    from transformers.utils import cached_file

    content: dict[str, Any] = {}
    for name in reversed(_FILES):
        path = cached_file(
            str(location),
            name,
            local_files_only=True,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            content |= read_object(Path(path), "processor's configuration")
    return content


def _configured_by(location: str | Path) -> str | Path:
    """The location of the model's configuration: for an adapter's folder, that of its base."""
    folder = Path(location)
    if folder.is_dir() and not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        return str(read_object(folder / "adapter_config.json", "adapter configuration").get("base_model_name_or_path"))
    return location
