"""Whether tests that claim a setting fail where it does nothing: `python -m tests.claims [NAME...]`.

Every setting in turn is held at its default, and the tests that claim it are run: one of them must fail. What required options name
cannot be left out, and is not tried. Of what another process reads of a setting nothing is known here: it still has it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.claims.ignoring import IGNORED
from tests.claims.marks import claims
from tests.claims.settings import options


def main(names: list[str]) -> int:
    """Try the claims that begin with one of these names, or all."""
    import torch  # noqa: F401 (once for all)
    import transformers  # noqa: F401

    required = {name for option in options() if option.required for name in option.names}
    idle = []
    for name, files in sorted(claims().items()):
        if name in required or (names and not any(name.startswith(one) for one in names)):
            continue
        started = time.perf_counter()
        code = _run(name, sorted(map(str, files)))
        said = {0: "NO TEST FAILS", 1: "a test fails", 5: "NO TEST RUNS"}.get(code, f"pytest ends with {code}")
        print(f"{name}: {said} ({time.perf_counter() - started:.0f} s)", flush=True)
        if code != 1:
            idle.append(name)
    print(f"claims that do not hold: {', '.join(idle) or 'none'}")
    return 1 if idle else 0


def _run(name: str, files: list[str]) -> int:
    """pytest's exit code, in a process of its own."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    import pytest

    os.environ[IGNORED] = name
    with tempfile.TemporaryFile() as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        code = 3
        try:
            code = int(pytest.main(["-q", "-x", "-p", "tests.claims.ignoring", "-p", "no:cacheprovider", *files]))
            if code not in (0, 1, 5):
                out.seek(0)
                (Path(tempfile.gettempdir()) / "claims-failed.log").write_bytes(out.read())
        finally:
            os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
