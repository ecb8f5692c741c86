"""Models are compared as names: a smaller sibling is another judge, a dated snapshot and a proxy's prefix are not."""

from __future__ import annotations

import pytest

from harness.remote.model_names import difference


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4", "gpt-4-0613"),
        ("claude-sonnet-4", "claude-sonnet-4-20250514"),
        ("mistral-large-latest", "mistral-large-2407"),
        ("command-r", "command-r-08-2024"),
        ("gemini-1.5-pro", "gemini-1.5-pro-002"),
        ("llama3", "llama3:latest"),
        ("gpt-4o", "unnamed"),
    ],
)
def test_the_same_model(wanted: str, given: str) -> None:
    assert difference(wanted, given) == ""


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("azure/gpt-4o", "gpt-4o"),
        ("azure/gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4o", "openai/gpt-4o"),
        ("openrouter/openai/gpt-4o", "openai/gpt-4o-2024-08-06"),
        ("llava-v1.5", "/models/llava-v1.5"),
        ("Qwen2.5-72B-Instruct", "qwen2.5-72b-instruct"),
    ],
)
def test_a_prefix_or_capital_letters_are_accepted_and_said(wanted: str, given: str) -> None:
    said = difference(wanted, given)
    assert said and given in said and wanted in said


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4o-mini-2024-07-18"),
        ("gpt-4o-mini", "gpt-4o"),
        ("gpt-4", "gpt-4o"),
        ("gpt-4", "gpt-4-1106-preview"),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-11-20"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("azure/gpt-4o", "openai/gpt-4o-mini"),
        ("meta/llama-3", "somebody/llama-3"),
        ("llama3:8b", "llama3:70b"),
        ("longformer", "longformer-4096"),
        ("longformer", "longformer-2048"),
        ("xgpt-4o", "gpt-4o"),
        ("gpt-4o", ""),
    ],
)
def test_another_model(wanted: str, given: str) -> None:
    assert difference(wanted, given) is None
