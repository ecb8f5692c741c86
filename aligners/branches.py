"""From examples to batches, and from batches to log-probabilities of responses.

One row holds one image and prompt (the prefix) and behind it all responses that are compared given that image:
`[prefix | response 1 | response 2 ...]`. Each response sees the prefix and itself only (a 4-D mask), and its positions
restart after the prefix, so that the sum is what separate passes would give. Without the shared prefix there is one row a
branch; all else is the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aligners.base import Branch, BranchLogps
from harness.errors import BadInputError
from harness.models import prompt_text
from harness.types import ImageRef, PreferenceExample, Span

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1024
"""Response tokens whose logits are held at a time."""


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of one example. Responses end with the end token; `corrected` marks their changed tokens."""

    id: str
    prefixes: Mapping[str, list[int]]
    images: Mapping[str, ImageRef]
    responses: Mapping[str, list[int]]
    corrected: Mapping[str, list[bool]]
    truncated: int = 0

    def length(self, branches: Sequence[Branch]) -> int:
        """Tokens in the example's longest row when prefixes are shared."""
        used: dict[str, int] = {}
        for branch in branches:
            used[branch.image] = used.get(branch.image, len(self.prefixes[branch.image])) + len(
                self.responses[branch.response]
            )
        return max(used.values())


class Encoder:
    """Turns examples into token ids with the model's own processor and chat template."""

    def __init__(self, processor: Any, branches: Sequence[Branch], max_length: int, corrections: bool) -> None:
        self.processor, self.branches, self.max_length, self.corrections = processor, branches, max_length, corrections
        self._prefixes: dict[tuple[str, tuple[int, int]], list[int]] = {}

    def encode(self, example: PreferenceExample) -> EncodedExample:
        """Encode the images and responses that the branches name.

        Raises:
            BadInputError: image and prompt alone exceed the length limit, a named image or response is missing, or a
                response is empty once encoded.
        """
        tokenizer = self.processor.tokenizer
        prefixes = {name: self._prefix(example, name) for name in dict.fromkeys(b.image for b in self.branches)}
        room = self.max_length - max(map(len, prefixes.values()))
        if room < 2:
            raise BadInputError(
                f"image and prompt alone take {self.max_length - room} tokens of {self.max_length}",
                where=example.id,
                remedy="raise it: --set train.max_length=N",
            )
        responses: dict[str, list[int]] = {}
        truncated = 0
        for name in dict.fromkeys(branch.response for branch in self.branches):
            ids = tokenizer(example.responses[name], add_special_tokens=False)["input_ids"]
            if not ids:
                raise BadInputError(f"the {name} response is empty", where=example.id)
            truncated += len(ids) + 1 > room
            responses[name] = [*ids, tokenizer.eos_token_id][:room]
        corrected = self._corrected(example, responses) if self.corrections else {}
        images = {name: example.images[name] for name in prefixes}
        return EncodedExample(example.id, prefixes, images, responses, corrected, truncated)

    def _prefix(self, example: PreferenceExample, image: str) -> list[int]:
        """Ids of image and prompt, image tokens expanded. How many there are depends on the image's size alone."""
        if image not in example.images:
            raise BadInputError(f"the example has no {image} image", where=example.id)
        picture = example.images[image].open()
        key = (example.prompt, picture.size)
        if key not in self._prefixes:
            encoded = self.processor(text=prompt_text(self.processor, example.prompt), images=picture)
            ids = encoded["input_ids"]
            self._prefixes[key] = [int(token) for token in (ids[0] if not isinstance(ids[0], int) else ids)]
        return self._prefixes[key]

    def _corrected(self, example: PreferenceExample, responses: Mapping[str, list[int]]) -> dict[str, list[bool]]:
        if example.corrections is not None:
            return {name: self._from_spans(example, name, ids) for name, ids in responses.items()}
        return dict(
            zip(("chosen", "rejected"), changed_tokens(responses["chosen"], responses["rejected"]), strict=True)
        )

    def _from_spans(self, example: PreferenceExample, name: str, ids: list[int]) -> list[bool]:
        assert example.corrections is not None
        spans: tuple[Span, ...] = example.corrections.get(name, ())
        offsets = self.processor.tokenizer(
            example.responses[name], add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]
        marks = [any(start < end and a < end and b > start for a, b in spans) for start, end in offsets]
        return (marks + [False] * len(ids))[: len(ids)]


def changed_tokens(one: Sequence[int], other: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Which tokens of each sequence are outside difflib's matching blocks (RLHF-V's corrected segments)."""
    changed = ([True] * len(one), [True] * len(other))
    for block in difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks():
        for step in range(block.size):
            changed[0][block.a + step] = changed[1][block.b + step] = False
    return changed


@dataclass(frozen=True)
class BranchLayout:
    """Where a branch's tokens are: all [batch, length], right-padded.

    Attributes:
        row: [batch], row of the batch that the branch is in.
        predictor: position in the row whose hidden state predicts the token.
        target: the token.
        mask: True at response tokens.
        corrected: True at corrected tokens, or None.
    """

    row: Tensor
    predictor: Tensor
    target: Tensor
    mask: Tensor
    corrected: Tensor | None


@dataclass(frozen=True)
class Batch:
    """A padded batch. `allowed` is [rows, 1, length, length] bool, True where a position may look."""

    ids: list[str]
    input_ids: Tensor
    position_ids: Tensor
    allowed: Tensor
    images: list[ImageRef] = field(repr=False)
    layouts: dict[str, BranchLayout]

    def to(self, device: Any, **_: Any) -> Batch:
        """The batch on another device."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        layouts = {
            name: BranchLayout(
                *(move(getattr(one, part)) for part in ("row", "predictor", "target", "mask", "corrected"))
            )  # type: ignore[arg-type]
            for name, one in self.layouts.items()
        }
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            allowed=self.allowed.to(device),
            layouts=layouts,
        )


