"""A setting that is an endpoint's URL. This is a separate module because every command imports `redaction`, which does not need
pydantic."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

from harness.core.redaction import without_credentials


def _noted(url: str) -> str:
    without_credentials(url)  # remembers the URL's secrets
    return url


EndpointUrl = Annotated[str, AfterValidator(_noted), PlainSerializer(without_credentials, return_type=str)]
"""A setting that is a URL; it is always written without credentials."""
