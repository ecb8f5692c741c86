"""A plugin of pytest for `python -m tests.claims`: one setting or option does nothing, and only the tests that claim it are run."""

from __future__ import annotations

import os
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from tests.claims.settings import options, settings

IGNORED = "TESTS_CLAIMS_IGNORED"
"""The environment variable with its name."""


def pytest_configure(config: pytest.Config) -> None:
    """Before tests are imported."""
    ignore(os.environ[IGNORED])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only the tests that claim it."""
    name = os.environ[IGNORED]
    items[:] = [item for item in items if any(name in mark.args for mark in item.iter_markers("claims"))]


def ignore(name: str) -> None:
    """From here on the setting has its default for whoever reads it, and the option that of its command."""
    for setting in settings():
        if setting.name == name:
            _ignore_field(setting.model, setting.field)
    for option in options():
        if name in option.names:
            _ignore_option(name.rpartition(" ")[0], option.parameter)


def _ignore_field(model: type[Any], field: str) -> None:
    default = model.model_fields[field].get_default(call_default_factory=True)
    if default is PydanticUndefined:
        default = None
    # A property stands before the instance's own value.
    type.__setattr__(model, field, property(lambda self: default))
    dump = model.model_dump

    def dumped(self: Any, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = dump(self, **options)
        return {**found, field: default} if field in found else found

    model.model_dump = dumped  # type: ignore[method-assign]


def _ignore_option(command: str, parameter: str) -> None:
    from typer.core import TyperOption

    # Typer has click in a package of its own.
    kind: Any = next(one for one in TyperOption.__mro__ if one.__name__ == "Parameter")
    parse = kind.handle_parse_result

    def parsed(self: Any, context: Any, given: Any, arguments: list[str]) -> Any:
        names = [str(one.info_name) for one in _chain(context)]
        if self.name == parameter and " ".join(names[-len(command.split()) :]) == command:
            given = {name: value for name, value in given.items() if name != parameter}
        return parse(self, context, given, arguments)

    kind.handle_parse_result = parsed


def _chain(context: Any) -> list[Any]:
    return ([] if context.parent is None else _chain(context.parent)) + [context]
