"""What a training is computed from, by content: an interrupted run continues only with the same.

Its configuration has names: of the data, of a folder with the model, of the method. Behind the same name the user may have put other
contents meanwhile, and the order of examples, which the seed decides, is that of the present ones.
"""

from __future__ import annotations

from aligners.base import Aligner
from aligners.training.job import AlignJob
from aligners.training.memory.step import STEP
from harness.core.errors import BadInputError
from harness.core.files import sha256_file, sha256_json
from harness.core.plugins import plugin_of, source_files
from harness.core.reading import read_json
from harness.core.record import check
from harness.models import fingerprint
from harness.records.training_files import StepFile


def inputs_of(aligner: Aligner, job: AlignJob, data: str) -> dict[str, str]:
    """Hashes of a training's inputs, by their keys in `step.json`.

    Args:
        aligner: the method; only of a plugin, which its user may edit, is the code an input.
        job: its model is the starting model.
        data: hash of the preference data's contents.
    """
    inputs = {"data": data, "model": fingerprint(job.model)}
    if (code := _code(type(aligner))) is not None:
        inputs["method"] = code
    return inputs


def _code(method: type) -> str | None:
    """Hash of the Python files of a plugin's method; None for a built-in method."""
    if (entry := plugin_of(method)) is None:
        return None
    return sha256_json([(name, sha256_file(path)) for name, path in source_files(entry)])


def check_inputs(aligner: Aligner, job: AlignJob, inputs: dict[str, str]) -> None:
    """Check that a resumed run was begun with the same inputs. Versions before this check stored none; their runs are accepted.

    Args:
        aligner: the method.
        job: the job of the resumed run.
        inputs: as of `inputs_of`.

    Raises:
        BadInputError: inputs have changed; the message names them.
    """
    path = job.output / STEP
    if not (job.resume and path.exists()):
        return
    begun = check(StepFile, read_json(path, "step's file"), "step's file", path)
    called = {
        "data": f"the preference data ({job.data})",
        "model": f"the weights of the starting model ({job.model})",
        "method": f"the code of the method '{aligner.name}'",
    }
    stored = {key: getattr(begun, key) for key in called}
    if changed := [called[key] for key, value in stored.items() if value is not None and value != inputs.get(key)]:
        raise BadInputError(
            f"what the run was begun with has changed since: {', and '.join(changed)}",
            where=str(job.output),
            remedy="restore what has changed and resume; or train again from the start, with --overwrite or another --name",
        )
