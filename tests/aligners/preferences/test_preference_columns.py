"""No column is lost in silence: what is not read is named, what changes the meaning is refused, other names need `--columns`."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligners.preferences import DataOptions, read_preferences
from aligners.preferences.formats.base import MADE
from aligners.rejected_images.table import made_schema
from harness.core.errors import BadInputError
from harness.core.types import Turn
from tests.aligners.preferences.test_preference_data import GOOD, jsonl, png

ANSWERS = {"chosen": "The main object is a red square.", "rejected": "The main object is a blue dog."}
TRL = {"images": ["1.png"], "prompt": "What is it?", **ANSWERS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def read(folder: Path, row: dict[str, Any], **options: Any) -> Any:
    return read_preferences(jsonl(folder / "d.jsonl", [row]), **options)


@pytest.mark.parametrize("image", [{"images": ["1.png"]}, {"image": "1.png"}])
@pytest.mark.parametrize("name", ["query", "user", "problem", "caption", "instruction?"])
def test_a_prompt_is_never_made_of_two_answers_while_another_text_is_there(
    folder: Path, name: str, image: dict[str, Any]
) -> None:
    row = {**image, name: "What is shown here?", **ANSWERS}
    with pytest.raises(
        BadInputError, match=f"no column 'prompt'; the prompt may be in '{name[:5]}".replace("?", r"\?")
    ) as raised:
        read(folder, row)
    assert raised.value.remedy == f"choose the column: --columns prompt={name}"
    with pytest.raises(BadInputError, match="no column 'prompt'"):
        read(folder, row, format_name="trl")
    (example,) = read(folder, row, options=DataOptions.parse(f"prompt={name}", None)).examples
    assert example.prompt == "What is shown here?" and dict(example.responses) == ANSWERS
    # A file without another text has its prompt in the answers' common beginning.
    (example,) = read(folder, {**image, **ANSWERS, "id": "a", "origin_dataset": "coco", name: " "}).examples
    assert example.prompt == "The main object is a"


def test_an_implicit_prompt_is_of_a_file_and_not_of_one_record(folder: Path) -> None:
    bare = {"images": ["1.png"], **ANSWERS}
    path = jsonl(folder / "d.jsonl", [TRL, bare])
    with pytest.raises(BadInputError, match="there is no 'prompt'"):
        read_preferences(path)
    path = jsonl(folder / "d.jsonl", [bare] * 64 + [TRL])
    with pytest.raises(BadInputError, match="has a 'prompt', but the file's first records have an implicit one"):
        read_preferences(path)
    path = jsonl(folder / "d.jsonl", [bare] * 64 + [bare | {"question": "What?"}])
    with pytest.raises(BadInputError, match="'question', which may be it"):
        read_preferences(path)


def test_two_columns_that_may_be_the_prompt_are_asked_about(folder: Path) -> None:
    row = {"image": "1.png", "prompt": "What is it?", "question": "Who is it?", **ANSWERS}
    with pytest.raises(BadInputError, match="two columns could be the prompt, 'question' and 'prompt'") as raised:
        read(folder, row)
    assert raised.value.remedy == "choose one: --columns question=prompt, or question=question"
    data = read(folder, row, options=DataOptions.parse("question=prompt", None))
    assert data.examples[0].prompt == "What is it?" and data.unread == {"question (of the file)": 1}
    data = read(folder, row, options=DataOptions.parse("question=question", None))
    assert data.examples[0].prompt == "Who is it?" and data.unread == {"prompt": 1}
    data = read(folder, row, format_name="plain")
    assert data.examples[0].prompt == "What is it?" and data.unread == {"question": 1}


def test_columns_under_other_names_in_every_kind_of_file(folder: Path) -> None:
    row = {
        "picture": {"bytes": png(1), "path": None},
        "query": "What?",
        "good": "Red.",
        "bad": "Blue.",
        "other": png(2),
    }
    pq.write_table(pa.Table.from_pylist([row]), folder / "d.parquet")
    with (
        pa.OSFile(str(folder / "d.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, pa.Table.from_pylist([row]).schema) as out,
    ):
        out.write_table(pa.Table.from_pylist([row]))
    lines = row | {"picture": "1.png", "other": ["2.png"]}
    jsonl(folder / "d.jsonl", [lines])
    (folder / "d.json").write_text(json.dumps([lines]))
    options = DataOptions.parse("image=picture, prompt=query,chosen=good,rejected=bad,rejected_image=other", None)
    for suffix in ("parquet", "arrow", "jsonl", "json"):
        (example,) = read_preferences(str(folder / f"d.{suffix}"), options=options).examples
        assert (example.prompt, *example.responses.values()) == ("What?", "Red.", "Blue.")
        assert [image.read() for image in example.images.values()] == [png(1), png(2)]


TURNS = [{"role": "user", "text": "Hi?", "has_image": True}, {"role": "assistant", "text": "Yes."}]
FURTHER: dict[str, tuple[Any, Any]] = {
    "ranked_images": (["2.png", "0.png"], lambda example: [example.images[f"rejected_{n}"].read() for n in (1, 2)]),
    "standard_response": ("A square.", lambda example: example.responses["standard"]),
    "chosen_spans": ([[0, 3]], lambda example: example.corrections["chosen"]),
    "rejected_spans": ([[0, 3]], lambda example: example.corrections["rejected"]),
    "objects": (
        [{"label": "dog", "box": [0, 1, 2, 3]}],
        lambda example: [example.regions[0].label, example.regions[0].box],
    ),
    "earlier_turns": (TURNS, lambda example: example.history),
    "history": ([["Hi?", "Yes."]], lambda example: example.history),
    "shared_context": ("There is a square.", lambda example: example.context),
    "responses_end": (False, lambda example: example.ends),
    "example_weight": (0.5, lambda example: example.weight),
    "chosen_weights": ([[0, 3, 2.5]], lambda example: example.token_weights),
    "rejected_weights": ([[0, 3, 2.5]], lambda example: example.token_weights),
}
"""The further columns of docs/preference-data.md: a value, and the part of the example that it is."""


@pytest.mark.parametrize("name", FURTHER)
def test_every_further_column_from_every_text_and_under_another_name(folder: Path, name: str) -> None:
    value, part = FURTHER[name]
    row = {"image": "1.png", "prompt": "What is it?", **ANSWERS}
    (plain,) = read(folder, row).examples
    (given,) = read(folder, row | {name: value}).examples
    text = value if isinstance(value, str) else json.dumps(value)
    files = [("d.csv", ",", text), ("d.tsv", "\t", text)]
    if name == "responses_end":
        files.append(("pandas.csv", ",", str(value)))  # pandas writes "False"
    for column in (name, "mine"):
        options = DataOptions.parse(None if column == name else f"{name}={column}", None)
        (lines,) = read(folder, row | {column: value}, options=options).examples
        assert part(lines) == part(given)
        for file, delimiter, cell in files:
            with (folder / file).open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream, delimiter=delimiter).writerows([[*row, column], [*row.values(), cell]])
            data = read_preferences(str(folder / file), options=options)
            assert part(data.examples[0]) == part(given) and not data.unread
    assert replace(given, id="") != replace(plain, id=""), "the column says something"


def test_a_cell_that_is_no_value_of_its_column_is_named(folder: Path) -> None:
    row = {"image": "1.png", "prompt": "What is it?", **ANSWERS}
    for name, cell, reason in (
        ("responses_end", "no", "neither true nor false: 'no'"),
        ("example_weight", "half", "not a number of at least 0: 'half'"),
        ("example_weight", "inf", "not a number of at least 0: inf"),
        ("chosen_weights", "[[0, 3", "column 'chosen_weights'"),
    ):
        with (folder / "d.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([[*row, name], [*row.values(), cell]])
        with pytest.raises(BadInputError, match=re.escape(reason)):
            read_preferences(str(folder / "d.csv"))
    # A column whose name is given to another one has no meaning, so that its text need not be JSON.
    with (folder / "d.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([[*row, "history", "turns"], [*row.values(), "[1] note", '[["Hi?", "Yes."]]']])
    (example,) = read_preferences(str(folder / "d.csv"), options=DataOptions.parse("history=turns", None)).examples
    assert [turn.text for turn in example.history] == ["Hi?", "Yes."]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ("promt=query", "did you mean prompt"),
        ("prompt", "takes NAME=COLUMN"),
        ("prompt=", "takes NAME=COLUMN"),
        ("", "takes NAME=COLUMN"),
        ("prompt=a,prompt=b", "names 'prompt' twice"),
        ("prompt=a,question=a", "names 'a' twice"),
        ("\x1b[31m=a", "no format has a column called"),
    ],
)
def test_wrong_names_of_columns(columns: str, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        DataOptions.parse(columns, None)


def test_a_column_that_is_not_there_is_said_with_those_that_are(folder: Path) -> None:
    with pytest.raises(BadInputError, match=r"no column 'promt'; there are: images, prompt, chosen") as raised:
        read(folder, TRL, options=DataOptions.parse("prompt=promt", None))
    assert raised.value.remedy == "did you mean prompt=prompt?"


def test_columns_that_nothing_reads_are_named_with_their_counts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [GOOD | {"id": str(number), "category": "x", "label": None, "score": 0.5} for number in range(3)]
    rows[1]["category"], rows[2]["\x1b[31m"] = "", "y"
    (folder / "good.png").write_bytes(png(1))
    found = read_preferences(jsonl(folder / "d.jsonl", [row | {"image": "good.png"} for row in rows]))
    assert found.unread == {"category": 2, "score": 3, "\x1b[31m": 1}
    said = capsys.readouterr().err
    assert "the column 'score' is not used (3 of 3 records have it)" in said
    assert "the column 'category' is not used (2 of 3 records have it)" in said and "\x1b[31m'" not in said


def test_what_our_own_sets_say_about_their_making_is_known(folder: Path) -> None:
    assert {name for name in made_schema().names if name not in ("id", "rejected_image")} == MADE - {"levels"}
    assert {name for name in made_schema(listed=True).names if name not in ("id", "ranked_images")} == MADE
    row = {"image": "1.png", "question": "What?", **ANSWERS, "rejected_image": "2.png"}
    made = dict.fromkeys(MADE, "x")
    assert read(folder, row | made).unread == {}
    assert read(folder, row | {"mask": "x", "step": 3}).unread == {"mask": 1, "step": 1}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("system", ["Be kind."], "the system prompt is a list, not a text"),
        ("history", [["Hello", "Hi"]], "earlier turns"),
        ("tools", '[{"name": "x"}]', "tools"),
        ("videos", ["a.mp4"], "videos"),
        ("audio", {"path": "a.wav"}, "a sound"),
        ("chosen_image", "2.png", "a separate image for the chosen answer"),
        ("rejected_messages", [{"role": "user", "content": "x"}], "a separate conversation"),
        ("image", "2.png", "both 'image' and 'images'"),
        ("rejected_images", ["2.png", "0.png"], "has 2 images"),
        ("rejected_images", ["none.png"], "does not exist"),
    ],
)
def test_what_changes_the_meaning_and_has_no_place_is_refused(
    folder: Path, column: str, value: Any, reason: str
) -> None:
    with pytest.raises(BadInputError, match=reason):
        read(folder, TRL | {column: value})
    silent: Any = "" if isinstance(value, str) else []
    assert len(read(folder, TRL | {column: silent}).examples) == 1


def test_an_image_of_the_rejected_answer_is_the_second_one(folder: Path) -> None:
    for other in (
        {"rejected_images": ["2.png"]},
        {"rejected_image": "2.png"},
        {"rejected_images": [{"path": "2.png"}]},
    ):
        (example,) = read(folder, TRL | other).examples
        assert example.images["rejected"].read() == png(2)
    (example,) = read(folder, TRL | {"rejected_images": ["1.png"]}).examples
    assert "rejected" not in example.images  # the same image is no other one
    with pytest.raises(BadInputError, match="both 'rejected_image' and 'rejected_images'"):
        read(folder, TRL | {"rejected_images": ["2.png"], "rejected_image": "2.png"})


def test_a_list_of_rejected_images_has_names_in_its_order(folder: Path) -> None:
    def as_cell(number: int) -> dict[str, Any]:
        return {"bytes": png(number), "path": None}

    rows = [GOOD | {"image": as_cell(1), "ranked_images": [as_cell(2), as_cell(0)]}, GOOD | {"image": as_cell(1)}]
    rows[1]["ranked_images"] = None
    pq.write_table(pa.Table.from_pylist(rows), folder / "d.parquet")
    in_table = read_preferences(str(folder / "d.parquet")).examples
    (in_lines,) = read(folder, TRL | {"ranked_images": ["2.png", "0.png"], "rejected_image": "0.png"}).examples
    for example in (in_table[0], in_lines):
        assert [example.images[f"rejected_{number}"].read() for number in (1, 2)] == [png(2), png(0)]
    assert {*in_table[1].images} == {"original"} and in_lines.images["rejected"].read() == png(0)
    for images, reason in ((["2.png", "2.png"], "must differ"), (["1.png"], "must differ"), ("2.png", "not a list")):
        with pytest.raises(BadInputError, match=reason):
            read(folder, TRL | {"ranked_images": images})


def test_of_a_table_with_empty_cells_only_the_others_bring_a_rejected_image(folder: Path) -> None:
    image = {"bytes": png(1), "path": None}
    rows = [GOOD | {"image": image, "rejected_image": {"bytes": png(2), "path": None}}, GOOD | {"image": image}]
    rows[1]["rejected_image"] = None
    pq.write_table(pa.Table.from_pylist(rows), folder / "d.parquet")
    assert ["rejected" in one.images for one in read_preferences(str(folder / "d.parquet")).examples] == [True, False]


@pytest.mark.parametrize(
    "row",
    [
        TRL | {"prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "What is it?"}]}
        | {name: [{"role": "assistant", "content": text}] for name, text in ANSWERS.items()},
        {
            "conversations": [{"from": "system", "value": " "}, {"from": "human", "value": "<image>What is it?"}],
            "images": ["1.png"],
            **{name: {"from": "gpt", "value": text} for name, text in ANSWERS.items()},
        },
        TRL | {"system": " "},
    ],
    ids=["trl", "sharegpt", "column"],
)  # fmt: skip
def test_a_system_turn_without_words_says_nothing(folder: Path, row: dict[str, Any]) -> None:
    silent = read(folder, row).examples[0]
    assert (silent.prompt, silent.history) == ("What is it?", ())
    spoken = json.loads(json.dumps(row).replace('"content": ""', '"content": "Be kind."').replace('" "', '"Be kind."'))
    said = read(folder, spoken).examples[0]
    assert (said.prompt, said.history) == ("What is it?", (Turn("system", "Be kind."),))


def test_an_image_outside_of_the_data_is_read_from_a_folder_that_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "data").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(png(1))
    for value in (str(folder / "pictures" / "a.png"), {"bytes": None, "path": str(folder / "pictures" / "a.png")}):
        path = jsonl(folder / "data" / "d.jsonl", [GOOD | {"image": value}])
        with pytest.raises(BadInputError, match=rf"--image-root {folder / 'pictures'}"):
            read_preferences(path)
        (example,) = read_preferences(path, options=DataOptions.parse(None, folder / "pictures")).examples
        assert example.images["original"].read() == png(1)
    relative = jsonl(folder / "data" / "d.jsonl", [GOOD | {"image": "a.png"}])
    assert len(read_preferences(relative, options=DataOptions.parse(None, folder / "pictures")).examples) == 1
    with pytest.raises(BadInputError, match="leaves the data folder"):
        outside = jsonl(folder / "data" / "d.jsonl", [GOOD | {"image": "../1.png"}])
        read_preferences(outside, options=DataOptions.parse(None, folder / "pictures"))
    with pytest.raises(BadInputError, match="--image-root needs a folder"):
        DataOptions.parse(None, folder / "none")


@pytest.mark.parametrize("make", ["loop", "pipe", "folder", "long", "null", "half"])
def test_paths_of_images_that_lead_to_no_file(folder: Path, make: str) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    value = {"long": "x" * 300 + ".png", "null": "a\0b.png", "half": "\ud800.png"}.get(make, make)
    with pytest.raises(BadInputError, match=r"not a file but|cannot be followed|does not exist") as raised:
        read(folder, GOOD | {"image": value})
    assert len(str(raised.value)) < 600


def test_what_stands_in_the_place_of_a_file_is_said(folder: Path) -> None:
    (folder / "loop.jsonl").symlink_to(folder / "loop.jsonl")
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "empty.jsonl").write_text("\n")
    for name, reason in (
        ("loop.jsonl", "cannot be read"),
        ("pipe.jsonl", "is a pipe, a socket or a device"),
        ("empty.jsonl", "the data contain no record"),
        ("none.jsonl", "preference data does not exist"),
        ("x" * 5000, "preference data does not exist"),
    ):
        with pytest.raises(BadInputError, match=reason):
            read_preferences(str(folder / name))


def test_one_json_array_named_as_lines_is_read(folder: Path) -> None:
    (folder / "d.jsonl").write_text("\ufeff" + json.dumps([TRL, TRL], indent=1))
    assert len(read_preferences(str(folder / "d.jsonl")).examples) == 2


def test_another_encoding_is_one_mistake_and_not_one_of_every_line(folder: Path) -> None:
    for encoding in ("utf-16", "utf-16-le"):
        (folder / "d.jsonl").write_bytes((json.dumps(TRL) + "\n").encode(encoding) * 3)
        with pytest.raises(BadInputError, match="the data is not valid UTF-8"):
            read_preferences(str(folder / "d.jsonl"))
    (folder / "d.jsonl").write_bytes(json.dumps(TRL).encode("utf-8-sig"))
    assert len(read_preferences(str(folder / "d.jsonl")).examples) == 1


@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_that_datasets_saved(folder: Path, splits: bool) -> None:
    from datasets import Dataset, DatasetDict, Features, Image, Value

    features = Features({"image": Image(), **{name: Value("string") for name in ("prompt", "chosen", "rejected")}})
    rows = {"image": [{"bytes": png(one), "path": None} for one in (1, 2)], "prompt": ["What?"] * 2}
    data = Dataset.from_dict(rows | {name: [text] * 2 for name, text in ANSWERS.items()}, features=features)
    if splits:
        DatasetDict(train=data, test=data.select([0])).save_to_disk(str(folder / "set"))
    else:
        data.save_to_disk(str(folder / "set"))
        (folder / "set" / "cache-1234.arrow").write_bytes(b"what datasets computed once")
    found = read_preferences(str(folder / "set"))
    assert [one.images["original"].read() for one in found.examples] == [png(1), png(2)]
    file = next((folder / "set").rglob("data-*.arrow"))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(BadInputError, match="Arrow file"):
        read_preferences(str(file))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen_spans": [[0.5, 5]]}, "with integers"),
        ({"chosen_spans": ["05"]}, "with integers"),
        ({"chosen_spans": [[True, 5]]}, "with integers"),
        ({"chosen_spans": {"0": 5}}, "with integers"),
        ({"chosen_spans": [[0, 10**30]]}, "outside the"),
        ({"objects": [{"label": "dog", "box": "1234"}]}, "is not a list of"),
        ({"objects": [{"label": 5, "box": [0, 0, 1, 1]}]}, "is not a list of"),
        ({"objects": [{"label": "dog", "box": [0, 0, 1, 10**310]}]}, "has 311 digits"),
        ({"objects": [{"label": "dog", "box": [0, 0, True, 1]}]}, "the box of"),
        ({"objects": "dog"}, "is not a list of"),
        ({"id": ["a"]}, "'id' is a list, not a name"),
        ({"id": "x" * 5000}, "has 5,000 characters"),
        ({"id": "\ud800"}, "half of a character"),
        ({"prompt": "\udcff?"}, "half of a character"),
        ({"source": "\ud800"}, "half of a character"),
    ],
)
def test_values_of_another_type_are_refused(folder: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as raised:
        read(folder, GOOD | {"image": "1.png"} | changes)
    assert len(str(raised.value)) < 500


def test_numbers_that_only_a_table_can_hold_are_refused(folder: Path) -> None:
    row = GOOD | {"image": {"bytes": png(1), "path": None}}
    for changes in (
        {"objects": [{"label": "a", "box": [0.0, 0.0, math.inf, 1.0]}]},
        {"objects": [{"label": "a", "box": [0.0, 0.0, math.nan, 1.0]}]},
        {"chosen_spans": [[-math.inf, 5.0]]},
    ):
        pq.write_table(pa.Table.from_pylist([row | changes]), folder / "d.parquet")
        with pytest.raises(BadInputError, match=r"the box of|with integers"):
            read_preferences(str(folder / "d.parquet"))
    pq.write_table(pa.Table.from_pylist([row | {"idx": math.nan}, row | {"idx": 3.0}]), folder / "d.parquet")
    assert [one.id for one in read_preferences(str(folder / "d.parquet")).examples] == ["d-1", "3"]


def test_the_description_beside_a_file_is_read_with_its_types(folder: Path) -> None:
    row = {"ask": "What?", "more": "Say it.", "good": "Red.", "bad": "Blue.", "images": ["1.png"]}
    (folder / "d.json").write_text(json.dumps([row]))
    entry = {"file_name": "d.json", "ranking": True}
    columns = {"prompt": "ask", "query": "more", "chosen": "good", "rejected": "bad"}
    (folder / "dataset_info.json").write_text(json.dumps({"mine": entry | {"columns": columns}}))
    found = read_preferences(str(folder / "d.json"))
    assert found.formats == ("alpaca",) and found.examples[0].prompt == "What?\nSay it."
    for value, reason in (({"prompt": ["ask"]}, "'columns.prompt' is a list"), ("ask", "'columns' is a text")):
        (folder / "dataset_info.json").write_text(json.dumps({"mine": entry | {"columns": value}}))
        with pytest.raises(BadInputError, match=reason):
            read_preferences(str(folder / "d.json"))


def test_two_columns_of_one_name_and_damaged_pages_are_named(folder: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, folder / "d.parquet")
    with pytest.raises(BadInputError, match="two columns are called 'prompt'"):
        read_preferences(str(folder / "d.parquet"))
    pq.write_table(pa.Table.from_pylist([GOOD | {"image": {"bytes": png(1), "path": None}}]), folder / "d.parquet")
    (folder / "d.parquet").write_bytes(b"\xef\xbb\xbf" + (folder / "d.parquet").read_bytes())
    with pytest.raises(BadInputError, match=r"a value of the file cannot be read|not a complete Parquet file"):
        read_preferences(str(folder / "d.parquet"))
