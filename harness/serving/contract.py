"""Checking a backend's answers as they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from harness.core.errors import shown
from harness.core.plugins import is_plugin, wrong
from harness.core.types import FinishReason
from harness.serving.base import Backend, Completion, Request

_EXPECTED = "an iterator of Completion, one per request, with the request's id and target"
_REASONS = get_args(FinishReason)


def completions_of(backend: Backend, requests: Iterable[Request]) -> Iterator[Completion]:
    """`Backend.generate`, checked: every request is answered once, and nothing else is.

    Raises:
        PluginError: a completion is invalid, belongs to no request, is a second one, or is missing.
    """
    if not is_plugin(backend):
        yield from backend.generate(requests)
        return
    asked: dict[str, Request] = {}
    open_: set[str] = set()

    def noted() -> Iterator[Request]:
        for request in requests:
            asked[request.id] = request
            open_.add(request.id)
            yield request

    source = noted()
    completions = backend.generate(source)
    if not isinstance(completions, Iterable):
        raise wrong(backend, "generate", shown(completions), _EXPECTED)
    for completion in completions:
        if problem := _problem(completion, asked, open_):
            raise wrong(backend, "generate", *problem)
        open_.remove(completion.id)
        yield completion
    for _ in source:  # requests that the backend did not even read
        pass
    if open_:
        got = f"nothing for {len(open_)} of {len(asked)} requests, the first to '{asked[min(open_)].prompt[:60]}'"
        raise wrong(backend, "generate", got, _EXPECTED)


def _problem(completion: Any, asked: dict[str, Request], open_: set[str]) -> tuple[str, str] | None:
    """(what is wrong with an answer, what was expected); None if it is valid."""
    if not isinstance(completion, Completion):
        return shown(completion), _EXPECTED
    if completion.id not in open_:
        return (
            f"{'a second completion' if completion.id in asked else 'a completion'} with the id {shown(completion.id)}",
            _EXPECTED,
        )
    if completion.target != asked[completion.id].target:
        return f"the target {shown(completion.target)} for a request to {shown(asked[completion.id].target)}", _EXPECTED
    if not isinstance(completion.text, str) or not isinstance(completion.model, str):
        return f"text={shown(completion.text)}, model={shown(completion.model)}", "texts"
    if completion.finish_reason not in _REASONS:
        return f"finish_reason={shown(completion.finish_reason)}", f"one of {', '.join(_REASONS)}"
    for name in ("prompt_tokens", "completion_tokens"):
        count = getattr(completion, name)
        if count is not None and (type(count) is not int or count < 0):
            return f"{name}={shown(count)}", "a whole number, or None if unknown"
    choices = asked[completion.id].choices
    if choices and completion.text not in choices and completion.refused is None and completion.refusal is None:
        return f"text={shown(completion.text)}", f"one of the request's choices, {', '.join(choices)}"
    for name in ("refused", "refusal"):
        if not isinstance(getattr(completion, name), str | None):
            return f"{name}={shown(getattr(completion, name))}", "a text, or None"
    return None
