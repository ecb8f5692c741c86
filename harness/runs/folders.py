"""Finding and opening run folders under `results/`. docs/ARCHITECTURE.md describes their contents."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from harness.core.errors import BadInputError
from harness.core.files import read_json
from harness.core.record import check
from harness.records.manifest_file import LocatedManifest, ManifestRecord, read_manifest
from harness.runs.state import MANIFEST, state_of

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=ManifestRecord)
STAGES = "stages"
"""Folder in a run's folder with one folder per stage; each is a run itself once it has a manifest."""


@dataclass(frozen=True)
class Run:
    """A run's folder; `manifest` is None while it is not complete.

    `label` is its name among others if one of them has the same (`distinct`).
    """

    path: Path
    manifest: ManifestRecord | None
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Its label, or else the folder's name; for a stage, whose folder is inside a run's, preceded by the run's name."""
        if self.label:
            return self.label
        parents = self.path.absolute().parents
        return f"{parents[1].name}-{self.path.name}" if parents[0].name == STAGES else self.path.name

    @property
    def given(self) -> str:
        """What names it in a command: its name, or its folder if another run has the same name."""
        return str(self.path) if self.label else self.name

    @property
    def kind(self) -> str:
        """ "align", "base" (a base model's answers), "endpoint" or "imported"; "" while it is not complete."""
        return self.manifest.kind if self.manifest else ""

    @property
    def aligned(self) -> bool:
        """Whether it contains an aligned checkpoint (and not only a model's answers)."""
        return self.kind == "align"

    @property
    def base_label(self) -> str:
        """The base model, as the user named it."""
        return self.manifest.base.label if self.manifest else ""

    @property
    def asked_model(self) -> str:
        """The model that was asked, as its endpoint calls it; of other runs, the base model."""
        return str(((self.manifest.config if self.manifest else None) or {}).get("model", self.base_label))

    @property
    def base_location(self) -> str:
        """Location of the base model's weights: a folder, or a hub id.

        Raises:
            BadInputError: the manifest has no location; runs of endpoints and imported ones have none.
        """
        if self.kind == "imported":
            raise BadInputError(
                f"'{self.name}' contains answers that were imported from another tool, so it has no weights",
                where=str(self.path),
                remedy="give a run with weights, or a model",
            )
        if self.kind == "endpoint":
            raise BadInputError(
                f"'{self.name}' contains the answers of a model behind an endpoint, so it has no weights",
                where=str(self.path),
                remedy=f"harness eval --endpoint URL --model {self.asked_model}",
            )
        return self.manifest_as(LocatedManifest).base.location

    def manifest_as(self, kind: type[M]) -> M:
        """The manifest of a complete run with what one use of it requires.

        Raises:
            BadInputError: the manifest lacks some of that.
        """
        assert self.manifest is not None
        return check(kind, self.manifest.written(), "manifest", self.path / MANIFEST)

    @property
    def checkpoint(self) -> Path:
        """Its checkpoint folder."""
        return self.path / "checkpoint"


def open_run(path: Path) -> Run:
    """The run in a folder.

    Raises:
        BadInputError: its manifest cannot be read or used.
    """
    manifest = path / MANIFEST
    return Run(path, read_manifest(manifest) if manifest.exists() else None)


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs in their order, each once and no two with the same name: in front of the name that several share is put as much of the path
    of their folders as tells them apart, such as `published/results/dpo`.
    """
    places = {(run.name, Path(os.path.realpath(run.path))): run for run in runs}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for name, path in places:
        by_name[name].append(path)
    labels = {name: _labels(name, paths) for name, paths in by_name.items() if len(paths) > 1}
    return [replace(run, label=labels[name][path]) if name in labels else run for (name, path), run in places.items()]


def _labels(name: str, paths: Sequence[Path]) -> dict[Path, str]:
    """Different labels of the runs in these folders, which have the same name."""
    homes = {path: (path.parents[1] if path.parent.name == STAGES else path).parent.parts[1:] for path in paths}
    for depth in range(1, max(map(len, homes.values())) + 1):
        labels = {path: "/".join((*home[-depth:], name)) for path, home in homes.items()}
        if len({*labels.values()}) == len(paths):
            return labels
    return {path: str(path) for path in paths}  # a stage, and a run beside the stage's run with the stage's name


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is itself a checkpoint; a run's folder contains one, and has its own `config.json`."""
    configuration = path / "config.json"
    if (path / "adapter_config.json").exists() or not configuration.exists():
        return (path / "adapter_config.json").exists()
    found = read_json(configuration, "configuration", finite=False)
    return isinstance(found, dict) and "model_type" in found


