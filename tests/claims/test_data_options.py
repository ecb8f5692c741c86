"""Each option of `harness data` does what it says: the commands with and without it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligners.rejected_images.image_set import set_files, set_rows
from harness.datasets import catalogue as module
from harness.datasets.catalogue import DataSet
from tests.aligners.preferences.test_preference_data import GOOD, jsonl, png
from tests.aligners.preferences.test_preference_images import server as server
from tests.aligners.rejected_images.test_image_set import preferences
from tests.commands import json_here, run_here
from tests.harness.data_sets.file_server import FileServer, serving
from tests.tiny import tiny_llava

TEXT = b"questions\n"


run = functools.partial(json_here, "data")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def files() -> Iterator[FileServer]:
    with serving(TEXT) as one:
        yield one


@pytest.mark.claims(
    "data list --root", "data get --root", "data check --root", "data import --root",
    "data list --json", "data get --json", "data import --json",
)  # fmt: skip
def test_where_data_sets_lie(here: Path, files: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    file = {"path": "a.txt", "url": files.url("good/a.txt"), "sha256": hashlib.sha256(TEXT).hexdigest()}
    data = DataSet("mine", "a title", "a paper", "a licence", "10 B", folder="mine", files=(file,))
    monkeypatch.setattr(module, "catalogue", lambda: {"mine": data})
    run("get", "mine", "--root", "first")
    assert (here / "first/mine/a.txt").read_bytes() == TEXT
    run("import", "first", "mine", "--root", "second")
    assert (here / "second/mine/a.txt").read_bytes() == TEXT
    assert not (here / "cache/benchmarks/mine/a.txt").exists()
    assert [row["here"] for row in run("list", "--root", "second")] == ["yes"] != [row["here"] for row in run("list")]
    assert [row["state"] for row in run("check", "mine", "--root", "second")] == ["there"]
    assert [row["state"] for row in run("check", "mine", code=1)] == ["missing"]


@pytest.fixture
def pairs(here: Path) -> Path:
    """Six pairs, the last of them with an image that lies elsewhere and the fifth of a kind that stops."""
    for number in range(5):
        (here / f"{number}.png").write_bytes(png(number))
    (here / "more").mkdir()
    (here / "more" / "far.png").write_bytes(png(9))
    rows = [GOOD | {"image": f"{number}.png", "id": str(number)} for number in range(4)]
    return Path(jsonl(here / "d.jsonl", rows))


def report(*arguments: str, code: int = 0) -> Any:
    return run("check", *arguments, code=code)["preferences"][0]


@pytest.mark.claims("data check --limit", "data check --model", "data check --max-length", "data check --json")
def test_what_a_check_looks_at(here: Path, pairs: Path) -> None:
    tiny_llava(here / "model")
    plain = report("d.jsonl")
    assert (plain["records"], plain["tokens"]) == (4, None)
    assert report("d.jsonl", "--limit", "2")["records"] == 2
    tokens = report("d.jsonl", "--model", "./model")["tokens"]
    assert tokens["max_length"] == 4096 and tokens["over_long"] == 0
    tokens = report("d.jsonl", "--model", "./model", "--max-length", "20", code=2)["tokens"]
    assert tokens["max_length"] == 20 and tokens["over_long"] == 4


@pytest.mark.claims(
    "data check --format", "data check --columns", "data check --image-root", "data check --on-error",
    "data check --allow-download",
)  # fmt: skip
def test_how_a_check_reads(here: Path, pairs: Path, server: tuple[str, list[str]]) -> None:
    assert "not the columns of the format trl" in run("check", "d.jsonl", "--format", "trl", code=2)
    asked = {("query" if name == "prompt" else name): value for name, value in GOOD.items()} | {"image": "0.png"}
    jsonl(here / "named.jsonl", [asked])
    assert "--columns" in str(run_here(["data", "check", "named.jsonl"]))
    assert report("named.jsonl", "--columns", "prompt=query")["usable"] == 1
    jsonl(here / "far.jsonl", [GOOD | {"image": "0.png", "id": "a"}, GOOD | {"image": "far.png", "id": "b"}])
    assert report("far.jsonl", code=2)["usable"] == 1
    assert report("far.jsonl", "--image-root", "more")["usable"] == 2
    assert report("far.jsonl", "--on-error", "skip")["fatal"] == []
    jsonl(here / "url.jsonl", [GOOD | {"image": f"{server[0]}/x.png"}])
    assert "--allow-download" in run("check", "url.jsonl", code=2)
    assert report("url.jsonl", "--allow-download")["usable"] == 1


def corrupted(*more: str, source: str = "prefs.parquet", folder: str = "set", code: int = 0) -> Any:
    return run("corrupt", source, "-o", folder, *more, code=code)


def rows_of(folder: str) -> list[dict[str, Any]]:
    return list(set_rows(set_files(Path(folder))))


@pytest.mark.claims(
    "data corrupt --output", "data corrupt --corruption", "data corrupt --step", "data corrupt --set",
    "data corrupt --seed", "data corrupt --limit", "data corrupt --json", "corrupt --set",
)  # fmt: skip
def test_what_is_made(here: Path) -> None:
    preferences(here / "prefs.parquet", 5)
    corrupted("--output", "plain")
    assert {path.name for path in here.iterdir()} >= {"plain"}
    plain = rows_of("plain")
    assert [(row["corruption"], row["step"], row["seed"]) for row in plain[:1]] == [("noise", 500, "0:0")]
    corrupted("--corruption", "black", folder="black")
    assert {row["corruption"] for row in rows_of("black")} == {"black"}
    corrupted("--step", "700", folder="step")
    assert {row["step"] for row in rows_of("step")} == {700}
    assert rows_of("step")[0]["rejected_image"] != plain[0]["rejected_image"]
    corrupted("--seed", "3", folder="seed")
    assert rows_of("seed")[0]["rejected_image"] != plain[0]["rejected_image"]
    assert len(plain) == 5 and corrupted("--limit", "2", folder="limit")["counts"] and len(rows_of("limit")) == 2
    corrupted("--set", "on_nothing=drop", folder="drop")
    assert len(rows_of("drop")) == 4


@pytest.mark.claims("data corrupt --regions")
def test_where_regions_come_from(here: Path) -> None:
    preferences(here / "prefs.parquet", 2)
    assert corrupted()["counts"]["regions"] == 2
    assert "cannot be loaded" in corrupted(
        "--regions", "grounding-dino", "--set", "detector=/nowhere", folder="other", code=2
    )


@pytest.mark.claims(
    "data corrupt --shard", "data corrupt --part-size", "data corrupt --overwrite", "data corrupt --replace"
)
def test_in_which_parts(here: Path) -> None:
    preferences(here / "prefs.parquet", 5)
    assert corrupted("--shard", "1/2")["shard"] == [1, 2] and len(list(here.glob("set/*.parquet"))) == 1
    corrupted("--part-size", "2", folder="parts")
    assert len(set_files(Path("parts"))) == 3
    assert "other settings" in corrupted("--part-size", "2", "--step", "1", folder="parts", code=2)
    corrupted("--part-size", "2", "--step", "1", "--overwrite", folder="parts")
    assert {row["step"] for row in rows_of("parts")} == {1}
    assert corrupted(source="parts", folder="again")["counts"]["given"] == 5
    assert corrupted("--replace", source="parts", folder="replaced")["counts"]["given"] == 0


@pytest.mark.slow
@pytest.mark.claims("data corrupt --workers")
def test_workers_are_processes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import concurrent.futures

    preferences(here / "prefs.parquet", 4)
    started: list[int | None] = []

    class Pool(concurrent.futures.ProcessPoolExecutor):
        def __init__(self, max_workers: int | None = None, *more: Any, **options: Any) -> None:
            started.append(max_workers)
            super().__init__(max_workers, *more, **options)

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    corrupted("--part-size", "2", folder="one")
    assert started == []
    corrupted("--part-size", "2", "--workers", "2", folder="two")
    assert started == [2] and rows_of("one") == rows_of("two")


@pytest.mark.claims("data corrupt --ray")
def test_so_many_workers_of_ray(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they write is held to what is written here in `test_image_set.py`."""
    from aligners.rejected_images import parts

    preferences(here / "prefs.parquet", 2)
    asked: list[int] = []

    def through_ray(workers: int) -> Any:
        asked.append(workers)
        return parts.write_here

    monkeypatch.setattr(parts, "write_through_ray", through_ray)
    corrupted(folder="without")
    corrupted("--ray", "3")
    assert asked == [3]


