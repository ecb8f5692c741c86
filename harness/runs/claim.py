"""Claiming a run's folder: one process at a time may write it, and nothing is lost, because replaced runs are set aside first."""

from __future__ import annotations

import contextlib
import datetime
import errno
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from harness.core.disk import check_place, make_folder, nearest_existing
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import write_json
from harness.core.locks import BusyError, busy, writing
from harness.core.plugins import blame
from harness.core.removal import discard, move, put_aside, remove
from harness.records.run_files import FailedRecord
from harness.runs.state import BEFORE_THE_FIRST_STEP, FAILED, State, lock_of, state_of

logger = logging.getLogger(__name__)


def check_folder(folder: Path, *, resume: bool, overwrite: bool, held: bool | None = None) -> State:
    """Check that a run may be written to a folder; nothing is created or changed.

    Args:
        folder: the run's folder.
        resume: an interrupted run is continued.
        overwrite: an existing run is replaced.
        held: as of `state_of`.

    Raises:
        BusyError: another process writes this run.
        BadInputError: the folder is not a run of ours, or it is one, and neither `resume` nor `overwrite` was given.
    """
    check_place(folder)
    state = state_of(folder, held=held)
    if state.condition == "running":
        raise busy(lock_of(folder), "this run", folder)
    if state.condition == "foreign":
        raise BadInputError(
            "the folder exists but is not a run of the harness, so it is neither used nor replaced",
            where=str(folder),
            remedy="use another --name, or another --results",
        )
    if state.reusable or resume:
        return state
    if not overwrite:
        went = " and is complete" if state.condition == "complete" else f", interrupted after {state.steps} steps"
        raise BadInputError(
            f"the run already exists{went}",
            where=str(folder),
            remedy="resume it (--resume), replace it (--overwrite), or use another --name",
        )
    return state


@contextlib.contextmanager
def claimed(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[FolderClaim]:
    """Claim a run's folder for the block; other processes are refused meanwhile.

    What an attempt without a finished step left is removed. With `overwrite`, an existing run is set aside. If the block fails before
    its first step, the folder is restored; if it was empty, the reason is stored in `failed.json`.

    Raises:
        BusyError: another process writes this run.
        BadInputError: as `check_folder`.
    """
    check_folder(folder, resume=resume, overwrite=overwrite)
    with writing(lock_of(folder), "this run", folder):
        state = _while_locked(folder, resume=resume, overwrite=overwrite)
        claim = FolderClaim(folder, state, overwrite=overwrite)
        try:
            yield claim
        except BaseException as error:
            claim.failed(error)
            if refused := refusal_in(error, folder):
                raise refused from error
            raise
        claim.done()


def refusal_in(error: BaseException, folder: Path) -> OSError | None:
    """The operating system's error, if a library that wrote weights wrapped it into its own error.

    For a full disk, safetensors says "(os error 28)", and torch that its writer failed.
    """
    if isinstance(error, (OSError, HarnessError)):
        return None
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number:
        code = int(number[1])
    elif "PytorchStreamWriter" in str(error) and shutil.disk_usage(nearest_existing(folder)).free < 2**20:
        code = errno.ENOSPC
    else:
        return None
    return OSError(code, os.strerror(code), str(folder))


def _while_locked(folder: Path, *, resume: bool, overwrite: bool) -> State:
    """Repeat the check under the lock, when no other process can change the result.

    Raises:
        BadInputError: as `check_folder`.
        BusyError: another process is writing answers in the folder, which would be set aside.
    """
    state = check_folder(folder, resume=resume, overwrite=overwrite, held=False)
    if overwrite and not state.reusable:
        for lock in sorted(folder.glob("**/.responses.lock")):
            with writing(lock, "answers of this run", lock.parent):
                pass
    return state


class FolderClaim:
    """A claimed run's folder. Nothing is written before `begin`."""

    def __init__(self, folder: Path, state: State, *, overwrite: bool) -> None:
        self.folder, self.state, self._overwrite = folder, state, overwrite
        self._begun = False
        self.aside: Path | None = None
        """Where the replaced run is now."""

    def begin(self) -> None:
        """Prepare the folder: set aside a replaced run, and remove the rest of a failed attempt."""
        results = self.folder.parent
        make_folder(results)
        if self.state.condition == "failed":
            for name in BEFORE_THE_FIRST_STEP:
                remove(self.folder / name, within=self.folder)
        elif self._overwrite and self.state.condition != "nothing":
            self.aside = put_aside(self.folder, within=results)
        self.folder.mkdir(exist_ok=True)
        remove(self.folder / FAILED, within=self.folder)
        self._begun = True

    def done(self) -> None:
        """Note that the run is complete, and log where the replaced run is."""
        if self.aside is not None:
            name = self.folder.name
            logger.info(
                f"the earlier run is kept in {self.aside}: `harness runs --restore {name}` brings it back, "
                "`harness runs --prune` removes it"
            )

    def failed(self, error: BaseException) -> None:
        """Restore the replaced run if the new run finished no step; else store the reason. Never hides the error itself."""
        if not self._begun:
            return
        with contextlib.suppress(OSError, HarnessError):
            if self.aside is not None and state_of(self.folder, held=False).reusable:
                discard(self.folder, within=self.folder.parent)
                move(self.aside, self.folder, within=self.folder.parent)
                logger.warning(f"the earlier run is restored: {self.folder}")
                return
            if not (self.folder / "manifest.json").exists():
                write_json(self.folder / FAILED, _about(error).written())


def _about(error: BaseException) -> FailedRecord:
    """An error as stored in `failed.json`."""
    error = blame(error) or error
    if isinstance(error, HarnessError):
        reason = f"{error.problem} [{error.where}]" if error.where else error.problem
    elif isinstance(error, KeyboardInterrupt):
        reason = "stopped by Ctrl-C"
    else:
        reason = f"{type(error).__name__}: {error}"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return FailedRecord(reason=reason[:2000], when=now, command=" ".join(["harness", *sys.argv[1:]])[:2000])


__all__ = ["BusyError", "FolderClaim", "check_folder", "claimed"]
