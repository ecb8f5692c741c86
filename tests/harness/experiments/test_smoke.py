"""The experiment `smoke` in a new folder, as a user runs it: every kind of step on the shipped model, killed in between, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from harness.experiments.spec import EXPERIMENTS
from harness.runs.folders import open_run
from tests import warm

COMMAND = ["experiment", "smoke"]


def done_runs(folder: Path) -> dict[str, int]:
    """Name -> time of the checkpoint of every complete aligned run."""
    runs = [open_run(path.parent) for path in folder.glob("results/experiments/runs/*/manifest.json")]
    return {run.name: run.checkpoint.stat().st_mtime_ns for run in runs if run.aligned}


def test_smoke_from_pairs_to_claims_killed_in_between(tmp_path: Path) -> None:
    process = warm.start(COMMAND, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 170
    while len(list(tmp_path.glob("results/experiments/runs/mfpo-*/config.json"))) < 1 and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = done_runs(tmp_path)
    assert [name.partition("-")[0] for name in before] == ["dpo"], "it was killed at another place"
    resumed = warm.run(COMMAND, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    after = done_runs(tmp_path)
    assert len(after) == 2 and before.items() <= after.items(), "a run was made twice"
    folder = tmp_path / "results" / "experiments"
    result = json.loads((folder / "smoke" / "experiment.json").read_text())
    assert not result["failed"] and [claim["claim"] for claim in result["claims"]] == claims()
    assert all(claim["verdict"] in ("seen", "not seen", "reversed") for claim in result["claims"])
    assert (
        len(list((folder / "smoke" / "steps").glob("*.json"))) == 4 and (folder / "worlds/world-pocket.json").is_file()
    )
    page = (folder / "smoke" / "index.md").read_text()
    assert "Made by `harness experiment smoke`." in page
    assert "**mfpo, stage=1-easy**" in page or "| mfpo, stage=1-easy |" in page.partition("## Leaderboard")[2]
    assert "| noise 999 |" in page and "Image reliance: POPE, base on pocket-validation, n = " in page
    html = (folder / "smoke" / "index.html").read_text()
    for part in (
        "<h2>Image reliance</h2>",
        "<h2>Modality balance</h2>",
        ">noise 999<",
        ">as it is<",
        "From above: base;",
    ):
        assert part in html, part
    # The margins on the page are those of the manifests.
    for run in (open_run(folder / "runs" / name) for name in after):
        assert run.manifest is not None and run.manifest.summary is not None
        margin = run.manifest.summary["balance"]["measured"][-1]["text"]["value"]
        assert f"{margin:.3f}".replace("-", "−") in page.partition("## Modality balance")[2], run.name
    # Without the records of the steps, the runs and their scores say that every command was carried out.
    for record in [*(folder / "smoke" / "steps").glob("*.json"), folder / "worlds/world-pocket.json"]:
        record.unlink()
    printed = warm.run([*COMMAND, "--print"], cwd=tmp_path)
    assert (printed.returncode, printed.stdout, printed.stderr) == (0, "", "")


def claims() -> list[Any]:
    """What the file claims."""
    import yaml

    found: list[Any] = yaml.safe_load((EXPERIMENTS / "smoke.yaml").read_text())["claims"]
    return found
