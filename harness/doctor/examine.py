"""All checks of the doctor, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core import registry
from harness.datasets.catalogue import catalogue, with_needs
from harness.doctor.line import Line
from harness.doctor.software import software
from harness.doctor.surroundings import surroundings


def examine(results: Path, full: bool = False, suites: Sequence[str] = ()) -> Iterator[Line]:
    """Yield all lines as the checks finish.

    Args:
        results: folder of the runs.
        full: also serve a tiny random model.
        suites: those whose data must be here.

    Raises:
        UnknownNameError: there is no such suite; raised before the first check.
    """
    named = registry.names("benchmarks", ",".join(suites)) if suites else []
    data = {one.name for one in with_needs([name for name in named if name in catalogue()])}
    for line in (*software(full), *surroundings(results)):
        is_asked = line.state == "warn" and line.name.removeprefix("data ") in data
        yield replace(line, state="missing") if is_asked else line
