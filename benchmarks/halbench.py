"""Object HalBench: CHAIR on detailed descriptions of COCO images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from benchmarks.answer_files import AnswerSet, answer_row, asked
from benchmarks.answers import AnswerRow, ImageNames, PackedResponses, identity
from benchmarks.base import Benchmark, BenchmarkSettings, Totals, harmonic, needed, ratio
from benchmarks.chair_counts import classes_of, cleaned, counted
from benchmarks.coco import coco_truth, truth_rows
from benchmarks.halbench_answers import match
from benchmarks.halbench_images import image_of
from benchmarks.judged_files import prompt_kind
from benchmarks.objects import EXTRACTORS, Extractor, Mention, Vocabulary, make_extractor, read_vocabulary
from benchmarks.objects.llm_parser import FEWEST_WORDS, OFFICIAL_PROMPT, PROMPT, LlmExtractor, read_objects
from benchmarks.objects.nltk_parser import missing_data
from harness.core.declared import FrontierChart, MatchedForm, OfflineFile, SettingOption
from harness.core.errors import BadInputError, HarnessError, UnknownNameError, shown
from harness.core.files import sha256_bytes, sha256_json
from harness.core.inside import Folder
from harness.core.reading import placed_rows, read_records
from harness.core.typed import Fields
from harness.core.types import ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge, JudgeRequest
from harness.judging.panel import ask
from harness.judging.templates import fill, read_template

_TRUTHS = 10_000
"""Approximate number of images whose classes are cached."""
QUESTIONS = "obj_halbench_300_with_image.jsonl"
SYNONYMS = "synonyms_refine.txt"
SCRIPT = "eval_gpt_obj_halbench.py"
"""The official script; its prompt for the LLM mode is read, never run."""


class HalBenchSettings(BenchmarkSettings):
    """Settings of the extraction of objects. The extractor is part of the metrics' names."""

    extractor: str = Field(
        "spacy",
        description="nltk (the official parser), llm (the official LLM mode), spacy (needs no download) or spacy:PIPELINE",
    )
    synonyms: Path | None = Field(
        None,
        description="synonyms file in the official format; None: the one in the data folder, or else our own COCO-80 table",
    )
    matched_words: int | None = Field(
        default=None, ge=1, description="also compute CHAIR of the first N words of every response"
    )
    template: Path | None = Field(
        None,
        description="llm: the judge's prompt: the official script, or a text file with the field {description} (or {question} and "
        "{answer}); None: the official script if it is next to the questions, or else our own prompt",
    )
    pipeline: str | None = Field(
        None,
        description="llm: the spaCy pipeline that tags the judge's phrases; None: the official one, or the best that is installed",
    )

    @model_validator(mode="after")
    def _of_a_judge(self) -> HalBenchSettings:
        if self.extractor != "llm" and (named := [one for one in ("template", "pipeline") if getattr(self, one)]):
            raise ValueError(
                f"{named[0]} is for extractor=llm, and the extractor is '{self.extractor}' (spacy:PIPELINE names another pipeline)"
            )
        return self


