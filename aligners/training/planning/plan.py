"""`harness align --dry-run`: plans a training; nothing is trained, and nothing is written.

Counted: examples, tokens (by the real encoder), steps, disk, peak memory (`footprint`). Measured and extrapolated: the time of
micro-batches of medium length on this machine.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aligners.base import Aligner, Answer, Measure, PrepareContext, Stage, StageContext, rejected_of
from aligners.contract import check_method, prepared, stages_of
from aligners.rejected_images.size import predicted_bytes
from aligners.training.adapters import check_model
from aligners.training.difficulty import own_answers
from aligners.training.encoding import EncodedExample, encode_all
from aligners.training.families import possible_savings
from aligners.training.job import AlignJob
from aligners.training.layout import by_branch, group_by_length, row_lengths
from aligners.training.memory.batch import accumulation, steps_of
from aligners.training.memory.footprint import Architecture
from aligners.training.memory.peak import Peak
from aligners.training.memory.step import StepSize, decide, room_for
from aligners.training.microbatches import epoch_order
from aligners.training.planning.room import room_of_stages
from aligners.training.policy import FEATURE_BUDGET, token_logp
from aligners.training.processes import this_process
from aligners.training.session import Session, preferences_of
from harness.core.config import TrainSettings
from harness.core.errors import BadInputError
from harness.core.types import ImageRef, PreferenceExample
from harness.models import devices, load_processor


def plan(aligner: Aligner, job: AlignJob) -> dict[str, Any]:
    """Everything that `align` would determine before and during training. JSON-able.

    Raises:
        BadInputError: the data or a setting is invalid, as in `align`.
    """
    check_method(aligner)
    process = this_process()
    if process.num_processes > 1:
        raise BadInputError(
            f"--dry-run plans a training on one device, and {process.num_processes} processes were launched",
            remedy="give the same align command without `harness launch` or `accelerate launch`",
        )
    config = check_model(job.model, job.train)
    savings = possible_savings(config, job.train.savings)
    data = preferences_of(job, aligner)
    estimated: list[str] = []
    examples, made = _with_images(aligner, job, data.examples, estimated)
    encoded, refused = encode_all(load_processor(job.model), examples, aligner, job)
    examples = [example for example in examples if example.id in encoded]
    if not examples:
        raise BadInputError("no preference example is left to train on", where=job.data)
    asked = _Order()
    stages = stages_of(aligner, examples, asked)
    usual = dataclasses.replace(job, train=job.train.model_copy(update={"savings": savings}))
    memory, step = _memory(aligner, usual, list(encoded.values()), config, process)
    tokens = _Tokens(aligner, step.train, encoded, stages)
    job = dataclasses.replace(job, train=step.train.model_copy(update={"savings": job.train.savings}))
    model = memory.pop("architecture")
    report: dict[str, Any] = {
        "examples": {"count": len(examples), "dropped": len(data.dropped) + len(refused)},
        "tokens": tokens.summary(),
        "stages": [
            {"name": stage.name, "examples": len(stage.examples), "steps": steps_of(len(stage.examples), job.train)}
            for stage in stages
        ],
        "step": {"batch_size": job.train.batch_size, **step.summary().written()},
        "memory": memory,
        "disk": _disk(aligner, job, model, tokens, stages, made),
        "time": None,
        "estimated": estimated,
    }
    if memory["fits"]:
        report["time"] = _time(aligner, job, examples, tokens, process, asked)
        if made:
            estimated.append(
                "the time does not include making the rejected images: `harness data corrupt --limit N` measures it on a sample"
            )
    else:
        estimated.append("the time was not measured, because a step would not fit into memory")
    return report


class _Order(StageContext):
    """Plans stages without a model: if stages are cut by rank, their sizes depend only on the number of examples."""

    def __init__(self) -> None:
        self.examples = 0
        """Number of examples of which the difficulty is measured."""
        self.answers: Counter[int] = Counter()
        """Maximum length in tokens of the model's own answers -> number of examples for which it generates one."""

    def difficulty(
        self,
        examples: Sequence[PreferenceExample],
        measure: Measure = "token",
        answer: Answer = "chosen",
        max_new_tokens: int = 256,
    ) -> list[float]:
        """The difficulty is unknown; only note what measuring it takes."""
        self.examples += len(examples)
        if answer == "own":
            self.answers[max_new_tokens] += len(examples)
        return [0.0] * len(examples)


