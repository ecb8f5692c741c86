"""What most tests of aligners train, and on what. Nothing may change them: they are made once for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import tiny_llava, tiny_pairs


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LLaVA of random weights."""
    return tiny_llava(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-five pairs with pictures and boxes: the last batch of an epoch is a short one."""
    return tiny_pairs(tmp_path_factory.mktemp("pairs"), 45)
