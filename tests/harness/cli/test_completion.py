"""The shell completes commands, options and names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("harness leader", ["leaderboard"]),
        ("harness data corr", ["corrupt"]),
        ("harness align --met", ["--method"]),
        ("harness align --method md", ["mdpo"]),
        ("harness align --model official:llava-1.5-7", ["official:llava-1.5-7b"]),
        ("harness align --recipe mfpo", ["mfpo-paper"]),
        ("harness eval --suite amber,pope-", ["amber,pope-aokvqa", "amber,pope-gqa"]),
        ("harness score --suite halb", ["halbench"]),
    ],
)
def test_what_is_offered(words: str, offered: list[str], tmp_path: Path) -> None:
    variables = {"_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, str(Path(sys.executable).with_name("harness"))],
        env=os.environ | variables, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == offered and not done.stderr, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_it_is_installed_for_bash(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("harness")
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    # The shell is the nearest one above the process, which is make's or a CI's own without this one.
    typed = ["bash", "--norc", "-c", "harness --install-completion; exit $?"]
    done = subprocess.run(typed, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    script = """
source ~/.bashrc
COMP_WORDS=(harness align --method symm); COMP_CWORD=3; COMP_LINE="harness align --method symm"
_harness_completion harness; echo "${COMPREPLY[@]}"
"""
    shell = subprocess.run(["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True)
    assert shell.stdout.split() == ["symmpo"], shell.stderr
