"""Nothing that is printed can command a terminal: what the filter does, and that everything goes through it."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from harness.core.files import read_json, write_json
from harness.core.progress import progress
from harness.core.terminal import Console, json_text, one_line, plain, printable
from tests.commands import run_here
from tests.scored_runs import make_run
from tests.tiny import tiny_photograph

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\u202ee\u2066f\x7fg\u2028h\r\ud800"
COMMANDS = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)


def shown(*objects: object, **options: object) -> str:
    """What a console writes that is no terminal, so that there are no sequences of its own."""
    stream = io.StringIO()
    Console(file=stream, width=120, **options).print(*objects)
    return stream.getvalue()


@given(st.text(st.characters(codec=None)))
def test_what_is_left_holds_no_command(text: str) -> None:
    for cleaned in (plain(text), one_line(text), printable(text), shown(text), shown(Text(text))):
        assert not COMMANDS.search(cleaned), ascii(cleaned)
        cleaned.encode("utf-8")
    written = json_text({"a": text})
    assert not COMMANDS.search(written) and json.loads(written) == {"a": text}


def test_tables_stay_straight() -> None:
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row("an ordinary name")
    written = shown(table)
    assert not COMMANDS.search(written)
    assert len({len(line) for line in written.splitlines()[1:]}) == 1


@pytest.mark.parametrize(
    "name", ["[/]", "[/dim]", "[link=https://x.org]x[/link]", "[auto]", "a [b] c", ":smile:", "x[", "[@click=f]y"]
)
def test_brackets_in_a_name_are_a_name(name: str) -> None:
    assert shown(name) == f"{name}\n"
    assert name in shown(f"[dim]{name}[/dim]")
    table = Table()
    table.add_column("name")
    table.add_row(name)
    assert name in shown(table)


def test_our_own_styles_still_are() -> None:
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="standard", width=80).print(
        "[red]no[/red] \x1b[2J [dim]x[/dim]"
    )
    assert "\x1b[31mno\x1b[0m" in stream.getvalue() and "\x1b[2J" not in stream.getvalue()


def test_progress_bars_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(f"{HOSTILE} [/]", 2) as advance:
        advance(1, HOSTILE)
    assert not COMMANDS.search(capsys.readouterr().err)


@pytest.mark.parametrize(
    "command",
    [
        "leaderboard", "leaderboard --csv", "leaderboard --markdown", "leaderboard --latex", "leaderboard --json", "leaderboard --delta",
        "runs", "runs --json", "data check pairs.jsonl", "data check pairs.jsonl --json", f"leaderboard --sort {HOSTILE}",
    ],
)  # fmt: skip
def test_commands_show_hostile_data_and_the_terminal_obeys_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in manifests, configurations, settings, answers and preference data; coloured as on a terminal."""
    hostile = HOSTILE.replace("\ud800", "")
    config = {"method": hostile, "model": hostile, "location": "m", "data": hostile, "settings": {hostile: hostile}}
    about = {"method": hostile, "model": hostile, "settings": {hostile: hostile}}
    make_run(tmp_path / "results", "base-m", [f"A dog. {hostile}"] * 3)
    folder = make_run(tmp_path / "results", "ours-m", [f"A dog and a cat. {hostile}"] * 3, config=config, **about)
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", manifest | {"base": {"label": hostile, "location": hostile}})
    tiny_photograph(tmp_path / "a.png", 0)
    row = {"question": "What?", "chosen": f"A {hostile} dog.", "rejected": "A cat.", "image": "a.png"}
    rows = [row, row | {hostile: hostile}, row | {"image": f"{hostile}.png"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    _, out, err = run_here([*command.split(" ")], tmp_path)
    assert (out + err).strip()
    for written in (out, err):
        assert not COMMANDS.search(written.replace("\r\n", "\n")), ascii(written)


def test_everything_that_is_printed_goes_through_the_filter() -> None:
    direct = re.compile(
        r"rich\.console import|typer\.(secho|echo)|click\.(secho|echo)|(?<![.\w])print\(|rich\.print|sys\.std(out|err)\.write"
    )
    # A child process answers its parent with JSON; the errors' tracebacks are made printable where they are written.
    allowed = {f"harness/{name}.py" for name in ("core/terminal", "cli/errors", "doctor/tiny", "doctor/software")}
    characters = {
        f"{path.relative_to(ROOT)}:{number}"
        for top in ("harness", "aligners", "benchmarks")
        for path in (ROOT / top).rglob("*.py")
        if str(path.relative_to(ROOT)) not in allowed
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if direct.search(line) and not line.lstrip().startswith(("#", '"', "print("))
    }
    assert not characters


def test_only_the_command_line_prints() -> None:
    """Library modules log or advance a bar; `harness.core.notes` prints their records where the command line asks for it."""
    direct = re.compile(r"progress import .*\bconsole\b|\bconsole\.(print|rule|status)")
    assert not {
        str(path.relative_to(ROOT))
        for top in ("harness", "aligners", "benchmarks")
        for path in (ROOT / top).rglob("*.py")
        if path.parent.name != "cli"
        and path.stem not in ("notes", "progress")
        and direct.search(path.read_text("utf-8"))
    }


def test_what_modules_log_is_shown_without_its_markup_or_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = HOSTILE.encode("utf-8", "replace").decode()  # pytest-xdist cannot send half a character in a log's report
    logging.getLogger("harness.models.families").warning(f"{text} [red]%s 100 %[/red]")
    logging.getLogger("aligners.dpo").info("stage 1: already finished")
    logging.getLogger("aligners.dpo").debug("not for everybody")
    shown = capsys.readouterr().err
    assert "[red]%s 100 %[/red]" in shown and "stage 1: already finished" in shown and "not for everybody" not in shown
    assert not COMMANDS.search(shown)
