"""Settings that only change what a training takes leave curve and weights as they are: alone, in pairs, through stages, resumed.

The pairs are those of a Plackett-Burman design: in its 12 runs every two settings meet in all four combinations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aligners.base import Logps, Loss
from aligners.dpo import DPO
from aligners.mfpo import MFPO
from aligners.rlhfv import RLHFV
from aligners.training import run as training
from aligners.training.job import AlignJob
from aligners.training.memory import step
from aligners.training.memory.peak import Peak
from harness.core.config import Savings, TrainSettings, merged

SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "max_length": 512,
    # A weight moves by the size of its gradient, so that rounding stays rounding where the gradient is small.
    "adam_epsilon": 1e-3,
    "lora": {"rank": 4, "alpha": 8},
}
OTHERS: dict[str, dict[str, Any]] = {
    "workers": {"workers": 2},
    "micro_batch_size": {"micro_batch_size": 3},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "save_steps": {"save_steps": 1},
    **{name: {"savings": {name: False}} for name in Savings.model_fields},
}
"""Every such setting with a value that is not the default."""
TO_THE_BIT = {"workers", "save_steps", "reference_cache"}
_ROW = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)
DESIGN = [[*(_ROW[(place - shift) % 11] for place in range(11))] for shift in range(11)] + [[0] * 11]


def pairwise(row: Sequence[int]) -> list[str]:
    """The settings that are not at their default in a run of the design."""
    return [name for name, on in zip(OTHERS, row, strict=False) if on]


def test_every_pair_of_settings_meets() -> None:
    assert len(OTHERS) <= len(_ROW)
    for one in range(len(OTHERS)):
        for other in range(one):
            assert {(row[one], row[other]) for row in DESIGN} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_settings_are_those_with_which_a_run_may_be_resumed() -> None:
    of_cost = {*OTHERS} - {*Savings.model_fields} | {"savings"}
    assert of_cost | {"keep_stages", "report_to"} == TrainSettings.COST_ONLY


class KilledError(RuntimeError):
    """In the place of a kill."""


def killed_at(kind: type[DPO], call: int) -> DPO:
    """The method, which ends the run when its loss is asked for the so-manieth time."""

    class Short(kind):  # type: ignore[misc, valid-type]
        """The same loss, up to there."""

        calls = 0

        def loss(self, policy: Logps, reference: Logps) -> Loss:
            self.calls += 1
            if self.calls == call:
                raise KilledError
            found: Loss = super().loss(policy, reference)
            return found

    return Short()


class Trained:
    """A training's curve and weights."""

    def __init__(self, aligner: Any, job: AlignJob) -> None:
        done = training.train(aligner, job)
        self.summary = done.summary
        self.weights = load_file(done.checkpoint / "adapter_model.safetensors")
        self.curve = [json.loads(line) for line in (job.output / "train_log.jsonl").read_text().splitlines()]

    def holds(self, other: Trained, exact: bool) -> None:
        """The other is the same, to the bit or to rounding; and something was learned."""
        assert len(self.curve) == len(other.curve) and self.weights.keys() == other.weights.keys()
        learned = max(float(value.abs().max()) for name, value in self.weights.items() if "lora_B" in name)
        assert learned > 1e-3, "nothing was learned"
        for row, found in zip(self.curve, other.curve, strict=True):
            for name in ("loss", "reward_chosen", "margin"):
                assert found[name] == (row[name] if exact else pytest.approx(row[name], abs=2e-5, rel=1e-4))
        for name, value in self.weights.items():
            if exact:
                assert torch.equal(other.weights[name], value), name
            else:
                torch.testing.assert_close(other.weights[name], value, atol=learned / 500, rtol=1e-3)


def job(base: Path, pairs: Path, output: Path, names: Sequence[str], resume: bool = False, **more: Any) -> AlignJob:
    """An alignment with some settings at their other value."""
    output.mkdir(parents=True, exist_ok=True)
    train = TrainSettings.model_validate(merged(SETTINGS, *(OTHERS[name] for name in names), more))
    # The canary has tests of its own, and would take as long as these trainings do.
    where = output.parent / ("cache" if "reference_cache" not in names else "none")
    return AlignJob(str(base), str(pairs), output, train, where, limit=20, resume=resume, canary=False)


