"""The one preference trainer, on `transformers.Trainer`: read, prepare, encode, train stage by stage, export."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligners.base import CHOSEN, Aligner, AlignJob, AlignResult, Branch, PrepareContext, Stage, StageContext
from aligners.data import read_preferences
from aligners.encoding import EncodedExample, encode_all
from aligners.families import check_family
from aligners.layout import Batch, by_branch, collate, row_lengths
from aligners.loop import run_stage
from aligners.policy import Policy, entropy_of, token_logp
from aligners.reference import ContentKeys, Keys, Reference, ValueStore, fill
from harness.errors import BadInputError, HarnessError
from harness.files import sha256_json, write_jsonl
from harness.models import export_adapter, export_full, fingerprint, load_model, load_processor, template_hash
from harness.progress import console, progress
from harness.types import PreferenceExample


def align(aligner: Aligner, job: AlignJob) -> AlignResult:
    """Run one alignment. See `AlignJob` for what it takes and `docs/ARCHITECTURE.md` for what it leaves.

    Raises:
        BadInputError: the data or a setting is at fault.
        HarnessError: the loss was not finite, or the model cannot be had.
    """
    from accelerate import PartialState

    started = time.perf_counter()
    process = PartialState()
    with process.main_process_first():  # the others find what it made in the cache
        data = read_preferences(job.data, on_error=job.on_error, limit=job.limit, seed=job.train.seed, cache=job.cache)
        context = PrepareContext(job.cache, job.train.seed, output=job.output if process.is_main_process else None)
        examples = aligner.prepare(data.examples, context)
    if data.dropped and process.is_main_process:
        write_jsonl(
            job.output / "dropped.jsonl", ({"where": d.where, "id": d.id, "reason": d.reason} for d in data.dropped)
        )
        console.print(f"[yellow]{len(data.dropped)} records were skipped: {job.output / 'dropped.jsonl'}[/yellow]")
    if not examples:
        raise BadInputError("no preference example is left to train on", where=job.data)
    run = _Run(aligner, job, examples, process)
    stages = aligner.stages(examples, run)
    summary = run.train(stages)
    checkpoint = job.output / "checkpoint"
    if process.is_main_process:
        run.export(checkpoint)
        shutil.rmtree(job.output / "stages", ignore_errors=True)
    process.wait_for_everyone()
    return AlignResult(
        checkpoint,
        {
            "data": {
                "label": data.label,
                "fingerprint": data.fingerprint,
                "examples": len(examples),
                "dropped": len(data.dropped),
            },
            "prepared": context.notes,
            **summary,
            "seconds": round(time.perf_counter() - started, 1),
        },
    )


class _Run(StageContext):
    """One alignment under way."""

    def __init__(self, aligner: Aligner, job: AlignJob, examples: Sequence[PreferenceExample], process: Any) -> None:
        import torch

        self.aligner, self.job, self.train_settings, self.process = aligner, job, job.train, process
        self.branches = list(aligner.branches)
        torch.manual_seed(job.train.seed)
        self.processor = load_processor(job.model)
        check_family(job.model)
        gpu = torch.cuda.is_available()
        self.bfloat16 = job.train.in_bfloat16(gpu)
        # Full weights stay in float32 and are cast in the step; frozen ones are held in the type they are computed in.
        dtype = "bfloat16" if self.bfloat16 and job.train.tuning == "lora" else "float32"
        model = load_model(job.model, dtype)
        if not gpu:
            # Eager attention with a mask is faster than the fused kernel on CPUs at short lengths.
            model.set_attn_implementation({"text_config": "eager"})
        self.policy = Policy(
            model,
            self.processor,
            job.train.tuning,
            job.train.lora,
            job.train.savings,
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
        self.content = ContentKeys()

    def _encode(self, examples: Sequence[PreferenceExample]) -> dict[str, EncodedExample]:
        encoded = encode_all(
            self.processor,
            examples,
            self.branches,
            self.train_settings.max_length,
            "corrections" in self.aligner.needs,
        )
        self.truncated = sum(one.truncated for one in encoded.values())
        if self.truncated:
            console.print(
                f"[yellow]{self.truncated} responses were cut at {self.train_settings.max_length} tokens[/yellow]"
            )
        return encoded

    def batch(self, examples: Sequence[EncodedExample], branches: Sequence[Branch] | None = None) -> Batch:
        """A prepared batch, not yet on the model's device."""
        pad = self.processor.tokenizer.pad_token_id or 0
        return self.policy.prepare(
            collate(examples, branches or self.branches, pad, self.train_settings.savings.shared_prefix)
        )

    def entropy(self, examples: Sequence[PreferenceExample]) -> list[float]:
        """See `StageContext.entropy`."""

        def mean_entropy(block: Sequence[EncodedExample]) -> list[dict[tuple[str, str], np.ndarray]]:
            found = self._values(block, [CHOSEN], entropy_of)
            return [{pair: value.mean(keepdims=True) for pair, value in one.items()} for one in found]

        encoded = [self.encoded[example.id] for example in examples]
        store, keys, _ = self._stored(
            "entropy", "start", encoded, [CHOSEN], mean_entropy, "measuring the examples' difficulty"
        )
        return [float(store[next(iter(keys[one.id].values()))][0]) for one in encoded]

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
        }
        keep = self.train_settings.savings.reference_cache
        store = ValueStore(self.job.cache, key, keep)
        keys = {example.id: self.content.of(example, branches) for example in examples}
        wanted = [key for one in keys.values() for key in one.values()]
        store.load(wanted)
        if all(key in store for key in wanted):
            return store, keys, 0
        self.policy.model.eval()
        # Blocks of like length, several at a time in the layout.
        size = 2 * self.train_settings.micro_batch_size
        ordered = sorted(examples, key=lambda one: max(row_lengths(one, branches)))
        blocks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        share = (self.process.process_index, self.process.num_processes) if keep else (0, 1)
        with progress(title, len(ordered)) as advance:
            computed = fill(store, blocks, keys, compute, share=share, done=advance)
        self.process.wait_for_everyone()
        store.load(wanted)
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
            found = by_branch(self.policy.response_values(batch, value), batch.layouts)
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
            log.unlink(missing_ok=True)
            shutil.rmtree(self.job.output / "stages", ignore_errors=True)
        self.process.wait_for_everyone()
        for stage in stages:  # the first model's values must be taken before anything is trained
            if stage.reference == "initial":
                initial[stage.name] = self._reference(stage, "start")
        trained = "start"
        for number, stage in enumerate(stages):
            folder = self.job.output / "stages" / f"{number}-{stage.name}"
            if _load_finished(self.policy.model, folder):
                console.print(f"[dim]stage {stage.name}: finished before[/dim]")
            else:
                reference = initial.get(stage.name) or self._reference(stage, trained)
                examples = [self.encoded[example.id] for example in stage.examples]
                rows.append(run_stage(self, stage.name, examples, reference, folder, log))
                if self.process.is_main_process:
                    _save_finished(self.policy.model, folder)
            trained = sha256_json(
                [
                    trained,
                    stage.name,
                    self.train_settings.model_dump(),
                    self.aligner.settings.model_dump(),
                    self.aligner.name,
                ]
            )
        return {
            "stages": rows,
            "truncated_responses": self.truncated,
            "feature_cache": self.features,
            "bfloat16": self.bfloat16,
        }

    def export(self, folder: Path) -> None:
        """Write the checkpoint."""
        if self.train_settings.tuning == "lora":
            export_adapter(self.policy.model, self.processor, folder, self.job.model)
        else:
            export_full(self.policy.plain, self.processor, folder)


def _trainable(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _save_finished(model: Any, folder: Path) -> None:
    """Keep what a stage trained; the name appears only when the file is complete."""
    from safetensors.torch import save_file

    from harness.files import atomic_path

    with atomic_path(folder / "finished.safetensors") as temporary:
        save_file({name: value.detach().contiguous().clone() for name, value in _trainable(model).items()}, temporary)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _load_finished(model: Any, folder: Path) -> bool:
    """Load what a finished stage trained; False if it was not finished."""
    path = folder / "finished.safetensors"
    if not path.exists():
        return False
    import torch
    from safetensors.torch import load_file

    stored = load_file(path)
    with torch.no_grad():
        for name, value in _trainable(model).items():
            value.copy_(stored[name])
    return True
