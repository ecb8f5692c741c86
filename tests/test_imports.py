"""The arrows of docs/ARCHITECTURE.md hold, and importing the package stays cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def modules() -> list[Path]:
    return sorted(path for top in ("harness", "aligners", "benchmarks") for path in (ROOT / top).rglob("*.py"))


def test_import_arrows() -> None:
    """The contracts of pyproject.toml: no circles between files, and the layers of docs/ARCHITECTURE.md. Lazy imports count."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


def imported(code: str) -> set[str]:
    """The modules, other than those of Python itself, that a new process has imported after this code."""
    code += "\nimport sys; sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return {name for name in done.stderr.split() if name.partition(".")[0] not in sys.stdlib_module_names} - {
        "__main__"
    }


def test_importing_is_cheap() -> None:
    at_start = imported("")
    assert "harness" not in at_start
    assert imported("import harness") - at_start <= {"harness", "harness.core", "harness.core.version"}


def test_help_is_cheap() -> None:
    """It imports what Typer needs to write any help, and of this project the command line alone."""
    plain = "import typer\napp = typer.Typer(rich_markup_mode='rich')\n@app.command()\ndef one(): ...\n@app.command()\ndef other(): ..."
    needed = imported(f"{plain}\napp(['--help'], standalone_mode=False)")
    loaded = imported(
        "from harness.cli import app\nfrom harness.cli.errors import run\nassert run(app, ['--help']) == 0"
    )
    assert "typer.rich_utils" in needed & loaded
    ours = {name for name in loaded if name.partition(".")[0] in ("harness", "aligners", "benchmarks")}
    assert {name.split(".")[1] for name in ours if "." in name} == {"cli", "core"}
    assert not {"harness.core.plugins", "harness.core.registry"} & ours
    assert {name.partition(".")[0] for name in loaded - needed - ours} <= {"rich"}


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
