"""Targets of evaluations: checkpoints, with the run folders for their answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from harness.core.errors import BadInputError
from harness.core.files import sha256_json, write_json
from harness.core.names import name_from
from harness.models import (
    ModelRef,
    base_location,
    check_base,
    fingerprint,
    inspect,
    recorded,
    resolve,
    template_hash_of,
)
from harness.records.manifest_file import AlignedManifest, BaseRecord, ManifestRecord
from harness.remote import hub
from harness.runs.folders import MANIFEST, Run, open_run
from harness.runs.manifest import surroundings
from harness.serving.base import Backend, BackendSettings

logger = logging.getLogger(__name__)

BASE, ENDPOINT, IMPORTED = "base", "endpoint", "imported"


@dataclass(frozen=True)
class Target:
    """A checkpoint to evaluate, and the run folder for its answers.

    Attributes:
        name: name of the run, and of the leaderboard's row.
        folder: the run's folder.
        base: folder or hub id of the full weights.
        adapter: PEFT folder on top of them, or None.
        model: label of the base model.
        method: the aligner, "base", "endpoint", or "imported".
        remote: `base` is the name of a model behind an endpoint; there are no weights here.
        manifest: manifest of a run that only has a model's answers; written before the first request (`begin`).
    """

    name: str
    folder: Path
    base: str
    adapter: Path | None
    model: str
    method: str
    remote: bool = False
    manifest: ManifestRecord | None = field(default=None, compare=False)

    @property
    def imported(self) -> bool:
        """Whether the answers come from another tool, so that there is no model to ask."""
        return self.method == IMPORTED

    def begin(self) -> None:
        """Create the run's folder, for a model that is not from a run; an aligned run has one."""
        if self.manifest is None:
            return
        before = open_run(self.folder).manifest
        # The weights may have moved: store the present location for later commands.
        if before is None or before.base != self.manifest.base:
            write_json(self.folder / MANIFEST, self.manifest.written() | surroundings().written())

    @property
    def served(self) -> str:
        """Its name in the engine: the base's or the adapter's."""
        return self.name if self.adapter else BASE

    @cached_property
    def template(self) -> str:
        """Hash of everything that turns a question into a prompt; for an endpoint and for imported answers, a fixed text."""
        if self.imported:
            return "another tool's"
        return "the endpoint's own" if self.remote else template_hash_of(self.base)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all weights that the answers depend on; for an endpoint, of the model's name (not of the URL); for imported
        answers, of the run's name."""
        if self.imported:
            return sha256_json([IMPORTED, self.base])
        if self.remote:
            return sha256_json(["endpoint", self.base])
        return sha256_json([fingerprint(self.base), fingerprint(self.adapter) if self.adapter else None])

    def answered_by(self, model: str) -> str:
        """The fingerprint of the model that answered; for an endpoint, with the model name that it reported."""
        return sha256_json([self.fingerprint, model]) if self.remote else self.fingerprint


def check_run_name(name: str, where: str, remedy: str) -> None:
    """Refuse the name under which every backend serves the base model: a run's adapter of this name could not be asked.

    Raises:
        BadInputError: it is this name.
    """
    if name == BASE:
        raise BadInputError(
            f"a run cannot be called '{BASE}': backends call the base model so", where=where, remedy=remedy
        )


def engine_of(targets: Sequence[Target], backend: type[Backend], settings: BackendSettings) -> Backend:
    """An engine for checkpoints of one base, not started yet: the base itself, and every adapter by its target's name."""
    adapters = {target.name: target.adapter for target in targets if target.adapter}
    return backend(targets[0].base, adapters, settings)


def target_of_run(run: Run) -> Target:
    """The target of an aligned run; its checkpoint is checked first.

    Raises:
        BadInputError: the checkpoint is broken, or its base's weights are not those it was trained on.
        HarnessError: the base is a preset that is lost, and cannot be made again here.
    """
    manifest = run.manifest_as(AlignedManifest)
    config = manifest.config
    info = inspect(run.checkpoint)
    if info.kind == "full":
        return Target(run.name, run.path, str(run.checkpoint.resolve()), None, config.model, config.method)
    # The adapter's configuration has the location of its base, so that a user can change it there if the base has moved.
    location = base_location(run.checkpoint, str(info.base), config.model)
    check_base(run.checkpoint, location, manifest.base.fingerprint)
    return Target(run.name, run.path, location, run.checkpoint.resolve(), config.model, config.method)