def list_runs(results: Path) -> list[Run]:
    """All complete runs under a folder, oldest first. Unreadable ones are logged with the reason, and left out."""
    runs, unreadable = read_runs(results)
    for reason in unreadable:
        logger.warning(f"left out: {reason}")
    return runs


def read_runs(results: Path) -> tuple[list[Run], list[str]]:
    """The complete runs under a folder, oldest first, and a sentence for each unreadable manifest."""
    runs, reasons = [], []
    for path in sorted(results.glob(f"*/{MANIFEST}")) if results.is_dir() else []:
        if path.parent.name.startswith("."):  # replaced runs, and what a killed process left incomplete
            continue
        try:
            runs.append(open_run(path.parent))
        except BadInputError as error:
            reasons.append(f"{path.parent.name}: {error.problem}")
    return sorted(runs, key=lambda run: (run.manifest.finished if run.manifest else "", run.name)), reasons


def survey(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The complete runs of folders, each a run or a folder of runs, and a sentence for each incomplete run.

    Raises:
        BadInputError: a folder does not exist, or contains no run.
    """
    runs: list[Run] = []
    reasons: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise BadInputError(
                f"nothing was scored: there is no folder '{folder}'",
                remedy="harness align, then harness eval; or give a run, or a folder of runs",
            )
        if (folder / MANIFEST).exists():
            try:
                runs.append(open_run(folder))
            except BadInputError as error:
                reasons.append(f"{folder.name}: {error.problem}")
            continue
        complete, unreadable = read_runs(folder)
        reasons += unreadable
        begun = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and _interrupted(path))
        if _begun(folder):
            begun = [folder]
        elif not complete and not begun and not unreadable:
            raise BadInputError(
                "nothing was scored: there is no complete run",
                where=str(folder),
                remedy="harness align, then harness eval; `harness runs` lists incomplete ones",
            )
        runs += complete
        reasons += [f"{path.name}: not complete: {MANIFEST}, which is written last, is missing" for path in begun]
    return list({os.path.realpath(run.path): run for run in runs}.values()), reasons


def _interrupted(folder: Path) -> bool:
    """Whether a folder is a run that was begun and has results; runs without a finished step are only listed by `harness runs`."""
    return (
        folder.is_dir()
        and not (folder / MANIFEST).exists()
        and _begun(folder)
        and not state_of(folder, held=False).reusable
    )


def _begun(folder: Path) -> bool:
    """Whether a folder looks like a run that was begun."""
    return any((folder / name).exists() for name in ("config.json", "train_log.jsonl", "evals", "checkpoint"))


def refuse_begun(folder: Path, name: str) -> None:
    """Refuse a run that was begun and is not complete, where a complete run or a model is asked for.

    Args:
        folder: may also be that of a checkpoint, of something else, or not exist.
        name: of the run, as the user gave it.

    Raises:
        BadInputError: it is such a run.
    """
    if (folder / MANIFEST).exists() or not _begun(folder) or is_checkpoint(folder):
        return
    raise BadInputError(
        f"the run '{name}' is not complete", where=str(folder), remedy="finish it: harness align ... --resume"
    )


def latest_aligned(results: Path) -> Run:
    """The aligned run that finished last.

    Raises:
        BadInputError: there is none.
    """
    runs = [run for run in list_runs(results) if run.aligned]
    if not runs:
        raise BadInputError(
            "there is no aligned run to evaluate",
            where=str(results),
            remedy="harness align --method METHOD --model MODEL, or evaluate a model: harness eval --model MODEL",
        )
    return runs[-1]


def find_run(name: str, results: Path) -> Run:
    """A run by its name under `results`, or by its folder.

    Raises:
        BadInputError: there is none, it is not complete, or the name is empty.
    """
    from difflib import get_close_matches

    if not name.strip():  # results / "" would be the folder of all runs
        raise BadInputError("the run's name is empty", remedy="`harness runs` lists them")
    for path in (results / name, Path(name)):
        if path.is_dir():
            run = open_run(path)
            if run.manifest is None:
                raise BadInputError(
                    f"the run '{name}' is not complete",
                    where=str(path),
                    remedy=f"finish it: harness align ... --name {path.name} --resume",
                )
            return run
    near = get_close_matches(name, [run.name for run in read_runs(results)[0]], n=3, cutoff=0.4)
    raise BadInputError(
        f"there is no run '{name}'" + (f"; did you mean {' or '.join(near)}?" if near else ""), where=str(results)
    )
