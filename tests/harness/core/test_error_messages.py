"""What is printed of an error: one paragraph of what, where and remedy, short, and nothing in it that a terminal obeys."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.errors import run
from harness.core.errors import BadInputError


def raising(error: BaseException) -> Callable[..., Any]:
    def app(arguments: list[str], standalone_mode: bool) -> None:
        raise error

    return app


def said(error: BaseException, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(raising(error), list(arguments))
    return code, capsys.readouterr().err


def test_a_long_message_is_cut_with_its_ends_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    long = "begin " + "x" * 100_000 + " end"
    code, text = said(BadInputError(long, where=f"/a/{long}/file.json:3", remedy=long), capsys)
    assert code == 2 and len(text) <= 2000
    assert text.startswith("error: begin xxx") and "--debug shows them" in text and text.rstrip().endswith("x end")
    assert "file.json:3" in text


def test_control_characters_are_shown_and_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "a\x1b[31m\x1b]0;pwn\x07\x9b\u202eb\ud800\nc\r\td"
    for arguments in ((), ("--debug",)):
        _, text = said(BadInputError(odd, where=odd, remedy=odd), capsys, *arguments)
        assert all(one.isprintable() or one == "\n" for one in text)
        assert r"a\x1b[31m\x1b]0;pwn\x07\x9b\u202eb\ud800 c d" in text
        assert text.count("\n  where: ") == 1


@given(st.text(st.characters(), max_size=3000), st.text(st.characters(), max_size=3000))
def test_any_message_is_short_and_printable(problem: str, where: str) -> None:
    import contextlib
    import io

    heard = io.StringIO()
    with contextlib.redirect_stderr(heard):
        assert run(raising(BadInputError(problem, where=where, remedy=problem)), []) == 2
    text = heard.getvalue()
    assert len(text) <= 2000 and all(one.isprintable() or one == "\n" for one in text)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP])
def test_what_the_machine_refuses_is_no_defect(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    code, text = said(OSError(number, os.strerror(number), "/some/place"), capsys)
    assert code == 2 and "defect" not in text and "where: /some/place" in text and "remedy:" in text


def test_what_is_ours_is_said_to_be_ours(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (KeyError("x"), OSError(errno.ENOENT, "No such file", "temporary")):
        code, text = said(error, capsys)
        assert code == 1 and "this is a defect of the harness" in text