@pytest.mark.claims("data corrupt --on-error", "data corrupt --columns", "data corrupt --image-root")
def test_what_pairs_are_read(here: Path, pairs: Path) -> None:
    jsonl(here / "far.jsonl", [GOOD | {"image": "0.png", "id": "a"}, GOOD | {"image": "far.png", "id": "b"}])
    corrupted("--corruption", "whole-noise", source="far.jsonl", code=2)
    corrupted("--corruption", "whole-noise", "--on-error", "skip", source="far.jsonl", folder="skipped")
    assert [row["id"] for row in rows_of("skipped")] == ["a"]
    corrupted("--corruption", "whole-noise", "--image-root", "more", source="far.jsonl", folder="both")
    assert [row["id"] for row in rows_of("both")] == ["a", "b"]
    asked = {("query" if name == "prompt" else name): value for name, value in GOOD.items()} | {"image": "0.png"}
    jsonl(here / "named.jsonl", [asked])
    corrupted("--corruption", "whole-noise", source="named.jsonl", folder="named", code=2)
    corrupted("--corruption", "whole-noise", "--columns", "prompt=query", source="named.jsonl", folder="named")
    assert rows_of("named")[0]["question"] == GOOD["prompt"]


@pytest.mark.claims("data preview --output", "data preview --number", "data preview --seed", "data preview --columns")
def test_preview(here: Path) -> None:
    import pyarrow.parquet as pq

    preferences(here / "prefs.parquet", 6)
    corrupted()

    def sheet(name: str, *more: str, source: str = "set", code: int = 0) -> np.ndarray:
        ended, _, said = run_here(["data", "preview", source, "--output", name, *more])
        assert ended == code, said
        return np.asarray(Image.open(here / name)) if code == 0 else np.zeros(0)

    assert sheet("all.png").shape[0] > sheet("two.png", "--number", "2").shape[0]
    assert not np.array_equal(sheet("one.png", "-n", "1"), sheet("other.png", "-n", "1", "--seed", "1"))
    table = pq.read_table(next((here / "set").glob("*.parquet")))
    names = ["worse" if name == "rejected_image" else name for name in table.column_names]
    (here / "named").mkdir()
    pq.write_table(table.rename_columns(names), here / "named" / "part-00000.parquet")
    sheet("named.png", source="named", code=2)
    sheet("named.png", "--columns", "rejected_image=worse", source="named")
    sheet("more.png", "--image-root", ".", code=2)


