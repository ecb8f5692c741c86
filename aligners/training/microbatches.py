"""Which examples go through the model together: a step's batch, distributed to processes and passes. Determined by the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aligners.training.encoding import EncodedExample
    from aligners.training.session import Session


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch's examples: a permutation of their indices, [count]."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class MicroBatches:
    """The micro-batches of one process over all of a stage's steps, in order: `(examples, weights)` at every index.

    Every epoch is a permutation of the examples, drawn from the seed; which examples make a step does not depend on the number
    of processes or the size of the micro-batch. A short last batch leaves slots empty; a process with only empty slots still makes its
    pass, because the others wait for its gradients, with an example of weight 0.
    """

    def __init__(
        self,
        run: Session,
        examples: Sequence[EncodedExample],
        steps: int,
        micro: int,
        passes: int,
        place: tuple[int, int],
    ) -> None:
        self.examples, self.steps = examples, steps
        self.branches, self.seed, self.preparer = run.branches, run.train_settings.seed, run.preparer()
        self.micro, self.passes, self.place = micro, passes, place
        self._epochs: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.steps * self.passes

    def chosen(self, index: int) -> tuple[list[EncodedExample], list[float]]:
        """The examples of a pass, and their weights: 1, or 0 for a filled-in example."""
        process, processes = self.place
        batch = self.micro * self.passes * processes
        step, number = divmod(index, self.passes)
        epoch, step = divmod(step, math.ceil(len(self.examples) / batch))
        if epoch not in self._epochs:
            self._epochs = {epoch: epoch_order(self.seed, epoch, len(self.examples))}
        start = step * batch + (number * processes + process) * self.micro
        places = self._epochs[epoch][start : min(start + self.micro, (step + 1) * batch)]
        if len(places):
            return [self.examples[place] for place in places], [1.0] * len(places)
        return [self.examples[self._epochs[epoch][0]]], [0.0]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The prepared batch of a pass, and the weights of its examples."""
        examples, weights = self.chosen(index)
        return {"batch": self.preparer.batch(examples, self.branches), "weights": weights}
