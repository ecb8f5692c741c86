"""Object HalBench: CHAIR on detailed descriptions of COCO images."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.base import Benchmark, BenchmarkSettings, Totals, harmonic, needed, ratio
from benchmarks.objects import Extractor, Mention, Vocabulary, make_extractor, read_vocabulary
from harness.errors import BadInputError
from harness.files import read_json, read_jsonl
from harness.judging.base import Judge
from harness.types import Evidence, ImageRef, Item, MetricSpec, Response, SampleScore

_SPEAKER = "Assistant:"
QUESTIONS = "obj_halbench_300_with_image.jsonl"
SYNONYMS = "synonyms_refine.txt"


class HalBenchSettings(BenchmarkSettings):
    """How objects are found. The extraction is part of the metrics' name."""

    extractor: str = "spacy"
    synonyms: Path | None = None
    """A vocabulary file in the official form; None is the one in the data folder, else our own COCO-80 table."""


class ObjectHalBench(Benchmark):
    """Which objects a description names that are not in the image.

    Ground truth is the annotated instances united with the objects of the human captions, found by the same parser.

    Source: Rohrbach et al., EMNLP 2018 (CHAIR); Yu et al., CVPR 2024 (the 300 images and CHAIRs_refine).
    """

    name, title, max_new_tokens = "halbench", "Object HalBench", 512
    source = "Rohrbach et al., EMNLP 2018; Yu et al. (RLHF-V), CVPR 2024"
    Settings = HalBenchSettings
    settings: HalBenchSettings
    metrics = (
        MetricSpec("chair_s", "CHAIRs", higher_is_better=False, headline=True),
        MetricSpec("chair_s_refine", "CHAIRs_refine", higher_is_better=False),
        MetricSpec("chair_i", "CHAIRi", higher_is_better=False, headline=True),
        MetricSpec("object_recall", "recall", higher_is_better=True, headline=True),
        MetricSpec("object_f1", "object F1", higher_is_better=True, headline=True),
        MetricSpec("mean_length", "length", higher_is_better=None, unit="words", headline=True),
    )

    @property
    def variant(self) -> str:
        """The extractor."""
        return self.settings.extractor

    def __init__(self, settings: BenchmarkSettings | None = None) -> None:
        super().__init__(settings)
        self._synonyms = self.settings.synonyms

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return read_vocabulary(self._synonyms)

    @cached_property
    def _extractor(self) -> Extractor:
        return make_extractor(self.settings.extractor, self._vocabulary)

    def items(self, data: Path) -> list[Item]:
        """Questions and images of the folder, with instances and captions of its COCO annotations as reference."""
        questions = data / QUESTIONS
        if not questions.exists():
            raise BadInputError(
                "Object HalBench's questions are missing",
                where=str(questions),
                remedy=f"put {QUESTIONS}, annotations/ and images/ there (docs/ARCHITECTURE.md, Folder layouts)",
            )
        if self.settings.synonyms is None and (official := data / SYNONYMS).exists():
            self._synonyms = official
        truth = coco_truth(data / "annotations")
        items = []
        for number, row in enumerate(read_jsonl(questions, "questions")):
            image_id = str(row.get("image_id"))
            if image_id not in truth:
                raise BadInputError(f"image {image_id} has no annotations", where=f"{questions}:{number + 1}")
            items.append(
                Item(f"{image_id}#{number}", str(row["question"]), _image(row, data), image_id, truth[image_id])
            )
        return items

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], dict[str, Response]]:
        """`--annotations`: a COCO folder or JSON lines {image_id, instances, captions}; `--responses`: {image_id, text}."""
        annotations = needed(files, "annotations", self.name)
        truth = coco_truth(annotations) if annotations.is_dir() else _truth_rows(annotations)
        if self.settings.synonyms is None and "synonyms" in files:
            self._synonyms = needed(files, "synonyms", self.name)
        path = needed(files, "responses", self.name)
        items: list[Item] = []
        responses: dict[str, Response] = {}
        seen: dict[str, int] = defaultdict(int)
        for number, row in enumerate(read_jsonl(path, "responses"), 1):
            image_id = str(row.get("image_id"))
            if image_id not in truth:
                raise BadInputError(f"image {image_id} is not in the annotations", where=f"{path}:{number}")
            if not isinstance(row.get("text"), str):
                raise BadInputError("the response has no 'text'", where=f"{path}:{number}")
            name = f"{image_id}#{seen[image_id]}"
            seen[image_id] += 1
            items.append(Item(name, "", ImageRef(name=image_id), image_id, truth[image_id]))
            responses[name] = Response(name, row["text"])
        return items, responses

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Counts of one response: mentions, hallucinated mentions, distinct correct classes, ground truth classes, words."""
        truth = self._ground_truth(items)
        texts, kept = zip(*(_cleaned(responses[item.id].text) for item in items), strict=True) if items else ((), ())
        return [
            self._one(item, text, [_moved(mention, places) for mention in mentions], truth[item.group])
            for item, text, places, mentions in zip(items, texts, kept, self._extractor.mentions(texts), strict=True)
        ]

    def _ground_truth(self, items: Sequence[Item]) -> dict[str, frozenset[str]]:
        references = {item.group: item.reference for item in items}
        captions = [(group, caption) for group, reference in references.items() for caption in reference["captions"]]
        found: dict[str, set[str]] = {group: set() for group in references}
        for (group, _), mentions in zip(
            captions, self._extractor.mentions([caption for _, caption in captions]), strict=True
        ):
            found[group] |= {mention.label for mention in mentions}
        for group, reference in references.items():
            # An instance category is a class, or a word for one where the vocabulary is not COCO's.
            found[group] |= {self._vocabulary.words.get(name, name) for name in reference["instances"]}
        return {group: frozenset(names) for group, names in found.items()}

    @staticmethod
    def _one(item: Item, text: str, mentions: Sequence[Mention], truth: frozenset[str]) -> SampleScore:
        wrong = [mention for mention in mentions if mention.label not in truth]
        correct = {mention.label for mention in mentions} & truth
        evidence = [
            Evidence(
                mention.word, "hallucinated" if mention.label not in truth else "correct", mention.label, mention.span
            )
            for mention in mentions
        ]
        evidence += [Evidence(name, "missed", name) for name in sorted(truth - correct)]
        counts = {
            "responses": 1,
            "hallucinated_responses": bool(wrong),
            "responses_with_objects": bool(mentions),
            "mentions": len(mentions),
            "hallucinated_mentions": len(wrong),
            "found": len(correct),
            "truth": len(truth),
            "words": len(text.split(" ")),
        }
        return SampleScore(item.id, item.group, {name: float(value) for name, value in counts.items()}, tuple(evidence))

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Pooled ratios of the counts."""
        chair_i, recall = (
            ratio(totals["hallucinated_mentions"], totals["mentions"]),
            ratio(totals["found"], totals["truth"]),
        )
        return {
            "chair_s": ratio(totals["hallucinated_responses"], totals["responses"]),
            "chair_s_refine": ratio(totals["hallucinated_responses"], totals["responses_with_objects"]),
            "chair_i": chair_i,
            "object_recall": recall,
            "object_f1": harmonic(1 - chair_i, recall),
            "mean_length": ratio(totals["words"], totals["responses"]),
        }

    def official(self, totals: Totals) -> dict[str, str]:
        """What RLHF-V's scripts print: percentages and the length with one decimal, recall (from the summary) with two."""
        if self.settings.extractor != "nltk":
            return {}
        values = self.aggregate(totals)
        scales = {
            "chair_s": (100, 1),
            "chair_s_refine": (100, 1),
            "chair_i": (100, 1),
            "object_recall": (100, 2),
            "mean_length": (1, 1),
        }
        return {
            name: f"{float(values[name]) * scale:.{digits}f}"
            for name, (scale, digits) in scales.items()
            if np.isfinite(values[name])
        }

    def provenance(self) -> dict[str, Any]:
        """Extractor and vocabulary."""
        return self._extractor.provenance()


