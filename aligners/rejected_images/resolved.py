"""What rejected images depend on beyond their settings: versions and contents of what finds keywords and regions on this machine.

A package may be upgraded and a folder replaced under the same name, and the data type of a model may depend on the machine. Without these
facts, a set in the cache would be used although other images would be made now.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from aligners.rejected_images.detectors import Pretrained
from aligners.rejected_images.keywords import KEYWORD_RULE
from aligners.rejected_images.regions import MODELS
from aligners.rejected_images.settings import ImagePreferenceSettings
from harness.models.known import folder_hash


def resolved_facts(settings: ImagePreferenceSettings) -> dict[str, Any]:
    """The key `pipeline_and_models` of a set's configuration, JSON-able; nothing if the settings say everything. No model is loaded.

    Args:
        settings: how the images are made; `regions` must not be "auto".
    """
    if settings.how.where != "keywords":  # no keyword and no model is used: sets of earlier versions stay valid
        return {}
    facts = {"keyword_rule": KEYWORD_RULE, "pipeline": _pipeline_facts(settings.pipeline)}
    for model in MODELS[settings.regions]:
        if found := _model_facts(model, settings):
            facts[model.role] = found
    return {"pipeline_and_models": facts}


def _pipeline_facts(name: str) -> dict[str, str]:
    """Versions of spaCy and the pipeline, or the hash of its folder, in the order in which spaCy looks for it."""
    facts = {"spacy": importlib.metadata.version("spacy")}
    package = "spacy-lookups-data" if name == "blank" else name  # the table of lemmas of `blank`
    try:
        return facts | {package: importlib.metadata.version(package)}
    except (importlib.metadata.PackageNotFoundError, ValueError):  # ValueError: no name of a package
        return facts | _contents(name)


def _model_facts(model: type[Pretrained], settings: ImagePreferenceSettings) -> dict[str, str]:
    """The hash of a model's folder, and its data type if that is neither float32 nor said by the settings."""
    facts = _contents(getattr(settings, model.role) or model.usual)
    if settings.precision == "auto" and model.in_bfloat16(settings):
        facts["dtype"] = "bfloat16"
    return facts


def _contents(location: str) -> dict[str, str]:
    """The hash of a folder's files; nothing for the id of a model on the hub."""
    folder = Path(location)
    return {"contents": folder_hash(folder)} if folder.is_dir() else {}
