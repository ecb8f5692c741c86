"""Stored answers: which backend gave them; merging and scoring shards."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core import registry
from harness.core.config import parse
from harness.core.errors import BadInputError
from harness.evaluation.evaluate import run_eval
from harness.evaluation.imported import ImportedAnswersBackend
from harness.evaluation.jobs import request_hashes
from harness.evaluation.pictures import Change
from harness.evaluation.request import EvalRequest
from harness.evaluation.sampling import options
from harness.evaluation.shards import merge, shard_folders, shard_limit
from harness.evaluation.suites import data_root, open_suite, suite_folder
from harness.records.answer_files import read_serving
from harness.records.score_files import SuiteScores
from harness.runs.targets import Target
from harness.serving.base import Backend

logger = logging.getLogger(__name__)


def recorded_backend(
    targets: Sequence[Target], suites: Sequence[str], data: str
) -> tuple[type[Backend], dict[str, Any]]:
    """The backend that answered before, with its settings.

    Raises:
        BadInputError: there are no answers, or they are from several backends.
    """
    _, data_name, _ = data_root(data)
    paths = []
    for target in targets:
        for suite in suites:
            path = suite_folder(target.folder, suite, data_name) / "serving.json"
            if not path.exists():
                raise BadInputError(
                    f"'{target.name}' has no answers to {suite} on {data_name}",
                    where=str(path.parent),
                    remedy=f"harness eval --run {target.name} --suite {suite} --data {data}",
                )
            paths.append(path)
    return _backend_of(paths)


def _backend_of(paths: Sequence[Path]) -> tuple[type[Backend], dict[str, Any]]:
    """The backend, with its settings, that is the same in all serving records.

    Raises:
        BadInputError: there are several.
    """
    backends = {}
    for path in paths:
        record = read_serving(path)
        stored = record.backend == ImportedAnswersBackend.name
        backend: type[Backend] = ImportedAnswersBackend if stored else registry.load("backends", record.backend)
        given = dict(record.settings)
        backends[parse(backend.Settings, given, f"backend {backend.name}").identity(backend.name)] = (backend, given)
    if len(backends) > 1:
        raise BadInputError(
            f"the answers come from several backends: {', '.join(sorted(backends))}",
            where=", ".join(str(path.parent) for path in paths),
            remedy="keep those of one backend",
        )
    return next(iter(backends.values()))


def shard_backend(target: Target, suites: Sequence[str], data: str) -> tuple[type[Backend], dict[str, Any]]:
    """The backend that answered the shards, with its settings.

    Raises:
        BadInputError: there are no shards, or several backends answered them.
    """
    _, data_name, _ = data_root(data)
    folders = [
        folder
        for suite in suites
        for folder in shard_folders(suite_folder(target.folder, suite, data_name), _command(target, suite, data))
    ]
    return _backend_of([folder / "serving.json" for folder in folders])


def run_merge(request: EvalRequest) -> list[SuiteScores]:
    """Join the shards of a run's suites and score them.

    Raises:
        BadInputError: there are gaps or overlaps, or the shards do not belong together.
        HarnessError: too many items could not be scored.
    """
    root, data_name, _ = data_root(request.data)
    [target] = request.targets
    records: list[SuiteScores] = []
    for name in request.suites:
        plain = suite_folder(target.folder, name, data_name)
        limit = shard_limit(plain, _command(target, name, request.data))
        whole = open_suite(name, root, request.settings, limit)
        for suite in (whole.changed(change) for change in (None, *request.changes)):
            folder = suite.folder(target.folder, data_name)
            command = _command(target, name, request.data, suite.change, request.settings.get("sampling", {}))
            hashes = request_hashes([target], [suite], request.backend_identity)
            own = {item.id: hashes[target.name, suite.key, 0, item.id] for item in suite.items}
            counts = merge(folder, command, target, suite, own, request.backend_identity)
            logger.info(f"{suite.key}: {', '.join(f'{shard}: {count}' for shard, count in counts.items())}")
        scored = run_eval(dataclasses.replace(request, suites=[name], limit=limit))
        records += [record for record in scored if isinstance(record, SuiteScores)]
    return records


def _command(
    target: Target, suite: str, data: str, change: Change | None = None, sampling: Mapping[str, Any] | None = None
) -> str:
    """The command that answers a shard, up to `--shard`."""
    changed = f" --noise {change.word}" if change else ""
    drawn = f" {options(sampling)}" if sampling else ""
    return f"harness eval --run {target.name} --suite {suite} --data {data}{changed}{drawn}"
