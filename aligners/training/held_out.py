"""Modality balance during a training: margins of text and image preference on pairs that are not trained on.

The reward of an answer y to a question x about a picture m is r = beta (log p(y | m, x) - log p_start(y | m, x)), with the starting model's
p_start. The text margin is r(chosen) - r(rejected answer), the image margin is r(chosen answer, original picture) - r(the same answer,
rejected picture). Both exist for every method, also for those that train no image term.

Source: Jiang et al., IJCAI 2025 (MFPO), Figure 2, which gives the rewards of both kinds. The held-out pairs, the intervals and the ratio
are ours. `harness balance` measures the same of complete runs (`harness.checkpoints.balance`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aligners.base import CHOSEN, IMAGE_REJECTED, REJECTED, PrepareContext
from aligners.preferences import PreferenceSet, read_preferences
from aligners.preferences.extras import turn_columns
from aligners.preferences.options import DataOptions
from aligners.preferences.read import columns_of, local_path
from aligners.rejected_images import ImagePreferenceSettings, generate
from aligners.training.encoding import Encoder
from aligners.training.job import AlignJob
from aligners.training.policy import token_logp
from aligners.training.session import Session
from aligners.training.values import starting_sums
from harness.core.errors import BadInputError
from harness.core.files import sha256_json, write_jsonl
from harness.core.stats import Counts, intervals
from harness.core.types import PreferenceExample, SampleScore
from harness.records.balance_file import HeldOutRecord, HeldOutRow, Margins, MeasuredRecord
from harness.records.training_files import IMAGE, TEXT, StageRow

logger = logging.getLogger(__name__)

BRANCHES = (CHOSEN, REJECTED, IMAGE_REJECTED)
_REWARDS = tuple(branch.name for branch in BRANCHES)
SEED = 977
"""Of the sample of held-out pairs and of the rejected pictures: the same for every run, so that runs can be compared, and unlike seeds that
users give trainings, whose samples of the same data (`--limit`) would be the same pairs."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs that are not trained on, each with a rejected picture; `about` has the facts for the record."""

    examples: Sequence[PreferenceExample]
    about: Mapping[str, Any]


def pair_content(example: PreferenceExample) -> str:
    """What makes two pairs the same pair: picture, earlier turns, question, context and both answers."""
    answers = [example.responses[name] for name in ("chosen", "rejected")]
    turns = turn_columns(example.history)
    # Pairs without turns or a context keep the hash that they had before there were any; the one is a list, the other a text.
    given = [value for value in (turns, example.context) if value]
    return sha256_json([example.images["original"].fingerprint(), example.prompt, *answers, *given])


def held_out_pairs(job: AlignJob, trained: Sequence[PreferenceExample]) -> HeldOutPairs | None:
    """The pairs of `train.balance.data` that are not among the trained ones; None if nothing is to be measured.

    Pairs without a rejected picture get one of whole-image noise, which needs no detector and is the same for every method.

    Raises:
        BadInputError: the pairs cannot be read, or all of them are trained on.
    """
    asked = job.train.balance
    if asked.data is None:
        return None
    data = read_preferences(
        job.held_out or asked.data,
        on_error=job.on_error,
        limit=asked.pairs,
        seed=SEED,
        cache=job.cache,
        options=_options(job, asked.data),
        allow_download=job.allow_download,
    )
    if data.dropped:
        first = data.dropped[0]
        logger.warning(
            f"held-out records that were skipped: {len(data.dropped)}; the first, {first.where}: {first.reason}"
        )
    known = {pair_content(example) for example in trained}
    images = ImagePreferenceSettings(corruption="whole-noise")
    where = f"train.balance.data={asked.data}"
    made, about = with_rejected_images(data, known, images, PrepareContext(job.cache, SEED), where)
    return HeldOutPairs(made, {"data": asked.data, "seed": SEED, "limit": asked.pairs, **about})


def _options(job: AlignJob, named: str) -> DataOptions:
    """How the held-out pairs are read: with the columns that the user named for the trained data, if they have them, too.

    Args:
        job: the alignment.
        named: `train.balance.data`.
    """
    options, source = job.data_options, job.held_out or named
    if not options.columns or source == job.data:
        return options
    # Worlds and data sets of the hub have columns of their own, whose names may be the same by chance.
    if local_path(named) is not None:
        there = columns_of(source, job.cache, options.columns)
        if there & set(options.columns.values()):
            return options  # if it has only some of them, reading it says which one it lacks
    logger.info(f"--columns applies to {job.data}, and not to train.balance.data={named}")
    return replace(options, columns={})


def with_rejected_images(
    data: PreferenceSet, trained: Set[str], images: ImagePreferenceSettings, context: PrepareContext, where: str
) -> tuple[list[PreferenceExample], dict[str, Any]]:
    """The pairs that are not trained on, each with a rejected picture, and facts about them for a record of margins.

    Args:
        data: the pairs.
        trained: `pair_content` of the trained ones.
        images: how rejected pictures are made where the data have none.
        context: cache and seed.
        where: the option or setting that names the data, with its value.

    Raises:
        BadInputError: all pairs are trained on.
    """
    examples = [example for example in data.examples if pair_content(example) not in trained]
    if not examples:
        raise BadInputError(
            f"all {len(data.examples)} pairs are trained on, so none is held out",
            where=where,
            remedy="choose other pairs, such as another seed of a world or a larger sample of the same set",
        )
    if left := len(data.examples) - len(examples):
        logger.warning(f"{left} of {len(data.examples)} held-out pairs are trained on, and are left out")
    made, notes = generate(examples, images, context)
    return made, {"n": len(made), "left_out": left, "fingerprint": data.fingerprint, "images": notes.written()}