def target_of_model(model: ModelRef, results: Path) -> Target:
    """A base model as a target; its run folder is created before the first request (`Target.begin`).

    The run is base-NAME, or base-NAME-HASH if that is the run of other weights, such as those of another folder with the same name.
    """
    location = model.locate()
    hub.reach(location)
    if Path(location).is_dir() and inspect(Path(location)).kind == "adapter":
        raise BadInputError(
            "this is an adapter, not a base model",
            where=location,
            remedy="give the run that made it: harness eval --run NAME; or merge it into its base's weights first",
        )
    base = BaseRecord(label=model.label, location=location, fingerprint=fingerprint(location))
    return _of_base(base, _base_folder(results, base))


def _of_base(base: BaseRecord, folder: Path) -> Target:
    return Target(
        folder.name, folder, str(base.location), None, base.label, BASE, manifest=_of_answers(BASE, folder, base)
    )


def _base_folder(results: Path, base: BaseRecord) -> Path:
    """The folder of a base model's run, which its weights find again wherever they are."""
    folder = results / base_run_name(base.label)
    hashed = _own_folder(folder, base)
    if open_run(hashed).manifest is not None:
        return hashed
    namesake = open_run(folder)
    # Manifests of before the fingerprint was recorded say nothing about their weights.
    if namesake.manifest is None or (
        namesake.kind == BASE and namesake.manifest.base.fingerprint in (None, base.fingerprint)
    ):
        return folder
    logger.info(f"'{folder.name}' is the run of other weights: those of {base.location} are the run '{hashed.name}'")
    return hashed


def base_run_name(label: str) -> str:
    """The name of a base model's run, if no other model's run has it."""
    return f"base-{name_from(label)}"


def _own_folder(folder: Path, base: BaseRecord) -> Path:
    return folder.with_name(f"{folder.name}-{str(base.fingerprint)[:8]}")


def target_of_endpoint(model: str, results: Path) -> Target:
    """A model behind an endpoint, by its name there; its run folder is created before the first request.

    If a run of this name is there, as where `harness serve` serves it, the answers get a folder next to it, NAME-endpoint, and stand beside
    the run's base in leaderboards: what is served under a name need not be the run's checkpoint.

    Raises:
        BadInputError: the folder contains another run.
    """
    folder, label = results / name_from(model), model
    served = open_run(folder)
    if served.manifest is not None and served.kind != ENDPOINT:
        folder, label = results / name_from(f"{model}-endpoint"), served.base_label
        logger.info(f"'{model}' is a run here: the endpoint's answers are the run '{folder.name}', next to it")
    base = BaseRecord(label=label, location=None, fingerprint=None)
    manifest = _of_answers(ENDPOINT, folder, base, model)
    if (run := open_run(folder)).manifest is not None and (run.kind != ENDPOINT or run.asked_model != model):
        raise BadInputError(
            f"the folder for '{model}' contains another run, of '{run.asked_model}'",
            where=str(folder),
            remedy="use another --results",
        )
    return Target(folder.name, folder, model, None, label, ENDPOINT, remote=True, manifest=manifest)


def target_of_import(name: str, folder: Path, model: str) -> Target:
    """A run with another tool's answers; `harness.evaluation.imports` writes its manifest. `model` is the label of the base model."""
    return Target(name, folder, name, None, model, IMPORTED)


def _of_answers(kind: str, folder: Path, base: BaseRecord, model: str | None = None) -> ManifestRecord:
    """The manifest of a run that is only a model's answers. `model`: the asked one; None: the base."""
    config = {"model": model or base.label, "method": kind}
    return ManifestRecord(schema=ManifestRecord.KNOWN, kind=kind, name=folder.name, config=config, base=base)


