"""The trainer of one stage: `transformers.Trainer` with a method's preference loss. Imported only for training."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState, PrinterCallback

from aligners.base import Aligner, Logps, Loss
from aligners.contract import after_step, loss_of
from aligners.training.batches import checked, loader
from aligners.training.checks.first_batch import check_first_batch
from aligners.training.held_out import HeldOut
from aligners.training.layout import by_branch
from aligners.training.log import Recorder, reward_metrics
from aligners.training.microbatches import MicroBatches
from aligners.training.processes import CONFIGURATION, any_process, say_what_is_gathered_together
from aligners.training.reference import Reference
from aligners.training.session import Session
from aligners.training.strict import StrictTrainer
from harness.core.errors import BadInputError, HarnessError
from harness.core.plugins import is_plugin, wrong
from harness.records.training_files import FirstBatchRecord

TRAINER_STATE = "trainer_state.json"


@dataclass
class RunningStage:
    """The inputs of one stage's trainer.

    Attributes:
        run: the alignment.
        batches: the stage's micro-batches, in this process's order.
        reference: the reference model's log-probabilities of the stage's examples; None if the method uses no reference.
        folder: where intermediate checkpoints are written.
        recorder: writes the training log.
        asked_to_stop: set by Ctrl-C, in this process or another; the step is finished and saved.
        held_out: measures margins on held-out pairs; None if that is not asked for.
        check: the first batch must be checked before the first update (see `checks.first_batch`).
        canary: results of that check.
        rewards: of the held-out pairs after the stage's last step.
    """

    run: Session
    batches: MicroBatches
    reference: Reference | None
    folder: Path
    recorder: Recorder
    asked_to_stop: threading.Event
    held_out: HeldOut | None = None
    check: bool = False
    canary: FirstBatchRecord | None = field(default=None, init=False)
    rewards: np.ndarray | None = field(default=None, init=False)

    def not_finite(self, what: str, step: int, ids: Sequence[str]) -> HarnessError:
        """The error for a loss or a gradient that is not a number. Nothing is saved after it."""
        kept = newest_checkpoint(self.folder) or max(self.folder.parent.glob("*/checkpoint"), default=None)
        return HarnessError(
            f"the {what} is not finite at step {step} of stage {self.folder.name}",
            where=f"examples {', '.join(ids)}",
            remedy="lower train.learning_rate, or check these examples; "
            + (
                f"the last good checkpoint is kept: {kept}"
                if kept
                else "there was no checkpoint yet (train.save_steps)"
            ),
        )


class PreferenceTrainer(StrictTrainer):
    """Trainer whose inputs are laid-out batches and whose loss is the method's."""

    def __init__(self, stage: RunningStage) -> None:
        self.stage, self.session = stage, stage.run
        super().__init__(
            model=stage.run.policy.model,
            args=_arguments(stage),
            train_dataset=stage.batches,
            callbacks=[_Report(stage, self), *([MethodState(stage.run.aligner)] if stage.run.aligner.state else [])],
        )
        self.remove_callback(PrinterCallback)
        # transformers has seeded all processes alike, and they would draw the same dropout masks for their different examples.
        torch.manual_seed(_dropout_seed(stage.run.train_settings.seed, stage.run.process.process_index))

    def get_train_dataloader(self) -> Any:
        """The micro-batches as they are: they already implement process, order and epochs."""
        return loader(self.stage.batches, self.stage.run.train_settings.workers)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum over the pass's examples divided by the micro-batch: a short last pass gives its examples the same weight."""
        stage, run = self.stage, self.stage.run
        batch = checked(inputs)["batch"].to(run.policy.device)
        logps = by_branch(model(batch), batch.layouts)
        baseline = {} if stage.reference is None else stage.reference.logps(batch, run.branches)
        loss = loss_of(run.aligner, logps, baseline, batch.ids)
        self._check_finite(loss, batch.ids, logps, baseline)
        if stage.check:
            stage.check = False
            stage.canary = check_first_batch(run, batch, logps, baseline, loss)
        loss = replace(loss, per_example=loss.per_example * loss.per_example.new_tensor(batch.weights))
        metrics = {
            "loss": loss.per_example.detach(),
            **loss.metrics,
            **reward_metrics(logps, baseline, run.aligner.settings.beta),
        }
        weights = torch.tensor(inputs["weights"], device=run.policy.device)
        stage.recorder.add(metrics, weights, batch.tokens, batch.ids)
        return (loss.per_example * weights).sum() / stage.batches.micro

    def _check_finite(self, loss: Loss, ids: Sequence[str], logps: Logps, baseline: Logps) -> None:
        """Stop at a non-finite loss. Before the first update, it is a fault of a plugin's formula."""
        finite = torch.isfinite(loss.per_example)
        if finite.all():
            return
        bad = [name for name, is_finite in zip(ids, finite, strict=True) if not is_finite]
        aligner = self.stage.run.aligner
        if self.state.global_step == 0 and is_plugin(aligner) and _all_finite(logps, baseline):
            raise wrong(
                aligner,
                "loss",
                f"a non-finite loss for example {bad[0]}, before the first update",
                "finite values, because the log-probabilities passed to it are finite",
            )
        raise self.stage.not_finite("loss", self.state.global_step, bad)


