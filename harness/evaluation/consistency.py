"""What new answers must share with the stored ones that they continue: the model's version on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.core.errors import BadInputError

HUB_COMMIT = "commit on the hub"
"""Key of the model's commit in `ServedRecord.computed_with`, beside the hashes of its files."""


def check_commit(then: Mapping[str, str], now: str, name: str, folder: Path) -> None:
    """Refuse to continue the answers of another version of a model on the hub, whose weights are identified by its name only.

    Args:
        then: what the stored answers were computed with. Records of earlier versions have no commit, and are accepted.
        now: the commit that is loaded.
        name: of the target, for the message.
        folder: of the stored answers.

    Raises:
        BadInputError: the commits differ.
    """
    if (before := then.get(HUB_COMMIT, now)) != now:
        raise BadInputError(
            f"the stored answers of '{name}' are of commit {before[:12]} on the hub, but the hub's cache has commit {now[:12]}",
            where=str(folder),
            remedy="--overwrite generates them again; or give a folder with the older version as the model",
        )
