"""The report of `harness data check FILE`: facts and problems of a preference data set, before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aligners.base import is_rejected
from aligners.preferences.extras import turn_columns
from aligners.preferences.options import DataOptions
from aligners.preferences.overlap import EvaluationSet, overlaps
from aligners.preferences.read import PreferenceSet, read_preferences
from harness.core.errors import BadInputError
from harness.core.progress import progress
from harness.core.types import PreferenceExample
from harness.models import AnswerEncoder, PromptLengths, control_in, messages_of

Report = dict[str, Any]
_LISTED = 20
_BARS = 16
_PERCENTILES = (5, 50, 95, 99)
_UNLIKE = 1.15
"""Ratio of lengths of chosen and rejected answers from which on a model learns the length."""


@dataclass(frozen=True)
class CheckRequest:
    """What to check.

    Attributes:
        source: see `read_preferences`.
        processor: processor of the model whose tokens are counted, or None.
        max_length: the trainer's limit, tokens of image, prompt and answer together.
        on_error: what `align` would do with a bad record; "fail" makes one fatal.
        cache: as in `read_preferences`.
        format_name: as in `read_preferences`.
        allow_download: as in `read_preferences`.
        limit: check a sample of this many records.
        evaluation: the suites whose images must not be in the data.
        options: as in `read_preferences`.
    """

    source: str
    processor: Any = None
    max_length: int = 4096
    on_error: Literal["fail", "skip"] = "fail"
    cache: Path | None = None
    format_name: str | None = None
    allow_download: bool = False
    limit: int | None = None
    evaluation: Sequence[EvaluationSet] = ()
    options: DataOptions = field(default_factory=DataOptions)


def check_preferences(request: CheckRequest) -> Report:
    """Read a preference data set and report on it.

    Returns:
        JSON-able. `fatal` lists what would stop `harness align`, `warnings` what would not.

    Raises:
        BadInputError: there is no such data, no format fits it, or no record can be used.
    """
    data = read_preferences(
        request.source,
        on_error="skip",
        limit=request.limit,
        cache=request.cache,
        format_name=request.format_name,
        allow_download=request.allow_download,
        options=request.options,
    )
    bad = [{"where": one.where, "id": one.id, "reason": one.reason} for one in data.dropped]
    unwritten = _unwritten(data, request.processor)
    report: Report = {
        "source": request.source,
        "formats": list(data.formats),
        "taken": {name: dict(columns) for name, columns in data.taken.items()},
        "first": _first(data),
        "fingerprint": data.fingerprint,
        "records": len(data.examples) + len(bad),
        "usable": len(data.examples),
        "bad": bad,
        "unread_columns": dict(data.unread),
        "sources": dict(Counter(one.source for one in data.examples if one.source).most_common()),
        "images": _images(data),
        "duplicates": _duplicates(data.examples),
        "words": _balance(
            [(len(one.responses["chosen"].split()), len(one.responses["rejected"].split())) for one in data.examples]
        ),
        "control_tokens": _control_tokens(data, request.processor),
        "with_earlier_turns": sum(bool(one.history) for one in data.examples),
        "unwritten_conversations": unwritten,
        "tokens": _tokens(data, request, {one["id"] for one in unwritten}) if request.processor else None,
        "overlap": _overlap(data, request.evaluation),
    }
    report["fatal"], report["warnings"] = _verdict(report, request)
    return report


def _first(data: PreferenceSet) -> Report:
    """The first example as it was understood."""
    example = data.examples[0]
    turns = {"earlier_turns": turn_columns(example.history)} if example.history else {}
    texts = {"prompt": example.prompt, **example.responses}
    return {"where": data.rows[example.id], "image": example.images["original"].name, **turns, **texts}


def _control_tokens(data: PreferenceSet, processor: Any) -> list[Report]:
    """Records whose texts contain control tokens, which `align` refuses: the model's own, if it is known, and the common ones."""
    reports = []
    for example in data.examples:
        for name, text in example.texts().items():
            if token := control_in(text, processor):
                reports.append({"where": data.rows[example.id], "id": example.id, "text": name, "token": token})
                break
    return reports


def _unwritten(data: PreferenceSet, processor: Any) -> list[Report]:
    """Records with earlier turns that the model's chat template does not write, which `align` refuses."""
    reports = []
    for example in data.examples if processor else ():
        try:
            messages_of(processor, example.prompt, {"type": "image"}, example.history)
        except BadInputError as error:
            reports.append({"where": data.rows[example.id], "id": example.id, "reason": error.problem})
    return reports


def _images(data: PreferenceSet) -> Report:
    sizes = np.array([(facts.width, facts.height) for facts in data.facts.values()])
    edges = sizes.max(1)
    used = Counter(example.images["original"].fingerprint() for example in data.examples)
    return {
        "distinct": len(data.facts),
        "used_more_than_once": sum(count > 1 for count in used.values()),
        "longest_edge": {"min": int(edges.min()), "median": int(np.median(edges)), "max": int(edges.max())},
        "treated": data.treated,
        "with_rejected_image": sum(any(map(is_rejected, example.images)) for example in data.examples),
    }