@dataclass
class _Row:
    """A row under construction."""

    image: ImageRef
    tokens: list[int]
    positions: list[int]
    prefix: int
    parts: list[tuple[int, int]] = field(default_factory=list)

    def add(self, response: Sequence[int]) -> list[int]:
        """Put a response behind what is there; returns the predicting positions."""
        start = len(self.tokens)
        self.tokens += response
        self.positions += range(self.prefix, self.prefix + len(response))
        self.parts.append((start, len(self.tokens)))
        return [self.prefix - 1, *range(start, len(self.tokens) - 1)]


def collate(
    examples: Sequence[EncodedExample], branches: Sequence[Branch], pad: int, shared_prefix: bool = True
) -> Batch:
    """Lay out a batch; every example has all branches."""
    import torch

    rows: list[_Row] = []
    places: dict[str, list[tuple[int, list[int], list[int], list[bool] | None]]] = {
        branch.name: [] for branch in branches
    }
    for example in examples:
        by_image: dict[str, int] = {}
        for branch in branches:
            if not shared_prefix or branch.image not in by_image:
                prefix = example.prefixes[branch.image]
                by_image[branch.image] = len(rows)
                rows.append(_Row(example.images[branch.image], list(prefix), list(range(len(prefix))), len(prefix)))
            index, response = by_image[branch.image], example.responses[branch.response]
            predictors = rows[index].add(response)
            places[branch.name].append((index, predictors, list(response), example.corrected.get(branch.response)))  # type: ignore[arg-type]
    length = max(len(row.tokens) for row in rows)
    input_ids = torch.full((len(rows), length), pad)
    position_ids = torch.zeros((len(rows), length), dtype=torch.long)
    allowed = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for number, row in enumerate(rows):
        size = len(row.tokens)
        input_ids[number, :size] = torch.tensor(row.tokens)
        position_ids[number, :size] = torch.tensor(row.positions)
        allowed[number, :size, : row.prefix] = causal[:size, : row.prefix]
        for start, end in row.parts:
            allowed[number, start:end, start:end] = causal[: end - start, : end - start]
    layouts = {name: _layout(found) for name, found in places.items()}
    return Batch(
        [example.id for example in examples],
        input_ids,
        position_ids,
        allowed[:, None],
        [row.image for row in rows],
        layouts,
    )


def _layout(found: list[tuple[int, list[int], list[int], list[bool] | None]]) -> BranchLayout:
    import torch

    shape = (len(found), max(len(target) for _, _, target, _ in found))
    predictor, target = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    mask, corrected = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for number, (_, predictors, tokens, marks) in enumerate(found):
        size = len(tokens)
        predictor[number, :size] = torch.tensor(predictors)
        target[number, :size] = torch.tensor(tokens)
        mask[number, :size] = True
        if marks is not None:
            corrected[number, :size] = torch.tensor(marks)
    marked = all(marks is not None for *_, marks in found)
    return BranchLayout(
        torch.tensor([row for row, *_ in found]), predictor, target, mask, corrected if marked else None
    )


def gather_logps(
    hidden: Tensor, head: Any, layouts: Mapping[str, BranchLayout], chunked: bool = True
) -> dict[str, BranchLogps]:
    """Log-probabilities of every branch's tokens, float32.

    Args:
        hidden: last hidden states, [rows, length, width].
        head: the language-model head.
        layouts: the branches.
        chunked: compute logits for CHUNK tokens at a time and again in the backward pass, so that they are never held.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    picked = torch.cat([hidden[one.row[:, None], one.predictor][one.mask] for one in layouts.values()])
    targets = torch.cat([one.target[one.mask] for one in layouts.values()])

    def logps(states: Tensor, tokens: Tensor) -> Tensor:
        return head(states).float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]

    if chunked:
        values = torch.cat(
            [
                checkpoint(logps, *block, use_reentrant=False) if torch.is_grad_enabled() else logps(*block)
                for block in zip(picked.split(CHUNK), targets.split(CHUNK), strict=True)
            ]
        )
    else:
        values = logps(picked, targets)
    result: dict[str, BranchLogps] = {}
    for (name, one), part in zip(
        layouts.items(), values.split([int(one.mask.sum()) for one in layouts.values()]), strict=True
    ):
        tokens = torch.zeros(one.mask.shape, dtype=torch.float32, device=hidden.device).masked_scatter(
            one.mask, part.float()
        )
        result[name] = BranchLogps(tokens.sum(-1), tokens, one.mask, one.corrected)
    return result
