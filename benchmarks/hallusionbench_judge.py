"""HallusionBench's judge: its two prompts, the parsers of its replies, and stored replies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.answers import identity
from benchmarks.hallusionbench_groups import Mark
from benchmarks.reviews import ReviewsJudge
from harness.core.errors import BadInputError, shown
from harness.core.files import sha256_bytes
from harness.core.reading import read_records
from harness.core.typed import Fields
from harness.judging.panel import Vote
from harness.judging.replies import UnreadableError, spoken
from harness.judging.templates import read_built_prompt

T = TypeVar("T")
OFFICIAL_PROMPTS = (
    "944100e4a792647c4aa9ad07b694f090bc3dd3b18bb26d2b3a7528a8428cf2b3",
    "024606df4569d8838bf04b3ee2dcd457ab68ded3da433ebdbc86ee7ba978d492",
)
"""SHA-256 of the two prompts in the official utils.py, with placeholders for its variables."""
_FUNCTIONS = ("evaluate_by_chatgpt", "check_same_by_chatgpt")
OWN_PROMPTS = (
    """You check an answer to a question about an image. You do not see the image; a reference answer is given.

Question: {question}
Reference answer: {gt_answer_details}
Answer: {output_entry}

Reply with one word: "correct" if the answer agrees with the reference answer, "incorrect" if it contradicts it, "unclear" if it does not
say what the answer is.""",
    """Here are two answers of an assistant to two questions that you do not know.

Answer 1: {output_entry}
Answer 2: {response2}

Reply with one word: "same" if the answers agree with each other, "different" if one contradicts the other.""",
)
_VERDICTS = ("correct", "incorrect", "unclear")
_COLUMNS = ("category", "subcategory", "set_id", "figure_id", "question_id")
"""The official columns that identify a question."""
SAME = "#same"
"""Suffix of the id of a request that compares an answer with the one to the original."""


def script_prompts(script: Path) -> tuple[str, str]:
    """Both prompts from the official utils.py, whose versions may differ; the variant's name marks prompts other than
    `OFFICIAL_PROMPTS`."""
    first, second = (read_built_prompt(script, function)[0] for function in _FUNCTIONS)
    for prompt, fields in (
        (first, ("question", "gt_answer_details", "output_entry")),
        (second, ("output_entry", "response2")),
    ):
        if missing := [field for field in fields if f"{{{field}}}" not in prompt]:
            raise BadInputError(
                f"the judge's prompts in this file do not contain {', '.join(missing)}",
                where=str(script),
                remedy="download the official utils.py again, or remove this one: then our own prompts are used",
            )
    return first, second


def prompt_kind(prompts: tuple[str, str]) -> str:
    """The part of a variant's name about the prompts: "" for the official ones."""
    if prompts == OWN_PROMPTS:
        return "own prompt"
    digests = tuple(sha256_bytes(prompt.encode()) for prompt in prompts)
    return "" if digests == OFFICIAL_PROMPTS else f"prompt {sha256_bytes(repr(prompts).encode())[:8]}"


def official_mark(reply: str) -> Mark:
    """The official parser of a reply: "incorrect" anywhere, else "correct" anywhere, else unclear. "not correct" is correct."""
    low = reply.lower()
    return "0" if "incorrect" in low else "1" if "correct" in low else "2"


def official_same(reply: str) -> bool:
    """The official parser: "same" anywhere. "not the same" is the same."""
    return "same" in reply.lower()


def read_mark(reply: str) -> Mark:
    """The one verdict that a reply contains as a whole word.

    Raises:
        UnreadableError: it contains none, several, or a negation.
    """
    return {"incorrect": "0", "correct": "1", "unclear": "2"}[_word(reply, _VERDICTS)]  # type: ignore[return-value]


def read_same(reply: str) -> bool:
    """Whether two answers are the same; raises as `read_mark`."""
    return _word(reply, ("same", "different")) == "same"


def _word(reply: str, known: Sequence[str]) -> str:
    words = re.findall(r"[a-z']+", spoken(reply).lower())
    named = sorted({word.strip("'") for word in words} & set(known))
    if (
        len(named) != 1
        or {"not", "neither", "nor", "never"} & set(words)
        or any(word.endswith("n't") for word in words)
    ):
        raise UnreadableError(f"it contains {' and '.join(named) or 'none of ' + ', '.join(known)}")
    return named[0]


def row_id(row: Mapping[str, Any], where: str) -> str:
    """The id of a row: its own, the end of VLMEvalKit's index (hallusion_VD_chart_0_1_2), or made of the official columns."""
    if "id" in row:
        return identity(row, "id", where)
    index = row.get("index")
    if isinstance(index, str) and index.count("_") >= len(_COLUMNS) - 1:
        return "_".join(index.split("_")[-len(_COLUMNS) :])
    return "_".join(identity(row, key, where) for key in _COLUMNS)


def read_reviews(path: Path) -> ReviewsJudge:
    """Read stored replies: the judge's texts, or the codes that the official script saves."""
    replies: dict[str, str] = {}
    for where, row in read_records(path, "reviews"):
        fields, name = Fields(row, where, "review"), row_id(row, where)
        if name in replies:
            raise BadInputError(f"the question {shown(name)} is reviewed twice", where=where)
        if "judge_reply" in row:
            replies[name] = fields.text("judge_reply")
            if fields.has("same_reply"):
                replies[f"{name}{SAME}"] = fields.text("same_reply")
            continue
        code = next((key for key in row if key.endswith("gpt_check")), "judge_reply")
        replies[name] = {"0": "incorrect", "1": "correct", "2": "unclear"}[fields.choice(code, ("0", "1", "2"))]
        if fields.has("same"):
            replies[f"{name}{SAME}"] = "same" if fields.choice("same", ("0", "1")) == "1" else "different"
    return ReviewsJudge(path, replies)


def majority(votes: Sequence[Vote[T]]) -> T | None:
    """The most frequent verdict; None if none could be read or several are equally frequent."""
    ranked = Counter(vote.value for vote in votes if vote.value is not None).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]
