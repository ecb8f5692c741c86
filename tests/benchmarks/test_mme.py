"""MME's folders, and what is wrong with some of them. The official figures: tests/conformance."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.mme import MME
from benchmarks.suffix import YesNoSettings
from harness.core.errors import BadInputError
from harness.core.stats import Counts
from harness.core.types import Response
from tests.commands import json_here, run_here

ASKED = "Is there a dog? Please answer yes or no."


def release(root: Path, *, nested: bool = False) -> Path:
    """Two images of a task, in either layout of the release."""
    folder = root / "existence"
    texts, pictures = (folder / "questions_answers_YN", folder / "images") if nested else (folder, folder)
    for place in (texts, pictures):
        place.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        (pictures / f"{name}.jpg").write_bytes(b"jpg")
        (texts / f"{name}.txt").write_text(f"{ASKED}\tYes\nIs there a cat? Please answer yes or no.\tNo\n")
    return root


@pytest.mark.parametrize("nested", [False, True])
def test_both_layouts_of_the_release(nested: bool, tmp_path: Path) -> None:
    items = MME().items(release(tmp_path / "MME_Benchmark_release_version", nested=nested).parent)
    assert [item.id for item in items] == [f"existence/{name}.jpg/{label}" for name in "ab" for label in ("yes", "no")]
    assert items[0].prompt == ASKED and items[0].group == items[1].group != items[2].group
    assert items == MME().items(tmp_path / "MME_Benchmark_release_version")


@pytest.mark.claims("mme.suffix")
def test_another_instruction_replaces_the_published_one(tmp_path: Path) -> None:
    release(tmp_path)
    suite = MME(YesNoSettings(suffix="\nAnswer the question using a single word or phrase."))
    assert suite.items(tmp_path)[0].prompt == "Is there a dog?\nAnswer the question using a single word or phrase."
    assert suite.variant and MME(YesNoSettings(suffix="")).items(tmp_path)[0].prompt == "Is there a dog?"


def test_both_answers_to_an_image(tmp_path: Path) -> None:
    suite = MME()
    items = suite.items(release(tmp_path))
    said = ("Yes", "The answer is no", "Yes", "None.")
    responses = {item.id: Response(item.id, text) for item, text in zip(items, said, strict=True)}
    totals = Counts.of(suite.score(items, responses)).totals()
    values = {name: float(value) for name, value in suite.aggregate(totals).items()}
    assert values["score.existence"] == 75 + 50 and values["accuracy"] == 0.75 and values["accuracy_plus"] == 0.5
    assert values["score.existence[tolerant]"] == 75 + 50  # "The answer is no" is read, "None." is not
    assert math.isnan(values["score.hallucination"]) and math.isnan(values["score.perception"])
    # An image of which one answer has no score is no pair; its other answer counts.
    totals = Counts.of(suite.score(items[:3], responses)).totals()
    assert (totals["existence.n"], totals["existence.pairs"], totals["existence.both"]) == (3, 1, 0)


def results(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "count.txt").write_text(text)
    return folder


def test_a_large_file_is_not_cut_between_the_questions_of_an_image(tmp_path: Path) -> None:
    """`harness score` scores in parts; 301 images have more questions than a part, and the labels are apart."""
    lines = [f"{n}.jpg\tQ?\t{label}\t{label}" for label in ("Yes", "No") for n in range(301)]
    record = json_here("score", "--suite", "mme", "--responses", str(results(tmp_path / "r", "\n".join(lines))))
    assert record["counts"]["count.pairs"] == 301 and record["metrics"]["score.count"]["value"] == 200


WRONG = {
    "a\tQ\tYes\tYes\nb\tQ\tNo\tNo\n": "has only a question with the answer yes",
    "a\tQ\tYes\tYes\na\tQ\tYes\tNo\n": "has two questions with the answer Yes",
    "a\tQ\tyes \tYes\n": "not Yes or No",
    "a\tQ\tYes\n": "3 cells",
    "a\tQ\tYes\tYes\tno\n": "5 cells",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_results_are_refused(text: str, tmp_path: Path) -> None:
    code, _, said = run_here(["score", "--suite", "mme", "--responses", str(results(tmp_path / "r", text))])
    assert code == 2 and WRONG[text] in said and "count.txt" in said, said


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    code, _, said = run_here(["score", "--suite", "mme", "--responses", str(tmp_path)])
    assert code == 2 and "existence.txt" in said
    with pytest.raises(BadInputError, match="harness data check mme"):
        MME().items(tmp_path)
    (release(tmp_path) / "existence" / "b.jpg").unlink()
    with pytest.raises(BadInputError, match="no image of their name"):
        MME().items(tmp_path)
