"""What `harness.evaluate` evaluates: runs, base models, and models behind endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import BadInputError
from harness.models import resolve
from harness.runs.folders import Run, open_run, refuse_begun
from harness.runs.targets import (
    ENDPOINT,
    IMPORTED,
    Target,
    base_model,
    base_of,
    each_once,
    imported_data,
    target_of,
    target_of_endpoint,
    target_of_model,
)

_NO_BASE = {
    IMPORTED: "the base model of imported answers is unknown",
    ENDPOINT: "the base model of an endpoint's model is unknown",
}


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
        if base and (reason := _without_base(run, checkpoint, remote)):
            raise BadInputError(reason, remedy="leave out base=True")
        if run is not None:
            if base:
                targets.append(base_of(run, results))
            targets.append(target_of(run))
            usual.append(_usual_data(run))
        elif remote:
            targets.append(target_of_endpoint(str(checkpoint), results))
            usual.append("official")
        else:
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


def _without_base(run: Run | None, checkpoint: str | Path | Run, remote: bool) -> str | None:
    """Why a checkpoint has no base model to evaluate; None if it has one."""
    if run is not None:
        return _NO_BASE.get(run.kind)
    return _NO_BASE[ENDPOINT] if remote else f"base=True needs runs, and '{checkpoint}' is the name of no run"


def _usual_data(run: Run) -> str:
    """The benchmark data of a run, if none are given."""
    if run.kind == IMPORTED:
        return imported_data([run])
    return "official" if run.kind == ENDPOINT else base_model(run).default_data
