"""`harness align`: from a model and preference data to a checkpoint in a run folder."""

from __future__ import annotations

import datetime
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from aligners.base import Aligner, layered
from aligners.preferences.options import DataOptions
from aligners.training.job import AlignJob
from aligners.training.planning.preflight import preflight
from harness.alignment.resume import check_same, interrupted_run
from harness.alignment.start import started_from
from harness.checkpoints.export import card_of
from harness.core import registry
from harness.core.config import TrainSettings, parse
from harness.core.denormals import flushed_denormals
from harness.core.disk import nearest_existing
from harness.core.errors import BadInputError
from harness.core.files import write_json
from harness.core.memory import give_back
from harness.core.names import check_name, name_from
from harness.core.paths import cache_folder
from harness.core.plugins import is_plugin, wrong
from harness.core.progress import be_quiet
from harness.core.removal import remove
from harness.core.worlds import pairs_of, world_of_pairs
from harness.models import ModelRef, fingerprint, inspect, resolve
from harness.records.manifest_file import AlignConfig, BaseRecord, CheckpointRecord, ManifestRecord
from harness.records.training_files import TrainingSummary
from harness.remote import hub
from harness.remote.hub import Wanted
from harness.runs.claim import check_folder, claimed
from harness.runs.folders import MANIFEST, Run, open_run
from harness.runs.manifest import surroundings
from harness.runs.state import CONFIG
from harness.runs.targets import check_run_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignRequest:
    """What the user asked for. `settings` has the keys "train" and "method"; later layers have already overridden earlier ones."""

    method: str
    model: str
    results: Path
    data: str | None = None
    name: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    on_error: Literal["fail", "skip"] = "fail"
    resume: bool = False
    overwrite: bool = False
    allow_download: bool = False
    data_options: DataOptions = field(default_factory=DataOptions)
    canary: bool = True
    start: Path | None = None
    """Folder of an exported checkpoint of an earlier run of the model, which the training starts from."""
    on_step: Callable[[Mapping[str, Any]], None] | None = None
    """Is called with every row of the training log."""


@dataclass(frozen=True)
class _Resolved:
    """An alignment with its names and settings looked up."""

    aligner: Aligner
    train: TrainSettings
    model: ModelRef
    folder: Path
    config: AlignConfig
    wanted: list[Wanted]
    """The repositories that come from the hub."""

    def job(self, request: AlignRequest) -> AlignJob:
        """The aligner's part of the alignment; a world's preference data is made if it does not exist."""
        return AlignJob(
            str(self.config.location),
            pairs_of(self.config.data, self.config.method),
            self.folder,
            self.train,
            cache_folder(),
            request.limit,
            request.on_error,
            request.resume,
            request.allow_download,
            request.data_options,
            held_out=pairs_of(self.train.balance.data, self.config.method) if self.train.balance.data else None,
            canary=request.canary,
            on_step=request.on_step,
        )


def run_align(request: AlignRequest) -> Run:
    """Resolve everything, train, and write the manifest last.

    Raises:
        BadInputError: a name, a setting, the data or the run folder is wrong; raised before training starts.
    """
    resolved = _resolve(request)
    if not is_first_process():
        be_quiet()
        return _train(request, resolved)
    with claimed(resolved.folder, resume=request.resume, overwrite=request.overwrite) as claim:
        if request.resume and not claim.state.reusable:
            check_same(resolved.folder, resolved.config)
        if not request.resume or claim.state.condition != "complete":
            claim.begin()
            write_json(resolved.folder / CONFIG, resolved.config.written())
        return _train(request, resolved, resumed=claim.state.condition == "interrupted")


