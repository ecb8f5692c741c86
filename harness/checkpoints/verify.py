"""`harness verify`: checks, token by token, that a checkpoint is served as it was trained.

The trained side is a checkpoint as the trainer sees it: the processor that is next to its weights, `prompt_inputs`, which must give
the ids of the processor's own `apply_chat_template`, and transformers' own forward pass. The served side is a backend as `eval` starts
it, whose prompts and processors are the engine's. On probe images of many sizes the two must agree in the prompt's token ids after image
expansion, in the greedy tokens, and in the log-probability of every one of them. The trained side is given the served tokens (teacher
forcing): so every token can be compared, even after one that differs.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.checkpoints.ask import AskedCheckpoint
from harness.checkpoints.parity import Expected, compare, tolerance_of
from harness.checkpoints.probes import Probe, draw_probes
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import read_json, write_json
from harness.core.memory import give_back
from harness.core.progress import progress
from harness.core.record import check
from harness.models import (
    fingerprint,
    load_model,
    load_processor,
    may_be_base,
    own_prompt_ids,
    prompt_inputs,
    template_hash_of,
    with_adapters,
)
from harness.records.manifest_file import ManifestRecord
from harness.records.run_files import VerificationRecord, read_verification
from harness.runs.folders import MANIFEST
from harness.runs.state import KINDS
from harness.runs.targets import BASE, Target
from harness.serving.base import Backend, BackendSettings, Request, Sampling, TokenDetails
from harness.serving.contract import completions_of

logger = logging.getLogger(__name__)

NEW_TOKENS = 16
"""Number of tokens generated per probe."""
PROBES = 2
"""Number of probes of `eval --verify`, and the least for a verification that is stored."""
VERIFIED = "verified.json"
"""File in a run's folder with the results of a verification that it passed, by `eval --verify` or `harness verify`."""


def verify(
    asked: Sequence[AskedCheckpoint],
    backend: type[Backend],
    *,
    probes: int = 8,
    settings: BackendSettings | None = None,
) -> list[VerificationRecord]:
    """Compare checkpoints of one base on both sides; one engine serves them all, and is closed before the model is loaded again.

    Returns:
        One record per checkpoint.

    Raises:
        BadInputError: a checkpoint is broken, or the backend does not know its tokens.
        HarnessError: the engine failed, which vLLM also does if an adapter has no effect.
    """
    if not backend.gives_details:
        raise BadInputError(
            f"the backend '{backend.name}' does not report the tokens of prompts and answers",
            remedy="use --backend vllm, or --backend transformers",
        )
    drawn = draw_probes(probes)
    adapters = {checkpoint.name: checkpoint.adapter for checkpoint in asked if checkpoint.adapter is not None}
    with backend(asked[0].base, adapters, settings) as engine:
        answers, serving = served_side(engine, asked, drawn), engine.provenance()
    give_back()
    trained = TrainedSide(asked, serving["dtype"])
    tolerance = tolerance_of(serving)
    records = []
    with progress("the same in transformers", len(asked) * len(drawn)) as advance:
        for checkpoint in asked:
            expected: list[Expected] = []
            image_token = getattr(trained.processors[checkpoint.name], "image_token_id", None)
            served = [_before_image(answers[checkpoint.name][probe.id], image_token) for probe in drawn]
            for probe, answer in zip(drawn, served, strict=True):
                expected.append(trained.values(checkpoint, probe, answer))
                advance()
            comparison = compare(drawn, expected, served, tolerance)
            findings = [*recorded_weights(checkpoint), *comparison.findings]
            if comparison.findings:
                findings += trained.differences(checkpoint)
            records.append(
                VerificationRecord(
                    checkpoint=checkpoint.name,
                    base=checkpoint.base,
                    adapter=str(checkpoint.adapter) if checkpoint.adapter else None,
                    same=not findings,
                    **{**vars(comparison), "findings": findings},
                    serving=serving,
                )
            )
    return records


