"""What is evaluated: checkpoints, with the run folders that their answers go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.core.errors import BadInputError
from harness.core.files import sha256_json, write_json
from harness.core.names import name_from
from harness.models import ModelRef, check_base, fingerprint, inspect, recorded, template_hash_of
from harness.records.manifest_file import AlignedManifest, BaseRecord, ManifestRecord
from harness.remote import hub
from harness.runs.folders import MANIFEST, Run, open_run
from harness.runs.manifest import surroundings
from harness.serving.base import Backend, BackendSettings

BASE, ENDPOINT = "base", "endpoint"


@dataclass(frozen=True)
class Target:
    """A checkpoint to evaluate and the run folder that its answers go to.

    Attributes:
        name: the run's name; the leaderboard's row.
        folder: the run's folder.
        base: folder or hub id of the full weights.
        adapter: PEFT folder on top of them, or None.
        model: label of the base model.
        method: the aligner, "base", or "endpoint".
        remote: `base` is the name of a model behind an endpoint; there are no weights here.
        manifest: of a run that is only a model's answers: what is written when the first of them is requested (`begin`).
    """

    name: str
    folder: Path
    base: str
    adapter: Path | None
    model: str
    method: str
    remote: bool = False
    manifest: ManifestRecord | None = field(default=None, compare=False)

    def begin(self) -> None:
        """Make the run's folder, of a model that was not aligned here; an aligned run has its own."""
        if self.manifest is None:
            return
        before = open_run(self.folder).manifest
        # The weights may have moved: later commands look where they are now.
        if before is None or before.base != self.manifest.base:
            write_json(self.folder / MANIFEST, self.manifest.written() | surroundings().written())

    @property
    def served(self) -> str:
        """Its name in the engine: a base's own, or its adapter's."""
        return self.name if self.adapter else BASE

    @cached_property
    def template(self) -> str:
        """Hash of all that turns a question into a prompt; an endpoint has its own."""
        return "the endpoint's own" if self.remote else template_hash_of(self.base)

    @property
    def fingerprint(self) -> str:
        """Of all weights that the answers depend on; of the model's name where the weights are an endpoint's (not of its URL)."""
        if self.remote:
            return sha256_json(["endpoint", self.base])
        return sha256_json([fingerprint(self.base), fingerprint(self.adapter) if self.adapter else None])

    def answered_by(self, model: str) -> str:
        """The fingerprint of what answered: an endpoint's with the name that the answering model gave itself."""
        return sha256_json([self.fingerprint, model]) if self.remote else self.fingerprint


def engine_of(targets: Sequence[Target], backend: type[Backend], settings: BackendSettings) -> Backend:
    """One engine for checkpoints of one base: the base itself, and every adapter by its target's name. Not started."""
    adapters = {target.name: target.adapter for target in targets if target.adapter}
    return backend(targets[0].base, adapters, settings)


def target_of_run(run: Run) -> Target:
    """The target of an aligned run; its checkpoint is checked before anything starts.

    Raises:
        BadInputError: the checkpoint is broken, or its base's weights are not those it was trained on.
    """
    manifest = run.manifest_as(AlignedManifest)
    config = manifest.config
    info = inspect(run.checkpoint)
    if info.kind == "full":
        return Target(run.name, run.path, str(run.checkpoint.resolve()), None, config.model, config.method)
    # The adapter's own file says where its base is, so that it can be written there where that has moved.
    location = str(info.base)
    check_base(run.checkpoint, location, manifest.base.fingerprint)
    return Target(run.name, run.path, location, run.checkpoint.resolve(), config.model, config.method)


def target_of_model(model: ModelRef, results: Path) -> Target:
    """A base model as a target; its run folder is made with the first question (`Target.begin`)."""
    location = model.locate()
    hub.reach(location)
    if Path(location).is_dir() and inspect(Path(location)).kind == "adapter":
        raise BadInputError(
            "this is an adapter, not a base model",
            where=location,
            remedy="give the run that made it: harness eval --run NAME; or merge it into its base's weights first",
        )
    folder = results / f"base-{name_from(model.label)}"
    base = BaseRecord(label=model.label, location=location, fingerprint=fingerprint(location))
    manifest = _of_answers(BASE, folder, base)
    return Target(folder.name, folder, location, None, model.label, BASE, manifest=manifest)


def target_of_endpoint(model: str, results: Path) -> Target:
    """A model behind an endpoint, by the name that it has there; its run folder is made with the first question."""
    folder = results / name_from(model)
    manifest = _of_answers(ENDPOINT, folder, BaseRecord(label=model, location=None, fingerprint=None))
    if (run := open_run(folder)).manifest is not None and (run.kind != ENDPOINT or run.base_label != model):
        raise BadInputError(
            f"the folder of '{model}' contains another run, of '{run.base_label}'",
            where=str(folder),
            remedy="use another --results",
        )
    return Target(folder.name, folder, model, None, model, ENDPOINT, remote=True, manifest=manifest)


def _of_answers(kind: str, folder: Path, base: BaseRecord) -> ManifestRecord:
    """The manifest of a run that is only a model's answers."""
    config = {"model": base.label, "method": kind}
    return ManifestRecord(schema=ManifestRecord.KNOWN, kind=kind, name=folder.name, config=config, base=base)


def target_of(run: Run, results: Path) -> Target:
    """The target of any complete run."""
    if run.aligned:
        return target_of_run(run)
    if run.kind == ENDPOINT:
        return target_of_endpoint(run.base_label, results)
    return base_of(run, results)


def base_model(run: Run) -> ModelRef:
    """The base model of a complete run, which is not an endpoint's."""
    location = run.base_location
    if (
        run.checkpoint / "adapter_config.json"
    ).is_file():  # where the adapter's own file says, as for the adapter itself
        location = str(inspect(run.checkpoint).base)
    return recorded(run.base_label, location)


def base_of(run: Run, results: Path) -> Target:
    """The base of a complete run as a target of its own."""
    return target_of_model(base_model(run), results)
