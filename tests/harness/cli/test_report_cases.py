"""Checkpoints from public bug reports, where the cases lie beside the checkout: what each `run.sh` prints is what its `expected.md` says.

The cases make their models from the pocket world's; here a small one with random weights stands in its place. What is to be answered is
then what the sound model answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CONFORMANCE
from tests.tiny import tiny_llava

CASES = CONFORMANCE.parent / "cases" / "reports"
REFUSED = {
    "ckpt-adapter-base-gone": ("/data/gone/llava-1.5-7b-hf", "base_model_name_or_path in", "adapter_config.json"),
    "ckpt-adapter-layers-missing": ("language_model.layers.3.self_attn.q_proj.lora_A.weight",),
    "ckpt-index-file-missing": ("model.safetensors.index.json is missing, next to 2 of 2 shards", "unfinished copy"),
}
ANSWERED = ("ckpt-processor-without-patch-size", "ckpt-template-in-tokenizer-config", "ckpt-wrapper-prefix")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CASES.is_dir():
        pytest.skip(f"the cases are not there: {CASES}")
    cache = tmp_path_factory.mktemp("cache")
    tiny_llava(cache / "pocket" / "model-s0-small" / "content")
    return cache


def printed(cache: Path, command: list[str]) -> list[str]:
    """The lines of a case's script."""
    environment = os.environ | {
        "HARNESS": str(Path(sys.executable).with_name("harness")),
        "HARNESS_CACHE": str(cache),
        "COLUMNS": "140",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, env=environment, cwd=CASES, capture_output=True, text=True, timeout=300)
    return done.stdout.splitlines()


def test_every_case_of_a_checkpoint_is_looked_at() -> None:
    if not CASES.is_dir():
        pytest.skip(f"the cases are not there: {CASES}")
    assert {path.name for path in CASES.glob("ckpt-*")} <= {*REFUSED, *ANSWERED}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, cache: Path) -> None:
    lines = printed(cache, ["bash", str(CASES / case / "run.sh")])
    assert lines[-1] == "exit 2" and lines[0].startswith("error: "), lines
    assert all(words in "\n".join(lines) for words in REFUSED[case])


@pytest.fixture(scope="module")
def sound_answer(cache: Path) -> list[str]:
    """What the model without a fault answers."""
    sound = cache / "pocket" / "model-s0-small" / "content"
    picture = CASES / ANSWERED[0] / "img.png"
    line = f'"$HARNESS" ask {sound} {picture} 2>&1 | cut -c1-200 | tail -4; echo "exit ${{PIPESTATUS[0]}}"'
    lines = printed(cache, ["bash", "-c", line])
    assert lines[-1] == "exit 0" and len(lines[0]) > 10
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [ANSWERED[0], *(pytest.param(case, marks=pytest.mark.exhaustive) for case in ANSWERED[1:])]
)
def test_what_is_answered_as_the_sound_model_answers(case: str, cache: Path, sound_answer: list[str]) -> None:
    assert printed(cache, ["bash", str(CASES / case / "run.sh")]) == sound_answer
