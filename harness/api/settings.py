"""Settings of the functions of `harness.api`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nested(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings by group, from settings whose keys may be dotted.

    Raises:
        BadInputError: a key is both a value and a group.
    """
    from harness.core.config import merged

    layers = []
    for key, value in (settings or {}).items():
        plain = nested(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            plain = {part: plain}
        layers.append(plain)
    return merged(*layers)  # type: ignore[arg-type]