def ensure_verified(targets: Sequence[Target], backend: type[Backend], settings: BackendSettings) -> None:
    """`eval --verify`: send two probes to every checkpoint of one base that was not verified before, before the first item.

    It is not done by default, because it is expensive: the probabilities must come from transformers, and
    a 7B model does not fit beside an engine that fills the GPU. So the weights are loaded three times (engine, transformers, engine),
    which takes minutes. The cheaper check that every adapter has an effect in vLLM runs at every start.
    A passed verification is stored in `verified.json` in the run's folder and is not repeated until weights, template or engine change;
    neither is one that `harness verify` stored.

    Raises:
        BadInputError: as `verify`.
        HarnessError: a checkpoint is not served as it was trained.
    """
    new = [target for target in targets if not _kept(target.folder / VERIFIED, _stamp(target, backend, settings))]
    if not new:
        return
    asked = [AskedCheckpoint(target.name, target.base, target.adapter) for target in new]
    for target, verified in zip(new, verify(asked, backend, probes=PROBES, settings=settings), strict=True):
        if not verified.same:
            raise HarnessError(
                f"'{target.name}' is not served as it was trained: {(verified.findings or [''])[0]}",
                where=str(target.adapter or target.base),
                remedy=f"for details: harness verify {target.folder}",
            )
        keep_verified(target, verified, backend, settings)
        logger.info(f"{target.name}: served as it was trained")


def keep_verified(
    target: Target, verified: VerificationRecord, backend: type[Backend], settings: BackendSettings
) -> Path:
    """Store a verification that a run passed in the run's folder, with everything that it depends on; returns the file."""
    path = target.folder / VERIFIED
    stamp = {"checkpoint": target.name, **_stamp(target, backend, settings)}
    write_json(path, verified.model_copy(update=stamp).written())
    return path


def _stamp(target: Target, backend: type[Backend], settings: BackendSettings) -> dict[str, Any]:
    """Everything that a verification depends on."""
    adapter_template = (
        template_hash_of(target.adapter) if target.adapter and _brings_processor(target.adapter) else None
    )
    return {
        "weights": target.fingerprint,
        "templates": [target.template, adapter_template],
        "backend": settings.identity(backend.name),
    }


