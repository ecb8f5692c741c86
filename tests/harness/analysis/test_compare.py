"""`harness compare` on runs whose differences are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.halbench import ObjectHalBench
from harness.analysis.compare import compare
from harness.analysis.frames import load_runs
from harness.analysis.leaderboard import as_latex, collect
from harness.core.errors import BadInputError
from harness.core.files import write_json, write_jsonl
from harness.records.matched import Matched, MatchedRates, cut
from harness.records.sums import read_sums
from harness.reports.gather import gather
from harness.runs.folders import Run, distinct, open_run, survey
from tests.scored_runs import make_run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    half = ["A dog.", "A dog and a cat."]
    make_run(tmp_path, "honest", ["A dog."] * 40)
    make_run(tmp_path, "inventive", half * 20)
    make_run(tmp_path, "wordy", ["A dog and a horse, and much more than that."] * 40)
    return tmp_path


def test_differences_and_changes(results: Path) -> None:
    [one], reasons = compare([open_run(results / name) for name in ("inventive", "honest", "wordy")])
    assert one.n == 40 and not reasons and not any(one.left_out.values())
    honest, wordy = one.pairings
    assert honest.differences["chair_s"].value == -0.5 and wordy.differences["chair_s"].value == 0.5
    low, high = honest.differences["chair_s"].ci
    assert low < -0.5 < high < 0 and honest.corrected["chair_s"] >= honest.differences["chair_s"].p
    assert honest.differences["object_recall"].value == 0 and honest.differences["object_recall"].p == 1
    # A binary difference of 0.5 on 40 pictures has a standard error of 0.079; 2.8 of them are found with 80 %.
    assert honest.differences["chair_s"].detectable == pytest.approx(2.8016 * 0.0791, rel=0.05)
    assert len(honest.changes) == 20 and {change.cured for change in honest.changes} == {("cat",)}
    assert len(wordy.changes) == 40 and wordy.changes[0].new == ("horse",) and wordy.changes[0].cured == ("cat",)


def test_only_what_matches_is_compared(results: Path) -> None:
    make_run(results, "short", ["A dog."] * 30)
    [one], _ = compare([open_run(results / "inventive"), open_run(results / "short")])
    assert one.n == 30 and one.left_out == {"inventive": 10, "short": 0}
    make_run(results, "elsewhere", ["A dog."], data="other")
    with pytest.raises(BadInputError, match="not scored for"):
        compare([open_run(results / "inventive"), open_run(results / "elsewhere")])
    with pytest.raises(BadInputError, match="two runs"):
        compare([open_run(results / "inventive")])
    with pytest.raises(BadInputError, match="appears twice"):
        compare([open_run(results / "honest")] * 2)
    path = results / "short" / "evals" / "halbench@pictures" / "scores-spacy.json"
    record = json.loads(path.read_text())
    write_json(path, record | {"settings": {"extractor": "spacy", "matched_words": 3}})
    with pytest.raises(BadInputError, match="different settings"):
        compare([open_run(results / "inventive"), open_run(results / "short")])


def test_runs_of_one_name_from_several_folders_are_told_apart(tmp_path: Path) -> None:
    """The parents of both are called `results`, as where a published folder is put beside the reader's own."""
    make_run(tmp_path / "published" / "results", "dpo", ["A dog."] * 40)
    make_run(tmp_path / "ours" / "results", "dpo", ["A dog and a cat."] * 40)
    make_run(tmp_path / "ours" / "results", "mfpo", ["A dog."] * 40)
    published, ours = (tmp_path / place / "results" for place in ("published", "ours"))
    runs, _ = survey([published, ours])
    [board] = collect(runs)
    assert {row.name for row in board.rows} == {"published/results/dpo", "ours/results/dpo", "mfpo"}
    [suite], _ = gather(runs, look_up=False)
    assert {name: rows["0#0"].text for name, rows in suite.rows.items()} == {
        "published/results/dpo": "A dog.",
        "ours/results/dpo": "A dog and a cat.",
        "mfpo": "A dog.",
    }
    frames = load_runs([published / "dpo", ours / "dpo"])
    assert set(frames.items["run"]) == set(frames.metrics["run"]) == {"published/results/dpo", "ours/results/dpo"}
    [comparison], _ = compare([open_run(published / "dpo"), open_run(ours / "dpo")])
    [pair] = comparison.pairings
    assert pair.other == "ours/results/dpo" and pair.differences["chair_s"].value == 1.0
    assert comparison.values["published/results/dpo"]["chair_s"] == 0.0
    for again in (ours / "dpo", ours / ".." / "results" / "dpo"):
        with pytest.raises(BadInputError, match="appears twice"):
            compare([open_run(ours / "dpo"), open_run(again)])


