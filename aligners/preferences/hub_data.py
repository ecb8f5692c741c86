"""Preference data on the hub by its id: `NAMESPACE/NAME[:CONFIG][@REVISION][#SPLIT]`.

The repository is downloaded as it is. The library `datasets` says which of its files belong to which configuration and split, by the
rules of the hub (the card's `configs`, or the files' names); the files are then read like a user's own.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.disk import need
from harness.core.errors import BadInputError, HarnessError, shown
from harness.core.packages import need_package
from harness.core.paths import cache_folder
from harness.remote import hub

logger = logging.getLogger(__name__)

_ID = re.compile(
    r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?(?:#(?P<split>[\w.-]+))?"
)
_TRAIN = "train"


@dataclass(frozen=True, slots=True)
class HubData:
    """A data set of the hub.

    Attributes:
        repository: NAMESPACE/NAME.
        config: name of a configuration; None: the only one, or the default one.
        revision: a branch, a tag or a commit; None: the default branch.
        split: name of a split; None: the training split.
    """

    repository: str
    config: str | None = None
    revision: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubData | None:
        """Read an id; None if the text has another form."""
        parts = _ID.fullmatch(text)
        return cls(**parts.groupdict()) if parts else None


def look(data: HubData) -> hub.Wanted:
    """What of it is on this machine; see `harness.remote.hub.look`."""
    try:
        return hub.look(data.repository, "dataset", revision=data.revision)
    except HarnessError as error:  # the id may also be a mistyped path
        problem = f"there is no file or folder '{data.repository}', and {error.problem}"
        raise type(error)(problem, where=error.where, remedy=error.remedy) from None


def files_of(data: HubData) -> tuple[Path, list[Path]]:
    """The repository's folder, downloaded if necessary, and the files of the split in it.

    Raises:
        BadInputError: the hub has no such data set, configuration or split, or the split is ambiguous.
        HarnessError: it cannot be downloaded.
    """
    need_package("datasets", f"preference data from the hub: {data.repository}")
    wanted = look(data)
    if wanted.folder is None:
        need([(hub.cache_folder(), wanted.download or 0, data.repository)])
        logger.info(f"downloading {data.repository} from the hub")
    folder = wanted.folder or hub.download(data.repository, "dataset", revision=data.revision)
    logger.info(f"preference data {data.repository}: revision {folder.name}")
    splits = _splits(data, folder)
    name = data.split or (_TRAIN if _TRAIN in splits else next(iter(splits)) if len(splits) == 1 else None)
    if name is None or name not in splits:
        raise BadInputError(
            f"the data set has no split {shown(data.split or _TRAIN)}; it has: {', '.join(splits)}",
            where=data.repository,
            remedy=f"choose one: '{data.repository}#{next(iter(splits))}'",
        )
    if others := sorted(set(splits) - {name}):
        logger.info(f"{data.repository}: using the split {name}; not used: {', '.join(others)}")
    return folder, splits[name]


def _splits(data: HubData, folder: Path) -> dict[str, list[Path]]:
    """Name of a split -> its files."""
    from datasets import load_dataset_builder

    try:
        builder: Any = load_dataset_builder(
            str(folder), name=data.config, cache_dir=str(cache_folder() / "preferences" / "datasets")
        )
        splits = builder.config.data_files or {}
    except (ValueError, OSError) as error:  # DatasetNotFoundError, DataFilesNotFoundError and a wrong configuration
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise BadInputError(
            f"`datasets` cannot read the data set: {' '.join(lines[:2])}",
            where=data.repository,
            remedy=f"choose a configuration: '{data.repository}:CONFIG'; or download it, and give its files",
        ) from None
    if not splits:
        raise BadInputError("the data set contains no data files", where=data.repository)
    return {str(name): [Path(file) for file in files] for name, files in splits.items()}
