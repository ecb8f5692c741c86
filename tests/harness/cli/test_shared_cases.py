"""Malformed inputs that were found from outside, where they lie beside the checkout: refused in a paragraph, nothing written."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from harness.cli.app import app
from harness.cli.errors import run
from harness.core.errors import BadInputError
from harness.core.types import ImageRef
from tests.conftest import CONFORMANCE

CASES = CONFORMANCE.parent / "cases" / "bad-inputs"
_ABSENT = "the cases are not there: shared/cases/bad-inputs beside the checkout"
_SECONDS = 10
"""Two are what a person waits; a loaded machine is given more."""


def cases(pattern: str) -> list[object]:
    found = sorted(CASES.glob(pattern))
    return [pytest.param(path, id=path.name) for path in found] or [
        pytest.param(CASES, marks=pytest.mark.skip(reason=_ABSENT))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*cases("config-*"), *cases("prefs-*")])
def test_a_malformed_input_is_refused(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = json.loads((case / "case.json").read_text())["args"]
    for path in case.iterdir():
        if path.name != "case.json":
            shutil.copy(path, tmp_path / path.name)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    begun = time.monotonic()
    code = run(app, arguments)
    assert time.monotonic() - begun < _SECONDS
    said = capsys.readouterr().err
    assert code == 2, said
    assert "error: " in said and len(said) <= 2000 and "Traceback" not in said and "defect" not in said
    assert all(one.isprintable() or one == "\n" for one in said)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("picture", cases("image-*.bin"))
def test_a_broken_picture_is_refused(picture: Path) -> None:
    image = ImageRef(path=picture)
    for look in (image.open, image.facts, image.size):
        with pytest.raises(BadInputError, match="does not decode") as raised:
            look()
        assert raised.value.where == str(picture) and raised.value.remedy and len(str(raised.value)) < 500
