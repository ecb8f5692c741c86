"""MMStar's files, and what is wrong with some of them. The official figures: tests/conformance."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.mmstar import MMStar
from benchmarks.suffix import SuffixSettings
from harness.core.errors import BadInputError
from harness.core.stats import Counts
from harness.core.types import Response
from tests.benchmarks.scoring import jsonl
from tests.commands import run_here
from tests.tiny import tiny_photograph


def row(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "index": index,
        "question": "What color is it?\nOptions: A: red, B: blue",
        "answer": "B",
        "category": "math",
        "l2_category": "geometry",
    } | changes


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    tiny_photograph(tmp_path / "a.png", 0)
    return (tmp_path / "a.png").read_bytes()


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "mmstar.parquet")
    return folder


def test_parquet_and_tab_separated_text_give_the_same_items(tmp_path: Path, picture: bytes) -> None:
    folder = table(tmp_path / "one", [row(n, image={"bytes": picture, "path": None}) for n in range(2)])
    items = MMStar().items(folder)
    assert [item.id for item in items] == ["0", "1"] and items[0].group == items[1].group, "one picture, one cluster"
    assert items[0].prompt.endswith("B: blue\nAnswer the question directly.") and items[0].image.data == picture
    assert items[0].reference["options"] == {"A": "red", "B": "blue"}
    other = tmp_path / "other"
    other.mkdir()
    cells = [row(n, image=base64.b64encode(picture).decode()) for n in range(2)]
    quoted = "\n".join("\t".join(f'"{value}"' for value in one.values()) for one in cells)
    (other / "MMStar.tsv").write_text("\t".join(cells[0]) + "\n" + quoted + "\n")
    found = MMStar().items(other)
    assert [(one.id, one.prompt, one.group, one.reference) for one in found] == [
        (one.id, one.prompt, one.group, one.reference) for one in items
    ]
    raw = table(tmp_path / "raw", [row(0, image=picture)])
    assert MMStar().items(raw)[0].image.data == picture


@pytest.mark.claims("mmstar.suffix")
def test_another_instruction_is_another_variant(tmp_path: Path, picture: bytes) -> None:
    folder = table(tmp_path / "one", [row(0, image={"bytes": picture, "path": None})])

    def asked(suffix: str | None) -> tuple[str, str]:
        suite = MMStar(SuffixSettings(suffix=suffix))
        return suite.items(folder)[0].prompt.partition("blue")[2], suite.variant

    assert asked(None) == ("\nAnswer the question directly.", "")
    assert asked("Letter only.") == asked(" Letter only.") == (" Letter only.", 'suffix "Letter only."')
    assert asked("") == ("", "no suffix")
    text, variant = asked("\nLetter only.")
    assert text == "\nLetter only." and variant.startswith('suffix "Letter only." ') and len(variant.split()[-1]) == 6


def test_answers_and_verdicts(tmp_path: Path, picture: bytes) -> None:
    suite = MMStar()
    items = suite.items(table(tmp_path / "one", [row(n, image={"bytes": picture, "path": None}) for n in range(4)]))
    said = ("B", "Answer: B", "A", "It depends.")
    scores = suite.score(items, {item.id: Response(item.id, text) for item, text in zip(items, said, strict=True)})
    values = suite.aggregate(Counts.of(scores).totals())
    assert float(values["accuracy"]) == 0.25 and float(values["accuracy[tolerant]"]) == 0.5
    assert float(values["accuracy.math/geometry"]) == 0.25 and float(values["unreadable"]) == 0.25
    rows = [{"details": one.details, "unscored": one.unscored, "evidence": []} for one in scores]
    assert [suite.verdict(one) for one in rows] == [
        "correct", "wrong: other option", "wrong: other option", "wrong: unreadable",
    ]  # fmt: skip


def test_the_official_table_of_results_alone(tmp_path: Path) -> None:
    """Saved as CSV it has the keys beside the predictions."""
    header = "index,question,answer,category,l2_category,prediction\n"
    (tmp_path / "r.csv").write_text(
        header + '0,"What?\nOptions: A: x, B: y",B,math,geometry,B\n1,Q,A,math,geometry,"B, or\nA"\n'
    )
    suite = MMStar()
    items, responses = suite.read_offline({"responses": tmp_path / "r.csv"})
    assert [responses[item.id].text for item in items] == ["B", "B, or\nA"] and not suite.notes
    code, _, said = run_here(["score", "--suite", "mmstar", "--responses", str(tmp_path / "r.csv")])
    assert code == 0, said


WRONG = {
    "two rows": ([row(1), row(1)], "the index 1 appears twice"),
    "letter": ([row(1, answer="E")], "'answer' is 'E', not one of A, B, C, D"),
    "category": ([row(1, category="cooking")], "'category' is 'cooking'"),
    "part": ([row(1, l2_category="recognition")], "'l2_category' is 'recognition'"),
    "no index": ([{key: value for key, value in row(1).items() if key != "index"}], "no 'index'"),
    "nothing": ([], "has no question"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_questions_are_refused(case: str, tmp_path: Path) -> None:
    rows, message = WRONG[case]
    questions = jsonl(tmp_path / "q.jsonl", rows)
    responses = jsonl(tmp_path / "r.jsonl", [{"index": 1, "prediction": "B"}])
    command = ["score", "--suite", "mmstar", "--questions", str(questions), "--responses", str(responses)]
    code, _, said = run_here(command)
    assert code == 2 and message in said and "q.jsonl" in said, said


def test_wrong_responses_are_refused(tmp_path: Path) -> None:
    questions = jsonl(tmp_path / "q.jsonl", [row(1), row(2)])

    def said(rows: list[dict[str, Any]], *more: str) -> str:
        responses = jsonl(tmp_path / "r.jsonl", rows)
        code, _, said = run_here(["score", "--suite", "mmstar", "--responses", str(responses), *more])
        assert code == 2
        return said

    asked = ("--questions", str(questions))
    assert "answered twice" in said([{"index": 1, "prediction": "B"}] * 2, *asked)
    assert "1 of 2 items have no response" in said([{"index": 1, "prediction": "B"}], *asked)
    assert "no 'prediction'" in said([{"index": 1, "said": "B"}], *asked)
    assert "--questions mmstar.parquet" in said([{"index": 1, "prediction": "B"}])


def test_damaged_files_are_refused(tmp_path: Path, picture: bytes) -> None:
    with pytest.raises(BadInputError, match="harness data get mmstar"):
        MMStar().items(tmp_path)
    with pytest.raises(BadInputError, match="no picture"):
        MMStar().items(table(tmp_path / "none", [row(0)]))
    with pytest.raises(BadInputError, match="not base64"):
        MMStar().items(table(tmp_path / "text", [row(0, image="§§")]))
    (tmp_path / "mmstar.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadInputError, match="not a readable Parquet file"):
        MMStar().items(tmp_path)
    whole = (table(tmp_path / "cut", [row(0, image=picture)]) / "mmstar.parquet").read_bytes()
    (tmp_path / "mmstar.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match="not a readable Parquet file"):
        MMStar().items(tmp_path)
    for name, text, message in (
        ("r.csv", "index,prediction\n1,A,B\n", "3 cells"),
        ("r.csv", "", "empty"),
        ("r.csv", "index,index\n", "two columns 'index'"),
        ("r.csv", 'index,prediction\n1,"A\n', "cannot be read as a table"),
        ("r.xlsx", "PK", "save it as CSV"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadInputError, match=message):
            MMStar().read_offline({"responses": tmp_path / name})


def test_items_of_a_file_are_json(tmp_path: Path, picture: bytes) -> None:
    [item] = MMStar().items(table(tmp_path / "one", [row(0, image=picture)]))
    json.dumps(item.reference)
