"""A record writes the file that it was read from, byte for byte: no key is lost, moved, added or turned into another value."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import BadInputError
from harness.core.files import dump_row, write_json
from harness.core.record import Record
from harness.evaluation.responses import ResponseLog
from harness.records.answer_files import ServedRecord, answer_record, read_serving
from harness.records.item_files import item_row
from harness.records.manifest_file import AlignConfig, BaseRecord, ManifestRecord, read_manifest
from harness.records.score_files import read_scores
from harness.records.training_files import LogRow
from harness.runs.claim import claimed
from harness.runs.manifest import surroundings
from harness.runs.state import State, state_of
from harness.serving.base import Completion
from tests.harness.records.test_versions import KEPT


def text_of(value: Any) -> str:
    """As `harness.core.files.write_json` writes it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", ["base-base", "dpo"])
def test_manifests(name: str) -> None:
    path = KEPT / "results" / name / "manifest.json"
    assert text_of(read_manifest(path).written()) == path.read_text(encoding="utf-8")


def test_configurations() -> None:
    path = KEPT / "results" / "dpo" / "config.json"
    text = path.read_text(encoding="utf-8")
    assert text_of(AlignConfig.model_validate(json.loads(text)).written()) == text


def test_what_a_later_version_adds_is_kept() -> None:
    value = {"kind": "base", "base": {"label": "m", "new": [1, 2.0]}, "later": {"a": None}}
    assert ManifestRecord.model_validate(value).written() == value


def test_numbers_stay_what_they_are() -> None:
    class Some(Record):
        anything: object
        several: dict[str, Any]

    value = {"anything": 1, "several": {"whole": 1, "part": 1.0, "yes": True}}
    assert text_of(Some.model_validate(value).written()) == text_of(value)


