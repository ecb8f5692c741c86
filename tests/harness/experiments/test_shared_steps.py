"""Steps that experiments share, that fail, or that another scheduler carries out."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from harness.core.errors import HarnessError
from harness.experiments.forecast import by_kind, first_to_ask
from harness.experiments.run import open_experiment, run_all, run_experiment
from tests.commands import run_here
from tests.harness.experiments.pretended import HALVED, SPEC, Pretended, given, opened, trials

pytest.importorskip("optuna", reason="the extra 'search' is not installed")

SUITES = {"two": ["halbench", "pope"], "single": ["halbench"]}
"""Name of an experiment -> what it evaluates on."""


def test_experiments_of_one_command_share_what_they_have_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run and counted once; trials measure no margins, because these decide nothing."""
    monkeypatch.chdir(tmp_path)
    margins = {"train": {"balance": {"data": "pocket", "pairs": 8}}}
    search = {"objective": "chair_s", "sampler": "grid", "runs": 2, "seeds": [0, 1]}
    space = {"method.beta": [3, 9]}
    first = SPEC | {"settings": margins, "search": search, "arms": {"dpo": {"method": "dpo", "search": space}}}
    arms = first["arms"] | {"hot": {"method": "dpo", "settings": {"train.epochs": 2}, "search": space}}
    for name, changes in (("a", {}), ("b", {"arms": arms})):
        Path(f"{name}.yaml").write_text(json.dumps(first | changes))
    opened_ones = [open_experiment(f"{name}.yaml", {}, Path("results"), many=False) for name in "ab"]
    kinds = by_kind(opened_ones, {})
    assert kinds["align"]["steps"] == 2 * (2 * 2 + 1) and kinds["align"]["done"] == 0
    work = Pretended()
    ended, error = run_all(opened_ones, lambda folder: work)
    assert error is None and [folder.path.name for folder, _ in ended] == ["a", "b"]
    aligned = [command for command in work.commands if command[0] == "align"]
    assert len({given(command, "--name") for command in aligned}) == len(aligned) == 2 * (2 * 2 + 1)
    measured = [any(part.startswith("train.balance.data") for part in command) for command in aligned]
    assert [given(command, "--model") == "pocket:6" for command in aligned] == measured and sum(measured) == 2


def test_a_base_model_is_counted_for_the_step_that_asks_it_first(tmp_path: Path) -> None:
    """Steps that are done asked before all others; an embedded world has a base model for every seed, another model has one."""

    def written(name: str, **changes: Any) -> Any:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(SPEC | {"search": None, "claims": []} | changes))
        return open_experiment(str(tmp_path / f"{name}.yaml"), {}, tmp_path / "results", many=False)

    def asking(*files: Any) -> list[dict[str, set[str]]]:
        first = first_to_ask(files)
        return [{step.name: {*first[step.key]} for step in file.plan.steps if step.key in first} for file in files]

    mild = {"dpo": {"method": "dpo", "settings": {"method.beta": 5}}}
    two, single = (written(name, arms={"dpo": {"method": "dpo"}}, suites=suites) for name, suites in SUITES.items())
    milder = written("milder", arms=mild, seeds=[6, 7])
    both = {"halbench", "pope"}
    assert asking(two, milder, single) == [
        {"eval-s6-0": both},
        {"eval-s6-0": set(), "eval-s7-0": both},
        {"eval-s6-0": set()},
    ]
    _, error = run_experiment(single, Pretended())
    assert error is None
    assert asking(two, milder, single) == [
        {"eval-s6-0": {"pope"}},
        {"eval-s6-0": set(), "eval-s7-0": both},
        {"eval-s6-0": {"halbench"}},
    ]
    other = written("other", arms=mild, questions=5)
    assert asking(two, other)[1] == {"eval-s6-0": both}, "a sample of its questions is not the same questions"
    named = written("named", arms=mild, model="llava-v1.6-7b", seeds=[0, 1], noise=[500])
    assert asking(named) == [{"eval-s0-0": both, "noise-s0-0-500": both, "eval-s1-0": set(), "noise-s1-0-500": set()}]


def test_scores_that_another_experiment_replaced_are_made_again(tmp_path: Path) -> None:
    """Both score the same run: one on all questions, the other on a few."""
    plain = {"search": None, "arms": {"dpo": {"method": "dpo"}}, "suites": ["halbench"]}
    few = plain | {"questions": 16}

    def again(name: str, **changes: Any) -> tuple[list[str], Any]:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(SPEC | changes))
        entry = open_experiment(str(tmp_path / f"{name}.yaml"), {}, tmp_path / "results", many=False)
        states = {step.kind: record.state for step, record in entry.folder.table(entry.plan)}
        work = Pretended()
        [finding], error = run_experiment(entry, work)
        assert error is None
        return [states["eval"], *(command[0] for command in work.commands)], finding.values

    asked, whole = again("whole", **plain)
    assert asked == ["waiting", "align", "eval"] and again("whole", **plain) == (["done"], whole)
    assert again("few", **few)[0] == ["waiting", "eval"] and again("few", **few)[0] == ["done"]
    assert again("whole", **plain) == (["changed", "eval"], whole) and again("whole", **plain) == (["done"], whole)
    # The other one makes the run again, after somebody removed it.
    [run] = (tmp_path / "results/runs").glob("dpo-*")
    shutil.rmtree(run)
    assert again("few", **few)[0] == ["changed", "align", "eval"]
    assert again("whole", **plain) == (["changed", "eval"], whole)
    # A record of an earlier version has no hashes: it is done while there are scores.
    record = tmp_path / "results/whole/steps/eval-s6-0.json"
    kept = json.loads(record.read_text())
    assert len(kept.pop("scored")) == 2
    record.write_text(json.dumps(kept))
    assert again("whole", **plain)[0] == ["done"]
    next(run.glob("evals/*/scores-spacy.json")).unlink()
    assert again("whole", **plain)[0] == ["changed", "eval"]


