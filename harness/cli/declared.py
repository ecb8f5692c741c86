"""Options that suites declare, for the scoring commands: `--relations` if an installed suite declares a file of that name."""

from __future__ import annotations

import functools
import inspect
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from benchmarks.base import Benchmark

_GIVEN = "harness.declared.given"
_PANEL = "Options of suites"


class SettingsCommand(TyperCommand):
    """A command with an option for every setting that an installed suite declares as an option.

    The options are made when the command line is parsed, so that no other command imports the suites.
    """

    files = False
    """Whether every file that a suite scores from has an option, too."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own options, those of the suites, and `--help`."""
        every = super().get_params(ctx)
        return [*self.params, *self._declared(), *every[len(self.params) :]]

    @property
    def reserved(self) -> set[str]:
        """The command's own options, whose names no suite may declare."""
        return {option for parameter in self.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
            "--help"
        }

    def _declared(self) -> tuple[Any, ...]:
        return _parameters(self.files, frozenset(self.reserved), tuple(sys.path))

    def invoke(self, ctx: Any) -> Any:
        """Store the suites' options for `declared_options`, because the command's function has no parameters for them."""
        names = {one.name for one in self._declared()}
        ctx.meta[_GIVEN] = {name: ctx.params[name] for name in names if ctx.params.get(name) is not None}
        ctx.params = {name: value for name, value in ctx.params.items() if name not in names}
        return super().invoke(ctx)


class FilesCommand(SettingsCommand):
    """As `SettingsCommand`, with an option for every file that an installed suite scores from."""

    files = True


def declared_options(context: typer.Context, *suites: type[Benchmark]) -> dict[str, str]:
    """The given values of options that suites declare, by the declared name.

    Raises:
        PluginError: one of these suites declares an option that the command has itself.
    """
    from harness.core.plugins import wrong
    from harness.evaluation.offline import declared_names

    command = context.command
    assert isinstance(command, SettingsCommand)
    for suite in suites:
        for attribute, names in declared_names(suite).items():
            for name in names if attribute != "offline_files" or command.files else ():
                if flag(name) in command.reserved:
                    raise wrong(suite, attribute, f"{flag(name)}, an option of the command", "another name")
    found: dict[str, str] = context.meta[_GIVEN]
    return found


def flag(name: str) -> str:
    """The option for a declared name."""
    return f"--{name.replace('_', '-')}"


def _helps(files: bool) -> dict[str, str]:
    """Declared name -> help of its option, with its meaning in each suite that declares it.

    A suite that cannot be loaded has no options; the command that names it reports why.
    """
    from harness.core import registry
    from harness.core.errors import HarnessError

    meanings: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    suites = []
    for name in registry.entries("benchmarks"):
        try:
            suites.append((name, registry.load("benchmarks", name)))
        except HarnessError:
            continue
    for name, suite in sorted(suites, key=lambda pair: (pair[1].place, pair[0])):
        for file in suite.offline_files if files else ():
            meanings[file.option][file.help].append(name)
        for setting in suite.setting_options:
            meanings[setting.setting][setting.help].append(name)
    return {
        name: "; ".join(f"{', '.join(of)}: {text}" for text, of in texts.items()) + "."
        for name, texts in meanings.items()
    }


@functools.cache
def _parameters(files: bool, taken: frozenset[str], path: tuple[str, ...]) -> tuple[Any, ...]:
    """Make options with Typer, from a function that has them as parameters; `path` is `sys.path`, where suites are found."""
    from rich.markup import escape

    helps = {name: text for name, text in _helps(files).items() if flag(name) not in taken}
    kinds = {
        name: Annotated[str | None, typer.Option(flag(name), help=escape(text), rich_help_panel=_PANEL)]
        for name, text in helps.items()
    }

    def options(**values: Any) -> None:
        """Never called."""

    options.__annotations__ = dict(kinds)
    options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in kinds.items()
        ]
    )
    maker = typer.Typer(add_completion=False)
    maker.command()(options)
    return tuple(typer.main.get_command(maker).params)
