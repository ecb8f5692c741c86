"""Comparing the same tokens as computed by the training code and by the server: where they differ, and what to check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.checkpoints.probes import Probe
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


def tolerance_of(serving: Mapping[str, Any]) -> float:
    """The tolerance for a backend's reported dtype and device. On GPUs, float32 may be multiplied in TF32, which has 11 bits like
    float16."""
    on_gpu = not str(serving.get("device", "cpu")).startswith("cpu")
    return TOLERANCE["float16" if on_gpu and serving["dtype"] == "float32" else serving["dtype"]]


def compare(
    probes: Sequence[Probe], expected: Sequence[Expected], served: Sequence[TokenDetails], tolerance: float
) -> dict[str, Any]:
    """Both sides of a checkpoint, probe by probe.

    A greedy token that is not the trained side's most probable one is accepted as a near tie where the two are within the tolerance.

    Returns:
        `tolerance`, `probes` (one row each), `largest` difference of log-probability, `near_ties`, `adapter_changes` (the largest
        change of a log-probability by the adapter), `findings` and `notes` (texts).
    """
    rows = [_row(probe, one, other, tolerance) for probe, one, other in zip(probes, expected, served, strict=True)]
    pairs = [(one, other) for one, other, row in zip(expected, served, rows, strict=True) if row["same_ids"]]
    findings = [finding for row in rows for finding in row.pop("findings")]
    notes: list[str] = []
    changes = None
    if pairs and pairs[0][0].without is not None:
        changes = max(_largest(one.logprobs, one.without or ()) for one, _ in pairs)
        away = max(_largest(other.logprobs, one.without or ()) for one, other in pairs)
        if changes == 0:
            findings.append("the adapter changes nothing: it was not trained; align again")
        elif changes <= tolerance:
            notes.append(
                "the adapter's effect is too small to see whether it is applied: use float32 weights, or train longer"
            )
        elif away <= tolerance:
            findings.append("the served probabilities are those of the base: the adapter is not applied")
    return {
        "tolerance": tolerance,
        "largest": max((row["largest"] for row in rows if row["largest"] is not None), default=None),
        "near_ties": sum(row["near_ties"] for row in rows),
        "adapter_changes": changes,
        "probes": rows,
        "findings": findings,
        "notes": notes,
    }


def _row(probe: Probe, expected: Expected, served: TokenDetails, tolerance: float) -> dict[str, Any]:
    about = {
        "probe": probe.id,
        "size": list(probe.size),
        "prompt": probe.prompt,
        "prompt_tokens": len(expected.prompt_ids),
        "tokens": len(served.token_ids),
    }
    name = f"probe {probe.id} ({probe.size[0]}x{probe.size[1]})"
    if expected.prompt_ids != served.prompt_ids:
        # Answers to different prompts may differ, so only the prompt is reported.
        finding = f"{name}: {_ids_differ(expected, served)}"
        return about | {"same_ids": False, "same_tokens": None, "near_ties": 0, "largest": None, "findings": [finding]}
    gaps = [
        best - chosen
        for token, most, best, chosen in zip(
            served.token_ids, expected.best, expected.best_logprobs, expected.logprobs, strict=True
        )
        if token != most
    ]
    largest = _largest(expected.logprobs, served.logprobs)
    wrong = [gap for gap in gaps if gap > tolerance]
    findings = []
    if wrong:
        findings.append(
            f"{name}: {len(wrong)} of {len(served.token_ids)} greedy tokens differ from training, by {max(wrong):.3g} nats; {_LOOK}"
        )
    elif not largest <= tolerance:  # so that "not a number" is a finding
        findings.append(f"{name}: log-probabilities differ by {largest:.3g} nats, tolerance {tolerance:g}; {_LOOK}")
    near = len(gaps) - len(wrong)
    return about | {
        "same_ids": True,
        "same_tokens": len(served.token_ids) - len(gaps),
        "near_ties": near,
        "largest": largest,
        "findings": findings,
    }


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
