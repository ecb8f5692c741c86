"""What `harness.evaluate` evaluates: runs, base models, and models behind endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import BadInputError
from harness.models import resolve
from harness.runs.folders import Run, open_run, refuse_begun
from harness.runs.targets import (
    Target,
    each_once,
    refuse_base,
    target_of_endpoint,
    target_of_model,
    targets_of_runs,
)


def targets_of(
    checkpoints: Sequence[str | Path | Run], results: Path, *, base: bool, remote: bool
) -> tuple[list[Target], str]:
    """The targets of an evaluation, each once, and the benchmark data that suit the first checkpoint.

    Args:
        checkpoints: runs, names or folders of runs, names of models.
        results: folder of the runs.
        base: evaluate the runs' base models, too.
        remote: an endpoint answers, so that a text is the name of a model there.

    Raises:
        BadInputError: there is no checkpoint, a name is unknown, or `base` is given for something without a known base model.
    """
    if not checkpoints:
        raise BadInputError("there is nothing to evaluate", remedy="give a run, or the name of a run or a model")
    targets: list[Target] = []
    usual: list[str] = []
    for checkpoint in checkpoints:
        run = checkpoint if isinstance(checkpoint, Run) else None if remote else _run_of(checkpoint, results)
        if run is not None:
            made, data = targets_of_runs([run], results, base=base)
            targets += made
            usual.append(data)
        elif remote:
            if base:
                refuse_base("an endpoint's model")
            targets.append(target_of_endpoint(str(checkpoint), results))
            usual.append("official")
        else:
            if base:
                raise BadInputError(
                    f"base=True needs runs, and '{checkpoint}' is the name of no run", remedy="leave out base=True"
                )
            model = resolve(str(checkpoint))
            targets.append(target_of_model(model, results))
            usual.append(model.default_data)
    return each_once(targets), usual[0]


def _run_of(checkpoint: str | Path | Run, results: Path) -> Run | None:
    """The complete run that a name or a folder leads to, if there is one.

    Raises:
        BadInputError: it leads to a run that is not complete.
    """
    for folder in (results / str(checkpoint), Path(str(checkpoint))):
        if (run := open_run(folder)).manifest is not None:
            return run
        refuse_begun(folder, str(checkpoint))
    return None