def test_names_get_no_longer_than_it_takes(tmp_path: Path) -> None:
    places = [
        "a/results/dpo",
        "b/results/dpo",
        "a/results/base",
        "c/base",
        "e/dpo",
        "c/dpo/stages/1-easy",
        "d/dpo-1-easy",
    ]
    runs = [Run(tmp_path / place, None) for place in places]
    assert [run.name for run in distinct(runs[:4])] == ["a/results/dpo", "b/results/dpo", "results/base", "c/base"]
    assert [run.name for run in distinct(runs[1:4])] == ["dpo", "results/base", "c/base"]
    assert [run.name for run in distinct(runs[5:])] == ["c/dpo-1-easy", "d/dpo-1-easy"]
    beside = Run(tmp_path / "c" / "dpo-1-easy", None)
    assert [run.name for run in distinct([runs[5], beside])] == [str(runs[5].path), str(beside.path)]
    assert [run.name for run in distinct([*runs[:2], runs[0]])] == ["a/results/dpo", "b/results/dpo"]
    assert [run.name for run in distinct(distinct(runs[:2])[:1])] == ["a/results/dpo"], "a label stays with its run"


@pytest.mark.slow
def test_odd_sets_have_defined_values_or_none(tmp_path: Path) -> None:
    make_run(tmp_path, "one", ["A dog and a cat."], data="single")
    make_run(tmp_path, "two", ["A dog."], data="single")
    make_run(tmp_path, "right", ["A dog."] * 20)
    make_run(tmp_path, "silent", ["Nothing to see here."] * 20)
    [single], _ = compare([open_run(tmp_path / name) for name in ("one", "two")])
    assert (
        single.pairings[0].differences == {} and single.values["one"]["chair_s"] == 1.0 and single.pairings[0].changes
    )
    [pair], _ = compare([open_run(tmp_path / name) for name in ("right", "silent")])
    assert pair.values["silent"]["chair_i"] is None and "chair_i" not in pair.pairings[0].differences
    assert pair.pairings[0].differences["object_recall"].value == -1.0
    for names, said in (
        (("one", "two"), "no test is possible"),
        (("right", "silent"), "undefined for one of the runs: CHAIRi"),
    ):
        command = [sys.executable, "-m", "harness", "compare", *names, "--results", str(tmp_path)]
        table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said in " ".join(table.split())
        text = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
        assert "NaN" not in text and json.loads(text)


def test_what_is_incomplete_is_said(results: Path) -> None:
    path = results / "wordy" / "evals" / "halbench@pictures"
    (path / "scores-spacy.json").write_text("{}")
    (results / "honest" / "evals" / "pope@x").mkdir()
    (results / "honest" / "evals" / "pope@x" / "scores.json").write_text("{")
    found, reasons = compare([open_run(results / name) for name in ("inventive", "honest")])
    assert len(found) == 1 and [
        "honest: evals/pope@x/scores.json: the scores is not valid JSON" in one for one in reasons
    ] == [True]
    with pytest.raises(BadInputError, match="from another version: it has no data, "):
        compare([open_run(results / name) for name in ("inventive", "wordy")])
    (results / "honest" / "evals" / "halbench@pictures" / "items-spacy.jsonl").unlink()
    with pytest.raises(BadInputError, match=r"items-spacy.jsonl is missing"):
        compare([open_run(results / name) for name in ("inventive", "honest")])


