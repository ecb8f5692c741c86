"""Pairs with a context that both responses continue, cut responses, and weights: from the data to the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aligners.base import CHOSEN, REJECTED, AlignerSettings, BranchLogps
from aligners.cdpo import CDPO
from aligners.preferences.read import read_preferences
from aligners.training.encoding import Encoder
from aligners.training.held_out import pair_content
from aligners.training.layout import by_branch, collate
from aligners.training.policy import Policy
from aligners.training.reference import content_print
from harness.checkpoints.balance import answer_logp
from harness.core.config import LoraSettings, Savings
from harness.core.errors import BadInputError
from harness.core.files import sha256_json, write_jsonl
from harness.core.types import ImageRef, PreferenceExample
from tests.commands import json_here
from tests.tiny import tiny_llava, tiny_parts, tiny_photograph

BRANCHES = [CHOSEN, REJECTED]
CONTEXT, SAID = "There is a dog.", ("It is red.", "It is a cat on the left.")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> ImageRef:
    path = tmp_path_factory.mktemp("pictures") / "one.png"
    tiny_photograph(path, 0)
    return ImageRef(path=path)


def example(picture: ImageRef, *said: str, **more: Any) -> PreferenceExample:
    return PreferenceExample(
        "e", "what is this", {"original": picture}, dict(zip(("chosen", "rejected"), said, strict=True)), **more
    )


def test_a_context_is_seen_and_not_counted(picture: ImageRef) -> None:
    model, processor = tiny_parts()
    encoder = Encoder(processor, BRANCHES, 512, None)
    policy = Policy(model, processor, "full", LoraSettings(), Savings(), bfloat16=False)
    policy.keep_features([picture])

    def logps(row: PreferenceExample) -> dict[str, BranchLogps]:
        batch = policy.prepare(collate([encoder.encode(row)], BRANCHES, processor.tokenizer.pad_token_id))
        with torch.no_grad():
            return by_branch(policy.token_logps(batch), batch.layouts)

    behind = example(picture, *SAID, context=CONTEXT, ends=False)
    encoded = encoder.encode(behind)
    said = [processor.tokenizer.decode(ids).strip() for ids in encoded.responses.values()]
    assert said == list(SAID), "neither the context nor an end token is among the tokens that count"
    behind_context, whole = logps(behind), logps(example(picture, *(f"{CONTEXT} {text}" for text in SAID), ends=False))
    for name, branch in behind_context.items():
        count = int(branch.mask.sum())
        torch.testing.assert_close(
            branch.tokens[0, :count], whole[name].tokens[0, -count:] if name == "rejected" else
            whole[name].tokens[0, : int(whole[name].mask.sum())][-count:], atol=1e-5, rtol=1e-5)  # fmt: skip
    fresh, _ = tiny_parts()
    for branch in BRANCHES:  # `harness balance` counts the same tokens
        assert answer_logp(fresh, processor, behind, encoded, branch) == pytest.approx(
            float(behind_context[branch.name].sums), abs=1e-4
        )
    # The context cancels in the difference of two whole answers, so C-DPO's loss is that of whole answers without an end token.
    reference = {
        kind: {name: BranchLogps(torch.zeros(1), 0 * branch.tokens, branch.mask) for name, branch in given.items()}
        for kind, given in (("behind", behind_context), ("whole", whole))
    }
    torch.testing.assert_close(
        CDPO().loss(behind_context, reference["behind"]).per_example, CDPO().loss(whole, reference["whole"]).per_example
    )
    ended = encoder.encode(example(picture, *SAID, context=CONTEXT))
    assert [len(ids) for ids in ended.responses.values()] == [len(ids) + 1 for ids in encoded.responses.values()]
    assert content_print(encoded, BRANCHES) != content_print(encoder.encode(behind.__class__(**{
        name: getattr(behind, name) for name in behind.__slots__} | {"weight": 2.0})), BRANCHES)  # fmt: skip


def test_pairs_behind_different_contexts_are_different_pairs(picture: ImageRef) -> None:
    """Those that `train.balance` and `harness balance` hold out are not dropped because of what was trained behind another context."""
    plain, first, second = (pair_content(example(picture, *SAID, context=context)) for context in ("", CONTEXT, "A."))
    assert len({plain, first, second}) == 3 and first == pair_content(example(picture, *SAID, context=CONTEXT))
    assert plain == sha256_json([picture.fingerprint(), "what is this", *SAID]), "the hash in files that are kept"


@pytest.mark.claims("c-dpo.beta")
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_cdpo_is_its_equation_in_double_precision(beta: float) -> None:
    sums = {name: torch.tensor(values) for name, values in {"chosen": [-3.0, -9.5], "rejected": [-4.25, -2.0]}.items()}
    held = {name: torch.tensor(values) for name, values in {"chosen": [-3.5, -7.0], "rejected": [-3.0, -2.5]}.items()}
    mask = torch.ones(2, 1, dtype=torch.bool)
    policy, reference = (
        {name: BranchLogps(value, value[:, None], mask) for name, value in given.items()} for given in (sums, held)
    )
    loss = CDPO(AlignerSettings(beta=beta)).loss(policy, reference).per_example
    gaps = beta * ((sums["chosen"] - held["chosen"]).double() - (sums["rejected"] - held["rejected"]).double())
    torch.testing.assert_close(loss.double(), torch.log1p(torch.exp(-gaps)), atol=1e-6, rtol=1e-6)


def test_weights_of_tokens_follow_the_characters(picture: ImageRef) -> None:
    _, processor = tiny_parts()
    row = example(picture, "a red dog", "a dog", token_weights={"chosen": ((2, 5, 3.0), (6, 9, 0.5))})
    encoded = Encoder(processor, BRANCHES, 512, None, weights=True).encode(row)
    words = [processor.tokenizer.decode([token]).strip() for token in encoded.responses["chosen"]]
    by_word = dict(zip(words, encoded.weights["chosen"], strict=True))
    assert by_word["red"] == 3.0 and by_word["dog"] == 0.5 and by_word["a"] == 1.0
    assert encoded.weights["chosen"][-1] == 1.0 and set(encoded.weights["rejected"]) == {1.0}
    layout = collate([encoded], BRANCHES, 0).layouts["chosen"]
    assert layout.weights is not None and layout.weights[0].tolist() == encoded.weights["chosen"]


COLUMNS = {
    "shared_context": "There is a dog.",
    "responses_end": False,
    "example_weight": 0.5,
    "chosen_weights": [[0, 2, 1.5]],
}


def read(folder: Path, **more: Any) -> PreferenceExample:
    tiny_photograph(folder / "one.png", 0)
    pair = {"id": "p", "image": "one.png", "prompt": "what is this", "chosen": SAID[0], "rejected": SAID[1]}
    write_jsonl(folder / "data.jsonl", [pair | more])
    [found] = read_preferences(str(folder / "data.jsonl"), cache=folder / "cache").examples
    return found


def test_the_columns_are_read(tmp_path: Path) -> None:
    found, plain = read(tmp_path, **COLUMNS), read(tmp_path)
    assert (found.context, found.ends, found.weight) == ("There is a dog.", False, 0.5)
    assert found.token_weights == {"chosen": ((0, 2, 1.5),)}
    assert (plain.context, plain.ends, plain.weight, plain.token_weights) == ("", True, 1.0, {})
    prints = set()
    for columns in ({}, *({name: value} for name, value in COLUMNS.items())):
        read(tmp_path, **columns)
        prints.add(read_preferences(str(tmp_path / "data.jsonl"), cache=tmp_path / "cache").fingerprint)
    assert len(prints) == 5, "data with other contexts, ends or weights are other data"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("shared_context", 3),
        ("responses_end", "no"),
        ("example_weight", -1),
        ("example_weight", True),
        ("chosen_weights", [[0, 2]]),
        ("chosen_weights", [[0, 99, 1.0]]),
        ("chosen_weights", [[0, 2, -1.0]]),
        ("rejected_weights", 7),
    ],
)
def test_columns_that_cannot_be_used(tmp_path: Path, column: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=column):
        read(tmp_path, **{column: value})


@pytest.mark.slow
def test_a_training_reads_context_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary compares the trainer with the model's own pass; the first loss is log 2, of the half that has a weight."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    tiny_llava(tmp_path / "base")
    for number in range(4):
        tiny_photograph(tmp_path / f"{number}.png", number)
    columns = {"shared_context": CONTEXT, "responses_end": False, "chosen": SAID[0], "rejected": SAID[1]}
    rows = [
        columns | {"id": str(n), "image": f"{n}.png", "prompt": "what is this", "example_weight": n % 2}
        for n in range(4)
    ]
    write_jsonl(tmp_path / "data.jsonl", rows)
    task = ["--model", "./base", "--data", "data.jsonl", "--set", "train.batch_size=4", "--name", "run"]
    json_here("align", "--method", "c-dpo", *task, "--set", "train.lora={rank: 4, alpha: 8}")
    [log] = Path("results").rglob("train_log.jsonl")
    first = json.loads(log.read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.5 * 0.6931, abs=1e-3)
    manifest = json.loads(Path("results/run/manifest.json").read_text())
    assert "with_context" in json.dumps(manifest)
