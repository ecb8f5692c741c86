"""The canary: a check at the start of every run whether the trainer computes what the model itself does. It takes a few seconds on a few
examples.

Log-probabilities as in training (ids, layout, masks, savings, loader processes, precision, device) are compared with those of the plain
forward pass (`plain_pass`), and the trained weights with the settings; `first_batch` has further checks.

If the canary fails, it stops the run and names the saving that makes it pass when switched off.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aligners.training.batches import checked, loader, loaders_end
from aligners.training.checks.plain_pass import PlainRow, as_transformers_does, plain_row
from aligners.training.layout import Batch, by_branch
from aligners.training.memory.batch import accumulation
from aligners.training.planning.out_of_memory import out_of_memory
from harness.core.config import Savings
from harness.core.errors import HarnessError
from harness.core.types import PreferenceExample
from harness.records.training_files import CanaryRecord

if TYPE_CHECKING:
    from torch import Tensor

    from aligners.training.encoding import EncodedExample
    from aligners.training.session import Session

logger = logging.getLogger(__name__)

PROBES = 3
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
"""Nats by which log-probabilities may differ, as the mean over many tokens, by the type of the computation. A type with a significand of
p bits rounds every sum by up to 2^-p of it. Two computations of a model differ by a few such roundings per layer, which add up like a
random walk: over 32 layers to about 16 of them, for logits of about 10. That is 1e-5 in float32 (p = 24), and 0.6
at most, a tenth of it on average, in bfloat16 (p = 8); between two servers of a 7B model in bfloat16, 0.01 to 0.03 per token is typical.
A wrong mask, picture or token changes log-probabilities by tenths of nats or more.
"""
LEAVE = "--no-canary trains without the check"


@dataclass(frozen=True)
class Way:
    """How the trainer computes: options that do not change the result except for rounding."""

    savings: Savings
    workers: int
    checkpointing: bool = True
    dropout: bool = True


def tolerance(run: Session) -> float:
    """Tolerance in nats per token, see `TOLERANCE`."""
    return TOLERANCE["bfloat16" if run.bfloat16 else "float32"]


def check_trainer(run: Session, examples: Sequence[PreferenceExample]) -> CanaryRecord:
    """Compare the trainer with the plain forward pass on a few examples, and check which weights are trained.

    Args:
        run: the session, with nothing trained yet.
        examples: what will be trained on.

    Returns:
        The results, for the manifest.

    Raises:
        HarnessError: the two differ by more than rounding, or other weights are trained than the settings say.
    """
    import torch

    started = time.perf_counter()
    policy = run.policy
    modules = check_trained_weights(run)
    probes = _probes(run, examples)
    encoded = [run.encoded[example.id] for example in probes]
    # Random numbers of dropout are drawn in this block, and must not change those of training.
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        plain = _plain(run, probes, encoded)
        _same_ids(run, encoded, plain)
        way = Way(policy.savings, run.train_settings.workers)
        worst = _worst(run, encoded, plain, trained_logps(run, encoded, way))
        if not worst.off <= 1:

            def passes(other: Way, afresh: bool = False) -> bool:
                expected = _plain(run, probes, encoded) if afresh else plain
                return _worst(run, encoded, expected, trained_logps(run, encoded, other)).off <= 1

            remedy = mend(run, way, passes)
            raise HarnessError(
                "canary: the trainer's log-probabilities differ from those of the model's own forward pass by "
                f"{worst.mean:.2g} nats per token in branch '{worst.branch}', but rounding explains at most {worst.allowed:.2g}",
                where=f"example {worst.example}",
                remedy=f"{remedy}; {LEAVE}",
            )
    policy.model.eval()
    report = CanaryRecord(
        examples=[example.id for example in probes],
        difference=worst.mean,
        allowed=worst.allowed,
        **modules,
        seconds=round(time.perf_counter() - started, 2),
    )
    logger.info(
        f"canary: the trainer computes what the model does, to {worst.mean:.1g} nats per token "
        f"(allowed {worst.allowed:.1g}; {len(probes)} examples, {report.seconds:.1f} s)"
    )
    return report


def _probes(run: Session, examples: Sequence[PreferenceExample]) -> list[PreferenceExample]:
    """The examples with the longest and the shortest rows, and the first one.

    Texts with surrounding blanks are avoided if there are others, because some templates strip them.
    """

    def length(example: PreferenceExample) -> int:
        one = run.encoded[example.id]
        return max(len(one.prefixes[branch.image]) + len(one.responses[branch.response]) for branch in run.branches)

    def bare(example: PreferenceExample) -> bool:
        turns = [turn.text for turn in example.history]
        return all(text == text.strip() for text in (*turns, example.prompt, *example.responses.values()))

    usable = [example for example in examples if bare(example)] or list(examples)
    chosen = [max(usable, key=length), min(usable, key=length), usable[0]]
    return list({example.id: example for example in chosen}.values())[:PROBES]


_Plain = list[dict[tuple[str, str], PlainRow]]


def _plain(run: Session, probes: Sequence[PreferenceExample], encoded: Sequence[EncodedExample]) -> _Plain:
    """The plain pass over every branch of the probes; branches with the same image and response are computed once."""
    with as_transformers_does(run.policy):
        return [
            {
                (branch.image, branch.response): plain_row(run.policy, example, tokens, branch, run.autocast())
                for branch in run.branches
            }
            for example, tokens in zip(probes, encoded, strict=True)
        ]


def _same_ids(run: Session, encoded: Sequence[EncodedExample], plain: _Plain) -> None:
    """Compare the trainer's ids with the template's.

    The last two may differ: some templates do not write the end token after the answer, and what they write instead may merge with the
    answer's last characters to one token.

    Raises:
        HarnessError: other ids differ.
    """
    for example, rows in zip(encoded, plain, strict=True):
        for (image, response), row in rows.items():
            ours = [*example.prefixes[image], *example.responses[response]]
            if row.agree >= len(ours) - 2 and len(row.logps):
                continue
            names = run.processor.tokenizer.convert_ids_to_tokens
            near = slice(max(row.agree - 2, 0), row.agree + 3)
            raise HarnessError(
                "canary: the trainer's ids differ from those of the processor's own apply_chat_template(tokenize=True): from position "
                f"{row.agree} on the trainer has {names(ours[near])}, and the template writes {names(list(row.ids)[near])}",
                where=f"example {example.id}, response '{response}'",
                remedy="check that the checkpoint has the tokenizer and chat template that it was published with; if it has, this is "
                f"a bug in the trainer; {LEAVE}",
            )


class _Probes:
    """The probes' batches, as a sequence for a loader."""

    def __init__(self, run: Session, encoded: Sequence[EncodedExample]) -> None:
        micro, _ = accumulation(run.train_settings, run.process.num_processes)
        self.preparer, self.branches = run.preparer(), run.branches
        self.parts = [encoded[start : start + micro] for start in range(0, len(encoded), micro)]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"batch": self.preparer.batch(self.parts[index], self.branches)}


