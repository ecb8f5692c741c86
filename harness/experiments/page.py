"""The result page of an experiment: claims, leaderboard with pooled seeds, arms and commands, as Markdown and as HTML."""

from __future__ import annotations

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from harness.analysis.leaderboard import Board, as_markdown, collect, pool_seeds
from harness.analysis.leaderboard.board import scale
from harness.analysis.text_table import TextTable
from harness.core.errors import BadInputError
from harness.core.files import atomic_path, write_json
from harness.core.pages import render
from harness.core.record import check
from harness.core.terminal import plain
from harness.core.worlds import find_world
from harness.experiments.arms import Arm
from harness.experiments.claims import Finding, find, read_claims
from harness.experiments.diagnostics import Reliance, margins
from harness.experiments.graph import Plan, changes_of
from harness.experiments.keys import ExperimentSpec, dotted
from harness.experiments.records import ClaimResult, ResultFile, SearchResult
from harness.experiments.search import Searched, Searches, search_tables
from harness.experiments.spec import Experiment
from harness.experiments.state import ExperimentFolder
from harness.experiments.step import RUNS, sets
from harness.records.manifest_file import SummaryOfData
from harness.reports import charts_and_tables, write_document
from harness.reports.figures import Figure
from harness.runs.folders import Run, list_runs, open_run
from harness.runs.manifest import surroundings

PAGE, RESULT = "index", "experiment.json"


def write_page(
    experiment: Experiment,
    plan: Plan,
    folder: ExperimentFolder,
    failed: Mapping[str, str],
    searches: Searches,
) -> list[Finding]:
    """Write `index.md`, `index.html` and `experiment.json` from the available results; returns the test results of the claims.

    Args:
        experiment: as it was read.
        plan: of the experiment with the settings that its searches chose.
        folder: of the experiment.
        failed: name of a step, of the experiment or of a round of its searches, or of a search -> why it failed.
        searches: how the settings were chosen.

    Raises:
        BadInputError: nothing was scored.
    """
    claims = read_claims(experiment)
    runs, arms = _runs(plan, folder), searches.resolved(experiment).arms
    # Its runs may be another experiment's, too, which scored them by other suites.
    scored = collect(runs, suites=experiment.suites)
    boards = [_of_arms(board, plan) for board in scored if not plan.data or board.data in plan.data]
    reliance = Reliance(plan, runs, changes_of(experiment), experiment.suites)
    parts: list[tuple[str, list[Figure], list[TextTable]]] = [
        ("Image reliance", reliance.figures(), reliance.tables()),
        ("Modality balance", [], margins(plan, runs)),
        ("Search", [], search_tables(experiment, searches)),
    ]
    findings = find(claims, plan, boards, runs)
    counts, trained = _counts(experiment.arms, searches), _trained_on(arms, plan, runs)
    rows = [(arm.label, arm.method_name, _range(trained[arm.label]), _settings(arm)) for arm in arms]
    note = _different_pairs(trained)
    pooled = [_named(board, plan) for board in (pool_seeds(boards) if len(plan.worlds) > 1 else boards)]
    head = _head(experiment, plan)
    markdown = "\n".join(
        [
            f"# {experiment.spec.title}",
            "",
            *([experiment.spec.about.strip(), ""] if experiment.spec.about.strip() else []),
            *head,
            "",
            *(_claims_markdown(findings) if findings else []),
            "## Leaderboard",
            "",
            as_markdown(pooled).strip(),
            "",
            *(line for title, _, tables in parts for line in _tables_markdown(title, tables)),
            *_arms_markdown(rows, counts, note),
            *_failed_markdown(failed),
        ]
    )
    with atomic_path(folder.path / f"{PAGE}.md") as temporary:
        temporary.write_text(plain(markdown) + "\n", encoding="utf-8")
    sections = render(
        Path(__file__).with_name("page.html"),
        head=[line for line in [experiment.spec.about.strip(), *head] if line],
        claims=[[finding.claim.text, finding.verdict, *_points(finding), _signs(finding)] for finding in findings],
        headings=_HEADINGS,
        about_claims=_CLAIMS,
        diagnostics=[(title, charts_and_tables(charts, tables)) for title, charts, tables in parts if tables],
        counts=counts,
        arm_headings=_ARM_HEADINGS,
        arms=rows,
        about_arms=note,
        failed={name: " ".join(reason.split()) for name, reason in failed.items()},
    )
    page = folder.path / f"{PAGE}.html"
    write_document(experiment.spec.title, pooled, [Markup(sections)], page, notes=reliance.reasons)
    _write_result(experiment, plan, folder, failed, searches, findings)
    return findings


