"""Processes that prepare images change no bit of a training, however they are started; what fails there is said here."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aligners.base import CHOSEN, REJECTED
from aligners.dpo import DPO
from aligners.mfpo import MFPO
from aligners.rlhfv import RLHFV
from aligners.training import run as training
from aligners.training.batches import checked, loader, loaders_end
from aligners.training.encoding import Encoder
from aligners.training.job import AlignJob
from aligners.training.layout import collate
from aligners.training.policy import Policy
from harness.cli import app
from harness.cli.errors import run
from harness.core.config import LoraSettings, Savings, TrainSettings
from harness.core.errors import BadInputError, HarnessError
from harness.core.types import ImageRef, PreferenceExample
from harness.models import export_full
from tests.tiny import tiny_photograph
from tests.tiny_families import FAMILIES

SETTINGS = {
    "learning_rate": 2e-3,
    "batch_size": 8,
    "micro_batch_size": 4,
    "max_length": 512,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
}
BRANCHES = (CHOSEN, REJECTED)


def train(aligner: Any, base: Path, data: Path, output: Path, **settings: Any) -> tuple[list[dict[str, Any]], Any]:
    """What a training logs but its speed, and what it leaves."""
    output.mkdir(parents=True)
    wanted = TrainSettings.model_validate({**SETTINGS, **settings})
    done = training.train(aligner, AlignJob(str(base), str(data), output, wanted, output.parent / "cache", limit=24))
    log = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    computed = [{name: value for name, value in row.items() if "per_second" not in name} for row in log]
    return computed, load_file(done.checkpoint / "adapter_model.safetensors")


def the_same(actual: Any, expected: Any) -> None:
    """Log and weights, to the bit."""
    assert actual[0] == expected[0]
    assert actual[1].keys() == expected[1].keys()
    assert all(torch.equal(value, expected[1][name]) for name, value in actual[1].items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kept"),
    [(DPO, True), (DPO, False), (MFPO, True), pytest.param(RLHFV, True, marks=pytest.mark.exhaustive)],
)
def test_workers_change_no_bit(method: type, kept: bool, base: Path, pairs: Path, tmp_path: Path) -> None:
    settings = {"savings": {"feature_cache": kept}}
    blocks = [
        train(method(), base, pairs, tmp_path / str(workers), workers=workers, **settings) for workers in (0, 1, 2)
    ]
    assert len(blocks[0][0]) >= 3 and any(value.any() for name, value in blocks[0][1].items() if "lora_B" in name)
    the_same(blocks[1], blocks[0])
    the_same(blocks[2], blocks[0])


def family_data(family: str, folder: Path) -> tuple[Path, Path]:
    """A base of a family, and pairs with pictures of several sizes, one of them twice under two names."""
    export_full(*FAMILIES[family](), folder / "base")
    rows = []
    for number, size in enumerate(((40, 24), (60, 90), (48, 48), (40, 24)) * 2):
        tiny_photograph(folder / f"{number}.png", number % 7, size)
        texts = {"chosen": f"a red cat {number}", "rejected": f"a red dog and {number} cups"}
        rows.append(json.dumps({"id": str(number), "image": f"{number}.png", "prompt": "What is it?", **texts}))
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "base", folder / "pairs.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_workers_change_no_bit_of_any_family(family: str, tmp_path: Path) -> None:
    made = family_data(family, tmp_path)
    the_same(
        train(DPO(), *made, tmp_path / "one", workers=1, batch_size=4, epochs=2),
        train(DPO(), *made, tmp_path / "none", workers=0, batch_size=4, epochs=2),
    )


STARTED = """
import multiprocessing, sys
from pathlib import Path
from tests.aligners.training.test_workers import DPO, pickle, train

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    base, data, output = map(Path, sys.argv[2:])
    found = [train(DPO(), base, data, output / str(workers), workers=workers, batch_size=4) for workers in (0, 2)]
    (output / "found.pickle").write_bytes(pickle.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2.5-vl", pytest.param("llava-1.5", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("start", ["forkserver", pytest.param("spawn", marks=pytest.mark.exhaustive)])
def test_workers_may_be_started_in_any_way(family: str, start: str, tmp_path: Path) -> None:
    """Python 3.14 starts processes by `forkserver`: whatever goes to them is pickled."""
    made = family_data(family, tmp_path)
    (tmp_path / "started.py").write_text(STARTED)
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "started.py", start, *map(str, made), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    the_same(*pickle.loads((tmp_path / "found.pickle").read_bytes()))


def policy_of(family: str, folder: Path, savings: Savings) -> tuple[Policy, Any]:
    model, processor = FAMILIES[family]()
    policy = Policy(model, processor, "lora", LoraSettings(), savings, bfloat16=False)
    picture = ImageRef(path=tiny_photograph(folder / "one.png", 0, (40, 24)))
    texts = {"chosen": "a red cat", "rejected": "a blue dog"}
    row = PreferenceExample("one", "What is it?", {"original": picture}, texts)
    return policy, Encoder(processor, BRANCHES, 512, corrections=None).encode(row)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_makes_batches_travels_without_weights_and_makes_the_same(family: str, tmp_path: Path) -> None:
    policy, row = policy_of(family, tmp_path, Savings())
    policy.keep_features(row.images.values())
    maker = policy.preparer()
    sent = pickle.dumps(maker)
    assert not list(maker.inner.parameters()) and not list(maker.inner.buffers())
    here, there = (one.batch([row], BRANCHES) for one in (maker, pickle.loads(sent)))
    for block, other in zip(here.blocks, there.blocks, strict=True):
        assert torch.equal(block.input_ids, other.input_ids) and torch.equal(block.position_ids, other.position_ids)
        assert block.features == other.features and block.image_inputs.keys() == other.image_inputs.keys()
        assert bool(block.features) != bool(block.image_inputs)
        assert all(torch.equal(value, other.image_inputs[name]) for name, value in block.image_inputs.items())


def test_kept_features_are_those_of_the_content_and_not_of_the_object(tmp_path: Path) -> None:
    policy, row = policy_of("llava-1.5", tmp_path, Savings())
    assert policy.keep_features(row.images.values()) == "1 images"
    (block,) = policy.prepare(pickle.loads(pickle.dumps(collate([row], BRANCHES, 0)))).blocks
    assert list(block.features) == [row.images["original"].fingerprint()] and not block.image_inputs
    again = ImageRef(data=row.images["original"].read(), name="the same picture from elsewhere")
    assert policy.keep_features([*row.images.values(), again]) == "1 images"


def test_the_model_is_never_called_without_pictures(tmp_path: Path) -> None:
    policy, row = policy_of("llava-1.5", tmp_path, Savings())
    bare = collate([row], BRANCHES, 0)
    with pytest.raises(HarnessError, match="without its images"):
        policy.token_logps(bare)
    policy.keep_features(row.images.values())
    prepared = policy.prepare(bare)
    policy.token_logps(prepared)
    policy.forget_features()
    with pytest.raises(HarnessError, match="1 images that are not cached"):
        policy.token_logps(prepared)


class Pieces:
    """Batches, the second of which cannot be made."""

    def __init__(self, kill: bool = False) -> None:
        self.kill = kill

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 1 and self.kill:
            os.kill(os.getpid(), 9)
        if index == 1:
            raise BadInputError("the image is gone", where="row 1", remedy="bring it back")
        return {"batch": index}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_error_here(workers: int) -> None:
    rows = iter(loader(Pieces(), workers))
    assert checked(next(rows)) == {"batch": 0}
    with pytest.raises(BadInputError) as caught:
        checked(next(rows))
    assert (caught.value.problem, caught.value.where) == ("the image is gone", "row 1")
    assert caught.value.remedy == "bring it back"


def test_a_worker_that_is_killed_is_said() -> None:
    with pytest.raises(HarnessError, match="prepares images ended") as caught, loaders_end():
        list(loader(Pieces(kill=True), 1))
    assert "train.workers=0" in str(caught.value.remedy)


@pytest.mark.slow
def test_the_documented_command_for_workers_does_as_without_them(base: Path, pairs: Path, tmp_path: Path) -> None:
    """As written, on a small model and small data."""
    lines = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8").splitlines()
    (command,) = [
        line.split() for line in lines if line.strip().startswith("harness align") and "train.workers=" in line
    ]
    assert command[:2] == ["harness", "align"]
    options = command[2:]
    options[options.index("--model") + 1], options[options.index("--data") + 1] = str(base), str(pairs)
    small = ["train.max_length=512", "train.batch_size=8", "train.learning_rate=1e-3"]
    more = ["--limit", "12", "--results", str(tmp_path), *(part for one in small for part in ("--set", one))]
    workers = []
    for name, last in (("written", []), ("without", ["--set", "train.workers=0"])):
        assert run(app, ["align", *options, *more, *last, "--name", name]) == 0
        workers.append(load_file(tmp_path / name / "checkpoint" / "adapter_model.safetensors"))
    assert any(value.any() for name, value in workers[0].items() if "lora_B" in name)
    assert all(torch.equal(value, workers[1][name]) for name, value in workers[0].items())
