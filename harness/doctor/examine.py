"""All checks of the doctor, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.doctor.line import Line
from harness.doctor.software import software
from harness.doctor.surroundings import surroundings


def examine(results: Path, full: bool = False) -> Iterator[Line]:
    """Yield all lines as the checks finish.

    Args:
        results: folder of the runs.
        full: also serve a tiny random model.
    """
    yield from software(full)
    yield from surroundings(results)
