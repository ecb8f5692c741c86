"""Checks of what a benchmark's methods return: items, scores, sums, metrics.

Everything that the contract demands of a plugin is checked. Built-in benchmarks are checked by their tests, and not item by item again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from harness.core.declared import VERDICTS, Verdict
from harness.core.errors import shown
from harness.core.plugins import is_plugin, wrong
from harness.core.types import Evidence, ImageRef, Item, MetricSpec, Response, SampleScore

_SCORES = "a list of SampleScore, one per item, in the order of the items"
_EVIDENCE = get_args(get_type_hints(Evidence)["verdict"])
_MOST = 1 + 1e-9
"""The largest fraction, including rounding error."""


def items_of(benchmark: Any, data: Path) -> list[Item]:
    """`Benchmark.items`, checked.

    Raises:
        BadInputError: a file is missing or broken, as the benchmark says.
        PluginError: it did not return valid items.
    """
    found = benchmark.items(data)
    check_items(benchmark, "items", found)
    return list(found)


def check_items(benchmark: Any, method: str, items: Any, *, asked: bool = True) -> None:
    """Make sure that a method returned items with an image, a unique id and a prompt.

    Args:
        benchmark: the benchmark that the method belongs to.
        method: its name.
        items: what it returned.
        asked: whether the items will be asked; otherwise they need no prompt.

    Raises:
        PluginError: the items are invalid.
    """
    if not is_plugin(benchmark):
        return
    expected = "a list of Item, each with a unique id"
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise wrong(benchmark, method, _kind(items), expected)
    if not items:
        raise wrong(benchmark, method, "an empty list", f"{expected}, and at least one")
    seen: set[str] = set()
    for place, item in enumerate(items):
        if not isinstance(item, Item):
            raise wrong(benchmark, method, f"{_kind(item)} at position {place}", expected)
        for name in ("id", "prompt", "group") if asked else ("id", "group"):
            value = getattr(item, name)
            if not isinstance(value, str) or not value:
                got = f"an item (position {place}) whose {name} is {shown(value)}"
                raise wrong(benchmark, method, got, f"{name}: a non-empty text")
        if not isinstance(item.image, ImageRef):
            raise wrong(benchmark, method, f"item {item.id} with {_kind(item.image)} as its image", "an ImageRef")
        if not isinstance(item.image.path, Path | None):
            got = f"item {item.id} with an ImageRef whose path is {_kind(item.image.path)}"
            raise wrong(benchmark, method, got, "a pathlib.Path")
        if item.id in seen:
            raise wrong(benchmark, method, f"two items with the id {shown(item.id)}", expected)
        seen.add(item.id)


def scores_of(
    benchmark: Any, items: Sequence[Item], responses: Mapping[str, Response], judge: Any
) -> list[SampleScore]:
    """`Benchmark.score`, checked.

    Raises:
        PluginError: it did not return these items' scores.
    """
    scores = benchmark.score(items, responses, judge)
    if not is_plugin(benchmark):
        return list(scores)
    if not isinstance(scores, Sequence):
        raise wrong(benchmark, "score", _kind(scores), _SCORES)
    if len(scores) != len(items):
        raise wrong(benchmark, "score", f"{len(scores)} scores for {len(items)} items", _SCORES)
    for item, score in zip(items, scores, strict=True):
        if problem := _score_problem(item, score, responses[item.id].text):
            raise wrong(benchmark, "score", *problem)
    return list(scores)


def _score_problem(item: Item, score: Any, text: str) -> tuple[str, str] | None:
    """(what is wrong with an item's score, what was expected); None if it is valid."""
    if not isinstance(score, SampleScore):
        return f"{_kind(score)} for item {item.id}", _SCORES
    if score.item_id != item.id:
        return f"the score of {shown(score.item_id)} instead of item {item.id}", _SCORES
    if score.group != item.group:
        return f"item {item.id} with the group {shown(score.group)}", f"the item's own group, {shown(item.group)}"
    if not isinstance(score.counts, Mapping):
        return f"item {item.id} with {_kind(score.counts)} as its counts", "counts: a mapping of names to numbers"
    for name, count in score.counts.items():
        if not isinstance(name, str) or name == "n":
            return f"item {item.id} with a count named {shown(name)}", "a text other than 'n', which counts the items"
        if not _finite(count):
            return f"item {item.id} with {shown(count)} as its count '{name}'", "a finite number"
    if score.unscored is not None and (not isinstance(score.unscored, str) or score.counts):
        got = f"item {item.id} with unscored={shown(score.unscored)} and counts {shown(dict(score.counts))}"
        return got, "unscored: None, or the reason as a text, and then no counts"
    for one in score.evidence if isinstance(score.evidence, Sequence) else (None,):
        if not isinstance(one, Evidence) or one.verdict not in _EVIDENCE or not _in_text(one.span, text):
            got = f"item {item.id} with the evidence {shown(one)}"
            return got, f"Evidence with a verdict of {', '.join(_EVIDENCE)} and a span within the response"
    return _not_json(f"item {item.id}, whose details hold", score.details)


def _in_text(span: Any, text: str) -> bool:
    if span is None:
        return True
    whole = isinstance(span, tuple) and len(span) == 2 and all(isinstance(one, int) for one in span)
    return whole and 0 <= span[0] <= span[1] <= len(text)


def _finite(value: Any) -> bool:
    """Whether a value is a number that can be summed; numpy's are."""
    number = isinstance(value, bool | int | float | np.number | np.bool_) and not isinstance(
        value, complex | np.complexfloating
    )
    return number and math.isfinite(value)


def specs_of(benchmark: Any) -> Sequence[MetricSpec]:
    """`Benchmark.metrics`, checked.

    Raises:
        PluginError: they are not valid specifications.
    """
    specs = benchmark.metrics
    if not is_plugin(benchmark):
        return list(specs)
    if not isinstance(specs, Sequence) or not specs or not all(isinstance(one, MetricSpec) for one in specs):
        raise wrong(benchmark, "metrics", shown(specs), "at least one MetricSpec, in a tuple")
    names = [one.id for one in specs]
    if len(set(names)) != len(names):
        raise wrong(benchmark, "metrics", f"the ids {', '.join(map(str, names))}", "unique ids")
    for one in specs:
        if one.invented_by is not None and (one.invented_by == one.id or one.invented_by not in names):
            got = f"'{one.id}' with invented_by={shown(one.invented_by)}"
            raise wrong(benchmark, "metrics", got, f"the id of another of its metrics: {', '.join(names)}")
    return list(specs)


def values_of(benchmark: Any, totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`Benchmark.aggregate`, checked: every metric that the benchmark names, in the totals' shape; NaN stands for 0/0.

    Args:
        benchmark: the benchmark.
        totals: count -> sums, of the shape [] or [R].

    Raises:
        PluginError: a metric is missing or unknown, has another shape, is infinite, or is not a fraction although its unit is %.
    """
    values = benchmark.aggregate(totals)
    if not is_plugin(benchmark):
        return dict(values)
    specs = {spec.id: spec for spec in specs_of(benchmark)}
    if not isinstance(values, Mapping) or values.keys() != specs.keys():
        got = shown(list(values)) if isinstance(values, Mapping) else _kind(values)
        raise wrong(benchmark, "aggregate", got, f"a value for each of its metrics: {', '.join(specs)}")
    shape = next(iter(totals.values())).shape
    for name, value in values.items():
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise wrong(benchmark, "aggregate", f"{_kind(value)} as '{name}'", "numbers")
        if array.shape != shape:
            got = f"'{name}' of the shape {list(array.shape)} for totals of the shape {list(shape)}"
            raise wrong(benchmark, "aggregate", got, "the shape of the totals: it must compute all resamples at once")
        if np.isinf(array).any():
            raise wrong(benchmark, "aggregate", f"an infinite '{name}'", "a finite number, or NaN if it is undefined")
        if specs[name].unit == "%" and (np.abs(array[~np.isnan(array)]) > _MOST).any():
            most = float(np.nanmax(np.abs(array)))
            raise wrong(
                benchmark,
                "aggregate",
                f"{most:.6g} as '{name}', in %",
                "a fraction: % multiplies it by 100 for display",
            )
    return dict(values)


def truth_of(benchmark: Any, item: Item) -> str:
    """`Benchmark.truth`, checked.

    Raises:
        PluginError: it did not return a text.
    """
    truth = benchmark.truth(item)
    if not isinstance(truth, str):
        raise wrong(benchmark, "truth", f"{_kind(truth)} for item {item.id}", "a text")
    return truth


def verdict_on(benchmark: Any, row: Mapping[str, Any]) -> Verdict:
    """`Benchmark.verdict`, checked.

    Raises:
        PluginError: it did not return a verdict.
    """
    verdict: Verdict = benchmark.verdict(row)
    if verdict not in VERDICTS:
        raise wrong(benchmark, "verdict", f"{shown(verdict)} for item {row['item']}", f"one of {', '.join(VERDICTS)}")
    return verdict


def check_resamples(benchmark: Any, totals: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> None:
    """Make sure that a plugin's `aggregate` gives the same values for many sums at once as for each alone; intervals depend on it.

    Args:
        benchmark: the benchmark.
        totals: count -> sum, of the shape [].
        values: the metrics that it computed from them.

    Raises:
        PluginError: it computes other values for the same sums when they are next to others.
    """
    if not is_plugin(benchmark):
        return
    beside = values_of(benchmark, {name: np.stack([total, total, 2 * total]) for name, total in totals.items()})
    for name, value in values.items():
        if not np.allclose(beside[name][:2], value, rtol=1e-9, atol=1e-12, equal_nan=True):
            got = f"{shown(beside[name][:2].tolist())} as '{name}' of two equal sums, and {float(value):.6g} of one"
            raise wrong(
                benchmark, "aggregate", got, "the metrics of each resample on its own: no sum or mean over resamples"
            )


def json_of(made: Any, method: str = "provenance") -> Any:
    """The checked result of a method such as `provenance`, which will be written as JSON.

    Raises:
        PluginError: it cannot be written as JSON.
    """
    content = getattr(made, method)()
    if is_plugin(made):
        if not isinstance(content, dict):
            raise wrong(made, method, _kind(content), "a dict that can be written as JSON")
        if problem := _not_json("a dict with", content):
            raise wrong(made, method, *problem)
    return content


def _not_json(what: str, value: Any) -> tuple[str, str] | None:
    try:
        json.dumps(value if not isinstance(value, Mapping) else dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return (
            f"{what} a value that cannot be written as JSON ({error})",
            "texts, finite numbers, booleans, None, lists and dicts",
        )
    return None


def _kind(value: Any) -> str:
    """A short description of a value of an unexpected type."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