def _kept(path: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether the same was verified before."""
    before = read_verification(path) if path.exists() else None
    return before is not None and {name: getattr(before, name) for name in stamp} == dict(stamp)


def _before_image(served: TokenDetails, image_token: int | None) -> TokenDetails:
    """An answer up to a token that stands for a part of an image: transformers would look for that image's features."""
    if image_token not in served.token_ids:
        return served
    end = served.token_ids.index(image_token)
    return dataclasses.replace(served, token_ids=served.token_ids[:end], logprobs=served.logprobs[:end])


def served_side(
    engine: Backend, asked: Sequence[AskedCheckpoint], probes: Sequence[Probe]
) -> dict[str, dict[str, TokenDetails]]:
    """A started backend's answers by checkpoint and probe."""
    sampling = Sampling(max_new_tokens=NEW_TOKENS)
    requests = [
        Request(
            f"{number}/{probe.id}",
            checkpoint.name if checkpoint.adapter else BASE,
            probe.prompt,
            probe.image,
            sampling,
            True,
        )
        for number, checkpoint in enumerate(asked)
        for probe in probes
    ]
    answers: dict[str, dict[str, TokenDetails]] = {checkpoint.name: {} for checkpoint in asked}
    for completion in completions_of(engine, requests):
        number, _, probe = completion.id.partition("/")
        if completion.details is None:
            raise HarnessError(f"the backend '{engine.name}' gave an answer without its tokens", where=completion.id)
        answers[asked[int(number)].name][probe] = completion.details
    return answers


class TrainedSide:
    """Checkpoints of one base in transformers."""

    def __init__(self, asked: Sequence[AskedCheckpoint], dtype: str) -> None:
        """Load the base once, the adapters on top of it, and each checkpoint's processor."""
        self.model = load_model(asked[0].base, dtype)
        self.processors = {checkpoint.name: load_processor(_processor_folder(checkpoint)) for checkpoint in asked}
        self.served = load_processor(asked[0].base)
        adapters = [checkpoint for checkpoint in asked if checkpoint.adapter is not None]
        if adapters:
            # PEFT's names are those of torch modules, which have no dots.
            self.adapters = {checkpoint.name: f"adapter{number}" for number, checkpoint in enumerate(adapters)}
            self.model = with_adapters(
                self.model,
                {
                    self.adapters[checkpoint.name]: checkpoint.adapter
                    for checkpoint in adapters
                    if checkpoint.adapter is not None
                },
            )
        self.wrapped = bool(adapters)

    def values(self, checkpoint: AskedCheckpoint, probe: Probe, served: TokenDetails) -> Expected:
        """The expected values for the served tokens; only the prompt if it differs from the served one."""
        processor, picture = self.processors[checkpoint.name], probe.image.open()
        inputs, tokens = prompt_inputs(processor, probe.prompt, picture), served.token_ids
        prompt_ids = tuple(own_prompt_ids(processor, probe.prompt, picture))
        if (ours := tuple(inputs["input_ids"][0].tolist())) != prompt_ids:
            raise HarnessError(
                f"the prompt's ids in training are not those of the processor's own chat template: {len(ours)} tokens that start with "
                f"{list(ours[:4])}, {len(prompt_ids)} that start with {list(prompt_ids[:4])}",
                where=f"{_processor_folder(checkpoint)}, probe {probe.id}",
                remedy="do not train on it: this is a bug in the harness, or in the checkpoint's processor",
            )
        image_token = getattr(self.processors[checkpoint.name], "image_token_id", None)
        if prompt_ids != served.prompt_ids:  # an image of another size may not even fit the model
            return Expected(prompt_ids, image_token)
        if checkpoint.adapter:
            self.model.set_adapter(self.adapters[checkpoint.name])
            logs, without = self._logs(inputs, tokens), self._chosen(self._without(inputs, tokens), tokens)
        else:
            logs, without = self._without(inputs, tokens) if self.wrapped else self._logs(inputs, tokens), None
        best = logs.max(-1)
        return Expected(
            prompt_ids,
            image_token,
            self._chosen(logs, tokens),
            tuple(best.indices.tolist()),
            tuple(best.values.tolist()),
            without,
        )

    def _without(self, inputs: Mapping[str, Any], tokens: Sequence[int]) -> Any:
        with self.model.disable_adapter():
            return self._logs(inputs, tokens)

    def _logs(self, inputs: Mapping[str, Any], tokens: Sequence[int]) -> Any:
        """Log-probabilities at the positions of the answer's tokens, [tokens, vocabulary] float32."""
        import torch

        width = inputs["input_ids"].shape[1]
        whole = {}
        for name, value in inputs.items():
            # Token ids, mask and types of tokens: the answer continues with them.
            if value.shape == inputs["input_ids"].shape:
                tail = list(tokens) if name == "input_ids" else [int(name == "attention_mask")] * len(tokens)
                value = torch.cat([value, torch.tensor([tail], dtype=value.dtype)], 1)
            whole[name] = value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
        with torch.no_grad():
            logits = self.model(**whole).logits[0, width - 1 : -1]
        return logits.float().log_softmax(-1).cpu()

    @staticmethod
    def _chosen(logs: Any, tokens: Sequence[int]) -> tuple[float, ...]:
        return tuple(float(row[token]) for row, token in zip(logs, tokens, strict=True))

    def differences(self, checkpoint: AskedCheckpoint) -> list[str]:
        """Sentences about how the checkpoint's own processor differs from the served one."""
        trained, served = self.processors[checkpoint.name], self.served
        parts = []
        if trained.chat_template != served.chat_template:
            parts.append("the chat template")
        if trained.tokenizer.get_vocab() != served.tokenizer.get_vocab():
            parts.append("the tokenizer")
        mine, theirs = trained.image_processor.to_dict(), served.image_processor.to_dict()
        parts += [
            f"the image processor's {name} ({mine.get(name)}, served {theirs.get(name)})"
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        ]
        if not parts:
            return []
        places = f"{_processor_folder(checkpoint)} and {checkpoint.base}"
        return [f"{', '.join(parts)} differ between {places}: copy the first one's processor files to the second"]


def _processor_folder(checkpoint: AskedCheckpoint) -> str:
    """Folder of the checkpoint's own processor: the adapter's if it contains one, as the trainer's export does."""
    return str(checkpoint.adapter) if checkpoint.adapter and _brings_processor(checkpoint.adapter) else checkpoint.base


def _brings_processor(adapter: Path) -> bool:
    return (adapter / "tokenizer_config.json").exists()


def recorded_weights(checkpoint: AskedCheckpoint) -> list[str]:
    """Sentences about weights that differ from those in the checkpoint's manifest."""
    folder = checkpoint.adapter or Path(checkpoint.base)
    manifest = read_json(folder / MANIFEST, "manifest", finite=False) if (folder / MANIFEST).exists() else {}
    if not isinstance(manifest, dict) or manifest.get("kind") not in KINDS:
        return []  # a model's folder may have a file of this name that is not ours
    record = check(ManifestRecord, manifest, "manifest", folder / MANIFEST)
    changed = []
    base = record.base.fingerprint
    if checkpoint.adapter and base and not may_be_base(checkpoint.base, base, record.base.location):
        changed.append(
            f"the base's weights are not those that the adapter was trained on: restore the old ones in {checkpoint.base}"
        )
    if record.checkpoint and fingerprint(folder) != record.checkpoint.fingerprint:
        changed.append(f"the weights in {folder} were changed after they were written: export or align again")
    return changed
