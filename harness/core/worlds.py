"""The interface of embedded worlds: model, preference data and benchmark data that are made on this machine.

A world replaces downloads, in the official file formats, so that the whole pipeline runs offline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

from harness.core.errors import BadInputError

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
    pair_sets: ClassVar[tuple[str, ...]] = ()
    """Names of sets of pairs, for `WORLD:SEED@SET`."""

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

    def preference_set(self, name: str) -> Path:
        """One of `pair_sets`, as in `pocket:6@rlhf-v`; a file as of `preferences`."""
        raise NotImplementedError

    def recipe(self, method: str) -> dict[str, Any]:
        """Settings (`train`, `method`) chosen for this world's size on its validation split; {} if none were chosen. They override the
        method's defaults, which are the paper's, and the user's settings override them.
        """
        return {}

    @property
    def label(self) -> str:
        """The user's name for it: `pocket` for seed 0, else `pocket:SEED`."""
        return self.name if self.seed == 0 else f"{self.name}:{self.seed}"


def world_of_pairs(label: str) -> World | None:
    """The world that a label of preference data names (`pocket:6`, `pocket:6@rlhf-v`); None for all other data.

    Raises:
        BadInputError: the world has no set of this name.
    """
    start, named, of = label.partition("@")
    world = find_world(start)
    if world is not None and named and of not in world.pair_sets:
        others = " or ".join(f"{world.label}@{other}" for other in world.pair_sets)
        raise BadInputError(
            f"'{world.label}' has no preference data named '{of}'",
            remedy=others or f"{world.label}, which suits the method",
        )
    return world


def pairs_of(label: str, method: str | None) -> str:
    """Where preference data are: a world's pairs are made on first use; any other label is returned as it is.

    Args:
        label: `WORLD:SEED` for the pairs that suit a method, `WORLD:SEED@SET` for a set by name, or other data.
        method: the method that is trained with them; None: what suits most methods.

    Raises:
        BadInputError: the world has no such set.
    """
    world = world_of_pairs(label)
    if world is None:
        return label
    _, named, of = label.partition("@")
    return str(world.preference_set(of) if named else world.preferences(method))


def find_world(label: str) -> World | None:
    """The world of a label (`pocket`, `pocket:2`), or None if there is none."""
    from harness.core import registry
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
