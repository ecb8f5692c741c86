"""`harness doctor` in environments that are broken in the ways that were met: packages that stop on import, of the wrong build, missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.doctor.line import Tried, python
from harness.doctor.software import _serving, _stages
from harness.doctor.tiny import _answers, _make
from harness.serving.transformers import TransformersBackend
from tests.harness.serving.fake_vision import SECRET
from tests.harness.serving.test_vllm import needs_vllm

Doctor = Callable[[dict[str, str]], tuple[int, dict[str, dict[str, str]], str]]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Runs the doctor with these modules (name -> source) and distributions (NAME-VERSION.dist-info/FILE -> text) before the real ones."""

    def run(stubs: dict[str, str], **variables: str) -> tuple[int, dict[str, dict[str, str]], str]:
        site = tmp_path / "site"
        for name, text in stubs.items():
            path = site / (name if "." in name else f"{name}/__init__.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        environment = {name: value for name, value in os.environ.items() if name not in ("NLTK_DATA", "HF_TOKEN")}
        environment["PYTHONPATH"] = os.pathsep.join([str(site), environment.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "harness", "doctor", "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**environment, **variables}, cwd=tmp_path, timeout=500
        )
        assert done.stdout.startswith("["), done.stderr
        return done.returncode, {line["name"]: line for line in json.loads(done.stdout)}, done.stdout + done.stderr

    return run  # type: ignore[return-value]


def raising(problem: str) -> str:
    return f"raise {problem}\n"


@pytest.mark.slow
def test_packages_that_stop_on_import(doctor: Doctor) -> None:
    code, lines, said = doctor(
        {
            "torch": "__version__ = '2.13.0'\nclass version: cuda, hip = '13.0', None\n"
            "class cuda:\n    is_available = staticmethod(lambda: False)\n    device_count = staticmethod(lambda: 0)\n",
            "torchvision": raising("RuntimeError('operator torchvision::nms does not exist')"),
            "torchaudio": raising("OSError('libc10_cuda.so: cannot open shared object file')"),
            "torchcodec": raising("RuntimeError('libnvrtc.so.13: cannot open shared object file')"),
            "transformers": raising("OSError('libc10_cuda.so: cannot open shared object file')"),
            "vllm": raising("ImportError('libcudart.so.13')"),
            "spacy": raising("ImportError('no spacy here')"),
            "broken_plugin-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n",
            "broken_plugin-1.0.dist-info/entry_points.txt": "[harness.backends]\nbroken = nowhere_at_all:Nothing\n",
            "vllm-0.32.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n",
            "torch-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n",
        },
        HARNESS_CACHE="/proc/no-such-folder",
        OPENAI_API_KEY=SECRET,
    )  # type: ignore[call-arg]
    assert code == 1
    states = {name: line["state"] for name, line in lines.items()}
    assert states["Python"] == "ok"
    # The first trap: a torch for CUDA on a machine without a GPU, and a torchvision that does not load beside it.
    assert states["torch"] == "warn" and "without a GPU" in lines["torch"]["finding"]
    assert "HARNESS_BUILD=cpu" in lines["torch"]["remedy"]
    assert states["torchvision"] == "fail" and "nms does not exist" in lines["torchvision"]["finding"]
    # The fifth: packages that nobody needs and that stop transformers.
    for name in ("torchaudio", "torchcodec"):
        assert states[name] == "fail" and f"pip uninstall {name}" in lines[name]["remedy"]
    assert states["transformers"] == "fail" and "torchaudio" in lines["transformers"]["remedy"]
    # The fourth, and two builds at once.
    assert states["vLLM"] == "fail" and "libcudart" in lines["vLLM"]["finding"]
    assert states["versions"] == "fail" and "needs torch" in lines["versions"]["finding"]
    assert "1.0 is installed" in lines["versions"]["finding"]
    # The third: what is downloaded from elsewhere.
    assert states["spaCy"] == "fail" and "no spacy here" in lines["spaCy"]["finding"]
    assert states["en_core_web_lg"] in ("warn", "ok") and states["data amber"] == "warn"
    assert "harness data get amber" in lines["data amber"]["remedy"]
    broken = lines["harness.backends broken"]
    assert broken["state"] == "fail" and "nowhere_at_all" in broken["finding"] and "broken-plugin" in broken["remedy"]
    assert states["cache folder"] == "fail" and "HARNESS_CACHE" in lines["cache folder"]["remedy"]
    assert states["key OPENAI_API_KEY"] == "ok" and SECRET not in said
    assert all(line["remedy"] for line in lines.values() if line["state"] == "fail")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_here_nothing_fails(doctor: Doctor, tmp_path: Path) -> None:
    code, lines, _ = doctor({}, HARNESS_CACHE=str(tmp_path / "cache"))  # type: ignore[call-arg]
    assert code == 0, [line for line in lines.values() if line["state"] == "fail"]
    assert {
        "torch",
        "torchvision",
        "transformers",
        "vLLM",
        "versions",
        "plugins",
        "NLTK",
        "cache folder",
    } <= lines.keys()
    assert not (tmp_path / "cache").exists(), "looking made something"


def test_what_hangs_is_given_up() -> None:
    tried = python("import time; time.sleep(60)", timeout_s=0.5)
    assert not tried.well and "no answer within 0.5 s" in tried.problem
    assert python("print(1)").printed == "1"
    assert "ZeroDivisionError" in python("1 / 0").problem


def test_an_import_that_ends_the_process_is_told_from_those_before_it() -> None:
    code = """
import json, os
print(json.dumps(["torch", True, "[]", ""]), flush=True)
print("a library's own words")
print(json.dumps(["torchvision", False, "", "ImportError: no"]), flush=True)
os.abort()
"""
    found = _stages(python(code), ("torch", "torchvision", "transformers"))
    assert found["torch"] == Tried(True, "[]", "") and found["torchvision"].problem == "ImportError: no"
    assert not found["transformers"].well and "code -6" in found["transformers"].problem


def test_full_compares_answers_in_one_data_type(tmp_path: Path) -> None:
    """On a GPU, the backends' own choices differ."""
    asked = []

    class Noting(TransformersBackend):
        def start(self) -> None:
            super().start()
            asked.append((self.settings.dtype, self.provenance()["dtype"]))

    _make(tmp_path / "model", tmp_path / "picture.png")
    _answers(Noting, tmp_path / "model", tmp_path / "picture.png")
    assert asked == [("float32", "float32")]


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
def test_full_serves_a_tiny_model_with_both_backends() -> None:
    """The second trap (names of weights) would stop vLLM here."""
    lines = {line.name: line for line in _serving()}
    assert {name: line.state for name, line in lines.items()} == {"transformers serves": "ok", "vllm serves": "ok"}