class HeldOut:
    """Measures the margins of the model in training. Made before anything is trained, because it keeps the starting model's values.

    Several processes compute the same values, which sharded weights require; nothing random is drawn, so the training is not changed.
    """

    def __init__(self, session: Session, pairs: HeldOutPairs) -> None:
        self.session, self.pairs = session, pairs
        self.beta = float(session.aligner.settings.beta)
        encoder = Encoder(session.processor, BRANCHES, session.train_settings.max_length, None)
        self._encoded = [encoder.encode(example) for example in pairs.examples]
        if truncated := sum(example.truncated for example in self._encoded):
            logger.warning(f"{truncated} held-out responses were cut at {session.train_settings.max_length} tokens")
        self._groups = [example.images["original"].fingerprint() for example in pairs.examples]
        self._start = starting_sums(session, self._encoded, BRANCHES)

    def due(self, step: int, steps: int) -> bool:
        """Whether the margins are measured after this step of a stage."""
        return step == steps or step % self.session.train_settings.balance.every == 0

    def rewards(self) -> np.ndarray:
        """Rewards of the present model, [pairs, 3]: chosen, rejected answer, chosen answer with the rejected picture."""
        size = self.session.train_settings.micro
        model = self.session.policy.model
        was_training = model.training
        model.eval()
        sums = []
        for start in range(0, len(self._encoded), size):
            block = self._encoded[start : start + size]
            for values in self.session.values(block, BRANCHES, token_logp, "held out"):
                sums.append([float(values[branch.image, branch.response].sum(dtype=np.float64)) for branch in BRANCHES])
        model.train(was_training)
        return self.beta * (np.array(sums) - self._start)

    def logged(self, rewards: np.ndarray) -> dict[str, float]:
        """The mean margins, for the training log."""
        return {
            TEXT: float((rewards[:, 0] - rewards[:, 1]).mean()),
            IMAGE: float((rewards[:, 0] - rewards[:, 2]).mean()),
        }

    def measured(self, rewards: np.ndarray) -> Margins:
        """Margins with intervals, as `margins`."""
        return margins(rewards, self._groups)

    def keep(self, rewards: np.ndarray, path: Path) -> None:
        """Write the margins of every pair, for paired comparisons of trainings on the same pairs.

        Args:
            rewards: as `rewards` returns them.
            path: the file, of `HeldOutRow`.
        """
        text, image = rewards[:, 0] - rewards[:, 1], rewards[:, 0] - rewards[:, 2]
        rows = [
            HeldOutRow(pair=pair_content(example), picture=group, text=float(text[row]), image=float(image[row]))
            for row, (example, group) in enumerate(zip(self.pairs.examples, self._groups, strict=True))
        ]
        write_jsonl(path, (row.written() for row in rows))

    def record(self, rows: Sequence[StageRow]) -> HeldOutRecord:
        """For the manifest: what was measured after each finished stage, of which `rows` are the summaries."""
        measured, steps = [], 0
        for number, row in enumerate(rows, 1):
            steps += row.steps
            after = "end" if number == len(rows) else row.stage
            if row.balance is None:
                raise ValueError(f"the margins after stage {row.stage} were not measured")
            measured.append(MeasuredRecord(after=after, steps=steps, **row.balance.written()))
        return HeldOutRecord(**self.pairs.about, beta=self.beta, measured=measured)


def margins(rewards: np.ndarray, groups: Sequence[str]) -> Margins:
    """Mean rewards and margins with 95 % intervals.

    Args:
        rewards: [pairs, 3]: of the chosen answer, the rejected answer, and the chosen answer with the rejected picture.
        groups: the picture of each pair; pictures are resampled.
    """
    text, image = rewards[:, 0] - rewards[:, 1], rewards[:, 0] - rewards[:, 2]
    scores = [
        SampleScore(
            str(row),
            group,
            {
                **{name: float(rewards[row, column]) for column, name in enumerate(_REWARDS)},
                "text": float(text[row]),
                "image": float(image[row]),
                "text_above_0": float(text[row] > 0),
                "image_above_0": float(image[row] > 0),
            },
        )
        for row, group in enumerate(groups)
    ]
    counts = Counts.of(scores)

    def aggregate(totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        means = {name: total / totals["n"] for name, total in totals.items() if name != "n"}
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(means["text"] > 0, means["image"] / means["text"], np.nan)
        return {**means, "ratio": ratio}

    values, bounds = aggregate(counts.totals()), intervals(counts, aggregate)

    def mean(name: str) -> dict[str, Any]:
        interval = bounds[name]
        return {"value": float(values[name]), "ci": list(interval) if interval else None}

    sure = all(bounds[name] is not None and bounds[name][0] > 0 for name in ("text", "image"))  # type: ignore[index]
    return Margins.model_validate(
        {
            "rewards": {name: float(values[name]) for name in _REWARDS},
            **{name: mean(name) for name in ("text", "image", "text_above_0", "image_above_0")},
            "ratio": mean("ratio") if sure else None,
        }
    )
