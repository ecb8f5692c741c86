"""Claims: expected results of an experiment as comparisons of two arms, and tests whether the runs show them.

chair_s(mfpo) < chair_s(dpo)
halbench.recall(mfpo) > halbench.recall(mfpo, images.corruption=whole-noise)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.analysis.leaderboard.board import Board, Column
from harness.core import registry
from harness.core.errors import BadInputError
from harness.core.stats import SEED, difference, gaps, holm
from harness.core.yaml_values import parse_yaml
from harness.experiments.graph import Plan
from harness.experiments.keys import BASE
from harness.experiments.sides import GAP, MARGINS, Missing, Scores
from harness.experiments.spec import Experiment
from harness.runs.folders import Run

Verdict = Literal["seen", "not seen", "reversed", "no data"]
_SIDE = r"\s*([A-Za-z0-9_.\-\[\]+:]+)\(([^()]*)\)\s*"
_CLAIM = re.compile(rf"{_SIDE}([<>]){_SIDE}")
LEVEL = 0.05


@dataclass(frozen=True)
class Claim:
    """One comparison: `metric` of the arm `left` is less (or greater) than of the arm `right`."""

    text: str
    metric: str
    left: str
    right: str
    less: bool


@dataclass(frozen=True)
class Finding:
    """The test result of a claim.

    Attributes:
        verdict: `seen` where the difference has the claimed sign and p, corrected over all claims, is below `LEVEL`; `reversed` if it
        has the other sign and p is below `LEVEL`; else `not seen`.
        values: of both arms, means over the seeds.
        value: left minus right, mean over the seeds.
        ci: its 95 % interval, from resampling each seed's images.
        p: two-sided, corrected (Holm) over the experiment's claims.
        by_seed: the difference of each seed.
        column: what was compared.
        reason: why there is no data.
    """

    claim: Claim
    verdict: Verdict
    values: tuple[float, float] | None = None
    value: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None
    by_seed: Sequence[float] = ()
    column: Column | None = None
    reason: str = ""


def read_claims(experiment: Experiment) -> list[Claim]:
    """The claims of a file.

    Raises:
        BadInputError: a claim has another form, names an unknown arm, or a metric that no suite of the experiment computes; the message
        has the line.
    """
    claims = []
    for number, text in enumerate(experiment.spec.claims):
        where = experiment.where("claims", number)
        match = _CLAIM.fullmatch(text)
        if match is None:
            raise BadInputError(
                f"a claim must compare one metric of two arms, not '{text}'",
                where=where,
                remedy="METRIC(ARM) < METRIC(OTHER ARM)",
            )
        metric, left, sign, other, right = match.groups()
        if metric != other:
            raise BadInputError(
                f"both sides of a claim must use the same metric, not {metric} and {other}", where=where
            )
        gap = GAP.fullmatch(metric)
        if gap and gap[1] not in [str(word) for word in experiment.spec.noise]:
            raise BadInputError(
                f"the experiment does not ask about pictures changed by '{gap[1]}'",
                where=where,
                remedy=f"noise: [{', '.join(map(str, [*experiment.spec.noise, gap[1]]))}]",
            )
        if metric not in MARGINS:
            _check_metric(gap[2] if gap else metric, experiment.suites, where, matched=not gap)
        arms = [_arm(side, experiment, where) for side in (left, right)]
        if metric in MARGINS:
            _check_margins(metric, arms, experiment, where)
        claims.append(Claim(text, metric, arms[0], arms[1], sign == "<"))
    return claims


def _check_margins(metric: str, arms: Sequence[str], experiment: Experiment, where: str) -> None:
    """Raise an error for arms without margins."""
    measured = {arm.label: arm.settings.get("train", {}).get("balance", {}).get("data") for arm in experiment.arms}
    for name in arms:
        if name == BASE:
            raise BadInputError(f"the base model has no {metric}: margins are differences from it", where=where)
        if measured[name] is None:
            raise BadInputError(
                f"the training of '{name}' measures no margins",
                where=where,
                remedy="settings: {train.balance.data: PAIRS}",
            )
    if stages := [arm.label for arm in experiment.arms if arm.label in arms and arm.stage]:
        raise BadInputError(
            f"margins are compared at the end of trainings, not after a stage: {stages[0]}", where=where
        )


def _check_metric(metric: str, suites: Sequence[str], where: str, *, matched: bool) -> None:
    known: dict[str, list[str]] = {}
    for suite in suites:
        benchmark = registry.load("benchmarks", suite)()
        cut = benchmark.matched.metrics if benchmark.matched and matched else ()
        names = [spec.id for spec in (*benchmark.metrics, *cut)]
        for name in names:
            known.setdefault(name, []).append(suite)
            known.setdefault(f"{suite}.{name}", []).append(suite)
    if metric not in known:
        plain = sorted(name for name in known if not any(name.startswith(f"{suite}.") for suite in suites))
        raise BadInputError(
            f"no suite of this experiment computes '{metric}'", where=where, remedy=f"they compute: {', '.join(plain)}"
        )
    if len(known[metric]) > 1:
        raise BadInputError(
            f"several suites compute '{metric}'", where=where, remedy=f"choose one, e.g. {known[metric][0]}.{metric}"
        )


def _arm(side: str, experiment: Experiment, where: str) -> str:
    """The label of the arm that a claim names: its name, with the settings in which it differs from others of that name."""
    if side.strip() in [arm.label for arm in experiment.arms]:  # as pages show it, where null is None
        return side.strip()
    name, *assignments = (part.strip() for part in side.split(","))
    if name == BASE and not assignments:
        return BASE
    wanted: dict[str, Any] = {}
    for part in assignments:
        key, equals, value = part.partition("=")
        if not equals:
            raise BadInputError(f"'{part}' is not a setting of the form KEY=VALUE", where=where)
        wanted[key.strip().removeprefix("method.")] = parse_yaml(value, f"the value of {key}", where)
    labels = [
        arm.label
        for arm in experiment.arms
        if arm.name == name and {key.removeprefix("method."): value for key, value in arm.assigned.items()} == wanted
    ]
    if not labels:
        raise BadInputError(
            f"there is no arm '{side.strip()}'",
            where=where,
            remedy=f"arms: {'; '.join([BASE, *(arm.label for arm in experiment.arms)][:30])}",
        )
    return labels[0]


def find(claims: Sequence[Claim], plan: Plan, boards: Sequence[Board], runs: Sequence[Run] = ()) -> list[Finding]:
    """Test the claims.

    Args:
        claims: as `read_claims` returns them.
        plan: of the experiment.
        boards: of its runs and base models; not pooled, so that images are paired within a seed.
        runs: these runs, for claims about margins and about changed pictures.
    """
    scores = Scores(plan, boards, runs)
    measured = [_measure(claim, plan, scores) for claim in claims]
    corrected = holm({str(place): found.p for place, found in enumerate(measured) if found.p is not None})
    return [_judged(found, corrected.get(str(place))) for place, found in enumerate(measured)]


def _measure(claim: Claim, plan: Plan, scores: Scores) -> Finding:
    values, drawn, sides, clusters, column = [], [], [], 0, None
    places: dict[str, int] = {}
    for seed in plan.worlds:
        try:
            left, right = scores.pair(claim.metric, (claim.left, claim.right), seed)
            column = left.column
        except Missing as missing:
            return Finding(claim, "no data", column=column, reason=f"seed {seed}: {missing}")
        # Seeds on the same pictures share their resamples, as on the leaderboard; other pictures are resampled independently.
        place = places.setdefault(left.data, len(places))
        value, gap = gaps(left.counts, right.counts, left.aggregate, seed=SEED + place)[left.metric]
        values.append(value)
        drawn.append(gap)
        sides.append((left.value, right.value))
        clusters = max(clusters, len(left.counts.clusters))
    pooled = difference(float(np.mean(values)), np.mean(drawn, axis=0), clusters)
    if pooled is None or column is None:
        return Finding(claim, "no data", column=column, reason="the metric is undefined for one of the arms")
    means = (float(np.mean([side[0] for side in sides])), float(np.mean([side[1] for side in sides])))
    return Finding(claim, "not seen", means, pooled.value, pooled.ci, pooled.p, values, column)


def _judged(finding: Finding, p: float | None) -> Finding:
    if p is None or finding.value is None:
        return finding
    as_claimed = (finding.value < 0) == finding.claim.less and finding.value != 0
    verdict: Verdict = "not seen" if p >= LEVEL else "seen" if as_claimed else "reversed"
    return Finding(
        finding.claim, verdict, finding.values, finding.value, finding.ci, p, finding.by_seed, finding.column
    )
