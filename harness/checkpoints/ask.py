"""`harness ask`: one question about one image, to one checkpoint or to two side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import BadInputError
from harness.core.types import ImageRef
from harness.models import base_location, check_base, check_covers, inspect, refuse_control, resolve
from harness.remote import hub
from harness.runs.folders import Run, is_checkpoint, open_run
from harness.runs.targets import BASE, base_model, target_of_run
from harness.serving.base import Backend, Completion, Request, Sampling
from harness.serving.contract import completions_of


@dataclass(frozen=True)
class AskedCheckpoint:
    """A checkpoint to ask: the user's name for it, the full weights, the adapter on top of them, and the run that it belongs to."""

    name: str
    base: str
    adapter: Path | None
    run: Run | None = None


def find_asked(name: str, results: Path, *, other_base: bool = False) -> AskedCheckpoint:
    """A checkpoint by a run's name or folder, a folder of full weights or of an adapter, a model alias, a world's label or a hub id.

    Args:
        name: one of these.
        results: folder in which runs are searched by name.
        other_base: accept an adapter whose base has other weights than it was trained on, for callers that report this themselves.

    Raises:
        BadInputError: nothing has this name, or the run is not complete.
    """
    if not name.strip():  # results / "" would be the folder of all runs
        raise BadInputError("the checkpoint's name is empty", remedy="`harness runs` lists the runs")
    for folder in (results / name, Path(name)):
        if is_checkpoint(folder):
            info, folder = inspect(folder), folder.resolve()
            if info.base is None:
                return AskedCheckpoint(name, str(folder), None)
            base = base_location(folder, info.base)
            if other_base:
                check_covers(folder, base, download=False)
            else:
                check_base(folder, base)
            return AskedCheckpoint(name, base, folder)
        run = open_run(folder)
        if run.manifest is not None and run.aligned:
            if inspect(run.checkpoint).kind == "full":
                return AskedCheckpoint(name, str(run.checkpoint.resolve()), None, run)
            target = target_of_run(run)
            return AskedCheckpoint(name, target.base, target.adapter, run)
        if run.manifest is not None:
            return AskedCheckpoint(name, base_model(run).locate(), None, run)
    location = resolve(name).locate()
    hub.reach(location)
    return AskedCheckpoint(name, location, None)


def ask(
    asked: list[AskedCheckpoint], image: Path, question: str, backend: type[Backend], max_new_tokens: int
) -> dict[str, Completion]:
    """Every checkpoint's greedy answer, by its name. Checkpoints of one base share an engine.

    Raises:
        BadInputError: the image does not open, or the question holds a control token.
    """
    refuse_control({"the question": question})
    if not image.is_file():
        raise BadInputError("this image does not exist", where=str(image))
    picture = ImageRef(path=image)
    picture.open()
    answers: dict[str, Completion] = {}
    for base in dict.fromkeys(checkpoint.base for checkpoint in asked):
        group = [checkpoint for checkpoint in asked if checkpoint.base == base]
        adapters = {
            str(number): checkpoint.adapter for number, checkpoint in enumerate(group) if checkpoint.adapter is not None
        }
        requests = [
            Request(
                checkpoint.name,
                str(number) if checkpoint.adapter else BASE,
                question,
                picture,
                Sampling(max_new_tokens=max_new_tokens),
            )
            for number, checkpoint in enumerate(group)
        ]
        with backend(base, adapters) as engine:
            answers |= {completion.id: completion for completion in completions_of(engine, requests)}
    for completion in answers.values():
        if completion.refused is not None:
            raise BadInputError(completion.refused, where=completion.id, remedy="rephrase the question")
    return answers
