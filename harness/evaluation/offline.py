"""`harness score`: scores responses from any source in parts, so that a large file fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import parse
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import atomic_path, dump_row
from harness.core.types import Item, Response
from harness.evaluation.score import Tally, check_coverage, item_rows, score_answered
from harness.judging.base import Judge
from harness.records.item_files import ItemRow
from harness.records.score_files import SuiteScores

if TYPE_CHECKING:
    from benchmarks.base import Benchmark

_PART = 256
"""Number of items that are scored at once; then their rows are written and freed."""


class Offered(Mapping[str, Path]):
    """Files by their option; remembers which of them the suite looked up."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)
        self.unused = set(files)

    def __getitem__(self, option: str) -> Path:
        self.unused.discard(option)
        return self._files[option]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def declared_names(suite: type[Benchmark]) -> dict[str, list[str]]:
    """The names that a suite declares: of its files, and of its settings."""
    return {
        "offline_files": [file.option for file in suite.offline_files],
        "setting_options": [option.setting for option in suite.setting_options],
    }


def offered_to(kind: type[Benchmark], given: Mapping[str, str]) -> tuple[Benchmark, Offered]:
    """A suite with the settings that were given as options, and the files.

    Raises:
        BadInputError: an option of another suite, or a setting's bad value.
    """
    names = declared_names(kind)
    refuse_unused(kind.name, set(given).difference(*names.values()))
    settings = {name: given[name] for name in names["setting_options"] if name in given}
    files = {name: Path(given[name]) for name in names["offline_files"] if name in given}
    return kind(parse(kind.Settings, settings, f"suite {kind.name}")), Offered(files)


def refuse_unused(suite: str, options: Collection[str], remedy: str = "") -> None:
    """Refuse options without effect, because the user expects one.

    Raises:
        BadInputError: there is one.
    """
    if options:
        names = ", ".join(f"--{option.replace('_', '-')}" for option in sorted(options))
        raise BadInputError(
            f"the suite '{suite}' does not use {names}",
            remedy=remedy or f"leave out {names}, or use another --suite",
        )


def score_offline(
    benchmark: Benchmark,
    items: Sequence[Item],
    responses: Mapping[str, Response],
    *,
    judge_of: Callable[[], Judge],
    judge_options: Collection[str],
    allow_partial: bool = False,
    max_unscored: float = 0.01,
    items_file: Path | None = None,
) -> SuiteScores:
    """The score record of what `Benchmark.read_offline` read.

    Args:
        benchmark: with its settings.
        items: all questions.
        responses: by item.
        judge_of: makes the judge, if the suite needs one and its files do not contain the reviews.
        judge_options: the given options about a judge; refused if no judge is asked.
        allow_partial: score only items with a response.
        max_unscored: share of items that may have no verdict.
        items_file: gets one JSON line per item; written only if everything succeeds.

    Raises:
        BadInputError: responses are missing or belong to no item, or an option has no effect.
        HarnessError: more items than allowed have no verdict.
    """
    answered = check_coverage(items, responses, allow_partial)
    judge = benchmark.offline_judge
    if judge is None and benchmark.needs_judge and _asks(benchmark, answered, responses):
        judge = judge_of()
    elif judge_options:
        reason = "the reviews are already judged" if judge else "no judge is asked about these answers"
        refuse_unused(benchmark.name, judge_options, f"{reason}: leave out the options of a judge")
    tally = Tally(benchmark, judge)
    # A judge gets all items at once, because it sends many requests at a time and has one budget.
    size = _PART if judge is None and not benchmark.whole_groups else max(1, len(answered))
    with _rows_to(items_file) as write:
        for start in range(0, len(answered), size):
            part = answered[start : start + size]
            scores = score_answered(benchmark, part, responses, judge)
            tally.add(scores)
            if items_file:
                write(item_rows(part, responses, scores))
        asked = judge is not None and judge is not benchmark.offline_judge
        record = tally.record(max_unscored, of=len(items), fault=HarnessError if asked else BadInputError)
    return record


@contextmanager
def _rows_to(path: Path | None) -> Iterator[Callable[[Sequence[ItemRow]], None]]:
    """A function that writes rows as JSON lines to a file, which appears only if everything succeeds.

    Raises:
        BadInputError: the file cannot be written.
    """
    with ExitStack() as stack:
        stream: Any = None

        def write(rows: Sequence[ItemRow]) -> None:
            with _refusing(path):
                stream.writelines(dump_row(row.written()) + "\n" for row in rows)

        if path is not None:
            if path.is_dir():
                raise BadInputError(
                    "the items cannot be written: the path is a folder", where=str(path), remedy="give a file name"
                )
            with _refusing(path):
                stream = stack.enter_context(stack.enter_context(atomic_path(path)).open("w", encoding="utf-8"))
        yield write
        with _refusing(path):
            stack.close()


@contextmanager
def _refusing(path: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInputError(
            f"the items cannot be written: {error.strerror}", where=str(path), remedy="choose another file with --items"
        ) from None


def _asks(benchmark: Benchmark, items: Sequence[Item], responses: Mapping[str, Response]) -> bool:
    answered = [item for item in items if responses[item.id].refusal is None]
    return bool(benchmark.judge_requests(answered, responses))
