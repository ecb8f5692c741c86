"""The one preference trainer, on `transformers.Trainer`: read, prepare, encode, train stage by stage, export."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligners.base import Aligner, AlignJob, AlignResult, Branch, PrepareContext, Stage, StageContext
from aligners.branches import Batch, EncodedExample, Encoder, collate
from aligners.data import read_preferences
from aligners.loop import run_stage
from aligners.policy import Policy
from aligners.reference import Pair, ReferenceStore, encoding_digest
from harness.errors import BadInputError
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
    started = time.perf_counter()
    data = read_preferences(job.data, on_error=job.on_error, limit=job.limit, seed=job.train.seed, cache=job.cache)
    if data.dropped:
        write_jsonl(
            job.output / "dropped.jsonl", ({"where": d.where, "id": d.id, "reason": d.reason} for d in data.dropped)
        )
        console.print(f"[yellow]{len(data.dropped)} records were skipped: {job.output / 'dropped.jsonl'}[/yellow]")
    context = PrepareContext(job.cache, job.train.seed, output=job.output)
    examples = aligner.prepare(data.examples, context)
    if not examples:
        raise BadInputError("no preference example is left to train on", where=job.data)
    run = _Run(aligner, job, examples)
    stages = aligner.stages(examples, run)
    summary = run.train(stages)
    checkpoint = run.export()
    shutil.rmtree(job.output / "stages", ignore_errors=True)
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

    def __init__(self, aligner: Aligner, job: AlignJob, examples: Sequence[PreferenceExample]) -> None:
        import torch

        self.aligner, self.job, self.train_settings = aligner, job, job.train
        self.branches = list(aligner.branches)
        torch.manual_seed(job.train.seed)
        self.processor = load_processor(job.model)
        gpu = torch.cuda.is_available()
        self.bfloat16 = job.train.precision == "bfloat16" or (job.train.precision == "auto" and gpu)
        # Full weights stay in float32 and are cast in the step; frozen ones are held in the type they are computed in.
        dtype = "bfloat16" if self.bfloat16 and job.train.tuning == "lora" else "float32"
        model = load_model(job.model, dtype)
        if not gpu:
            # Eager attention with a mask is faster than the fused kernel on CPUs at short lengths.
            model.set_attn_implementation({"text_config": "eager"})
        self.policy = Policy(model, self.processor, job.train.tuning, job.train.lora, job.train.savings, self.bfloat16)
        if job.train.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        self.encoded = self._encode(examples)
        self.features = self.policy.keep_features(
            image for one in self.encoded.values() for image in one.images.values()
        )
        self.digest = encoding_digest(list(self.encoded.values()), self.branches)

    def _encode(self, examples: Sequence[PreferenceExample]) -> dict[str, EncodedExample]:
        encoder = Encoder(
            self.processor, self.branches, self.train_settings.max_length, "corrections" in self.aligner.needs
        )
        encoded: dict[str, EncodedExample] = {}
        with progress("encoding examples", len(examples)) as advance:
            for example in examples:
                encoded[example.id] = encoder.encode(example)
                advance()
        self.truncated = sum(one.truncated for one in encoded.values())
        if self.truncated:
            console.print(
                f"[yellow]{self.truncated} responses were cut at {self.train_settings.max_length} tokens[/yellow]"
            )
        return encoded

    def batch(self, examples: Sequence[EncodedExample], branches: Sequence[Branch] | None = None) -> Batch:
        """A batch on the model's device."""
        batch = collate(
            examples,
            branches or self.branches,
            self.processor.tokenizer.pad_token_id or 0,
            self.train_settings.savings.shared_prefix,
        )
        return batch.to(self.policy.device)

    def entropy(self, examples: Sequence[PreferenceExample]) -> list[float]:
        """See `StageContext.entropy`."""
        import torch

        branch = [Branch("chosen")]
        head = self.policy.plain.get_output_embeddings()
        found: dict[str, float] = {}
        for block in self._blocks(
            [self.encoded[example.id] for example in examples], "measuring the examples' difficulty"
        ):
            batch = self.batch(block, branch)
            layout = batch.layouts["chosen"]
            with torch.no_grad(), self.autocast():
                hidden = self.policy.hidden(batch)[layout.row[:, None], layout.predictor]
                for row, name in enumerate(batch.ids):
                    logs = head(hidden[row][layout.mask[row]]).float().log_softmax(-1)
                    found[name] = float(-(logs.exp() * logs).sum(-1).mean())
        return [found[example.id] for example in examples]

    def autocast(self) -> Any:
        """The context in which the model is run."""
        import torch

        return torch.autocast(self.policy.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _blocks(self, examples: Sequence[EncodedExample], title: str) -> Any:
        """Examples in blocks of like length, with a bar."""
        size = 2 * self.train_settings.micro_batch_size
        ordered = sorted(examples, key=lambda one: one.length(self.branches))
        with progress(title, len(ordered)) as advance:
            for start in range(0, len(ordered), size):
                yield ordered[start : start + size]
                advance(len(ordered[start : start + size]))

    def _reference(self, stage: Stage, weights: str) -> ReferenceStore:
        """The reference's values for a stage, from disk where they were computed before."""
        examples = [self.encoded[example.id] for example in stage.examples]
        key = {
            "model": fingerprint(self.job.model),
            "trained": weights,
            "template": template_hash(self.processor),
            "data": self.digest,
            "examples": sha256_json([example.id for example in examples]),
            "bfloat16": self.bfloat16,
            "branches": [[branch.image, branch.response] for branch in self.branches],
        }
        store = ReferenceStore(self.job.cache, key)
        store.fill(examples, self.branches, self._compute_reference, keep=self.train_settings.savings.reference_cache)
        return store

    def _compute_reference(self, examples: Sequence[EncodedExample]) -> list[dict[Pair, np.ndarray]]:
        import torch

        found: dict[str, dict[Pair, np.ndarray]] = {}
        self.policy.model.eval()
        for block in self._blocks(examples, "reference log-probabilities"):
            batch = self.batch(block)
            with torch.no_grad(), self.autocast():
                logps = self.policy.logps(batch)
            for row, name in enumerate(batch.ids):
                found[name] = {
                    (branch.image, branch.response): logps[branch.name]
                    .tokens[row][logps[branch.name].mask[row]]
                    .cpu()
                    .numpy()
                    for branch in self.branches
                }
        return [found[example.id] for example in examples]

    def train(self, stages: list[Stage]) -> dict[str, Any]:
        """Train the stages in turn; finished ones of an interrupted run are taken from disk."""
        rows: list[dict[str, Any]] = []
        initial: dict[str, ReferenceStore] = {}
        log = self.job.output / "train_log.jsonl"
        if not self.job.resume:
            log.unlink(missing_ok=True)
        for stage in stages:  # the first model's values must be taken before anything is trained
            if stage.reference == "initial":
                initial[stage.name] = self._reference(stage, "start")
        trained = "start"
        for number, stage in enumerate(stages):
            folder = self.job.output / "stages" / f"{number}-{stage.name}"
            if _load_finished(self.policy.model, folder, self.job.resume):
                console.print(f"[dim]stage {stage.name}: finished before[/dim]")
            else:
                reference = initial.get(stage.name) or self._reference(stage, trained)
                examples = [self.encoded[example.id] for example in stage.examples]
                rows.append(run_stage(self, stage.name, examples, reference, folder, log))
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

    def export(self) -> Path:
        """Write the checkpoint."""
        folder = self.job.output / "checkpoint"
        if self.train_settings.tuning == "lora":
            export_adapter(self.policy.model, self.processor, folder, self.job.model)
        else:
            export_full(self.policy.plain, self.processor, folder)
        return folder


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


def _load_finished(model: Any, folder: Path, resume: bool) -> bool:
    """Load what a finished stage trained; False if it was not finished (or this is a new run)."""
    path = folder / "finished.safetensors"
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    if not path.exists():
        return False
    import torch
    from safetensors.torch import load_file

    stored = load_file(path)
    with torch.no_grad():
        for name, value in _trainable(model).items():
            value.copy_(stored[name])
    return True
