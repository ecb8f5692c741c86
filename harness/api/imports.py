"""Other tools' answers as a run, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.api.settings import nested
from harness.core.errors import BadInputError
from harness.records.score_files import SuiteScores


def import_results(
    files: str | Path | Sequence[str | Path],
    suite: str,
    *,
    name: str | None = None,
    model: str | None = None,
    data: str = "official",
    judge: str | None = None,
    settings: Mapping[str, Any] | None = None,
    max_unscored: float = 0.01,
    allow_partial: bool = False,
    overwrite: bool = False,
    results: str | Path = "results",
) -> SuiteScores:
    """Make a run of the answers that another tool made to one suite, and score them, as `harness import-results` does.

    Args:
        files: one or several files with answers of one model; their form is recognised.
        suite: the suite's name.
        name: of the run; None takes the first file's.
        model: its base model, beside whose runs leaderboards show it; None takes the run's name.
        data: the suite's data root, "official", or a world.
        judge: a judge's name, for suites that need one.
        settings: of the suite and the judge, by dotted key or nested.
        max_unscored: share of items that may remain without a verdict.
        allow_partial: import although items have no answer.
        overwrite: replace other answers of this run to the suite.
        results: folder of the runs.

    Returns:
        The scores, as of `harness.score`.

    Raises:
        BadInputError: a file is damaged, it is not clear which item a row answers, or an item has no answer.
    """
    from harness.core import registry
    from harness.evaluation.imports import Import
    from harness.evaluation.imports import import_results as make_run

    suites = registry.names("benchmarks", suite)
    if len(suites) != 1:
        raise BadInputError("answers are imported for one suite at a time", remedy="call it once for each suite")
    given = [files] if isinstance(files, str | Path) else files
    return make_run(
        Import(
            [Path(file) for file in given],
            suites[0],
            Path(results),
            name,
            model,
            data,
            nested(settings),
            judge,
            max_unscored,
            allow_partial,
            overwrite,
        )
    )
