"""The one preference trainer, on `transformers.Trainer`: read, prepare, encode, train stage by stage, export."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from aligners.base import (
    CHOSEN,
    Aligner,
    AlignJob,
    AlignResult,
    Answer,
    Branch,
    Measure,
    PrepareContext,
    Stage,
    StageContext,
)
from aligners.preferences import Dropped, preferences_of
from aligners.training.adapters import check_model
from aligners.training.batches import Preparer
from aligners.training.checks.canary import check_trainer
from aligners.training.difficulty import difficulty_of
from aligners.training.encoding import EncodedExample, encode_all
from aligners.training.layout import Batch, by_branch, row_lengths
from aligners.training.loop import run_stage
from aligners.training.planning.peak import out_of_memory
from aligners.training.policy import Policy, token_logp
from aligners.training.processes import is_deepspeed, is_sharded, shares_out, this_process, whole
from aligners.training.reference import Keys, Reference, ValueStore, content_keys, content_print, fill
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import remove_left_overs, sha256_json, write_jsonl
from harness.core.memory import reuse_large_blocks
from harness.core.names import check_name
from harness.core.progress import console, progress
from harness.core.removal import remove
from harness.core.types import PreferenceExample
from harness.models import devices, export_adapter, export_full, fingerprint, load_model, load_processor, template_hash

_FINISHED = "finished.safetensors"
"""In a stage's folder: what it trained, with its summary in the header. Written last, after the stage's own checkpoint."""


def align(aligner: Aligner, job: AlignJob) -> AlignResult:
    """Run one alignment. See `AlignJob` for what it takes and `docs/ARCHITECTURE.md` for what it leaves.

    Raises:
        BadInputError: the data or a setting is at fault.
        HarnessError: the loss was not finite, or the model cannot be had.
    """
    started = time.perf_counter()
    check_model(job.model, job.train)
    process = this_process()
    with process.main_process_first():  # the others find what it made in the cache
        data = preferences_of(job, aligner)
        context = PrepareContext(job.cache, job.train.seed, output=job.output if process.is_main_process else None)
        examples = aligner.prepare(data.examples, context)
    run = _Run(aligner, job, examples, process)
    dropped = [*data.dropped, *(Dropped(data.label, name, reason) for name, reason in run.refused.items())]
    if dropped and process.is_main_process:
        write_jsonl(job.output / "dropped.jsonl", (asdict(one) for one in dropped))
        console.print(f"[yellow]{len(dropped)} records were skipped: {job.output / 'dropped.jsonl'}[/yellow]")
    examples = [one for one in examples if one.id in run.encoded]
    if not examples:
        raise BadInputError("no preference example is left to train on", where=job.data)
    run.about = {
        "data": {
            "label": data.label,
            "fingerprint": data.fingerprint,
            "examples": len(examples),
            "dropped": len(dropped),
            "unread_columns": dict(data.unread),
        },
        "prepared": context.notes,
    }
    run.canary = check_trainer(run, examples) if job.canary else None
    stages = aligner.stages(examples, run)
    summary = run.train(stages)
    checkpoint = job.output / "checkpoint"
    run.export(checkpoint)
    process.wait_for_everyone()
    return AlignResult(
        checkpoint,
        {**summary, "seconds": round(time.perf_counter() - started, 1)},
        scratch=[folder / _FINISHED for folder in run.folders(stages)],
    )


class _Run(StageContext):
    """One alignment under way."""

    def __init__(self, aligner: Aligner, job: AlignJob, examples: Sequence[PreferenceExample], process: Any) -> None:
        import torch

        self.aligner, self.job, self.train_settings, self.process = aligner, job, job.train, process
        self.about: dict[str, Any] = {}
        """What the summary says of the data, and how they were prepared."""
        self.canary: dict[str, Any] | None = None
        """What `check_trainer` found; None where nothing was checked."""
        self.branches = list(aligner.branches)
        self.sharded = is_sharded()
        if (self.sharded or is_deepspeed()) and job.train.tuning == "qlora":
            raise BadInputError(
                "a model in 4 bits cannot be trained by FSDP or DeepSpeed here",
                remedy="--lora, or configs/accelerate/ddp.yaml",
            )
        torch.manual_seed(job.train.seed)
        self.processor = load_processor(job.model)
        gpu = devices.has_accelerator()
        if not gpu:
            reuse_large_blocks()
        self.bfloat16 = job.train.in_bfloat16(gpu)
        # Full weights stay in float32 and are cast in the step; frozen ones are held in the type they are computed in, or in 4 bits.
        dtype = "bfloat16" if self.bfloat16 and job.train.adapters else "float32"
        self.base_held = {"qlora": f"4 bits (NF4, double quantisation), computed in {dtype}"}.get(
            job.train.tuning, dtype
        )
        model = load_model(job.model, dtype, four_bits=job.train.tuning == "qlora")
        self.policy = Policy(
            model,
            self.processor,
            job.train.tuning,
            job.train.lora,
            # Chunks of logits call the head as often as a process has tokens, and not as often as the others do.
            job.train.savings.model_copy(update={"chunked_logits": False}) if self.sharded else job.train.savings,
            self.bfloat16,
            with_distribution="reference_distribution" in aligner.needs,
        )
        if job.train.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            # Only re-entrant checkpoints need inputs with gradients; in the frozen tower those would cost a pass back through it.
            model.disable_input_require_grads()
        self.encoded = self._encode(examples)
        self.features = self.policy.keep_features(
            image for one in self.encoded.values() for image in one.images.values()
        )

    def _encode(self, examples: Sequence[PreferenceExample]) -> dict[str, EncodedExample]:
        encoded, self.refused = encode_all(self.processor, examples, self.aligner, self.job)
        self.truncated = sum(one.truncated for one in encoded.values())
        if self.truncated:
            console.print(
                f"[yellow]{self.truncated} responses were cut at {self.train_settings.max_length} tokens[/yellow]"
            )
        return encoded

    def batch(self, examples: Sequence[EncodedExample], branches: Sequence[Branch] | None = None) -> Batch:
        """A prepared batch, not yet on the model's device."""
        return self.preparer().batch(examples, branches or self.branches)

    def preparer(self) -> Preparer:
        """What makes its batches, in whatever process."""
        return self.policy.preparer(one_block=self.sharded)

    def difficulty(
        self,
        examples: Sequence[PreferenceExample],
        measure: Measure = "token",
        answer: Answer = "chosen",
        max_new_tokens: int = 256,
    ) -> list[float]:
        """See `StageContext.difficulty`."""
        prompts = {example.id: example.prompt for example in examples}
        encoded = [self.encoded[example.id] for example in examples]
        store, keys, _ = self._stored(
            f"difficulty: {measure}" + (f", own answers of {max_new_tokens} tokens" if answer == "own" else ""),
            "start",
            encoded,
            [CHOSEN],
            lambda block: difficulty_of(
                self, block, [prompts[example.id] for example in block], measure, answer, max_new_tokens
            ),
            "measuring the examples' difficulty",
        )
        return [float(store[next(iter(keys[example.id].values()))][0]) for example in encoded]

    def _reference(self, stage: Stage, trained: str) -> Reference:
        """The reference's values for a stage, from disk where they were computed before."""
        return Reference(
            *self._stored(
                "log-probabilities",
                trained,
                [self.encoded[example.id] for example in stage.examples],
                self.branches,
                lambda block: self._values(block, self.branches, token_logp, trained),
                "reference log-probabilities",
            )
        )

    def _stored(
        self,
        what: str,
        trained: str,
        examples: Sequence[EncodedExample],
        branches: Sequence[Branch],
        compute: Callable[[Sequence[EncodedExample]], list[dict[tuple[str, str], np.ndarray]]],
        title: str,
    ) -> tuple[ValueStore, dict[str, Keys], int]:
        """Values of the present model for examples, from disk where they were computed before; with their keys, and how many were not."""
        key = {
            "what": what,
            "model": fingerprint(self.job.model),
            "trained": trained,
            "template": template_hash(self.processor),
            "bfloat16": self.bfloat16,
            # Rounded weights have other values.
            **({"base_held": self.base_held} if self.train_settings.tuning == "qlora" else {}),
        }
        keep = self.train_settings.savings.reference_cache
        store = ValueStore(self.job.cache, key, keep)
        keys = {example.id: content_keys(example, branches) for example in examples}
        wanted = [key for one in keys.values() for key in one.values()]
        store.load(wanted)
        self.process.wait_for_everyone()  # all must have seen the same before one adds to it
        if all(key in store for key in wanted):
            return store, keys, 0
        self.policy.model.eval()
        # Blocks of like length, several at a time in the layout.
        size = 2 * self.train_settings.micro_batch_size
        ordered = sorted(examples, key=lambda one: max(row_lengths(one, branches)))
        blocks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        share = (self.process.process_index, self.process.num_processes) if keep else (0, 1)
        with progress(title, len(ordered)) as advance, out_of_memory(self, ordered, size):
            computed = fill(store, blocks, keys, compute, share=share, in_step=self.sharded, done=advance)
        self.process.wait_for_everyone()
        store.load(wanted)
        if any(key not in store for key in wanted):
            raise HarnessError(
                f"{title}: what other processes computed is not here",
                where=str(store.folder),
                remedy="let HARNESS_CACHE be a folder that all machines see, or --set train.savings.reference_cache=false",
            )
        return store, keys, computed

    def _values(
        self,
        examples: Sequence[EncodedExample],
        branches: Sequence[Branch],
        value: Callable[[Any, Any], Any],
        trained: str = "start",
    ) -> list[dict[tuple[str, str], np.ndarray]]:
        """A value of every response token of the examples' branches under the present model, without gradient."""
        import torch

        batch = self.batch(examples, branches).to(self.policy.device)
        # A new adapter changes nothing, so it need not be computed.
        plain = self.policy.without_adapter() if trained == "start" else contextlib.nullcontext()
        with torch.no_grad(), self.autocast(), plain:
            # Through whatever the model is wrapped in, as in training: it may hold a share of the weights only.
            found = by_branch(self.policy.model(batch, value), batch.layouts)
        return [
            {
                (branch.image, branch.response): found[branch.name]
                .tokens[row][found[branch.name].mask[row]]
                .cpu()
                .numpy()
                for branch in branches
            }
            for row in range(len(examples))
        ]

    def autocast(self) -> Any:
        """The context in which the model is run."""
        import torch

        return torch.autocast(self.policy.device.type, torch.bfloat16, enabled=self.bfloat16)

    def train(self, stages: list[Stage]) -> dict[str, Any]:
        """Train the stages in turn; finished ones of an interrupted run are taken from disk."""
        if "reference_distribution" in self.aligner.needs and any(one.reference == "previous" for one in stages[1:]):
            raise HarnessError(
                "a method that needs the reference's distribution is held to the first model in every stage",
                where=self.aligner.name,
                remedy="give its stages reference='initial'",
            )
        rows: list[dict[str, Any]] = []
        initial: dict[str, Reference] = {}
        log = self.job.output / "train_log.jsonl"
        if not self.job.resume and self.process.is_main_process:
            remove(log, within=self.job.output)
            remove(self.job.output / "stages", within=self.job.output)
        self.process.wait_for_everyone()
        for stage in stages:  # the first model's values must be taken before anything is trained
            if stage.reference == "initial":
                initial[stage.name] = self._reference(stage, "start")
        trained = "start"
        for folder, stage in zip(self.folders(stages), stages, strict=True):
            row = _load_finished(self.policy.model, folder)
            if row is not None:
                console.print(f"[dim]stage {stage.name}: finished before[/dim]")
            else:
                reference = initial.get(stage.name) or self._reference(stage, trained)
                examples = [self.encoded[example.id] for example in stage.examples]
                # Dropout in an adapter that was trained already makes policy and reference two models.
                begins_equal = trained == "start" or (
                    stage.reference == "previous" and not self.train_settings.lora.dropout
                )
                row = run_stage(self, stage.name, examples, reference, folder, log, begins_equal=begins_equal)
                first = self.process.is_main_process
                if len(stages) > 1 and self.train_settings.keeps_stages:
                    self.export(folder / "checkpoint")
                    if first:
                        self.job.stage_done(folder, self._summary([*rows, row]))
                _save_finished(self.policy.model, folder, first, row)
            rows.append(row)
            trained = sha256_json(
                [
                    trained,
                    stage.name,
                    stage.reference,
                    # What was trained on decides what the next stage starts from, as much as the settings do.
                    [content_print(self.encoded[example.id], self.branches) for example in stage.examples],
                    self.train_settings.model_dump(),
                    self.aligner.settings.model_dump(),
                    self.aligner.name,
                ]
            )
        return self._summary(rows)

    def folders(self, stages: Sequence[Stage]) -> list[Path]:
        """Where each stage leaves what it makes."""
        return [
            self.job.output / "stages" / f"{number}-{check_name(one.name, 'a stage')}"
            for number, one in enumerate(stages, 1)
        ]

    def _summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """What stands in a manifest; `rows` are the summaries of the stages so far."""
        return {
            **self.about,
            "stages": rows,
            "truncated_responses": self.truncated,
            "feature_cache": self.features,
            "canary": self.canary,
            "bfloat16": self.bfloat16,
            "base_held": self.base_held,
            "adapters": self.policy.adapted.summary() if self.policy.adapted else None,
            "processes": self.process.num_processes,
            "weights_shared_out": shares_out(self.policy.model),
            "deepspeed": is_deepspeed(),
        }

    def export(self, folder: Path) -> None:
        """Write the checkpoint; the first process does, with the others' shares of the weights."""
        adapters, first = self.train_settings.adapters, self.process.is_main_process
        state = None
        if self.sharded:
            state = whole(_trainable(self.policy.model) if adapters else _stored(self.policy.plain), first)
        if not first:
            return
        remove_left_overs(folder)
        if adapters:
            export_adapter(self.policy.model, self.processor, folder, self.job.model, state)
        else:
            export_full(self.policy.plain, self.processor, folder, state)


