"""Steps on Slurm: one array with the user's options, by a `sbatch` that keeps what it is given; and what is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.core.errors import BadInputError
from harness.experiments.slurm import OnSlurm

pytest.importorskip("submitit", reason="the extra 'slurm' is not installed")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the commands of Slurm, which keep their arguments in files."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {
        "sbatch": f'cp "${{@: -1}}" {tmp_path}/script-$(ls {tmp_path} | grep -c script); echo Submitted batch job 77',
        "srun": "true",
        "sacct": "true",
        "scancel": f'echo "$@" >> {tmp_path}/cancelled',
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_steps_that_are_ready_together_are_one_array_with_the_users_options(cluster: Path) -> None:
    options = (
        "timeout_min=90",
        "partition=gpu",
        "gpus_per_node=2",
        "array_parallelism=3",
        "constraint=a100",
        "wckey=mine",
    )
    workers = OnSlurm(options, cluster / "slurm")
    futures = [workers.submit(["list", "methods"], cluster / f"{number}.log") for number in range(4)]
    end = time.monotonic() + 60
    while not (cluster / "script-0").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.2)
    workers.close()
    assert sorted(path.name for path in cluster.glob("script-*")) == ["script-0"], "more than one array"
    script = (cluster / "script-0").read_text()
    for line in ("array=0-3%3", "time=90", "partition=gpu", "gpus-per-node=2", "constraint=a100", "wckey=mine"):
        assert f"#SBATCH --{line}\n" in script, line
    assert not any(future.done() for future in futures)
    cancelled = (cluster / "cancelled").read_text().split()
    assert cancelled == [f"77_{number}" for number in range(4)], "jobs that nobody waits for any more go on"


@pytest.mark.slow
def test_a_step_on_this_machine_succeeds_or_says_why_it_failed(tmp_path: Path) -> None:
    workers = OnSlurm(["local", "gpus_per_node=0"], tmp_path / "slurm")
    try:
        good = workers.submit(["list", "methods"], tmp_path / "good.log")
        bad = workers.submit(["leaderboard", "nowhere"], tmp_path / "bad.log")
        assert good.result(timeout=120) is None and "mfpo" in (tmp_path / "good.log").read_text()
        assert "exit code 2" in str(bad.result(timeout=120)) and "nowhere" in str(bad.result())
    finally:
        workers.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["partition=gpu"], "needs the time"),
        (["timeout_min=60", "partition"], "takes KEY=VALUE or local, not 'partition'"),
        (["timeout_min=soon"], "timeout_min"),
    ],
)
def test_what_is_refused(options: list[str], said: str, cluster: Path) -> None:
    with pytest.raises(BadInputError, match=said):
        OnSlurm(options, cluster / "slurm")


def test_local_jobs_say_whether_they_use_the_gpu(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit hides the GPUs of this machine from them, unless it is told a number."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = cluster / "bin/nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'\n")
    driver.chmod(0o755)
    with pytest.raises(BadInputError, match="this machine has a GPU") as caught:
        OnSlurm(["local"], cluster / "slurm")
    assert "gpus_per_node=1" in str(caught.value.remedy)
    for options, beside in ((["gpus_per_node=1"], 1), (["gpus_per_node=0"], os.cpu_count())):
        workers = OnSlurm(["local", *options], cluster / "slurm")
        workers.close()
        assert workers.capacity == beside
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    OnSlurm(["local"], cluster / "slurm").close()


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInputError, match="srun") as caught:
        OnSlurm(["timeout_min=60"], tmp_path / "slurm")
    assert "--slurm local" in str(caught.value.remedy)
