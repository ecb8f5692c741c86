"""A record writes the file that it was read from, byte for byte: no key is lost, moved, added or turned into another value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.core.record import Record
from harness.records.manifest_file import ManifestRecord, read_manifest
from tests.harness.records.test_versions import KEPT


def text_of(value: Any) -> str:
    """As `harness.core.files.write_json` writes it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", ["base-base", "dpo"])
def test_manifests(name: str) -> None:
    path = KEPT / "results" / name / "manifest.json"
    assert text_of(read_manifest(path).written()) == path.read_text(encoding="utf-8")


def test_what_a_later_version_adds_is_kept() -> None:
    value = {"kind": "base", "base": {"label": "m", "new": [1, 2.0]}, "later": {"a": None}}
    assert ManifestRecord.model_validate(value).written() == value


def test_numbers_stay_what_they_are() -> None:
    class Some(Record):
        anything: object
        several: dict[str, Any]

    value = {"anything": 1, "several": {"whole": 1, "part": 1.0, "yes": True}}
    assert text_of(Some.model_validate(value).written()) == text_of(value)