def _duplicates(examples: Sequence[PreferenceExample]) -> Report:
    # Answers behind different contexts are answers to different questions.
    asked = [(one.images["original"].fingerprint(), one.history, one.prompt, one.context) for one in examples]
    pairs = [
        (key, one.responses["chosen"], one.responses["rejected"]) for key, one in zip(asked, examples, strict=True)
    ]
    known = set(pairs)
    again: list[str] = []
    seen: set[Any] = set()
    for one, pair in zip(examples, pairs, strict=True):
        if pair in seen:
            again.append(one.id)
        seen.add(pair)
    turned = [
        one.id for one, (key, chosen, rejected) in zip(examples, pairs, strict=True) if (key, rejected, chosen) in known
    ]
    counts = Counter(asked)
    return {
        "same_record": len(again),
        "same_record_ids": again[:_LISTED],
        "same_image_and_prompt": sum(count for count in counts.values() if count > 1),
        "contradicting": len(turned),
        "contradicting_ids": turned[:_LISTED],
    }


def _balance(lengths: Sequence[tuple[int, int]]) -> Report:
    """Lengths of chosen and rejected answers."""
    chosen, rejected = np.array(lengths, dtype=float).T
    return {
        "chosen": round(float(chosen.mean()), 1),
        "rejected": round(float(rejected.mean()), 1),
        "ratio": round(float(chosen.mean() / max(rejected.mean(), 1e-9)), 3),
        "chosen_longer": round(float((chosen > rejected).mean()), 3),
        "rejected_longer": round(float((chosen < rejected).mean()), 3),
    }


def _tokens(data: PreferenceSet, request: CheckRequest, left_out: Set[str]) -> Report | None:
    """Lengths in tokens of the model, as `align` encodes them: the image expanded as by its processor, a context counted with the
    prompt, and an answer's end token included if there is one.

    Args:
        data: the examples.
        request: has the processor and the limit.
        left_out: ids of examples that the model's template does not write; if it writes none, there are no lengths.
    """
    examples = [example for example in data.examples if example.id not in left_out]
    if not examples:
        return None
    prompts, answers = PromptLengths(request.processor), AnswerEncoder(request.processor)
    special = frozenset(request.processor.tokenizer.all_special_ids)
    rows, silent = [], []
    with progress("counting tokens", len(examples)) as advance:
        for example in examples:
            sizes = [
                (facts.width, facts.height)
                for facts in (data.facts[image.fingerprint()] for image in example.images.values())
            ]
            context, responses = _encoded(example, answers)
            if any(not set(ids) - special for ids in responses.values()):
                silent.append(example.id)
            prompt = max(prompts.length(example.prompt, size, example.history) for size in sizes) + context
            lengths = [len(responses[name]) + example.ends for name in ("chosen", "rejected")]
            rows.append((max(map(prompts.image_tokens, sizes)), prompt, *lengths))
            advance()
    images, prompt, chosen, rejected = np.array(rows).T
    longest = prompt + np.maximum(chosen, rejected)
    over, cut = prompt + 2 > request.max_length, longest > request.max_length
    return {
        "max_length": request.max_length,
        "lengths": {
            name: _distribution(values)
            for name, values in (
                ("image", images),
                ("image and prompt", prompt),
                ("chosen", chosen),
                ("rejected", rejected),
                ("all with the longer answer", longest),
                ("all with both answers", prompt + chosen + rejected),
            )
        },
        "histogram": _histogram(longest),
        "balance": _balance(list(zip(chosen.tolist(), rejected.tolist(), strict=True))),
        "over_long": int(over.sum()),
        "over_long_ids": [examples[place].id for place in np.flatnonzero(over)],
        "over_long_records": _listed(data, examples, over, prompt),
        "cut_answers": int((cut & ~over).sum()),
        "cut_answer_records": _listed(data, examples, cut & ~over, longest),
        "empty_answer_ids": silent,
    }


def _encoded(example: PreferenceExample, answers: AnswerEncoder) -> tuple[int, dict[str, list[int]]]:
    """Number of tokens of the context, and the ids of every response behind it, without an end token."""
    whole = {name: answers.encode(example.whole(name))[0] for name in example.responses}
    context = answers.context_tokens(example.context, [whole["chosen"], whole["rejected"]])
    return context, {name: ids[context:] for name, ids in whole.items()}


def _distribution(values: np.ndarray) -> dict[str, int]:
    marks = {f"p{mark}": int(np.percentile(values, mark, method="nearest")) for mark in _PERCENTILES}
    return {"min": int(values.min()), **marks, "max": int(values.max())}


