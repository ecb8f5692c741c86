"""The layout of a batch: many branches in as few tokens as possible, without influence on each other.

One row contains one image and prompt (the prefix), followed by all responses that are compared given that image:
`[prefix | response 1 | response 2 ...]`. Each response attends only to the prefix and itself (a 4-D mask), and its positions restart
after the prefix, so that the sums equal those of separate passes. If a response begins like an earlier one, as RLHF-V's corrections do,
the common tokens are in the row once, and the row branches where the two differ.
Without the shared prefix there is one row per branch; everything else is the same.

Rows of similar length are padded to one length and go through the model together (a `Block`): MFPO's rows are of two lengths,
and captions are of many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aligners.base import Branch, BranchLogps
from aligners.training.encoding import EncodedExample
from harness.core.types import ImageRef

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_COST = 256
"""Cost of a further block in tokens: a second pass through the model is worthwhile if it saves more padding than that."""


@dataclass(frozen=True)
class Block:
    """Rows that are padded to the same length.

    Attributes:
        input_ids: [rows, length].
        position_ids: [rows, length], counted over the row's tokens; [3, rows, length] for a family with image tokens on a grid.
        order: [rows, length], a token's index in its own sequence of image, prompt and response, independent of the family's positions;
        sliding windows use it.
        allowed: [rows, 1, masked, length] bool, True where the last `masked` positions may attend; the positions before them, which are
        in the prefix of every row, are causal (`attention`).
        images: one per row, until the block is prepared.
        prefixes: tokens of image and prompt, one number per row.
        image_inputs: in a prepared block, the processor's outputs for the images; empty if their features are cached.
        features: in a prepared block, the images' fingerprints, one per row, if their features are cached.
    """

    input_ids: Tensor
    position_ids: Tensor
    order: Tensor
    allowed: Tensor
    images: list[ImageRef] = field(repr=False)
    prefixes: list[int]
    image_inputs: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    features: Sequence[str] = field(default=(), repr=False)


@dataclass(frozen=True)
class BranchLayout:
    """The positions of a branch's tokens: all [batch, length], right-padded.

    Attributes:
        predictor: index of the hidden state that predicts the token, among those of all blocks, row after row.
        target: the token.
        mask: True at response tokens.
        corrected: True at corrected tokens, or None.
        weights: weights of the tokens, 0 elsewhere, or None.
    """

    predictor: Tensor
    target: Tensor
    mask: Tensor
    corrected: Tensor | None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Examples in the layout of this module. `weights`: factors of the examples' losses."""

    ids: list[str]
    blocks: list[Block]
    layouts: dict[str, BranchLayout]
    weights: Sequence[float] = ()

    def to(self, device: Any) -> Batch:
        """The batch on another device."""

        def block(original: Block) -> Block:
            return replace(
                original,
                input_ids=original.input_ids.to(device),
                position_ids=original.position_ids.to(device),
                order=original.order.to(device),
                allowed=original.allowed.to(device),
                image_inputs={name: value.to(device) for name, value in original.image_inputs.items()},
            )

        def layout(original: BranchLayout) -> BranchLayout:
            corrected, weights = (
                None if one is None else one.to(device) for one in (original.corrected, original.weights)
            )
            places = (original.predictor.to(device), original.target.to(device), original.mask.to(device))
            return BranchLayout(*places, corrected, weights)

        return replace(
            self,
            blocks=[block(original) for original in self.blocks],
            layouts={name: layout(original) for name, original in self.layouts.items()},
        )

    @property
    def tokens(self) -> int:
        """Positions that the model computes, padding included."""
        return sum(block.input_ids.numel() for block in self.blocks)


@dataclass
class _Row:
    """A row under construction: a prefix and a tree of responses."""

    image: ImageRef
    tokens: list[int]
    positions: list[int] = field(init=False)
    prefix: int = field(init=False)
    paths: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """For every response its tokens and their positions in the row."""
    parts: list[tuple[list[int], int, int]] = field(default_factory=list)
    """For every run of new tokens the preceding positions of its response, its start and its end."""

    def __post_init__(self) -> None:
        self.prefix = len(self.tokens)
        self.positions = list(range(self.prefix))

    def add(self, response: Sequence[int]) -> list[int]:
        """Add a response to the row; returns the positions that predict its tokens."""
        common: list[int] = []
        for tokens, places in self.paths:
            agree = _agreement(tokens, response)
            if agree > len(common):
                common = places[:agree]
        start = len(self.tokens)
        self.tokens += response[len(common) :]
        self.positions += range(self.prefix + len(common), self.prefix + len(response))
        places = [*common, *range(start, len(self.tokens))]
        self.paths.append((list(response), places))
        self.parts.append((common, start, len(self.tokens)))
        return [self.prefix - 1, *places[:-1]]


