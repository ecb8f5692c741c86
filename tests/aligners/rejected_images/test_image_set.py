"""A set of rejected images: what it records, that nothing but data, settings and seed changes it, and that it survives a kill."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

from aligners.base import PrepareContext
from aligners.preferences import read_preferences
from aligners.preferences.cells import CellImage
from aligners.preferences.set_folder import SetShard
from aligners.rejected_images import ImagePreferenceSettings, generate
from aligners.rejected_images.image_set import replacing_set, set_files, set_rows, write_set
from aligners.rejected_images.parts import SetRecipe, Write, write_here, write_in_processes, write_through_ray
from aligners.rejected_images.resolved import resolved_facts
from aligners.rejected_images.samples import write_samples
from aligners.rejected_images.size import predicted_bytes
from harness.core import disk
from harness.core.errors import BadInputError
from harness.core.files import read_jsonl, sha256_bytes
from harness.core.removal import move
from harness.core.types import PreferenceExample, Region
from tests import warm

SETTINGS = ImagePreferenceSettings(regions="dataset", step=900)


def preferences(path: Path, count: int, size: tuple[int, int] = (60, 40)) -> Path:
    """Rows in RLAIF-V's columns with boxes and corrections; every fifth speaks of nothing that has a box."""
    rows = []
    for number in range(count):
        stream = io.BytesIO()
        values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(stream, "JPEG")
        rows.append(
            {
                "image": {"bytes": stream.getvalue(), "path": f"{number}.jpg"},
                "question": "What is it?",
                "chosen": "A boat." if number % 5 == 4 else f"A red dog, {number}.",
                "rejected": "A cat.",
                "chosen_spans": [[2, 5]],
                "rejected_spans": [[2, 5]],
                "idx": number,
                "origin_dataset": "origin",
                "objects": [
                    {"label": "dog", "box": [10.0, 5.0, 30.5, 25.0]},
                    {"label": "cup", "box": [40.0, 5, 50, 9]},
                ],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def made(
    folder: Path, examples: Sequence[PreferenceExample], recipe: SetRecipe | None = None, **options: Any
) -> list[dict[str, Any]]:
    write_set(folder, examples, recipe or SetRecipe(SETTINGS, 0, whole=True), {"data": "test"}, **options)
    return list(set_rows(set_files(folder)))


def test_samples_of_a_run_say_how_their_images_were_made(tmp_path: Path) -> None:
    given = read_preferences(str(preferences(tmp_path / "prefs.parquet", 6))).examples
    made(tmp_path / "set", given)
    whole = read_preferences(str(tmp_path / "set")).examples
    assert write_samples(whole, tmp_path / "set", tmp_path / "run") == "image_preferences.jsonl"
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "run/image_preferences.jsonl")}
    assert list(rows["0"]) == [
        "id", "prompt", "chosen", "made", "keywords", "boxes", "scores", "mask", "corruption", "step", "schedule", "scale",
        "strength", "seed", "original", "rejected",
    ]  # fmt: skip
    assert (rows["0"]["step"], rows["0"]["seed"], rows["0"]["keywords"]) == (900, "0:0", ["dog"])
    for row in rows.values():
        assert all((tmp_path / "run" / row[name]).is_file() for name in ("original", "rejected", "mask") if row[name])
    assert rows["4"]["made"] == "whole-image" and rows["0"]["mask"].endswith("-mask.png")
    write_samples(whole[:1], None, tmp_path / "all")
    [row] = read_jsonl(tmp_path / "all/image_preferences.jsonl")
    assert list(row) == ["id", "prompt", "chosen", "made", "original", "rejected"] and row["made"] == "given"


