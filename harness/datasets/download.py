"""Downloading a file over HTTP: an interrupted download is resumed, and the file is checked before it gets its name."""

from __future__ import annotations

import json
import os
import random
import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from harness.core.errors import HarnessError
from harness.core.files import sha256_file, write_json
from harness.core.locks import writing
from harness.core.progress import progress
from harness.core.removal import move, remove

OFFLINE = "HARNESS_OFFLINE"
"""If this environment variable is set, no connection is opened."""
_RANGE = re.compile(r"bytes (?P<start>\d+)-(?P<end>\d+)/(?P<whole>\d+|\*)", re.IGNORECASE)
_ATTEMPTS = 6
_REDIRECTS = 6


_CONNECT_S = 8.0
"""Timeout of connecting, in seconds."""
_CONNECTIONS = 2
"""Number of attempts to connect for the first time; without a network, waiting is useless."""


class _PassingError(Exception):
    """A temporary failure; another attempt may succeed."""


class _NoConnectionError(_PassingError):
    """The server could not be reached."""


def fetch(
    url: str,
    target: Path,
    sha256: str | None = None,
    *,
    timeout_s: float = 30,
    pause_s: float = 1.0,
    attempts: int = _ATTEMPTS,
    most_bytes: int | None = None,
    bar: bool = True,
) -> str:
    """Download a file; a partial download is resumed. If another process downloads the same file, wait for it and take its file.

    Args:
        url: http or https. A redirect may go from http to https, never back.
        target: gets the file only when it is complete and, with `sha256`, correct. Until then, the partial file next to it ends in
        `.part`.
        sha256: the expected hash of the file.
        timeout_s: after this time without a byte, the connection is closed and made again.
        pause_s: pause before the second attempt; doubled for each further one.
        attempts: maximum number of attempts.
        most_bytes: a longer file is refused.
        bar: show a bar.

    Returns:
        The file's SHA-256.

    Raises:
        HarnessError: the server refuses, cannot be reached after several attempts, or sends an unexpected file (kept as `.mismatch`).
    """
    if os.environ.get(OFFLINE):
        raise HarnessError(
            f"{OFFLINE} is set: nothing is downloaded",
            where=url,
            remedy=f"harness data import FOLDER, or unset {OFFLINE}",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    before = _state(target)
    lock = target.with_name(f".{target.name}.lock")
    # Without the lock, two processes would write into the same partial file.
    with writing(lock, "this file", target, keep=False, wait=True):
        if (after := _state(target)) is not None and after != before:  # another process has downloaded it meanwhile
            digest = sha256_file(target)
            if sha256 is None or digest == sha256:
                return digest
        return _fetch(url, target, sha256, timeout_s, pause_s, attempts, most_bytes, bar)


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced; None if there is no file."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _fetch(
    url: str,
    target: Path,
    sha256: str | None,
    timeout_s: float,
    pause_s: float,
    attempts: int,
    most_bytes: int | None,
    bar: bool,
) -> str:
    """`fetch` without waiting for other processes."""
    part = target.with_name(f"{target.name}.part")
    problem, reached = "", False
    for attempt in range(attempts):
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _receive(url, part, timeout_s, most_bytes, bar)
        except _PassingError as error:
            problem = str(error)
            reached = reached or not isinstance(error, _NoConnectionError)
            if not reached and attempt + 1 >= _CONNECTIONS:
                raise HarnessError(
                    f"the server cannot be reached: {problem}",
                    where=url,
                    remedy="check the network and run the same command again, which resumes; or use harness data import FOLDER",
                ) from None
            if attempt + 1 == attempts:
                break
            time.sleep(pause_s * 2**attempt * random.uniform(0.5, 1.5))
            continue
        digest = sha256_file(part)
        if sha256 is None or digest == sha256:
            move(part, target, within=target.parent)
            remove(_about(part), within=part.parent)
            return digest
        problem = f"it has the SHA-256 {digest}, not {sha256}"
        kept = target.with_name(f"{target.name}.mismatch")
        move(part, kept, within=target.parent)
        remove(_about(part), within=part.parent)
        if (
            not resumed
        ):  # a resumed file may consist of parts of two different files: then it is fetched again as a whole
            raise HarnessError(
                f"the file is not the expected one: {problem}",
                where=f"{url}; kept as {kept}",
                remedy="check whether it is a proxy's page or a new version; you can import the right file with harness data import",
            )
    raise HarnessError(
        f"the download failed {attempts} times; the last: {problem}",
        where=url,
        remedy="run the same command again, which resumes; or use harness data import FOLDER",
    )


