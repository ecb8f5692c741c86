"""`harness publish`: a run's results as a folder for others."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.checkpoints.card import score_lines
from harness.checkpoints.export import card_of
from harness.checkpoints.model_index import model_index
from harness.core.errors import BadInputError
from harness.core.files import atomic_folder, read_json, write_json
from harness.core.names import check_name
from harness.core.outgoing import without_folders
from harness.publishing.every_eval import Relationship, eval_record, place_of
from harness.records.score_files import ScoresRecord, read_scores
from harness.runs.folders import MANIFEST, Run

logger = logging.getLogger(__name__)

CARD = "README.md"
RECORDS = "every_eval_ever"
RESULTS = "results"
_SCORES = "scores*.json"
_ANSWERS = ("items*.jsonl", "responses*.jsonl")


@dataclass(frozen=True)
class Publication:
    """What the user asked for.

    Attributes:
        run: the run.
        output: the new folder.
        organisation: who ran the evaluation.
        relationship: of the evaluator to the model; None: first party for an aligned checkpoint, else third party.
        answers: also copy the answers and the items' scores, with which others can test differences.
    """

    run: Run
    output: Path
    organisation: str
    relationship: Relationship | None = None
    answers: bool = False


def publish(asked: Publication) -> list[Path]:
    """Write the folder; it appears when it is complete.

        README.md           a card whose metadata has the scores (`model-index`)
        every_eval_ever/    a record per score file, at its path in that repository
        results/RUN/        manifest and scores: `harness leaderboard FOLDER/results MINE` compares with them

    Returns:
        The files, relative to the folder.

    Raises:
        BadInputError: the run has no scores, the folder exists, or the organisation cannot be a part of a path.
    """
    run, output = asked.run, asked.output
    check_name(asked.organisation, "the organisation (--organisation)")
    if output.exists():
        raise BadInputError("the folder exists", where=str(output), remedy="give another one: --output FOLDER")
    scores = scores_of(run)
    relationship = asked.relationship or ("first_party" if run.aligned else "third_party")
    with atomic_folder(output) as made:
        (made / CARD).write_text(card_of(run) if run.aligned else results_card(run, scores), encoding="utf-8")
        for record in scores:
            entry = eval_record(run, record, asked.organisation, relationship)
            target = made / RECORDS / place_of(entry, record.suite)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_json(target, entry)
        patterns = (_SCORES, *(_ANSWERS if asked.answers else ()))
        copied = [run.path / MANIFEST, *(path for name in patterns for path in run.path.glob(f"evals/*/{name}"))]
        for path in copied:
            target = made / RESULTS / run.name / path.relative_to(run.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                write_json(target, without_folders(read_json(path, "file of the run")))
            else:
                shutil.copyfile(path, target)
    return sorted(path.relative_to(output) for path in output.rglob("*") if path.is_file())


def scores_of(run: Run) -> list[ScoresRecord]:
    """A run's score files, in the order of their names.

    Raises:
        BadInputError: there is none, or one cannot be read.
    """
    scores = [read_scores(path) for path in sorted(run.path.glob(f"evals/*/{_SCORES}"))]
    if not scores:
        raise BadInputError(
            f"the run '{run.name}' has no scores to publish",
            where=str(run.path),
            remedy=f"harness eval --run {run.name} --suite SUITE",
        )
    return scores


def results_card(run: Run, scores: Sequence[ScoresRecord]) -> str:
    """The card of a run without a checkpoint of its own: a base model's, an endpoint's or imported answers."""
    metadata = {"model-index": model_index(run.name, scores), "tags": ["vision-language", "evaluation"]}
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# Results of {run.base_label or run.name}",
        "",
        "Evaluated by vlm-align-harness. The weights are not a part of this folder.",
        "",
        "## Scores",
        "",
        *score_lines(scores),
    ]
    return "\n".join(lines) + "\n"
