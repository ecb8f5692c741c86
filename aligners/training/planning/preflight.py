"""What can be said of an alignment before a folder is made or a byte of it is downloaded: packages, family, model, data, disk."""

from __future__ import annotations

from pathlib import Path

from aligners.preferences.sources import known_repository, place_of
from aligners.training.families import family_of
from aligners.training.job import AlignJob
from aligners.training.processes import is_deepspeed
from harness.core.config import TrainSettings
from harness.core.disk import need
from harness.core.packages import is_installed, need_package
from harness.core.reading import read_json
from harness.remote import hub

_OPTIMISER_COPIES = 6
"""Two checkpoints under way, each the weights and AdamW's two moments."""


def preflight(job: AlignJob) -> list[hub.Wanted]:
    """Look at everything that an alignment needs, the model before the data.

    Args:
        job: what `align` gets; `model` and `data` are "" where they are made on this machine first.

    Returns:
        The repositories that it takes from the hub, with what would be downloaded.

    Raises:
        BadInputError: a setting, the model or the data is at fault.
        HarnessError: a package is missing, the hub cannot be reached, or the disk is too small.
    """
    check_packages(job.train)
    wanted: list[hub.Wanted] = []
    weights = 0
    if job.model:
        folder = Path(job.model)
        if folder.is_dir():
            config = read_json(folder / "config.json", "configuration") if (folder / "config.json").exists() else {}
            weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        else:
            found = hub.look(job.model)
            wanted.append(found)
            config = hub.small_file(job.model, "config.json")
            weights = found.download or 0
        if "model_type" in config:
            family_of(str(config["model_type"]), job.model)
    repository = known_repository(place_of(job.data)) if job.data else None
    if repository is not None:
        wanted.append(hub.look(repository, "dataset", ["*.parquet"]))
    rooms = [(hub.cache_folder(), one.download or 0, f"the {one.name} of the hub") for one in wanted]
    if job.train.tuning == "full":
        rooms.append((job.output, _OPTIMISER_COPIES * 2 * weights, "the checkpoints of all weights"))
    need(rooms)
    return wanted


def check_packages(train: TrainSettings) -> None:
    """The packages that the settings ask for are installed.

    Raises:
        MissingPackageError: one is not; with the command that installs it.
    """
    asked: dict[str, str] = {name: f"train.report_to={name}" for name in train.report_to}
    if train.tuning == "qlora":
        asked["bitsandbytes"] = "train.tuning=qlora"
    if is_deepspeed():
        asked["deepspeed"] = "accelerate's configuration"
    for name, why in asked.items():
        if name != "tensorboard" or not is_installed("tensorboardX"):
            need_package(name, why)
