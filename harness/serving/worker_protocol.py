"""The protocol between the harness and its engine process: one JSON object per line, over the child's standard input and output.

Images are sent as paths, or as base64 without a file. Nothing is pickled.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.core.types import NO_IMAGE, ImageRef
from harness.serving.base import Completion, Request, TokenDetails

WINDOW_IMAGES = 512
"""Number of images that both sides remember; an older one is sent again, which is rare, because requests of one image are adjacent."""


def request_to_json(request: Request, image_key: str) -> dict[str, Any]:
    """Encode a request; the image is sent once, under its key."""
    return {
        "id": request.id,
        "target": request.target,
        "prompt": request.prompt,
        "image": image_key,
        "sampling": request.sampling.model_dump(),
        "details": request.details,
        "choices": request.choices,
        "beginning": request.beginning,
        "stop": request.stop,
    }


def image_to_json(image: ImageRef) -> dict[str, str]:
    """Encode an image by path or by content; {} for a question without an image."""
    if image.absent:
        return {}
    if image.path is not None:
        return {"path": str(Path(image.path).resolve()), "name": image.name}
    return {"base64": base64.b64encode(image.read()).decode(), "name": image.name}


def image_from_json(value: dict[str, str]) -> ImageRef:
    """Decode an image."""
    if not value:
        return NO_IMAGE
    if "path" in value:
        return ImageRef(path=Path(value["path"]), name=value["name"])
    return ImageRef(data=base64.b64decode(value["base64"]), name=value["name"])


def bad_input_to_json(error: BadInputError) -> dict[str, Any]:
    """Encode an error of the user's input, after which the engine ends."""
    return {"bad_input": {"problem": error.problem, "where": error.where, "remedy": error.remedy}}


def bad_input_from_json(value: dict[str, Any]) -> BadInputError | None:
    """Decode such an error; None if the message is another one."""
    return BadInputError(**value["bad_input"]) if "bad_input" in value else None


def completion_from_json(value: dict[str, Any]) -> Completion:
    """An answer."""
    details, likelihoods = value.get("details"), value.get("likelihoods")
    return Completion(
        id=value["id"],
        target=value["target"],
        text=value["text"],
        finish_reason=value["finish_reason"],
        prompt_tokens=value["prompt_tokens"],
        completion_tokens=value["completion_tokens"],
        refused=value.get("refused"),
        details=TokenDetails(**{name: tuple(found) for name, found in details.items()}) if details else None,
        likelihoods=None if likelihoods is None else tuple(likelihoods),
    )
