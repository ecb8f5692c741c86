"""An experiment from its file to its page, as the command and the function `harness.experiment` run it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, HarnessError
from harness.experiments.claims import Finding, read_claims
from harness.experiments.execute import run_steps
from harness.experiments.graph import Plan, plan
from harness.experiments.page import write_page
from harness.experiments.search import Searches, check_ended, search
from harness.experiments.search_rules import check_search
from harness.experiments.spec import EXPERIMENTS, Experiment, find_experiment, read_experiment
from harness.experiments.state import ExperimentFolder, StepRecord
from harness.experiments.step import Step
from harness.experiments.workers import Workers

logger = logging.getLogger(__name__)

_LISTED = 5
"""Number of failed steps that an error names with their reasons."""


@dataclass(frozen=True)
class Opened:
    """A checked experiment, the steps that are known, its folder, how far its searches are, and the steps with the arms' own settings."""

    experiment: Experiment
    plan: Plan
    folder: ExperimentFolder
    searches: Searches
    unsearched: Plan

    def remaining(self) -> Iterator[tuple[Experiment, Plan, Sequence[tuple[Step, StepRecord]]]]:
        """What the experiment consists of, for a prediction: the rounds of its searches, and its own steps, as many as they will be."""
        for tried in self.searches.rounds:
            yield tried.experiment, tried.steps, tried.rows
        steps = self.unsearched if self.searches.rounds else self.plan
        yield self.experiment, steps, self.folder.table(steps)


def named_experiments(names: Sequence[str]) -> list[str]:
    """The experiments that names stand for: a folder stands for all files in it.

    Raises:
        BadInputError: two of them have the same folder of results.
    """
    files: list[str] = []
    for name in names:
        folder = EXPERIMENTS / name
        if Path(name).is_dir():
            files += [str(path) for path in sorted(Path(name).glob("*.yaml"))] or [name]
        elif folder.is_dir():
            files += [f"{name}/{path.stem}" for path in sorted(folder.glob("*.yaml"))]
        else:
            files.append(name)
    files = list(dict.fromkeys(files))
    stems = [Path(file).stem for file in files]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise BadInputError(
            f"two of the experiments are named '{twice}', and would share a folder", remedy="rename one"
        )
    return files


def open_experiment(file: str, overrides: Mapping[str, Any], results: Path, *, many: bool) -> Opened:
    """Read and check an experiment; nothing is run.

    Args:
        file: a YAML file, or the name of a shipped one.
        overrides: values in place of the file's; None keeps the file's.
        results: folder of all experiments.
        many: allow more than 1,000 runs.

    Raises:
        BadInputError: the file is at fault.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    experiment = read_experiment(find_experiment(file), given)
    read_claims(experiment)
    unsearched = plan(experiment, results, many=many)  # also to find every mistake
    check_search(experiment, many=many)
    folder = ExperimentFolder(results / experiment.name, results)
    searches = search(experiment, results, folder, None)
    steps = plan(searches.resolved(experiment), results, many=many)
    return Opened(experiment, steps, folder, searches, unsearched)


def run_experiment(opened: Opened, workers: Workers) -> tuple[Sequence[Finding], HarnessError | None]:
    """Search, run the steps that are not done, and write the page.

    Returns:
        What was found about the claims, and an error that names the failed steps, if there are any; the others are kept.

    Raises:
        HarnessError: steps failed, and without them there is nothing to write a page about.
        BadInputError: no trial of any search has a value, or another process runs the experiment.
    """
    experiment, folder = opened.experiment, opened.folder
    try:
        with folder.locked():
            searches = search(experiment, folder.results, folder, workers)
            check_ended(searches)
            steps = plan(searches.resolved(experiment), folder.results, many=True)
            failed = {**searches.failed, **searches.failed_steps, **run_steps(steps, folder, workers)}
            try:
                findings = write_page(experiment, steps, folder, failed, searches)
            except BadInputError as error:
                if not failed:
                    raise
                raise _failed(failed, folder, f"; there is no page: {error.problem}") from error
    finally:
        workers.close()
    if not failed:
        return findings, None
    return findings, _failed(failed, folder)


def _failed(failed: Mapping[str, str], folder: ExperimentFolder, more: str = "") -> HarnessError:
    """An error that names the failed steps; `more` is said behind them, where no page lists all of them with their reasons."""
    listed = [f"{name}: {' '.join(reason.split())}" for name, reason in failed.items()]
    others = f", and {len(listed) - _LISTED} others" if len(listed) > _LISTED else ""
    which = f": {'; '.join(listed[:_LISTED])}{others}" if more else f", {next(iter(failed))} among them"
    return HarnessError(
        f"{len(failed)} step{'s' * (len(failed) != 1)} failed{which}{more}",
        where=str(folder.path),
        remedy="fix the errors in their logs, and run the same command again; finished steps are kept",
    )


def run_all(
    opened: Sequence[Opened], workers: Callable[[Path], Workers]
) -> tuple[list[tuple[ExperimentFolder, Sequence[Finding]]], HarnessError | None]:
    """Run experiments one after another, so that what they share is done once; the failure of one does not stop the others.

    Args:
        opened: the experiments.
        workers: for an experiment's folder, what runs its commands.

    Returns:
        The folder and the findings of each that has a page, and an error that names those with failed steps, if there are any.
    """
    ended: list[tuple[ExperimentFolder, Sequence[Finding]]] = []
    errors: dict[str, HarnessError] = {}
    for number, entry in enumerate(opened, 1):
        if len(opened) > 1:
            logger.info(f"experiment {number} of {len(opened)}: {entry.experiment.spec.title}")
        try:
            findings, error = run_experiment(entry, workers(entry.folder.path))
            ended.append((entry.folder, findings))
        except HarnessError as failure:
            error = failure
        if error is not None:
            errors[entry.experiment.name] = error
    if not errors or len(opened) == 1:
        return ended, next(iter(errors.values()), None)
    first = next(iter(errors.values()))
    problem = f"{len(errors)} of {len(opened)} experiments have failed steps: {', '.join(errors)}; {first.problem}"
    return ended, HarnessError(problem, where=first.where, remedy=first.remedy)
