"""What new answers must share with the stored ones that they continue: the model's version on the hub, and the data type of computation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.records.answer_files import ServedRecord
from harness.serving.base import BackendSettings

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


def check_dtype(before: ServedRecord, serving: Mapping[str, Any], settings: BackendSettings, folder: Path) -> None:
    """Refuse to continue answers that were computed in another data type, if the backend chose both (`dtype=auto`).

    Args:
        before: what served the stored answers.
        serving: what serves now.
        settings: of the backend. If they name a data type, answers in another one are not reused anyway.
        folder: of the stored answers.

    Raises:
        BadInputError: the data types differ.
    """
    now, then = serving.get("dtype"), before.dtype
    if now is None or then is None or now == then or before.backend != serving["backend"]:
        return
    chosen, usual = settings.model_dump(mode="json"), type(settings)().model_dump(mode="json")
    # A record of answers with other decisive settings says nothing about the ones that are continued.
    same = all(before.settings.get(key, usual[key]) == chosen[key] for key in settings.decisive)
    if same and settings.dtype == "auto":
        raise BadInputError(
            f"the stored answers were computed in {then}, and on this machine dtype=auto is {now}",
            where=str(folder),
            remedy=f"continue on a machine like the first one; or generate them again, with --overwrite in {now}, or with "
            f"--set backend.dtype={then} in {then} on any machine",
        )
