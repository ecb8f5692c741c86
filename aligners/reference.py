"""Reference log-probabilities: computed once per (data, model, template, settings), kept on disk, shared by methods and sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligners.base import Branch, BranchLogps, Logps
from aligners.branches import Batch, EncodedExample
from harness.files import atomic_path, sha256_json

FORMAT = 1
"""Raised when what is stored, or how it is computed, changes."""

Pair = tuple[str, str]


class ReferenceStore:
    """Per-token log-probabilities of (image, response) pairs, by example. The key holds all that determines them."""

    def __init__(self, cache: Path, key: dict[str, Any]) -> None:
        self.key = sha256_json({**key, "format": FORMAT})
        self.path = cache / "reference" / f"{self.key[:32]}.npz"
        self._values: dict[str, dict[Pair, np.ndarray]] = {}
        self.from_disk = False

    def fill(
        self,
        examples: Sequence[EncodedExample],
        branches: Sequence[Branch],
        compute: Callable[[Sequence[EncodedExample]], list[dict[Pair, np.ndarray]]],
        *,
        keep: bool,
    ) -> None:
        """Read the values from disk, or compute them for all examples and (if `keep`) write them.

        Args:
            examples: every example that will be asked for.
            branches: what is compared.
            compute: per example, the log-probabilities of its pairs, each [tokens] float32.
            keep: whether to use the disk at all.
        """
        pairs = [(branch.image, branch.response) for branch in branches]
        if keep and self.path.exists():
            self._values = self._read(examples, pairs)
            self.from_disk = True
            return
        self._values = {example.id: found for example, found in zip(examples, compute(examples), strict=True)}
        if keep:
            self._write(examples, pairs)

    def logps(self, batch: Batch, branches: Sequence[Branch]) -> Logps:
        """The batch's reference log-probabilities, in the layout of its policy."""
        import torch

        result: dict[str, BranchLogps] = {}
        for branch in branches:
            layout = batch.layouts[branch.name]
            tokens = torch.zeros(layout.mask.shape, dtype=torch.float32)
            for row, name in enumerate(batch.ids):
                values = self._values[name][branch.image, branch.response]
                tokens[row, : len(values)] = torch.from_numpy(values)
            tokens = tokens.to(layout.mask.device)
            result[branch.name] = BranchLogps(tokens.sum(-1), tokens, layout.mask, layout.corrected)
        return result

    def _write(self, examples: Sequence[EncodedExample], pairs: list[Pair]) -> None:
        flat = [self._values[example.id][pair] for example in examples for pair in pairs]
        with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, values=np.concatenate(flat), lengths=np.array([len(part) for part in flat], np.int64))

    def _read(self, examples: Sequence[EncodedExample], pairs: list[Pair]) -> dict[str, dict[Pair, np.ndarray]]:
        with np.load(self.path, allow_pickle=False) as stored:
            parts = iter(np.split(stored["values"], np.cumsum(stored["lengths"])[:-1]))
        return {example.id: {pair: next(parts) for pair in pairs} for example in examples}


def encoding_digest(examples: Sequence[EncodedExample], branches: Sequence[Branch]) -> str:
    """Hash of everything about the examples that their log-probabilities depend on: token ids and image bytes, in order."""
    prints: dict[int, str] = {}

    def image(example: EncodedExample, name: str) -> str:
        ref = example.images[name]
        return prints.setdefault(id(ref), ref.fingerprint())

    return sha256_json(
        [
            [
                example.id,
                [
                    [
                        branch.image,
                        branch.response,
                        example.prefixes[branch.image],
                        example.responses[branch.response],
                        image(example, branch.image),
                    ]
                    for branch in branches
                ],
            ]
            for example in examples
        ]
    )
