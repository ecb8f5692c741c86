"""Each option of `leaderboard`, `compare`, `report`, `plot` and `runs` does what it says: the commands with and without it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_here
from tests.harness.reports.test_report import COUNT, data_folder
from tests.harness.reports.test_report import make_run as shown_run
from tests.harness.runs.test_run_folders import complete, failed
from tests.scored_runs import make_run

CLEAN, INVENTED = "A dog.", "A dog and a cat."


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `there` of four scored runs, of two models, two of them seeds of one configuration."""
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "there"

    def write_run(name: str, wrong: int, seed: int | None = None, **about: Any) -> None:
        settings = {"train": {"seed": seed}, "method": {}}
        config = {"method": "dpo", "model": "m", "data": "d", "settings": settings} if seed is not None else None
        make_run(there, name, [INVENTED] * wrong + [CLEAN] * (40 - wrong), config=config, **about)

    write_run("start", 20, method="base")
    write_run("first", 2, 0, method="dpo")
    write_run("second", 30, 1, method="dpo")
    write_run("other", 38, method="mine", model="n")
    return tmp_path


def out(*arguments: str, code: int = 0) -> str:
    ended, printed, said = run_here(list(arguments))
    assert ended == code, said
    return printed if code == 0 else said


def boards(*more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(out("leaderboard", "--results", "there", "--json", *more))
    return found


def names(*more: str) -> list[list[str]]:
    return [[row["checkpoint"] for row in board["rows"]] for board in boards(*more)]


@pytest.mark.claims(
    "leaderboard --results", "leaderboard --json", "leaderboard --method", "leaderboard --model", "leaderboard --sort",
    "leaderboard --group-by", "leaderboard --pool",
)  # fmt: skip
def test_which_rows_a_leaderboard_has(here: Path) -> None:
    assert names() == [["start", "first", "second"], ["other"]]
    assert names("--method", "dpo") == [["first", "second"]]
    assert names("--model", "n") == [["other"]]
    assert names("--sort", "CHAIRs")[0] == ["first", "start", "second"]
    assert names("--group-by", "data") == [["start", "first", "second", "other"]]
    assert len(names("--pool", "seeds", "--model", "m")[0]) == 2
    assert "no folder 'results'" in out("leaderboard", code=2)


@pytest.mark.claims(
    "leaderboard --suite", "leaderboard --metric", "leaderboard --published", "leaderboard --rank-published"
)
def test_which_columns_and_figures_a_leaderboard_has(here: Path) -> None:
    assert "pope" in out("leaderboard", "--results", "there", "--suite", "pope", code=2)
    every = {name for row in boards()[0]["rows"] for name in row["metrics"]}
    one = {name for row in boards("--metric", "chair_s_refine")[0]["rows"] for name in row["metrics"]}
    assert one == {"halbench[spacy].chair_s_refine"} != every
    plain, published, ranked = (names(*more)[0] for more in ([], ["--published"], ["--rank-published"]))
    assert len(plain) == 3 < len(published) == len(ranked)

    def best(*more: str) -> set[str]:
        rows = boards(*more)[0]["rows"]
        cells = {row["checkpoint"]: row["metrics"].get("halbench[spacy].chair_i") for row in rows}
        return {name for name, cell in cells.items() if cell and cell["best"]}

    assert best("--published") == best() == {"first"}
    assert best("--rank-published") != {"first"}


@pytest.mark.claims(
    "leaderboard --markdown", "leaderboard --csv", "leaderboard --latex", "leaderboard --html", "leaderboard --delta"
)
def test_how_a_leaderboard_is_written(here: Path) -> None:
    begin = ["leaderboard", "--results", "there", "--model", "m"]
    markdown, latex = out(*begin, "--markdown"), out(*begin, "--latex")
    assert markdown.count("| ") > 10 and r"\toprule" in latex
    assert {row["checkpoint"] for row in csv.DictReader(io.StringIO(out(*begin, "--csv")))} == {
        "start",
        "first",
        "second",
    }
    assert "Δ" not in markdown and "Δ −45.0" in out(*begin, "--markdown", "--delta")
    out(*begin, "--html", "board.html")
    assert "<table" in (here / "board.html").read_text()


@pytest.mark.claims("leaderboard --tax")
def test_what_alignment_cost(here: Path) -> None:
    """One row per aligned checkpoint; recall, which measures how much is said, is elsewhere."""
    begin = ["leaderboard", "--results", "there", "--model", "m", "--tax"]
    found = json.loads(out(*begin, "--json"))
    [board] = found["boards"]
    assert [row["checkpoint"] for row in board["rows"]] == ["first", "second"]
    deltas = {row["checkpoint"]: row["metrics"] for row in boards("--model", "m")[0]["rows"]}
    for row in board["rows"]:
        for side, keys in (
            ("hallucination", {"halbench[spacy].chair_i"}),
            ("elsewhere", {"halbench[spacy].object_recall"}),
        ):
            assert keys <= row[side]["metrics"].keys(), side
        invented = row["hallucination"]["metrics"]["halbench[spacy].chair_i"]
        plain = deltas[row["checkpoint"]]["halbench[spacy].chair_i"]["difference_to_base"]
        assert (
            invented["gain"] == pytest.approx(-plain["value"])
            and invented["ci"][0] <= invented["gain"] <= invented["ci"][1]
        )
        assert row["hallucination"]["better"] + row["hallucination"]["worse"] <= len(row["hallucination"]["metrics"])
    table = out(*begin)
    assert "what alignment gained and cost" in table and "H CHAIRs" in table and "E recall" in table
    assert "--markdown has no effect" in out(*begin, "--markdown", code=2)
    assert "no aligned checkpoint" in out("leaderboard", "--results", "there", "--model", "n", "--tax", code=2)


@pytest.mark.claims("compare --results", "compare --suite", "compare --all", "compare --changes", "compare --json")
def test_compare(here: Path) -> None:
    begin = ["compare", "start", "first", "--results", "there"]
    plain, every = out(*begin), out(*begin, "--all")
    assert len(every.splitlines()) > len(plain.splitlines())
    assert out(*begin, "--changes", "0").count("cured: cat") == 0 < plain.count("cured: cat") == 3
    [pair] = json.loads(out(*begin, "--json", "--changes", "5"))["comparisons"][0]["pairings"]
    assert len(pair["changes"]) == 5
    assert "nothing to compare" in out(*begin, "--suite", "pope", code=2)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs with answers and pictures."""
    folder = tmp_path_factory.mktemp("shown")
    data = data_folder(folder / "data")
    shown_run(folder / "there", data, "base", dict.fromkeys(range(0, COUNT, 2), "A dog and a horse and a dog."), "base")
    shown_run(folder / "there", data, "aligned", {0: "A dog and a horse.", 1: "Nothing."})
    return folder


@pytest.mark.claims("report --output", "report --samples", "report --results", "report --json")
def test_report(shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begin = ["report", "--results", str(shown / "there"), "--json"]
    every = json.loads(out(*begin, "-o", "every.html"))
    few = json.loads(out(*begin, "--output", "few.html", "--samples", "5"))
    assert every["samples"] == every["of"] > few["samples"] >= 5 and few["of"] == every["of"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["every.html", "few.html"]


@pytest.mark.claims("plot --output", "plot --format", "plot --width", "plot --results", "plot --json")
def test_plot(shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begin = ["plot", "--results", str(shown / "there"), "--json", "--format", "svg"]
    for folder, more in (("narrow", []), ("wide", ["--width", "page"])):
        rows = json.loads(out(*begin, "-o", folder, *more))["plots"]
        files = [Path(file) for row in rows for file in row["files"]]
        assert files and {(file.suffix, file.parts[-2]) for file in files} == {(".svg", folder)}
    widths = [
        float(path.read_text().partition('width="')[2].partition("pt")[0])
        for path in (sorted(Path(folder).iterdir())[0] for folder in ("narrow", "wide"))
    ]
    assert widths[1] > 1.8 * widths[0]


@pytest.mark.claims("runs --prune", "runs --yes", "runs --results", "runs --json", "runs --restore")
def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.runs.claim import claimed

    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "there"
    failed(elsewhere / "two")
    with claimed(complete(elsewhere / "one"), resume=False, overwrite=True) as claim:
        claim.begin()
        complete(elsewhere / "new", "second")
        for path in list((elsewhere / "new").iterdir()):
            path.rename(elsewhere / "one" / path.name)
        (elsewhere / "new").rmdir()

    def states() -> list[str]:
        return [row["state"] for row in json.loads(out("runs", "--results", "there", "--json"))]

    assert states() == ["complete", "replaced", "failed"]
    out("runs", "--results", "there", "--restore", "one")
    assert (elsewhere / "one/checkpoint/weights").read_text() == "first"
    assert "--yes" in out("runs", "--results", "there", "--prune", code=2) and len(states()) == 3
    out("runs", "--results", "there", "--prune", "--yes")
    assert states() == ["complete"]