def test_the_command(results: Path) -> None:
    command = [sys.executable, "-m", "harness", "compare", "inventive", "honest", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "160", "PATH": ""})
    assert "▲ better" in done.stdout and "cured: cat" in done.stdout and "20 of 40 items changed" in done.stdout
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    [pair] = found["comparisons"][0]["pairings"]
    assert pair["differences"]["chair_s"]["value"] == -0.5 and pair["changed"] == 20 and len(pair["changes"]) == 3


def test_matched_length(results: Path) -> None:
    paths = {
        name: results / name / "evals" / "halbench@pictures" / "items-spacy.jsonl"
        for name in ("honest", "inventive", "wordy")
    }
    rows = {name: read_sums(path).described() for name, path in paths.items()}
    form = ObjectHalBench.matched
    assert form is not None

    def rate(found: Matched | None, name: str, metric: str = "chair_s_matched") -> float:
        assert found is not None
        return float(MatchedRates(form).aggregate(found.counts[name].counts.totals())[metric])

    # Cut to two words, nobody invents anything; the wordy run against the inventive one alone is cut to two or five.
    assert {rate(cut(rows), name) for name in rows} == {0.0}
    pair = cut({name: rows[name] for name in ("inventive", "wordy")})
    assert rate(pair, "inventive") == rate(pair, "wordy") == 0.5
    assert pair is not None and rate(pair, "wordy", "chair_i_matched") == 20 / 60 and pair.words == 3.5
    assert cut({"one": rows["honest"]}) is None
    [board] = collect(results)
    titles = [column.title for column in board.columns]
    assert titles[:2] == ["CHAIRs", "CHAIRs matched"]
    assert "cut to the length, in words, of the shortest" in str(board.caption)
    write_jsonl(paths["honest"], [])
    [board] = collect(results)
    assert "CHAIRs matched" not in [column.title for column in board.columns]


def test_frames(results: Path) -> None:
    from harness import load_runs

    frames = load_runs(results=results)
    rates = frames.metrics.query("metric == 'chair_s'").set_index("run")["value"]
    assert rates.to_dict() == {"honest": 0.0, "inventive": 0.5, "wordy": 1.0}
    assert len(frames.items) == 120 and frames.items.groupby("run")["mentions"].sum()["inventive"] == 60
    wrong = frames.evidence.query("verdict == 'hallucinated' and run == 'inventive'")
    assert set(wrong["label"]) == {"cat"} and len(wrong) == 20
    first = wrong.iloc[0]
    text = frames.items.query("run == 'inventive'").set_index("item").loc[first["item"], "text"]
    assert text[int(first["start"]) : int(first["end"])] == "cat"
    assert set(load_runs(["honest"], results).metrics["run"]) == {"honest"}
    with pytest.raises(BadInputError, match="no run 'hones'"):
        load_runs(["hones"], results)


def test_frames_without_a_row_have_their_columns(tmp_path: Path) -> None:
    """So that the queries of docs/analysis.md find nothing, and do not fail."""
    folder = make_run(tmp_path, "silent", ["Nothing to see."] * 4)
    [path] = folder.glob("evals/*/items*.jsonl")
    write_jsonl(path, [json.loads(line) | {"evidence": []} for line in path.read_text().splitlines()])
    frames = load_runs(results=tmp_path)
    wrong = frames.evidence.query("verdict == 'hallucinated'")
    assert wrong.empty and wrong.groupby(["run", "label"]).size().unstack(0).empty
    full = make_run(tmp_path / "full", "one", ["A cat."] * 4)
    assert list(load_runs(results=full.parent).evidence) == list(frames.evidence)
    path.write_text("")
    assert load_runs(results=tmp_path).items.query("run == 'silent'").empty


def test_latex(results: Path) -> None:
    text = as_latex(collect(results))
    assert (
        r"CHAIRs $\downarrow$" in text and "halbench [spacy]" in text and r"\textbf{0.0}" in text and "95 \\%" in text
    )
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    columns = text.split(r"\toprule")[1].split(r"\\")[0].count("&")
    assert all(line.count("&") == columns for line in body.strip().splitlines())
    assert text.count("{") == text.count("}")
