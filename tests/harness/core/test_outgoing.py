"""Folders of this machine do not leave it."""

from __future__ import annotations

from typing import Any

import pytest

from harness.core.outgoing import without_folders


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/ada/secret project/pairs.jsonl", "pairs.jsonl"),
        ("/home/ada/model/", "model"),
        ("~/model", "model"),
        (r"C:\Users\ada\model", "model"),
        ("C:/Users/ada/model", "model"),
        (r"\\server\share\model", "model"),
        ("--data=/home/ada/pairs.jsonl", "--data=pairs.jsonl"),
        ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
        ("https://example.org/v1/models", "https://example.org/v1/models"),
        ("results/mine", "results/mine"),
        ("2026-11-26 10:00", "2026-11-26 10:00"),
        ("read /home/ada/x first", "read /home/ada/x first"),
        (3, 3),
        ({"command": ["/home/ada/.venv/bin/harness", "eval"], "n": None}, {"command": ["harness", "eval"], "n": None}),
    ],
)
def test_absolute_paths_are_cut(value: Any, expected: Any) -> None:
    assert without_folders(value) == expected
