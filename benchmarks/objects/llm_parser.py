"""The official LLM mode: a judge model lists the objects of a response, and spaCy's tags and lemmas turn them into words.

A response of at most three words counts as naming nothing, and is not sent. A listed phrase with double words gives only these; any
other gives its runs of nouns. A word counts once per response, and is an object if the vocabulary has it.

Source: Yu et al. (RLHF-V), CVPR 2024, evaluation of Object HalBench. The prompt is the official script's if that is available, else our
own wording; it is sent as the user's message (officially as the system's).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from benchmarks.objects.base import Mention, readable
from benchmarks.objects.doubles import double_words, found_doubles
from benchmarks.objects.pipelines import pipeline_label
from benchmarks.objects.vocabulary import Vocabulary
from harness.core.errors import BadInputError
from harness.judging.replies import spoken

PROMPT = """List the physical objects that this description of an image says are in the image.

- Only concrete things that can be seen, no attributes, places, feelings or actions.
- Each with the words of the description, in the singular, without adjectives.
- Things that the description says are absent do not count.

Answer with a JSON list of strings and nothing else; [] if there are none.

Description:
{description}
"""
OFFICIAL_PROMPT = "9d732f9b73a3cc965bee6eb163b8e5248e58bd9d382eb583e9ece59933e2b580"
"""SHA-256 of the prompt in RLHF-V's script."""
FEWEST_WORDS = 4
_PIPELINES = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm")
"""Pipelines in order of preference; the first is the official one."""
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.+?)\s*$")
_NOUNS = ("NN", "NNS", "NNP", "NNPS")


def read_objects(reply: str) -> list[str] | None:
    """The phrases of a judge's reply: a JSON list of strings, or a list with bullets; None if it is neither."""
    reply = spoken(reply)
    start, end = reply.find("["), reply.rfind("]")
    if 0 <= start < end:
        try:
            listed = json.loads(reply[start : end + 1])
        except (ValueError, RecursionError):  # thousands of nested brackets are not a list of phrases
            listed = None
        if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
            return [one.strip() for one in listed if one.strip()]
    bullets = [found.group(1) for line in reply.splitlines() if (found := _BULLET.match(line))]
    return bullets or None


class LlmExtractor:
    """Turns the phrases that a judge listed into mentions."""

    def __init__(self, vocabulary: Vocabulary, pipeline: str | None = None) -> None:
        self.vocabulary = vocabulary
        self._wanted = pipeline
        self._doubles = double_words(vocabulary)
        self._nlp: Any = None

    @cached_property
    def _name(self) -> str | None:
        """The pipeline to load; None if none is installed."""
        import spacy.util

        return self._wanted or next((one for one in _PIPELINES if spacy.util.is_package(one)), None)

    @cached_property
    def other_pipeline(self) -> str:
        """What a metric's name says about the pipeline: "" for the official one, or if there is none."""
        return "" if self._name in (None, _PIPELINES[0]) else pipeline_label(str(self._name))

    def _pipeline(self) -> Any:
        """The tagger, loaded when it is needed.

        Raises:
            BadInputError: no pipeline with a tagger is installed, or the named one is not.
        """
        if self._nlp is None:
            import spacy

            if self._name is None:
                raise BadInputError(
                    "the extractor llm needs a spaCy pipeline with a tagger, but none is installed",
                    remedy=f"python -m spacy download {_PIPELINES[0]}, or --set halbench.pipeline=NAME_OR_FOLDER",
                )
            try:
                self._nlp = spacy.load(self._name)
            except OSError as error:
                raise BadInputError(f"the spaCy pipeline '{self._name}' cannot be loaded: {error}") from None
        return self._nlp

    def words(self, phrases: Sequence[str]) -> list[str]:
        """The words that listed phrases stand for, each once."""
        words: list[str] = []
        # "a" before the phrase, with tags, lemmas and capitals unchanged, as in the official script.
        for doc in self._pipeline().pipe([f"a {readable(phrase)}" for phrase in phrases]):
            lemmas = [token.lemma_ or token.text for token in doc]
            if doubles := found_doubles(lemmas, self._doubles):
                words += doubles
                continue
            run: list[str] = []
            for token, lemma in [*zip(doc, lemmas, strict=True), (None, "")]:
                if token is not None and token.tag_ in _NOUNS:
                    run.append(lemma)
                elif run:
                    words.append(" ".join(run))
                    run = []
        return list(dict.fromkeys(words))

    def mentions(self, words: Sequence[str], text: str) -> list[Mention]:
        """The words in the vocabulary, each once, with a span if the text contains the exact word."""
        known = self.vocabulary.words
        if "toilet" in words and "seat" in words:  # "the seat of the toilet" is not a chair
            words = [word for word in words if word != "seat"]
        low = text.lower()
        aligned = len(low) == len(text)
        result = []
        for word in dict.fromkeys(words):
            if word in known:
                place = re.search(rf"\b{re.escape(word)}", low) if aligned else None
                result.append(Mention(word, known[word], place.span() if place else None))
        return result

    def provenance(self) -> dict[str, Any]:
        """Version, pipeline and vocabulary."""
        import spacy

        used = "none needed" if self._nlp is None else f"{self._nlp.meta['lang']}_{self._nlp.meta['name']}"
        return {
            "extractor": "llm",
            "spacy": spacy.__version__,
            "pipeline": used,
            "vocabulary": self.vocabulary.source,
            "vocabulary_sha256": self.vocabulary.sha256,
        }