def _with_images(
    aligner: Aligner, job: AlignJob, examples: Sequence[PreferenceExample], estimated: list[str]
) -> tuple[Sequence[PreferenceExample], list[ImageRef]]:
    """The prepared examples, and the originals of rejected images that would be made, an original for each of them; the originals are used
    in their place."""
    names = rejected_of(aligner.branches)
    missing = [[] if any(name in example.images for name in names) else names for example in examples]
    made = [example.images["original"] for example, absent in zip(examples, missing, strict=True) for _ in absent]
    examples = [
        dataclasses.replace(
            example, images={**example.images, **{name: _stand_in(example.images["original"], name) for name in absent}}
        )
        if absent
        else example
        for example, absent in zip(examples, missing, strict=True)
    ]
    if made:
        estimated.append(
            f"{len(made):,} rejected images were not made: they are assumed to have their originals' size, and none to be dropped"
        )
    return prepared(aligner, examples, PrepareContext(job.cache, job.train.seed)), made


def _stand_in(original: ImageRef, name: str) -> ImageRef:
    """An image of the same size with another fingerprint."""
    return dataclasses.replace(original, digest=f"in place of {name}, which is made of {original.fingerprint()}")


@dataclass
class _Tokens:
    """Numbers of tokens that go through the model."""

    aligner: Aligner
    train: TrainSettings
    encoded: dict[str, EncodedExample]
    stages: list[Stage]
    rows: dict[str, list[int]] = field(init=False)
    """Example id -> tokens in each of its rows."""
    passes: list[tuple[list[str], int]] = field(init=False)
    """The first epoch's micro-batches: ids, and the number of computed positions, padding included."""

    def __post_init__(self) -> None:
        shared = self.train.savings.shared_prefix
        self.rows = {name: row_lengths(one, self.aligner.branches, shared) for name, one in self.encoded.items()}
        micro, _ = accumulation(self.train)
        self.passes = []
        for stage in self.stages:
            order = epoch_order(self.train.seed, 0, len(stage.examples))
            for start in range(0, len(order), micro):
                names = [stage.examples[place].id for place in order[start : start + micro]]
                self.passes.append((names, padded([length for name in names for length in self.rows[name]])))

    def responses(self, name: str) -> int:
        """Response tokens of an example, over all branches."""
        one = self.encoded[name]
        return sum(len(one.responses[branch.response]) for branch in self.aligner.branches)

    @property
    def images(self) -> dict[str, ImageRef]:
        """Distinct images, by content."""
        return {image.fingerprint(): image for one in self.encoded.values() for image in one.images.values()}

    def summary(self) -> dict[str, Any]:
        """Summary of the tokens in the trainer's layout."""
        totals = [sum(rows) for rows in self.rows.values()]
        return {
            "longest_row": max(max(rows) for rows in self.rows.values()),
            "mean_example": round(sum(totals) / len(totals), 1),
            "epoch": sum(totals),
            "epoch_with_padding": sum(positions for _, positions in self.passes),
            "responses_cut": sum(one.truncated for one in self.encoded.values()),
        }


def padded(rows: Sequence[int]) -> int:
    """Positions of a micro-batch with rows of these lengths, padding included."""
    return sum(len(block) * max(rows[number] for number in block) for block in group_by_length(rows))


def _memory(
    aligner: Aligner, job: AlignJob, encoded: Sequence[EncodedExample], config: Any, process: Any
) -> tuple[dict[str, Any], StepSize]:
    """The predicted peak of the longest micro-batch, in bytes, and the step.

    If no allowed step fits, it is the smallest one, and the plan says that it does not fit.
    """
    asked = job.train
    peak = Peak.of_examples(aligner, job.model, asked, encoded, devices.has_accelerator())
    room = room_for(process, config, asked, encoded)
    try:
        step = decide(asked, peak, room)
    except BadInputError:
        last = asked.model_copy(
            update={"micro_batch_size": 1, "gradient_checkpointing": asked.gradient_checkpointing is not False}
        )
        step = dataclasses.replace(decide(last, peak, room), chosen=True)
    parts = peak.of(step.train, step.train.micro)
    total = room.program + room.features + parts.total
    sizes = range(asked.batch_size, 0, -1)
    return {
        "predicted_peak": total,
        **dataclasses.asdict(parts),
        "program": room.program,
        "features": room.features,
        "available": room.available,
        "where": room.where,
        "fits": total <= room.available and not (step.chosen and step.room is None),
        "largest_micro_batch": next((n for n in sizes if peak.of(step.train, n).total <= room.for_steps), 0),
        "architecture": peak.model,
    }, step


def _disk(
    aligner: Aligner,
    job: AlignJob,
    model: Architecture,
    tokens: _Tokens,
    stages: Sequence[Stage],
    made: Sequence[ImageRef],
) -> dict[str, int]:
    """Bytes on disk: at the end, and at most during training."""
    room = room_of_stages(model, job.train, stages)
    keys = 40  # a value's content key and length
    values = sum(4 * tokens.responses(name) + keys * len(aligner.branches) for name in tokens.encoded)
    existing = job.output.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return {
        "checkpoint": room.checkpoint,
        "while_training": room.most,
        "reference_cache": values if job.train.savings.reference_cache and aligner.uses_reference else 0,
        "rejected_images": predicted_bytes(made),
        "free": shutil.disk_usage(existing).free,
    }


