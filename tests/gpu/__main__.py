"""`python -m tests.gpu FOLDER OUT TASK ...`: the tasks on the pretended GPU, in one process; prints one line of JSON a task."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

if __name__ == "__main__":
    folder, out, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]

    from tests.gpu.pretended import register

    mode, _kept = register()
    from tests.gpu.tasks import TASKS

    with mode:
        for name in names:
            try:
                report = {"found": TASKS[name](folder, out / name)}
            except Exception:  # noqa: BLE001, every task says for itself what went wrong
                report = {"error": traceback.format_exc()[-3000:]}
            print("TASK", json.dumps({"task": name, **report}), flush=True)
