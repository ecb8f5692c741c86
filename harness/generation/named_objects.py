"""Judges of candidates that score the objects which a text names."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.objects import Extractor, Vocabulary, make_extractor, read_vocabulary
from harness.judging.candidates import CandidateJudge, CandidateJudgeSettings


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
        """The settings, and the hash of the synonyms that they name."""
        named = {"synonyms_sha256": self._vocabulary.sha256} if self.settings.synonyms else {}
        return super().identity() | named

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return read_vocabulary(Path(self.settings.synonyms) if self.settings.synonyms else None)

    @cached_property
    def _extractor(self) -> Extractor:
        return make_extractor(self.settings.extractor, self._vocabulary)