@pytest.mark.claims("data preview --image-root")
def test_preview_of_any_pairs(here: Path) -> None:
    (here / "more").mkdir()
    (here / "more" / "0.png").write_bytes(png())
    turns = [{"role": "system", "text": "Be brief.", "has_image": False}, {"role": "user", "text": "Hi?", "has_image": True},
             {"role": "assistant", "text": "Hello.", "has_image": False}]  # fmt: skip
    texts = {"chosen": "A red dog <runs>.", "rejected": "A blue dog <runs>.", "standard_response": "Dog."}
    rows = [
        {**GOOD, **texts, "id": "a", "image": "0.png", "earlier_turns": turns},
        {**GOOD, "id": "b", "image": "none.png"},
    ]
    jsonl(here / "far.jsonl", rows)
    shown = ["data", "preview", "far.jsonl", "--image-root", "more"]
    assert run_here(shown)[:2] == (0, "pairs.html: 1 pairs\n")
    assert "1 of the drawn records cannot be used, the first: far.jsonl:2: " in " ".join(run_here(shown)[2].split())
    page = (here / "pairs.html").read_text()
    assert (
        "system:</b> Be brief." in page
        and "user, with the picture:</b> Hi?" in page
        and "assistant:</b> Hello." in page
    )
    assert "A <mark>red</mark> dog &lt;runs&gt;." in page and "A <mark>blue</mark> dog" in page and "Dog." in page
    assert page.count("data:image/webp") == 1
    assert run_here([*shown, "-o", "pairs.png"])[0] == 2 and not (here / "pairs.png").exists()
    assert run_here(["data", "preview", "far.jsonl"])[0] == 2, "no picture is found without the folder"
    assert run_here(["data", "preview", "nothing.jsonl"])[0] == 2


def test_preview_of_pairs_that_bring_rejected_images(here: Path) -> None:
    """Rejected images of others are shown as `align` reads them, and the sheet takes them where a picture is asked for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(2):
        (here / f"{number}.png").write_bytes(png(number))
    pq.write_table(
        pa.Table.from_pylist([{**GOOD, "image": "0.png", "rejected_image": "1.png"}]), here / "paths.parquet"
    )
    images = {"image": {"bytes": png(0)}, "rejected_image": {"bytes": png(1)}}
    pq.write_table(pa.Table.from_pylist([{**GOOD, **images}]), here / "bytes.parquet")
    assert run_here(["data", "preview", "paths.parquet"])[:2] == (0, "pairs.html: 1 pairs\n")
    assert (here / "pairs.html").read_text().count("data:image/webp") == 2
    assert run_here(["data", "preview", "bytes.parquet", "-o", "sheet.png"])[0] == 0
