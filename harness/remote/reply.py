"""Parsing what an endpoint sent: a reply, or why there is none. Fields of an unexpected type count as unknown and never raise an
exception."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from harness.core.redaction import redact
from harness.remote.finish_reasons import ANSWERS, CONTENT_FILTER, UNKNOWN, standard_reason
from harness.remote.model_names import UNNAMED

_MOST_TOKENS = 10**9
_WORDS = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's reply.

    Attributes:
        text: None if the body has no choice (some servers send 200 with another body), or one that ended with an error or otherwise
            without an answer, so that the text may be cut anywhere; "" for a choice without text.
        model: the model name that the endpoint reports, `UNNAMED` if none.
        finish_reason: as `finish_reasons.standard_reason` gives it; "unknown" if the endpoint reports none.
        prompt_tokens: as the endpoint counts; None if it does not, or the value is invalid.
        completion_tokens: likewise.
        usage: the counts in the reply's `usage`.
        refusal: the model's words if it declines to answer, else None.
        problem: what the body is instead, if `text` is None.
        first_token: the likeliest first tokens of the text with their log-probabilities, if the endpoint reports them.
    """

    text: str | None
    model: str = UNNAMED
    finish_reason: str = UNKNOWN
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usage: dict[str, Any] | None = None
    refusal: str | None = None
    problem: str = ""
    first_token: tuple[tuple[str, float], ...] = ()

    @property
    def says_nothing(self) -> bool:
        """Whether the text is empty or blank."""
        return not (self.text or "").strip()

    @property
    def filtered(self) -> bool:
        """Whether a content filter cut the answer."""
        return self.finish_reason == CONTENT_FILTER


class Reason(Enum):
    """Why an endpoint refuses a request. The first group concerns all requests, the second only this one, the third is temporary."""

    KEY = "the key"
    PERMISSION = "permission"
    MODEL = "the model's name"
    ADDRESS = "the address"
    REDIRECT = "a redirection"
    BILLING = "the account"
    PARAMETER = "a parameter"

    LENGTH = "the length"
    POLICY = "the content"
    IMAGE = "the image"
    UNKNOWN = "another reason"

    BUSY = "it is busy"
    SERVER = "a server error"

    @property
    def of_all(self) -> bool:
        """Whether every other request would be refused, too."""
        return self in _OF_ALL

    @property
    def passes(self) -> bool:
        """Whether the same request may be answered later."""
        return self in (Reason.BUSY, Reason.SERVER)


_OF_ALL = frozenset(
    (
        Reason.KEY,
        Reason.PERMISSION,
        Reason.MODEL,
        Reason.ADDRESS,
        Reason.REDIRECT,
        Reason.BILLING,
        Reason.PARAMETER,
    )
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was refused: the HTTP status, the reason, the endpoint's words (no secrets, bounded), the parameter it names."""

    status: int
    reason: Reason
    words: str = ""
    parameter: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.status), self.words) if part)


def read_reply(body: bytes, content_type: str = "") -> Reply | Refused:
    """Parse the first choice of a body that came with status 200, whatever its content.

    Returns:
        The reply, or a refusal if the body is an error (some proxies send one with status 200).
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return Reply(None, problem=_instead(body, content_type))
    if not isinstance(content, dict):
        return Reply(None, problem="JSON that is not a chat completion")
    choices = content.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    # A gateway that loses the model after it has sent status 200 reports the error in the choice, or beside it.
    for part in (choice or {}, content):
        if _says_something(part.get("error")):
            error = part["error"]
            code = error.get("code") if isinstance(error, dict) else None
            return read_refusal(code if type(code) is int and 300 <= code < 600 else 500, part)
    usage = content.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    text, reason, refusal, problem = _ending(choice)
    return Reply(
        text,
        _string(content.get("model")).strip() or UNNAMED,
        reason,
        count(usage.get("prompt_tokens")),
        count(usage.get("completion_tokens")),
        _counts(usage),
        refusal,
        problem,
        _first_token((choice or {}).get("logprobs")),
    )


def _says_something(error: Any) -> bool:
    """Whether an `error` field reports an error: some proxies send one with empty fields in every reply."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


