"""`harness import-results`: answers that another tool made become a run, with scores like those of `harness eval`."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.disk import check_place, make_folder
from harness.core.errors import BadInputError
from harness.core.files import sha256_file, sha256_json, write_json
from harness.core.locks import writing
from harness.core.names import check_name, name_from
from harness.core.removal import discard, move
from harness.core.temporary import temporary_folder
from harness.core.types import Response
from harness.evaluation.evaluate import run_prepared
from harness.evaluation.imported import ImportedAnswersBackend
from harness.evaluation.jobs import request_hashes
from harness.evaluation.request import EvalRequest, prepare
from harness.evaluation.responses import ResponseLog
from harness.evaluation.score import check_coverage
from harness.evaluation.suites import Suite, suite_folder
from harness.judging.base import Judge
from harness.records.answer_files import AnswerRecord, ServedRecord
from harness.records.manifest_file import BaseRecord, ImportedAnswers, ImportedFile, ManifestRecord
from harness.records.score_files import SuiteScores
from harness.runs.folders import MANIFEST, open_run
from harness.runs.manifest import surroundings
from harness.runs.set_aside import put_answers_aside
from harness.runs.state import lock_of
from harness.runs.targets import IMPORTED, Target, target_of_import

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Import:
    """What the user asked for.

    Attributes:
        files: files of one tool with answers to one suite.
        suite: its name.
        results: the folder of runs.
        name: of the run; None: that of the first file.
        model: label of the base model, whose runs share a leaderboard; None: that of the run, or its name.
        data: the benchmark data, as for `harness eval`.
        settings: of the suite and the judge, by group.
        judge: its name.
        max_unscored: share of items that may have no verdict.
        allow_partial: whether items may have no answer.
        overwrite: whether other answers to this suite in this run are replaced.
    """

    files: Sequence[Path]
    suite: str
    results: Path
    name: str | None = None
    model: str | None = None
    data: str = "official"
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    judge: str | None = None
    max_unscored: float = 0.01
    allow_partial: bool = False
    overwrite: bool = False


def import_results(asked: Import) -> SuiteScores:
    """Read the answers, and write and score the run. What is wrong with the files is found before anything is written.

    Raises:
        BadInputError: the files do not fit the suite, or the run has other answers to it.
        HarnessError: too many items could not be scored; then the run is as it was.
    """
    files = [ImportedFile(path=str(path), sha256=_digest(path)) for path in asked.files]
    if twice := next(
        (one for place, one in enumerate(files) if one.sha256 in [two.sha256 for two in files[:place]]), None
    ):
        raise BadInputError("the same answers are given twice", where=twice.path, remedy="name every file once")
    name = asked.name or name_from(asked.files[0].stem)
    check_name(name, "a run")
    folder = asked.results / name
    before = _existing(folder)
    model = asked.model or (before.base.label if before else name)
    if before and model != before.base.label:
        raise BadInputError(
            f"the run '{name}' contains answers of '{before.base.label}', not of '{model}'",
            where=str(folder),
            remedy="use another --name, or leave out --model",
        )
    request = EvalRequest(
        [target_of_import(name, folder, model)],
        [asked.suite],
        asked.data,
        ImportedAnswersBackend,
        asked.settings,
        asked.judge,
        asked.max_unscored,
        generate=False,
    )
    [suite], data_name, judge = prepare(request)
    answers = suite.benchmark.read_answers(suite.items, asked.files)
    form = " and ".join(answers.forms)
    logger.info(f"{suite.name}: {len(answers.responses):,} answers in {len(files)} file{'s'[: len(files) > 1]}: {form}")
    if answers.unknown:
        unknown, where = answers.unknown[0]
        raise BadInputError(
            f"{len(answers.unknown)} of {len(answers.responses)} answers belong to no item of {suite.name}; first: {unknown}",
            where=where,
            remedy=f"give the answers to the questions of --data {asked.data}",
        )
    check_coverage(suite.items, answers.responses, asked.allow_partial)
    about = ImportedAnswers(
        suite=suite.name,
        data=str(Path(asked.data).resolve()) if Path(asked.data).is_dir() else asked.data,
        form=form,
        files=files,
        answers=len(answers.responses),
        of=len(suite.items),
        imported=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return _Importing(request, suite, data_name, judge, answers.responses, about).run(asked.overwrite)


class _Importing:
    """Checked answers on their way into a run."""

    def __init__(
        self,
        request: EvalRequest,
        suite: Suite,
        data_name: str,
        judge: Judge | None,
        responses: Mapping[str, Response],
        about: ImportedAnswers,
    ) -> None:
        [self.target] = request.targets
        self.request, self.suite, self.data_name, self.judge = request, suite, data_name, judge
        self.responses, self.about = responses, about
        self.before: ManifestRecord | None = None
        self.key = f"{suite.name}@{data_name}"
        self.folder = suite_folder(self.target.folder, suite.name, data_name)
        hashes = request_hashes([self.target], [suite], request.backend_identity)
        self.hashes = {item.id: hashes[self.target.name, suite.key, 0, item.id] for item in suite.items}

    def run(self, overwrite: bool) -> SuiteScores:
        results = self.target.folder.parent
        check_place(self.target.folder)
        with writing(lock_of(self.target.folder), "this run", self.target.folder):
            self.before = _existing(self.target.folder)
            if self._known():
                logger.info(f"'{self.target.name}' has these answers already")
                return self._scored(self.target)
            if self.folder.exists() and any(self.folder.glob("responses*.jsonl")) and not overwrite:
                raise BadInputError(
                    f"the run '{self.target.name}' has other answers to {self.suite.name} on {self.data_name}",
                    where=str(self.folder),
                    remedy="replace them with --overwrite, or use another --name",
                )
            make_folder(results)
            # Written and scored elsewhere first, so that a run is never half-written. What a kill leaves is removed by the next writer.
            with temporary_folder(self.target.folder) as staged:
                try:
                    record = self._staged(staged / self.target.name)
                    self._put(suite_folder(staged / self.target.name, self.suite.name, self.data_name))
                finally:
                    discard(staged, within=results)
            return record

    def _known(self) -> bool:
        """Whether the run has the same answers from the same files."""
        before = (self.before.imported or {}).get(self.key) if self.before else None
        if before is None or [one.sha256 for one in before.files] != [one.sha256 for one in self.about.files]:
            return False
        kept = ResponseLog.peek(self.folder)
        return kept == {(name, self.hashes[name]): self.responses[name].text for name in self.responses}

    def _scored(self, target: Target) -> SuiteScores:
        request = dataclasses.replace(self.request, targets=[target])
        [record] = run_prepared(request, [self.suite], self.data_name, self.judge)
        assert isinstance(record, SuiteScores)
        return record

    def _staged(self, folder: Path) -> SuiteScores:
        """Write the answers into a folder like the run's, and score them there."""
        target = target_of_import(self.target.name, folder, self.target.model)
        answers = suite_folder(folder, self.suite.name, self.data_name)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with ResponseLog(answers) as log:
            for item in self.suite.items:
                if item.id not in self.responses:
                    continue
                response = self.responses[item.id]
                optional: dict[str, Any] = {} if response.refusal is None else {"refusal": response.refusal}
                log.put(
                    AnswerRecord(
                        item=item.id,
                        request=self.hashes[item.id],
                        text=response.text,
                        finish_reason="unknown",
                        prompt_tokens=None,
                        completion_tokens=None,
                        backend=self.request.backend.name,
                        checkpoint=target.answered_by(""),
                        time=now,
                        **optional,
                    )
                )
        backend = ImportedAnswersBackend(target.base)
        write_json(answers / "serving.json", ServedRecord(**backend.provenance(), settings={}).written())
        return self._scored(target)

    def _put(self, staged: Path) -> None:
        """Move the scored answers into the run, behind its manifest; answers that were there are set aside."""
        name = self.target.name
        manifest = ManifestRecord(
            schema=ManifestRecord.KNOWN,
            kind=IMPORTED,
            name=name,
            config={"model": self.target.model, "method": IMPORTED},
            base=BaseRecord(label=self.target.model, location=None, fingerprint=None),
            imported={**((self.before.imported if self.before else None) or {}), self.key: self.about},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        with writing(self.folder / ".responses.lock", "these responses", self.folder):
            write_json(self.target.folder / MANIFEST, manifest.written() | surroundings().written())
            aside = put_answers_aside(self.folder)
            for path in sorted(staged.iterdir()):
                if not path.name.startswith("."):
                    move(path, self.folder / path.name, within=self.target.folder.parent)
        if aside is not None:
            logger.info(
                f"the earlier answers are kept in {aside}: `harness runs --restore {aside}` brings them back, "
                "`harness runs --prune` removes them"
            )


def _existing(folder: Path) -> ManifestRecord | None:
    """The manifest of the imported run in a folder, None if there is nothing.

    Raises:
        BadInputError: the folder contains something else.
    """
    manifest = open_run(folder).manifest if folder.exists() else None
    if manifest is not None and manifest.kind == IMPORTED:
        return manifest
    if folder.exists() and (manifest is not None or not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(
            "the folder contains something else than imported answers, so it is neither used nor replaced",
            where=str(folder),
            remedy="use another --name, or another --results",
        )
    return None


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files.

    Raises:
        BadInputError: there is no such file.
    """
    if path.is_dir():
        inside = sorted(one for one in path.iterdir() if one.is_file())
        return sha256_json([[one.name, sha256_file(one)] for one in inside])
    if not path.is_file():
        raise BadInputError("the file with the answers does not exist", where=str(path), remedy="give an existing file")
    return sha256_file(path)
