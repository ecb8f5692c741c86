"""Checks of an alignment before a folder is created or anything is downloaded: processes, packages, family, model, data, disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aligners.preferences.sources import place_of, wanted_of
from aligners.training.families import family_of
from aligners.training.job import AlignJob
from aligners.training.memory.batch import share_of_batch
from aligners.training.memory.footprint import architecture
from aligners.training.planning.room import disk_room, still_to_write
from aligners.training.processes import is_deepspeed, is_sharded
from harness.core.config import TrainSettings
from harness.core.disk import need
from harness.core.errors import BadInputError
from harness.core.packages import is_installed, need_package
from harness.core.reading import read_json
from harness.remote import hub


def preflight(job: AlignJob) -> list[hub.Wanted]:
    """Check everything that an alignment needs, the model before the data.

    Args:
        job: the job of `align`; `model` and `data` are "", and `held_out` is None, if they are made on this machine first.

    Returns:
        The repositories from the hub, with their download sizes.

    Raises:
        BadInputError: a setting, the model or the data is invalid.
        HarnessError: a package is missing, the hub cannot be reached, or the disk is too small.
    """
    # `launch` sets it; accelerate's state, which waits for the other processes, is made later.
    check_launch(job.train, int(os.environ.get("WORLD_SIZE", "1")))
    check_packages(job.train)
    wanted: list[hub.Wanted] = []
    config: dict[str, Any] = {}
    if job.model:
        folder = Path(job.model)
        if folder.is_dir():
            config = read_json(folder / "config.json", "configuration") if (folder / "config.json").exists() else {}
        else:
            found = hub.look(job.model)
            wanted.append(found)
            config = hub.small_file(job.model, "config.json")
        if "model_type" in config:
            family_of(str(config["model_type"]), job.model)
    for source in filter(None, (job.data, job.held_out)):
        if (data := wanted_of(place_of(source))) is not None:
            wanted.append(data)
    rooms = [(hub.cache_folder(), one.download or 0, f"the {one.name} of the hub") for one in wanted]
    if "model_type" in config:
        # The numbers of stages and steps are unknown before the data are read: at least one of each.
        room = disk_room(architecture(job.model, job.train), job.train)
        what = "adapters" if job.train.adapters else "all weights"
        rooms.append((job.output, still_to_write(room, job.output), f"the checkpoints of {what}"))
    need(rooms)
    return wanted


def check_launch(train: TrainSettings, processes: int) -> None:
    """Check that the settings fit how the processes were launched; nothing is read for it.

    Args:
        train: settings of the training.
        processes: number of processes of all machines.

    Raises:
        BadInputError: the batch cannot be divided among them, or they shard a model in 4 bits.
    """
    share_of_batch(train, processes)
    if (is_sharded() or is_deepspeed()) and train.tuning == "qlora":
        raise BadInputError(
            "a model in 4 bits cannot be trained with FSDP or DeepSpeed",
            remedy="--lora, or harness launch --sharding none",
        )


def check_packages(train: TrainSettings) -> None:
    """Check that the packages that the settings need are installed.

    Raises:
        MissingPackageError: one is not; the message has the command that installs it.
    """
    asked: dict[str, str] = {name: f"train.report_to={name}" for name in train.report_to}
    if train.tuning == "qlora":
        asked["bitsandbytes"] = "train.tuning=qlora"
    if is_deepspeed():
        asked["deepspeed"] = "accelerate's configuration"
    for name, why in asked.items():
        if name != "tensorboard" or not is_installed("tensorboardX"):
            need_package(name, why)
