"""Pairs behind earlier turns: the trainer computes what the model itself does with the whole conversation, and `data check` shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aligners.base import CHOSEN, REJECTED
from aligners.preferences.check import CheckRequest, check_preferences
from aligners.preferences.read import read_preferences
from aligners.rejected_images.table import as_table, own_columns, whole_schema
from aligners.training.checks.plain_pass import own_inputs
from aligners.training.encoding import Encoder
from aligners.training.layout import by_branch, collate
from aligners.training.policy import Policy
from harness.checkpoints.balance import answer_logp
from harness.core.config import LoraSettings, Savings
from harness.core.errors import BadInputError
from harness.core.files import write_jsonl
from harness.core.types import ImageRef, PreferenceExample, Turn
from harness.generation.prompts import read_prompts
from tests.commands import json_here
from tests.tiny import tiny_llava, tiny_parts, tiny_photograph

BRANCHES = [CHOSEN, REJECTED]
TURNS = (Turn("user", "is there a dog", has_image=True), Turn("assistant", "there is a red dog"))


def example(folder: Path, history: tuple[Turn, ...] = TURNS) -> PreferenceExample:
    path = folder / "one.png"
    tiny_photograph(path, 0)
    answers = {"chosen": "a red dog", "rejected": "a cat on the left"}
    return PreferenceExample("e", "what is this", {"original": ImageRef(path=path)}, answers, history=history)


def test_shared_prefix_rows_are_separate_rows_of_the_whole_conversation(tmp_path: Path) -> None:
    model, processor = tiny_parts()
    pair = example(tmp_path)
    encoded = Encoder(processor, BRANCHES, 512, None).encode(pair)
    separate = {}
    for branch in BRANCHES:  # transformers' own pass over one row each, ids by the template
        inputs = own_inputs(
            processor, pair.prompt, pair.responses[branch.response], pair.images["original"].open(), TURNS
        )
        said = encoded.responses[branch.response]
        ids = inputs["input_ids"][0].tolist()
        assert ids[: len(encoded.prefixes["original"]) + len(said)] == [*encoded.prefixes["original"], *said]
        with torch.no_grad():
            logps = model(**inputs).logits[0].float().log_softmax(-1)
        begin = len(encoded.prefixes["original"])
        separate[branch.name] = torch.stack([logps[begin - 1 + place, token] for place, token in enumerate(said)])
        assert answer_logp(model, processor, pair, encoded, branch) == pytest.approx(
            float(separate[branch.name].sum()), abs=1e-4
        )
    policy = Policy(model, processor, "full", LoraSettings(), Savings(), bfloat16=False)
    policy.keep_features([pair.images["original"]])
    batch = policy.prepare(collate([encoded], BRANCHES, processor.tokenizer.pad_token_id))
    with torch.no_grad():
        shared = by_branch(policy.token_logps(batch), batch.layouts)
    for name, values in separate.items():
        torch.testing.assert_close(shared[name].tokens[0][shared[name].mask[0]], values, atol=1e-4, rtol=1e-4)


def test_a_set_of_ours_keeps_the_turns(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for history in (TURNS, (Turn("user", "hello"), Turn("assistant", "hi"))):  # the image in a turn, and in the prompt
        pair = example(tmp_path, history)
        pq.write_table(as_table([own_columns(pair)], whole_schema()), tmp_path / "set.parquet")
        (again,) = read_preferences(str(tmp_path / "set.parquet")).examples
        assert (again.history, again.prompt) == (pair.history, pair.prompt)


def row(folder: Path, **more: Any) -> str:
    example(folder)
    pair = {"image": "one.png", "prompt": "what is this", "chosen": "a red dog", "rejected": "a cat"}
    write_jsonl(folder / "data.jsonl", [pair | more])
    return str(folder / "data.jsonl")


def test_data_check_shows_the_turns_and_what_the_template_does_not_write(tmp_path: Path) -> None:
    data = row(tmp_path, system="Be kind.", history=[["is there a dog", "yes"]])
    _, processor = tiny_parts()
    report = check_preferences(CheckRequest(data, processor))
    assert report["with_earlier_turns"] == 1
    assert [(turn["role"], turn["has_image"]) for turn in report["first"]["earlier_turns"]] == [
        ("system", False),
        ("user", True),
        ("assistant", False),
    ]
    assert report["taken"]["plain"] == {
        name: name for name in ("image", "system", "history", "prompt", "chosen", "rejected")
    }
    assert report["tokens"] is None
    assert "it has no system turn" in report["fatal"][0] and "data.jsonl:1" in report["fatal"][0]
    skipped = check_preferences(CheckRequest(data, processor, on_error="skip"))
    assert skipped["fatal"] == ["all records are skipped, so none is left to train on"]
    assert "it has no system turn" in skipped["warnings"][0]
    turns = check_preferences(CheckRequest(row(tmp_path, history=[["is there a dog", "yes"]]), processor))
    alone = check_preferences(CheckRequest(row(tmp_path), processor))
    assert not turns["fatal"] and not alone["first"].get("earlier_turns")
    assert turns["tokens"]["lengths"]["image and prompt"]["max"] > alone["tokens"]["lengths"]["image and prompt"]["max"]
    assert turns["fingerprint"] != alone["fingerprint"]


def test_answers_are_not_sampled_to_a_question_that_has_turns_before_it(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="the prompt has earlier turns"):
        read_prompts(row(tmp_path, history=[["is there a dog", "yes"]]))


@pytest.mark.slow
def test_a_run_trains_on_conversations_and_its_canary_compares_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    tiny_llava(tmp_path / "base")
    example(tmp_path)
    pair = {"image": "one.png", "prompt": "what is this", "chosen": "a red dog", "rejected": "a cat"}
    rows = [pair, pair | {"id": "turns", "history": [["is there a dog", "there is a red dog on the left"]]}]
    write_jsonl(tmp_path / "data.jsonl", rows)
    task = ["--model", "./base", "--data", "data.jsonl", "--set", "train.batch_size=2", "--name", "run"]
    json_here("align", "--method", "dpo", *task, "--set", "train.lora={rank: 4, alpha: 8}")
    canary = json.loads(Path("results/run/manifest.json").read_text())["summary"]["canary"]
    assert "turns" in canary["examples"] and canary["difference"] <= canary["allowed"]
