"""No fault of an endpoint loses an answer, pays for one twice, passes the budget, shows the key or ends in an exception of another kind."""

from __future__ import annotations

import re

import pytest

from tests.chaos.endpoints import budgeted, trial
from tests.chaos.faults import COMPLETION_TOKENS, FAULTS, PASSING, Fault


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_judge_and_backend_come_through(name: str) -> None:
    found = trial(name, items=4)
    assert not any(found.values()), found


@pytest.mark.parametrize("name", [*PASSING[::4], "usage in words", "usage null", "an empty body", "no reply in time"])
def test_the_budget_holds(name: str) -> None:
    wrong, said = budgeted(FAULTS[name], calls=5, items=10)
    assert not wrong, wrong
    assert "the budget of" in said and "are spent" in said


def test_a_small_budget_waits_for_what_is_under_way() -> None:
    """A call may cost ten times what it does cost: all fit into the budget, but no two of them at once."""
    wrong, said = budgeted(Fault(times=-1), calls=16, items=8, max_tokens=10 * COMPLETION_TOKENS)
    assert not wrong and not said, (wrong, said)


def test_replies_that_are_no_good_are_paid_for_within_the_budget() -> None:
    """One reply that is asked for again and again is as many calls as it is asked for."""
    empty = {"choices": [{"index": 0, "finish_reason": None, "message": {"role": "assistant", "content": ""}}]}
    wrong, said = budgeted(Fault(empty, "declined", over=True, times=0, paid=True), calls=4, items=30)
    assert not wrong, wrong
    assert re.search(
        r"the budget of \$0.0024 is reached: \$0.0018 are spent, and the next call may cost \$0.0006", said
    )
