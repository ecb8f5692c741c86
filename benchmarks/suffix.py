"""Instructions that suites append to their questions. Another instruction than the published one gives another variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from benchmarks.base import BenchmarkSettings
from harness.core.files import sha256_bytes


class SuffixSettings(BenchmarkSettings):
    """Settings of a suite whose questions may end with an instruction."""

    suffix: str | None = Field(
        None,
        description="the instruction at the end of every question, such as 'Please answer yes or no.'; a blank is put before it unless it "
        "begins with one (or with a newline); empty: no instruction; None: as published",
    )

    later: ClassVar[Mapping[str, Any]] = {"suffix": None}
    """Settings that a suite got after its first scores, with their defaults."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the defaults of later settings: scores that were made before stay comparable."""
        values: dict[str, Any] = dump(self)
        return {name: value for name, value in values.items() if name not in self.later or value != self.later[name]}

    @property
    def asked(self) -> str:
        """The part of the metrics' names that says how the questions are asked; "" as published."""
        return suffix_variant(self.suffix)


class YesNoSettings(SuffixSettings):
    """Settings of a suite of yes/no questions."""

    answer: Literal["text", "likelihood"] = Field(
        "text",
        description="text: the answer that the model writes; likelihood: Yes or No, whichever is the likelier next token (a backend that "
        "gives log-probabilities is needed)",
    )
    later: ClassVar[Mapping[str, Any]] = {"suffix": None, "answer": "text"}

    @property
    def choices(self) -> tuple[str, ...]:
        """`Item.choices` of a yes/no question."""
        return ("Yes", "No") if self.answer == "likelihood" else ()

    @property
    def asked(self) -> str:
        """As of `SuffixSettings`, and whether answers are chosen by their likelihoods."""
        return "+".join(part for part in ("likelihood" if self.choices else "", super().asked) if part)


def with_suffix(question: str, suffix: str | None, published: str = "", instruction: str = "") -> str:
    """A question with its instruction.

    Args:
        question: as in the suite's file.
        suffix: the setting.
        published: what the suite's authors append to the question.
        instruction: the instruction with which the file's questions end, if any; the setting replaces it.
    """
    if suffix is None:
        return question + published
    if instruction and question.rstrip().endswith(instruction):
        question = question.rstrip().removesuffix(instruction).rstrip()
    return question + _blank_before(suffix)


def without_suffix(prompt: str, suffix: str | None, published: str = "") -> str:
    """A question as the suite's file has it, without what `with_suffix` put behind it. Other tools ask with instructions of their own."""
    ending = published if suffix is None else suffix
    return prompt.rstrip().removesuffix(ending.strip()).rstrip()


def suffix_variant(suffix: str | None) -> str:
    """The part of a metric's name that marks an instruction other than the published one."""
    if suffix is None:
        return ""
    if not suffix.strip():
        return "no suffix"
    asked, words = _blank_before(suffix), " ".join(suffix.split())
    digest = "" if asked == f" {words}" and len(words) <= 40 else f" {sha256_bytes(asked.encode())[:6]}"
    return f'suffix "{words if len(words) <= 40 else words[:39] + "…"}"{digest}'


def _blank_before(suffix: str) -> str:
    return suffix if not suffix.strip() or suffix[0].isspace() else f" {suffix}"
