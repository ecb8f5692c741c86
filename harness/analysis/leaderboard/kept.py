"""A cache of bootstrap results; the key is a hash of everything that a result depends on."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.leaderboard.board import Part
from harness.core.errors import BadInputError
from harness.core.files import sha256_bytes, sha256_json, to_cache, write_json
from harness.core.paths import cache_folder
from harness.core.reading import read_json
from harness.core.stats import RESAMPLES, SEED, Aggregate
from harness.core.version import VERSION

_FORMAT = 1


def kept(
    what: str,
    parts: Sequence[tuple[Part, ...]],
    more: Sequence[Any],
    compute: Callable[[], Any],
    code: tuple[Callable[..., Any], ...],
) -> Any:
    """A JSON-able result for some items, from the cache or computed.

    Args:
        what: the kind of result.
        parts: the items that it is computed from; their counts, and the code that computes metrics from them, are part of the key.
        more: further parts of the key. JSON-able.
        compute: computes it.
        code: functions that compute it; the source files that define them are part of the key.
    """
    about = [[(part.items.digest, part.rules, _code(part.aggregate)) for part in group] for group in parts]
    key = sha256_json([_FORMAT, what, about, list(more), RESAMPLES, SEED, VERSION, np.__version__, _code_of(code)])
    path = cache_folder() / "scores" / what / key[:2] / f"{key}.json"
    try:
        return read_json(path)
    except BadInputError:  # not in the cache, or damaged there
        result = compute()
    with to_cache(path):
        write_json(path, result)
    return json.loads(json.dumps(result))


@functools.cache
def _code_of(kinds: tuple[Any, ...]) -> str:
    """A hash of the files that classes and functions are defined in."""
    files = {}
    for kind in kinds:
        with contextlib.suppress(TypeError, OSError):
            if file := inspect.getsourcefile(kind):
                files[kind.__module__] = sha256_bytes(Path(file).read_bytes())
    return sha256_json(files)


def _code(aggregate: Aggregate) -> str:
    """A hash of the code that computes metrics from counts: a benchmark and its base classes, or a function."""
    own = getattr(aggregate, "__self__", None)
    return _code_of(tuple(type(own).__mro__[:-1]) if own is not None else (aggregate,))
