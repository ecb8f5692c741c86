"""MMHal-Bench: 96 questions of eight types, graded by a judge on a scale of 0 to 6."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from benchmarks.answer_files import AnswerSet, asked, plain
from benchmarks.answers import AnswerRow, whole
from benchmarks.base import Benchmark, BenchmarkSettings, Totals, needed, ratio
from benchmarks.judged_files import agreement
from benchmarks.ratings import parse_official, parse_strict, read_rating
from benchmarks.reviews import ReviewsJudge
from harness.core.declared import OfflineFile
from harness.core.errors import BadInputError, HarnessError, shown
from harness.core.files import sha256_bytes
from harness.core.inside import Folder
from harness.core.reading import read_records
from harness.core.typed import Fields
from harness.core.types import ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge, JudgeRequest
from harness.judging.panel import Vote, ask
from harness.judging.templates import fill, read_template

QUESTIONS = 96
HALLUCINATED_BELOW = 3.0
"""The threshold of the scale: a lower rating is a hallucination."""
TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
_PROMPT = """You grade the answer of an assistant that looks at an image. You cannot see the image; what is known of it is given.

Known contents of the image: {image_content}
Question: {question}
Reference answer of a human: {gt_answer}
Answer of the assistant: {model_answer}

A hallucination is anything that the answer states of the image and that the contents or the reference answer rule out.
Grade the answer on this scale:
6: very informative with good analysis, no hallucination
5: very informative, no hallucination
4: somewhat informative, no hallucination
3: not informative, no hallucination
2: very informative, with hallucination
1: somewhat informative, with hallucination
0: not informative, with hallucination

Explain in a few sentences, then end with a line "Rating: N" where N is the number.
"""


OFFICIAL_TEMPLATE = "2c73d8c50f1740d000fae62cfeed103c2f7a5bcfa904b27e6e09900e7ce600cc"
"""SHA-256 of the string `template` in the official script (LLaVA-RLHF's and RLHF-V's `eval_gpt_mmhal.py` have the same)."""
_SCRIPTS = ("eval_gpt_mmhal.py", "eval_gpt4.py")
"""Names of the official script, searched next to the questions."""
_FIELDS = ("image_content", "question", "gt_answer", "model_answer")


class MMHalSettings(BenchmarkSettings):
    """Settings of the judge's prompt."""

    template: Path | None = Field(
        None,
        description="the official script, or a text file with the fields {image_content}, {question}, {gt_answer}, {model_answer} (or "
        "four {} in this order); None: the official script if it is next to the questions, or else our own prompt",
    )
    template_sha256: str | None = Field(
        None,
        description="required SHA-256 of the template; None: that of the official script for a script, any for a text file",
    )


