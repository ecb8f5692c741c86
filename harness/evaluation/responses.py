"""The response log: append-only JSON lines, one complete record per answer, reused only if everything that determines the answer is the
same."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, HarnessError
from harness.core.files import dump_row, naming, sha256_json, whole_lines
from harness.core.locks import writing
from harness.core.terminal import say
from harness.core.types import Item, Response
from harness.records.answer_files import AnswerRecord, answer_record
from harness.runs.set_aside import bring_answers_back, put_answers_aside
from harness.serving.base import Completion, Sampling

LOG = "responses.jsonl"
_SYNC_EVERY = 64


def request_hash(
    item: Item, image: str, sampling: Sampling, checkpoint: str, template: str, backend: str, repeat: int = 0
) -> str:
    """Hash of everything that determines an answer.

    Args:
        item: its prompt and its choices count, its id does not: the same question in two suites is the same request.
        image: SHA-256 of the image's bytes.
        sampling: how tokens are drawn.
        checkpoint: fingerprint of the weights (for an adapter, with its base's).
        template: hash of template, tokenizer and image processor.
        backend: its name, with the settings that can change an answer.
        repeat: index of the repetition of the same request, from 0.
    """
    identity = [item.prompt, image, sampling.model_dump(), checkpoint, template, backend]
    if item.choices:
        identity.append(list(item.choices))
    return sha256_json([*identity, repeat] if repeat else identity)


def complete_answers(folder: Path) -> Iterator[AnswerRecord]:
    """The complete records of a suite's log that another process may be writing."""
    path = folder / LOG
    data = path.read_bytes() if path.exists() else b""
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        with suppress(BadInputError):
            yield answer_record(line, 2, path)


class ResponseLog:
    """One suite's answers of one checkpoint. Use as a context: the log is locked against a second process while it is open.

    Args:
        folder: the suite's folder in a run; created when the log is opened.
        afresh: start an empty log. Existing answers are set aside with their scores, and restored if an error ends the block before a
        new answer is added.
    """

    def __init__(self, folder: Path, *, afresh: bool = False) -> None:
        self.path = folder / LOG
        self._afresh = afresh
        self._aside: Path | None = None
        self._held = ExitStack()
        self._added = False
        self._records: dict[tuple[str, str], AnswerRecord] = {}
        self._unsynced = 0

    def __enter__(self) -> ResponseLog:
        folder = self.path.parent
        with ExitStack() as opening:
            opening.enter_context(writing(folder / ".responses.lock", "these responses", self.path))
            if self._afresh:
                self._aside = put_answers_aside(folder)
            self._read()
            self._stream = opening.enter_context(self.path.open("a", encoding="utf-8"))
            self._held = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._held:
            try:
                self._sync()
            finally:
                if self._aside is not None:
                    self._end_afresh(failed=kind is not None)

    def _end_afresh(self, *, failed: bool) -> None:
        """Restore the answers that were set aside if no new one was added; otherwise log where they are."""
        assert self._aside is not None
        if failed and not self._added:
            with suppress(OSError, HarnessError):  # the error that ended the block is raised, not this one
                bring_answers_back(self._aside)
                return
        say(
            f"the earlier answers are kept in {self._aside}: `harness runs --restore {self._aside}` "
            "brings them back, `harness runs --prune` removes them",
            err=True,
        )

    def _read(self) -> None:
        """Read the complete records; an incomplete last line, left by a kill, is removed, and its item is asked again."""
        for number, line in enumerate(whole_lines(self.path), 1):
            try:
                record = answer_record(line, number, self.path)
            except BadInputError as error:
                raise BadInputError(
                    f"the response log is damaged: {error.problem}",
                    where=f"{self.path}:{number}",
                    remedy="remove the line, or generate again with --overwrite",
                ) from None
            self._records[record.item, record.request] = record

    @staticmethod
    def peek(folder: Path) -> dict[tuple[str, str], str]:
        """(item, request hash) -> text of every complete record, read without a lock and without repairing the file."""
        return {(row.item, row.request): row.text for row in complete_answers(folder)}

    @staticmethod
    def peek_lengths(folder: Path) -> list[int]:
        """Number of generated tokens of every complete record that has it, read in the same way."""
        return [row.completion_tokens for row in complete_answers(folder) if row.completion_tokens is not None]

    def record(self, item_id: str, request: str) -> AnswerRecord | None:
        """The whole record of an answer, or None."""
        return self._records.get((item_id, request))

    def get(self, item_id: str, request: str) -> Response | None:
        """The answer to this request, or None."""
        record = self._records.get((item_id, request))
        if record is None:
            return None
        return Response(
            item_id,
            record.text,
            record.finish_reason,
            record.prompt_tokens,
            record.completion_tokens,
            record.refusal,
        )

    def add(self, item_id: str, request: str, completion: Completion, backend: str, checkpoint: str) -> None:
        """Append an answer. It is on the disk after at most `_SYNC_EVERY` answers, or when the log is closed."""
        optional: dict[str, Any] = {"model": completion.model} if completion.model else {}
        optional |= {"refusal": completion.refusal} if completion.refusal is not None else {}
        optional |= {"likelihoods": list(completion.likelihoods)} if completion.likelihoods is not None else {}
        self.put(
            AnswerRecord(
                item=item_id,
                request=request,
                text=completion.text,
                finish_reason=completion.finish_reason,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                backend=backend,
                checkpoint=checkpoint,
                time=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                **optional,
            )
        )

    def put(self, record: AnswerRecord) -> None:
        """Append a complete record."""
        self._records[record.item, record.request] = record
        self._added = True
        with naming(self.path):
            self._stream.write(dump_row(record.written()) + "\n")
        self._unsynced += 1
        if self._unsynced >= _SYNC_EVERY:
            self._sync()

    def _sync(self) -> None:
        with naming(self.path):
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._unsynced = 0


def one_model(answered: Iterable[str], asked: str, what: str, where: Path, again: str = "--overwrite") -> str:
    """The model that gave all answers, "" if it is the checkpoint itself; an endpoint's name may refer to another model later.

    Args:
        answered: the model of every answer, "" where it is the checkpoint itself.
        asked: the model that was asked for.
        what: what was asked, for the message.
        where: the log, for the message.
        again: the option that generates all answers again, for the message.

    Raises:
        HarnessError: several models answered.
    """
    models = Counter(answered)
    if len(models) > 1:
        named = ", ".join(f"{model} ({count})" for model, count in models.most_common())
        raise HarnessError(
            f"the answers to {what} come from several models behind the name '{asked}': {named}",
            where=str(where),
            remedy=f"use the dated model name, or generate all answers again: {again}",
        )
    return next(iter(models), "")