def test_a_set_records_how_its_images_were_made_and_is_data_itself(tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 6)
    before = read_preferences(str(source)).examples
    rows = made(tmp_path / "set", before, part_size=4)
    assert [row["id"] for row in rows] == [str(number) for number in range(6)]
    assert rows[0] | {"image": 0, "rejected_image": 0, "mask": 0} == {
        "id": "0",
        "image": 0,
        "question": "What is it?",
        "chosen": "A red dog, 0.",
        "rejected": "A cat.",
        "standard_response": None,
        "chosen_spans": [[2, 5]],
        **dict.fromkeys(
            ("earlier_turns", "shared_context", "responses_end", "example_weight", "chosen_weights", "rejected_weights")
        ),
        "rejected_spans": [[2, 5]],
        "objects": [{"label": "dog", "box": [10.0, 5.0, 30.5, 25.0]}, {"label": "cup", "box": [40.0, 5.0, 50.0, 9.0]}],
        "origin_dataset": "origin",
        "rejected_image": 0,
        "made": "regions",
        "keywords": ["dog"],
        "boxes": [[10.0, 5.0, 30.5, 25.0]],
        "scores": [None],
        "mask": 0,
        "region_source": "dataset",
        "detector": None,
        "segmenter": None,
        "corruption": "noise",
        "step": 900,
        "schedule": "vcd",
        "scale": "clip",
        "strength": None,
        "seed": "0:0",
    }
    mask = np.asarray(Image.open(io.BytesIO(rows[0]["mask"])))
    expected = np.zeros((40, 60), bool)
    expected[5:25, 10:30] = True
    assert np.array_equal(mask, expected)
    assert rows[4]["made"] == "whole-image" and rows[4]["keywords"] == []
    after = read_preferences(str(tmp_path / "set")).examples
    for old, new in zip(before, after, strict=True):
        assert (new.id, new.prompt, new.responses, new.corrections, new.regions, new.source) == (
            (old.id, old.prompt, old.responses, old.corrections, old.regions, old.source)
        )
        assert new.images["original"].read() == old.images["original"].read()
    changed = (np.asarray(after[0].images["rejected"].open()) != np.asarray(after[0].images["original"].open())).any(-1)
    assert not changed[~mask].any() and changed[mask].mean() > 0.9
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert {name: count for name, count in manifest["counts"].items() if count} == {"regions": 5, "whole-image": 1}
    assert [file["rows"] for file in manifest["files"]] == [4, 2]
    # Aligning on it makes nothing anew.
    _, notes = generate(after, SETTINGS, PrepareContext(tmp_path / "cache", 0))
    assert (notes.given, notes.regions, notes.kept_in) == (6, 0, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "write", [write_here, pytest.param(write_in_processes(2), marks=pytest.mark.exhaustive)], ids=["here", "processes"]
)
def test_shards_order_part_size_and_processes_change_no_byte(write: Write, tmp_path: Path) -> None:
    examples = read_preferences(str(preferences(tmp_path / "prefs.parquet", 11))).examples
    plain = made(tmp_path / "plain", examples)
    for number in (2, 1, 3):
        assert not (tmp_path / "shards/manifest.json").exists()
        made(tmp_path / "shards", examples, shard=SetShard(number, 3), part_size=2, write=write)
    assert list(set_rows(set_files(tmp_path / "shards"))) == plain
    manifest = json.loads((tmp_path / "shards/manifest.json").read_text())
    assert {name: count for name, count in manifest["counts"].items() if count} == {"regions": 9, "whole-image": 2}
    assert sum(file["rows"] for file in manifest["files"]) == 11
    backwards = made(tmp_path / "backwards", examples[::-1], part_size=3)
    assert backwards[::-1] == plain
    other = made(tmp_path / "other", examples, SetRecipe(SETTINGS, 1, whole=True))
    assert all(one["rejected_image"] != two["rejected_image"] for one, two in zip(other, plain, strict=True))


@pytest.mark.slow
def test_ray_data_writes_the_same_files(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    examples = read_preferences(str(preferences(tmp_path / "prefs.parquet", 11))).examples
    try:
        made(tmp_path / "ray", examples, part_size=2, write=write_through_ray(2))
    finally:
        ray.shutdown()
    made(tmp_path / "plain", examples, part_size=2)
    for name in (f"part-{number:05d}.parquet" for number in range(6)):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.exhaustive), 2])
