"""How errors are printed: problem, place, remedy. Exit code 2 for bad input, 130 for Ctrl-C, 1 for everything else."""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Any

from rich.text import Text

from harness.core import library_log, notes
from harness.core.errors import HarnessError
from harness.core.terminal import Console, printable

_PROBLEM, _WHERE, _REMEDY = 900, 300, 700
"""Maximum number of characters of each part of a message: 2,000 in total."""
_REFUSALS = {
    errno.ENOSPC: "free space on the disk, or choose another folder (--results, HARNESS_CACHE); finished work is kept",
    errno.EDQUOT: "free space in your quota, or choose another folder (--results, HARNESS_CACHE); finished work is kept",
    errno.EROFS: "choose a writable folder (--results, HARNESS_CACHE)",
    errno.EACCES: "change the permissions of the file or folder, or choose another folder (--results, HARNESS_CACHE)",
    errno.EPERM: "change the permissions of the file or folder, or choose another folder (--results, HARNESS_CACHE)",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "a link points to itself: remove it",
    errno.ENOTDIR: "there is a file where a folder is needed: choose another folder",
    errno.EISDIR: "there is a folder where a file is needed: choose another path",
    errno.EMFILE: "allow more open files: ulimit -n 65536",
    errno.EIO: "the disk reports errors: check it",
}
"""What to do if the operating system refuses something; all its other errors are reported as defects."""
_TORCH_CANNOT_WRITE = ("basic_ios::clear: iostream error", "PytorchStreamWriter failed writing file")
"""torch's messages when a checkpoint cannot be written to disk; torch has no specific error for this."""


def run(app: Any, arguments: list[str]) -> int:
    """Run a Typer app and turn what it raises into an exit code; what other libraries say goes to a file, unless --debug is given."""
    notes.show()
    if "--debug" in arguments:
        return _run(app, arguments, debug=True)
    words = [word for word in arguments[:1] if word.replace("-", "_").isidentifier()]
    with library_log.kept(words[0] if words else "harness"):
        return _run(app, arguments, debug=False)


def _run(app: Any, arguments: list[str], *, debug: bool) -> int:
    console = Console(stderr=True)
    try:
        result = app([one for one in arguments if one != "--debug"], standalone_mode=False)
        return result if isinstance(result, int) else 0
    except HarnessError as error:
        if debug:
            _trace()
        _show(console, error.problem, error.where, error.remedy)
        return error.exit_code
    except KeyboardInterrupt:
        _show(console, "stopped", None, "finished work is kept; run the same command with --resume")
        return 130
    except SystemExit as exit_:
        if mistake := _mistake(exit_):
            _show(console, mistake.problem, mistake.where, mistake.remedy)
            return mistake.exit_code
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except Exception as error:  # noqa: BLE001 (the last resort of the program: a defect is reported in one paragraph)
        if type(error).__name__ == "NoArgsIsHelpError":  # the help was printed
            return 2
        if usage := _usage(error):
            _show(console, *usage)
            return 2
        if type(error).__name__ == "Abort":
            return 130
        if debug:
            _trace()
        if mistake := _mistake(error):
            _show(console, mistake.problem, mistake.where, mistake.remedy)
            return mistake.exit_code
        if refusal := _refusal(error):
            _show(console, *refusal)
            return 2
        if not debug:
            frame = traceback.extract_tb(sys.exc_info()[2])[-1]
            _show(
                console,
                f"this is a defect of the harness: {type(error).__name__}: {error}",
                f"{frame.filename}:{frame.lineno}",
                "run the same command with --debug to see the traceback",
            )
        return 1


def _mistake(error: BaseException) -> HarnessError | None:
    """The error of a plugin's author, or of a missing package; None for any other."""
    from harness.core.plugins import blame  # imported here because `harness --help` does not need it

    return blame(error)


def _refusal(error: BaseException | None) -> tuple[str, str | None, str | None] | None:
    """Problem, place and remedy if the operating system refuses something: a full disk, a folder without write permission."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _REFUSALS):
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_CANNOT_WRITE):
            return "a file could not be written: no space left on device, mostly", None, _REFUSALS[errno.ENOSPC]
        error = error.__cause__
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    places = [str(one) for one in (error.filename, error.filename2) if one is not None]
    return (
        f"{error.strerror or errno.errorcode[error.errno]}".lower(),
        ", ".join(places) or None,
        _REFUSALS[error.errno],
    )


def _usage(error: Exception) -> tuple[str, str | None, str | None] | None:
    """Problem, place and remedy of a wrong option or argument, as Typer's parser reports it."""
    if not hasattr(error, "format_message"):
        return None
    context = getattr(error, "ctx", None)
    return str(error.format_message()), None, f"see `{context.command_path} --help`" if context else None


def _show(console: Console, problem: str, where: str | None, remedy: str | None) -> None:
    text = Text("error: ", style="bold red")
    text.append(_cut(problem, _PROBLEM), style="red")
    if where:
        text.append(f"\n  where: {_cut(where, _WHERE)}", style="red")
    if remedy:
        text.append(f"\n  remedy: {_cut(remedy, _REMEDY)}", style="red")
    console.print(text, soft_wrap=True)


def _cut(text: str, most: int) -> str:
    """A text as one printable line. A long text keeps its beginning and its end, which has the last part of a path."""
    text = printable(" ".join(text.split()) if text.strip() else text)
    if len(text) <= most:
        return text
    left_out = f" [... {len(text) - most:,} characters more; --debug shows them ...] "
    end = (most - len(left_out)) // 3
    return f"{text[: most - len(left_out) - end]}{left_out}{text[-end:]}"


def _trace() -> None:
    sys.stderr.write(printable(traceback.format_exc(), keep="\n"))
