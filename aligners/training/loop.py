"""One stage of training: `transformers.Trainer` with a preference loss, its log, its bar, and the guards against NaN and Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligners.base import Logps
from aligners.contract import loss_of
from aligners.training.batches import checked, loader, loaders_end
from aligners.training.checks.first_batch import check_first_batch
from aligners.training.encoding import EncodedExample
from aligners.training.layout import by_branch
from aligners.training.log import Recorder, reward_metrics
from aligners.training.microbatches import MicroBatches, accumulation, steps_of
from aligners.training.planning.peak import out_of_memory
from aligners.training.processes import CONFIGURATION, say_what_is_gathered_together
from aligners.training.reference import Reference
from harness.core.errors import BadInputError, HarnessError
from harness.core.plugins import is_plugin, wrong
from harness.core.progress import progress

if TYPE_CHECKING:
    from aligners.training.session import Session

TRAINER_STATE = "trainer_state.json"


def run_stage(
    run: Session,
    name: str,
    examples: Sequence[EncodedExample],
    reference: Reference,
    folder: Path,
    log: Path,
    *,
    begins_equal: bool,
) -> dict[str, Any]:
    """Train on one stage's examples; goes on from the stage's newest intermediate checkpoint if there is one.

    Args:
        run: the alignment.
        name: the stage's.
        examples: the stage's.
        reference: its values of the examples.
        folder: for intermediate checkpoints.
        log: of all stages.
        begins_equal: before the first update policy and reference are one model, which the canary then looks at.

    Returns:
        A JSON-able summary: steps, examples, seconds, first and last logged values.

    Raises:
        HarnessError: a loss or a gradient was not finite (the examples are named and the last intermediate checkpoint is kept), the
            memory did not suffice, or the run was interrupted by Ctrl-C (the present step's checkpoint is kept).
    """
    settings = run.train_settings
    micro, passes = accumulation(settings, run.process.num_processes)
    steps = steps_of(len(examples), settings)
    batches = MicroBatches(run, examples, steps, micro, passes, (run.process.process_index, run.process.num_processes))
    started = time.perf_counter()
    with progress(f"{run.aligner.name}: {name}", steps) as advance, _stop_on_interrupt() as asked_to_stop:
        recorder = Recorder(log, name, advance, run.process)
        newest = _newest(folder)
        canary: dict[str, Any] = {"wanted": run.job.canary and begins_equal and newest is None}
        trainer = _build(run, batches, reference, folder, recorder, asked_to_stop, canary)
        done = _step(newest) if newest else 0
        recorder.go_on_from(done)
        advance(done)
        with out_of_memory(run, examples, micro), loaders_end():
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if trainer.is_deepspeed_enabled:
            trainer.deepspeed.destroy()  # or the next stage's gradients would go to it as well
    if asked_to_stop.is_set() and trainer.state.global_step < steps:
        raise HarnessError(
            f"interrupted at step {trainer.state.global_step} of {steps} of stage {name}; what was learned is kept",
            where=str(folder),
            remedy="the same command with --resume goes on from there",
        )
    return {
        "stage": name,
        "examples": len(examples),
        "steps": steps,
        "seconds": round(time.perf_counter() - started, 1),
        "reference": "from disk" if not reference.computed else "computed",
        "canary": canary.get("found"),
        "first": recorder.first,
        "last": recorder.last,
    }


def _newest(folder: Path) -> Path | None:
    """A stage's newest intermediate checkpoint; one that was being written when the run was killed is none."""
    return max(filter(_is_whole, folder.glob("checkpoint-*")), key=_step, default=None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the file is there, to its end, that transformers writes last."""
    try:
        return bool(json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _not_finite(what: str, step: int, ids: Sequence[str], folder: Path) -> HarnessError:
    """What to say when a loss or a gradient is no number. Nothing is saved from there on."""
    kept = _newest(folder) or max(folder.parent.glob("*/checkpoint"), default=None)
    return HarnessError(
        f"the {what} is not finite at step {step} of stage {folder.name}",
        where=f"examples {', '.join(ids)}",
        remedy="lower train.learning_rate, or look at these examples; "
        + (f"the last good checkpoint is kept: {kept}" if kept else "there was no checkpoint yet (train.save_steps)"),
    )


def _all_finite(*models: Logps) -> bool:
    """Whether all log-probabilities that a loss is made of are numbers."""
    import torch

    return all(bool(torch.isfinite(one.sums).all()) for logps in models for one in logps.values())


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C sets the event that is given (the step is finished and saved), the second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _build(
    run: Session,
    batches: MicroBatches,
    reference: Reference,
    folder: Path,
    recorder: Recorder,
    asked_to_stop: threading.Event,
    canary: dict[str, Any],
) -> Any:
    """The trainer of a stage. Where `canary` has it "wanted", the first batch is looked at, and what is seen goes into "found"."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    settings, aligner, policy = run.train_settings, run.aligner, run.policy

    class PreferenceTrainer(Trainer):
        """Trainer whose inputs are laid-out batches and whose loss is the method's."""

        def get_train_dataloader(self) -> Any:
            """The micro-batches as they are: they know their process, their order and their epochs."""
            return loader(batches, settings.workers)

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """Sum over the pass's examples divided by the micro-batch: a short last pass weighs its examples like the others."""
            batch = checked(inputs)["batch"].to(policy.device)
            logps = by_branch(model(batch), batch.layouts)
            baseline = reference.logps(batch, run.branches)
            loss = loss_of(aligner, logps, baseline, batch.ids)
            if not torch.isfinite(loss.per_example).all():
                bad = [
                    name for name, value in zip(batch.ids, loss.per_example, strict=True) if not torch.isfinite(value)
                ]
                if self.state.global_step == 0 and is_plugin(aligner) and _all_finite(logps, baseline):
                    raise wrong(
                        aligner,
                        "loss",
                        f"a loss that is not finite of example {bad[0]}, before the first update",
                        "finite values: the log-probabilities that it was given are",
                    )
                raise _not_finite("loss", self.state.global_step, bad, folder)
            if canary.pop("wanted", False):
                canary["found"] = check_first_batch(run, batch, logps, baseline, loss)
            metrics = {
                "loss": loss.per_example.detach(),
                **loss.metrics,
                **reward_metrics(logps, baseline, aligner.settings.beta),
            }
            weights = torch.tensor(inputs["weights"], device=policy.device)
            recorder.add(metrics, weights, batch.tokens, batch.ids)
            return (loss.per_example * weights).sum() / batches.micro

    class Report(TrainerCallback):
        """Tells the recorder that a step is done, and stops where that was asked for or has to be."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Called before the weights are changed: a gradient that is no number would spoil them, and then every checkpoint."""
            if trainer.is_deepspeed_enabled:  # it has taken its step, and kept no gradients
                return
            gradients = [one.grad for one in kwargs["model"].parameters() if one.grad is not None]
            if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
                raise _not_finite("gradient", state.global_step, recorder.ids, folder)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Called after every optimizer step."""
            if trainer.is_deepspeed_enabled and not math.isfinite(trainer.deepspeed.get_global_grad_norm()):
                raise _not_finite("gradient", state.global_step, recorder.ids, folder)
            row = recorder.step(state.global_step, kwargs["optimizer"].param_groups[0]["lr"])
            if settings.report_to:
                trainer.log({name: value for name, value in row.items() if isinstance(value, int | float)})
            if asked_to_stop.is_set():
                control.should_save = control.should_training_stop = True

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batches.micro,
        gradient_accumulation_steps=batches.passes,
        max_steps=batches.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
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
        bf16=run.bfloat16,
        ddp_find_unused_parameters=False,
        use_cpu=policy.device.type == "cpu",
    )
    # Several GPUs without `accelerate launch`: one is used; torch's DataParallel would tear the batches apart.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    say_what_is_gathered_together(policy.model, policy.layers[0])
    trainer = PreferenceTrainer(model=policy.model, args=arguments, train_dataset=batches, callbacks=[Report()])
    if run.sharded and not trainer.is_fsdp_enabled:
        # Accelerate would go on without a word, each process with all weights.
        raise BadInputError(
            "weights are shared out among GPUs only, and there are none",
            remedy="harness launch --sharding none, or one process",
        )
    if trainer.is_deepspeed_enabled and (stage := trainer.accelerator.state.deepspeed_plugin.zero_stage) not in (1, 2):
        raise BadInputError(
            f"DeepSpeed's ZeRO is supported at stages 1 and 2, and not at {stage}",
            remedy=f"FSDP shares the weights out as stage 3 does: {CONFIGURATION}",
        )
    trainer.remove_callback(PrinterCallback)
    return trainer