def _time(
    aligner: Aligner,
    job: AlignJob,
    examples: Sequence[PreferenceExample],
    tokens: _Tokens,
    process: Any,
    asked: _Order,
) -> dict[str, Any]:
    """Seconds, extrapolated from forward and backward passes of two micro-batches of medium length, after a warm-up pass, and from one
    batch of generated answers if the stages depend on the model's own."""
    ordered = sorted(tokens.passes, key=lambda one: one[1])
    full = [one for one in ordered if len(one[0]) == max(len(names) for names, _ in ordered)]
    middle = len(full) // 2
    chosen = [full[min(max(place, 0), len(full) - 1)] for place in (middle - 1, middle, middle + 1)]
    wanted = {name for names, _ in chosen for name in names}
    run = Session(aligner, job, [one for one in examples if one.id in wanted], process)
    kept = run.policy.feature_bytes * len(tokens.images)
    if not 0 < kept <= FEATURE_BUDGET:
        run.policy.forget_features()
        kept = 0
    run.policy.model.train()
    seconds = {"reference": 0.0, "training": 0.0}
    for number, (names, _) in enumerate(chosen):
        took = _pass(run, [run.encoded[name] for name in names])
        if number:  # the first one warms up
            seconds = {what: seconds[what] + took[what] for what in seconds}
    measured = sum(positions for _, positions in chosen[1:])
    images = 0.0
    if kept:
        start = time.perf_counter()
        few = {image.fingerprint(): image for one in run.encoded.values() for image in one.images.values()}
        run.policy.keep_features(few.values())
        images = (time.perf_counter() - start) / len(few) * len(tokens.images)
    summary = tokens.summary()
    steps = sum(steps_of(len(one.examples), job.train) for one in tokens.stages)
    epochs = steps / sum(math.ceil(len(one.examples) / job.train.batch_size) for one in tokens.stages)
    generating, generated = _generating(run, examples, asked)
    parts = {
        "training": seconds["training"] / measured * summary["epoch_with_padding"] * epochs,
        "reference": seconds["reference"] / measured * summary["epoch"] if aligner.uses_reference else 0.0,
        "images_once": images,
        "difficulty": seconds["reference"] / measured * summary["epoch"] * asked.examples / len(examples) + generating,
    }
    return {
        "seconds": round(sum(parts.values()), 1),
        **{name: round(value, 1) for name, value in parts.items()},
        "measured": f"forward and backward of two micro-batches of {len(chosen[-1][0])} examples of middle length: "
        f"{seconds['training'] / 2:.3g} s each, {seconds['reference'] / 2:.3g} s without gradient; no optimizer step{generated}",
        "features_kept": kept,
    }


def _generating(run: Session, examples: Sequence[PreferenceExample], asked: _Order) -> tuple[float, str]:
    """Seconds for generating the model's own answers, at the rate of one batch of the size that the training generates at a time, and how
    that was measured."""
    train = run.train_settings
    size = train.micro if train.gradient_checkpointing else 2 * train.micro
    batch = [example for example in examples if example.id in run.encoded][:size]
    encoded = [run.encoded[example.id] for example in batch]
    run.policy.model.eval()
    total, measured = 0.0, ""
    for longest, count in asked.answers.items():
        own_answers(run, encoded, batch, 1)  # warms up
        start = time.perf_counter()
        answers = own_answers(run, encoded, batch, longest)  # as lists, so that the device has computed them
        seconds = time.perf_counter() - start
        total += seconds / len(batch) * count
        measured += f"; {len(batch)} own answers of at most {longest} tokens: {seconds:.3g} s for {sum(map(len, answers))} tokens"
    return total, measured


def _pass(run: Any, examples: Sequence[EncodedExample]) -> dict[str, float]:
    """Seconds of a micro-batch: a pass without gradient, such as the reference's, and the policy's pass with loss and backward pass."""
    import torch

    def now() -> float:
        if run.policy.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    batch = run.batch(examples).to(run.policy.device)
    made = now()
    with torch.no_grad(), run.autocast(), run.policy.without_adapter():
        reference = by_branch(run.policy.response_values(batch, token_logp), batch.layouts)
    between = now()
    with run.autocast():
        policy = by_branch(run.policy.model(batch), batch.layouts)
    loss = run.aligner.loss(policy, reference if run.aligner.uses_reference else {})
    loss.per_example.mean().backward()
    run.policy.model.zero_grad()
    end = now()
    return {"reference": between - start, "training": made - start + end - between}
