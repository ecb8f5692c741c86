"""What other libraries say while a command runs: into a file that the command names, instead of between its own lines.

Warnings and errors that libraries log, and Python's warnings, are kept whole; a message that is repeated is written once, with its number.
There is no file if nothing was said. `--debug` leaves everything on the screen. vLLM has its own process and file (`harness.serving`), and
Ray its own folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.core.notes import PACKAGES

logger = logging.getLogger(__name__)

FOLDER = "logs"
KEPT = 50
"""Number of files that are kept; older ones are removed."""
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LibraryLog(logging.Handler):
    """Writes each distinct record of other packages to a file, which is made with the first one."""

    def __init__(self, command: str) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter(_FORMAT))
        self.path: Path | None = None
        self._command = command
        self._said: Counter[tuple[str, str]] = Counter()
        self._writing = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless it was written before; on the screen if the file cannot be written."""
        if record.name.partition(".")[0] in PACKAGES:
            return
        try:
            with self._writing:
                self._said[record.name, record.getMessage()] += 1
                if self._said[record.name, record.getMessage()] > 1:
                    return
                try:
                    self._write(self.format(record))
                except OSError:
                    _show(record.getMessage())
        except Exception:  # noqa: BLE001 (logging's own rule: a record that cannot be written must not stop the program)
            self.handleError(record)

    def end(self) -> None:
        """Write how often messages were repeated."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            for (name, message), count in self._said.items():
                if count > 1:
                    self._write(f"{count} times: {name}: {message.splitlines()[0] if message else ''}")

    def _write(self, line: str) -> None:
        from harness.core.redaction import redact  # --help needs none of these

        path = self.path or self._new_file()
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{redact(line)}\n")
        if self.path is None:
            self.path = path
            _show(f"messages of other libraries: {path}")

    def _new_file(self) -> Path:
        """The name of a file in the folder of logs, in which the oldest ones make room for it."""
        from harness.core.paths import cache_folder
        from harness.core.removal import discard

        folder = cache_folder() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)[: -KEPT + 1]:
            discard(old, within=folder)
        return folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{self._command}-{os.getpid()}.log"


def _show(text: str) -> None:
    # As a record of ours, which `harness.core.notes` prints, and which this handler does not take.
    logger.info(text)


@contextlib.contextmanager
def kept(command: str) -> Iterator[None]:
    """Context in which other libraries' messages go to a file, which is named when there is a first one."""
    handler, root = LibraryLog(command), logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.end()


def take_over(*packages: str) -> None:
    """Send the warnings of packages that print their own log to the file, too."""
    for name in packages:
        logger = logging.getLogger(name)
        for handler in [one for one in logger.handlers if isinstance(one, logging.StreamHandler)]:
            logger.removeHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = True


def is_kept() -> bool:
    """Whether other libraries' messages go to a file at this time."""
    return any(isinstance(handler, LibraryLog) for handler in logging.getLogger().handlers)
