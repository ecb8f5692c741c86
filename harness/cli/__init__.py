"""The command line: parse, call, print. Heavy imports happen inside the commands, so that `harness --help` is fast."""

from __future__ import annotations

import atexit
import gc
import sys
import warnings

from harness.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; errors are one red paragraph and an exit code, never a traceback unless --debug is given."""
    from harness.cli.errors import run

    # torch, transformers and peft leave a million objects. At the end, Python would look through them all once more for unreachable ones,
    # three seconds in which nothing is freed that the end of the process does not free.
    atexit.register(gc.freeze)
    # Pillow's, on odd pictures: a real problem is raised as an error (harness.core.images); other warnings are not shown.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    sys.exit(run(app, sys.argv[1:]))
