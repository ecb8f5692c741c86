"""Other libraries' messages are in a file that the command names, whole and once each; with --debug they stay on the screen."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import pytest
import typer

from harness.cli import errors
from harness.core import library_log
from harness.core.library_log import FOLDER, KEPT

KEY = "hf_abcdefghijklmnopqrstuvwxyz"


def command(said: bool) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def work() -> None:
        if said:
            logging.getLogger("transformers.tokens").warning("a notice\nof two lines")
            logging.getLogger("transformers.tokens").warning("a notice\nof two lines")
            logging.getLogger("some.library").error("an error with the key %s", KEY)
            logging.getLogger("harness.some").warning("ours")
            warnings.warn("old and slow", DeprecationWarning, stacklevel=1)

    return app


def test_messages_are_in_a_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        library_log.take_over("transformers")
        assert errors.run(command(True), []) == 0
    [file] = (tmp_path / FOLDER).iterdir()
    text, shown = file.read_text(), capsys.readouterr().err
    assert shown.count(f"messages of other libraries: {file}") == 1
    assert (
        text.count("WARNING transformers.tokens: a notice\nof two lines") == 1
        and "2 times: transformers.tokens" in text
    )
    assert "ERROR some.library: an error with the key" in text and KEY not in text
    assert "old and slow" in text and "ours" not in text
    assert not re.search("a notice|an error|old and slow", shown)


def test_nothing_said_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert errors.run(command(False), []) == 0
    assert not (tmp_path / FOLDER).exists() and "libraries" not in capsys.readouterr().err


def test_debug_leaves_messages_on_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert errors.run(command(True), ["--debug"]) == 0
    assert "an error with the key" in caplog.text and not (tmp_path / FOLDER).exists()


def test_the_newest_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    (tmp_path / FOLDER).mkdir()
    for number in range(KEPT + 3):
        (tmp_path / FOLDER / f"{number:03d}.log").touch()
    assert errors.run(command(True), []) == 0
    assert len(list((tmp_path / FOLDER).iterdir())) == KEPT


def test_messages_are_shown_where_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    assert errors.run(command(True), []) == 0
    shown = capsys.readouterr().err
    assert shown.count("a notice") == 1 and "Logging error" not in shown and "messages of other libraries" not in shown