@pytest.mark.parametrize("path", sorted(KEPT.glob("results/*/evals/*/serving.json")), ids=lambda path: path.parent.name)
def test_serving(path: Path) -> None:
    assert text_of(read_serving(path).written()) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", sorted(KEPT.glob("results/*/evals/*/responses.jsonl")), ids=lambda path: path.parent.name
)
def test_answers(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    records = [answer_record(line, number, path) for number, line in enumerate(lines, 1)]
    assert [dump_row(record.written()).encode() + b"\n" for record in records] == lines


@pytest.mark.parametrize("path", sorted(KEPT.glob("results/*/evals/*/scores*.json")), ids=lambda path: path.parent.name)
def test_scores(path: Path) -> None:
    assert text_of(read_scores(path).written()) == path.read_text(encoding="utf-8")


def test_an_answer_with_half_a_character_and_a_refusal(tmp_path: Path) -> None:
    completion = Completion("r", "base", "a \ud83d b", "stop", None, 3, model="gpt-x", refusal="no \udc00")
    with ResponseLog(tmp_path) as log:
        log.add("1", "r", completion, "openai", "c")
    line = (tmp_path / "responses.jsonl").read_bytes()
    value = json.loads(line)
    assert list(value) == [
        "item", "request", "text", "finish_reason", "prompt_tokens", "completion_tokens", "backend", "checkpoint",
        "model", "refusal", "time",
    ]  # fmt: skip
    assert (value["text"], value["refusal"], value["prompt_tokens"]) == ("a \ud83d b", "no \udc00", None)
    assert dump_row(answer_record(line, 1, tmp_path).written()).encode() + b"\n" == line


@pytest.mark.parametrize(
    "described",
    [
        {"backend": "vllm", "distribution": "vllm 1", "device": "gpu", "dtype": "bfloat16", "adapters": ["a"],
         "settings": {"dtype": "auto"}},
        {"backend": "transformers", "note": "n", "distribution": "t", "device": None, "dtype": None, "settings": {}},
        {"backend": "openai", "distribution": "o", "device": "endpoint", "identity": "i", "model": "m", "answered_by": [],
         "token_parameter": None, "settings": {"concurrency": 4},
         "took": {"answers": 1, "prompt_tokens": 2, "completion_tokens": 3, "seconds": 0.1}},
    ],
    ids=lambda described: described["backend"],
)  # fmt: skip
def test_every_backend_describes_itself_in_the_record_s_order(described: dict[str, Any]) -> None:
    assert text_of(ServedRecord.model_validate(described).written()) == text_of(described)


@pytest.mark.parametrize("path", sorted(KEPT.glob("results/*/evals/*/items*.jsonl")), ids=lambda path: path.parent.name)
def test_item_rows(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    rows = [item_row(line, number, path) for number, line in enumerate(lines, 1)]
    assert [dump_row(row.written()).encode() + b"\n" for row in rows] == lines


ROW: dict[str, Any] = {
    "item": "1", "group": "g", "prompt": "Describe.", "text": "A dog.", "counts": {"mentions": 1},
    "evidence": [{"text": "dog", "verdict": "correct", "label": "dog", "span": [2, 5]}], "details": {"said": "yes", "more": [1]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": {"mentions": float("nan")}}, "NaN is not a number"),
        ({"counts": {"mentions": True}}, "counts.mentions is True"),
        ({"counts": {"mentions": 1e13}}, "counts.mentions is 10000000000000.0"),
        ({"evidence": [{"text": "x"}]}, "it has no evidence.0.label, evidence.0.span, evidence.0.verdict"),
        ({"evidence": [ROW["evidence"][0] | {"span": [2, 99]}]}, r"the span \[2, 99\] is not a part of the text"),
        ({"evidence": [ROW["evidence"][0] | {"verdict": "wrong"}]}, "evidence.0.verdict is 'wrong'"),
        ({"details": {"rating": "4"}}, "details.rating is '4'"),
        ({"item": 3}, "item is 3"),
    ],
)
def test_a_row_that_is_none_is_refused_with_the_first_thing_that_is_wrong(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said) as error:
        item_row(json.dumps(ROW | change).encode(), 7, Path("items.jsonl"))
    assert error.value.where == "items.jsonl:7"


def test_a_row_keeps_what_others_added_to_its_details() -> None:
    assert item_row(json.dumps(ROW | {"later": 1}).encode(), 1, Path()).details == {"said": "yes", "more": [1]}
    with pytest.raises(BadInputError, match="too large for floating point"):
        item_row(json.dumps(ROW).replace("[1]", "[1e999]").encode(), 1, Path())


def test_a_command_line_that_is_no_text_is_in_the_manifest_and_in_the_reason_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no UTF-8 are lone surrogates in Python, and must not hide the error that is being stored."""
    monkeypatch.setattr(sys, "argv", ["harness", "align", "\udcff"])
    base = BaseRecord(label="\udcff", location="/\udcff", fingerprint="0")
    record = ManifestRecord(schema=1, kind="base", name="b", base=base, **surroundings().written())
    write_json(tmp_path / "manifest.json", record.written())
    assert read_manifest(tmp_path / "manifest.json") == record
    with pytest.raises(BadInputError, match="first"), claimed(tmp_path / "run", resume=False, overwrite=False) as claim:
        claim.begin()
        write_json(tmp_path / "run" / "config.json", {"method": "m", "model": "", "settings": {}, "location": ""})
        raise BadInputError("first \udcff")
    assert state_of(tmp_path / "run").reason.startswith("first")


def test_a_damaged_record_of_a_failure_is_no_reason(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"method": "m", "model": "", "settings": {}, "location": ""})
    write_json(tmp_path / "failed.json", {"reason": 3})
    assert state_of(tmp_path) == State("failed")


def test_metrics_of_a_logged_step() -> None:
    row = LogRow.model_validate(
        {"stage": "all", "step": 1, "loss": 1, "margin": 0.5, "odd": "x", "tokens_per_second": 3}
    )
    assert [row.metric(name) for name in ("loss", "margin", "odd", "none")] == [1.0, 0.5, None, None]
    assert list(row.metrics) == ["loss", "margin", "odd"]
