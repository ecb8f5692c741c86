"""An outside package with one aligner and one benchmark is installed and both are run, on the built-ins' own road."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the plugin is installed (into a folder of its own, from its built wheel)."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--disable-pip-version-check",
            "--target",
            str(site),
            str(PLUGIN),
        ],
        check=True,
    )
    return {
        **os.environ,
        "PYTHONPATH": str(site),
        "HARNESS_CACHE": str(tmp_path_factory.mktemp("cache")),
        "COLUMNS": "200",
    }


def harness(arguments: list[str], environment: dict[str, str], cwd: Path) -> str:
    """Standard output of a `harness` command that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments], capture_output=True, text=True, env=environment, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_with_its_origin(environment: dict[str, str], tmp_path: Path) -> None:
    listing = json.loads(harness(["list", "--json"], environment, tmp_path))
    rows = {(row["kind"], row["name"]): row for row in listing}
    assert rows["methods", "ipo"]["from"] == "harness-ipo 0.3.0"
    assert rows["benchmarks", "exact"]["from"] == "harness-ipo 0.3.0"


@pytest.mark.slow
def test_both_run(environment: dict[str, str], tmp_path: Path) -> None:
    from tests.tiny import tiny_llava, tiny_photograph

    model = tiny_llava(tmp_path / "model")
    data = tmp_path / "exact"
    data.mkdir()
    tiny_photograph(data / "a.png", seed=1)
    tiny_photograph(data / "b.png", seed=2)
    pair = {"image": "a.png", "prompt": "what is this", "chosen": "a red cat", "rejected": "a blue dog"}
    (tmp_path / "exact" / "pairs.jsonl").write_text("".join(json.dumps(pair | {"id": str(i)}) + "\n" for i in range(4)))
    question = {"id": "1", "image": "a.png", "question": "what is this", "answer": "a red cat"}
    other = question | {"id": "2", "image": "b.png"}
    (data / "questions.jsonl").write_text(json.dumps(question) + "\n" + json.dumps(other) + "\n")

    harness(
        [
            "align",
            "--method",
            "ipo",
            "--model",
            str(model),
            "--data",
            str(data / "pairs.jsonl"),
            "--name",
            "mine",
            "--set",
            "train.batch_size=2",
            "--set",
            "train.learning_rate=1e-3",
        ],
        environment,
        tmp_path,
    )
    manifest = json.loads((tmp_path / "results" / "mine" / "manifest.json").read_text())
    assert manifest["config"]["method"] == "ipo"
    log = [json.loads(line) for line in (tmp_path / "results" / "mine" / "train_log.jsonl").read_text().splitlines()]
    # Before the first step policy and reference agree, so the gap is 0 and the loss is (1 / (2 * 0.1))^2.
    assert log[0]["gap"] == pytest.approx(0.0, abs=1e-4)
    assert log[0]["loss"] == pytest.approx(25.0, rel=1e-4)

    command = ["eval", "--suite", "exact", "--data", str(tmp_path), "--backend", "transformers", "--json"]
    scores = json.loads(harness([*command, "--noise", "999,blank,shuffled"], environment, tmp_path))
    score, *changed = [row for row in scores if row["target"] == "mine"]
    assert score["n"] == 2
    assert score["metrics"]["accuracy"]["value"] in (0.0, 0.5, 1.0)
    assert [row["pictures"]["kind"] for row in changed] == ["noise", "blank", "shuffled"]
    for row in changed:
        accuracy = row["reliance"]["metrics"]["accuracy"]
        assert (
            accuracy["clean"] == score["metrics"]["accuracy"]["value"]
            and accuracy["changed"] == row["metrics"]["accuracy"]["value"]
        )
        assert accuracy["gap"]["value"] == accuracy["changed"] - accuracy["clean"] and row["reliance"]["unchanged"][
            "value"
        ] in (
            0.0,
            0.5,
            1.0,
        )
    # The question is one: what is said of the other picture is what was said of it as its own.
    folder = tmp_path / "results" / "mine" / "evals" / f"exact@{score['data']}"
    said, exchanged = (
        {row["item"]: row["text"] for row in map(json.loads, (place / "items.jsonl").read_text().splitlines())}
        for place in (folder, folder / "noise" / "shuffled")
    )
    assert (exchanged["1"], exchanged["2"]) == (said["2"], said["1"])


def test_the_documentation_shows_this_very_plugin() -> None:
    blocks = re.findall(
        r"```(?:python|toml)\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    assert (PLUGIN / "harness_ipo.py").read_text(encoding="utf-8") in blocks
