"""`python -m tests.gpu FOLDER OUT TASK ...`: tasks on a GPU (pretended where there is none) in one process; a line of JSON a task."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from pathlib import Path

if __name__ == "__main__":
    folder, out, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]

    from tests.gpu.pretended import register, there_is_a_gpu

    mode, _kept = (contextlib.nullcontext(), None) if there_is_a_gpu() else register()
    from tests.gpu.tasks import TASKS

    with mode:
        for name in names:
            try:
                report = {"found": TASKS[name](folder, out / name)}
            except Exception:  # noqa: BLE001, every task says for itself what went wrong
                report = {"error": traceback.format_exc()[-3000:]}
            print("TASK", json.dumps({"task": name, **report}), flush=True)