def test_a_failing_experiment_does_not_stop_the_next(tmp_path: Path) -> None:
    arms = {"dpo": {"method": "dpo", "search": {"method.beta": [9]}}}
    search = SPEC["search"] | {"sampler": "grid"}
    broken = opened(tmp_path, arms=arms, search=search)
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(SPEC | {"arms": {"dpo": {"method": "dpo"}}, "search": None}))
    sound = open_experiment(str(tmp_path / "b.yaml"), {}, tmp_path / "results", many=False)
    ended, error = run_all([broken, sound], lambda folder: Pretended(breaks="9"))
    assert [folder.path.name for folder, _ in ended] == ["b"]
    assert error is not None and "1 of 2 experiments have failed steps: a;" in str(error)


def test_failed_steps_are_listed_if_there_is_nothing_to_write_a_page_about(tmp_path: Path) -> None:
    class Unscored(Pretended):
        def _evaluate(self, command: list[str]) -> str | None:
            return "the engine did not start"

    entry = opened(tmp_path, arms={"dpo": {"method": "dpo"}}, search=None)
    with pytest.raises(
        HarnessError, match="1 step failed: eval-s6-0: the engine did not start; there is no page"
    ) as caught:
        run_experiment(entry, Unscored())
    assert caught.value.exit_code == 1


def test_status_and_the_commands_of_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(opened(tmp_path), Pretended(ends_after=4))
    code, out, _ = run_here(["experiment", "a.yaml", "--results", "results", "--status"])
    assert code == 0 and "search  dpo: 1 trials are done, best 0.175; its settings are chosen when" in out
    assert out.count("waiting") == 5, (
        "one count, and the four steps of the second trial: its worlds are those of the first"
    )
    code, out, said = run_here(["experiment", "a.yaml", "--results", "results", "--print"])
    assert code == 0 and len(out.splitlines()) == 4 and "one round of the search" in said
    code, out, _ = run_here(["experiment", "a.yaml", "--results", "results", "--status", "--json"])
    [found] = json.loads(out)["searches"]
    assert not found["finished"] and found["trials"] == [
        {"settings": {"method.beta": 3.0}, "value": 0.175, "seeds": [0, 1]}
    ]


class AnotherScheduler(Pretended):
    """Its scores say how they were sampled, as those of `harness eval` do."""

    about: ClassVar[dict[str, Any]] = {
        "sampling": {"temperature": 0.0, "top_p": 1.0, "seed": 0, "max_new_tokens": 512},
    }


@pytest.mark.parametrize("told", [True, False])
def test_another_scheduler_carries_out_the_printed_commands(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round after another, until nothing is left; scores that do not tell how they were made are no proof of that."""
    monkeypatch.chdir(tmp_path)
    changes = HALVED | {"suites": ["halbench"], "evaluation": {} if told else {"backend.batch_size": 3}}
    opened(tmp_path, **changes)
    work, log = AnotherScheduler(), tmp_path / "log"
    counts: list[int] = []
    for _ in range(6):
        code, out, said = run_here(["experiment", "a.yaml", "--results", "results", "--print"])
        lines = [shlex.split(line)[1:] for line in out.splitlines()]
        assert code == 0 and ("scores do not tell whether" in said) is not told
        counts.append(sum(line[0] == "align" for line in lines))
        if not lines:
            break
        for line in lines:
            assert work.submit(line, log).result() is None
    # Five, three and two of them with a seed each, then the chosen setting on the test split.
    assert counts == ([5, 3, 2, 1, 0] if told else [5, 0, 0, 0, 0, 0])
    assert run_experiment(opened(tmp_path, **changes), AnotherScheduler(ends_after=0 if told else None))[1] is None
    assert {trial["settings"]["method.beta"] for trial in trials(tmp_path)[0] if len(trial["seeds"]) == 3} == {7, 9}


def test_what_is_running_is_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = opened(tmp_path, **HALVED)
    [tried, *_] = entry.searches.rounds
    with entry.folder.locked():
        tried.folder.keep_running({"world-pocket": time.time()})
        _, out, said = run_here(["experiment", "a.yaml", "--results", "results", "--print"])
    assert "1 steps are running now" in said and len(out.splitlines()) == len(tried.steps.steps) - 1
    assert "data get" not in out
