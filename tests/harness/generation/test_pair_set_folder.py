"""The folder of a set of pairs: shards, replacement, what its manifest lists, and what it does not tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aligners.preferences.read import read_preferences
from aligners.preferences.set_folder import read_manifest
from harness.core.files import write_jsonl
from harness.generation.push import data_card
from harness.generation.records import PairSetManifest
from tests.commands import run_here
from tests.harness.generation.four_pictures import endpoint as endpoint
from tests.harness.generation.four_pictures import here as here
from tests.harness.generation.four_pictures import name_of, row, rows, run
from tests.harness.generation.scripted import ScriptedEndpoint


def test_a_set_with_shards_missing_is_no_data(here: Path, endpoint: ScriptedEndpoint) -> None:
    run(endpoint, "--shard", "1/2", "--set", "pair.length_balance=false")
    ended, _, said = run_here(["data", "check", "pairs"])
    assert ended == 2 and "not complete" in said and "1 of 2 shards are done" in said
    run(endpoint, "--shard", "2/2", "--set", "pair.length_balance=false")
    assert run_here(["data", "check", "pairs"])[0] == 0


def test_a_set_in_shards_is_replaced_as_a_whole(here: Path, endpoint: ScriptedEndpoint) -> None:
    """One new shard beside an old one is no set, and files of the old shards are no part of a whole set."""
    plain = ("--set", "pair.length_balance=false")
    for number in (1, 2):
        run(endpoint, "--shard", f"{number}/2", *plain)
    before = {path.name: path.read_bytes() for path in Path("pairs").glob("*.*")}
    said = run(endpoint, "--shard", "1/2", "--pairs", "1", "--overwrite", *plain, code=2)
    assert (
        "--answers-of pairs" in said and {path.name: path.read_bytes() for path in Path("pairs").glob("*.*")} == before
    )
    manifest = run(endpoint, "--pairs", "1", "--overwrite", *plain)
    names = {path.name for path in Path("pairs").iterdir() if path.suffix in (".json", ".parquet")}
    assert names == {"config.json", "manifest.json", "part-00000.parquet"}
    assert len(rows()) == manifest["pairs"] <= 4


def test_a_shard_of_another_set_does_not_complete_this_one(here: Path, endpoint: ScriptedEndpoint) -> None:
    plain = ("--set", "pair.length_balance=false")
    for number in (1, 2):
        run(endpoint, "--shard", f"{number}/2", *plain)
    first, whole = Path("pairs/shard-1-of-2.json"), Path("pairs/manifest.json")
    complete, made = whole.read_bytes(), first.read_bytes()
    whole.unlink()
    first.write_text(json.dumps(json.loads(made) | {"seed": 9}))
    run(endpoint, "--shard", "2/2", *plain)
    ended, _, said = run_here(["data", "check", "pairs"])
    assert ended == 2 and "1 of 2 shards are done" in said and not whole.exists()
    # As after a kill between the manifest of the last shard and that of the set.
    first.write_bytes(made)
    run(endpoint, "--shard", "2/2", *plain)
    assert whole.read_bytes() == complete


def test_only_the_files_of_the_manifest_are_the_set(
    here: Path, endpoint: ScriptedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """Earlier versions left the parts of a replaced set beside the new ones."""
    pairs = run(endpoint, "--set", "pair.length_balance=false")["pairs"]
    part = Path("pairs/part-00000.parquet")
    old = Path("pairs/shard-1-of-2-part-00000.parquet")
    old.write_bytes(part.read_bytes())
    assert len(read_preferences("pairs").examples) == pairs and f"not read: {old.name}" in caplog.text
    assert run_here(["data", "preview", "pairs"])[1] == f"pairs.html: {min(24, pairs)} pairs\n"
    part.unlink()
    ended, _, said = run_here(["data", "check", "pairs"])
    assert ended == 2 and "1 of the set's 1 files are missing" in said


def test_shards_answered_by_several_models_are_not_joined(here: Path, endpoint: ScriptedEndpoint) -> None:
    plain = ("--set", "pair.length_balance=false")
    run(endpoint, "--shard", "1/2", *plain)
    first = Path("pairs/shard-1-of-2.json")
    first.write_text(json.dumps(json.loads(first.read_text()) | {"answered_by": "vlm-2025"}))
    for _ in range(2):
        said = run(endpoint, "--shard", "2/2", *plain, code=1)
        assert "several models behind the name 'vlm'" in said and not Path("pairs/manifest.json").exists()


def test_a_set_names_no_folder_of_this_machine(here: Path, endpoint: ScriptedEndpoint) -> None:
    write_jsonl(here / "prefs.jsonl", [row(1) | {"image": str(here / name_of(1))}])
    run(endpoint, model="/models/vlm")
    assert {(row["image"]["path"], row["model"]) for row in rows()} == {(name_of(1), "vlm")}
    stored = read_manifest(here / "pairs" / "manifest.json", PairSetManifest)
    assert "/models" not in data_card(stored, "pairs")


def test_answers_of_several_models_are_not_paired(here: Path, endpoint: ScriptedEndpoint) -> None:
    run(endpoint, "--limit", "2", output="pairs")
    [log] = Path("pairs").rglob("responses.jsonl")
    first, *others = log.read_text().splitlines()
    log.write_text("\n".join([json.dumps(json.loads(first) | {"model": "vlm-2025"}), *others]) + "\n")
    said = run(endpoint, "--limit", "2", "--pairs", "1", "--overwrite", code=1)
    assert "several models behind the name 'vlm'" in said and "another folder with -o" in said