class MethodState(TrainerCallback, ExportableState):
    """Writes the method's state into a checkpoint's `trainer_state.json`, under this class's name; `resume.restore_state` reads it."""

    def __init__(self, aligner: Aligner) -> None:
        self.aligner = aligner

    def state(self) -> dict[str, Any]:
        """The state, in transformers' form."""
        return {"args": {}, "attributes": dict(self.aligner.state)}


class _Report(TrainerCallback):
    """Tells the recorder that a step is done, and stops the training if requested or necessary."""

    def __init__(self, stage: RunningStage, trainer: PreferenceTrainer) -> None:
        self.stage, self.trainer = stage, trainer
        self.rate = 0.0
        """Learning rate of the current step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called once, after a checkpoint was loaded: its state would go on with the interval of the run that wrote it."""
        state.save_steps = args.save_steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before a step's first pass. After the step, the schedule has already set the next step's rate; DeepSpeed does so before
        `on_pre_optimizer_step`."""
        self.rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the weights are changed: a non-finite gradient would destroy them, and then every checkpoint."""
        if self.trainer.is_deepspeed_enabled:  # DeepSpeed has already made its step, and keeps no gradients
            return
        gradients = [weight.grad for weight in kwargs["model"].parameters() if weight.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise self.stage.not_finite("gradient", state.global_step, self.stage.recorder.ids)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after every optimizer step."""
        recorder, trainer = self.stage.recorder, self.trainer
        if trainer.is_deepspeed_enabled and not math.isfinite(trainer.deepspeed.get_global_grad_norm()):
            raise self.stage.not_finite("gradient", state.global_step, recorder.ids)
        further, paused = self._measured(state.global_step)
        row = recorder.step(state.global_step, self.rate, further, paused)
        after_step(self.stage.run.aligner, recorder.means)
        if self.stage.run.train_settings.report_to:
            trainer.log({name: value for name, value in row.written().items() if isinstance(value, int | float)})
        # A signal may reach the processes on different sides of a step's end: one would wait for a step that the other does not make.
        if any_process(self.stage.asked_to_stop.is_set(), self.stage.run.process):
            self.stage.asked_to_stop.set()
            control.should_save = control.should_training_stop = True

    def _measured(self, step: int) -> tuple[dict[str, float], float]:
        """Margins on held-out pairs for the log, if they are due after this step, and the seconds that this took."""
        held_out, steps = self.stage.held_out, self.stage.batches.steps
        if held_out is None or not held_out.due(step, steps):
            return {}, 0.0
        started = time.perf_counter()
        rewards = held_out.rewards()
        if step == steps:
            self.stage.rewards = rewards
        return held_out.logged(rewards), time.perf_counter() - started


def build(stage: RunningStage) -> PreferenceTrainer:
    """The trainer of a stage.

    Raises:
        BadInputError: the launcher shards the weights in an unsupported way.
    """
    policy = stage.run.policy
    say_what_is_gathered_together(policy.model, policy.layers[0])
    trainer = PreferenceTrainer(stage)
    if stage.run.sharded and not trainer.is_fsdp_enabled:
        # Accelerate would silently continue with all weights in each process.
        raise BadInputError(
            "weights are sharded over GPUs only, and there are none",
            remedy="harness launch --sharding none, or one process",
        )
    if trainer.is_deepspeed_enabled and (zero := trainer.accelerator.state.deepspeed_plugin.zero_stage) not in (1, 2):
        raise BadInputError(
            f"DeepSpeed's ZeRO is supported at stages 1 and 2, not at {zero}",
            remedy=f"FSDP shards the weights as stage 3 does: {CONFIGURATION}",
        )
    return trainer


def _arguments(stage: RunningStage) -> TrainingArguments:
    settings, batches = stage.run.train_settings, stage.batches
    arguments = TrainingArguments(
        output_dir=str(stage.folder),
        per_device_train_batch_size=batches.micro,
        gradient_accumulation_steps=batches.passes,
        max_steps=batches.steps,
        learning_rate=settings.learning_rate,
        # transformers' "constant" schedule ignores the warm-up.
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=round(settings.warmup_ratio * batches.steps),
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=1,
        logging_strategy="no",
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=settings.seed,
        bf16=stage.run.bfloat16,
        ddp_find_unused_parameters=False,
        use_cpu=stage.run.policy.device.type == "cpu",
    )
    # Several GPUs without `accelerate launch`: one is used; torch's DataParallel would split the batches.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _dropout_seed(seed: int, process: int) -> int:
    """The seed of a process's dropout masks; that of the first is the run's. Different in the lower 32 bits, the only ones that torch's
    generator on the CPU uses."""
    return int(np.random.SeedSequence([seed, process]).generate_state(1)[0]) if process else seed


def newest_checkpoint(folder: Path) -> Path | None:
    """A stage's newest intermediate checkpoint; incomplete ones are ignored."""
    return max(filter(_is_whole, folder.glob("checkpoint-*")), key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which an intermediate checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    """Whether the file that transformers writes last exists completely."""
    try:
        return bool(json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _all_finite(*models: Logps) -> bool:
    """Whether all log-probabilities of a loss are finite."""
    return all(bool(torch.isfinite(values.sums).all()) for logps in models for values in logps.values())