def test_a_set_survives_kill_9(workers: int, tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 180, (400, 300))
    command = ["data", "corrupt", str(source), "--part-size", "6"]
    folder, rng = tmp_path / "killed", random.Random(workers)
    kept: dict[str, int] = {}
    for _ in range(2):
        before = len(list(folder.glob("part-*")))
        with warm.start([*command, "-o", str(folder), "--workers", str(workers)], stderr=subprocess.DEVNULL) as first:
            while len(list(folder.glob("part-*"))) <= before and first.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.random() / 8)
            assert first.poll() is None, "it ended before it was killed"
            first.send_signal(signal.SIGKILL)
        time.sleep(0.5 * (workers > 1))  # workers see that their parent is gone
        there = {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
        assert kept.items() <= there.items(), "a part was made twice or lost"
        kept = there
        with pytest.raises(BadInputError, match=r"this set is not complete"):  # a set in the making is not read as data
            read_preferences(str(folder))
    assert 2 <= len(kept) < 30
    for out in (folder, tmp_path / "plain"):
        assert warm.run([*command, "-o", str(out)]).returncode == 0
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "plain").iterdir()}
    for path in set_files(tmp_path / "plain"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_an_alignment_has_the_same_images_and_leaves_samples(tmp_path: Path) -> None:
    examples = read_preferences(str(preferences(tmp_path / "prefs.parquet", 30))).examples
    rows = {row["id"]: row for row in made(tmp_path / "set", examples)}
    settings = ImagePreferenceSettings(step=900)
    result, notes = generate(examples, settings, PrepareContext(tmp_path / "cache", 0, output=tmp_path / "run"))
    assert {one.id: one.images["rejected"].read() for one in result} == {
        name: row["rejected_image"]["bytes"] for name, row in rows.items()
    }
    for one in result:  # they stay in the set's files: 83,000 of them would be 16 GB
        image = one.images["rejected"]
        assert image.data is None and isinstance(image.source, CellImage)
        assert image.fingerprint() == sha256_bytes(image.read())
    samples = [json.loads(line) for line in (tmp_path / "run" / notes.samples).read_text().splitlines()]
    assert len({sample["id"] for sample in samples}) == 24
    for sample in samples:
        row = rows[sample["id"]]
        assert (tmp_path / "run" / sample["original"]).read_bytes() == row["image"]["bytes"]
        assert (tmp_path / "run" / sample["rejected"]).read_bytes() == row["rejected_image"]["bytes"]
        assert (tmp_path / "run" / sample["mask"]).read_bytes() == row["mask"]
        assert (sample["keywords"], sample["boxes"], sample["step"]) == (row["keywords"], row["boxes"], 900)
    # Another batch size is the same set, another step is not.
    for changes, sets in (({"batch_size": 2}, 1), ({"step": 100}, 2)):
        generate(examples, settings.model_copy(update=changes), PrepareContext(tmp_path / "cache", 0))
        assert len(list((tmp_path / "cache/image_preferences").iterdir())) == sets


def test_examples_without_a_region_can_be_left_out_by_name(tmp_path: Path) -> None:
    examples = read_preferences(str(preferences(tmp_path / "prefs.parquet", 6))).examples
    rows = made(
        tmp_path / "set", examples, SetRecipe(SETTINGS.model_copy(update={"on_nothing": "drop"}), 0, whole=True)
    )
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "5"]
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["counts"]["dropped"] == 1 and manifest["dropped"] == ["4"]


def test_given_images_are_kept_or_replaced(tmp_path: Path) -> None:
    examples = read_preferences(str(preferences(tmp_path / "prefs.parquet", 3))).examples
    first = made(tmp_path / "first", examples)
    again = read_preferences(str(tmp_path / "first")).examples
    kept = made(tmp_path / "kept", again, SetRecipe(SETTINGS, 1, whole=True))
    assert [row["made"] for row in kept] == ["given"] * 3
    assert [row["rejected_image"]["bytes"] for row in kept] == [row["rejected_image"]["bytes"] for row in first]
    replaced = made(tmp_path / "replaced", again, SetRecipe(SETTINGS, 0, whole=True, replace=True))
    assert replaced == first


