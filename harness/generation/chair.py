"""CHAIR as a judge: the smaller the share of hallucinated object mentions, the better the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from aligners.preferences.overlap import coco_number
from benchmarks.chair_counts import classes_of, cleaned, counted
from benchmarks.coco import coco_files, coco_truth
from harness.core.errors import BadInputError
from harness.core.types import Item
from harness.generation.named_objects import NamedObjectsJudge, NamedObjectsSettings
from harness.judging.candidates import Candidate, Prompt, Verdict
from harness.models.known import file_hash


class ChairSettings(NamedObjectsSettings):
    """The source of the true objects, and the parser of the answers."""

    annotations: str | None = Field(
        None,
        description="folder of COCO's instances_*.json and captions_*.json; default: the objects with boxes in the data",
    )
    recall_weight: float = Field(
        0.0, ge=0, description="weight of the share of the image's objects that are named, which is added to the score"
    )


class ChairJudge(NamedObjectsJudge):
    """Score = -CHAIRi + recall_weight * recall, both in [0, 1], of one answer.

    An answer that names no object has no CHAIRi and is not judged: saying nothing is not preferred.
    CHAIR-DPO (Compagnoni et al., BMVC 2025) has recall weight 0 and detections in place of annotations.
    """

    name, summary = "chair", "our CHAIR scorer, against COCO's annotations or the data's boxes"
    source = "Rohrbach et al., EMNLP 2018; as a judge: CHAIR-DPO, BMVC 2025"
    Settings = ChairSettings
    settings: ChairSettings

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Check that the objects of every image are known, in the vocabulary's words."""
        self._truth = self._annotated(prompts) if self.settings.annotations else self._boxed(prompts)

    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        """Parse and count; no model is asked."""
        texts = [cleaned(candidate.text) for candidate in candidates]
        mentions = self._extractor.mentions([text for text, _ in texts])
        for candidate, (text, places), found in zip(candidates, texts, mentions, strict=True):
            item = Item(candidate.id, candidate.prompt.text, candidate.prompt.image, candidate.prompt.id)
            scored = counted(item, text, found, self._truth[candidate.prompt.id], places, None)
            counts = scored.counts
            if not counts["mentions"]:
                yield candidate.id, Verdict(None, error="the answer names no object")
                continue
            recall = counts["found"] / counts["truth"] if counts["truth"] else 0.0
            share = counts["hallucinated_mentions"] / counts["mentions"]
            wrong = list(dict.fromkeys(one.label for one in scored.evidence if one.verdict == "hallucinated"))
            why = f"not in the image: {', '.join(wrong)}" if wrong else "all objects named are in the image"
            evidence = tuple(one for one in scored.evidence if one.verdict != "missed")
            yield candidate.id, Verdict(self.settings.recall_weight * recall - share, why, evidence)

    def reads_regions(self) -> bool:
        """Not with COCO's annotations, which are read in their place."""
        return not self.settings.annotations

    def identity(self) -> dict[str, Any]:
        """The settings, and the hashes of the files that they name."""
        return super().identity() | self._annotations

    @cached_property
    def _annotations(self) -> dict[str, Any]:
        if not self.settings.annotations:
            return {}
        return {
            "annotations_sha256": {path.name: file_hash(path) for path in coco_files(Path(self.settings.annotations))}
        }

    def _boxed(self, prompts: Sequence[Prompt]) -> dict[str, frozenset[str]]:
        words, truth = self._vocabulary.words, {}
        for prompt in prompts:
            if not prompt.regions:
                raise BadInputError(
                    "the objects of this image are unknown: the data has no boxes for it",
                    where=f"prompt {prompt.id}",
                    remedy="--annotations FOLDER with COCO's instances and captions, or another --judge",
                )
            labels = {region.label.lower() for region in prompt.regions}
            if strange := sorted(labels - words.keys()):
                raise BadInputError(
                    f"the vocabulary does not have the object '{strange[0]}'",
                    where=f"prompt {prompt.id}",
                    remedy="--set judge.synonyms=FILE with a line for each class of the data's boxes",
                )
            truth[prompt.id] = frozenset(words[label] for label in labels)
        return truth

    def _annotated(self, prompts: Sequence[Prompt]) -> dict[str, frozenset[str]]:
        assert self.settings.annotations
        annotated = coco_truth(Path(self.settings.annotations))
        names = {prompt.id: str(coco_number(prompt.image.name or str(prompt.image.path or ""))) for prompt in prompts}
        if absent := [name for name, number in names.items() if number not in annotated]:
            raise BadInputError(
                f"COCO has no annotations of {len(absent)} of {len(names)} images",
                where=f"{self.settings.annotations}, prompt {absent[0]}",
                remedy="images are identified by the number at the end of their file name: COCO_val2014_000000000042.jpg",
            )
        references = {number: annotated[number] for number in names.values()}
        truth = classes_of(references, self._extractor, self._vocabulary)
        return {name: truth[number] for name, number in names.items()}
