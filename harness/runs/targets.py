"""What is evaluated: checkpoints, with the run folders that their answers go to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInputError
from harness.files import sha256_json, write_json
from harness.models import ModelRef, fingerprint, inspect, resolve
from harness.runs.folders import MANIFEST, Run
from harness.runs.manifest import surroundings

BASE = "base"


@dataclass(frozen=True)
class Target:
    """A checkpoint to evaluate and the run folder that its answers go to.

    Attributes:
        name: the run's name; the leaderboard's row.
        folder: the run's folder.
        base: folder or hub id of the full weights.
        adapter: PEFT folder on top of them, or None.
        model: label of the base model.
        method: the aligner, or "base".
    """

    name: str
    folder: Path
    base: str
    adapter: Path | None
    model: str
    method: str

    @property
    def fingerprint(self) -> str:
        """Of all weights that the answers depend on."""
        return sha256_json([fingerprint(self.base), fingerprint(self.adapter) if self.adapter else None])


def target_of_run(run: Run) -> Target:
    """The target of an aligned run; its checkpoint is looked at before anything starts.

    Raises:
        BadInputError: the checkpoint is broken, or its base's weights are not those it was trained on.
    """
    assert run.manifest is not None
    config, recorded = run.manifest["config"], run.manifest["base"]
    info = inspect(run.checkpoint)
    if info.kind == "full":
        return Target(run.name, run.path, str(run.checkpoint.resolve()), None, config["model"], config["method"])
    if fingerprint(recorded["location"]) != recorded["fingerprint"]:
        raise BadInputError(
            "the adapter's base model has other weights than when it was trained",
            where=recorded["location"],
            remedy="put the old weights back, or align again",
        )
    return Target(run.name, run.path, recorded["location"], run.checkpoint.resolve(), config["model"], config["method"])


def target_of_model(model: ModelRef, results: Path) -> Target:
    """A base model as a target; its run folder is made."""
    location = model.locate()
    if Path(location).is_dir():
        inspect(Path(location))
    folder = results / f"base-{model.label.replace('/', '-').replace(':', '-')}"
    manifest = {
        "kind": BASE,
        "name": folder.name,
        "config": {"model": model.label, "method": BASE},
        "base": {"label": model.label, "location": location, "fingerprint": fingerprint(location)},
    }
    if not (folder / MANIFEST).exists():
        write_json(folder / MANIFEST, manifest | surroundings())
    return Target(folder.name, folder, location, None, model.label, BASE)


def base_of(target: Target, results: Path) -> Target:
    """The base that a target was aligned from."""
    return target_of_model(resolve(target.model), results)
