"""Claims against runs whose answers are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.analysis.leaderboard import collect
from harness.experiments.claims import Claim, find
from harness.experiments.graph import Plan
from tests.scored_runs import make_run


def said(hallucinated: int, count: int = 40) -> list[str]:
    """Descriptions of pictures of a dog; the first ones name a cat, too."""
    return [f"A dog{' and a cat' if number < hallucinated else ''}." for number in range(count)]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    for seed in (1, 2):
        data, model = f"pictures-{seed}", f"m:{seed}"
        make_run(tmp_path, f"start-{seed}", said(30), data, method="base", model=model)
        make_run(tmp_path, f"good-{seed}", said(5 + seed), data, method="mfpo", model=model)
        make_run(tmp_path, f"bad-{seed}", said(29), data, method="dpo", model=model)
    labels = {(arm, seed): f"{arm}-{seed}" for arm in ("good", "bad") for seed in (1, 2)}
    return Plan((), {}, labels, {1: "m:1", 2: "m:2"})


def test_claims_are_seen_not_seen_or_reversed(plan: Plan, tmp_path: Path) -> None:
    boards = collect(tmp_path)
    claims = [
        Claim("a", "chair_s", "good", "base", less=True),
        Claim("b", "halbench.chair_s", "good", "bad", less=False),
        Claim("c", "chair_s", "bad", "base", less=True),
        Claim("d", "chair_s", "good", "absent", less=True),
    ]
    plan.labels["absent", 1] = plan.labels["absent", 2] = "absent"  # type: ignore[index]
    good, reverse, near, absent = find(claims, plan, boards)
    assert (good.verdict, reverse.verdict, near.verdict, absent.verdict) == ("seen", "reversed", "not seen", "no data")
    # By hand: 6 and 7 of 40 against 30 of 40.
    assert good.values == pytest.approx(((6 + 7) / 80, 0.75)) and good.value == pytest.approx(13 / 80 - 0.75)
    assert good.by_seed == pytest.approx([6 / 40 - 0.75, 7 / 40 - 0.75])
    assert good.ci is not None and good.ci[0] < good.value < good.ci[1] < 0
    assert near.value == pytest.approx(-0.025) and near.p is not None and near.p > 0.05
    assert "absent was not scored" in absent.reason


def test_p_is_corrected_over_the_claims(plan: Plan, tmp_path: Path) -> None:
    boards = collect(tmp_path)
    claim = Claim("a", "chair_s", "bad", "base", less=True)
    [alone] = find([claim], plan, boards)
    twice = find([claim, Claim("b", "chair_i", "bad", "base", less=True)], plan, boards)
    assert alone.p is not None and twice[0].p is not None and twice[0].p > alone.p


def test_arms_are_compared_on_the_items_that_both_have(plan: Plan, tmp_path: Path) -> None:
    """As on the leaderboard: a judge may leave some items of one arm without a verdict."""
    make_run(tmp_path, "bad-1", said(28, 30), "pictures-1", method="dpo", model="m:1")
    [fewer] = find([Claim("a", "chair_s", "good", "bad", less=True)], plan, collect(tmp_path))
    assert fewer.verdict == "seen" and fewer.by_seed == pytest.approx([(6 - 28) / 30, (7 - 29) / 40])
    assert fewer.values == pytest.approx(((6 / 30 + 7 / 40) / 2, (28 / 30 + 29 / 40) / 2))


def test_arms_on_other_data_are_not_compared(plan: Plan, tmp_path: Path) -> None:
    plan.labels["bad", 1] = "bad-2"  # type: ignore[index]
    [other] = find([Claim("a", "chair_s", "good", "bad", less=True)], plan, collect(tmp_path))
    assert other.verdict == "no data" and other.reason == "seed 1: the arms were not scored on the same data"


def test_seeds_on_the_same_pictures_share_their_resamples(tmp_path: Path) -> None:
    """Three seeds that answer the same say no more about the pictures than one of them, also if each has a model of its own."""
    seeds = (6, 7, 8)
    for seed in seeds:
        make_run(tmp_path, f"good-{seed}", said(12), method="mfpo", model=f"m:{seed}")
        make_run(tmp_path, f"bad-{seed}", said(20), method="dpo", model=f"m:{seed}")
    labels = {(arm, seed): f"{arm}-{seed}" for arm in ("good", "bad") for seed in seeds}
    claim = Claim("a", "chair_s", "good", "bad", less=True)
    [three] = find([claim], Plan((), {}, labels, {seed: f"m:{seed}" for seed in seeds}), collect(tmp_path))
    [one] = find([claim], Plan((), {}, labels, {6: "m:6"}), collect(tmp_path))
    assert three.ci == pytest.approx(one.ci) and three.p == one.p
