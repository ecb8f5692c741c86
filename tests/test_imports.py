"""The arrows of docs/ARCHITECTURE.md hold, and importing the package stays cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "vllm", "transformers", "spacy", "pandas", "matplotlib")


def modules() -> list[Path]:
    return sorted(path for top in ("harness", "aligners", "benchmarks") for path in (ROOT / top).rglob("*.py"))


def test_import_arrows() -> None:
    """The contracts of pyproject.toml: no circles between files, and the layers of docs/ARCHITECTURE.md. Lazy imports count."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


def test_importing_is_cheap() -> None:
    code = f"import sys, harness, harness.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_help_lists_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    for command in (
        "align",
        "eval",
        "score",
        "rejudge",
        "merge",
        "calibrate",
        "data",
        "serve",
        "export",
        "push",
        "verify",
        "ask",
        "leaderboard",
        "compare",
        "report",
        "plot",
        "quickstart",
        "list",
        "doctor",
    ):
        assert command in done.stdout


def test_modules_stay_readable() -> None:
    long = {str(path.relative_to(ROOT)): n for path in modules() if (n := len(path.read_text().splitlines())) > 400}
    assert not long
