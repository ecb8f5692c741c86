"""`harness push`: a checkpoint on a model hub, with its model card and its manifest."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.checkpoints.ask import AskedCheckpoint
from harness.checkpoints.export import card_of
from harness.checkpoints.verify import VERIFIED, recorded_weights
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import write_json
from harness.core.outgoing import without_folders
from harness.core.version import VERSION
from harness.models import CheckpointInfo, inspect, is_hub_id
from harness.records.run_files import read_verification
from harness.runs.folders import MANIFEST, Run, find_run, is_checkpoint, open_run
from harness.runs.state import read_object
from harness.runs.targets import target_of_run

logger = logging.getLogger(__name__)

_HIDDEN = (".*", "*/.*")
"""Hidden files and folders are not uploaded."""
_CARD = "README.md"


@dataclass(frozen=True)
class PushRequest:
    """What the user asked for.

    Attributes:
        checkpoint: a run's name or folder, or a checkpoint's folder; or the folder of a set of pairs (`generation.push`).
        repository: NAMESPACE/NAME on the hub.
        results: folder of the runs.
        private: visibility of a new repository; an existing one is not changed.
        revision: branch; created if it does not exist.
        message: of the commit.
    """

    checkpoint: str
    repository: str
    results: Path
    private: bool = True
    revision: str = "main"
    message: str | None = None


def push(request: PushRequest, *, dry_run: bool = False) -> dict[str, Any]:
    """Upload a checkpoint; with `dry_run` only say what would be uploaded, with no network.

    A run's card is written again with the latest scores; the run's folder is not changed. A checkpoint's folder is uploaded as it is.

    Returns:
        A JSON-able record: repository, url, commit (None in a dry run), private, files with their bytes, and notes on what is missing
        for readers of the repository.

    Raises:
        BadInputError: no checkpoint, a checkpoint that others cannot load or whose weights differ from its manifest, an invalid name, no
        token, or offline mode.
        HarnessError: the hub refused, or could not be reached.
    """
    from huggingface_hub import HfApi

    check_name(request.repository)
    source, run = _find(request.checkpoint, request.results)
    info = inspect(source)
    _check_shareable(request, info, source)
    api = HfApi(library_name="vlm-align-harness", library_version=VERSION)
    with _staged(source, run) as folder:
        about = {"kind": info.kind, "base": info.base, "fingerprint": info.fingerprint, "notes": _notes(source, run)}
        return sent(api, request, folder, "model", dry_run) | {"checkpoint": request.checkpoint, **about}


RepoType = Literal["model", "dataset"]


def sent(api: Any, request: PushRequest, folder: Path, kind: RepoType, dry_run: bool) -> dict[str, Any]:
    """Upload a folder, or only say what would be uploaded; returns the record's common keys.

    Raises:
        BadInputError: no token, or offline mode.
        HarnessError: the hub refused, or could not be reached.
    """
    files = [{"name": name, "bytes": (folder / name).stat().st_size} for name in _names(folder)]
    record: dict[str, Any] = {
        "repository": request.repository,
        "url": f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{request.repository}",
        "revision": request.revision,
        "files": files,
        "bytes": sum(one["bytes"] for one in files),
    }
    if dry_run:
        return {**record, "private": request.private, "commit": None}
    _check_connection()
    return {**record, **_upload(api, request, folder, kind, record["url"])}


def check_name(repository: str) -> None:
    """Refuse what is no NAMESPACE/NAME.

    Raises:
        BadInputError: it is none.
    """
    if repository.count("/") != 1 or not is_hub_id(repository):
        raise BadInputError(
            f"'{repository}' is not a repository name",
            remedy="use NAMESPACE/NAME, where the namespace is a user or an organisation",
        )


def _find(name: str, results: Path) -> tuple[Path, Run | None]:
    """The checkpoint's folder, and its run if the name is a run's.

    Raises:
        BadInputError: nothing has this name, or it contains no checkpoint.
    """
    for folder in (results / name, Path(name)):
        if is_checkpoint(folder):
            return folder.resolve(), None
        if folder.is_dir() and open_run(folder).manifest is None and not (folder / "train_log.jsonl").exists():
            raise BadInputError(
                "this is neither a checkpoint nor a run",
                where=str(folder),
                remedy="give an aligned run, or a folder that `harness export` wrote",
            )
    run = find_run(name, results)
    if not run.aligned:
        raise BadInputError(f"the run '{run.name}' contains no aligned checkpoint", where=str(run.path))
    return run.checkpoint.resolve(), run


def _check_shareable(request: PushRequest, info: CheckpointInfo, source: Path) -> None:
    """Refuse checkpoints that others cannot load, and weights that differ from the manifest."""
    if info.base is not None and not is_hub_id(info.base):
        raise BadInputError(
            f"others could not load this adapter: its base is the local folder {info.base}",
            where=str(source),
            remedy=f"merge it into its base's weights: harness export {request.checkpoint} -o DIR, then harness push DIR "
            f"{request.repository}",
        )
    asked = AskedCheckpoint(request.checkpoint, info.base or str(source), source if info.base else None)
    if findings := recorded_weights(asked):
        raise BadInputError(findings[0], where=str(source))


@contextlib.contextmanager
def _staged(source: Path, run: Run | None) -> Iterator[Path]:
    """The folder to upload: links to the checkpoint's files, its manifest without this machine's folders, and for a run a new card."""
    card = card_of(run) if run is not None and run.manifest is not None else None
    manifest = read_object(source / MANIFEST)
    replaced = {*([_CARD] if card else []), *([MANIFEST] if manifest else [])}
    with tempfile.TemporaryDirectory(prefix="harness-push-") as name:
        folder = Path(name)
        # File by file: neither our list nor the hub's library enters a linked folder.
        for path in source.rglob("*"):
            place = path.relative_to(source)
            if path.is_file() and str(place) not in replaced:
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                (folder / place).symlink_to(path)
        if card:
            (folder / _CARD).write_text(card, encoding="utf-8")
        if manifest:
            write_json(folder / MANIFEST, without_folders(manifest))
        yield folder


def _names(folder: Path) -> list[str]:
    """The files that would be uploaded, by the rules of the library that uploads them."""
    from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

    there = sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*") if path.is_file())
    return list(filter_repo_objects(there, ignore_patterns=[*_HIDDEN, *DEFAULT_IGNORE_PATTERNS]))


def _notes(source: Path, run: Run | None) -> list[str]:
    """Notes on what is missing for readers of the repository."""
    notes = []
    if run is None and not (source / _CARD).exists():
        notes.append(f"it has no model card ({_CARD}): `harness export` writes one")
    if not (source / MANIFEST).exists():
        notes.append(f"it has no {MANIFEST}: so its origin is unknown")
    if run is None:
        notes.append(
            f"no verification is recorded for a folder; whether it is served as trained: harness verify {source}"
        )
    elif not _verified(run):
        notes.append(f"it was not verified (served as trained); to do so: harness verify {run.path}")
    return notes


def _verified(run: Run) -> bool:
    """Whether `harness verify` or `eval --verify` found these weights to be served as they were trained."""
    path = run.path / VERIFIED
    if not path.exists():
        return False
    verification = read_verification(path)
    return verification.same and verification.weights == target_of_run(run).fingerprint


def _check_connection() -> None:
    """Raise before any request why the hub would refuse."""
    from huggingface_hub import get_token, is_offline_mode

    if is_offline_mode():
        raise BadInputError(
            "nothing can be uploaded in offline mode",
            remedy="unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, or use --dry-run",
        )
    if get_token() is None:
        raise BadInputError(
            "the hub requires a token, and there is none",
            remedy="set HF_TOKEN to a token with write access, or run: hf auth login",
        )


def _upload(api: Any, request: PushRequest, folder: Path, kind: RepoType, where: str) -> dict[str, Any]:
    """Create the repository and the branch if they do not exist, and commit; the library shows progress bars."""
    import httpx2
    from huggingface_hub.errors import RepositoryNotFoundError

    name = request.repository
    message = request.message or f"{Path(request.checkpoint).name}, by vlm-align-harness {VERSION}"
    try:
        try:
            private = bool(api.repo_info(name, repo_type=kind).private)
        except RepositoryNotFoundError:
            api.create_repo(name, repo_type=kind, private=request.private, exist_ok=True)
            private = request.private
            logger.info(f"made {where} ({'private' if private else 'public'})")
        if request.revision != "main":
            api.create_branch(name, repo_type=kind, branch=request.revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=folder,
            revision=request.revision,
            commit_message=message,
            ignore_patterns=list(_HIDDEN),
        )
    except httpx2.HTTPError as error:
        raise _refused(error, where) from error
    except (RuntimeError, ValueError) as error:  # an interrupted transfer; a card that the hub rejects
        cause = error.__cause__ or error
        raise HarnessError(
            f"the upload failed: {str(error).splitlines()[0]}" + (f" ({cause})" if cause is not error else ""),
            where=where,
            remedy="the same command again: files that are already on the hub are not sent again",
        ) from error
    return {"private": private, "commit": done.oid}


def _refused(error: Exception, where: str) -> HarnessError:
    """The error for the hub's answer, or for no answer."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if status == 401:
        return BadInputError(
            "the hub rejects this token", where=where, remedy="run hf auth login, or set another HF_TOKEN"
        )
    if status == 403:
        namespace = where.rsplit("/", 2)[-2]
        return BadInputError(
            f"the token has no write access: {said}",
            where=where,
            remedy=f"use a token with write access to '{namespace}'",
        )
    if status is None:
        return HarnessError(
            f"the hub could not be reached: {said}",
            where=where,
            remedy="check the network and HF_ENDPOINT, then the same command again: files that are already on the hub are not sent again",
        )
    return HarnessError(f"the hub refused: {said}", where=where)
