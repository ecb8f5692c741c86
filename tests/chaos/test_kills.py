"""The kills of `make chaos` at a small size: the harness is killed, and starts again, until everything is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import folders
from tests.chaos.kills import Outcome, killed, make, undisturbed

ITEMS, KILLS = 400, 3


@pytest.mark.slow
def test_every_item_is_there_once_after_kills(tmp_path: Path) -> None:
    make(tmp_path, ITEMS)
    calm = undisturbed(tmp_path, "transformers")
    *_, outcome = killed(tmp_path, "transformers", "harness", ITEMS, KILLS)
    assert isinstance(outcome, Outcome) and outcome.kills == KILLS
    assert 0 < outcome.answered[-1] < ITEMS, "the kills did not fall into the work"
    assert outcome.times == calm.times and len(calm.times) == ITEMS and set(outcome.times.values()) == {1}
    assert outcome.texts == calm.texts and outcome.metrics == calm.metrics


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_export_and_a_merge_that_are_killed_and_two_writers(tmp_path: Path) -> None:
    folders.make(tmp_path, 12)
    assert [one for name in folders.COMMANDS for one in folders.killed(tmp_path, name, 1)] == []
    assert folders.two_writers(tmp_path) == []
