# The harness with the GPU set, exactly as locks/gpu.txt has it:  docker build -t harness .
#     docker run --gpus all -v "$PWD:/work" -v harness-cache:/cache harness eval --model llava-v1.6-7b --suite halbench
# `devel`, because Triton, FlashInfer and DeepSpeed compile kernels when they first run.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ python3 python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/harness PATH=/opt/harness/bin:$PATH HARNESS_CACHE=/cache HF_HOME=/cache/hub
RUN python3 -m venv "$VIRTUAL_ENV" && pip install --no-cache-dir "uv>=0.9,<1"

WORKDIR /opt/source
COPY locks/gpu.txt locks/
# DeepSpeed is published as source only, and its set-up imports torch.
RUN grep -v '^#' locks/gpu.txt | awk '/^[^ ]/ { ours = !/^deepspeed==/ } ours' > /tmp/wheels.txt \
    && grep -v '^#' locks/gpu.txt | awk '/^[^ ]/ { ours = /^deepspeed==/ } ours' > /tmp/sources.txt \
    && uv pip sync --no-cache --require-hashes /tmp/wheels.txt \
    && uv pip install --no-cache --no-deps --no-build-isolation --require-hashes --requirement /tmp/sources.txt

COPY pyproject.toml README.md LICENSE ./
COPY harness harness
COPY aligners aligners
COPY benchmarks benchmarks
COPY results/published.csv results/
RUN uv pip install --no-cache "hatchling>=1.27" && uv pip install --no-cache --no-deps --no-build-isolation .

RUN useradd --create-home harness && mkdir /cache /work && chown harness /cache /work
USER harness
WORKDIR /work
ENTRYPOINT ["harness"]
CMD ["--help"]