def test_what_is_not_the_same_set_is_refused(tmp_path: Path) -> None:
    examples = read_preferences(str(preferences(tmp_path / "prefs.parquet", 2))).examples
    folder = tmp_path / "set"
    made(folder, examples)
    with pytest.raises(BadInputError, match=r"other settings \(settings\)"):
        made(folder, examples, SetRecipe(SETTINGS.model_copy(update={"step": 1}), 0, whole=True))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    with pytest.raises(BadInputError, match=r"not empty.*thesis\.tex"):
        made(tmp_path / "other", examples)
    with FileLock(folder / ".set.lock"), pytest.raises(BadInputError, match="another process"):
        made(folder, examples)


def pipeline_folder(folder: Path, lemma_of_dogs: str) -> Path:
    """An English spaCy pipeline with a table of one lemma; a folder that is there is replaced."""
    import spacy
    from spacy.lookups import Lookups

    nlp, tables = spacy.blank("en"), Lookups()
    tables.add_table("lemma_lookup", {"dogs": lemma_of_dogs})
    nlp.add_pipe("lemmatizer", config={"mode": "lookup"}).initialize(lookups=tables)  # type: ignore[attr-defined]
    nlp.to_disk(folder)
    return folder


def test_a_pipeline_that_is_replaced_in_its_folder_makes_another_set(tmp_path: Path) -> None:
    [one] = read_preferences(str(preferences(tmp_path / "prefs.parquet", 1))).examples
    examples = [replace(one, responses={**one.responses, "chosen": "Two dogs."})]
    context, results = PrepareContext(tmp_path / "cache", 0), []
    for lemma in ("hound", "dog", "dog"):
        settings = SETTINGS.model_copy(update={"pipeline": str(pipeline_folder(tmp_path / "pipeline", lemma))})
        notes = generate(examples, settings, context)[1]
        results.append((notes.regions, notes.kept_in))
        if lemma == "hound":
            write_set(tmp_path / "set", examples, SetRecipe(settings, 0, whole=True), resolved_facts(settings))
    assert [regions for regions, _ in results] == [0, 1, 1]
    assert results[0][1] != results[1][1] == results[2][1]
    with pytest.raises(BadInputError, match=r"other settings \(pipeline_and_models\)"):
        write_set(tmp_path / "set", examples, SetRecipe(settings, 0, whole=True), resolved_facts(settings))


def test_a_set_is_identified_by_versions_folders_and_data_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = SETTINGS.model_copy(
        update={"pipeline": "xx_pictures", "regions": "owlv2+sam", "detector": str(tmp_path / "owl")}
    )
    (tmp_path / "owl").mkdir()
    facts = []
    for version, weights, gpu in (("1.0", "a", False), ("1.1", "a", False), ("1.1", "b", False), ("1.1", "b", True)):
        package = tmp_path / "xx_pictures.dist-info"
        package.mkdir(exist_ok=True)
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: xx_pictures\nVersion: {version}\n")
        (tmp_path / "owl/model.safetensors").write_text(weights)
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        facts.append(resolved_facts(settings)["pipeline_and_models"])
    assert [one["pipeline"]["xx_pictures"] for one in facts] == ["1.0", "1.1", "1.1", "1.1"]
    assert facts[0]["detector"] == facts[1]["detector"] != facts[2]["detector"]
    assert "segmenter" not in facts[2] and facts[3]["segmenter"] == {"dtype": "bfloat16"}
    assert facts[3]["detector"] == {**facts[2]["detector"], "dtype": "bfloat16"}
    # Grounding DINO runs in float32 on a GPU, too, and what the settings say is not said again.
    for changes in ({"regions": "grounding-dino", "detector": None}, {"precision": "bfloat16", "detector": None}):
        assert resolved_facts(settings.model_copy(update=changes))["pipeline_and_models"].keys() == {
            "keyword_rule",
            "pipeline",
        }


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return warm.run(["data", *arguments], env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shard", "3/2"], "i from 1 to n"),
        (["--corruption", "noize"], "did you mean noise"),
        (["--regions", "owlv2+sm"], "did you mean owlv2+sam"),
        (["--step", "1001"], "step"),
        (["--corruption", "blur", "--set", "strength=2"], "strength"),
        (["--set", "strength=0.5"], "has no strength; use 'step'"),
        (["--set", "topk=5"], "unknown setting 'topk'"),
        (["--limit", "0"], "at least 1"),
        (["--workers", "2", "--ray", "2"], "exclude each other"),
        (["--regions", "grounding-dino", "--set", "detector=/nowhere"], "cannot be loaded"),
    ],
)
def test_bad_input_is_said(arguments: list[str], said: str, tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 2)
    done = harness("corrupt", str(source), "-o", str(tmp_path / "set"), *arguments)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("set/*.parquet"))


