"""Arms of which also the checkpoints after stages are scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import BadInputError
from harness.experiments.claims import read_claims
from harness.experiments.execute import _without
from harness.experiments.graph import plan
from harness.experiments.spec import read_experiment
from tests.harness.experiments.test_spec import written

STAGES = """model: pocket
seeds: [0, 6]
arms:
  a: {method: mfpo, data: pocket@rlhf-v, grid: {method.delta: [0, 1]}, stages: [1-easy, 2-medium]}
  b: {extends: a, data: "pocket:3"}
claims: ["chair_s(a, delta=1, stage=2-medium) < chair_s(a, delta=1)"]
"""


@pytest.mark.claims("experiment.arms.stages")
def test_stages_are_scored_beside_the_whole_training(tmp_path: Path) -> None:
    experiment = read_experiment(written(tmp_path / "a.yaml", STAGES))
    whole = ["a, delta=0", "a, delta=0, stage=1-easy", "a, delta=0, stage=2-medium"]
    assert [arm.label for arm in experiment.arms][:3] == whole and len(experiment.arms) == 7
    [claim] = read_claims(experiment)
    assert (claim.left, claim.right) == ("a, delta=1, stage=2-medium", "a, delta=1")
    steps = plan(experiment, tmp_path)
    aligned = [step for step in steps.steps if step.kind == "align"]
    assert len(aligned) == 2 * 3, "a stage is not trained once more"
    run = steps.labels["a, delta=0", 6]
    assert steps.labels["a, delta=0, stage=1-easy", 6] == f"{run}-1-easy"
    assert steps.folder(f"{run}-1-easy") == f"{run}/stages/1-easy" and steps.folder(run) == run
    asked = [
        step for step in steps.steps if step.kind == "eval" and run in step.command[step.command.index("--run") + 1]
    ]
    runs = asked[0].command[asked[0].command.index("--run") + 1].split(",")
    assert runs[:3] == [run, f"{run}/stages/1-easy", f"{run}/stages/2-medium"] and len(runs) == 4
    assert asked[0].needs[0] == f"align-{run}" and len(asked[0].needs) == 2
    # Without the training, the evaluation leaves out its stages, too.
    assert _without(list(asked[0].command), {run})[asked[0].command.index("--run") + 1] == runs[3]
    # The world's pairs are those of the run's seed, unless the file names one.
    data = [step.command[step.command.index("--data") + 1] for step in aligned]
    assert data == [*["pocket@rlhf-v"] * 2, "pocket:3", *["pocket:6@rlhf-v"] * 2, "pocket:3"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("1-easy, 2-medium", "easy"), "a stage must be named as its folder is, not 'easy'"),
        (("1-easy, 2-medium", "1-easy, 1-easy"), "the stage '1-easy' appears twice"),
        (("pocket@rlhf-v", "pocket@silkie"), "'pocket' has no preference data named 'silkie'"),
        (("data: pocket@rlhf-v", "settings: {train.tuning: full}"), "keeps no checkpoints of its stages"),
    ],
)
def test_mistakes_in_stages(wrong: tuple[str, str], said: str, tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", STAGES.replace(*wrong))
    with pytest.raises(BadInputError, match=said) as caught:
        plan(read_experiment(file), tmp_path)
    assert str(caught.value.where).endswith("a.yaml, line 6")
