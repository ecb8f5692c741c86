"""Importing data sets: what is taken from a folder, for which suite, and what is not."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from harness.core.errors import BadInputError
from harness.datasets import catalogue as module
from harness.datasets import importing, unpack
from harness.datasets.catalogue import DataSet, check, find
from harness.datasets.importing import bring
from tests import warm

TEXT = b"questions\n"


def fill(folder: Path, *names: str) -> None:
    """Write files; each contains its own path."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def taken(root: Path) -> dict[str, str]:
    """Path below the root -> content, of all files but the records of downloads."""
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".harness-data.json"
    }


def part(name: str, path: str, root: Path) -> tuple[str, str]:
    """State and note of a part of a data set, as the files are."""
    states = {file.path: (file.state, file.note) for file in check(find(name), root)}
    return states[root / path]


def imported(folder: Path, root: Path, *names: str) -> dict[str, tuple[str, str]]:
    """Path below the root -> state and note after an import."""
    return {
        file.path.relative_to(root).as_posix(): (file.state, file.note)
        for _, states in bring(folder, names, root)
        for file in states
    }


def test_import_takes_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("pictures/1.jpg", b"jpeg")
    url = "https://example.org/"
    data = DataSet(
        "mine", "a title", "a paper", "a licence", "10 B",
        folder="mine",
        files=(
            {"path": "q/known.txt", "url": url + "known.txt", "sha256": hashlib.sha256(TEXT).hexdigest()},
            {"path": "unknown.txt", "url": url + "unknown.txt"},
        ),
        archives=({"url": url + "p.zip", "unpack": [[".*jpg", "images"]], "expect": ["images"], "most_bytes": 1000},),
        manual=({"path": "image", "how": "ask the authors"},),
    )  # fmt: skip
    monkeypatch.setattr(module, "catalogue", lambda: {"mine": data})
    source = tmp_path / "disk" / "deep"
    fill(source, "image/a.png", "image/notes.doc", "image/._a.png", "__MACOSX/image/b.png", "other/known.txt")
    (source / "known.txt").write_bytes(TEXT)
    (source / "unknown.txt").write_bytes(b"anything")
    (source / "p.zip").write_bytes(stream.getvalue())
    [(_, states)] = bring(tmp_path / "disk", [], tmp_path / "root")
    assert {one.state for one in states} == {"there"}
    assert (tmp_path / "root" / "mine" / "q" / "known.txt").read_bytes() == TEXT
    assert sorted(taken(tmp_path / "root" / "mine")) == ["image/a.png", "images/1.jpg", "q/known.txt", "unknown.txt"]
    assert (source / "p.zip").exists(), "an import took the user's file away"
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="no file of these data sets"):
        bring(tmp_path / "empty", [], tmp_path / "other-root")
    with pytest.raises(BadInputError, match="this folder does not exist"):
        bring(tmp_path / "absent", [])


def test_every_suite_gets_its_own_pictures(tmp_path: Path) -> None:
    """The copy of another machine's data: a folder `images` belongs to the suite whose folder it is in."""
    copied, root = tmp_path / "benchmarks", tmp_path / "root"
    fill(copied, "llava-bench/images/001.jpg", "mm-vet/images/v1.png", "mm-vet/mm-vet.json", "chair/images/1.jpg")
    fill(copied, "chair/questions.jsonl")
    states = imported(copied, root)
    assert taken(root) == {
        name: name for name in ("llava-bench/images/001.jpg", "mm-vet/images/v1.png", "mm-vet/mm-vet.json")
    }
    assert states["llava-bench/images"][0] == states["mm-vet/images"][0] == "there"
    assert states["mmhal/images"][0] == states["pope-gqa/images"][0] == "missing"
    assert states["llava-bench/questions.jsonl"][0] == "missing", "it is CHAIR's"
    with pytest.raises(BadInputError, match="no file of these data sets"):
        bring(copied, ["mmhal"], tmp_path / "other")


def test_pictures_of_an_unnamed_suite_are_taken_only_where_it_is_clear_whose_they_are(tmp_path: Path) -> None:
    disk, root = tmp_path / "disk", tmp_path / "root"
    fill(disk, "images/1.jpg")
    with pytest.raises(BadInputError, match="not clear which data set") as refused:
        bring(disk, [], root)
    assert f"harness data import {disk} " in str(refused.value.remedy) and not root.exists()
    assert imported(disk, root, "pope-gqa")["pope-gqa/images"] == ("there", f"1 file from {disk / 'images'}")
    assert imported(disk / "images", tmp_path / "direct", "pope-gqa")["pope-gqa/images"][0] == "there"
    several = tmp_path / "several"
    fill(several, "a/images/1.jpg", "b/images/2.jpg", "mm-vet.json")
    state, note = imported(several, root, "mm-vet")["mm-vet/images"]
    assert state == "missing" and f"several folders could be it: {several / 'a/images'}, {several / 'b/images'}" in note
    fill(several, "images/3.jpg")
    imported(several, root, "mm-vet")
    assert sorted(taken(root / "mm-vet")) == ["images/3.jpg", "mm-vet.json"]


