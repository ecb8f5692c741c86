"""HallusionBench: yes/no questions about figures and edited copies of them, some of them asked without a figure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from benchmarks.answer_files import AnswerSet
from benchmarks.answers import AnswerRow, PackedResponses, identity
from benchmarks.base import Benchmark, BenchmarkSettings, Totals, needed, ratio
from benchmarks.hallusionbench_groups import (
    Mark,
    Place,
    counts_of,
    group_sizes,
    mean,
    needs_same,
    official_figures,
)
from benchmarks.hallusionbench_judge import (
    OWN_PROMPTS,
    SAME,
    majority,
    official_mark,
    official_same,
    prompt_kind,
    read_mark,
    read_reviews,
    read_same,
    row_id,
    script_prompts,
)
from benchmarks.suffix import YesNoSettings, with_suffix
from benchmarks.yesno import PARSER, tolerant
from harness.core.declared import BarChart, OfflineFile, SettingOption
from harness.core.errors import BadInputError, HarnessError, shown
from harness.core.files import sha256_bytes
from harness.core.inside import Folder
from harness.core.reading import read_records
from harness.core.typed import Fields
from harness.core.types import NO_IMAGE, ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge, JudgeRequest
from harness.judging.panel import Vote, ask
from harness.judging.templates import fill

_CATEGORIES = ("VD", "VS")
_RATES = {"a_acc": "aAcc", "f_acc": "fAcc", "q_acc": "qAcc"}


class HallusionSettings(YesNoSettings):
    """Settings of the scoring and of the questions."""

    scoring: Literal["judge", "match"] = Field(
        "judge",
        description="judge: a judge compares every answer with the reference, as published; match: yes or no is read from the answer",
    )


def _specs() -> tuple[MetricSpec, ...]:
    specs = [MetricSpec(name, f"Hallusion {title}", True, headline=True) for name, title in _RATES.items()]
    specs += [
        MetricSpec(f"{name}.{part}", f"Hallusion {title} {part}", True)
        for name, title in _RATES.items()
        for part in _CATEGORIES
    ]
    specs += [MetricSpec(f"q_acc.{part}", f"Hallusion qAcc {part}", True) for part in ("easy", "hard")]
    specs += [MetricSpec(f"a_acc.{part}", f"Hallusion aAcc {part}", True) for part in ("easy", "hard")]
    specs += [
        MetricSpec("a_acc.images", "Hallusion aAcc images", True),
        MetricSpec("q_acc.images", "Hallusion qAcc images", True),
        MetricSpec("mean.images", "Hallusion mean images", True),
        MetricSpec("figures_inconsistent", "Hallusion inconsistent", False),
        MetricSpec("figures_wrong", "Hallusion figures wrong", False),
        MetricSpec("pct_diff", "Hallusion yes % difference", None, kind="diagnostic"),
        MetricSpec("fp_ratio", "Hallusion FP ratio", None, kind="diagnostic"),
        *(MetricSpec(f"errors.{kind}", f"Hallusion errors {kind}", None, kind="diagnostic") for kind in _ERRORS),
    ]
    return tuple(specs)


_ERRORS = ("language", "visual", "mixed")


class HallusionBench(Benchmark):
    """aAcc: right answers. qAcc: questions answered rightly about all versions of a figure. fAcc: figures with all questions right.

    `q_acc.easy` and `q_acc.hard` are what the official script prints as "accuracy per easy (hard) question", although they are rates of
    groups; `a_acc.easy` and `a_acc.hard` are the rates of questions. `*.images` are the rates of the questions with an
    image, as other toolkits count. Resampling draws sets: all questions about all versions of a figure.

    Source: Guan et al., CVPR 2024.
    """

    name, title, max_new_tokens = "hallusionbench", "HallusionBench", 512
    source = "Guan et al., CVPR 2024 (arXiv 2310.14566)"
    Settings = HallusionSettings
    settings: HallusionSettings
    metrics = _specs()
    place = 80
    answer_keys = ("model_prediction", "answer", "response", "text", "prediction")
    group = "hallucination"
    charts = (
        BarChart(
            "q_acc",
            "hallusionbench",
            "Question groups of HallusionBench, {board}: questions that are answered rightly about all versions of a figure.",
            "HallusionBench qAcc",
        ),
    )
    whole_groups = True
    offline_files = (
        OfflineFile("questions", "HallusionBench.json; needed if the responses do not contain its columns"),
        OfflineFile("responses", "the official result file: rows of HallusionBench.json with model_prediction"),
        OfflineFile(
            "reviews", "the judge's replies: the script's saved rows, or JSON lines {id, judge_reply, same_reply}"
        ),
    )
    setting_options = (SettingOption("scoring", "judge (as published) or match (reads yes and no)"),)

    def __init__(self, settings: BenchmarkSettings | None = None) -> None:
        super().__init__(settings)
        self.needs_judge = self.settings.scoring == "judge"
        self._script: Path | None = None
        self._sizes: Counter[tuple[str, str]] = Counter()

    @property
    def variant(self) -> str:
        """The parser of answers, if there is no judge; and how the questions are asked, if not as published."""
        read = "match" if self.settings.scoring == "match" else ""
        return "+".join(part for part in (read, self.settings.asked) if part)

    def prompt_kind(self) -> str:
        """Of the judge's prompts."""
        return prompt_kind(self._prompts)

    @cached_property
    def _prompts(self) -> tuple[str, str]:
        """The official prompts if utils.py is next to the questions, or else our own."""
        return OWN_PROMPTS if self._script is None else script_prompts(self._script)

    def items(self, data: Path) -> list[Item]:
        """The rows of `HallusionBench.json`; images in `hallusion_bench/`, the official archive's folder. Some VS rows have no image."""
        path = data / "HallusionBench.json"
        if not path.exists():
            raise self.missing_files(path)
        self._script = data / "utils.py" if (data / "utils.py").exists() else None
        return self._read(path, Folder(data / "hallusion_bench"))

    def _read(self, path: Path, images: Folder | None) -> list[Item]:
        with self.reading(path):
            items = [self._item(row, where, images) for where, row in read_records(path, "questions")]
        return self._grouped(items, path)

    def _grouped(self, items: list[Item], path: Path) -> list[Item]:
        """The items, checked: each occurs once, and each question has its original, with which other answers are compared."""
        places = [_place(item) for item in items]
        twice = [name for name, count in Counter(place.id for place in places).items() if count > 1]
        originals = {place.question for place in places if place.original}
        alone = [place.id for place in places if place.question not in originals]
        if twice or alone or not items:
            problem = (
                f"the question {twice[0]} appears twice"
                if twice
                else f"{alone[0]} has no row with figure_id 0"
                if alone
                else ""
            )
            raise BadInputError(problem or "the file has no question", where=str(path))
        self._sizes = group_sizes(places)
        return items

    def _item(self, row: Mapping[str, Any], where: str, images: Folder | None) -> Item:
        fields = Fields(row, where, "question")
        keys = ("set_id", "figure_id", "question_id", "visual_input", "gt_answer")
        category, subcategory = fields.choice("category", _CATEGORIES), fields.text("subcategory", empty=False)
        place = Place(category, subcategory, *(identity(row, key, where, "question") for key in keys))
        for key, value, known in (("visual_input", place.visual_input, "012"), ("gt_answer", place.label, "01")):
            if value not in tuple(known):
                fields.refuse(key, f"one of {', '.join(known)}")
        picture = ImageRef(name=place.id) if place.has_image else NO_IMAGE
        if images is not None and place.has_image:
            picture = ImageRef(path=images.path(fields.text("filename", empty=False).removeprefix("./"), where))
        question = fields.text("question", empty=False)
        reference = {
            "place": dataclasses.asdict(place),
            "question": question,
            "gt_answer_details": fields.text("gt_answer_details"),
            "label": "yes" if place.label == "1" else "no",
        }
        prompt = with_suffix(question, self.settings.suffix)
        return Item(place.id, prompt, picture, place.cluster, reference, self.settings.choices)

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--responses`: the official result file, or JSON lines {id, model_prediction}; `--questions`, `--reviews` see `offline_files`."""
        path = needed(files, "responses", self.name)
        items = self._read(needed(files, "questions", self.name), None) if "questions" in files else None
        made, responses = [], PackedResponses()
        for where, record in read_records(path, "responses"):
            row = AnswerRow(
                {key: value for key, value in record.items() if key != "gt_answer"}, where, self.answer_keys
            )
            if items is None:
                made.append(self._item(record, where, None))
            name = row_id(record, where)
            if name in responses:
                raise BadInputError(f"the question {shown(name)} is answered twice", where=where)
            responses.add(row.response(name))
        if items is None:
            items = self._grouped(made, path)
        if self.settings.scoring == "judge" and "reviews" in files:
            self.offline_judge = read_reviews(needed(files, "reviews", self.name))
        return items, responses

    def match_answers(self, rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
        """By the official columns, or by `id`, or by VLMEvalKit's `index`, which ends with them."""
        for row in rows:
            name = row_id(row.doc, row.where)
            item = answers.by_id.get(name)
            answers.add_asked(name, row, f"question {name}", question=item.reference["question"] if item else None)

    def judge_requests(self, items: Sequence[Item], responses: Mapping[str, Response]) -> list[JudgeRequest]:
        """The requests that compare answers with references; further ones about wrong answers to edited figures follow from the replies."""
        if not self.needs_judge:
            return []
        template = self._prompts[0]
        return [
            JudgeRequest(
                item,
                responses[item.id],
                fill(
                    template,
                    {
                        "question": item.reference["question"],
                        "gt_answer_details": item.reference["gt_answer_details"],
                        "output_entry": responses[item.id].text,
                    },
                ),
            )
            for item in items
        ]

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Mark every answer, determine which wrong answers repeat the one to the original, and count by question and by figure."""
        if not self.needs_judge:
            return self._matched(items, responses)
        if judge is None:
            raise HarnessError(
                "HallusionBench needs a judge",
                remedy="choose one: --judge openai; or read yes and no from the answers: --scoring match",
            )
        requests = self.judge_requests(items, responses)
        votes: dict[str, list[Vote[Mark]]] = ask(judge, requests, read_mark)
        marks = {name: majority(item_votes) for name, item_votes in votes.items()}
        first = {
            name: official_mark(item_votes[0].first) if item_votes[0].first is not None else None
            for name, item_votes in votes.items()
        }
        compared = self._compare(judge, items, responses, marks, first)
        rows, details, reasons = [], {}, {}
        for request in requests:
            item, item_votes = request.item, votes[request.item.id]
            same_votes = compared.get(item.id, [])
            again = same_votes[0] if same_votes else None  # the official script asks once
            details[item.id] = {
                "review": item_votes[0].text,
                "same_review": again.text if again else None,
                "official_mark": first[item.id],
                "official_same": official_same(again.first) if again and again.first is not None else None,
                "votes": [vote.value for vote in item_votes],
                "judge_prompt": request.prompt,
            }
            mark = marks[item.id]
            if mark is None:
                reasons[item.id] = item_votes[0].reason or "its votes differ"
            else:
                rows.append((item, mark, majority(same_votes)))
        return self._scores(items, rows, details, reasons)

    def _compare(
        self,
        judge: Judge,
        items: Sequence[Item],
        responses: Mapping[str, Response],
        *marks: Mapping[str, Mark | None],
    ) -> dict[str, list[Vote[bool]]]:
        """Item id -> the votes on whether its answer is the same as to the original, if the kind of error depends on it."""
        originals = {_place(item).question: item for item in items if _place(item).original}
        wanted = []
        for item in items:
            place = _place(item)
            original = originals.get(place.question)
            if original is None:
                continue
            if any(mark[item.id] and needs_same(place, mark[item.id], mark[original.id]) for mark in marks):  # type: ignore[arg-type]
                texts = {"output_entry": responses[item.id].text, "response2": responses[original.id].text}
                asked = dataclasses.replace(
                    item, id=f"{item.id}{SAME}", reference={**item.reference, "other": texts["response2"]}
                )
                wanted.append(JudgeRequest(asked, responses[item.id], fill(self._prompts[1], texts)))
        votes = ask(judge, wanted, read_same)
        return {name.removesuffix(SAME): item_votes for name, item_votes in votes.items()}

    def _matched(self, items: Sequence[Item], responses: Mapping[str, Response]) -> list[SampleScore]:
        said = {item.id: tolerant(responses[item.id].text, item.reference["question"]) for item in items}
        originals = {_place(item).question: item.id for item in items if _place(item).original}
        rows = []
        for item in items:
            own, other = said[item.id], said.get(originals.get(_place(item).question, ""))
            mark: Mark = "2" if own is None else "1" if own == item.reference["label"] else "0"
            rows.append((item, mark, None if other is None else own == other))
        return self._scores(items, rows, {item.id: {"read": said[item.id]} for item in items}, {})

    def _scores(
        self,
        items: Sequence[Item],
        rows: Sequence[tuple[Item, Mark, bool | None]],
        details: Mapping[str, Mapping[str, Any]],
        reasons: Mapping[str, str],
    ) -> list[SampleScore]:
        counted = counts_of([(_place(item), mark, same) for item, mark, same in rows], self._sizes)
        counts = {item.id: count for (item, _, _), count in zip(rows, counted, strict=True)}
        marks = {item.id: (mark, same) for item, mark, same in rows}
        scores = []
        for item in items:
            about = {"place": item.reference["place"], "label": item.reference["label"], **details[item.id]}
            if item.id in reasons:
                scores.append(SampleScore(item.id, item.group, {}, details=about, unscored=reasons[item.id]))
                continue
            mark, same = marks[item.id]
            label = item.reference["label"]
            other = "no" if label == "yes" else "yes"
            # Without a figure, not to know is right.
            about["said"] = label if _place(item).is_right(mark) else other if mark == "0" else None
            about |= {"mark": mark, "same": same}
            scores.append(SampleScore(item.id, item.group, counts[item.id], details=about))
        return scores

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Rates of questions, and of groups of which every answer is right."""
        result = {}
        for part in ("", ".VD", ".VS"):
            result[f"a_acc{part}"] = ratio(totals[f"right{part}"], totals[f"rows{part}"])
            for name, kind in (("q_acc", "q"), ("f_acc", "f")):
                result[f"{name}{part}"] = ratio(totals[f"{kind}{part}.right"], totals[f"{kind}{part}.n"])
        for part in ("easy", "hard", "images"):
            result[f"a_acc.{part}"] = ratio(totals[f"right.{part}"], totals[f"rows.{part}"])
            result[f"q_acc.{part}"] = ratio(totals[f"q.{part}.right"], totals[f"q.{part}.n"])
        result["mean.images"] = mean([result["a_acc.images"], result["f_acc"], result["q_acc.images"]])
        figures, right, none = (totals[f"f.{cell}"] for cell in ("n", "right", "none"))
        result["figures_wrong"] = ratio(none, figures)
        result["figures_inconsistent"] = ratio(figures - right - none, figures)
        result["pct_diff"] = ratio(totals["yes"] - totals["label_yes"], totals["rows"])
        result["fp_ratio"] = ratio(totals["wrong_no"], totals["rows"] - totals["right"])
        return result | {f"errors.{kind}": ratio(totals[kind], totals["classified"]) for kind in _ERRORS}

    def official_of(self, scores: Sequence[SampleScore]) -> dict[str, str]:
        """The figures that the official script prints, from its own parser of the first replies."""
        rows: list[tuple[Place, Mark, bool]] = []
        for score in scores:
            if score.details.get("official_mark") is None:
                return {}
            same = bool(score.details["official_same"])
            rows.append((Place(**score.details["place"]), score.details["official_mark"], same))
        complete = group_sizes(place for place, _, _ in rows) == self._sizes
        return official_figures(rows) if complete else {}

    def provenance(self) -> dict[str, Any]:
        """The judge's prompts, or the version of our parser."""
        if self.settings.scoring == "match":
            return {"parser": PARSER}
        return {
            "prompts": prompt_kind(self._prompts) or "official",
            "prompts_sha256": [sha256_bytes(prompt.encode()) for prompt in self._prompts],
        }


def _place(item: Item) -> Place:
    return Place(**item.reference["place"])
