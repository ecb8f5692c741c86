"""The arrows of docs/ARCHITECTURE.md hold, and importing the package stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOUNDATION = {
    "errors", "files", "reading", "terminal", "typed", "yaml_values", "images", "memory", "children", "paths", "progress", "config",
    "types", "registry", "worlds", "endpoint", "endpoint_reply", "endpoint_refusals", "model_names", "redaction", "inside", "__init__",
    "names", "removal", "locks", "hub", "disk",
}  # fmt: skip
HEAVY = ("torch", "vllm", "transformers", "spacy", "pandas", "matplotlib")

# layer -> the project layers it may import (besides the foundation and itself)
ALLOWED = {
    "foundation": set(),
    "harness.models": set(),
    "harness.judging": set(),
    "harness.datasets": set(),
    "harness.core.stats": set(),
    "harness.serving": {"harness.models"},
    "harness.doctor": {"harness.models", "harness.serving", "harness.datasets", "harness.worlds.pocket"},
    "harness.runs": {
        "harness.records.matched",
        "harness.records.counts",
        "harness.models",
        "harness.serving",
        "harness.datasets",
        "harness.judging",
        "harness.core.stats",
        "aligners.base",
        "benchmarks.base",
    },
    "harness.records.counts": {"harness.core.stats"},
    "harness.records.matched": {"harness.records.counts"},
    "harness.analysis.frames": {"harness.runs"},
    "harness.analysis.compare": {"harness.runs", "harness.core.stats"},
    "harness.report": {"harness.analysis.leaderboard", "harness.runs", "harness.core.stats"},
    "harness.analysis.leaderboard": {
        "harness.records.counts",
        "harness.records.matched",
        "harness.runs",
        "harness.core.stats",
    },
    "harness.experiments": {
        "harness.analysis.leaderboard",
        "harness.models",
        "harness.report",
        "harness.runs",
        "harness.core.stats",
    },
    "harness.worlds.pocket": {"harness.models", "harness.judging"},
    "harness.experiments.quickstart": {
        "harness.runs",
        "harness.analysis.leaderboard",
        "harness.models",
        "harness.serving",
    },
    "aligners.preferences.overlap": set(),
    "aligners": {"aligners.preferences.overlap", "harness.datasets", "harness.models", "harness.judging"},
    "benchmarks": {"harness.datasets", "harness.models", "harness.judging"},
}


def layer(module: str) -> str:
    """The layer that a dotted project module belongs to."""
    parts = module.split(".")
    if parts[0] in ("aligners", "benchmarks"):
        return parts[0]
    if len(parts) == 1 or parts[1] in FOUNDATION:
        return "foundation"
    return f"harness.{parts[1]}"


def imports(path: Path) -> set[str]:
    """Dotted names of every import statement of a file, wherever it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
    return {name for name in found if name.split(".")[0] in ("harness", "aligners", "benchmarks")}


def modules() -> list[Path]:
    return sorted(path for top in ("harness", "aligners", "benchmarks") for path in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_import_arrows(path: Path) -> None:
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own in ("harness.cli", "harness.__main__"):
        return
    if path == ROOT / "harness" / "__init__.py":  # the names that notebooks import from it, and the shim's hook
        frames = {"harness.analysis.frames", "harness.analysis.frames.Frames", "harness.analysis.frames.load_runs"}
        assert imports(path) <= frames | {"harness.models", "harness.models.torchvision_shim"}
        return
    for name in imports(path):
        other = layer(name)
        permitted = (
            other in ("foundation", own) or other in ALLOWED[own] or any(name.startswith(ok) for ok in ALLOWED[own])
        )
        if path.name == "__init__.py" and path.parent.name in FOUNDATION:
            permitted = True
        assert permitted, f"{path.relative_to(ROOT)} imports {name}: {own} may not import {other}"


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
    long = {str(path.relative_to(ROOT)): n for path in modules() if (n := len(path.read_text().splitlines())) > 500}
    assert not long
