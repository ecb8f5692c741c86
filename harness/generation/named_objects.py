"""Judges of candidates that score the objects which a text names."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.objects import Extractor, Vocabulary, make_extractor, read_vocabulary
from benchmarks.objects.pipelines import pipeline_sha256
from benchmarks.objects.spacy_parser import RULES
from harness.judging.candidates import CandidateJudge, CandidateJudgeSettings

_RULES_WITHOUT_KEY = 2
"""The version of spaCy's rules when identities did not contain it; theirs stay as they are."""


class NamedObjectsSettings(CandidateJudgeSettings):
    """Which objects are known, and the parser that finds their names."""

    synonyms: str | None = Field(
        None, description="vocabulary, one class a line with its synonyms; default: COCO's 80 classes"
    )
    extractor: str = Field("spacy", description="nltk (the official parser), spacy, spacy:PIPELINE")


class NamedObjectsJudge(CandidateJudge):
    """A judge with a vocabulary and a parser."""

    settings: NamedObjectsSettings

    def identity(self) -> dict[str, Any]:
        """The settings, the hashes of the synonyms and of the pipeline's folder that they name, and the version of the parser's rules."""
        named = {"synonyms_sha256": self._vocabulary.sha256} if self.settings.synonyms else {}
        return super().identity() | named | self._parser

    @cached_property
    def _parser(self) -> dict[str, Any]:
        kind, _, pipeline = self.settings.extractor.partition(":")
        if kind != "spacy":
            return {}
        parts: dict[str, Any] = {}
        if pipeline and (sha256 := pipeline_sha256(pipeline)):
            parts["pipeline_sha256"] = sha256
        if RULES != _RULES_WITHOUT_KEY:
            parts["rules"] = RULES
        return parts

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return read_vocabulary(Path(self.settings.synonyms) if self.settings.synonyms else None)

    @cached_property
    def _extractor(self) -> Extractor:
        return make_extractor(self.settings.extractor, self._vocabulary)
