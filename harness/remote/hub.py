"""The model hub: whether a repository exists, how large it is, and whether it can be downloaded; answered within seconds, before any
download.

`huggingface_hub` tries again five times for every single file of a model, waits for connections without a limit, and warns each time. So
the first request of a process to the hub is made here, once and with a time limit; if the hub cannot be reached and the cache has
everything, the process continues without the hub.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.core.errors import BadInputError, HarnessError
from harness.remote.loaded_files import INDEX, loaded, named_in

logger = logging.getLogger(__name__)

T = TypeVar("T")
Kind = Literal["model", "dataset"]
ANSWER_S = 10.0
"""Time limit of the hub's first answer in seconds, including the DNS look-up."""
OFFLINE = "HARNESS_OFFLINE"
"""If this environment variable is set, no connection is opened."""


@dataclass(frozen=True)
class Wanted:
    """A repository of the hub, and what this machine has of it.

    Attributes:
        name: NAMESPACE/NAME.
        kind: what it is.
        folder: its complete folder in the hub's cache; None if something is missing.
        download: bytes to download; None if the hub does not say.
    """

    name: str
    kind: Kind
    folder: Path | None
    download: int | None


def look(name: str, kind: Kind = "model", patterns: Sequence[str] = (), revision: str | None = None) -> Wanted:
    """Where a repository is, and what is missing on this machine. Nothing is downloaded; the hub is asked at most once.

    Args:
        name: NAMESPACE/NAME.
        kind: a model (of which only the files that every loading reads count) or a data set.
        patterns: patterns of needed files, e.g. `*.parquet`; default: all.
        revision: a branch, a tag or a commit; None: the default branch.

    Raises:
        BadInputError: the hub has no such repository, or this user has no access.
        HarnessError: it is not in the cache, and the hub cannot be reached, or offline mode is set.
    """
    return _look(name, kind, tuple(patterns), revision, str(cache_folder()))


def reach(location: str | Path) -> None:
    """Make sure that a model can be loaded without long waits: a folder always can; a hub id is looked up.

    Raises:
        BadInputError, HarnessError: as of `look`.
    """
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(location)) and not Path(location).exists():
        look(str(location))


def download(name: str, kind: Kind = "model", patterns: Sequence[str] = (), revision: str | None = None) -> Path:
    """The folder of a repository, downloaded if it is not in the hub's cache; interrupted downloads are resumed.

    Raises:
        BadInputError, HarnessError: as of `look`, or the connection broke.
    """
    found = look(name, kind, patterns, revision)
    if found.folder is not None:
        return found.folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(patterns) or None))
    except (HfHubHTTPError, OSError, _http_error()) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the network
        raise HarnessError(
            f"the download of {name} broke off: {_first_line(error)}",
            where=_endpoint(),
            remedy="run the same command again to resume",
        ) from None
    finally:
        _look.cache_clear()


def small_file(name: str, file: str) -> dict[str, Any]:
    """A small JSON file of a model on the hub, such as its config.json.

    Raises:
        BadInputError, HarnessError: as of `look`; or there is no such file.
    """
    look(name)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        value = json.loads(Path(hf_hub_download(name, file, etag_timeout=ANSWER_S)).read_text(encoding="utf-8"))
    except EntryNotFoundError:
        raise BadInputError(
            f"the repository {name} has no {file}: it is not a model for transformers", where=name
        ) from None
    except (HfHubHTTPError, _http_error()) as error:
        raise _unreachable(name, "model", error) from None
    except ValueError as error:
        raise BadInputError(f"{file} of {name} is not valid JSON: {error}", where=name) from None
    return value if isinstance(value, dict) else {}


@functools.lru_cache(maxsize=64)
def _look(name: str, kind: Kind, patterns: tuple[str, ...], revision: str | None, cache: str) -> Wanted:
    """`look`, once per process; `cache` is the folder of the hub's files."""
    here = _in_cache(name, kind, patterns, revision)
    if here is not None and (kind == "dataset" or is_offline()):
        if is_offline():
            go_offline()
        return Wanted(name, kind, here, 0)  # a cached data set is used without asking for a newer version
    if is_offline():
        variable = OFFLINE if os.environ.get(OFFLINE) else "HF_HUB_OFFLINE"
        raise HarnessError(
            f"the {_word(kind)} {name} is not in the hub's cache, and {variable} is set",
            where=cache,
            remedy=f"unset {variable}, or give a folder that contains it",
        )
    try:
        sizes = _within(ANSWER_S, lambda: _listing(name, kind, revision))
    except (BadInputError, HarnessError):
        raise
    except Exception as error:  # noqa: BLE001 (whatever the connection fails with: the cache may do)
        if here is None:
            raise _unreachable(name, kind, error) from None
        said = f"the hub cannot be reached ({_said(error)}): using the cached copy of {name}"
        logger.warning(said)
        go_offline()
        return Wanted(name, kind, here, 0)
    if kind == "model" and not patterns:
        wanted = loaded(sizes, _indexed(name, revision))
    else:
        wanted = {file for file in sizes if _is_wanted(file, patterns)}
    missing = [sizes[file] for file in wanted if not _has(name, kind, file, revision)]
    whole = here if not missing else None
    return Wanted(name, kind, whole, None if None in missing else sum(size or 0 for size in missing))