def _ending(choice: Mapping[str, Any] | None) -> tuple[str | None, str, str | None, str]:
    """A choice's text (None if it is no answer), why it ended, the model's words if it declines, and its problem ("" if it has none)."""
    message = (choice or {}).get("message")
    reason = standard_reason(_string((choice or {}).get("finish_reason")))
    fields = message if isinstance(message, dict) else {}
    text, refusal = _text(fields.get("content")), _string(fields.get("refusal")).strip() or None
    if not isinstance(message, dict) and reason != CONTENT_FILTER:  # a filter may leave no message
        return None, reason, refusal, "a chat completion without a choice"
    if reason not in ANSWERS and refusal is None:
        return (
            None,
            reason,
            refusal,
            f"a chat completion that ended with '{redact(reason)[:_WORDS]}' instead of an answer",
        )
    return text, reason, refusal, ""


def _first_token(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """The tokens in a choice's `logprobs.content[0].top_logprobs`, as far as they are valid."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    tops = first.get("top_logprobs") if isinstance(first, dict) else None
    return tuple(
        (top["token"], float(top["logprob"]))
        for top in (tops if isinstance(tops, list) else [])
        if isinstance(top, dict) and isinstance(top.get("token"), str) and type(top.get("logprob")) in (int, float)
    )


def count(value: Any) -> int | None:
    """A number of tokens; None for an invalid value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _counts(usage: Mapping[str, Any], depth: int = 2) -> dict[str, Any] | None:
    """The counts in `usage`, including nested ones (`completion_tokens_details.reasoning_tokens`), and nothing else."""
    counts: dict[str, Any] = {}
    for name, value in list(usage.items())[:32]:
        part = _counts(value, depth - 1) if isinstance(value, dict) and depth > 1 else count(value)
        if part is not None:
            counts[_string(name)] = part
    return counts or None


def _string(value: Any) -> str:
    """A text without lone surrogates, which no file can contain; "" for anything but a text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _text(content: Any) -> str:
    """A message's text: a string, or the joined texts of a list of parts."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
        return "".join(_string(part.get("text")) for part in parts)
    return _string(content)


def _instead(body: bytes, content_type: str) -> str:
    """A description of what came instead of JSON."""
    if not body.strip():
        return "an empty body"
    if "html" in content_type.lower() or body.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
        return "a web page instead of JSON (is the URL right? it usually ends in /v1)"
    return "a body that is not JSON, or is cut off"


_PARAMETERS = (
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "reasoning_effort",
    "top_logprobs",
    "logprobs",
)
_BY_STATUS = {
    401: Reason.KEY,
    402: Reason.BILLING,
    403: Reason.PERMISSION,
    404: Reason.ADDRESS,
    405: Reason.ADDRESS,
    408: Reason.SERVER,
    409: Reason.SERVER,
    413: Reason.LENGTH,
    425: Reason.SERVER,
    429: Reason.BUSY,
}
# What OpenAI, Azure, OpenRouter, LiteLLM, vLLM and Ollama write, in order of precedence; searched in `code`, `type` and message together.
_SAID: tuple[tuple[Reason, re.Pattern[str]], ...] = tuple(
    (reason, re.compile(pattern, re.IGNORECASE))
    for reason, pattern in (
        (
            Reason.BILLING,
            r"insufficient_quota|billing|exceeded your current quota|credit balance|insufficient (?:balance|credits?|funds)|"
            r"payment required|account_deactivated|account (?:is|has been) (?:deactivated|suspended)",
        ),
        (
            Reason.POLICY,
            r"content_filter|content_policy|ResponsibleAIPolicy|content management policy|usage polic|safety system|invalid_prompt|"
            r"moderation|against the rules|flagged",
        ),
        (
            Reason.LENGTH,
            r"context_length|context length|context window|maximum context|string_above_max_length|too many tokens|"
            r"prompt is too long|input is too long|too large for (?:the )?model|max_tokens must be at least 1, got|"
            r"max_tokens.{0,40}too large|longer than the maximum model length|reduce the length",
        ),
        (
            Reason.PARAMETER,
            r"unsupported_parameter|unsupported_value|unknown_parameter|extra_forbidden|extra inputs are not permitted|"
            r"unsupported (?:parameter|value)|unrecogni[sz]ed request argument|unknown parameter|"
            r"(?:max_tokens|max_completion_tokens|temperature|top_p|seed|reasoning_effort|logprobs)\W{0,3} "
            r"(?:is|are|does|do|cannot|must|may)\b",
        ),
        (
            Reason.MODEL,
            r"model_not_found|DeploymentNotFound|model\b.{0,120}\b(?:does not exist|not found|is not a valid|not supported|unknown)|"
            r"no such model|(?:invalid|unknown) model|not a valid model",
        ),
        (
            Reason.IMAGE,
            r"image_parse|invalid_image|image_url|image.{0,60}(?:invalid|support|may be provided|cannot|could not)|"
            r"(?:multimodal|vision|image input).{0,40}(?:not|un)",
        ),
        (Reason.KEY, r"invalid_api_key|incorrect api key|invalid api key"),
    )
)


def read_refusal(status: int, body: Any) -> Refused:
    """Classify why a request was refused, from its status and its body (the JSON, its part under "error", or a text)."""
    error = body.get("error", body) if isinstance(body, dict) else body
    fields = error if isinstance(error, dict) else {}
    words = redact(" ".join(_words(error).split()))[:_WORDS]
    if 300 <= status < 400:
        return Refused(status, Reason.REDIRECT, words)
    if status in (401, 403):  # their messages mention keys and models, but concern the key
        return Refused(status, _BY_STATUS[status], words)
    inner = fields.get("innererror")
    said = " ".join(
        (
            *(_string(fields.get(name)) for name in ("code", "type")),
            words,
            _string((inner or {}).get("code")) if isinstance(inner, dict) else "",
        )
    )
    stated = next((reason for reason, pattern in _SAID if pattern.search(said)), None)
    if status == 429 or status >= 500:  # busy or failing, unless the account is empty
        stated = stated if stated is Reason.BILLING else None
    default = Reason.SERVER if status >= 500 else _BY_STATUS.get(status, Reason.UNKNOWN)
    reason = stated or default
    return Refused(status, reason, words, _parameter(fields, said) if reason is Reason.PARAMETER else "")


def _parameter(fields: Mapping[str, Any], said: str) -> str:
    """The refused parameter: from the error's field, or the first one in its message."""
    named = _string(fields.get("param"))
    if named in _PARAMETERS:
        return named
    places = {name: found.start() for name in _PARAMETERS if (found := re.search(rf"\b{name}\b", said))}
    return min(places, key=lambda name: places[name], default=named)


def _words(error: Any) -> str:
    """The endpoint's message, without the request (which may contain an image) and without HTML markup."""
    if isinstance(error, dict):
        for name in ("message", "detail", "error", "msg"):
            if error.get(name):
                return _words(error[name])
        return ""
    if isinstance(error, list):  # FastAPI's list of {loc, msg}
        places = [detail for detail in error if isinstance(detail, dict)]
        return "; ".join(
            f"{'.'.join(map(str, place)) if isinstance(place := detail.get('loc'), list) else ''} {_string(detail.get('msg'))}"
            for detail in places[:4]
        ).strip()
    text = _string(error)
    if "<html" in text[:500].lower() or text.lstrip().startswith("<"):
        title = re.search(r"<title>([^<]*)</title>", text, re.IGNORECASE)
        return title[1].strip() if title else "a web page"
    return text[:2000]