def _cleaned(text: str) -> tuple[str, Sequence[int]]:
    """The text as the official loader has it (every "Assistant:" removed, stripped), and the place in `text` of each character."""
    places: Sequence[int] = range(len(text))
    if _SPEAKER in text:
        removed = {index for start in _starts(text) for index in range(start, start + len(_SPEAKER))}
        places = [index for index in range(len(text)) if index not in removed]
        text = text.replace(_SPEAKER, "")
    start = len(text) - len(text.lstrip())
    text = text.strip()
    return text, places[start : start + len(text)]


def _starts(text: str) -> Iterator[int]:
    start = text.find(_SPEAKER)
    while start >= 0:
        yield start
        start = text.find(_SPEAKER, start + len(_SPEAKER))


def _moved(mention: Mention, places: Sequence[int]) -> Mention:
    if mention.span is None:
        return mention
    start, end = mention.span
    return mention._replace(span=(places[start], places[end - 1] + 1))


def coco_truth(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Image id -> instances (category names) and captions, from all COCO files of a folder.

    Raises:
        BadInputError: no instances or no captions, or a file of another form.
    """
    files = {kind: sorted(folder.glob(f"*{kind}*.json")) for kind in ("instances", "captions")}
    for kind, found in files.items():
        if not found:
            raise BadInputError(
                f"the COCO {kind} are missing",
                where=str(folder / f"{kind}_val2014.json"),
                remedy="unpack COCO's annotations_trainval2014 there",
            )
    truth: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"instances": [], "captions": []})
    for kind, paths in files.items():
        for path in paths:
            content = read_json(path, f"COCO {kind}")
            try:
                names = {row["id"]: row["name"] for row in content.get("categories", [])}
                for row in content["annotations"]:
                    truth[str(row["image_id"])][kind].append(
                        names[row["category_id"]] if kind == "instances" else row["caption"]
                    )
            except (KeyError, TypeError, AttributeError) as error:
                raise BadInputError(f"this is not a COCO {kind} file: {error!r} is missing", where=str(path)) from None
    return dict(truth)


def _truth_rows(path: Path) -> dict[str, dict[str, list[str]]]:
    truth = {}
    for number, row in enumerate(read_jsonl(path, "annotations"), 1):
        try:
            truth[str(row["image_id"])] = {"instances": list(row["instances"]), "captions": list(row["captions"])}
        except (KeyError, TypeError):
            raise BadInputError(
                "an annotation is {image_id, instances: [category], captions: [text]}", where=f"{path}:{number}"
            ) from None
    return truth


def _image(row: Mapping[str, Any], data: Path) -> ImageRef:
    value = str(row.get("image", ""))
    path = data / "images" / value
    if len(value) < 200 and path.is_file():
        return ImageRef(path=path, name=value)
    try:
        return ImageRef(data=base64.b64decode(value, validate=True), name=str(row.get("image_id")))
    except ValueError:
        raise BadInputError(
            f"the image '{value[:60]}' is neither a file in images/ nor base64", where=str(data / QUESTIONS)
        ) from None