def target_of(run: Run) -> Target:
    """The target of any complete run. Its answers are in its own folder, which may be outside of the results or have been renamed.

    Raises:
        BadInputError: as of `target_of_run` and `target_of_model`; or the run has an adapter and the base model's name.
    """
    if run.aligned:
        target = target_of_run(run)
        if target.adapter is not None:  # of a version that accepted every name, or renamed
            check_run_name(
                target.name, str(run.path), f"rename its folder, for example to {run.path.with_name(f'{run.name}-1')}"
            )
        return target
    if run.kind == IMPORTED:
        return target_of_import(run.name, run.path, run.base_label)
    if run.kind == ENDPOINT:
        return Target(run.name, run.path, run.asked_model, None, run.base_label, ENDPOINT, remote=True)
    target = target_of_model(base_model(run), run.path.parent)
    if target.manifest is None:
        return replace(target, name=run.name, folder=run.path)
    manifest = target.manifest.model_copy(update={"name": run.path.name})
    return replace(target, name=run.name, folder=run.path, manifest=manifest)


def each_once(targets: Sequence[Target]) -> list[Target]:
    """The targets in their order, without those whose folder came before. Of two base models with the same name, of which neither has a run
    yet, the second gets a run of its own."""
    by_folder: dict[Path, Target] = {}
    for target in targets:
        place = Path(os.path.realpath(target.folder))  # not `resolve`, which fails where links go round in circles
        namesake = by_folder.get(place)
        if namesake is not None and target.method == BASE and target.fingerprint != namesake.fingerprint:
            assert target.manifest is not None
            target = _of_base(target.manifest.base, _own_folder(target.folder, target.manifest.base))
            place = Path(os.path.realpath(target.folder))
        by_folder.setdefault(place, target)
    return list(by_folder.values())


def only_target(targets: Sequence[Target], command: str) -> Target:
    """The target of a command that takes one run.

    Raises:
        BadInputError: there are several.
    """
    if len(targets) > 1:
        raise BadInputError(
            f"this command takes one run, not {len(targets)}: {', '.join(target.name for target in targets)}",
            remedy=f"give it for each run: {command}",
        )
    return targets[0]


def targets_of_runs(runs: Sequence[Run], results: Path, *, base: bool) -> tuple[list[Target], str]:
    """The targets of complete runs, each once, and the benchmark data that suit them.

    Args:
        runs: the runs.
        results: folder of the runs.
        base: also their base models, which come first.

    Raises:
        BadInputError: as of `target_of`; or `base` is given for answers whose base model is unknown.
    """
    targets = each_once([target_of(run) for run in runs])
    for kind, whose in ((IMPORTED, "imported answers"), (ENDPOINT, "an endpoint's model")):
        if any(run.kind == kind for run in runs):
            if base:
                refuse_base(whose)
            return targets, imported_data(runs) if kind == IMPORTED else "official"
    if base:
        targets = each_once([base_of(run, results) for run in runs] + targets)
    return targets, base_model(runs[0]).default_data


def refuse_base(whose: str) -> NoReturn:
    """Refuse to evaluate a base model that nobody knows.

    Raises:
        BadInputError: always.
    """
    raise BadInputError(f"the base model of {whose} is unknown", remedy="leave out --base (in Python, base=True)")


def imported_data(runs: Sequence[Run]) -> str:
    """The benchmark data of imported answers, if all of them have the same; else "official"."""
    imported = [row for run in runs if run.manifest for row in (run.manifest.imported or {}).values()]
    labels = {row.data for row in imported}
    return labels.pop() if len(labels) == 1 else "official"


def base_model(run: Run) -> ModelRef:
    """The base model of a complete run, which must not be an endpoint's. If the run started from an earlier run's checkpoint, it is the
    model that the first run started from."""
    location = run.base_location
    if run.aligned and (start := run.manifest_as(AlignedManifest).config.start) is not None:
        return resolve(run.base_label) if start.origin is None else recorded(run.base_label, start.origin)
    if (
        run.checkpoint / "adapter_config.json"
    ).is_file():  # from the adapter's configuration, as for the adapter itself
        location = str(inspect(run.checkpoint).base)
    return recorded(run.base_label, location)


def base_of(run: Run, results: Path) -> Target:
    """The base of a complete run as a target of its own."""
    return target_of_model(base_model(run), results)
