"""What people have goes in: the hub's data sets, image folders, WebDataset, separated text, gzip, and paths of Windows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligners.preferences import DataOptions, PreferenceSet, read_preferences
from aligners.preferences.hub_data import HubData
from aligners.preferences.sources import _readable, place_of
from harness.core.errors import BadInputError
from tests.aligners.preferences.test_preference_data import jsonl, png
from tests.harness.remote.hub_server import hub

ANSWERS = {"chosen": 'It is "red", and\nround.', "rejected": "None"}
ROW = {"image": "1.png", "prompt": "What is it?", **ANSWERS}
TAKEN = {"image": "image", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for number in (1, 2):
        (data / f"{number}.png").write_bytes(png(number))
        (data / "images" / f"{number}.png").write_bytes(png(number))
    return data


def the_pair(found: PreferenceSet) -> Any:
    """The only example, which must be the row."""
    (example,) = found.examples
    assert example.prompt == "What is it?" and dict(example.responses) == ANSWERS
    assert example.images["original"].read() == png(1)
    return example


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_separated_text_keeps_every_character(folder: Path, ending: str, delimiter: str) -> None:
    file = folder / f"d.{ending}"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([[*ROW, "id", "chosen_spans"], [*ROW.values(), "007", "[[0, 2]]"]])
    data = read_preferences(str(file))
    example = the_pair(data)  # the answer "None" is a text, not a missing value, and "007" is not 7
    assert example.id == "007" and example.corrections == {"chosen": ((0, 2),), "rejected": ()}
    assert data.rows == {"007": f"{file}:2"} and data.taken == {"plain": TAKEN}
    with file.open("a", encoding="utf-8") as stream:
        stream.write(delimiter.join(["2.png", "Q", "", "b", "", ""]) + "\n")
    with pytest.raises(BadInputError, match="there is no 'chosen'") as raised:
        read_preferences(str(file))
    assert raised.value.where == f"{file}:4"


CONVERSATION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
SPOKEN = {name: [{"role": "assistant", "content": text}] for name, text in ANSWERS.items()}
MESSAGES: dict[str, Any] = {"prompt": CONVERSATION, **SPOKEN}


def table(folder: Path, row: dict[str, Any]) -> str:
    """A CSV file with one record; lists are JSON."""
    file = folder / "d.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        cells = [value if isinstance(value, str) else json.dumps(value) for value in row.values()]
        csv.writer(stream).writerows([list(row), cells])
    return str(file)


@pytest.mark.parametrize(
    "row",
    [
        MESSAGES,
        {"chosen": [*CONVERSATION, *SPOKEN["chosen"]], "rejected": [*CONVERSATION, *SPOKEN["rejected"]]},
        MESSAGES | {"prompt": [{"content": "What is it?", "role": "user"}]},
    ],
    ids=["prompt", "implicit prompt", "order of keys"],
)
def test_messages_in_separated_text_are_read_as_messages(folder: Path, row: dict[str, Any]) -> None:
    found = read_preferences(table(folder, {"image": "1.png", **row}))
    the_pair(found)
    assert found.formats == ("trl",)
    renamed = {"image": "1.png", **{f"my {name}": value for name, value in row.items()}}
    options = DataOptions.parse(",".join(f"{name}=my {name}" for name in row), None)
    the_pair(read_preferences(table(folder, renamed), options=options))


def test_messages_that_are_not_json_are_refused_and_other_lists_are_texts(folder: Path) -> None:
    for cell in (str(SPOKEN["chosen"]), json.dumps(SPOKEN["chosen"])[:-5]):  # as pandas writes lists, and cut off
        with pytest.raises(BadInputError, match="'chosen' begins like a list of messages, but is not JSON"):
            read_preferences(table(folder, {"image": "1.png", **MESSAGES, "chosen": cell}))
    answers = {"chosen": '[{"from": "Berlin", "to": "Paris"}]', "rejected": "[a list] of words"}
    (example,) = read_preferences(table(folder, ROW | answers)).examples
    assert dict(example.responses) == answers


def test_gzip_is_read_as_what_it_contains(folder: Path, tmp_path: Path) -> None:
    row = json.dumps(ROW) + "\n"
    file = folder / "d.jsonl.gz"
    file.write_bytes(gzip.compress(row.encode()))
    found = read_preferences(str(file), cache=tmp_path / "cache")
    the_pair(found)
    assert list(found.rows.values()) == [f"{file}:1"]
    file.write_bytes(gzip.compress((row + row.replace("red", "blue")).encode()))  # a changed file is unpacked again
    assert len(read_preferences(str(file), cache=tmp_path / "cache").examples) == 2
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BadInputError, match="not a complete gzip file"):
        read_preferences(str(file), cache=tmp_path / "cache")


def tar(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def test_webdataset(folder: Path) -> None:
    texts = {name: ROW[name] for name in ("prompt", "chosen")}
    files = {
        "a/001.json": json.dumps(texts | {"image": "where/it/was.jpg", "rejected": "overridden"}).encode(),
        "a/001.jpg": png(1),
        "a/001.rejected.txt": ANSWERS["rejected"].encode(),
        "a/001.rejected_image.png": png(2),
    }
    found = read_preferences(tar(folder / "d.tar", files))
    example = the_pair(found)
    assert example.id == "001" and example.images["rejected"].read() == png(2)
    as_datasets = pytest.importorskip("datasets").load_dataset(
        "webdataset", data_files=str(folder / "d.tar"), split="train", cache_dir=str(folder / "cache")
    )
    assert as_datasets[0]["__key__"] == "a/001" and as_datasets[0]["json"]["prompt"] == example.prompt
    for changes, reason in (
        ({"a/001.png": png(2)}, "the sample .a/001.: more than one file is its 'image': jpg, png"),
        ({"a/001.json": b"[]"}, "does not contain an object of columns"),
        ({"a/001.json": b"{"}, "the sample .a/001.: .*JSON"),
    ):
        with pytest.raises(BadInputError, match=reason):
            read_preferences(tar(folder / "bad.tar", files | changes), format_name="plain")
    whole = (folder / "d.tar").read_bytes()
    (folder / "cut.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(BadInputError, match="not a complete, uncompressed tar file"):
        read_preferences(str(folder / "cut.tar"))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_image_folder(folder: Path, kind: str) -> None:
    row = {"file_name": "1.png", "rejected_image_file_name": "2.png", "prompt": ROW["prompt"], **ANSWERS}
    file = folder / "images" / f"metadata.{kind}"
    if kind == "jsonl":
        jsonl(file, [row])
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), file)
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([[*row], [*row.values()]])
    found = read_preferences(str(folder / "images"))
    assert the_pair(found).images["rejected"].read() == png(2)
    assert found.taken == {"plain": TAKEN | {"image": "file_name"}} and not found.unread


OTHER = json.dumps(ROW | {"prompt": "Who is it?"})


@pytest.mark.parametrize(
    ("name", "content", "listed"),
    [
        ("e.json", f"[{OTHER}]", r"1 .jsonl \(d.jsonl\), 1 .json \(e.json\)"),
        ("e.json", f"{OTHER}\n{OTHER}\n", r"1 .jsonl \(d.jsonl\), 1 .json \(e.json\)"),
        ("e.jsonl.gz", gzip.compress(OTHER.encode()), r"1 .jsonl \(d.jsonl\), 1 .jsonl.gz \(e.jsonl.gz\)"),
        ("e.CSV", "image,prompt,chosen,rejected\n", r"1 .jsonl \(d.jsonl\), 1 .csv \(e.CSV\)"),
        ("a/e.json.gz", gzip.compress(f"[{OTHER}]".encode()), r"1 .jsonl \(d.jsonl\), 1 .json.gz \(e.json.gz\)"),
    ],
)
def test_a_folder_with_data_of_several_types_is_refused(
    folder: Path, name: str, content: str | bytes, listed: str
) -> None:
    jsonl(folder / "d.jsonl", [ROW])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInputError, match=f"files of several types: {listed}") as raised:
        read_preferences(str(folder))
    assert raised.value.where == str(folder) and raised.value.remedy
    with pytest.raises(BadInputError, match="several types"):
        place_of(str(folder))  # before a model is loaded
    with pytest.raises(BadInputError, match="several types"):
        _readable([folder / "d.jsonl", folder / name, folder / "1.png"], "team/set")  # as `datasets` names the hub's
    (folder / name).rename(folder / f"{name}.kept")
    the_pair(read_preferences(str(folder)))


def test_capital_endings_and_linked_folders_are_read_and_circles_are_not(folder: Path) -> None:
    rows = {name: [ROW | {"id": name, "image": "1.png"}] for name in ("a", "b", "c", "d")}
    (folder / "below" / "deep").mkdir(parents=True)
    elsewhere = folder.parent / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    jsonl(folder / "A.JSONL", rows["a"])
    jsonl(folder / "below" / "deep" / "b.jsonl", rows["b"])
    jsonl(elsewhere / "c.Jsonl", rows["c"])
    jsonl(elsewhere / "deep" / "d.jsonl", rows["d"])
    jsonl(folder.parent / "not here.jsonl", [ROW | {"id": "beside the folder"}])
    for link, target in (
        (folder / "a link", elsewhere / "deep"),
        (folder / "linked", elsewhere),
        (folder / "twice", folder / "below"),
        (folder / "below" / "itself", folder / "below"),
        (folder / "below" / "up", folder),
        (folder / "above", folder.parent),
        (elsewhere / "back", folder),
        (folder / "broken", folder / "nowhere"),
    ):
        link.symlink_to(target)
    data = read_preferences(str(folder))
    where = ["A.JSONL", "a link/d.jsonl", "below/deep/b.jsonl", "linked/c.Jsonl"]
    assert data.rows == dict(zip("adbc", [f"{folder / name}:1" for name in where], strict=True))
    compressed = folder / "A.JSONL.GZ"
    compressed.write_bytes(gzip.compress((folder / "A.JSONL").read_bytes()))
    assert list(read_preferences(str(compressed)).rows) == ["a"]


def test_companions_of_data_files_are_no_data(folder: Path) -> None:
    """Descriptions are JSON objects; in a set of ours, only the Parquet files are data."""
    pq.write_table(pa.Table.from_pylist([ROW | {"image": {"bytes": png(1), "path": None}}]), folder / "d.parquet")
    for name, indent in (("dataset_infos.json", None), ("metadata.json", 2)):
        (folder / name).write_text(json.dumps({"a": {"b": [1, 2]}, "c": {}}, indent=indent) + "\n\n")
    (folder / "more.json.gz").write_bytes(gzip.compress(b'{"a": 1}'))
    the_pair(read_preferences(str(folder)))
    settings = {"kind": "preference_pairs", "format": 1, "seed": 0, "shards": 1, "part_size": 2}
    for name in ("config.json", "manifest.json"):
        (folder / name).write_text(json.dumps(settings))
    (folder / "candidates" / "part-00000").mkdir(parents=True)
    for name in ("dropped.jsonl", "candidates/part-00000/responses.jsonl"):
        jsonl(folder / name, [{"id": "x"}])
    the_pair(read_preferences(str(folder)))


def test_paths_as_windows_writes_them(folder: Path) -> None:
    the_pair(read_preferences(jsonl(folder / "d.jsonl", [ROW | {"image": ".\\images\\1.png"}])))
    (folder.parent / "secret.png").write_bytes(png(1))
    with pytest.raises(BadInputError, match=r"does not exist|leaves the data folder"):
        read_preferences(jsonl(folder / "d.jsonl", [ROW | {"image": "..\\secret.png"}]))


def test_a_file_of_columns(folder: Path) -> None:
    row = {"img": "1.png", "query text": ROW["prompt"], "good": ANSWERS["chosen"], "bad": ANSWERS["rejected"]}
    data = jsonl(folder / "d.jsonl", [row])
    (folder / "columns.yaml").write_text("image: img\nprompt: query text\nchosen: good\nrejected: bad\n")
    (folder / "columns.json").write_text(json.dumps(dict(zip(TAKEN, row, strict=True))))
    for name in ("columns.yaml", "columns.json"):
        found = read_preferences(data, options=DataOptions.parse(str(folder / name), None))
        the_pair(found)
        assert found.taken == {"plain": dict(zip(TAKEN, row, strict=True))}
    (folder / "columns.yaml").write_text("- image\n")
    with pytest.raises(BadInputError, match="not a list of NAME: COLUMN"):
        DataOptions.parse(str(folder / "columns.yaml"), None)
    with pytest.raises(BadInputError, match="does not exist"):
        DataOptions.parse(str(folder / "nothing.yaml"), None)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("team/set", ("team/set", None, None, None)),
        ("team/set@v1.0", ("team/set", None, "v1.0", None)),
        ("team/set:en@refs/pr/1#test", ("team/set", "en", "refs/pr/1", "test")),
    ],
)
def test_an_id_has_configuration_revision_and_split(text: str, parts: tuple[Any, ...]) -> None:
    assert HubData.parse(text) == HubData(*parts)
    assert HubData.parse(f"/{text}") is None and HubData.parse("set") is None


CARD = """---
configs:
- config_name: one
  data_files:
  - split: train
    path: one/train.jsonl
  - split: test
    path: one/test.jsonl