class ObjectHalBench(Benchmark):
    """Measures the objects in a description that are not in the image.

    Ground truth is the annotated instances united with the objects of the human captions, found by the same parser.

    Source: Rohrbach et al., EMNLP 2018 (CHAIR); Yu et al., CVPR 2024 (the 300 images and CHAIRs_refine).
    """

    name, title, max_new_tokens = "halbench", "Object HalBench", 512
    source = "Rohrbach et al., EMNLP 2018; Yu et al. (RLHF-V), CVPR 2024"
    Settings = HalBenchSettings
    settings: HalBenchSettings
    _METRICS = (
        MetricSpec("chair_s", "CHAIRs", higher_is_better=False, headline=True),
        MetricSpec("chair_s_refine", "CHAIRs_refine", higher_is_better=False),
        MetricSpec("chair_i", "CHAIRi", higher_is_better=False, headline=True),
        MetricSpec("object_recall", "recall", higher_is_better=True, headline=True, invented_by="chair_s"),
        MetricSpec("object_f1", "object F1", higher_is_better=True, headline=True),
        MetricSpec("response_f1", "response F1", higher_is_better=True),
        MetricSpec("mean_length", "length", None, unit="words", headline=True, kind="count", invented_by="chair_s"),
    )
    place = 10
    group = "hallucination"
    charts = (FrontierChart("object_recall", "Hallucination against recall", said="object recall", invented="CHAIRs"),)
    matched = MatchedForm(
        "chair_s",
        MetricSpec("chair_s_matched", "CHAIRs matched", higher_is_better=False, headline=True),
        MetricSpec("chair_i_matched", "CHAIRi matched", higher_is_better=False),
    )
    pipelines: ClassVar = {"en_core_web_trf": "LLM mode"}
    offline_files = (
        OfflineFile("annotations", "COCO folder, or JSON lines {image_id, instances, captions}"),
        OfflineFile("responses", "JSON lines {image_id, text}, or COCO's results"),
    )
    answer_keys = ("text", "caption", "answer", "response", "prediction")
    setting_options = (
        SettingOption("extractor", "nltk (official), llm (official, a judge), spacy[:PIPELINE]"),
        SettingOption("synonyms", "the synonyms file; default: our own table"),
        SettingOption("matched_words", "also compute CHAIR of the first N words"),
    )

    @property
    def metrics(self) -> Sequence[MetricSpec]:
        """With `matched_words`, also CHAIR of that number of first words."""
        words = self.settings.matched_words
        if words is None:
            return self._METRICS
        return (
            *self._METRICS,
            MetricSpec("chair_s_matched", f"CHAIRs of {words} words", higher_is_better=False),
            MetricSpec("chair_i_matched", f"CHAIRi of {words} words", higher_is_better=False),
        )

    @property
    def variant(self) -> str:
        """The extractor."""
        return self.settings.extractor

    def __init__(self, settings: BenchmarkSettings | None = None) -> None:
        super().__init__(settings)
        if self.settings.extractor.partition(":")[0] not in EXTRACTORS:
            raise UnknownNameError("extractor", self.settings.extractor, EXTRACTORS)
        self._synonyms = self.settings.synonyms
        self._template_file = self.settings.template
        self._truths: dict[str, tuple[Mapping[str, Any], frozenset[str]]] = {}
        self._annotations = ""
        """Hash of the images' ground truth, if the suite's own files have it."""
        self.needs_judge = self.settings.extractor == "llm"
        self._objects_are_given = False

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return read_vocabulary(self._synonyms)

    @cached_property
    def _extractor(self) -> Extractor:
        """The extractor of responses, and that of the human captions, for which the LLM mode uses the official parser if its data
        exist."""
        name = self.settings.extractor
        if self.needs_judge:
            name = "spacy" if missing_data() else "nltk"
        return make_extractor(name, self._vocabulary)

    @cached_property
    def _llm(self) -> LlmExtractor:
        return LlmExtractor(self._vocabulary, self.settings.pipeline)

    def items(self, data: Path) -> list[Item]:
        """Questions and images of the folder, with instances and captions of its COCO annotations as reference."""
        questions = data / QUESTIONS
        if not questions.exists():
            raise self.missing_files(questions)
        if self.settings.synonyms is None and (official := data / SYNONYMS).exists():
            self._synonyms = official
        if self.settings.template is None and (script := data / SCRIPT).exists():
            self._template_file = script
        truth = coco_truth(data / "annotations")
        items, names, images = [], ImageNames(truth), Folder(data / "images")
        with self.reading(questions):
            for number, (place, row) in enumerate(placed_rows(questions, "questions")):
                where = f"{questions}:{number + 1}"
                image_id = self._annotated(names, identity(row, "image_id", where, "question"), where)
                image = image_of(Fields(row, where, "question"), place, questions, images)
                prompt = Fields(row, where, "question").text("question", empty=False)
                items.append(Item(f"{image_id}#{number}", prompt, image, image_id, truth[image_id]))
        self._annotations = sha256_json({item.group: item.reference for item in items})
        return items

    @staticmethod
    def _annotated(names: ImageNames, name: str, where: str) -> str:
        """The annotated image with a name."""
        if (found := names.find(name)) is None:
            raise BadInputError(f"image {shown(name)} is not in the annotations", where=where)
        return found

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--annotations`: a COCO folder or JSON lines {image_id, instances, captions}; `--responses`: {image_id, text}.

        COCO's results, a JSON array of {image_id, caption}, are read as well. For the extractor llm a response may have `objs`, the
        words of its objects; then no judge is asked about it.
        """
        annotations = needed(files, "annotations", self.name)
        truth = coco_truth(annotations) if annotations.is_dir() else truth_rows(annotations)
        if self.settings.synonyms is None and "synonyms" in files:
            self._synonyms = needed(files, "synonyms", self.name)
        items: list[Item] = []
        responses = PackedResponses()
        seen: dict[str, int] = defaultdict(int)
        names, keys = ImageNames(truth), set()
        images: dict[str, ImageRef] = {}
        self._objects_are_given = True
        for where, record in read_records(needed(files, "responses", self.name), "responses"):
            row = answer_row(record, where, self.answer_keys)
            keys.add(row.key)
            image_id = self._annotated(names, identity(row.doc, "image_id", where), where)
            image = images.setdefault(image_id, ImageRef(name=image_id))
            name = f"{image_id}#{seen[image_id]}"
            seen[image_id] += 1
            reference: Mapping[str, Any] = truth[image_id]
            if self.needs_judge and "objs" in record:
                reference = {**reference, "objs": Fields(record, where, "response").texts("objs")}
            self._objects_are_given &= "objs" in record
            items.append(Item(name, "", image, image.name, reference))
            responses.add(row.response(name))
        if others := sorted(keys - {"text"}):
            self.notes.append(f"answers were read from {' and '.join(others)}")
        if not annotations.is_dir():  # a COCO folder has a hundred thousand images without questions
            items += [
                Item(f"{name}#0", "", ImageRef(name=name), name, truth[name]) for name in truth if name not in seen
            ]
        return items, responses

    def match_answers(self, rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
        """By image, several descriptions of one image in order; without names of images, in the order of the questions."""
        match(rows, path, answers, self.notes)
        others = {question for row in rows if (question := asked(row)) is not None}
        others -= {item.prompt for item in answers.items}
        if others:
            self.notes.append(f"some answers were given to another question than this suite's: {shown(min(others))}")
        if keys := sorted({row.key for row in rows} - {"text"}):
            self.notes.append(f"answers were read from {' and '.join(keys)}")

    def truth(self, item: Item) -> str:
        """The annotated objects."""
        return "objects: " + (", ".join(dict.fromkeys(item.reference["instances"])) or "none")

    def judge_requests(self, items: Sequence[Item], responses: Mapping[str, Response]) -> list[JudgeRequest]:
        """For the extractor llm: the prompts for responses that are not too short and have no given objects."""
        if not self.needs_judge:
            return []
        template, _ = self._template
        requests = []
        for item in items:
            text, _ = cleaned(responses[item.id].text)
            if "objs" not in item.reference and len(text.split()) >= FEWEST_WORDS:
                fields = {"description": text, "question": item.prompt, "answer": text}
                requests.append(JudgeRequest(item, responses[item.id], fill(template, fields)))
        return requests

    @cached_property
    def _template(self) -> tuple[str, str]:
        """The prompt of the LLM mode, and its SHA-256."""
        if self._template_file is None:
            return PROMPT, sha256_bytes(PROMPT.encode())
        text, digest = read_template(self._template_file, "prompt_template")
        if not any(field in text for field in ("{description}", "{answer}")):
            raise BadInputError("the prompt has no placeholder for the description", where=str(self._template_file))
        return text, digest

    def prompt_kind(self) -> str:
        """Of the LLM mode's prompt."""
        return (
            prompt_kind(self._template[1], OFFICIAL_PROMPT, sha256_bytes(PROMPT.encode())) if self.needs_judge else ""
        )

    def variant_with(self, judge: Judge | None) -> str:
        """Also names the pipeline that tags the judge's phrases, if it is not the official one."""
        other = self._llm.other_pipeline if judge is not None and self.needs_judge else ""
        return ", ".join(part for part in (super().variant_with(judge), other) if part)

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Counts of one response: mentions, hallucinated mentions, distinct correct classes, ground truth classes, words."""
        truth = self._ground_truth(items)
        texts, kept = zip(*(cleaned(responses[item.id].text) for item in items), strict=True) if items else ((), ())
        listed: Sequence[Sequence[Mention] | str]
        listed = self._listed(items, responses, texts, judge) if self.needs_judge else self._extractor.mentions(texts)
        return [
            SampleScore(item.id, item.group, {}, unscored=mentions)
            if isinstance(mentions, str)
            else counted(item, text, mentions, truth[item.group], places, self.settings.matched_words)
            for item, text, places, mentions in zip(items, texts, kept, listed, strict=True)
        ]

    def _listed(
        self, items: Sequence[Item], responses: Mapping[str, Response], texts: Sequence[str], judge: Judge | None
    ) -> list[list[Mention] | str]:
        """Mentions of every response from the judge's reply, or the reason why there are none."""
        requests = self.judge_requests(items, responses)
        votes = {}
        if requests:
            if judge is None:
                raise HarnessError("the extractor llm needs a judge", remedy="choose one: --judge openai")
            if judge.votes > 1:
                raise BadInputError("the extractor llm needs exactly one reply per response", remedy="--judge-votes 1")
            votes = ask(judge, requests, read_objects)
        result: list[list[Mention] | str] = []
        for item, text in zip(items, texts, strict=True):
            if item.id not in votes:
                result.append(self._llm.mentions(item.reference.get("objs", ()), text))
                continue
            vote = votes[item.id][0]
            if vote.value is None:
                result.append(vote.reason or "the judge gave no reply")
            else:
                result.append(self._llm.mentions(self._llm.words(vote.value), text))
        return result

    def _ground_truth(self, items: Sequence[Item]) -> dict[str, frozenset[str]]:
        """The classes of every image, cached for the next part of a large file, which may have the same images."""
        kept = self._truths
        if len(kept) > _TRUTHS:
            kept.clear()
        new = {
            item.group: item.reference
            for item in items
            if item.group not in kept or kept[item.group][0] is not item.reference
        }
        for group, classes in classes_of(new, self._extractor, self._vocabulary).items():
            kept[group] = (new[group], classes)
        return {item.group: kept[item.group][1] for item in items}

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Pooled ratios of the counts. F1 is the harmonic mean of recall and of 1 - CHAIRi (object) or 1 - CHAIRs_refine (response)."""
        chair_i, recall = (
            ratio(totals["hallucinated_mentions"], totals["mentions"]),
            ratio(totals["found"], totals["truth"]),
        )
        refined = ratio(totals["hallucinated_responses"], totals["responses_with_objects"])
        result = {
            "chair_s": ratio(totals["hallucinated_responses"], totals["responses"]),
            "chair_s_refine": refined,
            "chair_i": chair_i,
            "object_recall": recall,
            "object_f1": harmonic(1 - chair_i, recall),
            "response_f1": harmonic(1 - refined, recall),
            "mean_length": ratio(totals["words"], totals["responses"]),
        }
        if self.settings.matched_words is not None:
            result["chair_s_matched"] = ratio(totals["matched_hallucinated_responses"], totals["responses"])
            result["chair_i_matched"] = ratio(totals["matched_hallucinated_mentions"], totals["matched_mentions"])
        return result

    def official(self, totals: Totals) -> dict[str, str]:
        """What RLHF-V's scripts print: percentages and the length with one decimal, recall (from the summary) with two.

        Empty if the extractor, a judge's prompt, the pipeline or the vocabulary is not theirs.
        """
        llm = self.needs_judge and (self._objects_are_given or not (self.prompt_kind() or self._llm.other_pipeline))
        if not (llm or self.settings.extractor == "nltk") or self._synonyms is None:
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
        """Extractor, vocabulary and ground truth; for the LLM mode the prompt, and the parser of the human captions."""
        truth = {"annotations_sha256": self._annotations} if self._annotations else {}
        if not self.needs_judge:
            return self._extractor.provenance() | truth
        captions = self._extractor.provenance()["extractor"]
        file = self._template_file
        prompt = "own wording" if file is None else f"{file.name}, sha256:{self._template[1]}"
        return self._llm.provenance() | truth | {"captions": captions, "prompt": prompt}
