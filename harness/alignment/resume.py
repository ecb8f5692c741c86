"""`--resume`: which run is continued if no name is given, and whether a run was begun with the same settings."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.core.config import TrainSettings
from harness.core.errors import BadInputError, shown
from harness.core.files import read_json
from harness.records.manifest_file import AlignConfig
from harness.runs.state import CONFIG, State, read_object, state_of

logger = logging.getLogger(__name__)

_NAMED = 8
"""Number of settings, and of runs, that an error names."""
_ABSENT = object()
"""In place of the value of a setting that a configuration does not have."""


def interrupted_run(results: Path, config: AlignConfig) -> str:
    """The name of the newest incomplete run of a configuration. Runs that made no step are taken only if no other fits.

    Args:
        results: folder of the runs.
        config: the configuration; where `location` is None, it is not compared.

    Raises:
        BadInputError: there is none; the message names the interrupted runs and the settings in which they differ.
    """
    states = {folder: state_of(folder) for folder in _folders(results)}
    unfinished = {folder: state for folder, state in states.items() if state.condition in ("interrupted", "failed")}
    differing = {folder: _differences(read_object(folder / CONFIG) or {}, config) for folder in unfinished}
    same = [folder for folder in unfinished if not differing[folder]]
    if not same:
        raise _none_to_resume(results, unfinished, differing)
    newest = max(
        same, key=lambda folder: (unfinished[folder].condition == "interrupted", (folder / CONFIG).stat().st_mtime)
    )
    logger.info(f"--resume: the run '{newest.name}', interrupted after {unfinished[newest].steps} steps")
    return newest.name


def _folders(results: Path) -> list[Path]:
    """The folders that may be runs; hidden ones contain replaced runs and locks."""
    if not results.is_dir():
        return []
    return [path for path in sorted(results.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _none_to_resume(
    results: Path, unfinished: dict[Path, State], differing: dict[Path, dict[str, tuple[Any, Any]]]
) -> BadInputError:
    """The error if no incomplete run has the configuration."""
    begun = [folder for folder, state in unfinished.items() if state.condition == "interrupted"]
    candidates = [f"{folder.name} (other {_some(list(differing[folder]))})" for folder in begun]
    return BadInputError(
        "--resume without --name continues an interrupted run of the same method, model, data and settings, and there is none"
        + (f"; interrupted: {_some(candidates)}" if begun else ""),
        where=str(results),
        remedy=f"name the run (--resume --name {begun[-1].name}), with the settings that it was begun with; or leave out "
        "--resume to begin another run"
        if begun
        else "leave out --resume to begin a run; `harness runs` lists all",
    )


def check_same(folder: Path, config: AlignConfig) -> None:
    """Check that a resumed run has the same settings; only settings that change the cost may differ (`TrainSettings.COST_ONLY`).

    Raises:
        BadInputError: others differ; the message has their values.
    """
    path = folder / CONFIG
    if not path.exists():
        return
    changed = _differences(read_json(path, "configuration"), config)
    if changed:
        values = [f"{key} was {_value(before)}, now {_value(now)}" for key, (before, now) in changed.items()]
        raise BadInputError(
            f"the run was begun with other settings: {_some(values, '; ')}",
            where=str(path),
            remedy="resume it with the same settings, or start again with --overwrite",
        )


def _differences(before: dict[str, Any], config: AlignConfig) -> dict[str, tuple[Any, Any]]:
    """What determines the result and differs: dotted key -> the values in `config.json` before and now, `_ABSENT` if there is none."""
    now = json.loads(json.dumps(config.written(), default=str))
    if config.location is None:
        before, now = ({key: value for key, value in each.items() if key != "location"} for each in (before, now))
    old, new = _leaves(_computed(before)), _leaves(_computed(now))
    return {
        key.removeprefix("settings."): (old.get(key, _ABSENT), new.get(key, _ABSENT))
        for key in {**old, **new}
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    }


def _computed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the settings that do not change what is computed."""
    settings = dict(config.get("settings", {}))
    train = dict(settings.get("train", {}))
    # A setting that did not exist when the run was begun has its default, which is what the older version did.
    with contextlib.suppress(ValidationError):
        train = TrainSettings.model_validate(train).model_dump(mode="json")
    train = {key: value for key, value in train.items() if key not in TrainSettings.COST_ONLY}
    return {**config, "settings": {**settings, "train": train}}


def _leaves(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested objects, by dotted key; an empty object is a value."""
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves |= _leaves(inner, f"{prefix}{key}.") if isinstance(inner, dict) and inner else {f"{prefix}{key}": inner}
    return leaves


def _value(value: Any) -> str:
    return "not given" if value is _ABSENT else shown(value)


def _some(texts: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return separator.join(texts[:_NAMED]) + more
