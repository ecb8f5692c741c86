"""The command line as a person types it: names, errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import warm


def harness(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1"}
    return warm.run([*arguments], cwd=cwd, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["align", "--method", "mfop", "--model", "pocket"], "mfpo"),
        (["align", "--method", "dpo", "--model", "llava-v1.6-7"], "llava-v1.6-7b"),
        (["align", "--method", "dpo", "--model", "./nowhere"], "no checkpoint folder"),
        (
            ["align", "--method", "dpo", "--model", "pocket", "--set", "train.learning_rat=1"],
            "unknown setting 'learning_rat'",
        ),
        (["align", "--method", "dpo", "--model", "pocket", "--set", "method.beta=-1"], "beta"),
        (["align", "--method", "dpo", "--model", "pocket", "--limit", "0"], "at least 1"),
        (["align", "--method", "dpo", "--model", "pocket", "--recipe", "none.yaml"], "recipe does not exist"),
        (["eval", "--suite", "halbnch"], "halbench"),
        (["eval", "--suite", "halbench"], "no aligned run"),
        (["eval", "--suite", "halbench", "--run", "nope"], "no run 'nope'"),
        (["eval", "--suite", "halbench", "--model", "pocket", "--backend", "vlm"], "vllm"),
        (["score", "--suite", "pope"], "--questions"),
        (
            ["score", "--suite", "halbench", "--extractor", "nlkt", "--annotations", ".", "--responses", "x"],
            "did you mean nltk",
        ),
        (["leaderboard"], "nothing was scored"),
        (["quickstart", "--seeds", "a"], "comma-separated integers"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = harness(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "error:" in done.stderr and said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = harness("leaderboard", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_list_says_where_each_comes_from(tmp_path: Path) -> None:
    rows = json.loads(harness("list", "--json", cwd=tmp_path).stdout)
    names = {(row["kind"], row["name"]) for row in rows}
    assert {
        ("methods", "dpo"),
        ("methods", "rlhfv"),
        ("methods", "mfpo"),
        ("benchmarks", "halbench"),
        ("benchmarks", "amber"),
        ("benchmarks", "pope"),
        ("benchmarks", "mmhal"),
        ("backends", "vllm"),
        ("backends", "transformers"),
        ("models", "llava-v1.6-7b"),
        ("models", "pocket"),
    } <= names
    assert all(row["from"].startswith("vlm-align-harness") for row in rows)
    only = json.loads(harness("list", "methods", "--json", cwd=tmp_path).stdout)
    assert {row["kind"] for row in only} == {"methods"}


def test_a_checkpoint_that_is_none_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    done = harness("eval", "--suite", "halbench", "--model", "./model", cwd=tmp_path)
    assert done.returncode == 2
    assert "neither config.json nor adapter_config.json" in done.stderr


def test_score_prints_the_agreed_json(tmp_path: Path) -> None:
    questions = [
        {"question_id": n, "image": "a.jpg", "text": "Is there a dog in the image?", "label": label}
        for n, label in enumerate(["yes", "no", "yes", "no"])
    ]
    answers = [{"question_id": n, "answer": said} for n, said in enumerate(["Yes.", "No.", "no", "maybe"])]
    for name, rows in (("coco_pope_random.json", questions), ("answers.jsonl", answers)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = harness(
        "score",
        "--suite",
        "pope",
        "--questions",
        "coco_pope_random.json",
        "--responses",
        "answers.jsonl",
        "--json",
        "--items",
        "items.jsonl",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert {"suite", "n", "unscored", "metrics"} <= record.keys()
    accuracy = record["metrics"]["accuracy"]
    assert (accuracy["value"], accuracy["official"], accuracy["higher_is_better"]) == (0.5, "0.5", True)
    assert record["metrics"]["unreadable"]["value"] == 0.25
    assert len((tmp_path / "items.jsonl").read_text().splitlines()) == 4
    (tmp_path / "answers.jsonl").write_text(json.dumps(answers[0]) + "\n")
    partial = ["score", "--suite", "pope", "--questions", "coco_pope_random.json", "--responses", "answers.jsonl"]
    refused = harness(*partial, cwd=tmp_path)
    assert refused.returncode == 2 and "3 of 4 items have no response" in refused.stderr
    allowed = json.loads(harness(*partial, "--allow-partial", "--json", cwd=tmp_path).stdout)
    assert (allowed["n"], allowed["of"]) == (1, 4)
