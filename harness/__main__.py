"""`python -m harness` is the same as `harness`, and so is `accelerate launch ... -m harness`.

`python -m` puts the working directory before the installed packages, where a folder of the user's that is called `benchmarks`,
`aligners` or `datasets` would be imported in the place of the package that is meant. `harness` does not, and so neither does this.
"""

import sys
from pathlib import Path


def _leave_out_the_working_directory() -> None:
    """Take the entry that `python -m` made from the front of `sys.path`, unless this very package was found by it."""
    first = sys.path[0] if sys.path and not sys.flags.safe_path else ""
    if first and first == str(Path.cwd()) and Path(__file__).resolve().parents[1] != Path(first).resolve():
        del sys.path[0]


if __name__ == "__main__":
    _leave_out_the_working_directory()
    from harness.cli import main

    main()
