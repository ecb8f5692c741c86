"""Inputs that failed once, from the folder of cases beside the checkout (skipped, visibly, where it is not there)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import run_here

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
BAD = sorted(path.name for path in CASES.glob("bad-inputs/score-*")) or ["score (the folder of cases is not there)"]
SOUND = "".join(
    json.dumps({"image_id": n, "text": "The image shows a dog, a cat and a bird."}) + "\n" for n in range(4)
)
REPORTS = {
    "amber-byte-order-marks": [r"generative\.chair ↓ │ +0\.0", r"discriminative\.accuracy ↑ +│ +100\.0"],
    "chair-coco-results": [r"(chair_i ↓ +│ +25\.0[^$]*){2}"],
    "chair-hyphens-and-plurals": [
        r"teddy-bear[^\n]*-> \['teddy bear', 'bed'\]",
        r"Hot-dogs[^\n]*-> \['hot dog'\]",
        r"stop-sign[^\n]*-> \['stop sign'\]",
        r"bear-shaped[^\n]*-> \[\]",
        r"tie-dye[^\n]*-> \[\]",
        r"bowl-shaped[^\n]*-> \['sink'\]",
        r"remote-controlled[^\n]*-> \[\]",
        r"TVs[^\n]*-> \['tv'\]",
    ],
    "mmhal-rating-scale-and-ranges": [r"-> 5\.0\n.*-> 2\.0\n.*-> 4\.0\n(.*-> None\n){5}.*-> 4\.0\n.*-> 5\.0\n"],
    "mmhal-rating-with-full-stop": [r"-> 3\.0\n.*-> 4\.0\n.*-> 6\.0\n.*-> 5\.0\n"],
    "pope-labels-with-capitals": [r"accuracy ↑ +│ +75\.0", r"f1 ↑ +│ +66\.7", r"accuracy ↑[^\n]*│ +0\.25 │"],
    "pope-llava-answers": [r"accuracy ↑ +│ +75\.0", r"f1 ↑ +│ +66\.7"],
    "pope-lmms-eval-samples": [r"accuracy ↑ +│ +75\.0", r"f1 ↑ +│ +66\.7"],
    "pope-official-answers-without-ids": [r"accuracy ↑ +│ +75\.0", r"f1 ↑ +│ +66\.7"],
    "yesno-tolerant-readings": [r"-> yes\n(.*-> no\n){7}.*-> None\n"],
}


@pytest.fixture
def cases() -> Path:
    if not CASES.is_dir():
        pytest.skip(f"the cases are not there: {CASES}")
    return CASES


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS)
def test_reports_of_users(name: str, cases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cases / "reports" / name, tmp_path / name)
    command = Path(sys.executable).with_name("harness")
    done = subprocess.run(
        ["bash", str(folder / "run.sh")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HARNESS": str(command), "PYTHONUTF8": "1"},
    )
    assert "exit 0" in done.stdout and "exit 2" not in done.stdout, done.stdout + done.stderr
    for wanted in REPORTS[name]:
        assert re.search(wanted, done.stdout), f"{wanted}\n{done.stdout}"


@pytest.mark.parametrize("name", BAD)
def test_a_spoiled_file_ends_in_one_paragraph(
    name: str, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(cases / "bad-inputs" / name, tmp_path / name, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    case = json.loads((folder / "case.json").read_text())
    _lay_out(folder, case)
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    start = time.process_time()
    code, _, said = run_here(case["args"])
    assert code == 2, said
    assert said.startswith("error: ") and "defect" not in said and "Traceback" not in said and len(said) <= 2000
    assert all(one.isprintable() or one == "\n" for one in said)
    assert time.process_time() - start < 10, "two seconds where everything is imported and nothing else runs"
    assert sorted(path.name for path in folder.iterdir()) == before, "nothing was written"


def _lay_out(folder: Path, case: dict[str, object]) -> None:
    """Put the files where the arguments have them, and make those that the case does not bring."""
    args, how = [str(one) for one in case["args"]], str(case["how"])  # type: ignore[attr-defined]
    if "coco" in args:
        (folder / "coco").mkdir()
        for path in folder.glob("*_val2014.json"):
            path.rename(folder / "coco" / path.name)
    for name in re.findall(r"([\w./]+): (?:todir|dir)\b", how):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in re.findall(r"([\w./]+): deep\b", how):
        (folder / name).write_text("[" * 100_000)
    if "hal.jsonl" in args and not (folder / "hal.jsonl").exists():
        (folder / "hal.jsonl").write_text(SOUND)
