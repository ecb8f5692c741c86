"""Commands from a folder whose own packages have the names of ours: the documented launches import ours all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
LAUNCH = [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", "1"]


def folder_with(parent: Path, *packages: str) -> Path:
    """A folder that holds packages which must never be imported."""
    for package in packages:
        (parent / package).mkdir()
        (parent / package / "__init__.py").write_text(
            "raise SystemExit('a package of the working directory was imported')\n"
        )
    return parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "harness"],
        [str(BIN / "harness")],
        [*LAUNCH, "-m", "harness"],
        [*LAUNCH, str(BIN / "harness")],
    ],
    ids=["python -m harness", "harness", "accelerate launch -m harness", "accelerate launch bin/harness"],
)
def test_packages_of_the_working_directory_are_not_taken_for_ours(command: list[str], tmp_path: Path) -> None:
    cwd = folder_with(tmp_path, "benchmarks", "aligners", "datasets")
    done = subprocess.run([*command, "list", "methods"], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mfpo" in done.stdout


@pytest.mark.slow
def test_with_a_harness_of_its_own_the_installed_command_is_launched(tmp_path: Path) -> None:
    cwd = folder_with(tmp_path, "benchmarks", "aligners", "harness")
    done = subprocess.run([*LAUNCH, str(BIN / "harness"), "list", "methods"], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mfpo" in done.stdout
