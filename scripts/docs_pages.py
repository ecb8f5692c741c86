"""A hook of mkdocs that generates pages from the code: commands, file formats, settings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import types
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.cli import get_docs_for_click

import harness.records
from harness.core.record import Record

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = (
    "aligners.preferences.set_records",
    "aligners.rejected_images.records",
    "harness.generation.records",
    "harness.experiments.records",
)
"""Modules with records that are not in `harness.records`, which they may not be imported from, or not import."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the pages in the top folder of the repository."""
    pages = {
        "cli.md": commands(),
        "formats.md": formats(),
        "index.md": top("README.md"),
        "CONTRIBUTING.md": top("CONTRIBUTING.md"),
        "SECURITY.md": top("SECURITY.md"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def top(name: str) -> str:
    """A page in the top folder of the repository, with links relative to docs/."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    return text.replace("](ARCHITECTURE)", "](ARCHITECTURE.md)")


def commands() -> str:
    """All commands with their options, as in `--help`."""
    from harness.cli.app import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="harness")
    text = get_docs_for_click(obj=command, ctx=context, name="harness", indent=1)
    return "# Commands and their options\n\n" + text.replace("[", "\\[")  # no links are meant


def formats() -> str:
    """The records of a run's files, and every setting, with types, defaults and descriptions."""
    from harness.core import registry
    from harness.core.config import TrainSettings

    parts = [
        '# Files and settings\n\nFor their places see [ARCHITECTURE.md](ARCHITECTURE.md), "Folder layouts".\n\n## Files of a run\n'
    ]
    parts += [table(kind.__name__, kind) for kind in records()]
    parts.append("## Settings of `align` (`--set train.KEY=VALUE`)\n")
    parts.append(table("train", TrainSettings))
    for kind, heading, prefix in (
        ("aligners", "Settings of methods", "method"),
        ("benchmarks", "Settings of benchmarks", ""),
        ("judges", "Settings of judges", "judge"),
        ("backends", "Settings of backends", "backend"),
    ):
        parts.append(f"## {heading}\n")
        for name in sorted(registry.entries(kind)):
            settings = getattr(registry.load(kind, name), "Settings", None)
            if settings is not None and settings.model_fields:
                parts.append(table(f"{name} (`--set {prefix or name}.KEY=VALUE`)", settings))
    return "\n".join(parts)


def records() -> list[type]:
    """The models of all our files, by the modules that hold them."""
    modules = [
        *(f"harness.records.{found.name}" for found in pkgutil.iter_modules(harness.records.__path__)),
        *ELSEWHERE,
    ]
    members = [inspect.getmembers(importlib.import_module(name), inspect.isclass) for name in modules]
    kinds = dict.fromkeys(kind for found in members for _, kind in found if kind.__module__ in modules)
    return [kind for kind in kinds if is_row(kind) or (issubclass(kind, Record) and kind.model_fields)]


def is_row(kind: type) -> bool:
    """Whether it is a dataclass that pydantic reads from a line of a file."""
    return dataclasses.is_dataclass(kind) and hasattr(kind, "__pydantic_config__")


def table(title: str, model: type) -> str:
    """A table of the fields of a model; fields of nested models have dotted names."""
    rows = [
        f"### {title}\n",
        (inspect.getdoc(model) or "").split("\n\n")[0],
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join([*rows, *(_row_fields(model) if is_row(model) else _rows(model, ""))]) + "\n"


def _row_fields(kind: type) -> list[str]:
    """The same of a dataclass."""
    rows = []
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        name, value = field.name, hints[field.name]
        said = next((about.description for about in value.__metadata__ if isinstance(about, FieldInfo)), None)
        default = "required" if field.default is dataclasses.MISSING else f"`{_short(field.default)}`"
        rows.append(f"| `{name}` | {_type(value.__origin__)} | {default} | {_cell(said or '')} |")
    return rows


def _rows(model: type[BaseModel], prefix: str) -> list[str]:
    rows = []
    for name, field in model.model_fields.items():
        nested = field.annotation
        if (
            inspect.isclass(nested)
            and issubclass(nested, BaseModel)
            and nested.model_fields
            and field.default is not PydanticUndefined
        ):
            rows += _rows(nested, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"`{_short(field.get_default(call_default_factory=True))}`"
        rows.append(
            f"| `{prefix}{field.alias or name}` | {_type(field.annotation)} | {default} | {_cell(field.description or '')} |"
        )
    return rows


def _type(kind: Any) -> str:
    if isinstance(kind, types.UnionType) or get_args(kind):
        return _cell(str(kind).replace("typing.", "").replace("<class '", "").replace("'>", ""))
    return _cell(getattr(kind, "__name__", str(kind)))


def _short(value: Any) -> str:
    text = repr(value)
    return _cell(text if len(text) <= 60 else text[:57] + "...")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
