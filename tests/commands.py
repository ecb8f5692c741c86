"""The command line as a person types it, in a process of its own, or in this one for thousands of inputs."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import warm


def harness(
    folder: Path, *arguments: str, code: int = 0, imports: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A `harness` command in a folder, which must end with this code. `imports`: it imports everything itself, as at a person's prompt."""
    variables = {**os.environ, "COLUMNS": "200", **environment}
    done = warm.run([*arguments], cwd=folder, env=variables, afresh=imports)
    assert done.returncode == code, done.stderr
    return done


afresh = functools.partial(harness, imports=True)


@functools.cache
def _commands() -> Any:
    """The command line as Typer builds it, which takes longer than most commands that end in an error."""
    import typer.main

    from harness.cli import app

    return typer.main.get_command(app)


def leaves() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that name it: ("data", "check")."""

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if hasattr(command, "commands"):
            for name, one in command.commands.items():
                yield from below(one, (*path, name))
        else:
            yield path, command

    yield from below(_commands(), ())


def parameters(command: Any) -> list[Any]:
    """A command's options and arguments, those that installed suites declare among them."""
    import typer

    return list(command.get_params(typer.Context(command)))


def run_here(arguments: list[str], folder: Path | None = None) -> tuple[int, str, str]:
    """A command in this process, and in a folder where one is named: exit code, standard output, standard error."""
    from harness.cli.errors import run

    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder) if folder else contextlib.nullcontext(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run(_commands(), arguments)
    return code, out.getvalue(), err.getvalue()


def json_here(*arguments: str, code: int = 0) -> Any:
    """What a command prints as JSON, in this process and folder; where it prints none, what it says, on one line."""
    ended, out, said = run_here([*arguments, "--json"])
    assert ended == code, said
    return json.loads(out) if out else " ".join(said.split())


def run_bounded(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    """`run_here` of any input whatever: it is read, or refused in one short paragraph that commands no terminal; never a defect."""
    from harness.core.terminal import plain

    code, out, said = run_here(arguments, folder)
    assert code in (0, 2), said
    assert "Traceback" not in said and "defect" not in said, said
    assert plain(out) == out and plain(said) == said, "nothing that a terminal obeys"
    if "error: " in said:
        assert code == 2 and len(said[said.index("error: ") :]) <= 2000
    return code, out, said