def is_offline() -> bool:
    """Whether offline mode is set."""
    from huggingface_hub import constants

    return bool(os.environ.get(OFFLINE)) or constants.is_offline_mode()


def go_offline() -> None:
    """Do not ask the hub again in this process and its children, because every request would wait for the time limit."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def _listing(name: str, kind: Kind, revision: str | None) -> dict[str, int | None]:
    """Name and size of every file of a repository.

    Raises:
        BadInputError: there is none of this name, or this user has no access.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        about = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=ANSWER_S, files_metadata=True)
    except GatedRepoError:
        raise BadInputError(
            f"the {_word(kind)} {name} is available only after you accept its conditions",
            where=_endpoint(),
            remedy=f"accept them on its page, {_endpoint()}/{name}, and set HF_TOKEN or run `hf auth login`",
        ) from None
    except RepositoryNotFoundError:
        raise BadInputError(
            f"the hub has no {_word(kind)} '{name}', or you have no access to it",
            where=_endpoint(),
            remedy="check the name; if it is private, set HF_TOKEN or run `hf auth login`",
        ) from None
    except RevisionNotFoundError:
        raise BadInputError(
            f"the {_word(kind)} {name} has no revision '{revision}'",
            where=_endpoint(),
            remedy="give a branch, a tag or a commit of it",
        ) from None
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        raise BadInputError(
            f"the hub refuses access to the {_word(kind)} {name}: {_said(error)}",
            where=_endpoint(),
            remedy="check the name and the token (HF_TOKEN, `hf auth whoami`); HF_ENDPOINT selects another hub",
        ) from None
    except HFValidationError as error:
        raise BadInputError(f"'{name}' is not a valid repository name: {_first_line(error)}", where=name) from None
    return {one.rfilename: one.size for one in getattr(about, "siblings", None) or ()}


def _is_wanted(file: str, patterns: Sequence[str]) -> bool:
    """Whether a file of a repository would be downloaded by these patterns; without any, all but hidden ones."""
    return any(fnmatch.fnmatch(file, pattern) for pattern in patterns) if patterns else not file.startswith(".")


def _indexed(name: str, revision: str | None) -> frozenset[str]:
    """The weights that a model's index in the hub's cache names; empty if it has none."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, INDEX, revision=revision)
    return named_in(Path(path)) if isinstance(path, str) else frozenset()


def _in_cache(name: str, kind: Kind, patterns: Sequence[str], revision: str | None) -> Path | None:
    """The repository's folder in the hub's cache, as far as can be determined offline; None if something is missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        wanted = list(patterns) or (None if kind == "dataset" else ["*.json", "*.safetensors"])
        folder = Path(
            snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=wanted, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise BadInputError(f"'{name}' is not a valid repository name: {_first_line(error)}", where=name) from None
    if kind == "model" and not _has_weights(folder):
        return None
    if patterns and not any(fnmatch.fnmatch(path.name, pattern) for path in folder.rglob("*") for pattern in patterns):
        return None
    return folder


def _has_weights(folder: Path) -> bool:
    """Whether a model's folder has its configuration and all weights that its index names."""
    index = folder / INDEX
    if not (folder / "config.json").exists():
        return False
    if not index.exists():
        return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    files = named_in(index)
    return bool(files) and all((folder / file).exists() for file in files)


def _has(name: str, kind: Kind, file: str, revision: str | None) -> bool:
    """Whether the cache contains a file of the newest version that it knows."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, file, repo_type=kind, revision=revision), str)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """A call's result, if it comes in time; a DNS look-up has no time limit itself, so its thread is abandoned.

    Raises:
        TimeoutError: it does not.
        Exception: whatever the call raises.
    """
    box: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            box.append((True, call()))
        except Exception as error:  # noqa: BLE001 (given on to the caller)
            box.append((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if not box:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    done, value = box[0]
    if done:
        result: T = value
        return result
    raise value


def _unreachable(name: str, kind: Kind, error: Exception) -> HarnessError:
    return HarnessError(
        f"the {_word(kind)} {name} is not cached, and the hub cannot be reached: {_said(error)}",
        where=_endpoint(),
        remedy="check the network (HF_ENDPOINT selects another hub), or give a folder that contains it",
    )


def _said(error: Exception) -> str:
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"it answers {answer.status_code}"
    return f"no answer within {ANSWER_S:.0f} s" if "Timeout" in type(error).__name__ else _first_line(error)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _word(kind: Kind) -> str:
    return "data set" if kind == "dataset" else kind


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def cache_folder() -> Path:
    """The folder of the hub's files on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_commit(name: str) -> str | None:
    """The commit of a model in the hub's cache that loading it without a revision gives, as hexadecimal digits; None if it is unknown."""
    path = cache_folder() / f"models--{name.replace('/', '--')}" / "refs" / "main"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _http_error() -> type[Exception]:
    import httpx2

    return httpx2.HTTPError