- config_name: two
  data_files: two/*.csv
---
"""


READ = """
import json, sys
from aligners.preferences import read_preferences
from harness.core.errors import HarnessError
for source in sys.argv[1:]:
    try:
        print(json.dumps([one.responses["chosen"] for one in read_preferences(source).examples]))
    except HarnessError as error:
        print(json.dumps(error.problem))
"""


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    row, test = (json.dumps(ROW | {"chosen": f"of {split}"}).encode() for split in ("train", "test"))
    table = b"image,prompt,chosen,rejected\n../one/1.png,Q?,of two,b\n"
    files = {"README.md": CARD.encode(), "one/1.png": png(1), "one/train.jsonl": row, "one/test.jsonl": test,
             "two/d.csv": table}  # fmt: skip
    sources = ["team/set", "team/set:one@v1", "team/set:one#test", "team/set:two", "team/set:one#val", "team/nothing"]
    with hub() as server:
        server.offered["datasets", "team/set"] = {name: (len(body), body) for name, body in files.items()}
        where = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HARNESS_CACHE": str(tmp_path / "cache")}
        # Another process: huggingface_hub fixes its endpoint when it is imported.
        done = subprocess.run(
            [sys.executable, "-c", READ, *sources], env=os.environ | where, capture_output=True, text=True, check=True
        )
        assert any("/revision/v1" in one for one in server.asked)
    none, one, test_split, two, no_split, nothing = map(json.loads, done.stdout.splitlines())
    assert "Config name is missing" in none and "['one', 'two']" in none
    assert (one, test_split, two) == (["of train"], ["of test"], ["of two"])
    assert no_split == "the data set has no split 'val'; it has: train, test"
    assert nothing.startswith("there is no file or folder 'team/nothing', and the hub ")
