"""Commands that load models, each in a process of its own and from a folder that is not the checkout.

In one process with other tests a command may find what another has imported: so the torchvision shim once came too late in every process
that a person started, and in none that a test did.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.files import read_json
from harness.models import torchvision_shim
from harness.serving.vllm import VllmBackend
from tests.commands import afresh as harness
from tests.harness.serving.fake_vision import small_pope
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph

OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
needs_vllm = pytest.mark.skipif(VllmBackend.missing() is not None, reason="vLLM is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that `harness align` made in it, in a process of its own, as all else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    tiny_llava(folder / "base")
    pairs = tiny_pairs(folder, 8)
    tiny_photograph(folder / "p.png", 0)
    small_pope(folder)
    settings = ["learning_rate=0.02", "epochs=1", "batch_size=8", "micro_batch_size=8", "max_length=256"]
    harness(
        folder,
        *("align", "--method", "dpo", "--model", "./base", "--data", str(pairs), "--name", "one"),
        *(part for one in settings for part in ("--set", f"train.{one}")),
        **OFFLINE,
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("merge", ["--merge", pytest.param("--adapter", marks=pytest.mark.exhaustive)])
def test_export_and_what_is_done_with_it(folder: Path, merge: str) -> None:
    out = f"exported{merge}"
    harness(folder, "export", "one", "-o", out, merge, **OFFLINE)
    kind = {"--merge": "full", "--adapter": "adapter"}[merge]
    assert read_json(folder / out / "manifest.json")["checkpoint"]["kind"] == kind
    asked = harness(folder, "ask", out, "p.png", "what is this", "--max-new-tokens", "3", "--json", **OFFLINE)
    own = harness(folder, "ask", "one", "p.png", "what is this", "--max-new-tokens", "3", "--json", **OFFLINE)
    assert list(json.loads(asked.stdout).values()) == list(json.loads(own.stdout).values())
    if kind == "full":
        found = harness(folder, "push", out, "somebody/model", "--dry-run", "--json", **OFFLINE)
        assert "model.safetensors" in {one["name"] for one in json.loads(found.stdout)["files"]}


@pytest.mark.slow
def test_push_eval_and_verify(folder: Path) -> None:
    refused = harness(folder, "push", "one", "somebody/model", "--dry-run", code=2, **OFFLINE)
    assert "harness export one -o DIR" in " ".join(refused.stderr.split())
    harness(folder, "eval", "--run", "one", "--suite", "pope", "--data", "data", "--backend", "transformers", **OFFLINE)
    assert list((folder / "results" / "one" / "evals").glob("pope@*/scores*.json"))
    found = harness(folder, "verify", "one", "--probes", "2", "--backend", "transformers", "--json", **OFFLINE)
    assert json.loads(found.stdout)["same"]


@pytest.mark.slow
@pytest.mark.vllm
@needs_vllm
def test_verify_with_vllm(folder: Path) -> None:
    found = harness(folder, "verify", "one", "--probes", "2", "--json", **OFFLINE)
    assert json.loads(found.stdout)["same"] and json.loads(found.stdout)["serving"]["backend"] == "vllm"


@pytest.mark.slow
@pytest.mark.parametrize(
    "first", [*(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("peft", "transformers")), "torch", "vllm"]
)
def test_whatever_is_imported_first_the_shim_comes_before_torchvision(first: str, tmp_path: Path) -> None:
    """In this process by `import harness`, in a child of ours by its environment, where nobody imports the harness."""
    if first == "vllm" and VllmBackend.missing():
        pytest.skip("vLLM is not installed")
    code = f"import {first}; from transformers import BloomPreTrainedModel, LlavaProcessor; import torchvision; print('came through')"
    for before, environment in (
        ("import harness; ", dict(os.environ)),
        ("", torchvision_shim.child_environment()),
    ):
        done = subprocess.run(
            [sys.executable, "-c", before + code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.stdout.strip().endswith("came through"), done.stderr[-2000:]


def test_looking_for_torchvision_imports_nothing() -> None:
    code = "import harness, importlib.util, sys; importlib.util.find_spec('torchvision'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_hook_is_there_once_and_stays_out_of_the_environment_of_others() -> None:
    torchvision_shim.install()
    assert sum(type(finder).__name__ == "_BeforeTorchvision" for finder in sys.meta_path) == 1
    once = torchvision_shim.child_environment({"PYTHONPATH": "/mine"})
    assert once["PYTHONPATH"].split(os.pathsep) == [str(torchvision_shim.CHILD_FOLDER), "/mine"]
    assert torchvision_shim.child_environment(once) == once


@pytest.mark.slow
def test_the_next_export_removes_what_a_killed_one_left(folder: Path, tmp_path: Path) -> None:
    """Killed while the weights are written; other hidden folders are nobody's left-overs."""
    shutil.copytree(folder, tmp_path / "here", symlinks=True)
    here = tmp_path / "here"
    (here / ".exp.mine").mkdir()
    killed = "import os, signal; import harness.models.saving as e; e._rename_tensors = lambda folder: os.kill(os.getpid(), signal.SIGKILL)"
    code = f"{killed}; import sys; from harness.cli import main; sys.argv = ['harness', 'export', 'one', '-o', 'exp']; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=here, env=os.environ | OFFLINE, capture_output=True)
    assert done.returncode == -9
    left = [path for path in here.glob(".exp.*") if path.is_dir() and path.name != ".exp.mine"]
    assert len(left) == 1 and list(left[0].rglob("*.safetensors"))
    harness(here, "export", "one", "-o", "exp", **OFFLINE)
    assert [path.name for path in here.glob(".exp.*")] == [".exp.mine"]


def test_a_command_ends_without_a_last_collection() -> None:
    """With torch and transformers imported it would take seconds. Libraries' own handlers at the end still run."""
    code = """
import atexit, gc, sys
from harness.cli import main
gc.disable()  # no collection before the last

class Cycle:
    def __del__(self):
        print("collected")

cycle = Cycle()
cycle.itself = cycle
del cycle
atexit.register(print, "a handler")
sys.argv = ["harness", "--help"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "a handler" in done.stdout and "collected" not in done.stdout
