"""Where the log records of this program are shown: on standard error, above a progress bar that is running.

Library modules call `logging.getLogger(__name__)`. A notebook or another program decides for itself what it shows; the command line
calls `show` once.
"""

from __future__ import annotations

import logging

PACKAGES = ("harness", "aligners", "benchmarks")
_STYLES = {logging.INFO: "dim", logging.WARNING: "yellow", logging.ERROR: "red"}


class NoteHandler(logging.Handler):
    """Prints each record as one paragraph: information dim, warnings yellow, errors red.

    The console removes control characters and secrets; markup in a record has no effect.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record; a closed or full standard error is not an error of the program."""
        from rich.text import Text

        from harness.core.progress import console

        try:
            console.print(Text(record.getMessage(), style=_STYLES.get(record.levelno, "")), soft_wrap=True)
        except Exception:  # noqa: BLE001 (logging's own rule: a record that cannot be written must not stop the program)
            self.handleError(record)


def show() -> None:
    """Print what this program's packages log from level INFO up. A second call changes nothing."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, NoteHandler) for handler in logger.handlers):
            logger.addHandler(NoteHandler())
