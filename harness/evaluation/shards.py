"""Splitting a suite over jobs and merging it: every item is in exactly one shard, and all shards are of the same checkpoint."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import BadInputError
from harness.core.files import write_json
from harness.core.types import Item
from harness.evaluation.responses import ResponseLog
from harness.evaluation.sampling import differing, in_words, options
from harness.evaluation.suites import Suite
from harness.records.answer_files import ServedRecord, ShardRecord, read_serving, read_shard
from harness.runs.targets import Target
from harness.serving.base import Sampling

logger = logging.getLogger(__name__)

_FOLDER = "shards"
_RECORD = "shard.json"
_NAMED = 10
"""Number of items that an error names."""
_SAME = ("count", "limit", "checkpoint", "sampling", "backend", "template")
"""Keys that must be equal in all shards of a suite."""


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts, from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `i/n`.

        Raises:
            BadInputError: it is invalid.
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise BadInputError(
                f"--shard must be i/n with i from 1 to n, and n with at most six digits, e.g. 2/4, not '{text[:80]}'"
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def label(self) -> str:
        """As the user writes it."""
        return f"{self.index}/{self.count}"

    def folder(self, suite: Path) -> Path:
        """The folder of its answers, below a suite's folder."""
        return suite / _FOLDER / f"{self.index}-of-{self.count}"

    def pick(self, items: Sequence[Item]) -> list[Item]:
        """Its items: images are dealt in turn, so that no image is in two jobs and every job gets equally many."""
        order: dict[str, int] = {}
        for item in items:
            order.setdefault(item.group, len(order))
        return [item for item in items if order[item.group] % self.count == self.index - 1]

    def of(self, suite: Suite) -> Suite:
        """A suite's part."""
        return dataclasses.replace(suite, items=self.pick(suite.items))


def write_shard(folder: Path, about: ShardRecord) -> None:
    """Write a shard's record into its folder."""
    write_json(folder / _RECORD, about.written())


@dataclass(frozen=True)
class _Part:
    """A shard's folder on disk."""

    name: str
    about: ShardRecord
    log: ResponseLog


def merge(
    suite_folder: Path,
    command: str,
    target: Target,
    suite: Suite,
    hashes: Mapping[str, str],
    backend: str,
) -> dict[str, int]:
    """Join the shards of a suite into its response log.

    Args:
        suite_folder: the suite's folder in the run, which contains the shards.
        command: the command of one shard, up to `--shard`, for the errors.
        target: the checkpoint on this machine.
        suite: the whole suite, with the sampling of this command.
        hashes: item id -> hash of its request.
        backend: identity of the backend that this command reads the answers of.

    Returns:
        Number of items from each shard, by its name.

    Raises:
        BadInputError: there are no shards, they are of different checkpoints or settings, or of other settings than this command's, or
            items are in none or in several of them.
        HarnessError: a shard is still being written.
    """
    with ExitStack() as stack:
        parts = _parts(suite_folder, command, stack)
        _check_same(parts, suite_folder, target, command)
        _check_asked(parts[0].about, suite_folder, target, suite.sampling, backend, command)
        serving = {part.name: read_serving(suite_folder / _FOLDER / part.name / "serving.json") for part in parts}
        computed_with = _check_computation(serving, suite_folder, command)
        items = suite.items
        owners: dict[str, list[_Part]] = defaultdict(list)
        for part in parts:
            for item in items:
                if part.log.record(item.id, hashes[item.id]) is not None:
                    owners[item.id].append(part)
        _check_cover(parts, items, owners, suite_folder, command)
        log = stack.enter_context(ResponseLog(suite_folder))
        for item in items:
            holders = owners.get(item.id)  # None for an item that the endpoint refused
            record = holders[0].log.record(item.id, hashes[item.id]) if holders else None
            if record is not None and log.record(item.id, hashes[item.id]) is None:
                log.put(record)
        if len(dtypes := {str(record.dtype): name for name, record in serving.items() if record.dtype}) > 1:
            found = " and ".join(f"{dtype} ({name})" for dtype, name in sorted(dtypes.items()))
            logger.warning(f"the shards' answers were computed in several data types: {found}")
        shards = {name: record.written() for name, record in serving.items()}
        computed = {"computed_with": computed_with} if computed_with else {}
        merged = next(iter(serving.values())).model_copy(update={"shards": shards, **computed})
        write_json(suite_folder / "serving.json", merged.written())
    counts = {part.name: 0 for part in parts}
    for holders in owners.values():
        counts[holders[0].name] += 1
    return counts


def shard_limit(suite_folder: Path, command: str) -> int | None:
    """The sample size that the shards were made with; None for the whole suite.

    Raises:
        BadInputError: there are no shards.
    """
    folders = shard_folders(suite_folder, command)
    return read_shard(folders[0] / _RECORD).limit


