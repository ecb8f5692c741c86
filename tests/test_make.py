"""What `make` says to the `make` commands below it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.speed.measures import _as_typed

ROOT = Path(__file__).resolve().parents[1]
BELOW = """
import subprocess
from tests.speed.measures import _as_typed
subprocess.run(["make", "--file", "{inner}"], env=_as_typed(), check=True)
"""


@pytest.mark.parametrize("kept", [False, True])
def test_the_arguments_of_a_measurement_do_not_reach_the_commands_that_it_times(kept: bool, tmp_path: Path) -> None:
    """`make speed ARGS=quickstart` once ran `harness quickstart quickstart`. With the whole environment it still would."""
    inner = tmp_path / "inner.mk"
    inner.write_text("all:\n\t@echo said [$(ARGS)]\n")
    script = BELOW.format(inner=inner)
    (tmp_path / "below.py").write_text(script.replace("env=_as_typed(), ", "") if kept else script)
    (tmp_path / "outer.mk").write_text(f"all:\n\t@{sys.executable} {tmp_path}/below.py\n")
    outer = ["make", "--file", str(tmp_path / "outer.mk"), "ARGS=quickstart"]
    environment = _as_typed() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(outer, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert f"said [{'quickstart' if kept else ''}]" in done.stdout