def trained_logps(run: Session, encoded: Sequence[EncodedExample], way: Way) -> list[dict[str, Tensor]]:
    """Log-probabilities as in training: for every example those of its branches, [tokens] on the CPU."""
    policy, logps = run.policy, []
    policy.model.train(way.dropout)
    if not way.checkpointing:
        policy.plain.gradient_checkpointing_disable()
    with policy.with_savings(way.savings):
        pieces = _Probes(run, encoded)
        with out_of_memory(run, encoded, len(pieces.parts[0])), loaders_end():
            for inputs in loader(pieces, min(way.workers, 1)):
                batch: Batch = checked(inputs)["batch"].to(policy.device)
                with run.autocast():
                    branches = by_branch(policy.model(batch), batch.layouts)
                logps += [
                    {
                        name: branch.tokens[row][branch.mask[row]].detach().float().cpu()
                        for name, branch in branches.items()
                    }
                    for row in range(len(batch.ids))
                ]
    return logps


@dataclass(frozen=True)
class _Difference:
    """The mean absolute difference over one response's tokens, and the allowed difference, in nats."""

    example: str
    branch: str
    mean: float
    allowed: float

    @property
    def off(self) -> float:
        """Their ratio; infinite if the difference is NaN."""
        return math.inf if math.isnan(self.mean) else self.mean / self.allowed


def _worst(
    run: Session, encoded: Sequence[EncodedExample], plain: _Plain, trained: Sequence[Mapping[str, Tensor]]
) -> _Difference:
    """The response with the largest difference relative to the allowed one, which is larger for means of few tokens."""
    differences = []
    for example, rows, values in zip(encoded, plain, trained, strict=True):
        for branch in run.branches:
            expected = rows[branch.image, branch.response].logps
            mean = float((values[branch.name][: len(expected)] - expected).abs().mean())
            allowed = tolerance(run) * (1 + 2 / math.sqrt(len(expected)))
            differences.append(_Difference(example.id, branch.name, mean, allowed))
    return max(differences, key=lambda one: one.off)


