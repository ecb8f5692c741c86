"""The interface of embedded worlds: model, preference data and benchmark data that are made on this machine.

A world replaces downloads, in the official file formats, so that the whole pipeline runs offline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

Split = Literal["validation", "test"]


class World(ABC):
    """A source of a model and data. Everything is deterministic given `seed`, made on first use, and cached by content."""

    name: ClassVar[str]
    summary: ClassVar[str]
    judge: ClassVar[str]
    """Name of the registered judge that knows this world's ground truth."""
    methods: ClassVar[tuple[str, ...]] = ()
    suites: ClassVar[tuple[str, ...]] = ()
    """The default methods and suites of `harness quickstart` in this world."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def model(self) -> Path:
        """Folder of the base model (Hugging Face layout, hub weight names); trained on first use."""

    @abstractmethod
    def preferences(self, method: str | None = None) -> Path:
        """Preference data that suits a method; without a method, data that suits most methods.

        It is a Parquet file with RLAIF-V's or RLHF-V's columns, plus corrections and boxes.
        """

    @abstractmethod
    def benchmarks(self, split: Split) -> Path:
        """A benchmark data root: one folder per suite, each in its official layout (docs/ARCHITECTURE.md)."""

    def recipe(self, method: str) -> dict[str, Any]:
        """Settings (`train`, `method`) chosen for this world's size on its validation split; {} if none were chosen. They override the
        method's defaults, which are the paper's, and the user's settings override them.
        """
        return {}

    @property
    def label(self) -> str:
        """The user's name for it: `pocket` for seed 0, else `pocket:SEED`."""
        return self.name if self.seed == 0 else f"{self.name}:{self.seed}"


def find_world(label: str) -> World | None:
    """The world of a label (`pocket`, `pocket:2`), or None if there is none."""
    from harness.core import registry
    from harness.core.errors import BadInputError
    from harness.core.plugins import attributed

    name, colon, seed = label.partition(":")
    if name not in registry.entries("worlds"):
        return None
    if colon and not seed.isdigit():
        raise BadInputError(f"'{label}': after '{name}:' comes a seed, an integer")
    kind = registry.load("worlds", name)
    with attributed():
        world: World = kind(int(seed or 0))
    return world
