"""Which files of a model's repository loading it reads: the others are neither missing nor downloaded."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection
from pathlib import Path

_SETTINGS = frozenset(
    {
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "chat_template.json",
        "chat_template.jinja",
        "tokenizer.json",
    }
)
"""Files that loading a model and its processor reads, apart from weights and vocabularies. Files that only some versions of
transformers read are not among them: a model would never count as downloaded."""
_VOCABULARIES = ("*.model", "*.tiktoken", "vocab.json", "vocab.txt", "merges.txt")
"""Files that a tokenizer is read from if there is no tokenizer.json."""
INDEX = "model.safetensors.index.json"
"""File that names the weights of a model which are in several files."""
_WEIGHTS = {
    "model.safetensors": "",
    "model-*.safetensors": INDEX,
    "*.safetensors": "",
    "pytorch_model.bin": "",
    "pytorch_model-*.bin": "pytorch_model.bin.index.json",
    "*.bin": "",
}
"""Names of weights, in the order in which transformers looks for them, and their index; the first that a repository has are loaded."""


def loaded(files: Collection[str], indexed: frozenset[str]) -> set[str]:
    """Those of a model's files that loading the model and its processor reads.

    Args:
        files: all of the repository.
        indexed: the weights that its index names; empty if the index is not known.
    """
    top = {file for file in files if "/" not in file}
    wanted = top & _SETTINGS
    if "tokenizer.json" not in top:
        wanted |= {file for file in top if any(fnmatch.fnmatch(file, pattern) for pattern in _VOCABULARIES)}
    if "model.safetensors" not in top and indexed:
        return wanted | {INDEX} | (indexed & set(files))
    for pattern, index in _WEIGHTS.items():
        if weights := set(fnmatch.filter(top, pattern)):
            return wanted | weights | ({index} & top)
    return wanted


def named_in(index: Path) -> frozenset[str]:
    """The files that an index of weights names; empty if it cannot be read."""
    try:
        return frozenset(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return frozenset()
