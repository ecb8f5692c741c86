"""Ranks of adapters: reading them from a folder, and the ranks that vLLM serves."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.files import read_json

_AS_OF_0_32 = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM's list, for machines without vLLM."""


@functools.cache
def served_ranks() -> tuple[int, ...]:
    """The maximum ranks that an engine can be started with, ascending: vLLM's own list (`MaxLoRARanks` in `vllm/config/lora.py`).

    The file is parsed, not imported: the import takes seconds, and must not happen before the torchvision shim.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return _AS_OF_0_32
    source = Path(spec.origin).parent / "config" / "lora.py"
    if source.exists():
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "MaxLoRARanks" for target in node.targets
            ):
                found = [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)]
                return tuple(sorted(one for one in found if isinstance(one, int)))
    return _AS_OF_0_32


def rank_in(pattern: Mapping[str, int], module: str, otherwise: int | None) -> int | None:
    """The rank of a module, by PEFT's rule for `rank_pattern`: that of the first key that matches the end of its name, from a dot on."""
    return next((rank for key, rank in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)


def rank_of(adapter: Path) -> int:
    """The largest rank in an adapter's folder: `r`, or a larger one in `rank_pattern`."""
    config = read_json(Path(adapter) / "adapter_config.json", "adapter configuration")
    return max(int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()), 1)


def served_rank(ranks: Iterable[int], where: str | None = None) -> int:
    """The smallest of vLLM's ranks that is at least all of these.

    Raises:
        HarnessError: vLLM serves no adapter of such a rank.
    """
    wanted = max(ranks, default=1)
    rank = next((rank for rank in served_ranks() if rank >= wanted), None)
    if rank is None:
        raise HarnessError(
            f"vLLM serves adapters up to rank {served_ranks()[-1]}, not of rank {wanted}",
            where=where,
            remedy="merge it into its base (harness export RUN -o DIR) and serve that, or use --backend transformers",
        )
    return rank
