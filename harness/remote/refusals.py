"""Errors with remedies for an endpoint's refusals: of all requests, or of one request."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.errors import HarnessError
from harness.remote.reply import Reason, Refused

KEY_VARIABLE = "OPENAI_API_KEY"


class EndpointRefusedError(HarnessError):
    """The endpoint refuses all requests for this reason."""

    def __init__(self, refused: Refused, problem: str, *, where: str, remedy: str) -> None:
        super().__init__(problem, where=where, remedy=remedy)
        self.refused = refused


class PromptRefusedError(HarnessError):
    """The endpoint refuses this one request: too long, or against the vendor's rules. Asking again would not help."""

    def __init__(self, refused: Refused, problem: str, *, remedy: str | None = None) -> None:
        super().__init__(problem, remedy=remedy)
        self.refused = refused


class NoReplyError(HarnessError):
    """No usable reply came after all attempts."""


class WrongModelError(HarnessError):
    """Another model than the requested one answers."""


@dataclass(frozen=True, slots=True)
class Options:
    """The user's names for an endpoint's options, for remedies."""

    who: str = "endpoint"
    url: str = "--endpoint"
    model: str = "--model"
    group: str = "backend"


def refusal(refused: Refused, options: Options, where: str) -> HarnessError:
    """The error of a refused request: of all requests, or of this one."""
    said = f": {refused}" if refused.words else f" ({refused.status})"
    if refused.reason.of_all:
        problem, remedy = _of_all(refused, options)
        return EndpointRefusedError(refused, f"the {options.who} refused: {problem}{said}", where=where, remedy=remedy)
    of_one, help_ = _of_one(refused, options)
    return PromptRefusedError(refused, f"{of_one}{said}", remedy=help_)


def _of_all(refused: Refused, options: Options) -> tuple[str, str]:
    """The message and the remedy of a refusal of all requests."""
    name = refused.parameter or "a parameter"
    settings = {
        "max_tokens": f"--set {options.group}.token_parameter=max_completion_tokens",
        "max_completion_tokens": f"--set {options.group}.token_parameter=max_tokens",
        "temperature": f"--set {options.group}.temperature=null omits it",
        "reasoning_effort": f"--set {options.group}.reasoning_effort=null omits it",
    }
    return {
        Reason.KEY: (f"the key is not accepted ({refused.status})", f"check {KEY_VARIABLE} and {options.url}"),
        Reason.PERMISSION: (
            f"this key lacks the permission ({refused.status})",
            f"ask the vendor for access to the model, or check {KEY_VARIABLE}, {options.model} and {options.url}",
        ),
        Reason.MODEL: ("it has no such model", f"give the name of one that it has: {options.model} NAME"),
        Reason.ADDRESS: (
            f"this address has no chat completions ({refused.status})",
            f"check {options.url}: it usually ends in /v1",
        ),
        Reason.REDIRECT: (
            f"it redirects to another address ({refused.status}), which is not followed, because key and images would be sent there",
            f"give that address: {options.url}",
        ),
        Reason.BILLING: (
            "the account has no credit, or its quota is used up",
            "add credit or raise the limit, and run the same command again; replies so far are kept",
        ),
        Reason.PARAMETER: (
            f"the model does not accept {name} as it was sent",
            settings.get(name, f"its message says why; --set {options.group}.KEY=VALUE changes what is sent"),
        ),
    }[refused.reason]


def _of_one(refused: Refused, options: Options) -> tuple[str, str | None]:
    """The message and, if there is one, the remedy of a refusal of one request."""
    if refused.reason is Reason.LENGTH:
        return (
            f"the prompt and the longest answer exceed the {options.who}'s context",
            "use a model with a longer context",
        )
    if refused.reason is Reason.POLICY:
        return f"the {options.who}'s vendor refuses the content", None
    if refused.reason is Reason.IMAGE:
        return f"the {options.who} refuses the image", None
    return f"the {options.who} refused the request", None