def shard_folders(suite_folder: Path, command: str) -> list[Path]:
    """The folders of a suite's shards.

    Raises:
        BadInputError: there are none.
    """
    paths = sorted(suite_folder.glob(f"{_FOLDER}/*/{_RECORD}"))
    if not paths:
        raise BadInputError(
            "there are no shards to merge", where=str(suite_folder / _FOLDER), remedy=f"{command} --shard 1/N"
        )
    return [path.parent for path in paths]


def _parts(suite_folder: Path, command: str, stack: ExitStack) -> list[_Part]:
    return [
        _Part(folder.name, read_shard(folder / _RECORD), stack.enter_context(ResponseLog(folder)))
        for folder in shard_folders(suite_folder, command)
    ]


def _check_same(parts: Sequence[_Part], suite_folder: Path, target: Target, command: str) -> None:
    for key in _SAME:
        values: dict[str, list[str]] = defaultdict(list)
        for part in parts:
            values[str(getattr(part.about, key))].append(part.name)
        if len(values) > 1:
            found = "; ".join(f"{', '.join(names)}: {value}" for value, names in values.items())
            raise BadInputError(
                f"the shards differ in {key}: {found}",
                where=str(suite_folder / _FOLDER),
                remedy="remove the wrong ones, and run them again with the same command",
            )
    answered, here = parts[0].about.checkpoint, target.answered_by(parts[0].about.model)
    if answered != here:
        raise BadInputError(
            f"the shards were answered by another checkpoint ({answered[:12]}…) than the one in this folder ({here[:12]}…)",
            where=str(suite_folder / _FOLDER),
            remedy=f"restore the weights, or answer again: {command} --shard 1/N",
        )


def _check_computation(
    serving: Mapping[str, ServedRecord], suite_folder: Path, command: str
) -> dict[str, dict[str, str]]:
    """Check that no two shards computed answers of the same weights with other settings of the model: other layers, another scale.

    Args:
        serving: name of the shard -> its serving record. Records of earlier versions say nothing of the settings, and are accepted.
        suite_folder: for the error.
        command: the command of one shard, up to `--shard`, for the error.

    Returns:
        Fingerprint of the weights -> SHA-256 by file, as the records together have it.

    Raises:
        BadInputError: two differ; the message names the files and the shards.
    """
    computed: dict[str, dict[str, str]] = {}
    first: dict[str, str] = {}
    for name, record in serving.items():
        for weights, files in (record.computed_with or {}).items():
            before = computed.setdefault(weights, files)
            first.setdefault(weights, name)
            if changed := sorted(file for file in {**before, **files} if before.get(file) != files.get(file)):
                raise BadInputError(
                    f"{' and '.join(changed)} of the model changed between the shards {first[weights]} and {name}",
                    where=str(suite_folder / _FOLDER),
                    remedy=f"remove the shards of the wrong settings, and answer again: {command} --shard I/N",
                )
    return computed


def _check_asked(
    about: ShardRecord, suite_folder: Path, target: Target, sampling: Sampling, backend: str, command: str
) -> None:
    """Check that the shards, which are alike, were answered as this command asks: otherwise it finds none of their answers."""
    where = str(suite_folder / _FOLDER)
    if others := differing(about.sampling, sampling):
        raise BadInputError(
            f"the shards were answered with {in_words(others, sampling)}",
            where=where,
            remedy=f"give the same settings: {options(others)}",
        )
    for key, here in (("backend", backend), ("template", target.template)):
        if (answered := getattr(about, key)) not in (None, here):
            raise BadInputError(
                f"the shards were answered with another {key} ({answered}) than that of this command ({here})",
                where=where,
                remedy=f"restore it, or answer again: {command} --shard 1/N",
            )


def _check_cover(
    parts: Sequence[_Part],
    items: Sequence[Item],
    owners: Mapping[str, list[_Part]],
    suite_folder: Path,
    command: str,
) -> None:
    """Check that every item is in one shard, except those that an endpoint refused."""
    twice = {name: own for name, own in owners.items() if len(own) > 1}
    if twice:
        names = sorted({part.name for own in twice.values() for part in own})
        raise BadInputError(
            f"{len(twice)} items are in several shards ({', '.join(names)}): {_some(list(twice))}",
            where=str(suite_folder / _FOLDER),
            remedy="remove the folder of the superfluous shard",
        )
    refused = {name for part in parts for name in part.about.refused}
    count = parts[0].about.count
    gaps = []
    for shard in (Shard(index, count) for index in range(1, count + 1)):
        missing = [item.id for item in shard.pick(items) if not owners.get(item.id) and item.id not in refused]
        if missing:
            gaps.append((shard, missing))
    if gaps:
        found = "; ".join(f"shard {shard.label}: {len(missing)} items ({_some(missing)})" for shard, missing in gaps)
        raise BadInputError(
            f"some items are in no shard: {found}",
            where=str(suite_folder / _FOLDER),
            remedy=f"{command} --shard {gaps[0][0].label}",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