def _write_result(
    experiment: Experiment,
    plan: Plan,
    folder: ExperimentFolder,
    failed: Mapping[str, str],
    searches: Searches,
    findings: Sequence[Finding],
) -> None:
    """Write `experiment.json`; arguments as of `write_page`."""
    arms = searches.resolved(experiment).arms
    write_json(
        folder.path / RESULT,
        ResultFile(
            title=experiment.spec.title,
            claims=[_result(finding) for finding in findings],
            arms={arm.label: [plan.labels[arm.label, seed] for seed in plan.worlds] for arm in arms},
            search=[_search_result(experiment, searched) for searched in searches.searched] or None,
            seeds=list(plan.worlds),
            failed=dict(failed),
            **surroundings().written(),
        ).written(),
    )


def _runs(plan: Plan, folder: ExperimentFolder) -> list[Run]:
    """The experiment's own complete runs, after their base models."""
    runs = folder.results / RUNS
    folders = [folder for folder in map(plan.folder, plan.runs) if (runs / folder / "manifest.json").exists()]
    if not folders:
        raise BadInputError(
            "no run of this experiment is complete",
            where=str(folder.path),
            remedy="fix the errors in the logs of its steps, and run the same command again",
        )
    made = [open_run(runs / folder) for folder in folders]
    return [*_bases(plan, runs, made), *made]


def _bases(plan: Plan, runs: Path, made: Sequence[Run]) -> list[Run]:
    """The runs of the base models. Of several with the same name, those with the weights that the experiment's runs were trained on."""
    # Also other experiments' runs, of which one may be unreadable.
    every = sorted(list_runs(runs), key=lambda run: run.name)
    named = [run for run in every if run.kind == "base" and run.base_label in plan.worlds.values()]
    weights = {run.manifest.base.fingerprint for run in made if run.manifest}
    used = [run for run in named if run.manifest and run.manifest.base.fingerprint in weights]
    told_apart = {run.base_label for run in used}
    return [run for run in named if run in used or run.base_label not in told_apart]


def _of_arms(board: Board, plan: Plan) -> Board:
    """Make the runs of an arm the seeds of one configuration: generated pairs and earlier rounds have other names for every seed."""
    for row in board.rows:
        if row.name in plan.runs:
            row.config = {"arm": plan.runs[row.name][0].label}
    return board


def _named(board: Board, plan: Plan) -> Board:
    """Name rows after their arms, because a run's own name is a hash."""
    for row in board.rows:
        row.name = plan.arms_of(row.runs) or row.name
    return board


def made_by(experiment: Experiment) -> str:
    """The command that makes this page, with the values that were given in place of the file's."""
    return shlex.join(["harness", "experiment", experiment.given_as, *sets(experiment.overrides)])


def _head(experiment: Experiment, plan: Plan) -> list[str]:
    spec, here = experiment.spec, surroundings()
    hardware = here.hardware
    machine = ", ".join(hardware.gpus) or f"{hardware.cores} CPU cores ({hardware.machine})"
    return [
        f"Model {spec.model}; {len(experiment.arms)} arms; seeds {', '.join(map(str, plan.worlds))}; {_scored_on(spec, plan)}. "
        f"{here.finished[:10]}, {machine}, harness {here.harness}.",
        f"Made by `{made_by(experiment)}`.",
    ]


def _scored_on(spec: ExperimentSpec, plan: Plan) -> str:
    """What the runs are scored on, as text: only the data of an embedded world that the file does not name are a split."""
    if spec.benchmarks is None and find_world(spec.model):
        return f"{spec.split} split"
    return f"scored on {', '.join(sorted(plan.data))}"


def _points(finding: Finding) -> tuple[str, str, str]:
    """Values of both arms, the difference with its interval, and p, as text."""
    if finding.value is None or finding.column is None or finding.ci is None or finding.values is None:
        return "", finding.reason, ""
    factor, digits = scale(finding.column.unit)
    left, right = (f"{value * factor:.{digits}f}" for value in finding.values)
    difference, low, high = (f"{value * factor:+.{digits}f}" for value in (finding.value, *finding.ci))
    p = "< 0.001" if (finding.p or 0) < 0.001 else f"{finding.p:.3f}"
    return f"{left} against {right}", f"{difference} ({low} to {high})", p


_HEADINGS = ("claim", "verdict", "values", "difference (95 %)", "p", "seeds with the claimed sign")
_CLAIMS = (
    "A claim is seen if the difference has the claimed sign and p < 0.05 after Holm's correction over the claims of this page, reversed "
    "if it has the other sign and p < 0.05. Interval and p by bootstrap over each seed's images; seeds are not resampled."
)


