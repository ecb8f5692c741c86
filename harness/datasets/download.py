"""Fetching a file over HTTP: resumed where it stopped, checked before it gets its name."""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from harness.core.errors import HarnessError
from harness.core.files import sha256_file, write_json
from harness.core.progress import progress
from harness.core.removal import move, remove

OFFLINE = "HARNESS_OFFLINE"
"""Set to anything, no socket is opened."""
_ATTEMPTS = 6
_REDIRECTS = 6


_CONNECT_S = 8.0
"""Seconds that a connection may take to be made."""
_CONNECTIONS = 2
"""How often it is tried to make one before anything has come: without a network nothing is gained by waiting."""


class _PassingError(Exception):
    """A failure that may pass when it is tried again."""


class _NoConnectionError(_PassingError):
    """The server was not reached at all."""


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
    """Download a file; what a broken connection left is gone on with.

    Args:
        url: http or https. A redirect may go from http to https, never back.
        target: gets the file only when it is whole and, with `sha256`, right. Beside it lies `.part` until then.
        sha256: what it must be.
        timeout_s: without a byte for so long, the connection is given up and made anew.
        pause_s: before the second attempt; doubled for each one after.
        attempts: how often it is tried.
        most_bytes: a longer file is refused.
        bar: show a bar.

    Returns:
        The file's SHA-256.

    Raises:
        HarnessError: refused, not reachable after several attempts, or another file than expected (kept as `.mismatch`).
    """
    if os.environ.get(OFFLINE):
        raise HarnessError(
            f"{OFFLINE} is set: nothing is downloaded",
            where=url,
            remedy=f"harness data import FOLDER, or unset {OFFLINE}",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
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
        if not resumed:  # a resumed file may be two halves of two files: then it is fetched once more as a whole
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
    """Where it is kept what a half file is a half of."""
    return part.with_name(f"{part.name}.json")


def _receive(url: str, part: Path, timeout_s: float, most_bytes: int | None, bar: bool) -> None:
    """Bring `part` to its full length.

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
            remove(part, within=part.parent)  # nobody can say whether the rest would be of the same file
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
        HarnessError: it leads to no web address, or from https to http.
    """
    target = urljoin(place, location)
    schemes = urlsplit(place).scheme, urlsplit(target).scheme
    if not location or schemes[1] not in ("http", "https") or schemes == ("https", "http"):
        raise HarnessError(f"the server redirects to '{location}', which is not followed", where=place)
    return target


def _write(url: str, answer: Any, part: Path, have: int, most_bytes: int | None, bar: bool) -> None:
    """Append an answer's bytes to the half file, or begin it anew."""
    status = answer.status_code
    if status == 416:  # there is nothing behind what we have, or what we have is longer than the file
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
        ) in answer.iter_raw():  # as it comes: what a larger block would wait for is lost when the connection breaks
            stream.write(block)
            have += len(block)
            if most_bytes is not None and have > most_bytes:
                remove(part, within=part.parent)
                raise HarnessError(f"the file has more than {most_bytes} bytes", where=url)
            advance(len(block))
        stream.flush()
        os.fsync(stream.fileno())
    if wanted is not None and have != wanted:
        raise _PassingError(f"{have} of {wanted} bytes were received")
