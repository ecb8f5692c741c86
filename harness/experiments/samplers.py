"""Which settings a search tries next: Optuna's samplers, or every combination of lists.

A sampler is made anew in every process and told all results from the first on. With the same seed and results it asks for the same
settings, so nothing of it is kept on disk: the runs and their scores are the state of a search.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from harness.core.packages import need_package
from harness.experiments.keys import Range, SearchSpec

Space = Mapping[str, Sequence[Any] | Range]
"""The settings that a search chooses, by dotted key."""
_WITHOUT_MODEL = 10
"""TPE's usual number of random trials; with a small budget a third of it."""


class Sampler(Protocol):
    """Asks for settings, and is told what they gave."""

    def ask(self) -> list[dict[str, Any]]:
        """The settings that can be tried now, side by side; [] when the budget is spent."""

    def tell(self, values: Sequence[float | None]) -> None:
        """The objective of each of the settings that were asked for last; None if it failed."""


def sampler_of(search: SearchSpec, space: Space, first: Mapping[str, Any] | None, *, maximise: bool) -> Sampler:
    """The sampler of one arm.

    Args:
        search: the experiment's search.
        space: the arm's settings to choose.
        first: settings to try first; None if the space does not contain the arm's own ones.
        maximise: whether a larger objective is better.

    Raises:
        MissingPackageError: Optuna is not installed.
    """
    if search.sampler == "grid":
        return _Grid(space)
    return _Optuna(search, space, first, maximise)


def grid_of(space: Space) -> list[dict[str, Any]]:
    """Every combination of the values of a space that has only lists."""
    values = [value for value in space.values() if not isinstance(value, Range)]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


class _Grid:
    def __init__(self, space: Space) -> None:
        self._left = grid_of(space)

    def ask(self) -> list[dict[str, Any]]:
        asked, self._left = self._left, []
        return asked

    def tell(self, values: Sequence[float | None]) -> None:
        """The next settings do not depend on it."""


class _Optuna:
    def __init__(self, search: SearchSpec, space: Space, first: Mapping[str, Any] | None, maximise: bool) -> None:
        need_package("optuna", f"search.sampler={search.sampler}")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        assert search.runs is not None
        self._optuna, self._left = optuna, search.runs
        self._adaptive = search.sampler == "tpe"
        startup = max(1, min(_WITHOUT_MODEL, search.runs // 3))
        sampler = (
            optuna.samplers.TPESampler(n_startup_trials=startup, seed=search.seed)
            if self._adaptive
            else optuna.samplers.RandomSampler(seed=search.seed)
        )
        self._study = optuna.create_study(sampler=sampler, direction="maximize" if maximise else "minimize")
        if first is not None:
            self._study.enqueue_trial(dict(first))
        self._space = {key: _distribution(optuna.distributions, values) for key, values in space.items()}
        self._asked: list[Any] = []

    def ask(self) -> list[dict[str, Any]]:
        count = min(self._left, 1 if self._adaptive else self._left)
        self._left -= count
        self._asked = [self._study.ask(fixed_distributions=self._space) for _ in range(count)]
        return [dict(trial.params) for trial in self._asked]

    def tell(self, values: Sequence[float | None]) -> None:
        failed = self._optuna.trial.TrialState.FAIL
        for trial, value in zip(self._asked, values, strict=True):
            if value is None:
                self._study.tell(trial, state=failed)
            else:
                self._study.tell(trial, value)


def _distribution(distributions: Any, values: Sequence[Any] | Range) -> Any:
    if not isinstance(values, Range):
        return distributions.CategoricalDistribution(tuple(values))
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    kind = distributions.IntDistribution if whole else distributions.FloatDistribution
    return kind(values.low, values.high, log=values.log)
