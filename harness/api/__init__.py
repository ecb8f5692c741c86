"""What the commands do, as functions: `harness.align`, `.evaluate`, `.score`, `.import_results`, `.leaderboard`, `.report`,
`.experiment`, `.publish`.

They take what the commands take and raise `harness.core.errors.BadInputError` where a command would exit with code 2. Nothing is
printed but progress; notes go to Python's `logging` under the names `harness`, `aligners` and `benchmarks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.api.data import stored
from harness.api.imports import import_results
from harness.api.publishing import publish
from harness.api.settings import nested

if TYPE_CHECKING:
    import pandas as pd

    from harness.api.data import Rows
    from harness.records.score_files import SuiteScores
    from harness.runs.folders import Run

__all__ = ["align", "evaluate", "experiment", "import_results", "leaderboard", "publish", "report", "score"]


def align(
    method: str,
    model: str | Path,
    data: str | Path | Rows | None = None,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    image_root: str | Path | None = None,
    limit: int | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    resume: bool = False,
    overwrite: bool = False,
    allow_download: bool = False,
    canary: bool = True,
    start: str | Path | None = None,
    on_step: Callable[[Mapping[str, Any]], None] | None = None,
    results: str | Path = "results",
) -> Run:
    """Align a model with a preference method, as `harness align` does.

    Args:
        method: a method's name, see `harness list methods`.
        model: a model's name, a hub id or a folder.
        data: preference data; a file, a folder, a known name, a list of rows, a pandas frame or a `datasets.Dataset`. None takes the
            method's or the world's own.
        name: of the run's folder under `results`.
        settings: by dotted key, `{"train.learning_rate": 1e-5, "method.beta": 0.1}`, or nested.
        columns: a name of the harness (`chosen`, `rejected`, `question`, `image`, ...) -> the data's column.
        image_root: a folder that image paths may be relative to, or lie in. Without it, the paths of rows are relative to the working
            directory, and may lead anywhere.
        limit: use a seeded sample of this many pairs.
        on_error: on an invalid record: stop, or skip and list it.
        resume: resume an interrupted run: the named one, or the newest with the same method, model, data and settings.
        overwrite: replace an existing run.
        allow_download: download images that the data give by URL.
        canary: compare the trainer with the model's own forward pass first.
        start: folder of an exported checkpoint of an earlier run of the model, which the training starts from, and which is its reference.
        on_step: is called with every row of the training log as it is written: stage, step, loss, rewards, margins, rates. An exception
            that it raises stops the training, which can be resumed.
        results: folder of the runs.

    Returns:
        The complete run: `run.checkpoint` is its checkpoint folder, `run.manifest` its record.

    Raises:
        BadInputError: a name, a setting, the data or the folder is at fault; said before anything is trained.
    """
    from aligners.preferences.options import DataOptions
    from harness.alignment.align import AlignRequest, run_align

    file, pictures = stored(data, columns, None if image_root is None else Path(image_root))
    options = DataOptions.of(columns or {}, pictures)
    return run_align(
        AlignRequest(
            method,
            str(model),
            Path(results),
            file,
            name,
            nested(settings),
            limit,
            on_error,
            resume,
            overwrite,
            allow_download,
            options,
            canary,
            None if start is None else Path(start),
            on_step=on_step,
        )
    )


def evaluate(
    checkpoints: str | Path | Run | Sequence[str | Path | Run],
    suites: str | Sequence[str],
    *,
    base: bool = False,
    data: str | None = None,
    backend: str | None = None,
    endpoint: str | None = None,
    judge: str | None = None,
    settings: Mapping[str, Any] | None = None,
    limit: int | None = None,
    repeat: int = 1,
    noise: str | None = None,
    max_unscored: float = 0.01,
    overwrite: bool = False,
    results: str | Path = "results",
) -> list[SuiteScores]:
    """Serve checkpoints, ask the suites' questions, score the answers, as `harness eval` does. Stored answers are used again.

    Args:
        checkpoints: one or several of: a run as `align` returns it, a run's name or folder, a model's name. With `endpoint` it is the
            model's name there.
        suites: names, as a list or separated by commas.
        base: evaluate the runs' base models, too; imported answers, and models behind an endpoint, have no known one.
        data: a data root, "official", or a world with an optional `@split`; None takes what suits the first checkpoint.
        backend: a backend's name; None takes vLLM where it is installed.
        endpoint: URLs of OpenAI-compatible endpoints, separated by commas.
        judge: a judge's name, for suites that need one.
        settings: by dotted key (`{"sampling.temperature": 0.2, "judge.model": "..."}`), or nested.
        limit: a seeded sample of this many items of each suite.
        repeat: ask everything this many times and tell the spread.
        noise: changes of the pictures, as `--noise` takes them.
        max_unscored: share of items that may remain without a verdict.
        overwrite: generate stored answers again.
        results: folder of the runs.

    Returns:
        The scores, one record a checkpoint, suite and change of the pictures: `record.target`, `record.suite`,
        `record.metrics["f1"].value` (rates as fractions), `.ci`; `record.written()` is what `harness eval --json` prints.

    Raises:
        BadInputError: names, data, settings or checkpoints are at fault; said before an engine starts.
        HarnessError: the engine failed (what was answered is kept), or too many items could not be scored.
    """
    from harness.api.targets import targets_of
    from harness.core import registry
    from harness.core.config import named_once
    from harness.evaluation.evaluate import run_eval
    from harness.evaluation.pictures import Change
    from harness.evaluation.request import EvalRequest
    from harness.records.score_files import SuiteScores
    from harness.runs.folders import Run
    from harness.serving.choose import choose_backend, endpoint_settings

    names = registry.names("benchmarks", suites if isinstance(suites, str) else ",".join(suites))
    engine = choose_backend("openai" if endpoint and not backend else backend)
    serving = endpoint_settings(endpoint, engine)
    one = isinstance(checkpoints, str | Path | Run)
    asked: list[Any] = [checkpoints] if one else list(checkpoints)  # type: ignore[arg-type]
    targets, usual = targets_of(asked, Path(results), base=base, remote=engine.remote)
    records = run_eval(
        EvalRequest(
            targets,
            names,
            data or usual,
            engine,
            named_once(nested(settings), {"backend": serving} if serving else {}),
            judge,
            max_unscored,
            limit,
            overwrite=overwrite,
            repeat=repeat,
            changes=Change.parse_list(noise) if noise else (),
        )
    )
    return [record for record in records if isinstance(record, SuiteScores)]


def score(
    suite: str,
    *,
    settings: Mapping[str, Any] | None = None,
    judge: str | None = None,
    allow_partial: bool = False,
    max_unscored: float = 0.01,
    items: str | Path | None = None,
    **files: str | Path,
) -> SuiteScores:
    """Score responses from any source, as `harness score` does.

    Args:
        suite: its name.
        settings: the judge's, by their keys: `{"model": ..., "base_url": ...}`.
        judge: a judge's name, for a suite that needs one.
        allow_partial: score only the items that have responses.
        max_unscored: share of items that may remain without a verdict.
        items: write one JSON line per item into this file.
        files: what the suite scores from, by the names of its options: `responses=..., annotations=...`.

    Returns:
        The scores; `written()` is what `harness score --json` prints.

    Raises:
        BadInputError: a file is missing or at fault, or the suite does not use one of the options.
    """
    from harness.core import registry
    from harness.core.contract import check_items
    from harness.evaluation.offline import offered_to, refuse_unused, score_offline
    from harness.evaluation.score import make_judge

    benchmark, offered = offered_to(
        registry.load("benchmarks", suite), {name: str(value) for name, value in files.items()}
    )
    asked, answers = benchmark.read_offline(offered)
    check_items(benchmark, "read_offline", asked, asked=False)
    refuse_unused(suite, offered.unused)
    wanted = {name for name, value in {"judge": judge, "settings": settings}.items() if value is not None}
    return score_offline(
        benchmark,
        asked,
        answers,
        judge_of=lambda: make_judge(judge or "openai", dict(settings or {})),
        judge_options=wanted,
        allow_partial=allow_partial,
        max_unscored=max_unscored,
        items_file=Path(items) if items is not None else None,
    )


def leaderboard(
    *folders: str | Path, pool_seeds: bool = False, published: bool = False, metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """The leaderboard as a pandas frame.

    Args:
        folders: results folders or runs; none takes `results`.
        pool_seeds: one row for the seeds of a configuration.
        published: add figures from papers.
        metrics: only these, by key (`halbench[spacy].chair_s`), name or title; `balance` for the margins on held-out pairs.

    Returns:
        One row a checkpoint and metric: model, data, checkpoint, method, published, metric, value (rates as fractions), ci_low, ci_high,
        spread, n, of, higher_is_better, best, frontier, difference to the base with its interval and corrected p.

    Raises:
        BadInputError: there is no complete run.
    """
    import pandas as pd

    from harness.analysis import leaderboard as boards
    from harness.runs.folders import survey

    places = [Path(folder) for folder in folders] or [Path("results")]
    runs, left_out = survey(places)
    tables = boards.collect(runs, left_out=left_out)
    chosen = boards.add_balance(tables, runs, list(metrics or ()), left_out)
    tables = boards.pool_seeds(tables) if pool_seeds else tables
    if published:
        tables = boards.add_published(tables, boards.read_published(boards.published_file(places)))
    if metrics is not None:
        tables = boards.select(tables, metrics=chosen)
    rows = []
    for board in boards.as_json(tables, left_out):
        for row in board["rows"]:
            about = {"model": board["model"], "data": board["data"]} | {
                name: row[name] for name in ("checkpoint", "method", "published")
            }
            for metric, cell in row["metrics"].items():
                low, high = cell["ci"] or (None, None)
                gap = cell["difference_to_base"] or {}
                gap_low, gap_high = gap.get("ci") or (None, None)
                rows.append(
                    about
                    | {"metric": metric, "value": cell["value"], "ci_low": low, "ci_high": high}
                    | {name: cell[name] for name in ("spread", "n", "of", "higher_is_better", "best", "frontier")}
                    | {"difference": gap.get("value"), "difference_low": gap_low, "difference_high": gap_high}
                    | {"p_holm": gap.get("p_holm")}
                )
    return pd.DataFrame(rows)


def report(
    output: str | Path = "report.html",
    runs: Sequence[str | Path] | None = None,
    *,
    samples: int = 2000,
    results: str | Path = "results",
) -> Path:
    """Write the HTML report, as `harness report` does.

    Args:
        output: the file.
        runs: names under `results`, or folders; None takes all.
        samples: show at most about this many items.
        results: folder of the runs.

    Returns:
        The file's absolute path.

    Raises:
        BadInputError: there is no such run, or nothing was scored.
    """
    from harness.reports import write_report
    from harness.runs.folders import find_run, survey

    if runs is None:
        chosen, left_out = survey([Path(results)])
    else:
        chosen, left_out = [find_run(str(name), Path(results)) for name in runs], []
    write_report(chosen, Path(output), most=samples, left_out=left_out)
    return Path(output).resolve()


def experiment(
    file: str | Path,
    *,
    model: str | None = None,
    data: str | None = None,
    seeds: Sequence[int] | None = None,
    backend: str | None = None,
    changes: Mapping[str, Any] | None = None,
    processes: int = 1,
    many: bool = False,
    results: str | Path = "results/experiments",
) -> dict[str, Any]:
    """Run an experiment file, as `harness experiment` does; steps that are done are not repeated.

    Args:
        file: a YAML file (docs/experiments.md), or the name of one that ships with the harness.
        model: override the file's model.
        data: override the file's preference data.
        seeds: override the file's seeds.
        backend: override the file's backend.
        changes: override any other key of the file, as `--set` does, by dotted key or nested: `{"limit": 48, "search.runs": 2}`.
        processes: run this many steps at a time, each in a process of its own.
        many: confirm more than 1,000 runs.
        results: folder of all experiments.

    Returns:
        What `experiment.json` has: the claims with their verdicts, differences and intervals, and the runs.

    Raises:
        BadInputError: the file is at fault; said before anything starts.
        HarnessError: steps failed; the others are kept.
    """
    from harness.core.files import read_json
    from harness.experiments.run import open_experiment, run_experiment
    from harness.experiments.workers import Processes

    named = {
        "model": model, "data": data, "seeds": list(seeds) if seeds is not None else None, "backend": backend,
    }  # fmt: skip
    overrides = nested(changes) | {key: value for key, value in named.items() if value is not None}
    opened = open_experiment(str(file), overrides, Path(results), many=many)
    _, error = run_experiment(opened, Processes(processes))
    if error is not None:
        raise error
    return dict(read_json(opened.folder.path / "experiment.json"))
