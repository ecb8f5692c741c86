"""`harness score` and `calibrate`: answers and ratings that came from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import (
    Extractor,
    Json,
    JudgeModel,
    JudgeName,
    JudgePrice,
    JudgeUrl,
    JudgeVotes,
    MaxCost,
    MaxUnscored,
    Settings,
    app,
    emit,
    judge_settings,
)

if TYPE_CHECKING:
    from harness.judging.base import Judge


@app.command()
def score(
    suite: Annotated[str, typer.Option("--suite", help="halbench, amber, pope or mmhal.")],
    responses: Annotated[
        Path | None, typer.Option("--responses", help="The responses: JSON lines (AMBER: also a JSON list).")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="halbench: COCO folder or JSON lines; amber: annotations.json.")
    ] = None,
    synonyms: Annotated[
        Path | None, typer.Option("--synonyms", help="halbench: the vocabulary file. Default: our own table.")
    ] = None,
    questions: Annotated[Path | None, typer.Option("--questions", help="pope: one split's questions.")] = None,
    relations: Annotated[Path | None, typer.Option("--relations", help="amber: relation.json.")] = None,
    safe_words: Annotated[Path | None, typer.Option("--safe-words", help="amber: safe_words.txt.")] = None,
    reviews: Annotated[
        Path | None, typer.Option("--reviews", help="mmhal: the judge's replies, JSON lines {index, review}.")
    ] = None,
    extractor: Extractor = None,
    matched_words: Annotated[
        int | None,
        typer.Option(
            "--matched-words", min=1, help="halbench: CHAIR of the first so many words, beside the plain one."
        ),
    ] = None,
    similarity: Annotated[
        str | None, typer.Option("--similarity", help="amber: lemma, exact, table:FILE or spacy[:PIPELINE].")
    ] = None,
    items_file: Annotated[
        Path | None, typer.Option("--items", help="Write one JSON line an item: mentions, verdicts, counts.")
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score the items that have responses.")
    ] = False,
    settings: Settings = None,
    max_unscored: MaxUnscored = 0.01,
    as_json: Json = False,
) -> None:
    """Score responses that came from anywhere."""
    from harness.core import registry
    from harness.core.config import parse
    from harness.evaluation.offline import Offered, refuse_unused, score_offline
    from harness.evaluation.score import make_judge

    named = _judge_group(settings)
    kind = registry.load("benchmarks", suite)
    options = {
        "extractor": extractor,
        "similarity": similarity,
        "synonyms": synonyms,
        "matched_words": matched_words,
    }
    given = {name: value for name, value in options.items() if value is not None}
    refuse_unused(suite, set(given) - set(kind.Settings.model_fields))
    benchmark = kind(parse(kind.Settings, given, f"suite {suite}"))
    files = {
        "responses": responses,
        "annotations": annotations,
        "questions": questions,
        "relations": relations,
        "safe_words": safe_words,
        "reviews": reviews,
    }
    offered = Offered({name: path for name, path in files.items() if path is not None})
    items, answers = benchmark.read_offline(offered)
    refuse_unused(suite, offered.unused)
    named |= judge_settings(judge_model, judge_url, None, judge_price, max_cost)

    def judge_of() -> Judge:
        return make_judge(judge or "openai", named)

    asked = {"judge": judge, "judge_model": judge_model, "judge_url": judge_url, "judge_price": judge_price}
    wanted = {name for name, value in (asked | {"max_cost": max_cost, "set": settings}).items() if value is not None}
    record = score_offline(
        benchmark,
        items,
        answers,
        judge_of=judge_of,
        judge_options=wanted,
        allow_partial=allow_partial,
        max_unscored=max_unscored,
        items_file=items_file,
    )
    if as_json:
        emit(record)
        return
    from harness.cli.tables import print_record

    print_record(record)


@app.command()
def calibrate(
    reference: Annotated[
        Path,
        typer.Option(
            "--reference", help="Rated answers: an item file of evals/mmhal@.../, or JSON lines {prompt, rating}."
        ),
    ],
    suite: Annotated[str, typer.Option("--suite", help="The suite whose ratings they are.")] = "mmhal",
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = 2,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """How far a judge agrees with a reference rater (another judge, or people), and with itself."""
    from harness.core import registry
    from harness.core.errors import BadInputError
    from harness.evaluation.score import make_judge
    from harness.judging.calibration import calibrate as compare

    benchmark = registry.load("benchmarks", suite)()
    named = _judge_group(settings) | judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    if benchmark.hallucinated_below is None:
        raise BadInputError(
            f"no judge rates the answers of the suite '{suite}'", remedy="name a suite whose answers a judge rates"
        )
    found = compare(make_judge(judge or "openai", named), reference, benchmark.read_reply, benchmark.hallucinated_below)
    if as_json:
        emit(found)
        return
    from harness.cli.tables import print_calibration

    print_calibration(found)


def _judge_group(settings: list[str] | None) -> dict[str, Any]:
    """The judge's settings of `--set`.

    Raises:
        BadInputError: it names another group.
    """
    from harness.core.config import overrides
    from harness.core.errors import BadInputError

    groups = overrides(settings or [])
    others, named = sorted(set(groups) - {"judge"}), groups.get("judge", {})
    if others or not isinstance(named, dict):
        raise BadInputError(
            f"--set takes the judge's settings here, not '{(others or ['judge'])[0]}'", remedy="--set judge.KEY=VALUE"
        )
    return dict(named)