def _about(part: Path) -> Path:
    """The file that says which download a partial file belongs to."""
    return part.with_name(f"{part.name}.json")


def _receive(url: str, part: Path, timeout_s: float, most_bytes: int | None, bar: bool) -> None:
    """Download the rest of `part`.

    Raises:
        _PassingError: the connection broke, stalled, or the server is busy.
        HarnessError: the server refuses.
    """
    import httpx2

    have = part.stat().st_size if part.exists() else 0
    known: dict[str, Any] = {}
    if have:
        try:
            known = json.loads(_about(part).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if known.get("url") != url or not known.get("validator"):
            remove(part, within=part.parent)  # it is unknown whether the rest would be of the same file
            have, known = 0, {}
    headers = {"Accept-Encoding": "identity", "User-Agent": "vlm-align-harness"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["validator"]}
    try:
        with httpx2.Client(
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)), follow_redirects=False
        ) as client:
            place = url
            for _ in range(_REDIRECTS):
                with client.stream("GET", place, headers=headers) as answer:
                    if answer.is_redirect:
                        place = _next(place, answer.headers.get("location", ""))
                        continue
                    _write(url, answer, part, have, most_bytes, bar)
                    return
            raise HarnessError(f"more than {_REDIRECTS} redirects", where=url)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise _NoConnectionError(f"{type(error).__name__} {error}".strip()) from None
    except httpx2.HTTPError as error:
        raise _PassingError(f"{type(error).__name__} {error}".strip()) from None


def _next(place: str, location: str) -> str:
    """The target of a redirect.

    Raises:
        HarnessError: it is not a web address, or leads from https to http.
    """
    target = urljoin(place, location)
    schemes = urlsplit(place).scheme, urlsplit(target).scheme
    if not location or schemes[1] not in ("http", "https") or schemes == ("https", "http"):
        raise HarnessError(f"the server redirects to '{location}', which is not followed", where=place)
    return target


def _write(url: str, answer: Any, part: Path, have: int, most_bytes: int | None, bar: bool) -> None:
    """Append a response's bytes to the partial file, or start it again."""
    status = answer.status_code
    if status == 416:  # the partial file is already complete, or longer than the file
        remove(part, within=part.parent)
        raise _PassingError("the partial file does not match the server's")
    if status in (408, 425, 429) or status >= 500:
        raise _PassingError(f"the server answers {status}")
    if status not in (200, 206):
        raise HarnessError(
            f"the server answers {status}",
            where=url,
            remedy="the file may have moved: download it yourself and use harness data import",
        )
    if status == 200:
        have = 0
    elif not _is_rest(answer.headers.get("content-range", ""), have, answer.headers.get("content-length")):
        remove(part, within=part.parent)
        raise _PassingError(f"the server sends another part of the file than the one from byte {have:,}")
    length = int(answer.headers.get("content-length") or -1)
    wanted = have + length if length >= 0 else None
    validator = answer.headers.get("etag") or answer.headers.get("last-modified")
    if validator and not str(validator).startswith("W/"):
        write_json(_about(part), {"url": url, "validator": validator})
    shown = progress(Path(urlsplit(url).path).name, wanted) if bar else nullcontext(lambda n: None)
    with shown as advance, part.open("ab" if have else "wb") as stream:
        advance(have)
        for (
            block
        ) in answer.iter_raw():  # in blocks as they arrive: a larger block would lose data when the connection breaks
            stream.write(block)
            have += len(block)
            if most_bytes is not None and have > most_bytes:
                remove(part, within=part.parent)
                raise HarnessError(f"the file has more than {most_bytes} bytes", where=url)
            advance(len(block))
        stream.flush()
        os.fsync(stream.fileno())
        size = os.fstat(stream.fileno()).st_size
    if size != have:
        remove(part, within=part.parent)
        raise _PassingError(
            f"the partial file has {size} bytes, although {have} were received: another program writes it"
        )
    if wanted is not None and have != wanted:
        raise _PassingError(f"{have} of {wanted} bytes were received")


def _is_rest(given: str, have: int, length: str | None) -> bool:
    """Whether a partial response is the rest of the file from a byte on.

    Args:
        given: its header Content-Range.
        have: the byte.
        length: its header Content-Length, if there is one.
    """
    match = _RANGE.fullmatch(given.strip())
    if match is None or int(match["start"]) != have:
        return False
    to_the_end = match["whole"] == "*" or int(match["end"]) + 1 == int(match["whole"])
    return to_the_end and (length is None or int(length) == int(match["end"]) + 1 - have)
