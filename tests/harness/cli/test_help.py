"""What somebody sees who types `harness` alone."""

from __future__ import annotations

import pytest

from harness.cli import app
from harness.cli.errors import run


@pytest.mark.parametrize(("words", "first"), [([], "Start here"), (["data"], "Commands"), (["plugin"], "Commands")])
def test_a_group_without_a_command_prints_its_help_and_no_error(
    words: list[str], first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, words) == 2
    shown = capsys.readouterr()
    assert first in shown.out and shown.err == ""


def test_commands_are_listed_in_the_order_of_a_users_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["--help"]) == 0
    text = capsys.readouterr().out
    groups = ["Start here", "Align", "Evaluate", "Results", "Checkpoints", "Data", "Extend"]
    places = [text.index(f"─ {group} ─") for group in groups]
    assert places == sorted(places)