@pytest.mark.slow
def test_the_command_says_what_it_made_and_begins_again_when_told(tmp_path: Path) -> None:
    source, folder = preferences(tmp_path / "prefs.parquet", 5), tmp_path / "set"
    done = harness("corrupt", str(source), "-o", str(folder), "--step", "700")
    assert done.returncode == 0, done.stderr
    assert "5 examples in 1 files" in done.stdout and "4 corrupted in regions, 1 on the whole image" in done.stdout
    assert (
        "keywords: dog 4" in done.stdout
        and f"harness align --method chip|mdpo|mfpo|opa-dpo --data {folder}" in done.stdout
    )
    assert "no keyword was found in the image of 1 of 5 examples" in done.stderr
    again = harness("corrupt", str(source), "-o", str(folder), "--corruption", "black", "--overwrite", "--json")
    assert json.loads(again.stdout)["settings"]["corruption"] == "black"
    half = harness("corrupt", str(source), "-o", str(tmp_path / "half"), "--shard", "1/2")
    assert "shard 1 of 2" in half.stdout and "1 of 2 shards are done" in half.stdout


def test_a_set_that_is_begun_again_is_kept_until_the_new_one_is_complete(tmp_path: Path) -> None:
    examples = read_preferences(str(preferences(tmp_path / "prefs.parquet", 3))).examples
    folder = tmp_path / "set"
    made(folder, examples)
    (folder / "dropped.jsonl").write_text("{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    other = SetRecipe(SETTINGS.model_copy(update={"step": 1}), 0, whole=True)
    (folder / "mine.txt").write_text("mine")

    def broken(*_: object) -> None:
        raise RuntimeError("the detector is not there")

    with pytest.raises(RuntimeError):
        write_set(folder, examples, other, {"data": "x"}, write=broken, overwrite=True)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after.pop("mine.txt") == b"mine" and after.keys() == before.keys()
    assert all(
        after[name] == data for name, data in before.items() if not name.endswith(".lock")
    )  # a lock says who and when
    with FileLock(folder / ".set.lock"), pytest.raises(BadInputError, match="another process"):
        write_set(folder, examples, other, {"data": "x"}, overwrite=True)
    assert {path.name for path in folder.iterdir()} == {*before, "mine.txt"}
    write_set(folder, examples, other, {"data": "x"}, overwrite=True)
    # The records that the old set's command skipped say nothing of the new one.
    assert {path.name for path in folder.iterdir()} == {*before, "mine.txt"} - {"dropped.jsonl"} and not (
        folder / ".replaced"
    ).exists()


def test_room_is_needed_for_the_images_of_the_data_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = read_preferences(str(preferences(tmp_path / "prefs.parquet", 3))).examples
    originals = [example.images["original"] for example in examples]
    given = [replace(examples[0], images={"original": originals[0], "rejected": originals[1]}), *examples[1:]]
    usage, size = shutil.disk_usage("/"), sum(len(image.read()) for image in originals)
    whole, parts = SetRecipe(SETTINGS, 0, whole=True), SetRecipe(SETTINGS, 0, whole=False)
    for number, (some, recipe, copies) in enumerate(
        [(examples, whole, size), (given, whole, size + len(originals[1].read())), (examples, parts, 0)]
    ):
        wanted = predicted_bytes([one.images["original"] for one in some if not recipe.given(one)]) + copies
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, wanted=wanted: usage._replace(free=wanted - 1))
        with pytest.raises(BadInputError, match="the disk is too small"):
            made(tmp_path / str(number), some, recipe)
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, wanted=wanted: usage._replace(free=wanted))
        assert len(made(tmp_path / str(number), some, recipe)) == 3


