"""Suites in an evaluation: their data, their items, and the folders of their answers."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.reliance import CHANGES
from harness.core import registry
from harness.core.config import parse
from harness.core.contract import items_of
from harness.core.errors import BadInputError
from harness.core.names import LONGEST, check_name, name_from
from harness.core.paths import cache_folder
from harness.core.types import NO_IMAGE, ImageRef, Item
from harness.core.worlds import find_world
from harness.datasets.catalogue import catalogue
from harness.evaluation.pictures import Change
from harness.serving.base import Sampling

if TYPE_CHECKING:
    from benchmarks.base import Benchmark

logger = logging.getLogger(__name__)


def data_root(label: str) -> tuple[Path, str, str | None]:
    """(data root, name for folders and tables, judge of the world) of a data label.

    Raises:
        BadInputError: no such folder or split.
    """
    name, _, split = label.partition("@")
    if world := find_world(name):
        split = split or "test"
        if split not in ("validation", "test"):
            raise BadInputError(f"'{label}': the split must be validation or test, not '{split}'")
        return world.benchmarks(split), data_name(label), world.judge  # type: ignore[arg-type]
    if label == "official":
        return cache_folder() / "benchmarks", "official", None
    if not Path(label).is_dir():
        raise BadInputError(
            f"there is no benchmark data '{label}'",
            remedy="give a folder that contains the suites' folders (docs/ARCHITECTURE.md)",
        )
    return Path(label), data_name(label), None


def data_name(label: str) -> str:
    """The name of a data label for folders and tables; nothing is made or read."""
    name, _, split = label.partition("@")
    if find_world(name):
        return f"{name.replace(':', '-')}-{split or 'test'}"
    name = label if label == "official" else Path(label).resolve().name
    return name if 0 < len(name) <= LONGEST else name_from(name)


_NAMED = 10
"""Number of images that an error names."""
SAMPLE_SEED = 0
"""Seed of the images that `--limit` draws; constant, so that a larger sample contains the smaller one."""


@dataclass(frozen=True)
class Suite:
    """A suite in an evaluation: its benchmark and its items, with original or changed pictures."""

    benchmark: Benchmark
    items: list[Item]
    whole: int
    sampling: Sampling
    pool: Sequence[ImageRef] = ()
    """All pictures of the whole suite, sampled or not."""
    change: Change | None = None

    @property
    def name(self) -> str:
        """The benchmark's name."""
        return self.benchmark.name

    @property
    def key(self) -> str:
        """Unique key in an evaluation: the name, with the change of its pictures."""
        return self.name if self.change is None else f"{self.name} ({self.change.label})"

    def folder(self, run: Path, data_name: str) -> Path:
        """Folder of a run's answers and scores; those with changed pictures are next to the plain ones."""
        folder = suite_folder(run, self.name, data_name)
        return folder if self.change is None else folder / CHANGES / self.change.word

    def changed(self, change: Change | None) -> Suite:
        """The same questions about changed pictures; None: unchanged.

        Raises:
            BadInputError: it has no pictures, or they cannot be changed so.
        """
        if change is None:
            return self
        if self.without_picture:
            count = f"{len(self.without_picture)} of {len(self.items)}"
            logger.info(f"{self.name} ({change.label}): {count} questions have no picture, and are asked as they are")
        return dataclasses.replace(self, items=change.items(self.items, self.pool, self.name), change=change)

    @property
    def without_picture(self) -> frozenset[str]:
        """Ids of the items that are asked without a picture, which no change of the pictures changes."""
        return frozenset(item.id for item in self.items if item.image == NO_IMAGE)

    @property
    def sampled(self) -> bool:
        """Whether only a part is asked."""
        return len(self.items) < self.whole


def suite_folder(run: Path, suite: str, data_name: str) -> Path:
    """Folder of a run's answers and scores of a suite."""
    return run / "evals" / f"{suite}@{data_name}"


def open_suite(name: str, root: Path, settings: Mapping[str, Mapping[str, Any]], limit: int | None = None) -> Suite:
    """Open a suite: its benchmark with its settings, and its items or a seeded sample of about `limit` of them.

    `settings` are by group: the suite's name, and "sampling".

    Raises:
        UnknownNameError: there is no such suite.
        BadInputError: its settings or files are at fault.
    """
    kind = registry.load("benchmarks", name)
    check_name(kind.name, "a suite")
    benchmark: Benchmark = kind(parse(kind.Settings, dict(settings.get(name, {})), f"suite {name}"))
    drawn = {"max_new_tokens": benchmark.max_new_tokens, **settings.get("sampling", {})}
    sampling = parse(Sampling, drawn, "sampling")
    items = _interned(items_of(benchmark, root / name))
    pool = list(dict.fromkeys(item.image for item in items))
    suite = _sampled(Suite(benchmark, items, len(items), sampling, pool), limit)
    _check_images(suite, root)
    return suite


def _sampled(suite: Suite, limit: int | None) -> Suite:
    """A suite with about `limit` of its items; whole images are drawn, so that the clusters for the intervals stay complete."""
    items = suite.items
    if limit is None or limit >= len(items):
        return suite
    groups = list(dict.fromkeys(item.group for item in items))
    random.Random(SAMPLE_SEED).shuffle(groups)
    chosen: set[str] = set()
    size: dict[str, int] = defaultdict(int)
    for item in items:
        size[item.group] += 1
    count = 0
    for group in groups:
        if count >= limit:
            break
        chosen.add(group)
        count += size[group]
    return dataclasses.replace(suite, items=[item for item in items if item.group in chosen])


def _check_images(suite: Suite, root: Path) -> None:
    """Check that every image that will be opened exists.

    Raises:
        BadInputError: some do not; the message names them and the command that downloads them.
    """
    paths = list(dict.fromkeys(item.image.path for item in suite.items if item.image.path is not None))
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return
    place = "" if root == cache_folder() / "benchmarks" else f" --root {root}"
    get = f"harness data get {suite.name}{place}, or harness data import FOLDER {suite.name}{place}"
    names = ", ".join(path.name for path in missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    raise BadInputError(
        f"{len(missing)} of {len(paths)} images of {suite.name} are missing: {names}",
        where=str(missing[0].parent),
        remedy=get if suite.name in catalogue() else "put them there",
    )


def check_inside(suites: Sequence[Suite], root: Path) -> None:
    """Check that only images of the data root go to an endpoint, because a path in a benchmark's file decides what is sent to others.

    Benchmarks refuse such paths when they read them; this check covers every benchmark, including plugins. Links inside the root are
    followed.

    Raises:
        BadInputError: an image is outside of the data root.
    """
    top = os.path.normpath(root.absolute())
    for suite in suites:
        for item in suite.items:
            path = item.image.path
            if path is not None and not Path(os.path.normpath(path.absolute())).is_relative_to(top):
                raise BadInputError(
                    f"an image of {suite.name} is outside the benchmark data, and would be sent to the endpoint",
                    where=f"item {item.id}: {path}",
                    remedy=f"put it below {root}, and change the path in the benchmark's files",
                )


def _interned(items: list[Item]) -> list[Item]:
    """Let items of one image file share one reference, so that the file is read once for its fingerprint."""
    seen: dict[Path, ImageRef] = {}
    return [
        item
        if (path := item.image.path) is None
        else dataclasses.replace(item, image=seen.setdefault(path, item.image))
        for item in items
    ]
