"""Encoding examples as token ids, and marking the tokens that a correction changed."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aligners.base import Aligner, Branch, Needs
from aligners.corrections import CorrectedTokens, changed_tokens
from aligners.training.job import AlignJob
from harness.core.errors import BadInputError
from harness.core.progress import progress
from harness.core.types import ImageRef, PreferenceExample, Span, Turn
from harness.models import AnswerEncoder, prompt_inputs, refuse_control

_REMEDY = "fix the record; list them all: harness data check FILE --model MODEL"


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of one example.

    The encoder gives ids as arrays of 32 bits. A list has an object for every id, 36 bytes, and its pages are copied into every process of
    the loader, which counts references in them.

    Attributes:
        prefixes: image name -> ids of earlier turns, image, prompt and context. Without a context, images and examples share them.
        responses: response name -> its ids, with the end token if the example's responses are whole.
        corrected: response name -> marks of changed tokens; only for methods that need them.
        weight: factor of the example's loss.
        weights: response name -> weights of its tokens, likewise.
        truncated: responses that were cut at the length limit.
    """

    id: str
    prefixes: Mapping[str, Sequence[int]]
    images: Mapping[str, ImageRef]
    responses: Mapping[str, Sequence[int]]
    corrected: Mapping[str, list[bool]]
    truncated: int = 0
    weight: float = 1.0
    weights: Mapping[str, list[float]] = field(default_factory=dict)


class Encoder:
    """Turns examples into token ids with the model's own processor and chat template."""

    def __init__(
        self,
        processor: Any,
        branches: Sequence[Branch],
        max_length: int,
        corrections: CorrectedTokens | None,
        weights: bool = False,
    ) -> None:
        self.weights = weights
        self.processor, self.branches, self.max_length, self.corrections = processor, branches, max_length, corrections
        self._answers = AnswerEncoder(processor)
        tokenizer = processor.tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._prefixes: dict[tuple[tuple[Turn, ...], str, tuple[int, int]], array[int]] = {}

    def encode(self, example: PreferenceExample) -> EncodedExample:
        """Encode the images and responses that the branches name.

        Raises:
            BadInputError: image and prompt alone exceed the length limit, a named image or response is missing, the processor refuses
            the shape of an image, its template does not write an earlier turn, a text contains the model's own control tokens, or a
            response is empty once encoded.
        """
        # A tokenizer reads control tokens in a text as tokens: an answer would end, or an image begin, in the middle of it.
        refuse_control(example.texts(), self.processor, f"record {example.id}")
        names = list(dict.fromkeys(branch.response for branch in self.branches))
        answers = {name: self._answers.encode(example.whole(name)) for name in names}
        shared = self._answers.context_tokens(example.context, [ids for ids, _ in answers.values()])
        prefixes = {name: self._prefix(example, name) for name in dict.fromkeys(b.image for b in self.branches)}
        if context := _ids(next(iter(answers.values()))[0][:shared]):
            prefixes = {name: ids + context for name, ids in prefixes.items()}
        room = self.max_length - max(map(len, prefixes.values()))
        if room < 2:
            raise BadInputError(
                f"image and prompt take {self.max_length - room} tokens of {self.max_length}",
                where=example.id,
                remedy="raise it: --set train.max_length=N",
            )
        end = [self._answers.end] if example.ends else []
        responses: dict[str, array[int]] = {}
        offsets: dict[str, list[tuple[int, int]]] = {}
        truncated = 0
        for name, (whole, places) in answers.items():
            ids = whole[shared:]
            if not set(ids) - self._special:
                raise BadInputError(
                    f"the {name} response is empty once encoded: {example.responses[name][:60]!r}",
                    where=example.id,
                    remedy=_REMEDY,
                )
            truncated += len(ids) + len(end) > room
            responses[name] = _ids([*ids, *end][:room])
            begins = len(example.whole(name)) - len(example.responses[name])
            offsets[name] = [(max(0, a - begins), max(0, b - begins)) for a, b in places[shared:]]
        corrected = self._corrected(example, responses, offsets) if self.corrections is not None else {}
        weights = _token_weights(example, responses, offsets) if self.weights else {}
        images = {name: example.images[name] for name in prefixes}
        return EncodedExample(example.id, prefixes, images, responses, corrected, truncated, example.weight, weights)

    def _prefix(self, example: PreferenceExample, image: str) -> array[int]:
        """Ids of earlier turns, image and prompt, image tokens expanded. Their number depends only on the image's size."""
        if image not in example.images:
            raise BadInputError(f"the example has no {image} image", where=example.id)
        picture = example.images[image]
        key = (example.history, example.prompt, picture.size())
        if key not in self._prefixes:
            try:
                inputs = prompt_inputs(self.processor, example.prompt, picture.open(), example.history)
            except ValueError as error:  # Qwen's refuses an image that is 200 times as long as it is wide
                raise BadInputError(
                    f"the model's processor does not accept the {image} image, {picture.size()[0]}x{picture.size()[1]} pixels: {error}",
                    where=example.id,
                    remedy="leave the example out, or crop its image",
                ) from error
            self._prefixes[key] = _ids(inputs["input_ids"][0].tolist())
        return self._prefixes[key]

    def _corrected(
        self,
        example: PreferenceExample,
        responses: Mapping[str, Sequence[int]],
        offsets: Mapping[str, list[tuple[int, int]]],
    ) -> dict[str, list[bool]]:
        how = self.corrections or CorrectedTokens()
        if example.corrections is None:
            return dict(
                zip(
                    ("chosen", "rejected"),
                    changed_tokens(responses["chosen"], responses["rejected"], how),
                    strict=True,
                )
            )
        corrected: dict[str, list[bool]] = {}
        for name, ids in responses.items():
            spans: tuple[Span, ...] = example.corrections.get(name, ())
            marks = [any(start < end and a < end and b > start for a, b in spans) for start, end in offsets[name]]
            corrected[name] = (marks + [False] * len(ids))[: len(ids)]
        return corrected