def _stored(model: Any) -> dict[str, Any]:
    """What a checkpoint holds of a model: weights that are tied to others, as a head may be to the embeddings, once."""
    tied = dict(model.named_parameters(remove_duplicate=False)).keys() - dict(model.named_parameters()).keys()
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def _trainable(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _save_finished(model: Any, folder: Path, first: bool, summary: dict[str, Any]) -> None:
    """Keep what a stage trained; the name appears only when the file is complete. Every process calls it, the first one writes."""
    from safetensors.torch import save_file

    from harness.core.files import atomic_path

    values = whole(_trainable(model), first)
    if not first:
        return
    remove_left_overs(folder / _FINISHED)
    with atomic_path(folder / _FINISHED) as temporary:
        save_file(values, temporary, metadata={"summary": json.dumps(summary)})
    for checkpoint in folder.glob("checkpoint-*"):
        remove(checkpoint, within=folder)


def _load_finished(model: Any, folder: Path) -> dict[str, Any] | None:
    """Load what a finished stage trained, and give back its summary; None if it was not finished."""
    path = folder / _FINISHED
    if not path.exists():
        return None
    import torch
    from safetensors import safe_open

    with torch.no_grad(), safe_open(path, framework="pt") as stored:
        for name, value in _trainable(model).items():
            value.copy_(stored.get_tensor(name))
        summary: dict[str, Any] = json.loads(stored.metadata()["summary"])
    return summary
