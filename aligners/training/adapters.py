"""Choosing the modules that get adapters: the language model's linear layers, found in the model itself, or those that the settings name.

A fixed list of names would not work: Phi-3 and GLM-4V have fused products (`qkv_proj`, `gate_up_proj`), Qwen3.5's linear attention has
further names. The vision tower and the projector get none, because servers ignore adapters there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aligners.training.families import check_family, family_of
from harness.core.config import LoraSettings, TrainSettings
from harness.core.errors import BadInputError
from harness.models import served_ranks
from harness.models.pretrained import empty_model
from harness.records.training_files import AdaptersSummary

_ENDING = re.compile(r"[\w.]+")
"""Pattern of a module name's ending; any other target is a regular expression."""


@dataclass(frozen=True)
class Adapted:
    """The modules that get adapters.

    Attributes:
        pattern: for PEFT: a regular expression of full paths that matches these modules and no others, or the paths themselves.
        paths: full paths in the model, in order.
        left_out: the language model's other matrices: number of each kind, by the last parts of the name.
    """

    pattern: str | list[str]
    paths: tuple[str, ...]
    left_out: dict[str, int]

    @property
    def kinds(self) -> list[str]:
        """The last parts of the paths, each once."""
        return list(dict.fromkeys(path.rpartition(".")[2] for path in self.paths))

    def said(self) -> str | None:
        """One line about what is left out; None where nothing is."""
        if not self.left_out:
            return None
        shown = ", ".join(f"{kind} ({count})" for kind, count in self.left_out.items())
        return f"adapters: on {', '.join(self.kinds)}; none on the language model's {shown}"

    def summary(self) -> AdaptersSummary:
        """Values for the manifest."""
        return AdaptersSummary(modules=len(self.paths), kinds=self.kinds, left_out=self.left_out)


def check_model(location: str, train: TrainSettings) -> Any:
    """Refuse, before data are read or images made, models and settings that cannot be trained, or not served afterwards.

    Args:
        location: folder or hub id of the model.
        train: settings of the training.

    Returns:
        The model's configuration.

    Raises:
        BadInputError: the family cannot be aligned, or the adapters' modules or rank are invalid.
    """
    config = check_family(location)
    if train.adapters and train.lora.rank > (most := served_ranks()[-1]):
        raise BadInputError(
            f"an adapter of rank {train.lora.rank} could not be served: vLLM accepts ranks up to {most}",
            where="train.lora.rank",
            remedy=f"--set train.lora.rank={most}, or train all weights (--full)",
        )
    if train.adapters and train.lora.targets is not None:
        adapted_modules(empty_model(location, config), train.lora)
    return config


def adapted_modules(model: Any, lora: LoraSettings) -> Adapted:
    """Find the modules that get adapters.

    Args:
        model: transformers' model; its weights may be on the device "meta".
        lora: `targets` names endings of paths or a regular expression of paths in the language model; None stands for all linear layers.

    Raises:
        BadInputError: a target matches no linear layer of the language model, or is not a regular expression.
    """
    import torch

    family = family_of(model.config.model_type)
    inner, language = model.model, model.model.get_submodule(family.language)
    root = next(name for name, module in model.named_modules() if module is inner)
    prefix = f"{root}.{family.language}."
    linear = [name for name, module in language.named_modules() if isinstance(module, torch.nn.Linear)]
    chosen = linear if lora.targets is None else _named(linear, lora.targets)
    paths = tuple(prefix + name for name in chosen)
    left_out: dict[str, int] = {}
    inside = {name + "." for name in chosen}
    embeddings = {id(one) for one in model.get_input_embeddings().parameters()}
    for name, value in language.named_parameters():
        if value.ndim > 1 and id(value) not in embeddings and not any(name.startswith(one) for one in inside):
            kind = ".".join(part for part in name.removesuffix(".weight").split(".")[-2:] if not part.isdigit())
            left_out[kind] = left_out.get(kind, 0) + 1
    return Adapted(_pattern(model, family.language, paths), paths, left_out)


def _named(linear: Sequence[str], targets: str | tuple[str, ...]) -> list[str]:
    """The linear layers that the settings name, in the model's order."""
    named: set[str] = set()
    for target in (targets,) if isinstance(targets, str) else targets:
        if _ENDING.fullmatch(target):
            matching = [name for name in linear if f".{name}".endswith(f".{target}")]
        else:
            try:
                matching = [name for name in linear if re.fullmatch(target, name)]
            except re.error as error:
                raise BadInputError(
                    f"train.lora.targets is not a valid regular expression: {error}: {target!r}",
                    remedy="give names of modules as a list: --set 'train.lora.targets=[q_proj, v_proj]'",
                ) from None
        if not matching:
            kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
            raise BadInputError(
                f"train.lora.targets: no linear layer of the language model matches {target!r}",
                remedy=f"its linear layers: {kinds}; example of a whole path: {linear[0]}",
            )
        named.update(matching)
    return [name for name in linear if name in named]


def _pattern(model: Any, language: str, paths: Sequence[str]) -> str | list[str]:
    """A short regular expression, if one matches exactly these modules; it survives changes of the names before the language model's."""
    kinds = "|".join(dict.fromkeys(re.escape(path.rpartition(".")[2]) for path in paths))
    pattern = rf".*{language}.*\.({kinds})"
    matched = {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}
    return pattern if matched == set(paths) else list(paths)
