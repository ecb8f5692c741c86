"""Difficulty of examples, against transformers' own forward pass and own answers in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState

from aligners.base import Logps, Loss, Needs, Stage, StageContext
from aligners.dpo import DPO
from aligners.preferences import read_preferences
from aligners.training import run as training
from aligners.training.job import AlignJob
from aligners.training.session import Session
from aligners.training.values import StartingModel
from harness.core.config import TrainSettings
from harness.core.types import PreferenceExample
from harness.models import AnswerEncoder, load_model, load_processor, prompt_inputs

LENGTH = 12
ASKED = [(measure, answer) for measure in ("token", "predictive") for answer in ("chosen", "own")]


class Curious(DPO):
    """DPO that notes what it is told of the examples' difficulty."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: Sequence[PreferenceExample] = ()
        self.told: dict[tuple[str, str], list[float]] = {}

    def stages(self, examples: Sequence[PreferenceExample], context: StageContext) -> list[Stage]:
        self.examples = examples
        self.told = {
            (measure, answer): context.difficulty(examples, measure, answer, LENGTH)  # type: ignore[arg-type]
            for measure, answer in ASKED
        }
        return super().stages(examples[:2], context)

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        return super().loss(policy, reference)


def expected(model: Any, processor: Any, example: PreferenceExample, measure: str, answer: str) -> float:
    inputs = prompt_inputs(processor, example.prompt, example.images["original"].open())
    context = AnswerEncoder(processor).encode(example.context)[0] if example.context else []
    more = {"input_ids": context, "attention_mask": [1] * len(context)}
    inputs |= {name: torch.cat([inputs[name], torch.tensor([ids]).long()], 1) for name, ids in more.items()}
    inputs.pop("mm_token_type_ids", None)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        if answer == "own":
            said = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)[0, length:]
        else:
            ids = processor.tokenizer(example.responses["chosen"], add_special_tokens=False)["input_ids"]
            said = torch.tensor([*ids, processor.tokenizer.eos_token_id])
        whole = torch.cat([inputs["input_ids"], said[None]], 1)
        mask = torch.ones_like(whole)
        rest = {
            name: value
            for name, value in inputs.items()
            if name not in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        logits = model(input_ids=whole, attention_mask=mask, **rest).logits[0, length - 1 : -1].double()
    logs = logits.log_softmax(-1)
    if measure == "predictive":
        return float(-(logs.exp() * logs).sum(-1).mean())
    own = logs.gather(-1, said[:, None])[:, 0]
    return float(-(own.exp() * own).sum())


class Marked(DPO):
    """A method that reads marks and weights of tokens."""

    needs = Needs.CORRECTIONS | Needs.WEIGHTS


def test_the_own_answer_has_no_marks_or_weights_and_continues_the_context(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    train = TrainSettings.model_validate(
        {"batch_size": 2, "micro_batch_size": 2, "max_length": 256, "lora": {"rank": 4, "alpha": 8}}
    )
    examples = read_preferences(str(pairs), limit=4).examples
    contexts = ("There is a red square.", "", "On the left", "")
    examples = [replace(one, context=context) for one, context in zip(examples, contexts, strict=True)]
    examples[1] = replace(examples[1], token_weights={"chosen": ((0, 2, 2.0),)})
    job = AlignJob(str(base), str(pairs), tmp_path / "run", train, tmp_path / "cache")
    session = Session(Marked(), job, examples, PartialState())
    told = StartingModel(session).difficulty(examples, "token", "own", LENGTH)
    model, processor = load_model(base, "float32"), load_processor(base)
    wanted = [expected(model, processor, example, "token", "own") for example in examples]
    assert told == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    bare = [expected(model, processor, replace(example, context=""), "token", "own") for example in examples]
    assert bare[0] != pytest.approx(wanted[0], rel=1e-3), "the context makes a difference"


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_difficulty_is_the_printed_formula_on_either_answer(
    tuning: str, base: Path, pairs: Path, tmp_path: Path
) -> None:
    aligner = Curious()
    train = TrainSettings.model_validate(
        {"batch_size": 2, "micro_batch_size": 2, "max_length": 256, "tuning": tuning, "lora": {"rank": 4, "alpha": 8}}
    )
    training.train(aligner, AlignJob(str(base), str(pairs), tmp_path / "run", train, tmp_path / "cache"))
    model, processor = load_model(base, "float32"), load_processor(base)
    some = list(range(0, len(aligner.examples), max(1, len(aligner.examples) // 5)))
    for measure, answer in ASKED:
        told = [aligner.told[measure, answer][place] for place in some]
        wanted = [expected(model, processor, aligner.examples[place], measure, answer) for place in some]
        assert told == pytest.approx(wanted, rel=1e-4, abs=1e-5), (measure, answer)
    assert len({tuple(values) for values in aligner.told.values()}) == 4
