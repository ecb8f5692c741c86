"""How hard an example is for the starting model: the entropy of one of two answers, by one of two measures.

Source: Jiang et al., IJCAI 2025 (MFPO), section 3.3, prints H = -sum_i p_i log p_i over the predicted tokens, with p_i the probability of
the token itself, calls it semantic entropy, and treats high values as hard. It does not say on which answer it is measured: the default,
the chosen answer, is our choice, and so is the second measure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aligners.base import CHOSEN, Answer, Measure
from aligners.training.encoding import EncodedExample
from aligners.training.policy import entropy_of
from harness.core.errors import BadInputError
from harness.models import batch_inputs
from harness.models.generation import as_asked, end_tokens, with_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from aligners.training.session import Session
    from harness.core.types import PreferenceExample

Values = list[dict[tuple[str, str], np.ndarray]]


def token_entropy_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """-p log p in nats, where p is the probability of the token itself. [n] from logits [n, vocabulary] and tokens [n]."""
    logp = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    return -(logp.exp() * logp)


def difficulty_of(
    session: Session,
    examples: Sequence[EncodedExample],
    asked: Sequence[PreferenceExample],
    measure: Measure,
    answer: Answer,
    max_new_tokens: int,
) -> Values:
    """The difficulty of each example, [1] under the chosen branch.

    Args:
        session: the alignment, whose model is not trained yet.
        examples: encoded.
        asked: the same, with their questions as texts.
        measure: `token`: the sum of -p log p over the answer's tokens (the paper's); `predictive`: the mean over the answer's tokens of
        the entropy of the whole distribution, in nats per token.
        answer: which answer: the chosen response, or the model's own greedy answer.
        max_new_tokens: maximum length of the model's own answer.
    """
    if answer == "own":
        examples = [
            # Marks and weights are those of the chosen response's tokens.
            replace(example, responses={**example.responses, "chosen": said}, corrected={}, weights={})
            for example, said in zip(examples, own_answers(session, examples, asked, max_new_tokens), strict=True)
        ]
    values = session.values(examples, [CHOSEN], token_entropy_of if measure == "token" else entropy_of)
    reduce = np.sum if measure == "token" else np.mean
    return [{pair: np.atleast_1d(reduce(value)) for pair, value in row.items()} for row in values]


def own_answers(
    session: Session, examples: Sequence[EncodedExample], asked: Sequence[PreferenceExample], max_new_tokens: int
) -> list[list[int]]:
    """Token ids of the starting model's own greedy answers, with the end token if it generated one. Behind a context, the model continues
    it, and the context's tokens are not among them.

    Raises:
        BadInputError: the weights are sharded over several processes, which cannot generate.
    """
    if session.sharded:
        raise BadInputError(
            "a model whose weights are sharded (FSDP) cannot generate answers during training",
            where="method.stages.answer",
            remedy="--set method.stages.answer=chosen, or train in one process or with DDP",
        )
    # Contexts are of different lengths, so what continues one is generated alone.
    together = [place for place, one in enumerate(asked) if not one.context]
    blocks = [*([together] if together else []), *([place] for place, one in enumerate(asked) if one.context)]
    answers: dict[int, list[int]] = {}
    for places in blocks:
        some, questions = [examples[place] for place in places], [asked[place] for place in places]
        answers |= zip(places, _generated(session, some, questions, max_new_tokens), strict=True)
    return [answers[place] for place in range(len(asked))]


def _generated(
    session: Session, examples: Sequence[EncodedExample], asked: Sequence[PreferenceExample], max_new_tokens: int
) -> list[list[int]]:
    """The answers of a batch of questions without a context, or of one question with one."""
    import torch

    plain, processor = session.policy.plain, session.processor
    tokenizer = processor.tokenizer
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    try:
        pictures = [example.images["original"].open() for example in examples]
        prompts, histories = [one.prompt for one in asked], [one.history for one in asked]
        made = batch_inputs(processor, prompts, pictures, histories, padding=True)
        if asked[0].context:
            made = with_tokens(made, examples[0].prefixes["original"][made["input_ids"].shape[1] :])
        inputs = {name: value.to(plain.device) for name, value in made.items()}
    finally:
        tokenizer.padding_side = side
    with torch.no_grad(), session.policy.without_adapter(), _own_forward(plain), as_asked(plain, tokenizer):
        rows = plain.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    ends = set(end_tokens(plain, tokenizer))
    answers = []
    for row in rows[:, inputs["input_ids"].shape[1] :].tolist():
        stop = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
        answers.append(row[: stop + 1])
    return answers


@contextlib.contextmanager
def _own_forward(model: Any) -> Iterator[None]:
    """Context in which calling the model uses its class's forward, which `Policy` replaces if all weights are trained."""
    kept = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if kept is not None:
            model.forward = kept
