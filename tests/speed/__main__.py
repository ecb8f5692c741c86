"""`make speed`: what the README says about time and memory, measured. `ARGS="help quickstart"` picks some."""

from __future__ import annotations

import argparse
import platform
import sys

from rich.console import Console
from rich.table import Table

from tests.speed import measures


def main() -> int:
    """Run the named measurements and print one row for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *measures.ALL], help="measurements to run (default: all but gpu)"
    )
    names = parser.parse_args().names or [name for name in measures.ALL if name != "gpu"]
    table = Table(
        title=f"Measured on {platform.machine()}, {measures.cores()} cores, Python {platform.python_version()}"
    )
    for heading in ("measurement", "figure", "bound", ""):
        table.add_column(heading, justify="right" if heading in ("figure", "bound") else "left")
    missed = 0
    for name in names:
        for figure in measures.ALL[name]():
            missed += not figure.reached
            table.add_row(figure.what, figure.shown, figure.bound_shown, "reached" if figure.reached else "MISSED")
    Console().print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
