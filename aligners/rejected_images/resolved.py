"""What rejected images depend on beyond their settings: the rule for keywords."""

from __future__ import annotations

from typing import Any

from aligners.rejected_images.keywords import KEYWORD_RULE
from aligners.rejected_images.settings import ImagePreferenceSettings


def resolved_facts(settings: ImagePreferenceSettings) -> dict[str, Any]:
    """The key `resolved` of a set's configuration, JSON-able; nothing if the settings say everything.

    Args:
        settings: how the images are made; `regions` must not be "auto".
    """
    if settings.how.where != "keywords":  # no keyword and no model is used: sets of earlier versions stay valid
        return {}
    return {"resolved": {"keyword_rule": KEYWORD_RULE}}
