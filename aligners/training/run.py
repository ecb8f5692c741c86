"""An alignment from start to end: read, prepare, encode, train stage by stage, export."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aligners.base import Aligner, Needs, PrepareContext, Stage
from aligners.contract import check_method, prepared, stages_of
from aligners.preferences import Dropped
from aligners.preferences.read import local_path
from aligners.training.adapters import check_model
from aligners.training.checkpoint import (
    FINISHED,
    export,
    finished_hash,
    load_finished,
    remove_intermediate,
    save_finished,
)
from aligners.training.checks.canary import check_trainer
from aligners.training.held_out import HeldOut, held_out_pairs
from aligners.training.inputs import check_inputs, inputs_of
from aligners.training.interrupt import interrupted, stop_on_interrupt
from aligners.training.job import AlignJob, AlignResult
from aligners.training.loop import run_stage
from aligners.training.memory.footprint import architecture
from aligners.training.memory.step import remember
from aligners.training.planning.preflight import check_launch
from aligners.training.planning.room import room_of_stages, still_to_write
from aligners.training.processes import any_process, from_first, is_deepspeed, shares_out, this_process
from aligners.training.reference import Reference, content_print
from aligners.training.resume import restore_finished
from aligners.training.session import Session, preferences_of
from aligners.training.values import StartingModel, reference_of
from harness.core.disk import need
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_json, write_jsonl
from harness.core.names import check_name
from harness.core.removal import remove
from harness.records.training_files import CanaryRecord, DataSummary, StageRow, TrainingSummary

logger = logging.getLogger(__name__)

LOG = "train_log.jsonl"


@dataclass(frozen=True)
class RunFacts:
    """What the summary of a run says about the time before its stages: the data, notes of the method, and the check at the start."""

    data: DataSummary
    prepared: Mapping[str, Any] = field(default_factory=dict)
    canary: CanaryRecord | None = None


def train(aligner: Aligner, job: AlignJob) -> AlignResult:
    """Run one alignment. See `AlignJob` for the input and `docs/ARCHITECTURE.md` for the files that it writes.

    Raises:
        BadInputError: the data or a setting is invalid.
        HarnessError: the loss was not finite, or the model cannot be loaded.
    """
    started = time.perf_counter()
    check_method(aligner)
    check_model(job.model, job.train)
    process = this_process()
    check_launch(job.train, process.num_processes)
    with process.main_process_first():  # the other processes read the results from the cache
        data = preferences_of(job, aligner)
        inputs = inputs_of(aligner, job, data.fingerprint)
        check_inputs(aligner, job, inputs)  # before images are made
        context = PrepareContext(job.cache, job.train.seed, output=job.output if process.is_main_process else None)
        examples = prepared(aligner, data.examples, context)
        pairs = held_out_pairs(job, data.examples)
    session = Session(aligner, job, examples, process)
    dropped = [*data.dropped, *(Dropped(data.label, name, reason) for name, reason in session.refused.items())]
    if dropped and process.is_main_process:
        write_jsonl(job.output / "dropped.jsonl", (asdict(record) for record in dropped))
        logger.warning(f"{len(dropped)} records were skipped: {job.output / 'dropped.jsonl'}")
    examples = [example for example in examples if example.id in session.encoded]
    if not examples:
        raise BadInputError("no preference example is left to train on", where=job.data)
    about = DataSummary(
        label=data.label,
        **_locations(job),
        fingerprint=data.fingerprint,
        examples=len(examples),
        dropped=len(dropped),
        unread_columns=dict(data.unread),
    )
    facts = RunFacts(about, context.notes, check_trainer(session, examples) if job.canary else None)
    if process.is_main_process:
        remember(session.step, job.output, inputs)
    stages = stages_of(aligner, examples, StartingModel(session))
    if process.is_main_process:
        room = room_of_stages(architecture(job.model, job.train), job.train, stages)
        need([(job.output, still_to_write(room, job.output), f"the checkpoints of {len(stages)} stages")])
    summary = train_stages(session, stages, facts, None if pairs is None else HeldOut(session, pairs))
    checkpoint = job.output / "checkpoint"
    export(session, checkpoint)
    process.wait_for_everyone()
    return AlignResult(
        checkpoint,
        summary.model_copy(update={"seconds": round(time.perf_counter() - started, 1)}),
        scratch=[folder / FINISHED for folder in _folders(job, stages)],
    )


def _locations(job: AlignJob) -> dict[str, Any]:
    """Where the data and their images are, as absolute paths, for commands that read them again from another folder."""
    places = {"location": local_path(job.data), "image_root": job.data_options.image_root}
    return {name: str(path.resolve()) for name, path in places.items() if path is not None}


def _folders(job: AlignJob, stages: Sequence[Stage]) -> list[Path]:
    """The output folder of each stage."""
    names = [check_name(stage.name, "a stage") for stage in stages]
    return [job.output / "stages" / f"{number}-{name}" for number, name in enumerate(names, 1)]


def train_stages(
    session: Session, stages: Sequence[Stage], facts: RunFacts, held_out: HeldOut | None = None
) -> TrainingSummary:
    """Train the stages in order; finished ones of an interrupted run are loaded from disk.

    Args:
        session: the session, with nothing trained yet.
        stages: stages of its examples.
        facts: what the run's summary says besides.
        held_out: measures margins on held-out pairs over the steps and after every stage.

    Returns:
        The run's summary.

    Raises:
        HarnessError: as of `run_stage`; or Ctrl-C was pressed after a stage's last step, and further stages follow.
    """
    job, process = session.job, session.process
    if Needs.REFERENCE_DISTRIBUTION in session.aligner.needs and any(
        stage.reference == "previous" for stage in stages[1:]
    ):
        raise HarnessError(
            "a method that needs the reference's distribution must use the initial model as reference in every stage",
            where=session.aligner.name,
            remedy="give its stages reference='initial'",
        )
    if not job.resume and process.is_main_process:
        remove(job.output / LOG, within=job.output)
        remove(job.output / "stages", within=job.output)
    process.wait_for_everyone()
    # The initial model's values must be computed before anything is trained.
    initial = {stage.name: reference_of(session, stage, "start") for stage in stages if stage.reference == "initial"}
    rows: list[StageRow] = []
    trained = "start"
    for number, (folder, stage) in enumerate(zip(_folders(job, stages), stages, strict=True), 1):
        row = load_finished(session.policy.model, folder)
        if row is not None:
            restore_finished(session.aligner, row, folder)
            if process.is_main_process:
                remove_intermediate(folder)
            logger.info(f"stage {stage.name}: already finished")
        else:
            reference = initial.get(stage.name) or reference_of(session, stage, trained)
            with stop_on_interrupt() as asked_to_stop:
                row = _train_stage(session, stage, reference, folder, held_out, asked_to_stop, first=trained == "start")
                if len(stages) > 1 and session.train_settings.keeps_stages:
                    export(session, folder / "checkpoint")
                    if process.is_main_process:
                        job.stage_done(folder, _summary(session, facts, [*rows, row], held_out))
                save_finished(session.policy.model, folder, process.is_main_process, row)
            if len(rows) + 1 < len(stages) and any_process(asked_to_stop.is_set(), process):
                raise interrupted(f"after stage {stage.name}", folder, job.output.name)
        rows.append(row)
        trained = _trained_on(session, stage, trained, folder, hashed=_is_reference(session.aligner, stages[number:]))
    return _summary(session, facts, rows, held_out)


def _train_stage(
    session: Session,
    stage: Stage,
    reference: Reference | None,
    folder: Path,
    held_out: HeldOut | None,
    asked_to_stop: threading.Event,
    *,
    first: bool,
) -> StageRow:
    examples = [session.encoded[example.id] for example in stage.examples]
    # Dropout in a trained adapter makes policy and reference differ.
    begins_equal = first or (stage.reference == "previous" and not session.train_settings.lora.dropout)
    log = session.job.output / LOG
    return run_stage(
        session,
        stage.name,
        examples,
        reference,
        folder,
        log,
        begins_equal=begins_equal,
        asked_to_stop=asked_to_stop,
        held_out=held_out,
    )


def _is_reference(aligner: Aligner, later: Sequence[Stage]) -> bool:
    """Whether the model that a stage trained is the reference of the next one, so that its values are looked up in the cache."""
    return aligner.uses_reference and bool(later) and later[0].reference == "previous"


def _trained_on(session: Session, stage: Stage, trained: str, folder: Path, *, hashed: bool) -> str:
    """A hash of the model after a stage: of the hash before it, the settings and the training data; and of the weights themselves.

    Settings and data do not determine weights: a plugin's code, another version or another GPU changes them, too.

    Args:
        session: the alignment.
        stage: a finished stage.
        trained: the hash before it; "start" before the first.
        folder: the stage's folder, with its trained weights.
        hashed: whether the weights are hashed. Full weights of 7 B take half a minute, so those that are no reference are not.
    """
    weights = [from_first(session.process, lambda: finished_hash(folder))] if hashed else []
    return sha256_json(
        [
            *weights,
            trained,
            stage.name,
            stage.reference,
            [content_print(session.encoded[example.id], session.branches) for example in stage.examples],
            session.train_settings.model_dump(exclude={"balance"}),
            session.aligner.settings.model_dump(),
            session.aligner.name,
        ]
    )


def _summary(session: Session, facts: RunFacts, rows: list[StageRow], held_out: HeldOut | None) -> TrainingSummary:
    """Summary for the manifest; `rows` are the summaries of the stages so far."""
    return TrainingSummary(
        data=facts.data,
        prepared=dict(facts.prepared),
        canary=facts.canary,
        stages=rows,
        balance=held_out.record(rows) if held_out is not None else None,
        step=session.step.summary(),
        truncated_responses=session.truncated,
        feature_cache=session.features,
        bfloat16=session.bfloat16,
        base_held=session.base_held,
        adapters=session.policy.adapted.summary() if session.policy.adapted else None,
        processes=session.process.num_processes,
        weights_shared_out=shares_out(session.policy.model),
        deepspeed=is_deepspeed(),
    )