class MMHalBench(Benchmark):
    """Average score, hallucination rate (score below 3) and informativeness, overall and per type.

    An unreadable reply is requested again, and then unscored in our figures; in the official text it counts as 0, as in the official
    script. With several votes an item's figures are the means of its votes.

    Source: Sun et al., 2023 (arXiv 2309.14525).
    """

    name, title, max_new_tokens, needs_judge = "mmhal", "MMHal-Bench", 512, True
    source = "Sun et al., 2023 (LLaVA-RLHF, arXiv 2309.14525)"
    Settings = MMHalSettings
    settings: MMHalSettings
    metrics = (
        MetricSpec("score", "MMHal score", higher_is_better=True, unit="points", headline=True, kind="score"),
        MetricSpec("hallucination_rate", "MMHal halluc.", higher_is_better=False, headline=True),
        MetricSpec("informativeness", "MMHal informativeness", higher_is_better=True),
        *(MetricSpec(f"score.{kind}", f"MMHal {kind}", True, unit="points", kind="score") for kind in TYPES),
        MetricSpec("votes_agree", "MMHal votes agree", higher_is_better=True, kind="diagnostic"),
    )
    place = 70
    group = "hallucination"
    hallucinated_below = HALLUCINATED_BELOW
    answer_keys = ("model_answer", "response", "answer", "text", "prediction")
    offline_files = (OfflineFile("reviews", "the judge's replies, JSON lines {index, review}"),)

    def __init__(self, settings: BenchmarkSettings | None = None) -> None:
        super().__init__(settings)
        self._template_file = self.settings.template

    @cached_property
    def _template(self) -> tuple[str, str, str]:
        """Text, SHA-256, and label: "official", "own wording" or "custom"."""
        path = self._template_file
        if path is None:
            return _PROMPT, sha256_bytes(_PROMPT.encode()), "own wording"
        text, digest = read_template(path)
        wanted = self.settings.template_sha256 or (OFFICIAL_TEMPLATE if path.suffix == ".py" else digest)
        if digest != wanted:
            raise BadInputError(
                f"the judge's template has the SHA-256 {digest}, not {wanted}",
                where=str(path),
                remedy=f"download the official script again, or accept this one: --set mmhal.template_sha256={digest}",
            )
        if "{}" not in text and "{model_answer}" not in text:
            raise BadInputError(
                "the judge's template has no placeholder for the answer, {model_answer}", where=str(path)
            )
        fill(text, dict.fromkeys(_FIELDS, ""))  # raises errors before anything is asked
        return text, digest, "official" if digest == OFFICIAL_TEMPLATE else "custom"

    def prompt_kind(self) -> str:
        """Of the judge's template."""
        _, digest, kind = self._template
        return {"official": "", "own wording": "own prompt"}.get(kind, f"prompt {digest[:8]}")

    def read_reply(self, text: str) -> int | None:
        """A reply's rating, see `benchmarks.ratings`."""
        return parse_strict(text)

    def items(self, data: Path) -> list[Item]:
        """The official template's rows; images by the last part of their source."""
        path = data / "response_template.json"
        if not path.exists():
            raise self.missing_files(path)
        if self.settings.template is None:
            self._template_file = next((data / name for name in _SCRIPTS if (data / name).exists()), None)
        items, images = [], Folder(data / "images")
        with self.reading(path):
            for number, (where, row) in enumerate(read_records(path, "questions")):
                fields = Fields(row, where, "question")
                image = fields.text("image_src", empty=False).rpartition("/")[2]
                content = row.get("image_content")
                reference = {
                    "question": fields.text("question"),
                    "gt_answer": fields.text("gt_answer"),
                    "image_content": content if isinstance(content, str) else fields.texts("image_content"),
                    "question_type": TYPES[number % 8],
                }
                items.append(
                    Item(str(number), row["question"], ImageRef(path=images.path(image, where)), image, reference)
                )
        return items

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--reviews`: {index, review}; types follow from the index modulo 8. Indices below the highest that have no review count as
        missing."""
        path = needed(files, "reviews", self.name)
        reviews: dict[str, str] = {}
        highest, last = -1, ""
        for where, row in read_records(path, "reviews"):
            place = whole(row, "index", where, "review")
            if place < 0:
                raise BadInputError(f"index {place} is below 0", where=where)
            if str(place) in reviews:
                raise BadInputError(f"index {place} is reviewed twice", where=where)
            reviews[str(place)] = Fields(row, where, "review").text("review")
            if place > highest:
                highest, last = place, where
        if highest >= max(QUESTIONS, 2 * len(reviews)):
            raise BadInputError(
                f"index {highest} is not one of the {QUESTIONS} questions of {self.title}, which start at 0",
                where=last,
                remedy="number the reviews by the position of their question",
            )
        self.offline_judge = ReviewsJudge(path, reviews)
        items = [
            Item(
                name,
                "",
                ImageRef(name=name),
                name,
                {"question_type": TYPES[int(name) % 8], "question": "", "gt_answer": "", "image_content": ""},
            )
            for name in map(str, range(highest + 1))
        ]
        return items, {name: Response(name, "") for name in reviews}

    def match_answers(self, rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
        """By question, and by picture where two pictures have the same question."""
        items = defaultdict(list)
        for item in answers.items:
            items[plain(item.prompt)].append(item)
        for row in rows:
            question, source = asked(row) or "", row.doc.get("image_src")
            same = items[plain(question)]
            if len(same) > 1 and isinstance(source, str):
                same = [item for item in same if item.group == source.rpartition("/")[2]]
            if len(same) != 1:
                raise BadInputError(
                    f"{len(same)} questions of {self.title} are {shown(question)}",
                    where=row.where,
                    remedy="keep question and image_src in the rows of response_template.json, and add model_answer to each",
                )
            answers.add(same[0].id, row, f"the question {shown(question)}")

    def truth(self, item: Item) -> str:
        """The human's answer."""
        return str(item.reference["gt_answer"])

    def judge_requests(self, items: Sequence[Item], responses: Mapping[str, Response]) -> list[JudgeRequest]:
        """The filled-in template for every item."""
        template, _, _ = self._template
        requests = []
        for item in items:
            content = item.reference["image_content"]
            fields = {
                "image_content": content if isinstance(content, str) else ", ".join(map(str, content)),
                "question": str(item.reference["question"]),
                "gt_answer": str(item.reference["gt_answer"]),
                "model_answer": responses[item.id].text,
            }
            requests.append(JudgeRequest(item, responses[item.id], fill(template, fields)))
        return requests

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Ask the judge about every answer and read the rating of every vote."""
        if judge is None:
            raise HarnessError("MMHal-Bench needs a judge", remedy="choose one: --judge openai")
        requests = self.judge_requests(items, responses)
        votes = ask(judge, requests, read_rating)
        return [self._one(request, votes[request.item.id]) for request in requests]

    @staticmethod
    def _one(request: JudgeRequest, votes: Sequence[Vote[int]]) -> SampleScore:
        """Means over the readable votes; the official figures use the first reply."""
        item, kind = request.item, request.item.reference["question_type"]
        ratings = [vote.value for vote in votes if vote.value is not None]
        details: dict[str, Any] = {
            "review": votes[0].text,
            "rating": float(np.mean(ratings)) if ratings else None,
            "votes": [vote.value for vote in votes],
            "type": kind,
            "judge_prompt": request.prompt,
            "reference": dict(item.reference),
        }
        if votes[0].first is not None:
            details["official_rating"] = parse_official(votes[0].first)
        if not ratings:
            return SampleScore(item.id, item.group, {}, details=details, unscored=votes[0].reason)
        counts = {f"{part}.{name}": 0.0 for name in TYPES for part in ("sum", "count")}
        counts |= {
            f"sum.{kind}": float(np.mean(ratings)),
            f"count.{kind}": 1.0,
            "hallucinated": float(np.mean([rating < HALLUCINATED_BELOW for rating in ratings])),
            "informative": float(np.mean([(rating - 3 if rating >= 3 else rating) / 3 for rating in ratings])),
        } | agreement(ratings)
        return SampleScore(item.id, item.group, counts, details=details)

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Means over the scored items; the score is on the scale of 0 to 6, the others are fractions."""
        result = {f"score.{kind}": ratio(totals[f"sum.{kind}"], totals[f"count.{kind}"]) for kind in TYPES}
        whole = np.sum([totals[f"sum.{kind}"] for kind in TYPES], axis=0)
        return {
            "score": ratio(whole, totals["n"]),
            "hallucination_rate": ratio(totals["hallucinated"], totals["n"]),
            "informativeness": ratio(totals["informative"], totals["n"]),
            "votes_agree": ratio(totals["agreeing"], totals["pairs"]),
        } | result

    def official_of(self, scores: Sequence[SampleScore]) -> dict[str, str]:
        """The figures of the official summary, from the first reply to each answer, with unreadable ones as 0: two decimals."""
        ratings = [
            (score.details["official_rating"], score.details["type"])
            for score in scores
            if "official_rating" in score.details
        ]
        if len(ratings) < len(scores) or not ratings:
            return {}
        values = [rating for rating, _ in ratings]
        informative = [(rating - 3 if rating >= 3 else rating) / 3 * 100 for rating in values]
        shown = {
            "score": np.mean(values),
            "hallucination_rate": np.mean([rating < HALLUCINATED_BELOW for rating in values]),
            "informativeness": np.mean(informative),
        }
        for kind in TYPES:
            own = [rating for rating, other in ratings if other == kind]
            if own:
                shown[f"score.{kind}"] = np.mean(own)
        return {name: f"{float(value):.2f}" for name, value in shown.items()}

    def provenance(self) -> dict[str, Any]:
        """The judge's prompt."""
        _, digest, kind = self._template
        return {"template": kind, "template_sha256": digest}
