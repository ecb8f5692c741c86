"""Comparing the same tokens as computed by the training code and by the server: where they differ, and what to check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.checkpoints.probes import Probe
from harness.records.run_files import ProbeRecord
from harness.serving.base import TokenDetails

TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}
"""Nats by which the log-probability of a token may differ, by the type that both sides compute in.

A type of p bits of significand rounds every logit, of a size of 10 to 30 in a trained model, by up to 2^-p of it: 1e-6 in float32
(p = 24), 0.01 in float16 (11), 0.1 in bfloat16 (8). Kernels that sum in another order add a few such roundings per layer; a real fault
changes log-probabilities by whole nats. Between transformers and vLLM on a CPU, the
pocket world's aligned model (16 probes) differs by 4e-6 in float32 and by 0.05 in bfloat16.
"""
_LOOK = "check the served weights, and the image processor's scale, mean and size"


@dataclass(frozen=True)
class Expected:
    """What the training side computes for a probe and the served tokens.

    Attributes:
        prompt_ids: of the prompt, image tokens expanded.
        image_token: the token id of image tokens.
        logprobs: of the served tokens.
        best: the most probable token at every position, and `best_logprobs` its log-probability.
        without: log-probabilities of the served tokens without the adapter; None where there is none.
    """

    prompt_ids: tuple[int, ...]
    image_token: int | None
    logprobs: tuple[float, ...] = ()
    best: tuple[int, ...] = ()
    best_logprobs: tuple[float, ...] = ()
    without: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ServedComparison:
    """Both sides of a checkpoint.

    Attributes:
        tolerance: nats by which log-probabilities may differ.
        largest: the largest difference of log-probabilities in nats; None if no prompt is the same on both sides.
        near_ties: number of tokens that differ within the tolerance.
        adapter_changes: the largest change of a log-probability by the adapter; None without an adapter.
        probes: a record of each probe.
        findings: what differs by more than rounding explains, and what to check.
        notes: what else the reader should know.
    """

    tolerance: float
    largest: float | None
    near_ties: int
    adapter_changes: float | None
    probes: list[ProbeRecord]
    findings: list[str]
    notes: list[str]


def tolerance_of(serving: Mapping[str, Any]) -> float:
    """The tolerance for a backend's reported dtype and device. On GPUs, float32 may be multiplied in TF32, which has 11 bits like
    float16."""
    on_gpu = not str(serving.get("device", "cpu")).startswith("cpu")
    return TOLERANCE["float16" if on_gpu and serving["dtype"] == "float32" else serving["dtype"]]


def compare(
    probes: Sequence[Probe], expected: Sequence[Expected], served: Sequence[TokenDetails], tolerance: float
) -> ServedComparison:
    """Both sides of a checkpoint, probe by probe.

    A greedy token that is not the trained side's most probable one is accepted as a near tie where the two are within the tolerance.

    """
    compared = [_compared(*sides, tolerance) for sides in zip(probes, expected, served, strict=True)]
    rows, findings = [row for row, _ in compared], [finding for _, finding in compared if finding]
    pairs = [(trained, answered) for trained, answered, row in zip(expected, served, rows, strict=True) if row.same_ids]
    notes: list[str] = []
    changes = None
    if pairs and pairs[0][0].without is not None:
        changes = max(_largest(trained.logprobs, trained.without or ()) for trained, _ in pairs)
        away = max(_largest(answered.logprobs, trained.without or ()) for trained, answered in pairs)
        if changes == 0:
            findings.append("the adapter changes nothing: it was not trained; align again")
        elif changes <= tolerance:
            notes.append(
                "the adapter's effect is too small to see whether it is applied: use float32 weights, or train longer"
            )
        elif away <= tolerance:
            findings.append("the served probabilities are those of the base: the adapter is not applied")
    return ServedComparison(
        tolerance=tolerance,
        largest=max((row.largest for row in rows if row.largest is not None), default=None),
        near_ties=sum(row.near_ties for row in rows),
        adapter_changes=changes,
        probes=rows,
        findings=findings,
        notes=notes,
    )


def _compared(
    probe: Probe, expected: Expected, served: TokenDetails, tolerance: float
) -> tuple[ProbeRecord, str | None]:
    """A probe's record, and what differs by more than rounding explains."""
    record = ProbeRecord(
        probe=probe.id,
        size=list(probe.size),
        prompt=probe.prompt,
        prompt_tokens=len(expected.prompt_ids),
        tokens=len(served.token_ids),
        same_ids=expected.prompt_ids == served.prompt_ids,
        same_tokens=None,
        near_ties=0,
        largest=None,
    )
    name = f"probe {probe.id} ({probe.size[0]}x{probe.size[1]})"
    if not record.same_ids:
        # Answers to different prompts may differ, so only the prompt is reported.
        return record, f"{name}: {_ids_differ(expected, served)}"
    gaps = [
        best - chosen
        for token, most, best, chosen in zip(
            served.token_ids, expected.best, expected.best_logprobs, expected.logprobs, strict=True
        )
        if token != most
    ]
    largest = _largest(expected.logprobs, served.logprobs)
    wrong = [gap for gap in gaps if gap > tolerance]
    finding = None
    if wrong:
        finding = f"{name}: {len(wrong)} of {len(served.token_ids)} greedy tokens differ from training, by {max(wrong):.3g} nats; {_LOOK}"
    elif not largest <= tolerance:  # so that "not a number" is a finding
        finding = f"{name}: log-probabilities differ by {largest:.3g} nats, tolerance {tolerance:g}; {_LOOK}"
    measured = {
        "same_tokens": len(served.token_ids) - len(gaps),
        "near_ties": len(gaps) - len(wrong),
        "largest": largest,
    }
    return record.model_copy(update=measured), finding


def _largest(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest absolute difference; infinite where it is not a number."""
    differences = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return max((value if value == value else float("inf") for value in differences), default=0.0)


def _ids_differ(expected: Expected, served: TokenDetails) -> str:
    """Where two prompts differ, and what to check."""
    ours, theirs = expected.prompt_ids, served.prompt_ids
    images = [ids.count(expected.image_token) for ids in (ours, theirs)] if expected.image_token is not None else [0, 0]
    if images[0] != images[1]:
        return (
            f"the prompt has {images[0]} image tokens in training and {images[1]} in serving; "
            "check the image processor's size, crop and patches"
        )
    place = next(
        (place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    shown = [f"{ids[place]}" if place < len(ids) else "the end" for ids in (ours, theirs)]
    return (
        f"the prompts differ from token {place} on ({shown[0]} in training, {shown[1]} in serving; {len(ours)} and "
        f"{len(theirs)} tokens in all); check the chat template and the tokenizer"
    )
