"""A setting that is an endpoint's URL. A module of its own: `redaction`, which every command imports, needs no pydantic."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

from harness.core.redaction import without_credentials


def _noted(url: str) -> str:
    without_credentials(url)  # remembers the secrets in it
    return url


EndpointUrl = Annotated[str, AfterValidator(_noted), PlainSerializer(without_credentials, return_type=str)]
"""A setting that is a URL: whatever writes the settings writes it without credentials."""