def test_an_unpacked_archive_is_taken_whole(tmp_path: Path) -> None:
    disk, root = tmp_path / "disk", tmp_path / "root"
    coco = [f"COCO_val2014_{number:012}.jpg" for number in (9, 42, 73)]
    fill(disk, *(f"val2014/{name}" for name in coco), "val2014/notes.txt", f"part/{coco[1]}")
    (disk / "part" / coco[1]).write_bytes((disk / "val2014" / coco[1]).read_bytes())
    fill(disk, *(f"corpora/wordnet/{name}" for name in ("index.noun", "noun.exc", "data.noun", "lexnames")))
    fill(disk, "punkt/english/x.pickle", "tokenizers/punkt_tab/english/collocations.tab")
    states = imported(disk, root, "coco-val2014", "nltk")
    assert states[f"pope/images/{coco[1]}"] == ("there", f"3 files from {disk / 'val2014'}")
    assert set(taken(root)) == {
        *(f"pope/images/{name}" for name in coco),
        *(f"corpora/wordnet/{name}" for name in ("index.noun", "noun.exc", "data.noun", "lexnames")),
        "tokenizers/punkt_tab/english/collocations.tab",
    }


@pytest.mark.parametrize("name", ["coco-val2014", "amber"])
def test_a_killed_import_is_completed_by_the_same_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"coco-val2014": "images/COCO_val2014_000000000042.jpg", "amber": "image"}[name]
    disk, root, folder = tmp_path / "disk", tmp_path / "root", find(name).folder
    fill(disk, *(f"val2014/COCO_val2014_{number:012}.jpg" for number in (42, 43, 44)))
    fill(disk, *(f"image/AMBER_{number}.jpg" for number in (1, 2, 3)))
    whole, moves = importing.move, iter(range(9))

    def killed(*arguments: Path, within: Path) -> None:
        if next(moves) == 2:
            raise KeyboardInterrupt
        whole(*arguments, within=within)

    with monkeypatch.context() as patched:
        patched.setattr(importing, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            bring(disk, [name], root)
    state, note = part(name, f"{folder}/{first}", root)
    assert state == "missing" and "interrupted" in note and (root / folder / first).exists()
    assert imported(disk, root, name)[f"{folder}/{first}"][0] == "there"
    assert len([path for path in taken(root) if path.endswith(".jpg")]) == 3
    assert part(name, f"{folder}/{first}", root) == ("there", "")


def test_a_killed_unpacking_is_completed_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, root = tmp_path / "disk", tmp_path / "root"
    disk.mkdir()
    with zipfile.ZipFile(disk / "test_data.zip", "w") as archive:
        for name in ("1.jpg", "2.jpg"):
            archive.writestr(f"images/{name}", name)
    whole, moves = unpack.move, iter(range(9))

    def killed(*arguments: Path, within: Path) -> None:
        if next(moves) == 1:
            raise KeyboardInterrupt
        whole(*arguments, within=within)

    with monkeypatch.context() as patched:
        patched.setattr(unpack, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            bring(disk, ["mmhal"], root)
    assert part("mmhal", "mmhal/images", root)[0] == "missing"
    assert imported(disk, root, "mmhal")["mmhal/images"][0] == "there"
    assert sorted(taken(root)) == ["mmhal/images/1.jpg", "mmhal/images/2.jpg"]


def test_folders_of_folders_are_taken_whole(tmp_path: Path) -> None:
    disk, root = tmp_path / "disk", tmp_path / "root"
    mme = ["MME_Benchmark_release_version/existence/1.txt", "MME_Benchmark_release_version/artwork/images/1.jpg"]
    hallusion = ["hallusion_bench/VD/figure/0_0.png", "hallusion_bench/VS/map/1_1.png"]
    fill(disk, *mme, *hallusion)
    states = imported(disk, root, "mme", "hallusionbench", "mmhal")
    assert states["mme/MME_Benchmark_release_version"][0] == states["hallusionbench/hallusion_bench"][0] == "there"
    assert sorted(taken(root)) == sorted(
        [*(f"mme/{name}" for name in mme), *(f"hallusionbench/{name}" for name in hallusion)]
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError) as refused:
        bring(tmp_path / "empty", ["mme"], root / "other")
    assert refused.value.remedy == "expected names: mme/MME_Benchmark_release_version"


def test_the_published_files_are_recognised(conformance: Path, tmp_path: Path) -> None:
    names = ("amber", "pope", "pope-gqa", "pope-aokvqa", "nltk")
    done = warm.run(["data", "import", str(conformance), *names, "--root", str(tmp_path), "--json"])
    states = {Path(row["file"]).name: row["state"] for row in json.loads(done.stdout)}
    present = {name for name, state in states.items() if state == "there"}
    assert {"annotations.json", "relation.json", "safe_words.txt", "query_all.json"} <= present
    assert {f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial")} <= present
    assert {
        "gqa_pope_seem_random.json",
        "aokvqa_pope_seem_popular.json",
        "index.noun",
        "noun.exc",
        "english",
    } <= present
    assert not [name for name, state in states.items() if state == "wrong"]
    assert states["COCO_val2014_000000000042.jpg"] == "missing" and done.returncode == 1
