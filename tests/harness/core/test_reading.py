"""Files that others wrote are read, or refused with what, where and what to do; nothing in them reaches Python's own errors."""

from __future__ import annotations

import codecs
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import TrainSettings, merged, overrides, parse, read_recipe
from harness.core.errors import BadInputError, shown
from harness.core.reading import numbered_rows, read_json, read_jsonl, read_list, read_records, read_text
from harness.core.typed import Fields
from harness.core.yaml_values import parse_yaml

READERS: dict[str, Callable[[Path], Any]] = {
    "json": read_json,
    "jsonl": lambda path: list(read_jsonl(path)),
    "records": lambda path: list(read_records(path)),
    "list": read_list,
    "text": read_text,
    "recipe": read_recipe,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_by_every_reader(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = READERS[name]
    folder, pipe, loop = tmp_path / "folder", tmp_path / "pipe", tmp_path / "loop"
    folder.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # the address of a socket is short
        bound.bind("socket")
        for path, reason in (
            (folder, "is a folder, not a file"),
            (pipe, "is a pipe, a socket or a device"),
            (tmp_path / "socket", "is a pipe, a socket or a device"),
            (Path("/dev/zero"), "is a pipe, a socket or a device"),
            (loop, "cannot be read"),
            (tmp_path / "none", "does not exist"),
            (folder / "a\0b", "cannot be read"),
            (folder / ("x" * 300), "cannot be read"),
            (tmp_path / "\ud800", "cannot be read"),
        ):
            with pytest.raises(BadInputError, match=reason) as raised:
                read(path)
            assert raised.value.remedy and raised.value.where == str(path)


@pytest.mark.parametrize("name", READERS)
def test_other_encodings_are_refused_with_the_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        path.write_bytes('{"a": "über"}\n'.encode(encoding))
        with pytest.raises(BadInputError, match=r"not valid UTF-8.*UTF-(16|32)"):
            READERS[name](path)
    path.write_bytes('{"a": 1}\n{"a": "über"}\n'.encode("latin1"))
    with pytest.raises(BadInputError, match=r"byte 0xfc in line 2") as raised:
        READERS[name](path)
    assert raised.value.where == f"{path}:2" and "iconv" in str(raised.value.remedy)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(codecs.BOM_UTF8 + b'{"a": 1}\n')
    assert read_json(path) == {"a": 1}
    assert list(numbered_rows(path)) == [(1, {"a": 1})]
    path.write_bytes(codecs.BOM_UTF8 + b"\n first \r\n\nsecond\x0b2\n")
    assert read_list(path) == ["first", "second\x0b2"]
    path.write_bytes(codecs.BOM_UTF8 + b"train:\n  seed: 3\n")
    assert read_recipe(path) == {"train": {"seed": 3}}
    path.write_bytes(codecs.BOM_UTF8 + b'[{"a": 1}]')
    assert list(read_records(path)) == [(f"{path}[0]", {"a": 1})]


BAD_VALUES = {
    "NaN": "NaN is not a number in JSON",
    "-Infinity": "Infinity is not a number",
    "1e999": "too large for floating point",
    "9" * 5000: "thousands of digits",
    "9" * 400: "400 digits",
    "[" * 100_000: "nested more than 100",
    "[" * 200 + "]" * 200: "nested more than 100",
    '{"a":' * 150 + "1" + "}" * 150: "nested more than 100",
    "nope": "Expecting value",
    '"\x1b[31m"': "control character",
}


@pytest.mark.parametrize("value", BAD_VALUES, ids=lambda value: value[:12].replace("\x1b", "ESC"))
def test_values_that_json_does_not_have_are_refused_with_file_and_line(tmp_path: Path, value: str) -> None:
    whole, lines = tmp_path / "whole.json", tmp_path / "lines.jsonl"
    whole.write_text('{"a": 1,\n "b": ' + value + "}")
    with pytest.raises(BadInputError, match=BAD_VALUES[value]) as raised:
        read_json(whole, "scores")
    assert str(whole) in str(raised.value.where) and len(str(raised.value)) < 600
    lines.write_text('{"a": 1}\n{"b": ' + value + "}\n")
    with pytest.raises(BadInputError, match=BAD_VALUES[value]) as raised:
        list(read_jsonl(lines, "responses"))
    assert raised.value.where == f"{lines}:2" and "line 2 of the responses" in raised.value.problem


def test_what_a_configuration_of_a_model_may_hold_is_read_where_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"time_step_limit": [0.0, Infinity]}')
    assert read_json(path, finite=False)["time_step_limit"][1] == float("inf")


FIELDS = Fields(
    {
        "text": "word",
        "half": "\ud800",
        "blank": " ",
        "list": ["a", 1],
        "number": 1.5,
        "whole": 3.0,
        "nan": float("nan"),
        "huge": 10**400,
        "flag": True,
        "null": None,
        "inner": {"items": [{"x": "y"}, 5]},
    },
    "file.jsonl:3",
)


def test_fields_of_their_type_are_given() -> None:
    assert FIELDS.text("text") == "word" and FIELDS.text("null", "other") == "other" and FIELDS.text("none", "") == ""
    assert FIELDS.integer("whole") == 3 and FIELDS.number("number", low=1.5, high=1.5) == 1.5
    assert FIELDS.flag("flag") and FIELDS.choice("text", ("word", "other")) == "word"
    assert next(FIELDS.fields("inner").records("items")).text("x") == "y"
    assert FIELDS.items("list") == ["a", 1] and FIELDS.has("text") and not FIELDS.has("null")


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda: FIELDS.text("none"), "has no 'none', which should be a text"),
        (lambda: FIELDS.text("null"), "'null' is null, not a text"),
        (lambda: FIELDS.text("half"), "lone surrogates"),
        (lambda: FIELDS.text("blank", empty=False), "non-empty text"),
        (lambda: FIELDS.text("list"), r"'list' is a list, not a text: \['a', 1\]"),
        (lambda: FIELDS.texts("text"), "'text' is a text, not a list: 'word'"),
        (lambda: FIELDS.texts("list"), "not a list of texts"),
        (lambda: FIELDS.integer("number"), "'number' is a number, not a whole number: 1.5"),
        (lambda: FIELDS.integer("flag"), "'flag' is true or false, not a whole number"),
        (lambda: FIELDS.integer("text"), "not a whole number"),
        (lambda: FIELDS.integer("whole", high=2), "'whole' is 3.0, not at most 2"),
        (lambda: FIELDS.number("nan"), "'nan' is nan, not finite"),
        (lambda: FIELDS.number("huge"), "not finite"),
        (lambda: FIELDS.number("flag"), "not a number"),
        (lambda: FIELDS.numbers("list"), "not a list of finite numbers"),
        (lambda: FIELDS.flag("whole"), "not true or false"),
        (lambda: FIELDS.choice("list", ("a",)), "not one of a"),
        (lambda: FIELDS.fields("text"), "'text' is a text, not an object"),
        (lambda: list(FIELDS.fields("inner").records("items")), r"'inner.items\[1\]' is a whole number, not an object"),
        (lambda: Fields([], "f:1", "question"), "the question is a list, not an object"),
    ],
)
def test_fields_of_another_type_are_refused_with_their_name(ask: Callable[[], Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as raised:
        ask()
    assert raised.value.where in ("file.jsonl:3", "f:1")


def test_settings_are_read_as_the_core_types_of_yaml_1_2() -> None:
    pairs = ("a=1e-5", "b=010", "c=1:30", "d=2020-02-30", "e=no", "f=true", "g=", "h=.5", "i='1'", "j=[1, x]", "k=<<")
    assert overrides(list(pairs)) == {
        "a": 1e-5, "b": 10, "c": "1:30", "d": "2020-02-30", "e": "no", "f": True, "g": None, "h": 0.5, "i": "1",
        "j": [1, "x"], "k": "<<",
    }  # fmt: skip
    assert overrides(["train.lora={rank: 8}", "train.lora.alpha=3"]) == {"train": {"lora": {"rank": 8, "alpha": 3}}}


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("a=!!python/name:os.system", "tags are not supported"),
        ("a=!!int x", "tags are not supported"),
        ("a=&x [1]", "anchors and aliases"),
        ("a={<<: 1}", "merge keys"),
        ("a={b: 1, b: 2}", "appears twice"),
        ("a={1: 2}", "a key is not a text"),
        ("a=.nan", "is not a number that a setting can have"),
        ("a=-.inf", "is not a number that a setting can have"),
        ("a=Infinity", "is not a number that a setting can have"),
        ("a=1e999", "too large for floating point"),
        ("a=" + "9" * 5000, "5,000 digits"),
        ("a=" + "[" * 5000, "nested more than 100"),
        ("a=\x1b[31m", r"the character U\+001B is not allowed"),
        ("a=\ud800", r"the character U\+D800 is not allowed"),
        ("a={b: 1", "it is not valid YAML"),
        ("a=`", "it is not valid YAML"),
        ('a="\\U99999999"', "it is not valid YAML"),
        ("a=1\n---\n2", "it is not valid YAML"),
        ("=1", "is not a setting's name"),
        ("a..b=1", "is not a setting's name"),
        ("\x1b=1", "is not a setting's name"),
        ("x" * 5000 + "=1", "is not a setting's name"),
        ("nothing", "takes KEY=VALUE"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(pair: str, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as raised:
        overrides([pair])
    assert len(str(raised.value)) < 600 and str(raised.value).isprintable()


def test_a_few_lines_that_unfold_to_billions_of_values_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh")))  # noqa: B905
    with pytest.raises(BadInputError, match="anchors and aliases") as raised:
        read_recipe(path)
    assert raised.value.where == f"{path}:1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "not a list: \\[1\\]"),
        ("5", "not a whole number"),
        ("train: 5", "'train' is a group of settings, not a whole number: 5"),
        ("other: {}", "keys 'train' and 'method', not 'other'"),
        ("train:\n\tseed: 1", "cannot start any token"),
        ("train: {seed: 1}\ntrain: {seed: 2}", "appears twice"),
    ],
)
def test_recipes_of_another_form_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=reason):
        read_recipe(path)
    path.write_text("")
    assert read_recipe(path) == {}
    path.write_text("x: " + "y" * (1 << 20))
    with pytest.raises(BadInputError, match="more than 1,048,576 are not read"):
        read_recipe(path)


def test_a_value_is_not_lost_under_a_group() -> None:
    with pytest.raises(BadInputError, match="'train' is a group of settings, not a whole number: 5"):
        merged(overrides(["train=5"]), {"train": {}})
    with pytest.raises(BadInputError, match="given as a group and as a value"):
        overrides(["a.b=1", "a=2"])
    with pytest.raises(BadInputError, match="'train' is a group of settings"):
        parse(TrainSettings, "x", "train")
    with pytest.raises(BadInputError, match=r"unknown setting 'lora.rnk' of train.*known: rank, alpha"):
        parse(TrainSettings, {"lora": {"rnk": 3}}, "train")
    with pytest.raises(BadInputError, match="learning_rate") as raised:
        parse(TrainSettings, {"learning_rate": "x" * 5000}, "train")
    assert len(str(raised.value)) < 400


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(JSON_VALUES)
def test_a_value_in_a_message_is_short_and_shows_no_control_characters(value: Any) -> None:
    text = shown(value)
    assert len(text) <= 80 and text.isprintable()


@given(st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(data)
    for read in READERS.values():
        try:
            read(path)
        except BadInputError as error:
            assert len(error.problem) < 500 and str(path) in str(error.where)


@given(st.text(st.characters(), max_size=60))
def test_any_text_is_a_setting_or_refused(text: str) -> None:
    try:
        value = parse_yaml(text, "the value", None)
    except BadInputError as error:
        assert str(error).isprintable() and len(str(error)) < 500
    else:
        json.dumps(value, allow_nan=False)