def _histogram(values: np.ndarray) -> list[dict[str, int]]:
    counts, edges = np.histogram(values, bins=min(_BARS, max(1, len(np.unique(values)))))
    return [
        {"from": int(np.ceil(low)), "to": int(np.floor(high)), "count": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _listed(
    data: PreferenceSet, examples: Sequence[PreferenceExample], which: np.ndarray, tokens: np.ndarray
) -> list[dict[str, Any]]:
    """The longest ones first."""
    places = sorted(np.flatnonzero(which), key=lambda place: -int(tokens[place]))[:_LISTED]
    return [
        {
            "where": data.rows[examples[place].id],
            "id": examples[place].id,
            "tokens": int(tokens[place]),
        }
        for place in places
    ]


def _overlap(data: PreferenceSet, sets: Sequence[EvaluationSet]) -> list[Report]:
    """For every suite, the number of different shared images, and the number of pairs that have one."""
    training = {
        f"{example.images['original'].name} ({example.id})": example.images["original"] for example in data.examples
    }
    return [
        {
            "suite": overlap.suite,
            "images_of_the_suite": overlap.of,
            "shared": len(overlap.distinct(overlap.all)),
            "pairs": len(overlap.all),
            "by_coco_number": len(overlap.distinct(overlap.by_coco_number)),
            "by_content": len(overlap.distinct(overlap.by_content)),
            "by_look": len(overlap.distinct(overlap.by_look)),
            "examples": overlap.distinct(overlap.all)[:_LISTED],
            "missing": overlap.missing,
        }
        for overlap in (overlaps(training, sets) if sets else ())
    ]


def _verdict(report: Mapping[str, Any], request: CheckRequest) -> tuple[list[str], list[str]]:
    """What would stop `align`, and what would not."""
    refused = _refused(report, request)
    fatal, warnings = (refused, []) if request.on_error == "fail" else ([], refused)
    if request.on_error == "skip" and len(_skipped(report)) == report["usable"]:
        fatal.append("all records are skipped, so none is left to train on")
    tokens, duplicates = report["tokens"] or {}, report["duplicates"]
    if tokens.get("cut_answers"):
        warnings.append(f"answers of {tokens['cut_answers']} records are cut at {request.max_length} tokens")
    if duplicates["same_record"]:
        warnings.append(f"{duplicates['same_record']} records repeat an earlier one")
    if duplicates["contradicting"]:
        warnings.append(f"{duplicates['contradicting']} records prefer an answer that another record rejects")
    ratio = tokens.get("balance", report["words"])["ratio"]
    if not 1 / _UNLIKE <= ratio <= _UNLIKE:
        warnings.append(
            f"chosen answers are {ratio:.2f} times as long as rejected ones: the model will also learn the length"
        )
    for suite in report["overlap"]:
        if suite["shared"]:
            images = "1 image is" if suite["shared"] == 1 else f"{suite['shared']} images are"
            pairs = "1 pair has" if suite["pairs"] == 1 else f"{suite['pairs']} pairs have"
            warnings.append(f"{images} also in {suite['suite']}; {pairs} {'it' if suite['shared'] == 1 else 'them'}")
    return fatal, warnings


def _refused(report: Mapping[str, Any], request: CheckRequest) -> list[str]:
    """A line for every reason for which `align` refuses records, with what to do, or that they are skipped."""
    lines: list[str] = []

    def add(said: str, remedy: str = "skip them with --on-error skip", skipped: str = "; they are skipped") -> None:
        lines.append(f"{said}; {remedy}" if request.on_error == "fail" else f"{said}{skipped}")

    if bad := len(report["bad"]):
        add(f"{bad} of {report['records']} records cannot be used", skipped=" and are skipped")
    if control := report["control_tokens"]:
        first = control[0]
        add(
            f"{len(control)} records contain control tokens; first {first['where']}: {first['text']} contains '{first['token']}'",
            "remove them from the texts, or skip the records with --on-error skip",
        )
    if unwritten := report["unwritten_conversations"]:
        first = unwritten[0]
        add(
            f"the conversations of {len(unwritten)} records cannot be written; first {first['where']}: {first['reason']}"
        )
    tokens = report["tokens"] or {}
    if over := tokens.get("over_long"):
        add(
            f"image and prompt of {over} records leave no room for an answer in {request.max_length} tokens",
            "raise train.max_length, or skip the records with --on-error skip",
        )
    if silent := tokens.get("empty_answer_ids"):
        add(f"{len(silent)} records have an answer that is empty once encoded")
    return lines


def _skipped(report: Mapping[str, Any]) -> set[str]:
    """Ids of the readable records that `align --on-error skip` skips, because they cannot be encoded."""
    tokens = report["tokens"] or {"over_long_ids": (), "empty_answer_ids": ()}
    named = [one["id"] for one in (*report["control_tokens"], *report["unwritten_conversations"])]
    return {*named, *tokens["over_long_ids"], *tokens["empty_answer_ids"]}
