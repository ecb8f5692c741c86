"""The notebook of the documentation runs from its first cell to its last, in a fresh folder with an empty cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
CHECKS = """
import math, pathlib
assert abs(losses[0] - math.log(2)) < 0.02 and len(losses) == 10, losses
assert {score.target for score in scores} == {"base-pocket", "dpo-notebook"} and len(scores) == 4
assert len(board) == 6 and board.difference.notna().sum() == 3
assert pathlib.Path("report.html").stat().st_size > 50_000
assert mine.checkpoint.is_dir() and len(invented)
"""


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert not any(cell.get("outputs") for cell in cells), "a notebook is committed without outputs"
    done = subprocess.run(
        [sys.executable, "-c", in_a_loop(code + CHECKS)],
        cwd=tmp_path,
        env=os.environ | {"HARNESS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def in_a_loop(code: str) -> str:
    """The code as a notebook runs it, inside a running event loop; behind a guard, because child processes import the main module."""
    body = "\n".join("    " + line for line in code.splitlines())
    return f"import asyncio\n\nasync def cells():\n{body}\n\nif __name__ == '__main__':\n    asyncio.run(cells())\n"
