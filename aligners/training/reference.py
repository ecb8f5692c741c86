"""Values of a fixed model for examples (log-probabilities, entropy): computed once, stored on disk, shared by methods and sweeps.

Content-addressed: a store's key has everything that determines its values (weights, template, arithmetic), and a value's key has its
prefix, image and response. So DPO and MFPO share common values, as do all runs of a sweep, and an interrupted pass is resumed. Rounding
of a value depends on its batch; the same command on an empty cache gives the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligners.base import Branch, BranchLogps, Logps
from aligners.training.encoding import EncodedExample
from aligners.training.layout import Batch
from harness.core.files import atomic_path, sha256_bytes, sha256_json, to_cache

FORMAT = 3
"""Version; raised when the stored values or their computation change."""
PART = 2_000_000
"""Number of values after which a part is written, so that a kill loses at most this many."""

Keys = dict[tuple[str, str], bytes]
"""Branch (image, response) of an example -> content key of its value."""


def content_keys(example: EncodedExample, branches: Iterable[Branch]) -> Keys:
    """The content keys of one example's branches: hashes of prefix ids, image bytes and response ids."""
    return {
        (branch.image, branch.response): hashlib.sha256(
            sha256_json(
                [
                    example.images[branch.image].fingerprint(),
                    list(example.prefixes[branch.image]),
                    list(example.responses[branch.response]),
                ]
            ).encode()
        ).digest()
        for branch in branches
    }


def content_print(example: EncodedExample, branches: Iterable[Branch]) -> str:
    """One hash of all branches of an example, of its corrected tokens and its weights."""
    keys = content_keys(example, branches)
    weights = [example.weight, dict(example.weights)] if example.weight != 1 or example.weights else []
    return sha256_json([[*pair, key.hex()] for pair, key in keys.items()] + [dict(example.corrected), *weights])


class ValueStore:
    """Arrays of float32 by content key, in parts under one folder.

    Args:
        cache: the user's cache folder.
        key: everything that determines the values besides their content (JSON-able).
        keep: whether to use the disk.
    """

    def __init__(self, cache: Path, key: dict[str, Any], keep: bool = True) -> None:
        self.folder = cache / "reference" / sha256_json({**key, "format": FORMAT})[:32]
        self.keep = keep
        self._values: dict[bytes, np.ndarray] = {}
        self._new: list[bytes] = []
        self._new_values = 0

    def load(self, wanted: Iterable[bytes]) -> None:
        """Read the requested values that are on disk."""
        missing = set(wanted) - self._values.keys()
        for path in sorted(self.folder.glob("part-*.npz")) if self.keep and missing else ():
            with np.load(path, allow_pickle=False) as stored:
                keys = [row.tobytes() for row in stored["keys"]]
                if not missing.isdisjoint(keys):
                    parts = np.split(stored["values"], np.cumsum(stored["lengths"])[:-1])
                    self._values.update({key: part for key, part in zip(keys, parts, strict=True) if key in missing})

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def __getitem__(self, key: bytes) -> np.ndarray:
        """The value of a key, [tokens] float32."""
        return self._values[key]

    def put(self, key: bytes, value: np.ndarray) -> None:
        """Add a value; it is on disk after the next `flush`, which happens automatically every PART numbers."""
        if key in self._values:
            return
        self._values[key] = value
        self._new.append(key)
        self._new_values += len(value)
        if self._new_values >= PART:
            self.flush()

    def flush(self) -> None:
        """Write new values."""
        if self._new and self.keep:
            values = [self._values[key] for key in self._new]
            path = self.folder / f"part-{sha256_bytes(b''.join(self._new))[:32]}.npz"
            with to_cache(path), atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez(
                    stream,
                    keys=np.frombuffer(b"".join(self._new), np.uint8).reshape(len(self._new), -1),
                    lengths=np.array([len(value) for value in values], np.int64),
                    values=np.concatenate(values).astype(np.float32),
                )
        self._new, self._new_values = [], 0

    def forget(self) -> None:
        """Drop all values after a `flush`, so that the next `load` reads them from disk; without the disk they are kept."""
        if self.keep:
            self._values = {}


class Reference:
    """The reference's log-probabilities of a stage's examples."""

    def __init__(self, store: ValueStore, keys: dict[str, Keys], computed: int) -> None:
        self._store, self._keys, self.computed = store, keys, computed

    def logps(self, batch: Batch, branches: Sequence[Branch]) -> Logps:
        """The batch's reference log-probabilities, in the layout of the policy's."""
        import torch

        result: dict[str, BranchLogps] = {}
        for branch in branches:
            layout = batch.layouts[branch.name]
            tokens = torch.zeros(layout.mask.shape, dtype=torch.float32)
            for row, name in enumerate(batch.ids):
                values = self._store[self._keys[name][branch.image, branch.response]]
                tokens[row, : len(values)] = torch.from_numpy(values)
            tokens = tokens.to(layout.mask.device)
            result[branch.name] = BranchLogps(tokens.sum(-1), tokens, layout.mask, layout.corrected)
        return result


def fill(
    store: ValueStore,
    blocks: Sequence[Sequence[EncodedExample]],
    keys: dict[str, Keys],
    compute: Callable[[Sequence[EncodedExample]], list[dict[tuple[str, str], np.ndarray]]],
    *,
    share: tuple[int, int] = (0, 1),
    in_step: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> int:
    """Compute missing blocks as a whole, so that a value's batch does not depend on when a run was interrupted.

    Args:
        store: loaded from disk.
        blocks: examples that go through the model together.
        keys: keys of every example by its id.
        compute: returns for a block, in order, the values of each example's branches.
        share: (i, n): compute only every n-th missing block, from the i-th; n processes share the work. If n > 1, the store is empty
        afterwards (unless it does not use the disk): load it as soon as all processes have finished.
        in_step: every process must compute equally often: a process without a block repeats another one's in the last round.
        done: called with the number of finished examples.

    Returns:
        The number of examples that were missing, whichever process computed them.
    """
    is_missing = _missing(store, blocks, keys)
    missing = missing_blocks = 0
    for block, block_is_missing in zip(blocks, is_missing, strict=True):
        if block_is_missing:
            if missing_blocks % share[1] == share[0]:
                for example, values in zip(block, compute(block), strict=True):
                    for pair, value in values.items():
                        store.put(keys[example.id][pair], value)
            missing += len(block)
            missing_blocks += 1
        done(len(block))
    if in_step and missing_blocks and share[0] >= (missing_blocks % share[1] or share[1]):
        compute(blocks[-1])
    store.flush()
    if share[1] > 1:
        # Two processes may have computed the same value with different rounding; from the disk, both read the same one.
        store.forget()
    return missing


def _missing(store: ValueStore, blocks: Sequence[Sequence[EncodedExample]], keys: dict[str, Keys]) -> list[bool]:
    """For every block whether it has a value that is neither in the store nor in an earlier missing block.

    Blocks may share values. This is decided before anything is computed, because only then all processes have the same values in the
    store and number the missing blocks alike.
    """
    coming: set[bytes] = set()
    result = []
    for block in blocks:
        wanted = {key for example in block for key in keys[example.id].values()}
        result.append(any(key not in store and key not in coming for key in wanted))
        if result[-1]:
            coming |= wanted
    return result
