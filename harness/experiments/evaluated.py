"""What an evaluation of an experiment scores, and which score files are the experiment's: those that its settings and its judge made. The
same answers may also have been scored with another extractor or judge, by another experiment or by hand, and these scores are beside the
experiment's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.analysis.reliance import CHANGES
from harness.core.errors import BadInputError
from harness.core.files import sha256_json
from harness.evaluation.suites import suite_folder
from harness.records.score_files import ScoresRecord, SuiteScores, read_scores
from harness.runs.folders import Run, open_run


@dataclass(frozen=True)
class Scoring:
    """How an experiment scores a suite.

    Attributes:
        settings: of the suite, with their defaults, as score files have them.
        judge: its name; None if the suite needs none.
        judge_model: the model that is asked; None for a judge without a model among its settings.
        sampling: of the answers, as score files have it.
    """

    settings: Mapping[str, Any]
    judge: str | None = None
    judge_model: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def made(self, record: SuiteScores) -> bool:
        """Whether scores were made in this way. Settings that a file of an older version lacks are not compared."""
        if any(record.settings.get(key, value) != value for key, value in self.settings.items()):
            return False
        if self.judge is None or record.judge is None:
            return self.judge is None and record.judge is None
        return record.judge.judge == self.judge and self.judge_model in (None, record.judge.model)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation scores.

    Attributes:
        runs: their folders, below that of all runs.
        base: the label of their base model, if it is scored with them.
        data: name of the benchmark data.
        scorings: by suite.
        change: of the pictures, as the folder of its answers is named; "" for the original ones.
        limit: about how many items of a suite are asked; None: all.
        backend: what answers, if the experiment names it.
        is_told: whether score files tell everything that determines them. They do not tell the contents of what is named by a path, nor all
            settings of a backend or a judge.
    """

    runs: tuple[str, ...]
    base: str | None
    data: str
    scorings: Mapping[str, Scoring]
    change: str = ""
    limit: int | None = None
    backend: str | None = None
    is_told: bool = False

    def folders(self, runs: Path) -> Iterator[Path]:
        """The folders of the answers and scores, of the runs that are complete. `runs`: the folder of all runs."""
        made = [run for name in self.runs if (run := open_run(runs / name)).manifest is not None]
        for run in [*self._bases(runs, made), *made]:
            for suite in self.scorings:
                folder = suite_folder(run.path, suite, self.data)
                yield folder / CHANGES / self.change if self.change else folder

    def locks(self, runs: Path) -> Iterator[Path]:
        """The lock files of the answers, which one process at a time writes; with changed pictures also those of the plain answers."""
        for folder in replace(self, change="").folders(runs):
            yield from folder.glob("**/.responses.lock")

    def _bases(self, runs: Path, made: Sequence[Run]) -> list[Run]:
        """The run of the base model: of those with its label the ones with the weights that the runs were trained on. Manifests of before
        the fingerprint was recorded say nothing about weights."""
        if self.base is None:
            return []
        every = [open_run(path.parent) for path in sorted(runs.glob("base-*/manifest.json"))]
        weights = {run.manifest.base.fingerprint for run in made if run.manifest}
        return [
            run
            for run in every
            if run.manifest and run.kind == "base" and run.base_label == self.base
            and (weights <= {None} or run.manifest.base.fingerprint in {None, *weights})
        ]  # fmt: skip

    def scored(self, runs: Path) -> dict[str, str]:
        """The score files of this evaluation, below the folder of all runs, with a hash of what was scored: which items, of which
        answers, and the sums of their counts. What a judge's replies cost is no part of it: it differs whenever stored replies are read.
        """
        return {path.relative_to(runs).as_posix(): _hash_of(record) for path, record in self._records(runs)}

    def is_complete(self, runs: Path) -> bool:
        """Whether the score files alone say that this evaluation was carried out, by whoever ran its command."""
        if not self.is_told:
            return False
        whole = {
            path.relative_to(runs).as_posix(): "" for path, record in self._records(runs) if self._is_whole(record)
        }
        return not self.lacks(runs, whole)

    def _records(self, runs: Path) -> Iterator[tuple[Path, ScoresRecord]]:
        """The score files that the experiment's settings and judge made. `runs`: the folder of all runs."""
        for folder in self.folders(runs):
            for path in sorted(folder.glob("scores*.json")):
                record = _usable(path)
                scoring = self.scorings.get(record.suite) if record is not None else None
                if record is not None and scoring is not None and scoring.made(record):
                    yield path, record

    def _is_whole(self, record: ScoresRecord) -> bool:
        """Whether scores are of as many items, sampled in the same way and answered by the same backend as this evaluation asks for."""
        sampled = (record.sample or {}).get("limit")
        if sampled is None:
            count = record.n + record.unscored + len(record.refused or {})
            asked = count == record.of and (self.limit is None or self.limit >= record.of)
        else:
            asked = sampled == self.limit
        scoring = self.scorings[record.suite]
        settled = scoring.settings.keys() <= record.settings.keys() and record.sampling.model_dump() == scoring.sampling
        return asked and settled and self.backend in (None, record.serving.backend)

    def lacks(self, runs: Path, hashes: Mapping[str, str]) -> bool:
        """Whether a run or a suite of it has none of the score files in `hashes`."""
        scored = {(runs / path).parent for path in hashes}
        folders = set(self.folders(runs))
        complete = len(folders) >= len(self.scorings) * (len(self.runs) + (self.base is not None))
        return not complete or not folders <= scored


def _usable(path: Path) -> ScoresRecord | None:
    """A score file; None for one that cannot be used, which is as good as missing."""
    with contextlib.suppress(BadInputError):
        return read_scores(path)
    return None


def _hash_of(record: ScoresRecord) -> str:
    return sha256_json(
        [record.n, record.unscored, record.of, record.checkpoint, record.sampling.model_dump(), record.counts]
    )