def _agreement(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning of two sequences."""
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count


def _rows(
    example: EncodedExample, branches: Sequence[Branch], shared: bool
) -> tuple[list[_Row], list[tuple[int, list[int]]]]:
    """An example's rows, and for every branch the index of its row and the predicting positions in it."""
    rows: list[_Row] = []
    by_image: dict[str, int] = {}
    places: list[tuple[int, list[int]]] = []
    for branch in branches:
        if not shared or branch.image not in by_image:
            by_image[branch.image] = len(rows)
            rows.append(_Row(example.images[branch.image], list(example.prefixes[branch.image])))
        number = by_image[branch.image]
        places.append((number, rows[number].add(example.responses[branch.response])))
    return rows, places


def row_lengths(example: EncodedExample, branches: Sequence[Branch], shared: bool = True) -> list[int]:
    """Tokens in each of an example's rows."""
    return [len(row.tokens) for row in _rows(example, branches, shared)[0]]


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows into blocks so that padding plus the cost of blocks (`BLOCK_COST`) is minimal.

    Returns:
        Row indices of each block, shortest rows first; rows of equal length keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first `end` rows, and the start of their last block
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + BLOCK_COST, start) for start in range(end)))
    blocks: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        blocks.insert(0, order[start:end])
        end = start
    return blocks


def collate(
    examples: Sequence[EncodedExample],
    branches: Sequence[Branch],
    pad: int,
    shared_prefix: bool = True,
    one_block: bool = False,
) -> Batch:
    """Lay out a batch; every example has all branches. `one_block` pads all rows to one length."""
    rows: list[_Row] = []
    places: dict[str, list[tuple[int, list[int]]]] = {branch.name: [] for branch in branches}
    for example in examples:
        made, found = _rows(example, branches, shared_prefix)
        for branch, (number, predictors) in zip(branches, found, strict=True):
            places[branch.name].append((len(rows) + number, predictors))
        rows += made
    blocks, starts = [], [0] * len(rows)
    total = 0
    groups = [list(range(len(rows)))] if one_block else group_by_length([len(row.tokens) for row in rows])
    for numbers in groups:
        block = _block([rows[number] for number in numbers], pad)
        for index, number in enumerate(numbers):
            starts[number] = total + index * block.input_ids.shape[1]
        total += block.input_ids.numel()
        blocks.append(block)
    layouts = {
        branch.name: _layout(
            [[starts[number] + place for place in predictors] for number, predictors in places[branch.name]],
            [example.responses[branch.response] for example in examples],
            [example.corrected.get(branch.response) for example in examples],
            [example.weights.get(branch.response) for example in examples],
        )
        for branch in branches
    }
    return Batch([example.id for example in examples], blocks, layouts, [example.weight for example in examples])


def _block(rows: Sequence[_Row], pad: int) -> Block:
    import torch

    length = max(len(row.tokens) for row in rows)
    # A prefix's last position predicts the first token of every response, so it is read, too.
    causal = min(row.prefix for row in rows) - 1
    input_ids = torch.full((len(rows), length), pad)
    position_ids = torch.zeros((len(rows), length), dtype=torch.long)
    allowed = torch.eye(length, dtype=torch.bool)[causal:].repeat(len(rows), 1, 1)
    for number, row in enumerate(rows):
        input_ids[number, : len(row.tokens)] = torch.tensor(row.tokens)
        position_ids[number, : len(row.tokens)] = torch.tensor(row.positions)
        sees = allowed[number]
        sees[: row.prefix - causal, : row.prefix] = torch.ones(row.prefix, row.prefix, dtype=torch.bool).tril()[causal:]
        for before, start, end in row.parts:
            part = sees[start - causal : end - causal]
            part[:, : row.prefix] = True
            part[:, before] = True
            part[:, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
    images, prefixes = [row.image for row in rows], [row.prefix for row in rows]
    return Block(input_ids, position_ids, position_ids, allowed[:, None], images, prefixes)


def _layout(
    predictors: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    corrected: Sequence[list[bool] | None],
    weights: Sequence[list[float] | None],
) -> BranchLayout:
    import torch

    shape = (len(responses), max(len(response) for response in responses))
    predictor, target = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    marks = torch.zeros(shape, dtype=torch.bool) if any(one is not None for one in corrected) else None
    for number, (places, response, changed) in enumerate(zip(predictors, responses, corrected, strict=True)):
        count = len(response)
        predictor[number, :count] = torch.tensor(places)
        target[number, :count] = torch.tensor(response)
        mask[number, :count] = True
        if marks is not None and changed is not None:
            marks[number, :count] = torch.tensor(changed)
    factors = torch.zeros(shape) if any(one is not None for one in weights) else None
    for number, given in enumerate(weights):
        if factors is not None and given is not None:
            factors[number, : len(given)] = torch.tensor(given)
    return BranchLayout(predictor, target, mask, marks, factors)


def by_branch(values: Tensor, layouts: Mapping[str, BranchLayout]) -> dict[str, BranchLogps]:
    """Split the values of all response tokens, branch after branch, into the branches' log-probabilities.

    Args:
        values: [tokens] float32 log-probabilities, or [tokens, 2] with the divergence from the reference as second column.
        layouts: layouts of the branches.
    """
    import torch

    def padded(part: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros(mask.shape, dtype=torch.float32, device=part.device).masked_scatter(mask, part)

    result: dict[str, BranchLogps] = {}
    parts = values.split([int(layout.mask.sum()) for layout in layouts.values()])
    for (name, layout), part in zip(layouts.items(), parts, strict=True):
        columns = [padded(column, layout.mask) for column in (part.unbind(-1) if part.ndim == 2 else [part])]
        divergence = columns[1] if len(columns) == 2 else None
        found = (columns[0].sum(-1), columns[0], layout.mask, layout.corrected, divergence, layout.weights)
        result[name] = BranchLogps(*found)
    return result
