"""AMBER: generative and discriminative hallucination, without a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from benchmarks.amber_files import GENERATIVE, PARTS, match, read_annotations, read_associations
from benchmarks.answer_files import AnswerSet, answer_row
from benchmarks.answers import AnswerRow, PackedResponses, whole
from benchmarks.base import Benchmark, Totals, harmonic, needed, ratio
from benchmarks.nouns import Noun, NounFinder, Similarity, make_noun_finder, make_similarity
from benchmarks.suffix import YesNoSettings, with_suffix
from benchmarks.yesno import PARSER, tolerant
from harness.core.declared import OfflineFile, SettingOption
from harness.core.errors import BadInputError
from harness.core.inside import Folder
from harness.core.reading import read_list, read_records
from harness.core.typed import Fields
from harness.core.types import Evidence, ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge

SECTIONS = ("discriminative", "existence", "attribute", "state", "number", "action", "relation")
_RATES = ("accuracy", "precision", "recall", "f1")
_CELLS = ("correct", "count", "correct_no", "truth_no", "answered_no")
_GENERATIVE = ("kept", "flagged", "covered", "truth", "cogged", "hallu", "clean", "generative")
_EPSILON = 0.001
"""Initial value of every denominator in the official script."""


class AmberSettings(YesNoSettings):
    """Settings of the comparison of words, of the search for nouns, and of the yes/no questions."""

    similarity: str = Field(
        "auto",
        description="lemma, exact, table:FILE, spacy or spacy:PIPELINE; auto: the official pipeline if it is installed, or else exact",
    )
    nouns: str = Field(
        "auto", description="nltk (official) or spacy; auto: nltk if its data is installed, or else spacy"
    )


_ZEROS = {
    **dict.fromkeys(_GENERATIVE, 0.0),
    **{f"{section}{parser}.{cell}": 0.0 for section in SECTIONS for parser in ("", "[tolerant]") for cell in _CELLS},
    "differ": 0.0,
}


def _specs() -> tuple[MetricSpec, ...]:
    generative = [("chair", "CHAIR", False), ("cover", "Cover", True), ("hal", "Hal", False), ("cog", "Cog", False)]
    specs = [
        MetricSpec(
            f"generative.{name}",
            f"AMBER {title}",
            better,
            headline=name != "cog",
            invented_by="generative.chair" if name == "cover" else None,
        )
        for name, title, better in generative
    ]
    for section in SECTIONS:
        for parser in ("", "[tolerant]"):
            specs += [
                MetricSpec(
                    f"{section}.{rate}{parser}",
                    f"AMBER {section} {rate}{parser}",
                    True,
                    headline=section == "discriminative" and rate == "f1" and not parser,
                )
                for rate in _RATES
            ]
    specs.append(MetricSpec("amber_score", "AMBER score", True, headline=True))
    specs.append(MetricSpec("amber_score[tolerant]", "AMBER score[tolerant]", True))
    specs.append(MetricSpec("parsers_differ", "AMBER parsers differ", None, kind="diagnostic"))
    return tuple(specs)


class AMBER(Benchmark):
    """CHAIR, Cover, Hal and Cog of descriptions; accuracy, precision, recall and F1 of yes/no answers, "No" being positive.

    The official rule counts an answer only if it is exactly `Yes` or `No`; `[tolerant]` reads the first word in any case.

    Source: Wang et al., 2023 (arXiv 2311.07397); behaviour as in its inference.py.
    """

    name, title, max_new_tokens = "amber", "AMBER", 512
    source = "Wang et al., 2023 (arXiv 2311.07397)"
    Settings = AmberSettings
    settings: AmberSettings
    metrics = _specs()
    place = 30
    group = "hallucination"
    offline_files = (
        OfflineFile("annotations", "annotations.json"),
        OfflineFile("relations", "relation.json"),
        OfflineFile("safe_words", "safe_words.txt"),
        OfflineFile("responses", "JSON lines or a JSON list of {id, response}"),
    )
    answer_keys = ("response", "answer", "text", "prediction")
    pipelines: ClassVar = {"en_core_web_lg": "similarity"}
    setting_options = (SettingOption("similarity", "lemma, exact, table:FILE or spacy[:PIPELINE]"),)

    @property
    def variant(self) -> str:
        """How nouns are found and words compared: `nltk+spacy` is the official way, with `en_core_web_lg`; another pipeline is named, as in
        `nltk+spacy:en_core_web_sm`, and so is a table."""
        parts = (self._nouns.name, self._similar.name, self.settings.asked)
        return "+".join(part for part in parts if part)

    @cached_property
    def _nouns(self) -> NounFinder:
        return make_noun_finder(self.settings.nouns)

    @cached_property
    def _similar(self) -> Similarity:
        return make_similarity(self.settings.similarity)

    def items(self, data: Path) -> list[Item]:
        """All queries of `data/query/query_all.json`, each with its annotation."""
        files = data / "data"
        if not (files / "annotations.json").exists():
            raise self.missing_files(files / "annotations.json", "files")
        annotations, reference = self._references(
            files / "annotations.json", files / "relation.json", files / "safe_words.txt"
        )
        items, images = [], Folder(data / "image")
        with self.reading(files / "query" / "query_all.json") as path:
            for where, row in read_records(path, "queries"):
                fields = Fields(row, where, "query")
                place = whole(row, "id", where, "query")
                if not 1 <= place <= len(annotations):
                    raise BadInputError(
                        f"query {place} has no annotation; there are {len(annotations)} annotations", where=where
                    )
                picture = fields.text("image", empty=False)
                image = ImageRef(path=images.path(picture, where))
                about = {"annotation": annotations[place - 1], **reference}
                query = fields.text("query")
                if annotations[place - 1]["type"] != GENERATIVE:  # a description has no instruction how to answer
                    query = with_suffix(query, self.settings.suffix)
                choices = () if annotations[place - 1]["type"] == GENERATIVE else self.settings.choices
                items.append(Item(str(place), query, image, picture, about, choices))
        return items

    def truth(self, item: Item) -> str:
        """The annotated objects, or the right answer."""
        truth = item.reference["annotation"]["truth"]
        return truth if isinstance(truth, str) else "objects: " + ", ".join(truth)

    def _references(self, annotations: Path, relations: Path, safe_words: Path) -> tuple[list[Any], dict[str, Any]]:
        """The annotations, and data that all items share."""
        with self.reading(annotations):
            rows, odd = read_annotations(annotations)
        if odd:
            self.notes.append(
                f"{odd} truths in {annotations.name} are not exactly yes or no, but were read as such; the official script reads them as no"
            )
        with self.reading(relations):
            associations = read_associations(relations)
        with self.reading(safe_words):
            safe = frozenset(read_list(safe_words, "safe words"))
        return rows, associations | {"safe": safe}

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--annotations --relations --safe-words --responses`: responses {id, response} as a JSON list or JSON lines."""
        annotations, reference = self._references(
            *(needed(files, option, self.name) for option in ("annotations", "relations", "safe_words"))
        )
        path = needed(files, "responses", self.name)
        responses = PackedResponses()
        generative, others = set(), set()
        for where, record in read_records(path, "responses"):
            row = answer_row(record, where, self.answer_keys)
            others.add(row.key)
            place = whole(row.doc, "id", where)
            if not 1 <= place <= len(annotations):
                raise BadInputError(
                    f"id {place} has no annotation; there are {len(annotations)} annotations", where=where
                )
            if str(place) in responses:
                raise BadInputError(f"id {place} is answered twice", where=where)
            # The questions of a file are those of the kinds in it, so a generative file does not count as an incomplete discriminative
            # one.
            generative.add(annotations[place - 1]["type"] == GENERATIVE)
            responses.add(row.response(str(place)))
        if others := others - {"response"}:
            self.notes.append(f"answers were read from {' and '.join(sorted(others))}")
        items = [
            Item(str(place), "", ImageRef(name=str(place)), str(place), {"annotation": row, **reference})
            for place, row in enumerate(annotations, 1)
            if (row["type"] == GENERATIVE) in generative
        ]
        return items, responses

    def match_answers(self, rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
        """By `id`, or by `question_id` with the question, or by picture and question."""
        match(rows, answers, self.notes)

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Counts of each answer."""
        generative = [item for item in items if item.reference["annotation"]["type"] == GENERATIVE]
        nouns: dict[str, list[Noun]] = {}
        if generative:
            vocabulary = generative[0].reference["vocabulary"]
            found = self._nouns.nouns([responses[item.id].text for item in generative], vocabulary)
            nouns = {item.id: own for item, own in zip(generative, found, strict=True)}
            said = {noun.word for own in found for noun in own if noun.word in vocabulary}
            self._similar.prepare(said, {word for item in generative for word in self._targets(item)})
        return [
            self._describe(item, nouns[item.id]) if item.id in nouns else self._answer(item, responses[item.id].text)
            for item in items
        ]

    @staticmethod
    def _targets(item: Item) -> list[str]:
        annotation, associations = item.reference["annotation"], item.reference["associations"]
        words = [*annotation["truth"], *annotation["hallu"]]
        return words + [other for word in words for other in associations.get(word, ())]

    def _describe(self, item: Item, nouns: Sequence[Noun]) -> SampleScore:
        """Classify each kept noun in the official order: safe words, truth, hallucination targets, similarity."""
        annotation, associations = item.reference["annotation"], item.reference["associations"]
        truth, hallu = _Wanted(annotation["truth"], associations), _Wanted(annotation["hallu"], associations)
        places = [noun for noun in nouns if noun.word in item.reference["vocabulary"]]
        kept = [noun.word for noun in places]
        flags = []
        for noun in kept:
            if noun in item.reference["safe"]:
                flags.append(False)
                continue
            if truth.mark_exact(noun):
                flags.append(False)
                continue
            hallu.mark_exact(noun)
            hallu.mark_similar(noun, self._similar)
            flags.append(not truth.mark_similar(noun, self._similar))
        counts = _ZEROS | {
            "kept": len(kept),
            "flagged": sum(flags),
            "covered": sum(truth.marked),
            "truth": len(truth.marked),
            "cogged": sum(hallu.marked),
            "hallu": len(hallu.marked),
            "clean": not any(flags),
            "generative": 1,
        }
        evidence = [
            Evidence(noun.word, "hallucinated" if flag else "correct", noun.word, noun.span)
            for noun, flag in zip(places, flags, strict=True)
        ]
        evidence += [
            Evidence(word, "missed", word) for word, hit in zip(truth.words, truth.marked, strict=True) if not hit
        ]
        details = {
            "flags": [int(flag) for flag in flags],
            "cover": [int(hit) for hit in truth.marked],
            "cog": [int(hit) for hit in hallu.marked],
            "kept": kept,
        }
        return SampleScore(
            item.id, item.group, {name: float(value) for name, value in counts.items()}, tuple(evidence), details
        )

    def _answer(self, item: Item, text: str) -> SampleScore:
        annotation = item.reference["annotation"]
        label = annotation["truth"]
        read = tolerant(text, item.prompt)
        official = {"Yes": "yes", "No": "no"}.get(text)
        counts = _ZEROS.copy()
        sections = ("discriminative", *PARTS[annotation["type"]])
        for parser, said in (("", official), ("[tolerant]", read)):
            for section in sections:
                counts[f"{section}{parser}.count"] = 1.0
                counts[f"{section}{parser}.correct"] = float(said == label)
                counts[f"{section}{parser}.truth_no"] = float(label == "no")
                # An answer that is neither Yes nor No is wrong, and the official script does not count it as an answer.
                counts[f"{section}{parser}.answered_no"] = float(said == "no")
                counts[f"{section}{parser}.correct_no"] = float(said == label == "no")
        counts["differ"] = float(official != read)
        if "official_truth" in annotation:
            counts |= _as_official(sections, label, official)
        return SampleScore(item.id, item.group, counts, details={"said": official, "read": read, "label": label})

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Pooled ratios, unrounded, without the official script's small constants."""
        result = {
            "generative.chair": ratio(totals["flagged"], totals["kept"]),
            "generative.cover": ratio(totals["covered"], totals["truth"]),
            "generative.hal": 1 - ratio(totals["clean"], totals["generative"]),
            "generative.cog": ratio(totals["cogged"], totals["hallu"]),
        }
        for parser in ("", "[tolerant]"):
            for section in SECTIONS:
                correct, count, right, truth, answered = (totals[f"{section}{parser}.{cell}"] for cell in _CELLS)
                precision, recall = ratio(right, answered), ratio(right, truth)
                values = (ratio(correct, count), precision, recall, harmonic(precision, recall))
                result |= {f"{section}.{rate}{parser}": value for rate, value in zip(_RATES, values, strict=True)}
            result[f"amber_score{parser}"] = (1 - result["generative.chair"] + result[f"discriminative.f1{parser}"]) / 2
        result["parsers_differ"] = ratio(totals["differ"], totals["discriminative.count"])
        return result

    def official(self, totals: Totals) -> dict[str, str]:
        """What the official script prints: rounded to one decimal, F1 from the rounded precision and recall."""

        def percent(above: str, below: str) -> float:
            return round(float(totals[above]) / (float(totals[below]) + _EPSILON) * 100, 1)

        shown = (
            {
                "generative.chair": percent("flagged", "kept"),
                "generative.cover": percent("covered", "truth"),
                "generative.hal": round(
                    100 - float(totals["clean"]) / (float(totals["generative"]) + _EPSILON) * 100, 1
                ),
                "generative.cog": percent("cogged", "hallu"),
            }
            if totals["generative"]
            else {}
        )
        if totals["discriminative.count"]:
            totals = dict(totals)
            for section in SECTIONS:
                for cell in ("correct", "truth_no", "correct_no", "recalled_no"):  # by truths as the script reads them
                    change = totals.get(f"{section}.official.{cell}", np.array(0.0))
                    before = totals[f"{section}.{'correct_no' if cell == 'recalled_no' else cell}"]
                    totals[f"{section}.taken.{cell}"] = before + change
                precision, recall = (
                    percent(f"{section}.taken.correct_no", f"{section}.answered_no"),
                    percent(f"{section}.taken.recalled_no", f"{section}.taken.truth_no"),
                )
                epsilon = 0.001 if section == "existence" else 0.0001
                f1 = round(
                    2 * (precision / 100) * (recall / 100) / ((precision / 100) + (recall / 100) + epsilon) * 100, 1
                )
                shown |= {
                    f"{section}.accuracy": percent(f"{section}.taken.correct", f"{section}.count"),
                    f"{section}.precision": precision,
                    f"{section}.recall": recall,
                    f"{section}.f1": f1,
                }
        return {name: str(value) for name, value in shown.items()}

    def provenance(self) -> dict[str, Any]:
        """How nouns are found, words compared, and answers read."""
        return {
            "nouns": self._nouns.provenance(),
            "similarity": self._similar.provenance(),
            "tolerant_parser": PARSER,
        }


class _Wanted:
    """A list of words to find, each with its associations, and marks for those that were found."""

    def __init__(self, words: Sequence[str], associations: Mapping[str, Sequence[str]]) -> None:
        self.words = list(words)
        self.marked = [False] * len(self.words)
        # The official search compares the associations of all words before the words themselves.
        self._order = [(other, place) for place, word in enumerate(self.words) for other in associations.get(word, ())]
        self._order += [(word, place) for place, word in enumerate(self.words)]

    def mark_exact(self, noun: str) -> bool:
        """Mark the first word that equals the noun; returns whether there was one."""
        return self._mark(place for word, place in self._order if word == noun)

    def mark_similar(self, noun: str, similar: Similarity) -> bool:
        """Mark the first word that is similar to the noun; returns whether there was one."""
        return self._mark(place for word, place in self._order if similar(noun, word))

    def _mark(self, places: Any) -> bool:
        place = next(iter(places), None)
        if place is None:
            return False
        self.marked[place] = True
        return True


def _as_official(sections: Sequence[str], label: str, said: str | None) -> dict[str, float]:
    """How the official script's counts differ if a truth is not exactly yes or no.

    It treats such a truth as a "no" for recall, and counts the answer "No" as right for accuracy, but as wrong for precision.
    """
    changes = {
        "correct": (said == "no") - (said == label),
        "truth_no": 1 - (label == "no"),
        "recalled_no": (said == "no") - (said == label == "no"),
        "correct_no": -(said == label == "no"),
    }
    return {f"{section}.official.{cell}": float(change) for section in sections for cell, change in changes.items()}
