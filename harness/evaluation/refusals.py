"""Which questions of stored answers could not be asked, and why: an endpoint refused them when the answers were generated."""

from __future__ import annotations

import logging
from pathlib import Path

from harness.core.errors import BadInputError
from harness.records.answer_files import read_shard
from harness.records.score_files import read_scores

logger = logging.getLogger(__name__)


def stored_refusals(folder: Path, repeat: int = 0) -> dict[str, str]:
    """Item id -> why it could not be answered, from the shards and the earlier scores of one suite's folder.

    An item may have been answered since.

    Args:
        folder: the suite's own folder, also for later repeats.
        repeat: index of the repeat; later ones are not computed in shards.

    Raises:
        BadInputError: a shard's record cannot be read.
    """
    refused: dict[str, str] = {}
    for path in sorted(folder.glob("shards/*/shard.json")) if repeat == 0 else ():
        refused |= {name: str(reason) for name, reason in read_shard(path).refused.items()}
    for path in sorted(folder.glob("scores*.json")):
        try:
            scores = read_scores(path)
        except BadInputError as error:  # a damaged file must not hinder the command that replaces it
            logger.warning(f"{path.name} is not searched for refused questions: {error}")
        else:
            repeats = scores.repeats.refused if scores.repeats else None
            known = scores.refused or {} if repeat == 0 else (repeats or {}).get(str(repeat + 1), {})
            refused |= {name: str(reason) for name, reason in known.items()}
    return refused
