"""A model folder's own Python is never run: not by transformers' Auto classes, not by vLLM, not where "y" is piped to the question."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness.serving.vllm import VllmBackend
from tests import warm
from tests.harness.serving.fake_vision import small_pope
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph

AUTO = {
    name: f"code.{name}"
    for name in (
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForImageTextToText",
        "AutoModelForVision2Seq",
        "AutoProcessor",
        "AutoTokenizer",
        "AutoImageProcessor",
        "AutoVideoProcessor",
        "AutoModelForZeroShotObjectDetection",
    )
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    tiny_llava(place / "sound")
    tiny_pairs(place, 8)
    tiny_photograph(place / "p.png", 0)
    small_pope(place)
    return place


def hostile(place: Path, *, unknown: bool) -> tuple[Path, Path]:
    """A model folder whose every file of settings names its own code, and the file that the code would leave.

    `unknown`: its type is one that transformers does not know, so that it cannot be loaded without the code.
    """
    folder, ran = place / ("unknown" if unknown else "known"), place / "ran"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "sound", folder)
    ran.unlink(missing_ok=True)
    code = f"open({str(ran)!r}, 'a').write(__name__)\n" + "".join(f"class {name}: pass\n" for name in AUTO)
    (folder / "code.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(ran)!r}, 'a').write('generate')\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json"):
        path = folder / name
        value: dict[str, Any] = json.loads(path.read_text())
        tokenizers = {**AUTO, "AutoTokenizer": ["code.AutoTokenizer", "code.AutoTokenizer"]}
        value["auto_map"] = tokenizers if name == "tokenizer_config.json" else AUTO
        if unknown:
            value |= {"model_type": "theirs", "processor_class": "Theirs", "tokenizer_class": "Theirs"}
            value |= {"architectures": ["AutoModelForCausalLM"]} if name == "config.json" else {}
        path.write_text(json.dumps(value))
    return folder, ran


COMMANDS = {
    "ask": ["ask", "{}", "p.png", "what", "--max-new-tokens", "2"],
    "eval with transformers": ["eval", "--model", "{}", "--suite", "pope", "--data", "data", "--backend", "transformers"],
    "eval --dry-run": ["eval", "--model", "{}", "--suite", "pope", "--data", "data", "--dry-run"],
    "verify": ["verify", "{}", "--probes", "1", "--backend", "transformers"],
    "push": ["push", "{}", "somebody/model", "--dry-run"],
    "data check --model": ["data", "check", "rlaif-v.parquet", "--model", "{}"],
    "align --dry-run": ["align", "--method", "dpo", "--model", "{}", "--data", "rlaif-v.parquet", "--dry-run"],
    "align": ["align", "--method", "dpo", "--model", "{}", "--data", "rlaif-v.parquet", "--limit", "2", "--set", "train.epochs=1"],
    "detectors": ["data", "corrupt", "rlaif-v.parquet", "-o", "rejected", "--regions", "grounding-dino+sam", "--set", "detector={}"],
}  # fmt: skip
VLLM = {
    "eval with vllm": ["eval", "--model", "{}", "--suite", "pope", "--data", "data", "--backend", "vllm", "--limit", "1"],
    "serve": ["serve", "{}", "--port", "8399"],
}  # fmt: skip


def carried_out(place: Path, arguments: list[str], folder: Path) -> tuple[int | None, str]:
    """The command with an endless "y" at its input, as `yes |` gives it: how it ended, and what it printed.

    A server is ended, and its code None, as soon as it says that it serves.
    """
    line = [part.format(f"./{folder.name}") for part in arguments]
    log, deadline = place / "printed.log", time.monotonic() + 500
    with (
        log.open("wb") as printed,
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes,
        warm.start(
            line,
            cwd=place,
            stdin=yes.stdout,
            stdout=printed,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        while process.poll() is None and b"Serving" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.2)
        code = process.poll()
        process.terminate()
        process.wait(timeout=60)
        yes.kill()
    return code, log.read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("unknown", [False, True], ids=["a known type", "an unknown type"])
@pytest.mark.parametrize(
    "name",
    [
        *COMMANDS,
        *(
            pytest.param(name, marks=[pytest.mark.vllm, *([pytest.mark.exhaustive] if name == "serve" else [])])
            for name in VLLM
            if not VllmBackend.missing()
        ),
    ],
)
def test_code_of_a_model_folder_is_not_run(name: str, unknown: bool, place: Path) -> None:
    folder, ran = hostile(place, unknown=unknown)
    shutil.rmtree(place / "results", ignore_errors=True)
    code, said = carried_out(place, {**COMMANDS, **VLLM}[name], folder)
    assert not ran.exists(), f"{ran.read_text()} was run: {said[-1000:]}"
    assert "[y/N]" not in said
    if not unknown:  # transformers has classes of its own for this type, and takes them
        assert code == 0 or (code is None and "Serving" in said) or name == "detectors", said[-2000:]
    elif name != "detectors":
        assert code == 2 and said.count("error: ") == 1, said[-2000:]
        assert "such code is never run" in " ".join(said.split())


def test_from_config_does_not_run_it_either(place: Path) -> None:
    from harness.core.errors import BadInputError
    from harness.models import inspect, load_model, load_processor

    for unknown in (False, True):
        folder, ran = hostile(place, unknown=unknown)
        for attempt in (inspect, load_processor, load_model):
            try:
                attempt(folder)
            except BadInputError:
                assert unknown
        assert not ran.exists()
