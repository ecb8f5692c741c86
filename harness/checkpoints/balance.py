"""`harness balance`: whether an alignment changed the preference between texts or the one between pictures.

The reward of a pair (picture m, answer y) to a question x is r = beta (log p(y | m, x) - log p_start(y | m, x)), with the starting model's
p_start. On pairs that were not trained on, the text margin is r(chosen) - r(rejected answer), the image margin is r(chosen answer with the
original picture) - r(the same with the rejected picture). So it can be measured for every method, including those that never saw a
rejected picture.

Source: Jiang et al., IJCAI 2025 (MFPO), Figure 2, which gives the rewards of both kinds. The held-out pairs, the intervals and the ratio
are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aligners.base import Branch, PrepareContext
from aligners.preferences import read_preferences
from aligners.preferences.options import DataOptions
from aligners.rejected_images import ImagePreferenceSettings
from aligners.training.encoding import EncodedExample, Encoder
from aligners.training.held_out import BRANCHES, margins, with_rejected_images
from harness.checkpoints.trained_pairs import trained_on
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_json, write_json
from harness.core.memory import give_back
from harness.core.names import name_from
from harness.core.paths import cache_folder
from harness.core.progress import progress
from harness.core.types import PreferenceExample
from harness.core.version import VERSION
from harness.core.worlds import pairs_of
from harness.models import load_model, load_processor, may_be_base, prompt_inputs, with_adapters
from harness.records.balance_file import FOLDER, BalanceRecord, MeasuredRecord
from harness.records.manifest_file import AlignConfig, TrainedManifest
from harness.records.training_files import StageRow
from harness.runs.folders import STAGES, Run, open_run
from harness.runs.state import read_object
from harness.runs.targets import target_of_run

logger = logging.getLogger(__name__)

_EVERYTHING = 10**6
"""No length limit: training cuts long responses at `max_length`; they are measured whole here."""


@dataclass(frozen=True)
class BalanceRequest:
    """What to measure: a run, the pairs, and how rejected pictures are made if the pairs have none.

    Attributes:
        run: aligned and complete; its kept stages are measured, too.
        data: preference data: a file, a known name, or a world's label.
        limit: a seeded sample of this many pairs.
        images: how rejected pictures are made; must be the same for all runs that are compared.
        dtype: of the weights; auto is the model's own.
        seed: of the sample and of the rejected pictures.
        options: how the pairs are read.
    """

    run: Run
    data: str
    limit: int = 200
    images: ImagePreferenceSettings = field(default_factory=lambda: ImagePreferenceSettings(corruption="whole-noise"))
    dtype: str = "auto"
    seed: int = 0
    options: DataOptions = field(default_factory=DataOptions)


@dataclass(frozen=True)
class _Measured:
    """One checkpoint: its name, its folder, and the number of steps up to it."""

    after: str
    folder: Path
    steps: int


def measure_balance(request: BalanceRequest) -> BalanceRecord:
    """Measure the margins, and keep them in the run's folder: in `balance/DATA.json`, or in `balance/DATA-HASH.json` if the former has
    those on other pairs whose name has the same last part.

    Returns:
        The record: `n` pairs, `left_out` (those that were trained on), `images` (how rejected pictures were made), and `measured`: for each
        kept stage and for the whole run the mean rewards, `text` and `image` margin with 95 % intervals (bootstrap over pictures), the
        share of pairs with a margin above 0, and `ratio`, image margin divided by text margin, None unless both are significantly above
        0.

    Raises:
        BadInputError: the run, its base or the pairs are unusable, or all pairs were used in training.
    """
    run = request.run
    if not run.aligned:
        raise BadInputError(f"'{run.name}' is not an aligned run", where=str(run.path))
    target, manifest = target_of_run(run), run.manifest_as(TrainedManifest)
    config = manifest.config
    base = str(target.base) if target.adapter else manifest.base.location
    if not may_be_base(base, manifest.base.fingerprint, manifest.base.location):
        raise BadInputError(
            "the base's weights differ from those that the run started from", where=base, remedy="restore the old ones"
        )
    examples, about = _pairs(request, config)
    checkpoints = list(_checkpoints(run, manifest.summary.stages))
    processor = load_processor(str(target.adapter) if target.adapter else base)
    encoder = Encoder(processor, BRANCHES, _EVERYTHING, None)
    encoded = {example.id: encoder.encode(example) for example in examples}
    values = _log_probabilities(request, base, checkpoints, examples, encoded, processor)
    beta = float(config.settings["method"]["beta"])
    groups = [example.images["original"].fingerprint() for example in examples]
    measured = [
        MeasuredRecord(
            after=checkpoint.after, steps=checkpoint.steps, **margins(beta * (after - values[0]), groups).written()
        )
        for checkpoint, after in zip(checkpoints, values[1:], strict=True)
    ]
    record = BalanceRecord(
        run=run.name,
        method=config.method,
        data=request.data,
        seed=request.seed,
        limit=request.limit,
        beta=beta,
        dtype=request.dtype,
        checkpoint=manifest.checkpoint.fingerprint,
        **about,
        measured=measured,
        harness=VERSION,
    )
    write_json(_record_of(run.path / FOLDER, request.data), record.written())
    return record


def _record_of(folder: Path, data: str) -> Path:
    """The file for the margins on these pairs: of the last part of their name, and of its hash if other pairs have that file."""
    name = name_from(Path(data).name)
    path = folder / f"{name}.json"
    before = read_object(path)
    if before is None or before.get("data", data) == data:
        return path
    return folder / f"{name}-{sha256_json(data)[:8]}.json"


def _pairs(request: BalanceRequest, config: AlignConfig) -> tuple[list[PreferenceExample], dict[str, Any]]:
    """The pairs that were not used in training, each with a rejected picture, and facts about them for the record."""
    method = config.method
    data = read_preferences(
        pairs_of(request.data, method),
        limit=request.limit,
        seed=request.seed,
        cache=cache_folder(),
        options=request.options,
    )
    context = PrepareContext(cache_folder(), request.seed)
    return with_rejected_images(
        data, trained_on(request.run, config), request.images, context, f"--data {request.data}"
    )


def _checkpoints(run: Run, rows: Sequence[StageRow]) -> Iterator[_Measured]:
    """The checkpoints of kept stages and the final one, each with the number of steps up to it."""
    steps = 0
    for number, row in enumerate(rows, 1):
        steps += row.steps
        folder = run.path / STAGES / f"{number}-{row.stage}"
        if number < len(rows) and open_run(folder).manifest is not None:
            yield _Measured(row.stage, folder / "checkpoint", steps)
    yield _Measured("end", run.checkpoint, steps)


def _log_probabilities(
    request: BalanceRequest,
    base: str,
    checkpoints: Sequence[_Measured],
    examples: Sequence[PreferenceExample],
    encoded: Mapping[str, EncodedExample],
    processor: Any,
) -> np.ndarray:
    """Sums of the answers' log-probabilities in nats, [1 + checkpoints, examples, branches]; the starting model comes first."""
    adapters = {
        f"adapter{number}": checkpoint.folder
        for number, checkpoint in enumerate(checkpoints)
        if _is_adapter(checkpoint.folder)
    }
    logps = np.full((1 + len(checkpoints), len(examples), len(BRANCHES)), np.nan)
    with progress("measuring margins", logps.shape[0] * len(examples)) as advance:

        def fill(place: int, model: Any) -> None:
            for row, example in enumerate(examples):
                for column, branch in enumerate(BRANCHES):
                    logps[place, row, column] = answer_logp(model, processor, example, encoded[example.id], branch)
                advance()

        model = load_model(base, request.dtype)
        if not adapters:
            fill(0, model)
        else:
            model = with_adapters(model, adapters)
            with model.disable_adapter():
                fill(0, model)
        for number, checkpoint in enumerate(checkpoints):
            if not _is_adapter(checkpoint.folder):
                del model
                give_back()
                model = load_model(str(checkpoint.folder), request.dtype)
            else:
                model.set_adapter(f"adapter{number}")
            fill(1 + number, model)
    return logps


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def answer_logp(
    model: Any, processor: Any, example: PreferenceExample, encoded: EncodedExample, branch: Branch
) -> float:
    """log p(answer | picture, question, context) in nats, the end token included if there is one, by the model's own forward pass.

    Raises:
        HarnessError: the picture's tokens differ from the encoded ones.
    """
    import torch

    inputs = prompt_inputs(processor, example.prompt, example.images[branch.image].open(), example.history)
    width, answer = inputs["input_ids"].shape[1], encoded.responses[branch.response]
    prefix = list(encoded.prefixes[branch.image])
    tail = [*prefix[width:], *answer]  # a context is part of the prefix
    if inputs["input_ids"][0].tolist() != prefix[:width]:
        raise HarnessError("the question's tokens with this picture differ from the encoded ones", where=example.id)
    whole = {}
    for name, value in inputs.items():
        if value.shape == inputs["input_ids"].shape:  # ids, mask, token types: extended by the answer
            more = tail if name == "input_ids" else [int(name == "attention_mask")] * len(tail)
            value = torch.cat([value, torch.tensor([more], dtype=value.dtype)], 1)
        whole[name] = value.to(model.device, model.dtype if value.is_floating_point() else None)
    with torch.no_grad():
        logits = model(**whole).logits[0, width - 1 : -1].float()
    targets = torch.tensor(tail, device=logits.device)
    return float(logits.log_softmax(-1).gather(-1, targets[:, None])[-len(answer) :].double().sum())
