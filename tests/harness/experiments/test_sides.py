"""Claims about margins and about changed pictures, on runs whose numbers are known."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.halbench import ObjectHalBench
from harness.analysis.leaderboard import collect
from harness.core.errors import BadInputError
from harness.core.files import sha256_file, write_json, write_jsonl
from harness.core.types import Response
from harness.evaluation.pictures import Change
from harness.evaluation.reliance import Answered, reliance
from harness.evaluation.score import item_rows, score_suite, write_scores
from harness.experiments.claims import Claim, Finding, find, read_claims
from harness.experiments.diagnostics import Reliance
from harness.experiments.evaluated import Evaluated, Scoring
from harness.experiments.graph import Plan
from harness.experiments.page import _bases
from harness.experiments.spec import read_experiment
from harness.runs.folders import open_run
from tests.scored_runs import items, make_run

PLAN = Plan((), {}, {(arm, seed): f"{arm}-{seed}" for arm in ("one", "two") for seed in (1, 2)}, {1: "m:1", 2: "m:2"})


def said(hallucinated: int) -> list[str]:
    return [f"A dog{' and a cat' if number < hallucinated else ''}." for number in range(40)]


def run_of(folder: Path, name: str, seed: int, plain: int, changed: int | None = None, data: str = "pictures") -> Path:
    """A run that names an absent cat in `plain` of 40 descriptions, and in `changed` of those of noised pictures."""
    method = "base" if name == "start" else "dpo"
    path = make_run(folder, f"{name}-{seed}", said(plain), data, method=method, model=f"m:{seed}")
    manifest = json.loads((path / "manifest.json").read_text())
    write_json(
        path / "manifest.json",
        manifest | {"kind": "base" if name == "start" else "align", "base": {"label": f"m:{seed}"}},
    )
    if changed is not None:
        clean = path / f"evals/halbench@{data}"
        benchmark, asked = ObjectHalBench(), items(40)
        answers = [
            {item.id: Response(item.id, text) for item, text in zip(asked, said(count), strict=True)}
            for count in (plain, changed)
        ]
        about = {
            "target": path.name, "method": method, "model": f"m:{seed}", "data": data, "sampling": {"max_new_tokens": 9},
            "serving": {"backend": "none", "device": "none"},
        }  # fmt: skip
        (_, before), (record, after) = (score_suite(benchmark, asked, texts, about=about) for texts in answers)
        change = Change("noise", 999)
        hashed = sha256_file(next(clean.glob("items*.jsonl")))
        compared = reliance(benchmark, Answered(before, answers[0]), Answered(after, answers[1]), hashed)
        written = write_scores(clean / "noise/999", record, item_rows(asked, answers[1], after))
        more = {"pictures": {"change": "999", **change.about()}, "reliance": compared.written()}
        write_json(written, json.loads(written.read_text()) | more)
    return path


def test_the_base_of_the_page_is_the_one_that_was_trained_on(tmp_path: Path) -> None:
    """Another experiment in the same results may have a base model of the same name."""
    for name, kind, label, weights in (
        ("base-m", "base", "m:1", "other"), ("base-m-1", "base", "m:1", "mine"), ("base-n", "base", "m:2", "n"),
        ("base-x", "base", "x", "mine"), ("one-1", "align", "m:1", "mine"),
    ):  # fmt: skip
        path = make_run(tmp_path, name, said(1))
        manifest = json.loads((path / "manifest.json").read_text())
        base = {"label": label, "fingerprint": weights}
        write_json(path / "manifest.json", manifest | {"kind": kind, "base": base})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/manifest.json").write_text("{")  # of another experiment
    bases = _bases(PLAN, tmp_path, [open_run(tmp_path / "one-1")])
    assert [run.name for run in bases] == ["base-m-1", "base-n"]


def test_an_evaluation_needs_the_scores_of_its_own_base_model(tmp_path: Path) -> None:
    """Not those of other weights with the same label."""
    asked = Evaluated(("one-1",), "m:1", "pictures", {"halbench": Scoring({})})
    for name, kind, weights, lacks in (
        ("one-1", "align", "mine", True), ("base-m", "base", "other", True), ("base-m-1", "base", "mine", False),
    ):  # fmt: skip
        path = make_run(tmp_path, name, said(1))
        manifest = json.loads((path / "manifest.json").read_text())
        write_json(path / "manifest.json", manifest | {"kind": kind, "base": {"label": "m:1", "fingerprint": weights}})
        assert asked.lacks(tmp_path, asked.scored(tmp_path)) is lacks, name
    assert {path.partition("/")[0] for path in asked.scored(tmp_path)} == {"one-1", "base-m-1"}


def with_margins(path: Path, text: np.ndarray, image: np.ndarray) -> None:
    """As a training leaves them."""
    write_jsonl(
        path / "held_out.jsonl",
        (
            {"pair": f"p{n}", "picture": str(n), "text": float(a), "image": float(b)}
            for n, (a, b) in enumerate(zip(text, image, strict=True))
        ),
    )
    measured = {"text": {"value": float(text.mean())}, "image": {"value": float(image.mean())}}
    manifest = json.loads((path / "manifest.json").read_text())
    write_json(path / "manifest.json", manifest | {"summary": {"balance": {"measured": [measured]}}})


def finding(folder: Path, text: str, metric: str, left: str, right: str, plan: Plan = PLAN) -> Finding:
    runs = [open_run(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    [tested] = find([Claim(text, metric, left, right, less="<" in text)], plan, collect(folder), runs)
    return tested


def test_the_gap_between_clean_and_noised_pictures(tmp_path: Path) -> None:
    """By hand: with noise, arm one names 20 more cats of 40, arm two none more."""
    for seed in (1, 2):
        run_of(tmp_path, "start", seed, 20, 24 + seed)
        run_of(tmp_path, "one", seed, 5, 25)
        run_of(tmp_path, "two", seed, 15, 15)
    larger = finding(tmp_path, ">", "gap[999].chair_s", "one", "two")
    assert (
        larger.verdict == "seen" and larger.values == pytest.approx((20 / 40, 0)) and larger.value == pytest.approx(0.5)
    )
    assert (
        larger.by_seed == pytest.approx([0.5, 0.5])
        and larger.ci is not None
        and 0.3 < larger.ci[0] < 0.5 < larger.ci[1] < 0.7
    )
    assert larger.column is not None and larger.column.key == "halbench[spacy].gap[999].chair_s"
    # The interval is that of a share of 40 pictures, which both seeds have: of those in which only the changed picture has a cat.
    shares = np.random.default_rng(0).binomial(40, 0.5, 20_000) / 40
    assert larger.ci == pytest.approx(tuple(np.percentile(shares, [2.5, 97.5])), abs=0.02)
    based = finding(tmp_path, ">", "gap[999].halbench.chair_s", "one", "base")
    assert based.values == pytest.approx((0.5, (5 + 6) / 80)) and based.verdict == "seen"
    missing = finding(tmp_path, "<", "gap[blank].chair_s", "one", "two")
    assert missing.verdict == "no data" and "one has no chair_s with pictures changed by blank" in missing.reason


def test_no_choice_is_made_among_scores_that_fit(tmp_path: Path) -> None:
    """Of two judges of the same name, nothing says which one is the experiment's."""
    for seed in (1, 2):
        for name in ("one", "two"):
            clean = run_of(tmp_path, name, seed, 5, 25) / "evals/halbench@pictures"
            for folder in (clean, clean / "noise/999"):
                record = json.loads((folder / "scores-spacy.json").read_text())
                write_json(folder / "scores-other.json", record | {"variant": "other"})
                (folder / "items-other.jsonl").write_bytes((folder / "items-spacy.jsonl").read_bytes())
    for settings, reason in (({}, "the scores [other], [spacy] of one-1 all fit"), ({"extractor": "llm"}, "no ")):
        fitting = replace(PLAN, scorings={"halbench": Scoring(settings)})
        for metric in ("chair_s", "gap[999].chair_s"):
            refused = finding(tmp_path, "<", metric, "one", "two", fitting)
            assert refused.verdict == "no data" and reason in refused.reason, refused.reason


