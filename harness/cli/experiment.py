"""`harness experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import ALIGN, Json, app, emit
from harness.core.progress import duration
from harness.core.terminal import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.experiments.forecast import Forecast
    from harness.experiments.run import Opened
    from harness.experiments.state import StepRecord
    from harness.experiments.step import Step
    from harness.experiments.workers import Workers

    Rows = Sequence[tuple[Step, StepRecord]]


@app.command(rich_help_panel=ALIGN)
def experiment(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="YAML files (docs/experiments.md), or names of some that ship with the harness, such as pocket, or folders of files.",
        ),
    ],
    model: Annotated[str | None, typer.Option("--model", help="Override the file's model.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Override the file's preference data.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Override the file's seeds, comma-separated.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="Override the file's backend, as for eval --backend.")
    ] = None,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override any other key of the file (repeatable): limit=48, generate.limit=20.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps with their time and cost; run nothing.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Print which steps are done, failed and waiting; run nothing.")
    ] = False,
    print_commands: Annotated[
        bool, typer.Option("--print", help="Print the remaining commands, for another scheduler; run nothing.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Run this many steps at a time, each in its own process."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Run the steps on a Ray cluster: auto, ray://HOST:PORT, local."),
    ] = None,
    gpus: Annotated[float, typer.Option("--gpus", min=0, help="With --ray: GPUs per step.")] = 0,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE",
            help="Submit the steps to Slurm with an option of submitit or sbatch (repeatable): timeout_min=240; or local.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm more than 1,000 runs.")] = False,
    results: Annotated[Path, typer.Option("--results", help="Folder of all experiments; they share runs.")] = Path(
        "results/experiments"
    ),
    as_json: Json = False,
) -> None:
    """Run experiment files: align every arm with every seed, evaluate, and test the claims."""
    from harness.core.config import overrides as read_overrides
    from harness.core.files import read_json
    from harness.experiments.run import named_experiments, open_experiment, run_all

    named = {"model": model, "data": data, "seeds": _numbers(seeds), "backend": backend}
    overrides = read_overrides(changed or []) | {key: value for key, value in named.items() if value is not None}
    opened = [open_experiment(file, overrides, results, many=yes) for file in named_experiments(files)]
    if dry_run or status or print_commands:
        _show(opened, print_commands, as_json, predict=dry_run)
        return
    ended, error = run_all(opened, lambda folder: _workers(processes, ray, gpus, slurm, folder))
    if as_json:
        written = [read_json(folder.path / "experiment.json") for folder, _ in ended]
        emit(written if len(opened) > 1 else written[0] if written else None)
    else:
        for folder, findings in ended:
            for finding in findings:
                say(f"{finding.verdict}: {finding.claim.text}" + (f" ({finding.reason})" if finding.reason else ""))
            say(f"page: {folder.path / 'index.md'}, {folder.path / 'index.html'}")
    if error is not None:
        raise error


def _numbers(text: str | None) -> list[int] | None:
    from harness.core.errors import BadInputError

    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInputError(f"--seeds must be comma-separated integers, not '{text}'") from None


def _workers(processes: int | None, ray: str | None, gpus: float, slurm: list[str] | None, folder: Path) -> Workers:
    from harness.core.errors import BadInputError
    from harness.experiments.workers import Here, OnRay, Processes

    places = {"--ray": ray, "--slurm": slurm, "--processes": processes}
    if len(given := [name for name, value in places.items() if value]) > 1:
        raise BadInputError(f"{' and '.join(given)} exclude each other", remedy="give only one of them")
    if slurm:
        from harness.experiments.slurm import OnSlurm

        return OnSlurm(slurm, folder / "slurm")
    if gpus and not ray:
        raise BadInputError("--gpus is for the steps of a Ray cluster", remedy="give it together with --ray ADDRESS")
    if ray:
        return OnRay(ray, gpus)
    return Processes(processes) if processes else Here(lambda command: app(command, standalone_mode=False))


def _show(opened: Sequence[Opened], commands: bool, as_json: bool, *, predict: bool) -> None:
    """The steps of experiments with their state, or the commands of those that are left."""
    if commands:
        _print_commands(opened)
        return
    predicted: Mapping[str, Forecast] = {}
    if predict:
        from harness.experiments.forecast import forecasts

        predicted = forecasts(opened)
    if as_json:
        shown = [_as_json(entry, predicted) for entry in opened]
        emit(shown if len(opened) > 1 else shown[0])
        return
    for entry in opened:
        _show_steps(entry, predicted)
    if predicted:
        _say_total(opened, predicted)


def _rows(opened: Opened) -> Rows:
    """The steps of the present round of a search, and those whose settings are known."""
    return opened.folder.with_running([*opened.searches.round, *opened.folder.table(opened.plan)])


def _show_steps(opened: Opened, predicted: Mapping[str, Forecast]) -> None:
    experiment, plan, folder, rows = opened.experiment, opened.plan, opened.folder, _rows(opened)
    counts = {
        state: sum(record.state == state for _, record in rows)
        for state in ("done", "running", "waiting", "changed", "failed")
    }
    say(
        f"{experiment.spec.title}: {len(experiment.arms)} arms x {len(plan.worlds)} seeds: {len(plan.runs)} runs, {len(rows)} steps; "
        + ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        + ("; running now" if folder.is_running and not counts["running"] else "")
    )
    for entry in opened.searches.searched:
        state = "chosen" if entry.finished else "its settings are chosen when the search has ended"
        best = f", best {entry.best.value:.4g}" if entry.best and entry.best.value is not None else ""
        say(f"  search  {entry.arm.label}: {len(entry.trials)} trials are done{best}; {state}")
    for step, record in rows:
        took = f", {record.seconds:,.0f} s" if record.seconds else ""
        took += " so far" if took and record.state == "running" else ""
        say(f"  {record.state:8}{step.name}: {step.about}{took}{_expected(predicted.get(step.key))}")
        if record.error and record.state == "failed":
            say(f"          {' '.join(record.error.split())[:300]}")
        if record.says:
            say(f"          {record.says[:300]}")


def _expected(forecast: Forecast | None) -> str:
    """Time and money of a step, as text."""
    if forecast is None:
        return ""
    time = "time unknown" if forecast.seconds is None else f"about {duration(forecast.seconds)}"
    price = ", price unknown" if forecast.usd is None else f", at most ${forecast.usd:.2f}" if forecast.usd else ""
    return f" ({time}{price})"


def _say_total(opened: Sequence[Opened], predicted: Mapping[str, Forecast]) -> None:
    """The sums, and why some are unknown; a step that several experiments share counts once."""
    from harness.experiments.forecast import by_kind, total

    for kind, of_kind in by_kind(opened, predicted).items():
        left = of_kind["steps"] - of_kind["done"]
        time = f", about {duration(of_kind['seconds'])}" if left and not of_kind["steps_without_time"] else ""
        say(f"{kind}: {of_kind['steps']:,} different steps, {left:,} of them left{time}")
    for entry in opened:
        if entry.searches.round and entry.searches.adaptive:
            say(f"{entry.experiment.name}: only the next round of its search is counted, not the later ones")
        elif len(entry.searches.rounds) > 1:
            say(
                f"{entry.experiment.name}: the trials with the later seeds of its search are counted, not listed: which settings go on "
                "is not known yet"
            )
    sums = total(list(predicted.values()))
    untimed, unpriced = sums["steps_without_time"], sums["steps_without_price"]
    say(
        f"what is left: {_unknown(untimed, 'time')}about {duration(sums['seconds'])} one after another on this machine, the start of "
        f"engines not included; judges {_unknown(unpriced, 'price')}at most ${sums['usd_at_most']:.2f}"
    )
    reasons = {forecast.basis for forecast in predicted.values() if forecast.seconds is None}
    for reason in sorted(reasons):
        say(f"  unknown: {reason}")


def _unknown(count: int, what: str) -> str:
    """What stands before a sum that lacks the values of so many steps, so that nobody takes it for the whole."""
    return f"{count} steps of unknown {what}, and " if count else ""


def _print_commands(opened: Sequence[Opened]) -> None:
    """The commands that are left, each once; those behind a round of a search are not known before it is done."""
    import shlex

    from harness.experiments.execute import with_resume

    commands: dict[str, str] = {}
    running, untold = set(), set()
    for entry in opened:
        rows = entry.folder.with_running(entry.searches.round) if entry.searches.round else _rows(entry)
        for step, record in rows:
            if record.state == "running":
                running.add(step.key)
            elif record.state != "done":
                commands.setdefault(step.key, shlex.join(["harness", *with_resume(step, entry.folder)]))
                untold |= {step.key} if step.asked is not None and not step.asked.is_told else set()
    for command in commands.values():
        say(command)
    if running:
        say(f"note: {len(running)} steps are running now, and are left out", err=True)
    if any(entry.searches.round for entry in opened):
        say("note: this is one round of the search; run --print again when it is done", err=True)
    if untold:
        say(
            f"note: scores do not tell whether {len(untold)} of the evaluations were carried out (data or code named by a path, or "
            "settings of a backend or a judge), so --print lists them until the experiment's own command has run; it reads the stored "
            "answers",
            err=True,
        )


def _as_json(opened: Opened, predicted: Mapping[str, Forecast]) -> dict[str, Any]:
    from dataclasses import asdict

    from harness.experiments.execute import with_resume
    from harness.experiments.forecast import by_kind, total

    rows = _rows(opened)
    keys = {step.key for _, _, steps in opened.remaining() for step, _ in steps}
    mine = [forecast for key, forecast in predicted.items() if key in keys]
    return {
        "title": opened.experiment.spec.title,
        "running": opened.folder.is_running,
        "runs": len(opened.plan.runs),
        "searches": [
            {
                "arm": entry.arm.label,
                "finished": entry.finished,
                "trials": [trial.shown for trial in entry.trials],
            }
            for entry in opened.searches.searched
        ],
        "steps": [
            {
                "name": step.name,
                "kind": step.kind,
                "state": record.state,
                "needs": list(step.needs),
                # As --print has it: what was begun is resumed.
                "command": ["harness", *with_resume(step, opened.folder)],
                "seconds": record.seconds,
                "error": record.error,
                **({"predicted": asdict(predicted[step.key])} if step.key in predicted else {}),
            }
            for step, record in rows
        ],
        **({"predicted": {**total(mine), "kinds": by_kind([opened], predicted)}} if predicted else {}),
    }
