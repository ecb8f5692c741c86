"""The default backend: vLLM if it is installed."""

from __future__ import annotations

import logging
from typing import Any

from harness.core import registry
from harness.core.errors import BadInputError
from harness.core.packages import need_package
from harness.serving.base import Backend

logger = logging.getLogger(__name__)


def choose_backend(name: str | None = None) -> type[Backend]:
    """The backend with this name, or vLLM, or the fallback, which is logged.

    Raises:
        UnknownNameError: no such backend.
        MissingPackageError: a package that it needs is not installed.
        BadInputError: the named one cannot run here.
    """
    if name is not None:
        return _that_runs(name)
    vllm: type[Backend] = registry.load("backends", "vllm")
    if (reason := vllm.missing()) is None:
        return vllm
    fallback = _that_runs("transformers")
    logger.warning(f"{reason}: using transformers, which is slower")
    return fallback


def _that_runs(name: str) -> type[Backend]:
    backend: type[Backend] = registry.load("backends", name)
    for module in backend.packages:
        need_package(module, f"the backend '{name}'")
    if reason := backend.missing():
        raise BadInputError(f"the backend '{name}' cannot run here: {reason}", remedy="leave out --backend")
    return backend


def endpoint_settings(endpoint: str | None, engine: type[Backend]) -> dict[str, Any]:
    """The backend's settings that `--endpoint` gives: URLs, separated by commas.

    Raises:
        BadInputError: the backend uses no endpoint, or a value is not a URL.
    """
    if endpoint is None:
        return {}
    if not engine.remote:
        raise BadInputError(
            f"the backend '{engine.name}' does not use an endpoint", remedy="leave out --endpoint or --backend"
        )
    urls = [part.strip().rstrip("/") for part in endpoint.split(",") if part.strip()]
    if wrong := [url for url in urls if not url.startswith(("http://", "https://"))]:
        raise BadInputError(f"'{wrong[0]}' is not a URL", remedy="--endpoint http://127.0.0.1:8000/v1")
    return {"endpoints": urls}
