"""Every command of `harness --help` is run once: from the built wheel, in a process of its own, far from the checkout.

The folder that they run in has packages named `benchmarks` and `aligners` of its own, which stop whoever imports them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.remote.endpoint import KEY_VARIABLE
from harness.serving.vllm import VllmBackend
from harness.worlds.pocket.scenes import CLASSES
from tests import warm
from tests.command_cases import COMMANDS, ENDPOINT, SMALL, fill
from tests.commands import leaves
from tests.harness.generation.scripted import Asked, scripted
from tests.harness.remote.hub_server import hub

ROOT = Path(__file__).resolve().parents[3]
SHARDS = [("eval", "--run", "one", "--suite", "halbench", "--limit", "4", "--shard", f"{n}/2", *SMALL) for n in (1, 2)]


@dataclass
class Installed:
    """The tool as its wheel brings it, and a folder to use it in."""

    site: Path
    folder: Path
    environment: dict[str, str]
    endpoint: str
    starter: warm.Starter
    done: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return warm.run([*arguments], cwd=self.folder, env=self.environment, starter=self.starter)

    def once(self, name: str) -> subprocess.CompletedProcess[str]:
        """A command's one run, behind those that it needs."""
        if name not in self.done:
            for before in COMMANDS[name].after:
                if before in COMMANDS:
                    self.once(before)
            if "shards of eval" in COMMANDS[name].after:
                self.once("align")
                for shard in SHARDS:
                    answered = self.run(*shard)
                    assert answered.returncode == 0, answered.stderr[-3000:]
            arguments = [self.endpoint if one == ENDPOINT else one for one in COMMANDS[name].arguments]
            self.done[name] = self.run(*name.split(), *arguments)
        return self.done[name]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The wheel, built and installed; a folder of small inputs; a cache in which the world is small."""
    made, site, folder, cache = (tmp_path_factory.mktemp(name) for name in ("wheel", "site", "work", "cache"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(made), str(ROOT)], check=True
    )
    [wheel] = made.glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    fill(folder)
    with pytest.MonkeyPatch.context() as patch, hub() as server, scripted(_a_thing) as endpoint:
        patch.setenv("HARNESS_CACHE", str(cache))
        _small_world(folder)
        server.offered["datasets", "openbmb/RLAIF-V-Dataset"] = {"x.parquet": (3, b"abc")}
        environment = os.environ | {
            "PYTHONPATH": str(site),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": server.url,
            "OMP_NUM_THREADS": "1",
            KEY_VARIABLE: "sk-test",
            "COLUMNS": "200",
        }
        yield Installed(site, folder, environment, endpoint.url, warm.Starter(environment))


def _a_thing(asked: Asked) -> str:
    return f"There is a {CLASSES[(asked.seed or 0) % len(CLASSES)]}."


def _small_world(folder: Path) -> None:
    """In the cache lies a small world, as if it had been made before: the real one takes minutes."""
    from harness.worlds.pocket.world import PocketWorld

    def benchmarks(made: Path) -> None:
        shutil.copytree(folder / "data", made / "content")
        questions = made / "content" / "mmhal" / "response_template.json"
        questions.write_text(json.dumps(json.loads(questions.read_text())[:8]))

    world = PocketWorld(0)
    world._part("model", lambda made: shutil.copytree(folder / "base", made / "content"))
    world._part("preferences", lambda made: shutil.copytree(folder / "prefs", made / "content"))
    world._part("benchmarks", benchmarks, "validation")


@pytest.mark.slow
def test_the_wheel_is_what_runs(installed: Installed) -> None:
    modules = "harness", "aligners.base", "benchmarks.base"
    code = f"import {', '.join(modules)}; print({', '.join(f'{module}.__file__' for module in modules)}, sep='\\n')"
    done = installed.python("-P", "-c", code)
    files = done.stdout.split()
    assert len(files) == 3 and all(Path(file).is_relative_to(installed.site) for file in files), (
        done.stdout + done.stderr
    )
    for command in (["-m", "harness"], [str(installed.site / "bin" / "harness")]):
        listed = installed.python(*command, "list", "methods")
        assert listed.returncode == 0 and "mfpo" in listed.stdout, listed.stderr


def test_every_command_is_in_the_table() -> None:
    assert {" ".join(path) for path, _ in leaves()} == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("serve", "view")])
def test_a_command(installed: Installed, name: str) -> None:
    done, wanted = installed.once(name), COMMANDS[name]
    assert done.returncode == 0, done.stderr[-3000:]
    assert wanted.says in done.stdout + done.stderr, (done.stdout + done.stderr)[-3000:]
    assert wanted.leaves is None or list(installed.folder.glob(wanted.leaves)), f"{name} left no {wanted.leaves}"


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(VllmBackend.missing() is not None, reason="vLLM is not installed")
@pytest.mark.exhaustive
def test_serve(installed: Installed) -> None:
    """Started, asked, stopped."""
    installed.once("align")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = installed.folder / "serve.log"
    command = [
        sys.executable,
        str(installed.site / "bin" / "harness"),
        "serve",
        *COMMANDS["serve"].arguments,
        str(port),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=installed.folder, env=installed.environment, stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 400
        while b"Serving one at" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        body = json.dumps(
            {"model": "one", "max_tokens": 2, "messages": [{"role": "user", "content": "a dog"}]}
        ).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["choices"][0]["message"]["content"] is not None
    finally:
        process.terminate()
        process.wait(timeout=60)