def test_frequent_keywords_are_counted_over_all_shards_and_ties_are_in_order(tmp_path: Path) -> None:
    [one] = read_preferences(str(preferences(tmp_path / "prefs.parquet", 1))).examples
    letters = [[f"{edge}{letter}{edge}" for letter in "abcdefghijklmnopqrst"] for edge in ("q", "x")]

    def naming(number: int, words: Sequence[str]) -> PreferenceExample:
        boxes = tuple(Region(word, (1, 1, 9, 9)) for word in words)
        chosen = ". ".join(words)
        return replace(one, id=str(number), responses={**one.responses, "chosen": chosen}, regions=boxes)

    # In either shard, 20 words are found twice and "apple" once: it is in no shard's list.
    examples = [naming(number, letters[number // 3][:: -1 if number % 3 else 1]) for number in range(6)]
    for number in (2, 5):
        examples[number] = naming(number, ["apple"])
    recipe = SetRecipe(SETTINGS.model_copy(update={"top_k": 32}), 0, whole=True)
    for shard in (1, 2):
        write_set(tmp_path / "set", examples, recipe, {"data": "x"}, shard=SetShard(shard, 2))
    shards = [json.loads((tmp_path / f"set/shard-{n}-of-2.json").read_text())["frequent_keywords"] for n in (1, 2)]
    assert [list(shard.items()) for shard in shards] == [[(word, 2) for word in words] for words in letters]
    whole = json.loads((tmp_path / "set/manifest.json").read_text())["frequent_keywords"]
    assert list(whole.items()) == [(word, 2) for word in ["apple", *letters[0]][:20]]


@pytest.mark.parametrize(("stop_at", "restoring"), [(0, False), (3, False), (5, False), (1, True), (3, True)])
def test_a_kill_between_the_moves_of_a_replaced_set_loses_no_file(
    stop_at: int, restoring: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["manifest.json", "config.json", *(f"part-0000{number}.parquet" for number in range(3))]
    for name in files:
        (tmp_path / name).write_text(name)
    moves = 0

    def killed(source: Path, target: Path, *, within: Path) -> None:
        nonlocal moves
        if moves == stop_at + (len(files) if restoring else 0):
            os._exit(9)
        moves += 1
        move(source, target, within=within)

    if not (child := os.fork()):
        monkeypatch.setattr("aligners.rejected_images.image_set.move", killed)
        with replacing_set(tmp_path):
            if not restoring and stop_at == len(files):
                os._exit(9)
            raise RuntimeError("the detector is not there")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    # The same command again, which fails before a part is made.
    with pytest.raises(RuntimeError), replacing_set(tmp_path):
        raise RuntimeError("the detector is not there")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in files}


def test_a_training_waits_for_another_one_that_makes_the_same_set(tmp_path: Path) -> None:
    """As trials of a search do, which are trained side by side on the same rejected images."""
    given = read_preferences(str(preferences(tmp_path / "prefs.parquet", 4))).examples
    settings, context = ImagePreferenceSettings(corruption="whole-noise"), PrepareContext(tmp_path / "cache", 0)
    first, notes = generate(given, settings, context)
    held = threading.Event()

    def hold() -> None:
        with FileLock(Path(str(notes.kept_in)) / ".set.lock"):
            held.set()
            time.sleep(0.7)

    threading.Thread(target=hold).start()
    held.wait()
    started = time.perf_counter()
    second, _ = generate(given, settings, context)
    assert time.perf_counter() - started > 0.5
    assert [one.images["rejected"].fingerprint() for one in second] == [
        one.images["rejected"].fingerprint() for one in first
    ]
