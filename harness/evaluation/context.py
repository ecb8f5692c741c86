"""Checking that questions fit into a model's context."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.core.errors import BadInputError
from harness.models import PromptLengths, context_length
from harness.serving.base import BackendSettings, Request


def check_context(requests: Iterable[Request], base: str, settings: BackendSettings, processor: Any) -> None:
    """Check that the longest prompt, with its image, fits into the model's context.

    Args:
        requests: at least one.
        base: folder or hub id of the model.
        settings: of the backend, which may limit the context.
        processor: the model's.

    Raises:
        BadInputError: it does not; the message has the numbers.
    """
    given = getattr(settings, "max_model_len", None)
    context = min((length for length in (context_length(base), given) if length), default=None)
    # An image takes more tokens than any question is longer than another.
    longest = max(requests, key=lambda request: (not request.image.absent, len(request.prompt)))
    lengths, size = PromptLengths(processor), None if longest.image.absent else longest.image.size()
    whole, image = lengths.length(longest.prompt, size), 0 if size is None else lengths.image_tokens(size) + 1
    if context is not None and whole >= context:
        raise BadInputError(
            f"the context is too short: {context} tokens, of which the image takes {image} and the question {whole - image}, "
            "which leaves none for the answer",
            where=f"{base}, '{longest.prompt[:60]}'",
            remedy="raise --set backend.max_model_len, or use a model with a longer context"
            if given
            else "use a model with a longer context, or smaller images",
        )
