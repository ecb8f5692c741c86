"""One stage of training: `transformers.Trainer` with a preference loss, a log, a progress bar, and handling of NaN and Ctrl-C."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligners.training.batches import loaders_end
from aligners.training.encoding import EncodedExample
from aligners.training.interrupt import interrupted
from aligners.training.log import Recorder
from aligners.training.memory.batch import accumulation, steps_of
from aligners.training.microbatches import MicroBatches
from aligners.training.planning.out_of_memory import out_of_memory
from aligners.training.reference import Reference
from aligners.training.resume import check_state, restore_state
from aligners.training.shards import check_shards
from harness.core.progress import progress
from harness.records.balance_file import HELD_OUT
from harness.records.training_files import StageRow

if TYPE_CHECKING:
    from aligners.training.held_out import HeldOut
    from aligners.training.session import Session


def run_stage(
    run: Session,
    name: str,
    examples: Sequence[EncodedExample],
    reference: Reference | None,
    folder: Path,
    log: Path,
    *,
    begins_equal: bool,
    asked_to_stop: threading.Event,
    held_out: HeldOut | None = None,
) -> StageRow:
    """Train on one stage's examples, from the stage's newest intermediate checkpoint if there is one.

    Args:
        run: the alignment.
        name: name of the stage.
        examples: examples of the stage.
        reference: the reference's values for the examples; None if the method uses no reference.
        folder: folder of intermediate checkpoints.
        log: training log of all stages.
        begins_equal: before the first update policy and reference are the same model, which the canary then checks.
        asked_to_stop: is set by Ctrl-C, see `interrupt.stop_on_interrupt`. After the stage's last step it has no effect here.
        held_out: measures margins on held-out pairs during the stage and after it.

    Returns:
        The stage's summary for the manifest.

    Raises:
        HarnessError: a loss or a gradient was not finite (the message names the examples, and the last intermediate checkpoint is kept),
        memory ran out, or the run was interrupted by Ctrl-C (the current step's checkpoint is kept).
    """
    from aligners.training.trainer import RunningStage, build, newest_checkpoint, step_of

    settings = run.train_settings
    micro, passes = accumulation(settings, run.process.num_processes)
    steps = steps_of(len(examples), settings)
    batches = MicroBatches(run, examples, steps, micro, passes, (run.process.process_index, run.process.num_processes))
    started = time.perf_counter()
    with progress(f"{run.aligner.name}: {name}", steps) as advance:
        recorder = Recorder(log, name, advance, run.process, run.job.on_step)
        newest = newest_checkpoint(folder)
        check = run.job.canary and begins_equal and newest is None and reference is not None
        stage = RunningStage(run, batches, reference, folder, recorder, asked_to_stop, held_out, check)
        trainer = build(stage)
        done = step_of(newest) if newest else 0
        if newest is not None:
            check_state(newest, done)
            check_shards(newest, run.process.num_processes)
            restore_state(run.aligner, newest)
        recorder.go_on_from(done)
        advance(done)
        with out_of_memory(run, examples, micro), loaders_end():
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if trainer.is_deepspeed_enabled:
            trainer.deepspeed.destroy()  # otherwise it would also receive the next stage's gradients
    if asked_to_stop.is_set() and trainer.state.global_step < steps:
        raise interrupted(
            f"at step {trainer.state.global_step} of {steps} of stage {name}", folder, run.job.output.name
        )
    # A stage that was resumed behind its last step has measured nothing.
    rewards = held_out.rewards() if held_out and stage.rewards is None else stage.rewards
    if held_out is not None and rewards is not None and run.process.is_main_process:
        held_out.keep(rewards, run.job.output / HELD_OUT)
    return StageRow(
        stage=name,
        examples=len(examples),
        steps=steps,
        micro_batch_size=micro,
        gradient_checkpointing=bool(settings.gradient_checkpointing),
        seconds=round(time.perf_counter() - started, 1),
        reference="none" if reference is None else "computed" if reference.computed else "from disk",
        canary=stage.canary,
        method_state=dict(run.aligner.state) or None,
        balance=held_out.measured(rewards) if held_out is not None and rewards is not None else None,
        first=recorder.first,
        last=recorder.last,
    )