def _ids(tokens: Sequence[int]) -> array[int]:
    """Token ids, 4 bytes each."""
    return array("i", tokens)


def _token_weights(
    example: PreferenceExample,
    responses: Mapping[str, Sequence[int]],
    offsets: Mapping[str, list[tuple[int, int]]],
) -> dict[str, list[float]]:
    """The weight of every token: of the characters that it overlaps, the last given span's; 1 elsewhere and for the end token."""
    weights: dict[str, list[float]] = {}
    for name, ids in responses.items():
        values = [1.0] * len(ids)
        for number, (a, b) in enumerate(offsets[name][: len(ids)]):
            for start, end, weight in example.token_weights.get(name, ()):
                if a < b and a < end and b > start:
                    values[number] = weight
        weights[name] = values
    return weights


def encode_all(
    processor: Any, examples: Sequence[PreferenceExample], aligner: Aligner, job: AlignJob
) -> tuple[dict[str, EncodedExample], dict[str, str]]:
    """Encode all examples, by id, as the method needs them; and return those that the model's processor refuses, with the reason.

    Raises:
        BadInputError: as `Encoder.encode`, unless the job says that bad records are skipped.
    """
    weights = Needs.WEIGHTS in aligner.needs
    encoder = Encoder(processor, aligner.branches, job.train.max_length, corrections_of(aligner), weights)
    encoded: dict[str, EncodedExample] = {}
    refused: dict[str, str] = {}
    with progress("encoding examples", len(examples)) as advance:
        for example in examples:
            try:
                encoded[example.id] = encoder.encode(example)
            except BadInputError as error:
                if job.on_error == "fail":
                    raise
                refused[example.id] = error.problem
            advance()
    return encoded, refused


def corrections_of(aligner: Aligner) -> CorrectedTokens | None:
    """How a method finds corrected tokens: by its settings (`corrected`), or like RLHF-V's public code; None if it does not need them."""
    if Needs.CORRECTIONS not in aligner.needs:
        return None
    how = getattr(aligner.settings, "corrected", None)
    return how if isinstance(how, CorrectedTokens) else CorrectedTokens()
