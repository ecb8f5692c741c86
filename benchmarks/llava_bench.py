"""LLaVA-Bench (in the wild): 60 open questions; a judge compares the answer with one that GPT-4 wrote from a description."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.answers import identity
from benchmarks.base import Benchmark, BenchmarkSettings, Totals, needed, ratio
from benchmarks.judged_files import agreement, prompt_kind
from benchmarks.reviews import ReviewsJudge
from harness.core.declared import BarChart, OfflineFile
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_bytes, sha256_file
from harness.core.inside import Folder
from harness.core.reading import read_json, read_records
from harness.core.typed import Fields
from harness.core.types import ImageRef, Item, MetricSpec, Response, SampleScore
from harness.judging.base import Judge, JudgeRequest
from harness.judging.panel import Vote, ask
from harness.judging.replies import UnreadableError, spoken

CATEGORIES = ("llava_bench_conv", "llava_bench_detail", "llava_bench_complex")
OFFICIAL_RULE = "dd7345a44ce9f7a24e51a30ee030cdab32346f9d08e3359c80545ff1312b1e07"
"""SHA-256 of the official llava/eval/table/rule.json."""
_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_OWN_RULE = """Two assistants answered a question of a user about an image. You do not see the image; its description is in the context.
Rate both answers by helpfulness, relevance, accuracy and level of detail, each with a number from 1 to 10; a higher number is better.
Write only the two numbers on the first line, separated by a blank: the one of Assistant 1, then the one of Assistant 2.
Then explain your ratings on the following lines. The order of the answers must not affect your judgement."""
_NUMBER = r"\**(10(?:\.0+)?|\d(?:\.\d+)?)(?:/10)?\**"
_PAIR = re.compile(rf"\s*{_NUMBER}[\s,]+{_NUMBER}\s*")
_SHORT = {name: name.removeprefix("llava_bench_") for name in CATEGORIES}

Pair = tuple[float, float]


def official_pair(reply: str) -> Pair:
    """The official reading of a reply: the first line, its commas as blanks, split at single blanks, is two numbers; otherwise (-1, -1).

    Source: haotian-liu/LLaVA, llava/eval/eval_gpt_review_bench.py.
    """
    parts = reply.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = (float(part) for part in parts)
    except ValueError:
        return -1.0, -1.0
    return first, second


def read_pair(reply: str) -> Pair:
    """Both ratings on the first line that is not empty: "8 7", "8, 7", "8/10 7/10", also in bold.

    Raises:
        UnreadableError: the line is not two numbers from 0 to 10.
    """
    line = next((line for line in spoken(reply).splitlines() if line.strip()), "")
    if not (found := _PAIR.fullmatch(line)):
        raise UnreadableError("its first line is not two numbers from 0 to 10")
    return float(found.group(1)), float(found.group(2))


def _specs() -> tuple[MetricSpec, ...]:
    specs = [MetricSpec("relative", "LLaVA-Bench", True, "points", headline=True, kind="score")]
    specs += [
        MetricSpec(f"relative.{name}", f"LLaVA-Bench {name}", True, "points", kind="score") for name in _SHORT.values()
    ]
    specs += [
        MetricSpec("score.model", "LLaVA-Bench model", True, "points", kind="score"),
        MetricSpec("score.reference", "LLaVA-Bench reference", None, "points", kind="diagnostic"),
        MetricSpec("votes_agree", "LLaVA-Bench votes agree", True, kind="diagnostic"),
    ]
    return tuple(specs)


class LLaVABench(Benchmark):
    """The judge's ratings of the model's answers, relative to its ratings of GPT-4's answers: 100 * sum / sum.

    The official script keeps [-1, -1] of an unreadable reply in its means: if no reply can be read, the relative score is 100. Here the
    reply is requested again, and then the item is unscored; the official text is next to our value.

    Source: Liu et al., NeurIPS 2023 (arXiv 2304.08485).
    """

    name, title, max_new_tokens, needs_judge = "llava-bench", "LLaVA-Bench", 1024, True
    source = "Liu et al., NeurIPS 2023 (arXiv 2304.08485)"
    metrics = _specs()
    place = 110
    group = "general"
    charts = (
        BarChart(
            "relative",
            "llava-bench",
            "The judge's rating relative to that of GPT-4's answer on LLaVA-Bench, {board}: 100 means equally good.",
            "LLaVA-Bench",
            mark=100,
        ),
    )
    offline_files = (OfflineFile("reviews", "the judge's replies, JSON lines {question_id, category, content}"),)

    def __init__(self, settings: BenchmarkSettings | None = None) -> None:
        super().__init__(settings)
        self._rule_file: Path | None = None

    @cached_property
    def _rule(self) -> tuple[dict[str, tuple[str, str]], str]:
        """Category -> (role, rule), and the digest of the file, or of our own rule."""
        path = self._rule_file
        if path is None:
            return dict.fromkeys(CATEGORIES, ("Assistant", _OWN_RULE)), sha256_bytes(_OWN_RULE.encode())
        rules = Fields(read_json(path, "judge's rules"), str(path), "judge's rules")
        by_category = {}
        for category in CATEGORIES:
            entry = rules.fields(category)
            by_category[category] = (entry.text("role", empty=False), entry.text("prompt", empty=False))
        return by_category, sha256_file(path)

    def prompt_kind(self) -> str:
        """Of the judge's rule."""
        return prompt_kind(self._rule[1], OFFICIAL_RULE, sha256_bytes(_OWN_RULE.encode()))

    def items(self, data: Path) -> list[Item]:
        """`questions.jsonl`, with the descriptions of `context.jsonl` and GPT-4's answers of `answers_gpt4.jsonl`."""
        paths = {name: data / f"{name}.jsonl" for name in ("questions", "context", "answers_gpt4")}
        missing = next((path for path in paths.values() if not path.exists()), None)
        if missing is not None:
            raise self.missing_files(missing, "files")
        self._rule_file = data / "rule.json" if (data / "rule.json").exists() else None
        context: dict[str, list[str]] = {}
        with self.reading(paths["context"]) as path:
            for where, row in read_records(path, "context"):
                fields = Fields(row, where, "context")
                caption = [fields.text("caption")] if isinstance(row.get("caption"), str) else fields.texts("caption")
                context[fields.text("image", empty=False)] = caption
        answers = {}
        with self.reading(paths["answers_gpt4"]) as path:
            for where, row in read_records(path, "answers"):
                answers[identity(row, "question_id", where, "answer")] = Fields(row, where, "answer").text("text")
        items, images = [], Folder(data / "images")
        with self.reading(paths["questions"]) as path:
            for where, row in read_records(path, "questions"):
                fields, name = Fields(row, where, "question"), identity(row, "question_id", where, "question")
                picture = fields.text("image", empty=False)
                if name not in answers or picture not in context:
                    absent = f"no answer to question {name}" if name not in answers else f"no description of {picture}"
                    raise BadInputError(f"there is {absent}", where=where, remedy="harness data get llava-bench")
                reference = {
                    # The questions have short names, the script's rules and reviews long ones.
                    "category": f"llava_bench_{fields.choice('category', tuple(_SHORT.values()))}",
                    "context": "\n".join(context[picture]),
                    "gpt4_answer": answers[name],
                }
                image = ImageRef(path=images.path(picture, where))
                items.append(Item(name, fields.text("text", empty=False), image, picture, reference))
        if len({item.id for item in items}) != len(items) or not items:
            raise BadInputError("the questions have no ids of their own", where=str(paths["questions"]))
        return items

    def truth(self, item: Item) -> str:
        """GPT-4's answer."""
        return str(item.reference["gpt4_answer"])

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """`--reviews`: {question_id, category, content}, as the official script writes them."""
        path = needed(files, "reviews", self.name)
        reviews: dict[str, str] = {}
        items = []
        for where, row in read_records(path, "reviews"):
            fields, name = Fields(row, where, "review"), identity(row, "question_id", where, "review")
            if name in reviews:
                raise BadInputError(f"question {name} is reviewed twice", where=where)
            reviews[name] = fields.text("content")
            reference = {"category": fields.choice("category", CATEGORIES), "context": "", "gpt4_answer": ""}
            items.append(Item(name, "", ImageRef(name=name), name, reference))
        if not items:
            raise BadInputError("the file has no review", where=str(path))
        self.offline_judge = ReviewsJudge(path, reviews)
        return items, {name: Response(name, "") for name in reviews}

    def judge_requests(self, items: Sequence[Item], responses: Mapping[str, Response]) -> list[JudgeRequest]:
        """Context, question, GPT-4's answer, the model's answer, and the rule, in the official layout."""
        requests = []
        for item in items:
            role, rule = self._rule[0][item.reference["category"]]
            parts = [f"[Context]\n{item.reference['context']}\n\n[Question]\n{item.prompt}\n\n"]
            for number, text in enumerate((item.reference["gpt4_answer"], responses[item.id].text), 1):
                parts.append(f"[{role} {number}]\n{text}\n\n[End of {role} {number}]\n\n")
            prompt = "".join(parts) + f"[System]\n{rule}\n\n"
            requests.append(JudgeRequest(item, responses[item.id], prompt, system=_SYSTEM))
        return requests

    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Ask the judge about every answer, and read both of its ratings."""
        if judge is None:
            raise HarnessError("LLaVA-Bench needs a judge", remedy="choose one: --judge openai")
        requests = self.judge_requests(items, responses)
        votes: dict[str, list[Vote[Pair]]] = ask(judge, requests, read_pair)
        return [self._one(request, votes[request.item.id]) for request in requests]

    @staticmethod
    def _one(request: JudgeRequest, votes: Sequence[Vote[Pair]]) -> SampleScore:
        item, category = request.item, request.item.reference["category"]
        pairs = [vote.value for vote in votes if vote.value is not None]
        first = votes[0].first
        details: dict[str, Any] = {
            "review": votes[0].text,
            "ratings": [vote.value for vote in votes],
            "category": category,
            "official_pair": None if first is None else json.loads(_finite(official_pair(first))),
            "judge_prompt": request.prompt,
            "reference": dict(item.reference),
        }
        if not pairs:
            return SampleScore(item.id, item.group, {}, details=details, unscored=votes[0].reason)
        counts = {f"{part}.{name}": 0.0 for name in CATEGORIES for part in ("reference", "model")}
        reference, model = (float(np.mean([pair[place] for pair in pairs])) for place in (0, 1))
        counts |= {f"reference.{category}": reference, f"model.{category}": model} | agreement(pairs)
        return SampleScore(item.id, item.group, counts, details=details)

    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Relative scores, and both sums on the scale of 100."""
        result = {
            f"relative.{short}": 100 * ratio(totals[f"model.{name}"], totals[f"reference.{name}"])
            for name, short in _SHORT.items()
        }
        model, reference = (
            np.sum([totals[f"{part}.{name}"] for name in CATEGORIES], axis=0) for part in ("model", "reference")
        )
        return result | {
            "relative": 100 * ratio(model, reference),
            "score.model": 10 * ratio(model, totals["n"]),
            "score.reference": 10 * ratio(reference, totals["n"]),
            "votes_agree": ratio(totals["agreeing"], totals["pairs"]),
        }

    def official_of(self, scores: Sequence[SampleScore]) -> dict[str, str]:
        """What the official summary prints: of the first replies, (-1, -1) for unreadable ones, means rounded to three decimals first."""
        by_part: dict[str, list[Pair]] = {"": []}
        for score in scores:
            if score.details.get("official_pair") is None:
                return {}
            pair = tuple(float(value) for value in score.details["official_pair"])
            by_part[""].append(pair)  # type: ignore[arg-type]
            by_part.setdefault(f".{_SHORT[score.details['category']]}", []).append(pair)  # type: ignore[arg-type]
        printed = {}
        for part, pairs in by_part.items():
            reference, model = (round(float(value), 3) for value in np.asarray(pairs).mean(0))
            if reference == 0:
                return {}
            printed[f"relative{part}"] = str(round(model / reference * 100, 1))
            if not part:
                printed |= {"score.reference": str(round(reference * 10, 1)), "score.model": str(round(model * 10, 1))}
        return printed

    def provenance(self) -> dict[str, Any]:
        """The judge's rule."""
        return {"rule": self.prompt_kind() or "official", "rule_sha256": self._rule[1], "system": _SYSTEM}


def _finite(pair: Pair) -> str:
    """As JSON; what is not finite as a text, which `float` reads again."""
    return json.dumps([value if np.isfinite(value) else str(value) for value in pair])
