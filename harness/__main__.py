"""`python -m harness` is the same as `harness`, and so is `accelerate launch ... -m harness`.

`python -m` puts the working directory before the installed packages. A folder there called `benchmarks`, `aligners` or `datasets` would
be imported instead of the installed package. The command `harness` does not do this, so this module undoes it.
"""

import sys
from pathlib import Path


def _leave_out_the_working_directory() -> None:
    """Remove the entry that `python -m` put at the front of `sys.path`, unless Python found this package through it."""
    first = sys.path[0] if sys.path and not sys.flags.safe_path else ""
    if first and first == str(Path.cwd()) and Path(__file__).resolve().parents[1] != Path(first).resolve():
        del sys.path[0]


if __name__ == "__main__":
    _leave_out_the_working_directory()
    from harness.cli import main

    main()
