"""What the documentation names is there: links, commands, files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from harness.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
GENERATED = {"cli.md", "formats.md", "index.md"}
"""By scripts/docs_pages.py, in the built documentation only."""
ELSEWHERE = {"utils/diff_lib.py"}
"""Files of other people's repositories."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    """`harness/core/inside.py`, `core/inside.py`; and tests as SECURITY.md names them, (`test_...`) behind their file."""
    text = page.read_text(encoding="utf-8")
    places = [ROOT, ROOT / "harness", ROOT / "aligners", page.parent]
    for name in re.findall(r"`((?:[\w.-]+/)+[\w-]+\.py)`", text):
        assert any((place / name).is_file() for place in places) or name in ELSEWHERE, name
    for name, test in re.findall(r"`(tests/[\w/]+\.py)` \(`(test_\w+)`\)", text):
        assert f"def {test}(" in (ROOT / name).read_text(encoding="utf-8"), test


def _commands() -> set[str]:
    group = typer.main.get_command(app)
    names = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        names.add(name)
        names |= {f"{name} {inner}" for inner in getattr(command, "commands", {})}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target and target not in GENERATED:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """In code: `harness NAME ...`. Where a command has commands of its own, one of those is named."""
    commands = _commands()
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"`harness ([^`]+)`", text) + re.findall(r"^(?:    |\$ )harness (.+)$", text, flags=re.MULTILINE)
    for words in (line.split() for line in code):
        assert words[0] in commands | {"COMMAND"} or words[0].startswith("-"), f"harness {' '.join(words)}"
        if words[0] == "data" and len(words) > 1:
            assert " ".join(words[:2]) in commands, f"harness {' '.join(words)}"


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    missing = [name for name in _commands() if f"harness {name}" not in text and f"`{name.split()[-1]}`" not in text]
    assert not missing


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_record_is_in_the_page_of_formats() -> None:
    """The page is made from the models, and there is none in a module that it does not look at."""
    from scripts.docs_pages import records, table

    shown = records()
    names = {kind.__name__ for kind in shown}
    for path in (path for package in ("harness", "aligners", "benchmarks") for path in (ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "harness.core.record import" in text:
            classes = re.findall(r"^class (\w+)\((\w+)\):", text, flags=re.MULTILINE)
            kinds = {name for name, base in classes if base in names | {"Record", "Versioned"}} - {"Versioned"}
            assert kinds <= names, f"{path.relative_to(ROOT)}: list the module in scripts/docs_pages.py"
    assert {"ItemRow", "AnswerRecord", "ImageSetManifest"} <= names
    text = "".join(table(kind.__name__, kind) for kind in shown)
    assert "| `metrics` | dict[str, harness.records.score_files.MetricRecord]" in text
    assert (
        "| `evidence` | list[harness.records.item_files.PieceRow] | required | mentions with their verdicts |" in text
    )


@pytest.mark.slow
def test_the_documentation_is_built(tmp_path: Path) -> None:
    """Strictly: a reference that leads nowhere, or a page that no other names, is an error."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "learning_rate" in (tmp_path / "site" / "formats" / "index.html").read_text(encoding="utf-8")
