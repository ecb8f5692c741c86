"""One stage of training: `transformers.Trainer` with a preference loss, its log, its bar, and the guard against NaN."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligners.base import Logps, Loss
from aligners.branches import EncodedExample
from aligners.reference import ReferenceStore
from harness.config import TrainSettings
from harness.errors import HarnessError
from harness.progress import Advance, progress

if TYPE_CHECKING:
    from aligners.trainer import _Run


def accumulation(settings: TrainSettings) -> tuple[int, int]:
    """(examples a forward pass, passes a step): the largest micro-batch that divides the batch and is not above the setting."""
    micro = next(
        size
        for size in range(min(settings.micro_batch_size, settings.batch_size), 0, -1)
        if settings.batch_size % size == 0
    )
    return micro, settings.batch_size // micro


def run_stage(
    run: _Run,
    name: str,
    examples: Sequence[EncodedExample],
    reference: ReferenceStore,
    folder: Path,
    log: Path,
) -> dict[str, Any]:
    """Train on one stage's examples; goes on from the stage's newest intermediate checkpoint if there is one.

    Returns:
        A JSON-able summary: steps, examples, seconds, first and last logged values.

    Raises:
        HarnessError: the loss was not finite; the examples are named and the last intermediate checkpoint is kept.
    """
    settings = run.train_settings
    micro, passes = accumulation(settings)
    steps = max(1, math.ceil(math.ceil(len(examples) / settings.batch_size) * settings.epochs))
    started = time.perf_counter()
    with progress(f"{run.aligner.name}: {name}", steps) as advance:
        recorder = _Recorder(log, name, settings.batch_size, advance)
        trainer = _build(run, examples, reference, folder, micro, passes, steps, recorder)
        checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    return {
        "stage": name,
        "examples": len(examples),
        "steps": steps,
        "seconds": round(time.perf_counter() - started, 1),
        "reference": "from disk" if reference.from_disk else "computed",
        "first": recorder.first,
        "last": recorder.last,
    }


class _Recorder:
    """Collects the metrics of a step's passes; writes one row a step to the log and shows loss and margin behind the bar."""

    def __init__(self, log: Path, stage: str, batch: int, advance: Advance) -> None:
        self.log, self.stage, self.batch, self.advance = log, stage, batch, advance
        self.first: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self._sums: dict[str, float] = {}
        self._count = 0
        self._clock = time.perf_counter()

    def add(self, metrics: dict[str, Any], count: int) -> None:
        """Sums of a pass's metrics over its examples."""
        self._count += count
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.sum())

    def step(self, number: int, rate: float) -> None:
        """A step is done: write its row."""
        now = time.perf_counter()
        means = {name: round(value / self._count, 6) for name, value in self._sums.items()}
        row = {
            "stage": self.stage,
            "step": number,
            **means,
            "learning_rate": rate,
            "examples_per_second": round(self._count / (now - self._clock), 1),
        }
        self.first = self.first or row
        self.last = row
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        self.advance(1, note=f"loss {means['loss']:.3f}, margin {means.get('margin', 0):.2f}")
        self._sums, self._count, self._clock = {}, 0, now


def reward_metrics(policy: Logps, reference: Logps, beta: float) -> dict[str, Any]:
    """Rewards of all branches, and margin and accuracy of chosen against every other branch; each [batch], detached."""
    rewards = {name: (beta * (one.sums - reference[name].sums)).detach() for name, one in policy.items()}
    metrics = {f"reward_{name}": value for name, value in rewards.items()}
    for name, value in rewards.items():
        if name != "chosen":
            suffix = "" if name == "rejected" else f"_{name}"
            metrics[f"margin{suffix}"] = rewards["chosen"] - value
            metrics[f"accuracy{suffix}"] = (rewards["chosen"] > value).float()
    return metrics


def _build(
    run: _Run,
    examples: Sequence[EncodedExample],
    reference: ReferenceStore,
    folder: Path,
    micro: int,
    passes: int,
    steps: int,
    recorder: _Recorder,
) -> Any:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    settings, aligner, policy = run.train_settings, run.aligner, run.policy

    class PreferenceTrainer(Trainer):
        """Trainer whose inputs are lists of examples and whose loss is the method's."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """Sum over the pass's examples divided by the micro-batch: a short last pass weighs its examples like the others."""
            batch = run.batch(inputs["examples"])
            logps = policy.logps(batch)
            baseline = reference.logps(batch, run.branches)
            loss: Loss = aligner.loss(logps, baseline)
            if not torch.isfinite(loss.per_example).all():
                bad = [
                    name for name, value in zip(batch.ids, loss.per_example, strict=True) if not torch.isfinite(value)
                ]
                raise HarnessError(
                    f"the loss is not finite at step {self.state.global_step}",
                    where=f"examples {', '.join(bad[:5])}",
                    remedy="lower train.learning_rate, or look at these examples",
                )
            metrics = {
                "loss": loss.per_example.detach(),
                **loss.metrics,
                **reward_metrics(logps, baseline, aligner.settings.beta),
            }
            recorder.add(metrics, len(batch.ids))
            return loss.per_example.sum() / micro

    class Report(TrainerCallback):
        """Tells the recorder that a step is done."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Called after every optimizer step."""
            optimizer = kwargs["optimizer"]
            recorder.step(state.global_step, optimizer.param_groups[0]["lr"])

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=passes,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=settings.seed,
        bf16=run.bfloat16,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        use_cpu=policy.device.type == "cpu",
    )
    trainer = PreferenceTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=list(examples),
        data_collator=lambda rows: {"examples": rows},
        callbacks=[Report()],
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer
