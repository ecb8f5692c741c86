"""`harness eval` on an untrained model and the drawn world's files: nothing is asked twice, nothing is mixed up, nothing is lost."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness.worlds.pocket.formats import write_benchmarks
from tests import warm
from tests.tiny import tiny_llava

BACKEND = ["--backend", "transformers", "--set", "sampling.max_new_tokens=24"]
"""An untrained model does not know when to stop."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    tiny_llava(folder / "base")
    write_benchmarks(0, "validation", folder / "data")
    return folder


def harness(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = warm.run([*arguments], cwd=folder)
    assert done.returncode == code, done.stderr
    return done


def evaluate(folder: Path, *more: str) -> list[dict[str, Any]]:
    arguments = ["eval", "--model", "./base", "--data", "data", "--json", *BACKEND]
    records: list[dict[str, Any]] = json.loads(harness(folder, *arguments, *more).stdout)
    return records


def answers(folder: Path, suite: str) -> list[dict[str, Any]]:
    [path] = folder.glob(f"results/base-*/evals/{suite}@data/responses.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_answers_are_asked_once_and_scores_stand_on_them(folder: Path) -> None:
    command = ["eval", "--model", "./base", "--data", "data", "--suite", "pope", "--limit", "60", "--json", *BACKEND]
    done = harness(folder, *command)
    [record] = json.loads(done.stdout)
    assert record["n"] >= 60 and record["of"] > record["n"]
    assert "generating" in done.stderr
    first = answers(folder, "pope")
    assert "generating" not in harness(folder, *command).stderr
    assert answers(folder, "pope") == first
    [more] = evaluate(folder, "--suite", "pope", "--limit", "90")
    assert more["n"] > record["n"]
    assert answers(folder, "pope")[: len(first)] == first, "a larger sample holds the smaller one"


@pytest.mark.slow
def test_a_torn_last_line_is_asked_again(folder: Path) -> None:
    evaluate(folder, "--suite", "halbench", "--limit", "20")
    [path] = folder.glob("results/base-*/evals/halbench@data/responses.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    evaluate(folder, "--suite", "halbench", "--limit", "20")
    text = {row["item"]: row["text"] for row in map(json.loads, whole.splitlines())}
    assert {row["item"]: row["text"] for row in answers(folder, "halbench")} == text


@pytest.mark.slow
def test_a_killed_evaluation_keeps_what_was_answered(folder: Path) -> None:
    command = ["eval", "--model", "./base", "--data", "data", "--suite", "mmhal,amber",
               "--judge", "pocket-truth", "--limit", "150", *BACKEND]  # fmt: skip
    process = warm.start(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    before: list[str] = []
    while process.poll() is None and time.monotonic() < deadline and len(before) < 10:
        paths = list(folder.glob("results/base-*/evals/amber@data/responses.jsonl"))
        before = paths[0].read_text().splitlines()[:-1] if paths else []
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    done = warm.run([*command, "--json"], cwd=folder)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("results/base-*/evals/amber@data/responses.jsonl")
    after = path.read_text().splitlines()
    assert after[: len(before)] == before
    ids = [json.loads(line)["item"] for line in after]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_changed_weights_are_not_given_old_answers(folder: Path, tmp_path: Path) -> None:
    tiny_llava(tmp_path / "base", seed=0)
    write_benchmarks(0, "validation", tmp_path / "data")
    evaluate(tmp_path, "--suite", "pope", "--limit", "12")
    first = answers(tmp_path, "pope")
    tiny_llava(tmp_path / "base", seed=1)
    evaluate(tmp_path, "--suite", "pope", "--limit", "12")
    before, after = sorted(tmp_path.glob("results/base-*/evals/pope@data/responses.jsonl"))
    assert after.parents[2].name.startswith(f"{before.parents[2].name}-"), "other weights have a run of their own"
    assert [json.loads(line) for line in before.read_text().splitlines()] == first
    second = [json.loads(line) for line in after.read_text().splitlines()]
    assert {row["item"] for row in first} == {row["item"] for row in second}
    assert not {row["request"] for row in first} & {row["request"] for row in second}


@pytest.mark.slow
def test_answers_of_a_model_whose_settings_were_edited_are_refused(folder: Path, tmp_path: Path) -> None:
    command = [
        "eval",
        "--model",
        str(folder / "edited"),
        "--data",
        "data",
        "--suite",
        "pope",
        "--limit",
        "12",
        "--json",
    ]
    command += ["--results", str(tmp_path), *BACKEND]
    shutil.copytree(folder / "base", folder / "edited")
    [record] = json.loads(harness(folder, *command).stdout)
    assert "computed_with" not in record["serving"]
    file = folder / "edited" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "transformers_version": "9.9"}, indent=1))
    assert "generating" not in harness(folder, *command).stderr
    file.write_text(json.dumps({**config, "text_config": {**config["text_config"], "rms_norm_eps": 0.5}}))
    done = harness(folder, *command, code=2)
    assert "config.json of 'base-edited'" in done.stderr and "--overwrite" in done.stderr
    assert "generating" in harness(folder, *command, "--overwrite").stderr


@pytest.mark.slow
def test_the_leaderboard_shows_what_was_scored(folder: Path) -> None:
    evaluate(folder, "--suite", "halbench", "--limit", "20")
    markdown = harness(folder, "leaderboard", "--markdown").stdout
    assert "CHAIRs[spacy]" in markdown and "recall[spacy]" in markdown
    [board] = [one for one in json.loads(harness(folder, "leaderboard", "--json").stdout) if one["data"] == "data"]
    assert board["rows"]
    rows = list(csv.DictReader(io.StringIO(harness(folder, "leaderboard", "--csv").stdout)))
    chair = next(row for row in rows if row["metric"] == "chair_s" and row["data"] == "data")
    value = board["rows"][0]["metrics"]["halbench[spacy].chair_s"]["value"]
    assert float(chair["value"]) == value and float(chair["ci_low"]) <= value <= float(chair["ci_high"])


def test_folders_without_files_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = harness(
        folder, "eval", "--model", "./base", "--data", str(tmp_path / "empty"), "--suite", "pope", *BACKEND, code=2
    )
    assert "coco_pope_random.json" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_ask(folder: Path, tmp_path: Path) -> None:
    tiny_llava(tmp_path / "other", seed=3)
    picture = str(next((folder / "data" / "pope" / "images").iterdir()))
    question = ["Is there a dog in the image?", "--max-new-tokens", "6"]
    one = json.loads(harness(folder, "ask", "./base", picture, *question, "--json").stdout)
    both = harness(folder, "ask", "./base", picture, *question, "--compare", str(tmp_path / "other"), "--json").stdout
    assert json.loads(both)["./base"] == one["./base"] and len(json.loads(both)) == 2
    shown = harness(folder, "ask", "./base", picture, *question, "--compare", str(tmp_path / "other")).stdout
    assert "in brackets" in shown
    assert "this image does not exist" in harness(folder, "ask", "./base", "nothing.png", code=2).stderr
    (tmp_path / "text.png").write_text("no picture")
    assert "does not decode" in harness(folder, "ask", "./base", str(tmp_path / "text.png"), code=2).stderr


def test_suites_beyond_hallucination(folder: Path) -> None:
    """Multiple choice from a table that contains its pictures, and pairs of questions: asked, scored, and scored again from the answers."""
    names = ("mmstar", "mme", "hallusionbench", "llava-bench", "mm-vet")
    records = evaluate(folder, "--suite", ",".join(names), "--limit", "24", "--judge", "pocket-truth")
    by_suite = {record["suite"]: record for record in records}
    assert set(by_suite) == set(names)
    for name in names:
        record, said = by_suite[name], answers(folder, name)
        assert record["n"] >= 24 and record["n"] == len({row["item"] for row in said}) and record["unscored"] == 0
        assert all(row["text"] for row in said), "every item was asked"
    assert by_suite["mme"]["counts"]["existence.pairs"] * 2 == by_suite["mme"]["counts"]["existence.n"]
    assert by_suite["mmstar"]["metrics"]["accuracy"]["value"] is not None
    hallusion = by_suite["hallusionbench"]["counts"]
    assert hallusion["q.n"] > 0 and hallusion["rows"] > hallusion["rows.images"], "some were asked without a picture"
    table = harness(folder, "leaderboard", "--markdown").stdout
    assert "MMStar" in table and "MME hallucination" in table
    page = folder / "report.html"
    harness(folder, "report", "-o", str(page))
    assert "Options: A:" in page.read_text()
