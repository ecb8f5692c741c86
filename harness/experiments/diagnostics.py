"""The diagnostics on the page of an experiment: answers about changed pictures, and margins on held-out pairs, by arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from harness.analysis.balance import balance_records, balance_tables
from harness.analysis.leaderboard.board import scale
from harness.analysis.reliance import Changed, changed_scores, picture_of, reliance_tables
from harness.analysis.text_table import TextTable
from harness.evaluation.pictures import Change
from harness.experiments.graph import Plan
from harness.experiments.keys import BASE
from harness.reports.figures import Bars, Figure
from harness.runs.folders import Run


@dataclass(frozen=True)
class _Asked:
    """The scores of an arm (or the base model) with one seed and one change of the pictures."""

    arm: str
    seed: int
    score: Changed


class Reliance:
    """What the runs of an experiment answered about changed pictures: tables by seed, charts of means over the seeds."""

    def __init__(self, plan: Plan, runs: Sequence[Run], changes: Sequence[Change], suites: Sequence[str]) -> None:
        """Read the scores; `reasons` says which ones cannot be used.

        Args:
            plan: of the experiment.
            runs: its complete runs and their base models.
            changes: of the pictures, as the file names them.
            suites: of the file.
        """
        words = [change.word for change in changes]
        seeds = {model: seed for seed, model in plan.worlds.items()}
        self.reasons: list[str] = []
        self._asked: list[_Asked] = []
        for run in runs if words else ():
            scores, reasons = changed_scores(run)
            self.reasons += reasons
            _, seed = plan.runs.get(run.name, (None, seeds.get(str(run.base_label), 0)))
            name = plan.arms_of([run.name]) or BASE
            label = _label(plan, name, seed)
            # A run may have scores on other data, too, as a base model that several experiments share.
            wanted = [
                score
                for score in scores
                if score.record.pictures.change in words
                and score.record.suite in suites
                and (not plan.data or score.record.data in plan.data)
            ]
            self._asked += [_Asked(name, seed, replace(score, run=label)) for score in wanted]

    def tables(self) -> list[TextTable]:
        """A table for each suite, arm and seed, with intervals."""
        return reliance_tables(
            [entry.score.record.model_copy(update={"target": entry.score.run}) for entry in self._asked]
        )

    def figures(self) -> list[Figure]:
        """For each suite the share of unchanged answers and the first headline metric, means over the seeds."""
        drawn = []
        groups: dict[tuple[str, str], list[_Asked]] = {}
        for entry in self._asked:
            groups.setdefault((entry.score.record.suite, entry.score.record.variant), []).append(entry)
        for (suite, variant), asked in groups.items():
            of = f"{suite}{f' [{variant}]' if variant else ''}"
            metrics = asked[0].score.record.metrics
            drawn.append(
                self._figure(
                    f"Percentage of answers that stay exactly the same when the picture is changed: {of}",
                    "unchanged answers, percent",
                    1,
                    {"": _unchanged},
                    asked,
                )
            )
            headline = [name for name, about in metrics.items() if about.headline and _measured(asked, name)]
            for name in headline[:1]:
                factor, digits = scale(metrics[name].unit)
                title = f"{metrics[name].title}{', percent' if metrics[name].unit == '%' else ''}"
                caption = f"{metrics[name].title} with the original and with changed pictures: {of}"
                with_clean = {
                    "as it is": partial(_value, metric=name, factor=factor, clean=True),
                    "": partial(_value, metric=name, factor=factor, clean=False),
                }
                drawn.append(self._figure(caption, title, digits, with_clean, asked))
        return drawn

    def _figure(
        self,
        caption: str,
        title: str,
        digits: int,
        values: Mapping[str, Callable[[_Asked], float | None]],
        asked: Sequence[_Asked],
    ) -> Figure:
        """Bars of one value for every arm and change. A named function of `values` makes one group, the function "" one for each change."""
        arms = list(dict.fromkeys(entry.arm for entry in asked))
        pictures = list(dict.fromkeys(picture_of(entry.score.record) for entry in asked))
        rows = []
        for name, value in values.items():
            for picture in [name] if name else pictures:
                of_picture = [entry for entry in asked if name or picture_of(entry.score.record) == picture]
                rows.append(
                    (picture, [_mean([value(entry) for entry in of_picture if entry.arm == arm]) for arm in arms])
                )
        seeds = len({entry.seed for entry in asked})
        means = f" Means over {seeds} seeds." if seeds > 1 else ""
        return Figure("reliance", f"{caption}. From above: {'; '.join(arms)}.{means}", Bars(rows, arms, title, digits))


def margins(plan: Plan, runs: Sequence[Run]) -> list[TextTable]:
    """The margins that the runs' trainings measured (`train.balance`), a table for each set of held-out pairs."""
    records = []
    for run in runs:
        if (
            run.name in plan.runs and plan.runs[run.name][0].stage is None
        ):  # a training's margins are those of its stages, too
            _, seed = plan.runs[run.name]
            of_run, _ = balance_records(run)
            name = _label(plan, plan.arms_of([run.name]), seed)
            records += [entry.model_copy(update={"run": name}) for entry in of_run]
    return balance_tables(records)


def _label(plan: Plan, arm: str, seed: int) -> str:
    """An arm's name in tables with a row for each seed."""
    return f"{arm}, seed {seed}" if len(plan.worlds) > 1 else arm


def _unchanged(entry: _Asked) -> float:
    return 100 * entry.score.record.reliance.unchanged.value


def _measured(asked: Sequence[_Asked], metric: str) -> bool:
    return any(metric in entry.score.record.reliance.metrics for entry in asked)


def _value(entry: _Asked, metric: str, factor: float, *, clean: bool) -> float | None:
    found = entry.score.record.reliance.metrics.get(metric)
    return None if found is None else factor * (found.clean if clean else found.changed)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
