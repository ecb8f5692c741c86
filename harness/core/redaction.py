"""Secrets are blanked in everything that is stored or printed: this module knows them, and every output passes through it.

Secrets are the values of environment variables with telling names (OPENAI_API_KEY, HF_TOKEN, ...), and the credentials in an
endpoint's URL (`user:password@`, `?api_key=...`). The outputs: `HarnessError` (every message), `files` (every JSON file and row),
`terminal`
(everything printed). URLs are split where they are read (`endpoint_url`), so most of this is a second line of defence.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

HIDDEN = "[hidden]"
_SECRET_NAME = r"key|token|secret|passw(?:or)?d|passwd|signature|sig|auth|credentials?"
_VARIABLE = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_KNOWN = ("OPENAI_API_KEY", "HARNESS_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_VARIABLES = tuple(dict.fromkeys((*_KNOWN, *(name for name in os.environ if _VARIABLE.search(name)))))
"""Looked up by name each time; searching the whole environment would be too slow for every row of a log."""
_PART = 8
"""This many first or last characters count as a piece of a secret, because servers and messages truncate what they repeat."""
_SHORTEST = 4
"""Minimum length of a URL's password; a shorter one would occur in ordinary text."""

_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#'\"<>\\]*@", re.IGNORECASE)
_QUERY = re.compile(rf"([?&;][\w.-]*(?:{_SECRET_NAME})=)[^&#\s'\"<>\\]+", re.IGNORECASE)
_HEADER = re.compile(
    r"((?:authorization|api-key)['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?|\bbearer\s+(?=\S{12}))"
    r"(?!\[hidden\])[^\s'\",}\]\\]+",
    re.IGNORECASE,
)
_registered: dict[str, None] = {}
"""Credentials from URLs that were given."""


def remember(secret: str) -> None:
    """Treat a text as a secret until the process ends."""
    if len(secret) >= _SHORTEST:
        _registered[secret] = None


def _is_one(value: str) -> bool:
    """Whether an environment variable's value is a secret, and not a placeholder (`EMPTY`, `none`), a path or a number.

    Words are not blanked, because they could occur in answers, which are scored.
    """
    if value.startswith(("/", "~", ".")) or "://" in value:
        return False
    return len(value) >= 16 or (len(value) >= 8 and not value.isdigit() and any(one.isdigit() for one in value))


def _secrets() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(forms that cannot occur in ordinary text, forms that could, which are blanked in messages and records only)."""
    return _sorted_out(tuple(map(os.environ.get, _VARIABLES)), tuple(_registered))


@functools.lru_cache(maxsize=4)
def _sorted_out(
    variables: tuple[str | None, ...], registered: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    values = [value.strip() for value in variables if value]
    long = dict.fromkeys(value for value in (*values, *registered) if _is_one(value))
    short = [
        value
        for value in values
        if len(value) >= 6 and not value.isalpha() and not value.isdigit() and "/" not in value
    ]
    forms = tuple(form for secret in long for form in _forms(secret))
    return forms, tuple(one for one in (*short, *registered) if one not in long)


def _forms(secret: str) -> Iterable[str]:
    """A secret as it is and as it is written in URLs, in JSON and by Python."""
    forms = (secret, urllib.parse.quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1])
    return sorted(dict.fromkeys(forms), key=len, reverse=True)


def blank(text: str) -> str:
    """A text without long secrets, their beginnings and their ends; shorter ones could occur in it by chance."""
    for form in _secrets()[0]:
        if form[:_PART] in text:
            text = _without_beginning(text, form)
        if form[-_PART:] in text:
            text = _without_beginning(text[::-1], form[::-1], HIDDEN[::-1])[::-1]
    return text


def _without_beginning(text: str, secret: str, instead: str = HIDDEN) -> str:
    """Replace every beginning of the secret, as far as it matches."""
    parts, at = [], 0
    while (start := text.find(secret[:_PART], at)) >= 0:
        end = start + _PART
        while end < len(text) and end - start < len(secret) and text[end] == secret[end - start]:
            end += 1
        parts += [text[at:start], instead]
        at = end
    return "".join((*parts, text[at:]))


def redact(text: str) -> str:
    """A message or record without secrets: `blank`, and what looks like a secret by its place (in a URL, after a header's name)."""
    text = blank(text)
    for secret in _secrets()[1]:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text) if "@" in text else text
    return _HEADER.sub(rf"\1{HIDDEN}", _QUERY.sub(rf"\1{HIDDEN}", text))


def clean_json(value: Any, clean: Callable[[str], str]) -> Any:
    """A JSON value in which every text and every key is cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [clean_json(one, clean) for one in value]
    if isinstance(value, dict):
        return {clean(name): clean_json(one, clean) for name, one in value.items()}
    return value


def is_secret_name(name: str) -> bool:
    """Whether a URL parameter has the name of a secret."""
    return re.search(_SECRET_NAME, name, re.IGNORECASE) is not None


def take_apart(url: str) -> tuple[str, dict[str, str], str | None]:
    """Split an endpoint's URL for a client: the URL without credentials and parameters, the parameters, and an authorization header."""
    parts = urllib.parse.urlsplit(url)
    user_info, _, host = parts.netloc.rpartition("@")
    header = None
    if user_info:
        header = "Basic " + base64.b64encode(urllib.parse.unquote(user_info).encode()).decode()
        for secret in (urllib.parse.unquote(user_info.partition(":")[2]), header.partition(" ")[2]):
            remember(secret)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    for name, value in query.items():
        if is_secret_name(name):
            remember(value)
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", "")), query, header


def without_credentials(url: str) -> str:
    """An endpoint's URL for storing, comparing and showing: parameters that are not secret (an API's version) are kept."""
    try:
        bare, query, _ = take_apart(url)
    except ValueError:  # not a URL; its user raises the error
        return redact(url)
    shown = urllib.parse.urlencode({name: value for name, value in query.items() if not is_secret_name(name)})
    return f"{bare}?{shown}" if shown else bare


class _Filter(logging.Filter):
    """Removes secrets from log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with its message formatted and blanked."""
        record.msg, record.args = redact(record.getMessage()), ()
        return True


def quieten(*loggers: str) -> None:
    """Blank the records of these loggers (an HTTP client's records contain URLs)."""
    for name in loggers:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Filter) for one in logger.filters):
            logger.addFilter(_Filter())