def _train(request: AlignRequest, resolved: _Resolved, *, resumed: bool = False) -> Run:
    """Train; every process runs this, and the first one holds the run's folder. `resumed`: it contains steps of an earlier attempt."""
    folder, config, first = resolved.folder, resolved.config, is_first_process()
    if request.resume and (run := open_run(folder)).manifest is not None:
        if not run.checkpoint.is_dir():
            raise BadInputError(
                "the run is complete, but its checkpoint was removed",
                where=str(run.checkpoint),
                remedy="to train it again: --overwrite in place of --resume",
            )
        logger.info(f"the run is complete: {folder}")
        return run
    from aligners.training.run import train

    started = time.perf_counter()

    def stage_done(stage: Path, summary: TrainingSummary) -> None:
        """Write a manifest into the stage's folder, which makes it a run that can be evaluated while the next stage trains."""
        of_stage = config.model_copy(update={"stage": stage.name})
        _write_manifest(stage, of_stage, resolved.model, summary, started, resumed=resumed)

    with flushed_denormals():
        job = replace(resolved.job(request), stage_done=stage_done)
        give_back()  # making a world's model and pairs leaves freed memory with glibc
        result = train(resolved.aligner, job)
    if first:
        _write_manifest(folder, config, resolved.model, result.summary, started, resumed=resumed)
        _remove(result.scratch, folder)
    return open_run(folder)


def _resolve(request: AlignRequest, *, writes: bool = True) -> _Resolved:
    """Look up all names and validate all settings.

    Args:
        request: what the user asked for.
        writes: whether a run will be written; its folder is checked then.

    Raises:
        BadInputError: one of them is at fault.
    """
    if request.limit is not None and request.limit < 1:
        raise BadInputError(f"--limit must be at least 1, not {request.limit}")
    if request.name is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInputError("several processes need --name, so that all write the same run", remedy="add --name NAME")
    if request.name is not None:
        check_name(request.name, "the run's name (--name)")
        check_run_name(request.name, "--name", "use another name")
    if request.resume and request.overwrite:
        raise BadInputError(
            "--resume continues the existing run, --overwrite replaces it", remedy="give only one of them"
        )
    request = replace(request, method=registry.adopt("aligners", request.method))
    kind: type[Aligner] = registry.load("aligners", request.method)
    model, start = resolve(request.model), None
    if request.start is not None:
        model, start = started_from(request.start, model)
    train, aligner = _settings(kind, model, request)
    # An embedded world has its own pairs, so the method's published data is not the default.
    usual = None if model.world else kind.default_data
    data_label = request.data or usual or model.default_preferences
    if request.data is None:
        logger.info(f"preference data: {data_label} (the default for {request.method if usual else model.label})")
    started: dict[str, Any] = {"start": start} if start else {}
    config = AlignConfig(
        method=request.method,
        model=model.label,
        # A world's model and a preset are made below, after everything else was checked.
        location=None if model.official else model.location,
        **started,
        data=data_label,
        limit=request.limit,
        on_error=request.on_error,
        **request.data_options.described(),
        settings={"train": train.model_dump(), "method": aligner.settings.model_dump(mode="json")},
    )
    folder = request.results / _name(request, config)
    if writes and is_first_process():
        check_folder(folder, resume=request.resume, overwrite=request.overwrite)
    if model.location is not None:
        _check_full(model.location)
    # A world's model and pairs are made on this machine, after everything else was checked.
    given = "" if world_of_pairs(data_label) else data_label
    held_out = train.balance.data if train.balance.data and not world_of_pairs(train.balance.data) else None
    asked = AlignJob(model.location or "", given, folder, train, cache_folder(), held_out=held_out)
    wanted = preflight(asked)
    if not writes and any(one.folder is None for one in wanted):
        location = str(model.location)
    else:
        location = model.locate()
        if model.world:
            _check_full(location)
    config = config.model_copy(update={"location": location})
    return _Resolved(aligner, train, model, folder, config, wanted)


def _name(request: AlignRequest, config: AlignConfig) -> str:
    """The name of the run: as given, else of the run that `--resume` continues, else a new one.

    Raises:
        BadInputError: there is no such run to continue.
    """
    if request.name is not None:
        return request.name
    if request.resume:
        return interrupted_run(request.results, config)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{config.method}-{name_from(config.model.rpartition('/')[2])}-{now}"


