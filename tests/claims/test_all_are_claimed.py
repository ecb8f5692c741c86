"""Every setting and every option is claimed by a test that fails where it does nothing, or something else (`python -m tests.claims`)."""

from __future__ import annotations

from tests.claims.marks import claims
from tests.claims.settings import options, settings


def test_every_setting_and_every_option_is_claimed() -> None:
    claimed = claims()
    left = [one.name for one in settings() if one.name not in claimed]
    left += [one.names[0] for one in options() if not claimed.keys() & {*one.names}]
    assert not left, f"no test claims {len(left)} of them (pytest.mark.claims): {left}"


def test_nothing_else_is_claimed() -> None:
    known = {one.name for one in settings()} | {name for one in options() for name in one.names}
    assert sorted(claims().keys() - known) == []
