"""Collecting the report's contents from run folders: samples with every checkpoint's answer, and per-class counts."""

from __future__ import annotations

import base64
import io
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.analysis.declared import fresh, suite_place, verdicts
from harness.analysis.scored import read_rows, scored
from harness.core.contract import items_of, truth_of
from harness.core.declared import Verdict, verdict_of
from harness.core.errors import BadInputError, HarnessError
from harness.core.progress import progress
from harness.core.reading import numbered_rows
from harness.core.record import check
from harness.core.types import ImageRef
from harness.evaluation.suites import data_root
from harness.records.item_files import ItemRow
from harness.records.score_files import ScoresRecord
from harness.records.training_files import LogRow
from harness.runs.folders import Run, distinct
from harness.runs.state import LOG

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL = 224
"""Longest side of a picture in the report, in pixels."""


@dataclass
class SuiteSamples:
    """One suite on one data set: the scored checkpoints, and the rows of their items.

    Attributes:
        rows: checkpoint -> item id -> row of its item file.
        pictures: item id -> its image; empty if the benchmark's data is not available.
        truth: item id -> the correct answer as text.
        judged: returns the verdict on a row.
    """

    name: str
    data: str
    variant: str
    rows: dict[str, dict[str, ItemRow]] = field(default_factory=dict)
    pictures: dict[str, ImageRef] = field(default_factory=dict)
    truth: dict[str, str] = field(default_factory=dict)
    note: str = ""
    judged: Callable[[Mapping[str, Any]], Verdict] = verdict_of


def gather(runs: Sequence[Run], *, look_up: bool = True) -> tuple[list[SuiteSamples], list[str]]:
    """All suites of the runs, and sentences about what was left out.

    Args:
        runs: complete run folders.
        look_up: find the pictures and the truth in the benchmarks' data.
    """
    suites: dict[tuple[str, str, str], SuiteSamples] = {}
    sources: dict[tuple[str, str, str], ScoresRecord] = {}
    left_out = []
    for run in distinct(runs):
        usable, unusable = scored(run)
        left_out += unusable
        for score in usable:
            if not score.items.exists():
                left_out.append(f"{run.name}: {score.items.name} is missing, so {score.record.suite} has no samples")
                continue
            try:
                rows = read_rows(score.items, unscored=True)
            except BadInputError as error:
                left_out.append(
                    f"{run.name}: {score.items.name}: {error.problem}, so {score.record.suite} has no samples"
                )
                continue
            suites.setdefault(score.key, SuiteSamples(*score.key)).rows[run.name] = rows
            sources[score.key] = score.record
    for key, suite in suites.items():
        suite.judged = verdicts(sources[key])
        if look_up:
            suite.note = _look_up(suite, sources[key])
    return sorted(suites.values(), key=lambda suite: suite_place(suite.name)), left_out


def _look_up(suite: SuiteSamples, record: ScoresRecord) -> str:
    """Fill in pictures and truth from the benchmark's data; returns why if it is not available."""
    source = record.source
    if not source:
        return "the scores do not record the place of the benchmark's data (they are from an older version)"
    try:
        root, _, _ = data_root(source)
        benchmark = fresh(record)
        for item in items_of(benchmark, root / suite.name):
            suite.pictures[item.id] = item.image
            suite.truth[item.id] = truth_of(benchmark, item)
    except HarnessError as error:
        return f"the benchmark's data cannot be read: {error.problem}"
    return ""


def samples(
    suites: Sequence[SuiteSamples], most: int, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, str], int]:
    """JSON-able samples, their pictures as data URLs by name, and the total number of samples.

    Above `most`, a seeded sample proportional to each suite's size is taken, but at least fifty per suite.
    """
    chosen: list[tuple[SuiteSamples, str]] = []
    whole = sum(len(_items(suite)) for suite in suites)
    for suite in suites:
        ids = _items(suite)
        quota = max(50, round(most * len(ids) / max(whole, 1)))
        picked = set(random.Random(seed).sample(ids, quota)) if whole > most and len(ids) > quota else set(ids)
        chosen += [(suite, item) for item in ids if item in picked]
    pictures: dict[str, str] = {}
    names: dict[str, str] = {}
    result = []
    with progress("pictures and samples", len(chosen)) as advance:
        for suite, item in chosen:
            advance()
            result.append(_sample(suite, item, pictures, names))
    return result, pictures, whole