def _settings(kind: type[Aligner], model: ModelRef, request: AlignRequest) -> tuple[TrainSettings, Aligner]:
    """Settings of the training, and the method with its own: the request's, then an embedded world's recipe, then the method's defaults.

    Raises:
        BadInputError: a setting is wrong.
    """
    recipe = model.world.recipe(request.method) if model.world else {}
    if model.world and recipe:
        logger.info(
            f"settings: those chosen for {request.method} on the world {model.world.name}, not the method's defaults; "
            "--set overrides them, and the run's config.json has all"
        )
    if is_plugin(kind):
        try:
            parse(TrainSettings, dict(kind.train_defaults), "train")
        except (BadInputError, TypeError, ValueError) as error:
            raise wrong(kind, "train_defaults", f"{kind.train_defaults!r}: {error}", "settings of `train`") from error
    layers = layered(kind.Settings, {"train": dict(kind.train_defaults)}, recipe, request.settings)
    train = parse(TrainSettings, layers.get("train", {}), "train")
    return train, kind(parse(kind.Settings, layers.get("method", {}), f"method {request.method}"))


def _check_full(location: str) -> None:
    """A folder that alignment starts from has full weights.

    Raises:
        BadInputError: it is an adapter's, or no checkpoint.
    """
    if Path(location).is_dir() and inspect(Path(location)).kind == "adapter":
        raise BadInputError(
            "alignment must start from full weights, not from an adapter", where=location, remedy="give its base model"
        )


def plan_align(request: AlignRequest) -> dict[str, Any]:
    """Return what `run_align` would do and need. Nothing is trained, and no run folder is made; a world's model and pairs are made,
    though.

    Nothing is downloaded: if the model or the data are not on this machine, only the downloads are reported.

    Raises:
        BadInputError: as `run_align`, but for the run folder.
    """
    from aligners.training.planning.plan import plan as plan_of

    resolved = _resolve(request, writes=False)
    about = {"method": request.method, "model": resolved.model.label, "data": resolved.config.data}
    missing = [snapshot for snapshot in resolved.wanted if snapshot.folder is None]
    download = [{"name": snapshot.name, "kind": snapshot.kind, "bytes": snapshot.download} for snapshot in missing]
    if missing:
        return {**about, "download": download, "free": shutil.disk_usage(nearest_existing(hub.cache_folder())).free}
    job = resolved.job(request)
    give_back()
    return {**about, "download": [], **plan_of(resolved.aligner, job)}


def is_first_process() -> bool:
    """Whether this is the only process of `align`, or the process of `accelerate launch` that writes the run's folder."""
    return os.environ.get("RANK", "0") == "0"


def _write_manifest(
    folder: Path, config: AlignConfig, model: ModelRef, summary: TrainingSummary, started: float, *, resumed: bool
) -> None:
    """Write the model card and then the manifest of the checkpoint in a run's or a stage's folder."""
    run = open_run(folder)
    info = inspect(run.checkpoint)
    interrupted: dict[str, Any] = {"resumed": True} if resumed else {}
    location = str(config.location)
    manifest = ManifestRecord(
        schema=ManifestRecord.KNOWN,
        kind="align",
        name=run.name,
        config=config.written(),
        base=BaseRecord(label=model.label, location=location, fingerprint=fingerprint(location)),
        checkpoint=CheckpointRecord(kind=info.kind, fingerprint=info.fingerprint),
        summary=summary.written(),
        wall_seconds=round(time.perf_counter() - started, 1),
        **interrupted,
        **surroundings().written(),
    )
    (run.checkpoint / "README.md").write_text(card_of(replace(run, manifest=manifest)), encoding="utf-8")
    write_json(run.checkpoint / MANIFEST, manifest.written())
    write_json(folder / MANIFEST, manifest.written())


def _remove(scratch: Sequence[Path], run: Path) -> None:
    """Remove files of a run, and folders that this leaves empty."""
    for path in scratch:
        remove(path, within=run)
    for folder in dict.fromkeys([path.parent for path in scratch] + [path.parent.parent for path in scratch]):
        if folder.is_dir() and not any(folder.iterdir()):
            remove(folder, within=run)
