"""The caption of a leaderboard: what a reader needs in order to tell whether two tables can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from harness.analysis.declared import suite_place
from harness.records.score_files import ScoresRecord


@dataclass(frozen=True)
class Caption:
    """Every fact has one value per score record that it is taken from; equal values are shown once.

    Attributes:
        items: by suite, the number of scored items ("300", "298 of 300").
        backends: what answered, and on which device.
        tokens: by suite, the most tokens that an answer could have.
        judges: with their models.
        matched_words: mean length of the descriptions that were cut to equal length.
        pooling: how several seeds became one row; "" if they were not.
    """

    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    backends: Sequence[str] = ()
    tokens: Mapping[str, Sequence[str]] = field(default_factory=dict)
    judges: Sequence[str] = ()
    matched_words: Sequence[str] = ()
    pooling: str = ""

    def __str__(self) -> str:
        parts = [
            self.pooling,
            _labelled("n", _by_suite(self.items)),
            _labelled("backend", _several(self.backends)),
            _labelled("tokens", _by_suite(self.tokens)),
            _labelled("judge", _several(self.judges)),
        ]
        if words := _several(self.matched_words):
            parts.append(
                "matched: each image's descriptions are cut to the length, in words, of the shortest one "
                f"({words} on average)"
            )
        return "; ".join(filter(None, parts))


def caption_of(records: Sequence[ScoresRecord], words: Iterable[float | None] = ()) -> Caption:
    """The caption of a board with these scores; `words` are the mean lengths of matched descriptions, by suite."""
    items: dict[str, list[str]] = {}
    tokens: dict[str, list[str]] = {}
    for record in sorted(records, key=lambda record: suite_place(record.suite)):
        part = "" if record.n == record.of else f" of {record.of}"
        items.setdefault(record.suite, []).append(f"{record.n}{part}")
        most = record.sampling.max_new_tokens
        tokens.setdefault(record.suite, []).append("unknown" if most is None else f"≤{most}")
    return Caption(
        items=items,
        backends=[_served(record) for record in records],
        tokens=tokens,
        judges=[
            f"{record.judge.judge} ({record.judge.model})" if record.judge.model else record.judge.judge
            for record in records
            if record.judge
        ],
        matched_words=[f"{length:.1f}" for length in words if length is not None],
    )


def merged(captions: Sequence[Caption], pooling: str) -> Caption:
    """One caption for several boards: every fact with the values of all of them."""
    together: dict[str, object] = {}
    for entry in fields(Caption):
        values = [getattr(caption, entry.name) for caption in captions]
        if entry.name == "pooling":
            together[entry.name] = pooling
        elif isinstance(values[0], Mapping):
            suites = dict.fromkeys(suite for value in values for suite in value)
            together[entry.name] = {
                suite: [text for value in values for text in value.get(suite, ())] for suite in suites
            }
        else:
            together[entry.name] = [text for value in values for text in value]
    return Caption(**together)  # type: ignore[arg-type]


def _served(record: ScoresRecord) -> str:
    device = record.serving.device if "device" in record.serving.model_fields_set else "?"
    return f"{record.serving.distribution or record.serving.backend} on {device}"


def _labelled(label: str, text: str) -> str:
    return f"{label}: {text}" if text else ""


def _by_suite(values: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{suite} {_several(found)}" for suite, found in values.items())


def _several(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))
