"""Recipes: settings of an alignment in a file, of an earlier run, or shipped under a name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from aligners.preferences.options import DataOptions
from harness.core.config import read_recipe
from harness.core.errors import BadInputError, UnknownNameError, shown
from harness.core.reading import read_json
from harness.core.record import check
from harness.core.typed import Fields
from harness.records.manifest_file import AlignConfig

CONFIG = "config.json"


def shipped() -> dict[str, Path]:
    """Name of a shipped recipe -> its file."""
    spec = importlib.util.find_spec("aligners")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def summary_of(recipe: Path) -> str:
    """The comment at the beginning of a shipped recipe, on one line."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def settings_of(recipe: str, method: str) -> dict[str, Any]:
    """The settings of a recipe, under the keys `train` and `method`.

    Args:
        recipe: a YAML file; a run's folder or its config.json; or the name of a shipped recipe.
        method: the method that the settings are for.

    Raises:
        UnknownNameError: there is no such file and no shipped recipe of this name.
        BadInputError: it cannot be read, or it is a run of another method.
    """
    path = Path(recipe)
    if not recipe.strip() or not _exists(path):
        names = shipped()
        if recipe in names:
            return read_recipe(names[recipe])
        if path.suffix in (".yaml", ".yml", ".json") or len(path.parts) > 1:
            return read_recipe(path)  # raises that it does not exist
        raise UnknownNameError("recipe", recipe, names)
    if path.is_dir():
        path = path / CONFIG
    return _of_run(path, method) if path.suffix == ".json" else read_recipe(path)


@dataclass(frozen=True)
class Alignment:
    """What is aligned and on which data; None where the user named nothing. `started`: whether a checkpoint to start from was named."""

    method: str | None
    model: str | None
    data: str | None = None
    limit: int | None = None
    on_error: Literal["fail", "skip"] | None = None
    options: DataOptions | None = None
    started: bool = False


def completed(asked: Alignment, recipe: str | None) -> Alignment:
    """The alignment, completed by the run that a recipe names, if it names one. Other data than the run's are not read as the run's were.

    Raises:
        BadInputError: as `run_of`, or the run started from a checkpoint that was not named.
    """
    run = run_of(recipe) if recipe else None
    if run is None:
        return asked
    if run.start is not None and not asked.started:
        raise BadInputError(
            f"the run of the recipe started from the run '{run.start.run}', which the recipe does not contain",
            where=recipe,
            remedy="give that run, exported with `harness export`: --start FOLDER",
        )
    asked = replace(asked, method=asked.method or run.method, model=asked.model or run.model)
    if asked.data is not None:
        return asked
    root = Path(run.image_root) if run.image_root else None
    return replace(
        asked,
        data=run.data,
        limit=run.limit if asked.limit is None else asked.limit,
        on_error=asked.on_error or ("skip" if run.on_error == "skip" else "fail"),
        options=asked.options or DataOptions.of(run.columns or {}, root),
    )


def run_of(recipe: str) -> AlignConfig | None:
    """The whole configuration of a run that a recipe names: its method, model and data, too; None if the recipe is no run.

    Raises:
        BadInputError: it cannot be read, or is not the configuration of an aligned run.
    """
    path = Path(recipe)
    if not recipe.strip() or not _exists(path) or (path.is_file() and path.suffix != ".json"):
        return None
    path = path / CONFIG if path.is_dir() else path
    value = read_json(path, "configuration of a run")
    _check_is_config(value, path)
    return check(AlignConfig, value, "configuration", path)


def _check_is_config(value: Any, path: Path) -> None:
    if not isinstance(value, dict) or "settings" not in value or "method" not in value:
        raise BadInputError(
            "this is not the configuration of an aligned run",
            where=str(path),
            remedy="give the config.json of a run of `harness align`, or a YAML file",
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a text that is too long for a name
        return False


def _of_run(path: Path, method: str) -> dict[str, Any]:
    """The settings that a run wrote into its config.json."""
    value = read_json(path, "configuration of a run")
    _check_is_config(value, path)
    fields = Fields(value, str(path), "configuration")
    if (trained := fields.text("method")) != method:
        raise BadInputError(
            f"these are the settings of the method {shown(trained)}, not of {shown(method)}",
            where=str(path),
            remedy=f"--method {trained}, or a recipe without the settings of a method",
        )
    settings = fields.fields("settings")
    return {group: dict(settings.fields(group).value) for group in ("train", "method") if settings.has(group)}
