"""What image preferences were made of: the original beside the corrupted image of some training examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.core.files import read_jsonl
from harness.core.types import ImageRef
from harness.report.gather import thumbnail
from harness.runs.folders import Run


def rejected_images(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """A section with the sample that each run kept of its rejected images, and in words what was left out.

    A method notes in the manifest where its samples are: a file of rows {id, prompt, chosen, original, rejected, keywords...} in the
    run's folder, whose images are files there too. The section is "" where no run has one.
    """
    parts, left_out = [], []
    for run in runs:
        notes = (run.manifest or {}).get("summary", {}).get("prepared", {}).get("image_preferences") or {}
        if not notes.get("samples"):
            continue
        try:
            cards = [
                _card(run, row) for row in read_jsonl(_inside(run, notes["samples"]), "samples of rejected images")
            ]
        except BadInputError as error:
            left_out.append(f"{run.name}: rejected images: {error.problem} ({error.where})")
            continue
        whole = sum(notes.get(kind, 0) for kind in ("regions", "random-regions", "whole-image", "given"))
        words = f"{run.name}: {len(cards)} of {whole:,} training examples, drawn by their ids."
        parts.append(f"<h3>{escape(words)}</h3><div class='pairs'>{''.join(cards)}</div>")
    if not parts:
        return "", left_out
    intro = "The model is to prefer its answer with the original picture (left) over the same answer with the corrupted one (right)."
    return f"<section id='rejected'><h2>Rejected images</h2><p>{intro}</p>{''.join(parts)}</section>", left_out


def _inside(run: Run, name: str) -> Path:
    """A file of the run's folder.

    Raises:
        BadInputError: the name leads out of it.
    """
    path = (run.path / name).resolve()
    if not path.is_relative_to(run.path.resolve()):
        raise BadInputError(f"'{name}' is outside of the run's folder", where=str(run.path))
    return path


def _card(run: Run, row: Mapping[str, Any]) -> str:
    """One example. What the data set and the detector say is text, whatever it holds."""
    if missing := [
        key for key in ("id", "prompt", "chosen", "original", "rejected") if not isinstance(row.get(key), str)
    ]:
        raise BadInputError(f"a row has no {', '.join(missing)}", where=str(run.path))
    pictures = "".join(
        f"<img src='{thumbnail(ImageRef(_inside(run, row[kind])).open())}' "
        f"alt='{kind} image of {escape(row['id'], quote=True)}'>"
        for kind in ("original", "rejected")
    )
    kinds = {"given": "given by the data", "random-regions": "random regions"}
    words = ", ".join(map(str, row.get("keywords") or ())) or kinds.get(str(row.get("made")), "none: the whole image")
    how = [str(row["corruption"])] if row.get("corruption") else []
    if row.get("step") is not None:
        how.append(f"t = {row['step']}, schedule {row.get('schedule') or 'ddpm'}")
    elif isinstance(row.get("strength"), float):
        how.append(f"strength {row['strength']:.2g}")
    manner = f" ({escape(', '.join(how))})" if how else ""
    return (
        f"<article class='pair'><div>{pictures}</div><p class='meta'>corrupted: {escape(words)}"
        f"{manner}</p><p>{escape(row['prompt'])}</p><p class='meta'>chosen: {escape(row['chosen'])}</p>"
        f"<p class='meta'>{escape(row['id'])}</p></article>"
    )
