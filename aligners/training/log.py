"""The training log: one row per step, and the text after the progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aligners.base import Logps
from harness.core.files import naming, write_jsonl
from harness.core.progress import Advance
from harness.records.training_files import LogRow


class Recorder:
    """Collects the metrics of a step's passes over all processes; writes one row per step and shows loss and margin after the bar."""

    def __init__(
        self,
        log: Path,
        stage: str,
        advance: Advance,
        process: Any,
        on_step: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.log, self.stage, self.advance, self.process, self.on_step = log, stage, advance, process, on_step
        self.first: LogRow | None = None
        self.last: LogRow | None = None
        self.means: dict[str, float] = {}
        """Means of the last step, not rounded."""
        self.ids: list[str] = []
        """Ids of the examples of the current step."""
        self._sums: dict[str, float] = {}
        self._count = self._tokens = 0
        self._clock = time.perf_counter()

    def go_on_from(self, step: int) -> None:
        """Drop the stage's rows after a step, from which an interrupted run is resumed and logs them again."""
        if not self.log.exists():
            return
        rows = [row for row in _whole_rows(self.log) if row.stage != self.stage or row.step <= step]
        self.first = next((row for row in rows if row.stage == self.stage), None)
        if self.process.is_main_process:
            write_jsonl(self.log, (row.written() for row in rows))

    def add(self, metrics: dict[str, Any], weights: Any, tokens: int, ids: Sequence[str]) -> None:
        """Add a pass: its metrics ([batch] each), its examples' weights ([batch]) and ids, and the number of computed positions."""
        self.ids += ids
        self._count += int(weights.sum())
        self._tokens += tokens
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float((value * weights).sum())

    def step(self, number: int, rate: float, further: Mapping[str, float] | None = None, paused: float = 0.0) -> LogRow:
        """Finish a step: write its row, and return it.

        Args:
            number: the step, from 1.
            rate: the learning rate.
            further: other values for the row, which are equal in all processes.
            paused: seconds since the last step that were not spent on training.
        """
        from accelerate.utils import gather_object

        seconds = time.perf_counter() - self._clock - paused
        parts = gather_object([(self._sums, self._count, self._tokens)])
        count = sum(part[1] for part in parts)
        names = dict.fromkeys(name for part in parts for name in part[0])
        self.means = {name: sum(part[0].get(name, 0.0) for part in parts) / count for name in names}
        means = {name: round(value, 6) for name, value in self.means.items()}
        row = LogRow(
            stage=self.stage,
            step=number,
            learning_rate=rate,
            examples_per_second=round(count / seconds, 3),
            tokens_per_second=round(sum(part[2] for part in parts) / seconds),
            **means,
            **{name: round(value, 6) for name, value in (further or {}).items()},
        )
        self.first = self.first or row
        self.last = row
        if self.process.is_main_process:
            with naming(self.log), self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row.written()) + "\n")
            if self.on_step is not None:
                self.on_step(row.written())
        self.advance(1, note=f"loss {means['loss']:.3f}, margin {means.get('margin', 0):.2f}")
        self._sums, self._count, self._tokens, self._clock = {}, 0, 0, time.perf_counter()
        self.ids = []
        return row


def _whole_rows(log: Path) -> Iterator[LogRow]:
    """The rows of a log whose last line may be incomplete after a kill."""
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield LogRow.model_validate_json(line)


def reward_metrics(policy: Logps, reference: Logps, beta: float) -> dict[str, Any]:
    """Rewards of all branches, and margin and accuracy of chosen against every other branch; each [batch], detached.

    Without a reference there are none: only the method can say what its rewards are.
    """
    if not reference:
        return {}
    rewards = {name: (beta * (one.sums - reference[name].sums)).detach() for name, one in policy.items()}
    metrics = {f"reward_{name}": value for name, value in rewards.items()}
    for name, value in rewards.items():
        if name != "chosen":
            suffix = "" if name == "rejected" else f"_{name}"
            metrics[f"margin{suffix}"] = rewards["chosen"] - value
            metrics[f"accuracy{suffix}"] = (rewards["chosen"] > value).float()
    return metrics