@pytest.fixture(scope="module")
def plain(base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[type, Trained]:
    """Each method with the defaults."""
    folder = tmp_path_factory.mktemp("plain")
    return {kind: Trained(kind(), job(base, pairs, folder / kind.name, [])) for kind in (DPO, MFPO, RLHFV)}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_alone(name: str, plain: dict[type, Trained], base: Path, pairs: Path, tmp_path: Path) -> None:
    plain[DPO].holds(Trained(DPO(), job(base, pairs, tmp_path / "run", [name])), exact=name in TO_THE_BIT)


def roomy(monkeypatch: pytest.MonkeyPatch, base: Path, micro: int, again: bool) -> None:
    """There is memory for just so many examples a pass."""

    def room(process: Any, config: Any, train: TrainSettings, encoded: Any) -> step.Room:
        peak = Peak.of_examples(DPO(), str(base), train, encoded, gpu=False)
        needed = peak.of(train.model_copy(update={"gradient_checkpointing": again}), micro).total
        return step.Room(step.RAM, int(needed / 0.8) + 1)

    monkeypatch.setattr(step, "room_for", room)


@pytest.mark.slow
def test_a_micro_batch_that_is_chosen_changes_nothing_either(
    plain: dict[type, Trained], base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun where there is room for two examples a pass, gone on with where there is room for one that is computed again."""
    auto = {"micro_batch_size": "auto", "save_steps": 1}
    roomy(monkeypatch, base, 2, again=False)
    with pytest.raises(KilledError):
        training.train(killed_at(DPO, 5), job(base, pairs, tmp_path / "run", [], **auto))  # in the second step
    roomy(monkeypatch, base, 1, again=True)
    found = Trained(DPO(), job(base, pairs, tmp_path / "run", [], resume=True, **auto))
    assert found.summary.step.micro_batch_size == 1 and found.summary.step.gradient_checkpointing
    plain[DPO].holds(found, exact=False)


@pytest.mark.slow
@pytest.mark.parametrize("row", DESIGN, ids=lambda row: "+".join(pairwise(row)) or "none")
@pytest.mark.parametrize("method", [DPO, pytest.param(RLHFV, marks=pytest.mark.exhaustive)])
def test_in_pairs(
    method: type, row: list[int], plain: dict[type, Trained], base: Path, pairs: Path, tmp_path: Path
) -> None:
    names = pairwise(row)
    found = Trained(method(), job(base, pairs, tmp_path / "run", names))
    plain[method].holds(found, exact=set(names) <= TO_THE_BIT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [row if number % 4 == 0 else pytest.param(row, marks=pytest.mark.exhaustive) for number, row in enumerate(DESIGN)],
    ids=lambda row: "+".join(pairwise(row)) or "none",
)
def test_in_pairs_through_stages_and_resumed_with_others(
    row: list[int], plain: dict[type, Trained], base: Path, pairs: Path, tmp_path: Path
) -> None:
    """MFPO is ended in its second stage, and goes on with the opposite of every setting."""
    names = pairwise(row)
    opposite = [name for name in OTHERS if name not in names]
    passes = 4 if "micro_batch_size" in names else 1  # a step's; a stage has one step
    with pytest.raises(KilledError):
        training.train(killed_at(MFPO, passes + 1), job(base, pairs, tmp_path / "run", names))
    assert (tmp_path / "run" / "stages" / "1-easy" / "finished.safetensors").exists()
    found = Trained(MFPO(), job(base, pairs, tmp_path / "run", opposite, resume=True))
    plain[MFPO].holds(found, exact=False)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_within_a_stage(
    workers: int, plain: dict[type, Trained], base: Path, pairs: Path, tmp_path: Path
) -> None:
    first = ["save_steps", *(["workers"] if workers else [])]
    with pytest.raises(KilledError):
        training.train(killed_at(DPO, 3), job(base, pairs, tmp_path / "run", first))
    assert (tmp_path / "run" / "stages" / "1-all" / "checkpoint-2").is_dir()
    then = [] if workers else ["workers"]
    plain[DPO].holds(Trained(DPO(), job(base, pairs, tmp_path / "run", then, resume=True)), exact=True)
