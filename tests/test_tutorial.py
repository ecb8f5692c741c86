"""The commands of the tutorial run as they are written, in their order, in a fresh folder with an empty cache."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from tests import warm
from tests.harness.serving.test_vllm import needs_vllm

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"


def commands() -> list[str]:
    """The indented lines that begin with `harness`."""
    return re.findall(r"^    (harness .+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.slow
@needs_vllm
def test_every_command_runs(tmp_path: Path) -> None:
    environment = os.environ | {"HARNESS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    said = {}
    for command in commands():
        done = warm.run(shlex.split(command)[1:], cwd=tmp_path, env=environment)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        said[command.split()[1]] = done.stdout
    assert len(said) >= 10 and "align would accept these data" in said["data"]
    assert "not significant" in said["compare"] and "passed: served as it was trained" in said["verify"]
    assert "mfpo" in said["leaderboard"] and (tmp_path / "report.html").stat().st_size > 50_000
    assert "model-index" in (tmp_path / "published" / "README.md").read_text(encoding="utf-8")
