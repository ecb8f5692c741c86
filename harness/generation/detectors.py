"""SENTINEL's judge: two detectors look for the objects that a sentence names; only what both say counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from aligners.rejected_images.detectors import GroundingDino, Owlv2
from aligners.rejected_images.settings import ImagePreferenceSettings
from harness.core.errors import BadInputError
from harness.generation.named_objects import NamedObjectsJudge, NamedObjectsSettings
from harness.judging.candidates import Candidate, CandidateJudgeSettings, Prompt, Verdict
from harness.models import fingerprint

if TYPE_CHECKING:
    from aligners.rejected_images.detectors import Detector

Kind = Literal["grounding-dino", "owlv2", "boxes"]
_KINDS: Mapping[str, type[GroundingDino | Owlv2]] = {"grounding-dino": GroundingDino, "owlv2": Owlv2}


class DetectorsSettings(NamedObjectsSettings):
    """Both detectors, and the parser of the sentences."""

    first: Kind = Field("grounding-dino", description="grounding-dino, owlv2, or boxes: the boxes in the data")
    second: Kind = Field("owlv2", description="the second detector, of the same kinds; its errors should be others")
    first_model: str | None = Field(None, description="folder or hub id of the first detector; default: as usual")
    second_model: str | None = Field(None, description="folder or hub id of the second detector; default: as usual")
    first_threshold: float | None = Field(
        None, gt=0, lt=1, description="minimum score of a box; default: the detector's (0.35, OWLv2 0.2)"
    )
    second_threshold: float | None = Field(None, gt=0, lt=1, description="the same, of the second detector")


class DetectorsJudge(NamedObjectsJudge):
    """Score of a sentence: 1 if both detectors find every object that it names, 0 if there is one that neither finds.

    A sentence with an object that only one detector finds is ignored, and so is a sentence that names no object.
    Source: SENTINEL (Peng et al., ICCV 2025), section 3.1, with YOLO-World as second detector and the nouns of a scene-graph parser. Here:
    OWLv2, and the objects of a vocabulary.
    """

    name, summary = "detectors", "two detectors look for the objects of each sentence; pairs of sentences (SENTINEL)"
    source = "SENTINEL, Peng et al., ICCV 2025"
    Settings = DetectorsSettings
    settings: DetectorsSettings
    sentences = True
    reads_context = False
    continues = True
    min_gap = 1.0

    def __init__(self, settings: CandidateJudgeSettings | None = None) -> None:
        super().__init__(settings)
        self._loaded: list[Detector | None] | None = None
        self._seen: dict[tuple[int, str, str], bool] = {}
        """(detector, image, class) -> whether it is found there."""
        self._looked = 0

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Check that images have boxes, if boxes are asked for, and that there is a parser."""
        self._extractor.mentions(["A dog."])
        if "boxes" in (self.settings.first, self.settings.second) and (
            bare := next((prompt for prompt in prompts if not prompt.regions), None)
        ):
            raise BadInputError(
                "the data has no boxes for this image",
                where=f"prompt {bare.id}",
                remedy="--set judge.first=grounding-dino --set judge.second=owlv2, or data with boxes",
            )

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the detectors, which are loaded when the first sentence is judged."""
        self._loaded = None

    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        """Find the objects that each sentence names in its picture."""
        mentions = self._extractor.mentions([candidate.text for candidate in candidates])
        named = {
            candidate.id: list(dict.fromkeys(mention.label for mention in some))
            for candidate, some in zip(candidates, mentions, strict=True)
        }
        for candidate in candidates:
            self._look(candidate.prompt, named[candidate.id])
            image = candidate.prompt.image.fingerprint()
            seen = {name: [self._seen[number, image, name] for number in (0, 1)] for name in named[candidate.id]}
            yield candidate.id, verdict_on(seen)

    def _look(self, prompt: Prompt, names: Sequence[str]) -> None:
        """Let both detectors look for objects in a picture; what they looked for before is known."""
        image = prompt.image.fingerprint()
        for number, detector in enumerate(self._detectors()):
            open_ = [name for name in names if (number, image, name) not in self._seen]
            if not open_:
                continue
            self._looked += 1
            if detector is None:
                words = self._vocabulary.words
                present = {words.get(region.label.lower(), region.label) for region in prompt.regions}
            else:
                [detections] = detector.detect([prompt.image.open()], [open_])
                present = {detection.keyword for detection in detections}
            self._seen.update({(number, image, name): name in present for name in open_})

    def _detectors(self) -> list[Detector | None]:
        """Both detectors; None stands for the boxes in the data."""
        if self._loaded is None:
            given = self.settings
            self._loaded = [
                None
                if kind == "boxes"
                else _KINDS[kind](ImagePreferenceSettings(detector=model, box_threshold=threshold))
                for kind, model, threshold in (
                    (given.first, given.first_model, given.first_threshold),
                    (given.second, given.second_model, given.second_threshold),
                )
            ]
        return self._loaded

    def reads_regions(self) -> bool:
        """Only if one of the detectors is the boxes of the data."""
        return "boxes" in (self.settings.first, self.settings.second)

    def identity(self) -> dict[str, Any]:
        """The settings, and the hashes of what they name on this machine: synonyms, and the weights of detectors."""
        return super().identity() | self._local_weights

    @cached_property
    def _local_weights(self) -> dict[str, Any]:
        places = {"first": self.settings.first_model, "second": self.settings.second_model}
        hashes = {name: fingerprint(place) for name, place in places.items() if place and Path(place).is_dir()}
        return {"weights": hashes} if hashes else {}

    def provenance(self) -> dict[str, Any]:
        """The settings, the detectors' names, and how often they looked at a picture."""
        names = [detector.name if detector else "boxes" for detector in self._loaded or []]
        return self.identity() | {"detectors": names, "took": {"looks": self._looked}}


def verdict_on(seen: Mapping[str, Sequence[bool]]) -> Verdict:
    """The verdict on a sentence.

    Args:
        seen: object that it names -> whether each detector finds it.
    """
    if not seen:
        return Verdict(None, error="the sentence names no object")
    absent = [name for name, found in seen.items() if not any(found)]
    if absent:
        return Verdict(0.0, f"no detector finds: {', '.join(absent)}")
    if not all(all(found) for found in seen.values()):
        return Verdict(None, error="the detectors disagree about an object")
    return Verdict(1.0, f"both detectors find: {', '.join(seen)}")
