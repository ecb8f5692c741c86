"""An experiment from its file to its page, as the command and the function `harness.experiment` run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.experiments.claims import Finding, read_claims
from harness.experiments.execute import Workers, run_steps
from harness.experiments.graph import Plan, plan
from harness.experiments.page import write_page
from harness.experiments.search import Searches, check_ended, search
from harness.experiments.search_rules import check_search
from harness.experiments.spec import Experiment, find_experiment, read_experiment
from harness.experiments.state import ExperimentFolder


@dataclass(frozen=True)
class Opened:
    """A checked experiment, the steps that are known, its folder, and how far its searches are."""

    experiment: Experiment
    plan: Plan
    folder: ExperimentFolder
    searches: Searches


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
    plan(experiment, results, many=many)  # with the arms' own settings, to find every mistake
    check_search(experiment, many=many)
    folder = ExperimentFolder(results / experiment.name, results)
    searches = search(experiment, results, folder, None)
    steps = plan(searches.resolved(experiment), results, many=many)
    return Opened(experiment, steps, folder, searches)


def run_experiment(opened: Opened, workers: Workers) -> tuple[Sequence[Finding], HarnessError | None]:
    """Search, run the steps that are not done, and write the page.

    Returns:
        What was found about the claims, and an error that names the failed steps, if there are any; the others are kept.
    """
    experiment, folder = opened.experiment, opened.folder
    try:
        with folder.locked():
            searches = search(experiment, folder.results, folder, workers)
            check_ended(searches)
            steps = plan(searches.resolved(experiment), folder.results, many=True)
            failed = searches.failed | run_steps(steps, folder, workers)
            findings = write_page(experiment, steps, folder, failed, searches)
    finally:
        workers.close()
    if not failed:
        return findings, None
    return findings, HarnessError(
        f"{len(failed)} of {len(steps.steps)} steps failed, {next(iter(failed))} among them",
        where=str(folder.path),
        remedy="fix the errors in their logs, and run the same command again; finished steps are kept",
    )