def _others(run: Session, way: Way) -> Iterator[tuple[str, Way]]:
    """Reduced ways: a text that says what is switched off, and the way without it. The model is left in the state of the last one."""
    if way.workers:
        yield "--set train.workers=0", replace(way, workers=0)
    on = [name for name, value in way.savings if value and name != "reference_cache"]
    if not run.policy.feature_bytes and "feature_cache" in on:
        on.remove("feature_cache")
    for name in on:
        yield f"--set train.savings.{name}=false", replace(way, savings=way.savings.model_copy(update={name: False}))
    bare = replace(way, workers=0, savings=way.savings.model_copy(update=dict.fromkeys(on, False)))
    yield " ".join(f"--set train.savings.{name}=false" for name in on), bare
    if run.train_settings.gradient_checkpointing:
        yield "--set train.gradient_checkpointing=false", replace(way, checkpointing=False)
    yield "without dropout, which the model's config.json asks for, it", replace(way, dropout=False)


def mend(run: Session, way: Way, passes: Any) -> str:
    """Find the saving that makes the canary pass when it is switched off, as text for a remedy. The run ends afterwards.

    Args:
        run: the alignment.
        way: the way that fails.
        passes: whether another way passes; with `afresh`, compared with values that are computed again.
    """
    if run.process.num_processes > 1:
        return "with one process, the canary can find the setting that makes it pass"
    for words, other in _others(run, way):
        with contextlib.suppress(RuntimeError, HarnessError):  # a way that raises an error is not a remedy
            if passes(other):
                return f"{words} makes it pass"
    if run.bfloat16 and run.train_settings.tuning != "qlora":
        with contextlib.suppress(RuntimeError, HarnessError):
            run.policy.plain.float()
            run.bfloat16 = run.policy.bfloat16 = False
            # Cached features have the other type.
            bare = replace(way, savings=way.savings.model_copy(update={"feature_cache": False}))
            if passes(bare, afresh=True):
                return "--set train.precision=float32 makes it pass"
    return "none of train.savings, train.workers, train.gradient_checkpointing and train.precision makes it pass"


def check_trained_weights(run: Session) -> dict[str, Any]:
    """Check in the model itself which modules are trained: those of the settings, and which are left out.

    Returns:
        `trained` (number of weights or modules with adapters) and `left_out` (kinds of the language model's linear layers).

    Raises:
        HarnessError: a module outside of the language model has adapters, a part of the vision tower is trained, or linear layers lack
        adapters that should have them.
    """
    from torch import nn

    policy, settings = run.policy, run.train_settings
    family = policy.family
    trained = [name for name, value in policy.model.named_parameters() if value.requires_grad]
    if not trained:
        raise HarnessError("canary: no weight of the model is trained", where=run.job.model)
    if not settings.adapters:
        wrong = [name for name in trained if not family.trained_in_full(name)]
        missing = [
            name
            for name, value in policy.plain.named_parameters()
            if family.trained_in_full(name) and not value.requires_grad
        ]
        if wrong or missing:
            raise HarnessError(
                f"canary: {len(wrong)} weights of the vision tower are trained, {len(missing)} of the other weights are not",
                where=(wrong + missing)[0],
                remedy=LEAVE,
            )
        return {"trained": len(trained), "left_out": []}
    wrong = [name for name in trained if f".{family.language}." not in name or ".lora_" not in name]
    language = policy.plain.model.get_submodule(family.language)
    # A module with adapters has its own product in `base_layer`; the adapter's matrices are linear layers, too.
    linear = [name for name, one in language.named_modules() if isinstance(one, nn.Linear) and ".lora_" not in name]
    adapted = [name for name in linear if name.endswith(".base_layer")]
    left_out = list(dict.fromkeys(name.rpartition(".")[2] for name in linear if not name.endswith(".base_layer")))
    chosen = getattr(settings.lora, "targets", None)
    if wrong or (left_out and chosen is None):
        raise HarnessError(
            f"canary: the modules with adapters are not those of tuning={settings.tuning}: "
            + (f"{len(wrong)} weights outside the language model" if wrong else f"none on {', '.join(left_out)}"),
            where=wrong[0] if wrong else run.job.model,
            remedy=f"--set 'train.lora.targets=[...]' names the modules; {LEAVE}",
        )
    return {"trained": len(adapted), "left_out": left_out}
