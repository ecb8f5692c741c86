"""Settings chosen by a search: what is tried, on which data, what is kept; and what is refused, with the line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.core.errors import BadInputError
from harness.experiments.forecast import by_kind
from harness.experiments.run import open_experiment, run_experiment
from harness.experiments.search_rules import check_search
from harness.experiments.spec import read_experiment
from harness.worlds.pocket.formats import write_benchmarks
from tests import warm
from tests.harness.experiments.pretended import HALVED, SPEC, Pretended, given, opened, trials
from tests.tiny import tiny_llava, tiny_pairs

pytest.importorskip("optuna", reason="the extra 'search' is not installed")


def test_the_best_setting_on_validation_is_scored_once_on_test(tmp_path: Path) -> None:
    work = Pretended()
    _, error = run_experiment(opened(tmp_path), work)
    assert error is None
    [tried] = trials(tmp_path)
    betas = [trial["settings"]["method.beta"] for trial in tried]
    # The pocket recipe's own setting comes first; every setting is tried with both seeds, on the validation split only.
    assert betas[0] == 3 and len(set(betas)) == 8 and all(0.5 <= beta <= 40 for beta in betas)
    assert [trial["value"] for trial in tried] == [min(39, round(abs(beta - 10))) / 40 for beta in betas]
    sources = [given(command, "--data") for command in work.commands if command[0] == "eval"]
    assert sources == ["pocket@validation", "pocket:1@validation"] * 8 + ["pocket:6@test"]
    assert {given(command, "--suite") for command in work.commands[:-1] if command[0] == "eval"} == {"halbench"}
    best = min(betas, key=lambda beta: abs(beta - 10))
    last = [command for command in work.commands if command[0] == "align"][-1]
    assert f"method.beta={best}" in last and given(last, "--model") == "pocket:6"
    page = (tmp_path / "results/a/index.md").read_text()
    assert "Settings by method: dpo 8." in page and f"| dpo | 8 | method.beta={best} |" in page
    assert (
        page.count("**pocket:6** on pocket-6-test") == 1 and "pocket-validation" not in page.partition("## Search")[0]
    )
    html = (tmp_path / "results/a/index.html").read_text()
    assert "<h2>Search</h2>" in html and "<td>8</td>" in html
    # Again: nothing is run, the same page.
    again = Pretended(ends_after=0)
    assert run_experiment(opened(tmp_path), again)[1] is None and trials(tmp_path) == [tried]


class ScoredTwice(Pretended):
    """Beside each score file there is one of another extractor, which sorts before it and says something else."""

    def _evaluate(self, command: list[str]) -> str | None:
        error = super()._evaluate(command)
        for path in Path(given(command, "--results")).glob("*/evals/*/scores-spacy.json"):
            record = json.loads(path.read_text())
            record["metrics"]["chair_s"]["value"] = float((path.parents[2] / "beta").exists())
            other = record | {"variant": "nltk", "settings": record["settings"] | {"extractor": "nltk"}}
            path.with_name("scores-nltk.json").write_text(json.dumps(other))
            path.with_name("items-nltk.jsonl").write_bytes(path.with_name("items-spacy.jsonl").read_bytes())
        return error


def test_scores_of_another_extractor_decide_nothing(tmp_path: Path) -> None:
    arms = {"dpo": {"method": "dpo", "search": {"method.beta": [4, 9, 30]}}}
    changes: dict[str, Any] = {"search": {"objective": "chair_s", "sampler": "grid"}, "arms": arms}
    [finding], error = run_experiment(opened(tmp_path, **changes), ScoredTwice())
    assert error is None and [trial["value"] for trial in trials(tmp_path)[0]] == [0.15, 0.025, 0.5]
    assert finding.column is not None and finding.column.key == "halbench[spacy].chair_s"
    assert finding.values == pytest.approx((0.025, 1.0))
    other = changes | {"evaluation": {"halbench.extractor": "nltk"}}
    [finding], _ = run_experiment(opened(tmp_path, "nltk", **other), ScoredTwice())
    assert finding.column is not None and finding.column.key == "halbench[nltk].chair_s"
    assert [trial["value"] for trial in trials(tmp_path, "nltk")[0]] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_an_interrupted_search_goes_on_with_the_same_trials(sampler: str, tmp_path: Path) -> None:
    changes = {"search": SPEC["search"] | {"sampler": sampler, "seed": 3}}
    run_experiment(opened(tmp_path, **changes), Pretended())
    for ends_after in (5, 6, 0):
        with pytest.raises(KeyboardInterrupt):
            run_experiment(opened(tmp_path, "other", **changes), Pretended(ends_after=ends_after))
    rest = Pretended()
    assert run_experiment(opened(tmp_path, "other", **changes), rest)[1] is None
    assert trials(tmp_path, "other") == trials(tmp_path) and len(trials(tmp_path)[0]) == 8
    assert sum(command[0] == "align" for command in rest.commands) < 17, "what was done was done again"
    other = changes["search"] | {"seed": 4}
    run_experiment(opened(tmp_path, "third", search=other), Pretended())
    assert trials(tmp_path, "third") != trials(tmp_path)


@pytest.mark.claims("experiment.search.halving")
def test_halving_tries_the_better_half_with_each_further_seed(tmp_path: Path) -> None:
    before = opened(tmp_path, **HALVED)
    aligned = [[step.kind for step in tried.steps.steps].count("align") for tried in before.searches.rounds]
    assert aligned == [5, 3, 2], "for a prediction, the first settings stand for those that will go on"
    assert sum(step.kind == "align" for step, _ in before.searches.round) == 5
    assert by_kind([before], {})["align"]["steps"] == 5 + 3 + 2 + 1

    work = Pretended(
        ends_after=5 + 2 + 2
    )  # five trials and their evaluations with seed 0, and two alignments with seed 1
    with pytest.raises(KeyboardInterrupt):
        run_experiment(opened(tmp_path, **HALVED), work)
    between = opened(tmp_path, **HALVED).searches
    assert [trial.settings["method.beta"] for trial in between.searched[0].trials] == [1, 30], (
        "the others are under way"
    )
    assert between.searched[0].best is None and between.searched[0].chosen is None
    rest = Pretended()
    assert run_experiment(opened(tmp_path, **HALVED), rest)[1] is None
    [tried] = trials(tmp_path)
    seeds = {trial["settings"]["method.beta"]: trial["seeds"] for trial in tried}
    assert seeds == {1: [0], 3: [0, 1], 7: [0, 1, 2], 9: [0, 1, 2], 30: [0]}
    assert [trial["value"] for trial in tried if len(trial["seeds"]) == 3] == pytest.approx([3 / 40, 1 / 40])
    chosen = [command for command in rest.commands if command[0] == "align"][-1]
    assert "method.beta=9" in chosen and given(chosen, "--model") == "pocket:6"
    page = (tmp_path / "results/a/index.md").read_text()
    assert "| dpo | 5 | method.beta=9 | 2.5 | 17.5 (seeds 0, 1 only) |" in page
    assert "after each seed but the last, the better half of an arm's settings went on" in page
    assert run_experiment(opened(tmp_path, **HALVED), Pretended(ends_after=0))[1] is None and trials(tmp_path) == [
        tried
    ]


def test_a_failed_trial_does_not_go_on(tmp_path: Path) -> None:
    """It is tried again by the next command, and with it what depends on it."""
    assert "2 steps failed, search/000/align-dpo-" in str(
        run_experiment(opened(tmp_path, **HALVED), Pretended(breaks="9"))[1]
    )
    [tried] = trials(tmp_path)
    got = {trial["settings"]["method.beta"]: (trial["value"] is None, trial["seeds"]) for trial in tried}
    assert got == {1: (False, [0, 1]), 3: (False, [0, 1, 2]), 7: (False, [0, 1, 2]), 9: (True, [0]), 30: (False, [0])}
    assert run_experiment(opened(tmp_path, **HALVED), Pretended())[1] is None
    assert {trial["settings"]["method.beta"]: trial["seeds"] for trial in trials(tmp_path)[0]}[9] == [0, 1, 2]
    nines = {"arms": {"dpo": {"method": "dpo", "search": {"method.beta": [9, 90, 99]}}}}
    with pytest.raises(BadInputError, match="no trial of any search has a value"):
        run_experiment(opened(tmp_path, "none", **HALVED | nines), Pretended(breaks="9"))


def test_a_value_is_kept_when_the_run_is_scored_again(tmp_path: Path) -> None:
    """Another experiment that shares the run may score it on more questions; then TPE would ask for other settings."""
    run_experiment(opened(tmp_path), Pretended())
    before = trials(tmp_path)
    kept = tmp_path / "results/a/search/000/values.json"
    values = kept.read_bytes()
    kept.unlink()
    assert opened(tmp_path).searches.searched[0].trials and not kept.exists(), "who only looks writes nothing"
    kept.write_bytes(values)
    for scores in (tmp_path / "results/runs").glob("dpo-*/evals/halbench@pocket*validation/scores*.json"):
        record = json.loads(scores.read_text())
        record["metrics"]["chair_s"]["value"] = 0.77
        scores.write_text(json.dumps(record))
    assert run_experiment(opened(tmp_path), Pretended(ends_after=0))[1] is None and trials(tmp_path) == before


def test_values_follow_what_was_tried_when_arms_get_other_names(tmp_path: Path) -> None:
    grid = {"sampler": "grid", "objective": "chair_s"}
    low, high = ({"method": "dpo", "search": {"method.beta": betas}} for betas in ([4, 8], [12, 30]))

    def values(arms: dict[str, Any]) -> dict[str, list[float]]:
        entry = opened(tmp_path, search=grid, arms=arms, claims=[])
        shown = {one.arm.label: [trial.value for trial in one.trials] for one in entry.searches.searched}
        _, error = run_experiment(entry, Pretended(ends_after=None if "a" in arms and "b" in arms else 0))
        assert error is None
        return shown

    values({"a": low, "b": high})
    kept = {"low": pytest.approx([6 / 40, 2 / 40]), "high": pytest.approx([2 / 40, 20 / 40])}
    assert values({"a": low, "b": high}) == {"a": kept["low"], "b": kept["high"]}
    assert values({"first": low, "second": high}) == {"first": kept["low"], "second": kept["high"]}
    assert values({"b": low, "a": high}) == {"b": kept["low"], "a": kept["high"]}, "the names are exchanged"


def test_another_objective_reads_the_scores_again(tmp_path: Path) -> None:
    """Its values are not those that were kept for the objective before, although the steps are the same ones."""
    arms = {"dpo": {"method": "dpo", "search": {"method.beta": [4, 9, 30]}}}
    grid = {"sampler": "grid", "objective": "chair_s"}
    assert run_experiment(opened(tmp_path, search=grid, arms=arms), Pretended())[1] is None
    assert [trial["value"] for trial in trials(tmp_path)[0]] == [0.15, 0.025, 0.5]
    other = grid | {"objective": "chair_i"}
    assert opened(tmp_path, search=other, arms=arms).searches.searched[0].finished
    assert run_experiment(opened(tmp_path, search=other, arms=arms), Pretended(ends_after=0))[1] is None
    # A dog in each of 40 descriptions, and a cat that is not there in 6, 1 or 20.
    wanted = pytest.approx([6 / 46, 1 / 41, 20 / 60])
    assert [trial["value"] for trial in trials(tmp_path)[0]] == wanted
    # Values that an earlier version kept do not say what they are of.
    kept = tmp_path / "results/a/search/000/values.json"
    record = json.loads(kept.read_text())
    assert record.pop("objective") == "halbench.chair_i"
    record["trials"][0]["value"] = 0.001
    kept.write_text(json.dumps(record))
    assert run_experiment(opened(tmp_path, search=other, arms=arms), Pretended(ends_after=0))[1] is None
    assert [trial["value"] for trial in trials(tmp_path)[0]] == wanted


def test_a_failed_trial_is_said_and_tried_again(tmp_path: Path) -> None:
    arms = {"dpo": {"method": "dpo", "search": {"method.beta": [4, 9, 30]}}}
    changes: dict[str, Any] = {"search": {"objective": "halbench.chair_s", "sampler": "grid"}, "arms": arms}
    _, error = run_experiment(opened(tmp_path, **changes), Pretended(breaks="9"))
    assert error is not None and "2 steps failed, search/000/align-dpo-" in str(error)
    page = (tmp_path / "results/a/index.md").read_text().partition("## Steps that failed")[2]
    assert "- search/000/align-dpo-" in page and "- search/000/eval-s0-0: done without align-dpo-" in page
    [tried] = trials(tmp_path)
    assert [(trial["settings"]["method.beta"], trial["value"]) for trial in tried] == [(4, 0.15), (9, None), (30, 0.5)]
    mended = Pretended()
    assert run_experiment(opened(tmp_path, **changes), mended)[1] is None
    assert [trial["value"] for trial in trials(tmp_path)[0]] == [0.15, 0.025, 0.5]
    assert sum(command[0] == "align" for command in mended.commands) == 2, "the mended trial, and the newly chosen one"
    with pytest.raises(BadInputError, match="no trial of any search has a value"):
        run_experiment(
            opened(tmp_path, "none", **changes | {"arms": {"dpo": {"method": "dpo", "search": {"method.beta": [9]}}}}),
            Pretended(breaks="9"),
        )


class Unanswering(Pretended):
    """Its evaluations on the validation split fail."""

    def _evaluate(self, command: list[str]) -> str | None:
        return "no answer" if "validation" in given(command, "--data") else super()._evaluate(command)


def test_old_scores_are_no_value_where_the_evaluation_failed(tmp_path: Path) -> None:
    """With other questions the trials are evaluated again; the scores on the earlier questions are still there."""
    changes: dict[str, Any] = {"search": {"objective": "chair_s", "sampler": "grid"}}
    changes["arms"] = {"dpo": {"method": "dpo", "search": {"method.beta": [4, 9, 30]}}}
    assert run_experiment(opened(tmp_path, **changes), Pretended())[1] is None
    changes["search"] = changes["search"] | {"questions": 20}
    with pytest.raises(BadInputError, match="no trial of any search has a value; search dpo: no answer"):
        run_experiment(opened(tmp_path, **changes), Unanswering())
    assert not opened(tmp_path, **changes).searches.searched[0].trials
    assert run_experiment(opened(tmp_path, **changes), Pretended())[1] is None
    assert [trial["value"] for trial in trials(tmp_path)[0]] == [6 / 20, 1 / 20, 1]


@pytest.mark.claims(
    "experiment.search.objective", "experiment.search.sampler", "experiment.search.runs", "experiment.search.seeds",
    "experiment.search.seed", "experiment.search.split", "experiment.search.benchmarks", "experiment.search.questions",
    "experiment.arms.search.low", "experiment.arms.search.high", "experiment.arms.search.log",
    "experiment.search.space.low", "experiment.search.space.high", "experiment.search.space.log",
)  # fmt: skip
def test_what_a_round_of_a_search_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("chosen-on", "held-back"):
        (tmp_path / name).mkdir()
    tiny_llava(tmp_path / "base")

    def commands(search: dict[str, Any], arms: dict[str, Any] | None = None, **space: Any) -> list[list[str]]:
        own = {"method": "dpo", "settings": {"method.beta": 99}, "search": {"method.beta": space or [1, 2, 3]}}
        arms = arms or {"a": own}
        about = {"model": "./base", "benchmarks": "./held-back", "arms": arms, "search": search, "claims": []}
        found = opened(tmp_path, **about | {"seeds": [0]})
        return [list(step.command) for step, _ in found.searches.round]

    def betas(search: dict[str, Any], **space: Any) -> list[float]:
        lines = [line for line in commands(search, **space) if line[0] == "align"]
        return [float(part.partition("=")[2]) for line in lines for part in line if part.startswith("method.beta=")]

    plain = {"objective": "chair_s", "sampler": "random", "runs": 5, "benchmarks": "./chosen-on"}
    assert betas(plain | {"sampler": "grid"}) == [1, 2, 3]
    for ends in ({"low": 1, "high": 9000}, {"low": 1.0, "high": 98.0, "log": True}):
        for_all = {"arms": {"a": {"method": "dpo", "settings": {"method.beta": 99}}}}
        lines = commands(plain | {"space": {"method.beta": ends}}, **for_all)
        drawn = [part.partition("=")[2] for line in lines for part in line if part.startswith("method.beta=")]
        assert [float(part) for part in drawn] == betas(plain, **ends)
    assert len(set(betas(plain, low=1.0, high=2.0))) == 5 and len(betas(plain | {"runs": 2}, low=1.0, high=2.0)) == 2
    assert all(1 <= beta <= 2 for beta in betas(plain, low=1.0, high=2.0))
    assert min(betas(plain, low=90.0, high=98.0)) >= 90
    assert betas(plain, low=1.0, high=98.0) != betas(plain, low=1.0, high=98.0, log=True)
    assert betas(plain | {"seed": 1}, low=1.0, high=98.0) != betas(plain, low=1.0, high=98.0)
    assert betas(plain, low=1, high=9000) == [round(beta) for beta in betas(plain, low=1, high=9000)]
    assert len(betas(plain | {"sampler": "tpe"}, low=1.0, high=2.0)) == 1, "one after another"
    assert betas(plain, low=1.0, high=100.0)[0] == 99, "the arm's own setting comes first"
    seeds = commands(plain | {"seeds": [4, 5], "runs": 1, "questions": 7})
    assert [part for line in seeds for part in line if part.startswith("train.seed=")] == [
        "train.seed=4",
        "train.seed=5",
    ]
    evaluated = next(line for line in seeds if line[0] == "eval")
    assert given(evaluated, "--data") == "./chosen-on" and given(evaluated, "--limit") == "7"
    pope = commands(plain | {"objective": "f1", "runs": 1})
    assert given(next(line for line in pope if line[0] == "eval"), "--suite") == "pope"


def test_searches_and_pages_tell_folders_apart_by_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "title: t\nsuites: [halbench]\nmodel: org/model\nbenchmarks: FIRST\n"
        f"{ARM}search: {{objective: chair_s, runs: 3, benchmarks: OTHER}}\n"
    )
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for folder in ("test/data", "val/data", "val/other", "cache/benchmarks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "test/data")

    def said(first: str, other: str) -> str:
        (tmp_path / "a.yaml").write_text(text.replace("FIRST", first).replace("OTHER", other))
        try:
            check_search(read_experiment(tmp_path / "a.yaml"))
        except BadInputError as error:
            return f"{error.problem}; {error.remedy}"
        return ""

    folder = str(tmp_path)
    assert said(f"{folder}/test/data", f"{folder}/val/other") == "" == said("official", f"{folder}/val/other")
    assert "two folders of benchmark data are named 'data'" in said(f"{folder}/test/data", f"{folder}/val/data")
    assert "rename one of them" in said(f"{folder}/test/data", f"{folder}/val/data")
    for first, other in (("test/data", "link"), ("cache/benchmarks", "official")):
        other = other if other == "official" else f"{folder}/{other}"
        assert "on which the experiment is scored" in said(f"{folder}/{first}", other)


HEAD = "title: t\nsuites: [halbench, pope]\nmodel: pocket\nseeds: [6]\n"
ARM = "arms:\n  a: {method: dpo, search: {method.beta: [1, 2]}}\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"{ARM}search:\n  objective: chair_s\n  runs: 3\n  split: test\n", 10, "on the validation split, not on 'test'"),
        (f"{ARM}search:\n  objective: chair_s\n  runs: 3\n  benchmarks: pocket@test\n", 10, "is a test split"),
        (f"{ARM}search:\n  objective: chair_s\n  runs: 3\n  benchmarks: pocket\n", 10, "is a test split"),
        (f"split: validation\n{ARM}search: {{objective: chair_s, runs: 3, seeds: [6]}}\n", 8, "on which the experiment is scored"),
        (f"{ARM}search: {{objective: chair_s}}\n", 7, "needs a budget"),
        (f"{ARM}search:\n  runs: 3\n  objective: mean_length\n", 9, "computes a metric 'mean_length'"),
        (f"{ARM}search:\n  runs: 3\n  seeds: [1, 1]\n  objective: chair_s\n", 9, "a seed appears twice"),
        (f"{ARM}search: {{objective: chair_s, runs: 600, seeds: [0, 1]}}\n", 7, "has 1,200 runs"),
        (f"{ARM}search:\n  objective: chair_s\n  runs: 3\n  halving: true\n", 10, "the sampler tpe tries one after another"),
        (f"{ARM}search:\n  objective: chair_s\n  sampler: grid\n  halving: true\n", 10, "it has only one"),
        (f"{ARM}search: {{objective: chair_s, runs: 1, sampler: grid}}\n", 6, "has 2 settings, and the budget is 1"),
        (ARM, 6, "the experiment has no search"),
        ("arms: {a: {method: dpo}}\nsearch: {objective: chair_s, runs: 3}\n", 6, "no arm says which settings"),
        (
            "arms:\n  a:\n    method: dpo\n    search:\n      method.beta: {low: 1, high: 2}\nsearch: {sampler: grid, objective: f1}\n",
            8,
            "a grid needs a list",
        ),
        ("arms:\n  a:\n    method: dpo\n    search:\n      method.beta: {low: 2, high: 1}\n", 9, "low must be below high"),
        ("arms:\n  a:\n    method: dpo\n    search:\n      method.bta: [1]\nsearch: {objective: chair_s, runs: 1}\n", 9, "unknown setting"),
        ("arms:\n  a:\n    method: dpo\n    search:\n      method.beta: [-1]\nsearch: {objective: chair_s, runs: 1}\n", 9, "bad value"),
        ("arms:\n  a:\n    method: dpo\n    grid: {method.beta: [1]}\n    search:\n      method.beta: [1]\n", 10, "also in grid or pairs"),
    ],
)  # fmt: skip
def test_mistakes_are_said_with_their_line(text: str, line: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(HEAD + text)
    with pytest.raises(BadInputError, match=said) as caught:
        open_experiment(str(tmp_path / "a.yaml"), {}, tmp_path / "results", many=False)
    assert str(caught.value.where).endswith(f"a.yaml, line {line}")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_real_search_killed_and_resumed(tmp_path: Path) -> None:
    tiny_llava(tmp_path / "base")
    tiny_pairs(tmp_path / "prefs", 16)
    write_benchmarks(0, "validation", tmp_path / "chosen-on")
    write_benchmarks(0, "test", tmp_path / "held-back")
    train = {
        "learning_rate": 2e-2,
        "batch_size": 8,
        "micro_batch_size": 8,
        "max_length": 256,
        "lora": {"rank": 4, "alpha": 8},
    }
    spec = SPEC | {
        "model": "./base", "data": "./prefs", "seeds": [0], "suites": ["pope"], "benchmarks": "./held-back", "questions": 12,
        "backend": "transformers", "evaluation": {"sampling.max_new_tokens": 4}, "settings": {"train": train},
        "search": {"objective": "random.accuracy", "runs": 3, "benchmarks": "./chosen-on", "questions": 12}, "claims": [],
    }  # fmt: skip
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(spec))

    def start(results: str) -> warm.Started:
        command = ["experiment", "a.yaml", "--results", results]
        return warm.start(command, cwd=tmp_path, stderr=subprocess.PIPE)

    calm = start("calm")
    said = calm.communicate()[1]
    assert calm.returncode == 0, said[-3000:]
    killed = start("killed")
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/runs/dpo-*/config.json"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert killed.poll() is None, "it ended before it was killed"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    resumed = start("killed")
    assert resumed.wait() == 0, resumed.stderr and resumed.stderr.read()[-3000:]
    assert trials(tmp_path, "killed") == trials(tmp_path, "calm") and len(trials(tmp_path, "calm")[0]) == 3
    names = [
        sorted(path.name for path in (tmp_path / results / "runs").glob("dpo-*")) for results in ("calm", "killed")
    ]
    assert names[0] == names[1] and len(names[0]) == 3