def _items(suite: SuiteSamples) -> list[str]:
    return list(dict.fromkeys(item for rows in suite.rows.values() for item in rows))


def _sample(suite: SuiteSamples, item: str, pictures: dict[str, str], names: dict[str, str]) -> dict[str, Any]:
    rows = {name: rows[item] for name, rows in suite.rows.items() if item in rows}
    first = next(iter(rows.values()))
    answers: list[dict[str, Any]] = []
    for name, row in rows.items():
        details = row.details
        answers.append(
            {
                "run": name,
                "text": row.text,
                "verdict": suite.judged(row.written()),
                "marks": _marks(row),
                "wrong": sorted({piece.label for piece in row.evidence if piece.verdict == "hallucinated"}),
                "missed": sorted({piece.label for piece in row.evidence if piece.verdict == "missed"}),
                "judge": details.get("review"),
                "rating": details.get("rating"),
                "unscored": row.unscored,
            }
        )
    verdicts = {answer["verdict"] for answer in answers}
    return {
        "id": f"{suite.name}{f'[{suite.variant}]' if suite.variant else ''}@{suite.data}/{item}",
        "suite": f"{suite.name}{f' [{suite.variant}]' if suite.variant else ''}",
        "data": suite.data,
        "question": first.prompt,
        "truth": suite.truth.get(item, ""),
        "picture": _picture(suite.pictures.get(item), pictures, names),
        "changed": len(verdicts) > 1 or len({tuple(answer["wrong"]) for answer in answers}) > 1,
        "answers": answers,
    }


def _marks(row: ItemRow) -> list[list[Any]]:
    """[start, end, verdict, label] of every mention. A mention without a stored position is searched by its word, from the left."""
    text, marks = row.text.lower(), []
    after: Counter[str] = Counter()
    for piece in row.evidence:
        span = piece.span
        if span is None and piece.verdict != "missed":
            word = piece.text.lower()
            if found := re.compile(rf"\b{re.escape(word)}\w{{0,3}}\b").search(text, after[word]):
                span, after[word] = found.span(), found.end()
        if span is not None:
            marks.append([*span, piece.verdict, piece.label])
    return marks


def _picture(image: ImageRef | None, pictures: dict[str, str], names: dict[str, str]) -> str | None:
    """The name of an image's thumbnail; each picture is in the report once, even with many questions about it."""
    if image is None or image.absent:
        return None
    key = str(image.path)
    try:
        key = str(image.path or image.fingerprint())
        if key in names:
            return names[key] or None
        opened = image.open()
    except BadInputError:
        names[key] = ""
        return None
    fingerprint = image.fingerprint()[:16]
    if fingerprint not in pictures:
        pictures[fingerprint] = thumbnail(opened)
    names[key] = fingerprint
    return fingerprint


def thumbnail(image: Image) -> str:
    """A reduced picture as a data URL. Changes the image in place."""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def class_rates(suite: SuiteSamples) -> dict[str, dict[str, tuple[int, int]]]:
    """Checkpoint -> object class -> (hallucinated mentions, mentions)."""
    rates: dict[str, dict[str, tuple[int, int]]] = {}
    for name, rows in suite.rows.items():
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for row in rows.values():
            for piece in row.evidence:
                if piece.verdict in ("correct", "hallucinated"):
                    counts[piece.label][0] += piece.verdict == "hallucinated"
                    counts[piece.label][1] += 1
        if counts:
            rates[name] = {label: (wrong, all_) for label, (wrong, all_) in counts.items()}
    return rates


def together(suite: SuiteSamples, run: str) -> Counter[tuple[str, str]]:
    """How often one checkpoint names (right object, hallucinated object) together."""
    pairs: Counter[tuple[str, str]] = Counter()
    for row in suite.rows.get(run, {}).values():
        wrong = {piece.label for piece in row.evidence if piece.verdict == "hallucinated"}
        true = {piece.label for piece in row.evidence if piece.verdict == "correct"}
        # In a fixed order: which of equally frequent pairs is drawn must not depend on the process.
        pairs.update((one, other) for one in sorted(true) for other in sorted(wrong))
    return pairs


def training(run: Run) -> list[LogRow]:
    """The rows of a run's training log.

    Raises:
        BadInputError: a row is none.
    """
    path = run.path / LOG
    rows = numbered_rows(path, "training log", finite=False) if path.exists() else ()
    return [check(LogRow, row, "training log", f"{path}:{number}") for number, row in rows]