def _claims_markdown(findings: Sequence[Finding]) -> list[str]:
    lines = [
        "## Claims",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        "|---|---|---|---|---|---|",
    ]
    for finding in findings:
        values, difference, p = _points(finding)
        text = finding.claim.text.replace("|", "\\|")
        lines.append(f"| `{text}` | **{finding.verdict}** | {values} | {difference} | {p} | {_signs(finding)} |")
    return [*lines, "", _CLAIMS, ""]


def _tables_markdown(title: str, tables: Sequence[TextTable]) -> list[str]:
    lines = [f"## {title}", ""] if tables else []
    for table in tables:
        rows = [" | ".join(cells) for cells in (table.heads, ["---"] * len(table.heads), *table.rows)]
        lines += [f"**{table.title}**", "", *(f"| {row} |" for row in rows), "", table.note, ""]
    return lines


def _signs(finding: Finding) -> str:
    if not finding.by_seed:
        return ""
    agree = sum((value < 0) == finding.claim.less and value != 0 for value in finding.by_seed)
    return f"{agree} of {len(finding.by_seed)}"


def _counts(arms: Sequence[Arm], searches: Searches) -> str:
    """The number of settings of each method in this experiment, those that were searched included, as text."""
    tried = {searched.arm.label: searched.tried for searched in searches.searched}
    counts: Counter[str] = Counter()
    for arm in arms:
        if (
            arm.previous is None and arm.whole is None
        ):  # a later round has the settings of the first one, a stage those of its training
            counts[arm.method_name] += tried.get(arm.label, 1)
    return ", ".join(f"{method} {count}" for method, count in counts.items())


def _search_result(experiment: Experiment, searched: Searched) -> SearchResult:
    best, about = searched.best, experiment.spec.search
    return SearchResult(
        arm=searched.arm.label,
        objective=about.objective if about else "",
        sampler=about.sampler if about else "",
        settings=searched.tried,
        chosen=dict(best.settings) if best else None,
        value=best.value if best else None,
        trials=[trial.shown for trial in searched.trials],
    )


_ARM_HEADINGS = ("arm", "method", "pairs", "settings")


def _arms_markdown(rows: Sequence[Sequence[str]], counts: str, note: str) -> list[str]:
    lines = [
        "## Arms",
        "",
        f"Settings by method: {counts}.",
        "",
        f"| {' | '.join(_ARM_HEADINGS)} |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return [*lines, "", *([note, ""] if note else [])]


def _trained_on(arms: Sequence[Arm], plan: Plan, runs: Sequence[Run]) -> Mapping[str, list[int]]:
    """By label of an arm: the numbers of pairs that its complete runs were trained on, one a seed; none for an arm that is a stage."""
    pairs = {
        run.name: check(SummaryOfData, run.manifest.summary, "manifest", run.path / "manifest.json").data.examples
        for run in runs
        if run.manifest and "data" in (run.manifest.summary or {})
    }
    names = {arm.label: [plan.labels[arm.label, seed] for seed in plan.worlds] for arm in arms if arm.stage is None}
    return defaultdict(
        list, {label: [pairs[name] for name in of_arm if name in pairs] for label, of_arm in names.items()}
    )


def _range(numbers: Sequence[int]) -> str:
    """One number, or the smallest and the largest, as text."""
    return " to ".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)})) if numbers else ""


def _different_pairs(trained: Mapping[str, Sequence[int]]) -> str:
    """What a reader must know before comparing arms, if they were trained on unequal numbers of pairs; else empty."""
    numbers = {number for of_arm in trained.values() for number in of_arm}
    return f"The arms were trained on different numbers of pairs: {_range([*numbers])}." if len(numbers) > 1 else ""


def _settings(arm: Arm) -> str:
    settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in dotted(arm.settings).items()) or "defaults"
    return f"{settings}; pairs generated, judge {arm.generate.judge}" if arm.generate else settings


def _failed_markdown(failed: Mapping[str, str]) -> list[str]:
    lines = [f"- {name}: {' '.join(reason.split())}" for name, reason in failed.items()]
    return ["## Steps that failed", "", *lines, ""] if failed else []


def _result(finding: Finding) -> ClaimResult:
    return ClaimResult(
        claim=finding.claim.text,
        verdict=finding.verdict,
        column=finding.column.key if finding.column else None,
        values=list(finding.values) if finding.values else None,
        difference=finding.value,
        ci=list(finding.ci) if finding.ci else None,
        p_holm=finding.p,
        by_seed=list(finding.by_seed),
        reason=finding.reason or None,
    )
