"""The files of a set of generated pairs: `config.json`, and the manifests of shards and of the whole set."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from aligners.preferences.set_records import SetFile
from harness.core.record import AnyText, Number, Record, Whole


class SampledModel(Record):
    """The model whose answers are paired."""

    label: AnyText = Field(description="as the user named it")
    name: str = Field(description="of the run, or of the model")
    fingerprint: str = Field(description="of what answers")


class Prompts(Record):
    """The prompts of a set."""

    source: AnyText = Field(description="as the user named it")
    count: Whole
    fingerprint: str = Field(
        description="hash of ids, texts, images and references, and of the objects if the judge goes by them"
    )


class LengthBalance(Record):
    """How pairs were left out to make chosen and rejected responses equally long."""

    ratio: Number = Field(description="pairs are left out whose lengths differ more; 0: none")
    left_out: Whole
    mean_words: list[Number] = Field(description="of chosen and rejected responses")


class PairSetConfig(Record):
    """What determines a set of generated pairs, `config.json`."""

    kind: str = Field(description="preference_pairs")
    format: int = Field(description="version of the columns")
    model: SampledModel
    template: str = Field(description="hash of the prompt's template")
    backend: str = Field(description="with the settings that can change an answer")
    prompts: Prompts
    sampling: dict[str, Any] = Field(description="how answers are sampled")
    judge: Any = Field(description="what identifies the judge")
    pairing: dict[str, Any] = Field(description="which answers make a pair")
    seed: int
    shards: Annotated[int, Field(ge=1)] = Field(description="number of shards")
    part_size: Annotated[int, Field(ge=1)] = Field(description="prompts per part")


class PartnerRow(Record):
    """The second answer that a judge made from an answer, with which it is paired."""

    text: AnyText
    score: int | float
    why: AnyText = Field(description="the reason, in the judge's words")
    spans: list[list[Whole]] | None = Field(
        None, description="[start, end) of the characters in which it differs from the answer"
    )
    candidate_spans: list[list[Whole]] | None = Field(None, description="the same, in the answer")
    weights: list[list[Number]] = Field(
        default_factory=list,
        description="[start, end, weight] of characters, for methods with token weights; 1 for the others",
    )
    candidate_weights: list[list[Number]] = Field(default_factory=list, description="the same, in the answer")


class VerdictRow(Record):
    """A row of `candidates/*/verdicts.jsonl`: a judge's score of an answer."""

    key: str = Field(description="hash of everything that determines the verdict")
    score: int | float
    why: AnyText = Field(description="the reason, in the judge's words")
    partner: PartnerRow | None = Field(None, description="the second answer, of a judge that makes them")


class PairSetManifest(PairSetConfig):
    """What a set of generated pairs, or a shard of it, holds: `manifest.json`, `shard-1-of-4.json`."""

    shard: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="number of this shard, and of all; not in a whole set of several"
    )
    answered_by: str = Field(description="name that an endpoint's model gave itself")
    pairs: Whole
    counts: dict[str, Whole] = Field(description="prompts and answers, and why answers could not be paired")
    not_judged: dict[str, Whole] = Field(description="reason -> answers without a score")
    length_balance: LengthBalance | list[LengthBalance] = Field(
        description="of a whole set of several shards: each one's"
    )
    judged_by: Any = Field(
        description="the judge, and what the judging took; of a whole set of several shards: each one's"
    )
    files: list[SetFile]
    held_out: dict[str, Whole] = Field(
        default_factory=dict,
        description="suite -> different images left out of the prompts; prompts, if there is no `held_out_prompts`",
    )
    held_out_prompts: dict[str, Whole] = Field(
        default_factory=dict, description="suite -> prompts left out; earlier versions did not write it"
    )
    compared_with: list[str] = Field(
        default_factory=list,
        description="suites whose images were compared with the prompts'; earlier versions did not write it",
    )
    invalid_records: Whole = Field(
        0, description="records of the prompts that were skipped (--on-error skip); earlier versions did not write it"
    )
    seconds: float = Field(description="that it took")

    def left_out(self) -> list[str]:
        """A sentence about every suite whose images were left out."""
        return [
            f"{images:,} images that {suite} asks about, with {self.held_out_prompts[suite]:,} prompts"
            if suite in self.held_out_prompts
            else f"{images:,} prompts about images that {suite} asks about"
            for suite, images in self.held_out.items()
        ]