def without(run: Path, lost: Collection[int]) -> None:
    """Remove the verdicts on some items with changed pictures, as if a judge had given none."""
    [path] = run.glob("evals/*/noise/*/items*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, (row for number, row in enumerate(rows) if number not in lost))


def test_gaps_are_compared_on_the_items_that_both_arms_have(tmp_path: Path) -> None:
    """Without the first five items, arm one names a cat in none of 35 original pictures and in 20 changed ones, arm two in 10 of each."""
    for seed in (1, 2):
        run_of(tmp_path, "one", seed, 5, 25)
        without(run_of(tmp_path, "two", seed, 15, 15), range(5))
    fewer = finding(tmp_path, ">", "gap[999].chair_s", "one", "two")
    assert fewer.verdict == "seen" and fewer.values == pytest.approx((20 / 35, 0))
    without(tmp_path / "two-2", range(40))
    none = finding(tmp_path, ">", "gap[999].chair_s", "one", "two")
    assert (none.verdict, none.reason) == ("no data", "seed 2: no item has a verdict with both pictures in both arms")


def test_gaps_of_suites_that_count_groups_use_whole_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions about each picture, of which arm two lacks one: the other one is left out, too."""
    asked = [replace(item, group=str(number // 2)) for number, item in enumerate(items(40))]
    monkeypatch.setattr("tests.scored_runs.items", lambda count: asked[:count])
    monkeypatch.setattr(f"{__name__}.items", lambda count: asked[:count])
    monkeypatch.setattr(ObjectHalBench, "whole_groups", True)
    for seed in (1, 2):
        run_of(tmp_path, "one", seed, 5, 25)
        without(run_of(tmp_path, "two", seed, 15, 15), [0])
    fewer = finding(tmp_path, ">", "gap[999].chair_s", "one", "two")
    assert fewer.values == pytest.approx((20 / 38, 0))


def test_the_tables_of_changed_pictures_are_about_the_experiments_data(tmp_path: Path) -> None:
    """The base model of several experiments may have scores on the data of another one."""
    run_of(tmp_path, "start", 1, 20, 25)
    base = run_of(tmp_path, "start", 1, 10, 35, "others")
    assert len(list(base.glob("evals/*/noise/999/scores*.json"))) == 2
    plan = replace(PLAN, worlds={1: "m:1"}, data=frozenset({"pictures"}))
    pages = Reliance(plan, [open_run(base)], [Change("noise", 999)], ["halbench"])
    [table] = pages.tables()
    assert "on pictures, n = 40" in table.title and [figure.content.rows for figure in pages.figures()][1] == [
        ("as it is", [50.0]),
        ("noise 999", [62.5]),
    ]


def test_margins_on_held_out_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 5, 60)
    for seed in (1, 2):
        run_of(tmp_path, "start", seed, 20)
        with_margins(run_of(tmp_path, "one", seed, 5), common + 1, common + 0.2 * rng.normal(size=60) + 1)
        with_margins(run_of(tmp_path, "two", seed, 5), common + 1, common)
    image = finding(tmp_path, ">", "balance.image", "one", "two")
    assert image.verdict == "seen" and image.value == pytest.approx(1, abs=0.1), (
        "paired: what pairs have in common is no noise"
    )
    assert image.ci is not None and image.ci[1] - image.ci[0] < 0.2
    text = finding(tmp_path, ">", "balance.text", "one", "two")
    assert text.verdict == "not seen" and text.value == pytest.approx(0) and text.column is not None
    assert text.column.key == "balance.text" and text.column.unit == "reward"
    # A training that knows some of the pairs leaves them out; the others are compared.
    with_margins(tmp_path / "two-2", common[:40], common[:40])
    fewer = finding(tmp_path, ">", "balance.text", "one", "two")
    assert fewer.value == pytest.approx(0.5) and fewer.values == pytest.approx(
        ((2 + common.mean() + common[:40].mean()) / 2, (1 + common.mean() + common[:40].mean()) / 2)
    )
    write_jsonl(tmp_path / "two-2/held_out.jsonl", [{"pair": "p0", "picture": "0", "text": 9.0, "image": 9.0}])
    other = finding(tmp_path, ">", "balance.image", "one", "two")
    assert (
        other.verdict == "no data"
        and other.reason == "seed 2: two: held_out.jsonl is not what its manifest has the mean of"
    )
    (tmp_path / "two-2/held_out.jsonl").write_text('{"picture": 3}\n')
    assert "two: held_out.jsonl: " in finding(tmp_path, ">", "balance.image", "one", "two").reason
    (tmp_path / "two-2/held_out.jsonl").unlink()
    assert "two has no margins of single pairs" in finding(tmp_path, ">", "balance.image", "one", "two").reason


FILE = """title: t
suites: [halbench]
noise: [999]
arms:
  a: {{method: dpo, settings: {{train.balance.data: pocket:1}}}}
  b: {{method: dpo}}
  c: {{method: mfpo, stages: [1-easy], settings: {{train.balance.data: pocket:1}}}}
claims:
  - chair_s(a) < chair_s(b)
  - {}
"""


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("gap[500].chair_s(a) < gap[500].chair_s(b)", "does not ask about pictures changed by '500'"),
        ("gap[999].wrong(a) < gap[999].wrong(b)", "no suite of this experiment computes 'wrong'"),
        (
            "gap[999].chair_s_matched(a) < gap[999].chair_s_matched(b)",
            "no suite of this experiment computes 'chair_s_matched'",
        ),
        ("balance.image(a) < balance.image(b)", "the training of 'b' measures no margins"),
        ("balance.text(base) < balance.text(a)", "the base model has no balance.text"),
        ("balance.text(c, stage=1-easy) < balance.text(c)", "not after a stage"),
    ],
)
def test_mistakes_are_said_with_their_line(claim: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(FILE.format(json.dumps(claim)))
    with pytest.raises(BadInputError) as caught:
        read_claims(read_experiment(tmp_path / "a.yaml"))
    assert said in caught.value.problem and str(caught.value.where).endswith("a.yaml, line 10")


def test_sound_claims_about_both_are_read(tmp_path: Path) -> None:
    for claim in (
        "gap[999].halbench.chair_s(base) < gap[999].halbench.chair_s(a)",
        "balance.image(c) > balance.image(a)",
    ):
        (tmp_path / "a.yaml").write_text(FILE.format(json.dumps(claim)))
        assert read_claims(read_experiment(tmp_path / "a.yaml"))[1].text == claim
