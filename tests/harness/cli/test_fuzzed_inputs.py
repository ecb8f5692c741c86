"""Whatever people give as data, settings, recipes and pictures: read, or refused in a short paragraph. Never a traceback.

2,000 inputs, the same ones every time; `-m exhaustive` draws twenty times as many, others every time.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.core.errors import BadInputError
from harness.core.types import ImageRef
from tests.commands import run_bounded

_EXHAUSTIVE = 20


def fuzzed(examples: int, **strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Draw so many inputs for a check; in the exhaustive run more, and at random."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize(
            "times", [1, pytest.param(_EXHAUSTIVE, marks=[pytest.mark.exhaustive, pytest.mark.timeout(3600)])]
        )
        def test(times: int) -> None:
            settings(
                max_examples=examples * times,
                derandomize=times == 1,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )(given(**strategies)(check))()

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return decorate


def command(arguments: list[str], folder: Path) -> int:
    """A command in this process and a folder: how it ended, once what it said was looked at."""
    before = sorted(folder.rglob("*"))
    code, _, _ = run_bounded(arguments, folder)
    assert sorted(folder.rglob("*")) == before, "a refused input leaves nothing behind"
    return code


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind)
    return stream.getvalue()


ODD = st.sampled_from(
    ["", " ", "\x1b[31mRED\x1b]0;pwn\x07", "\ud800", "\0", "\u202e", "<image>", "</s>", "x" * 5000, "../../etc/passwd", "/dev/zero",
     ".", "http://127.0.0.1:9/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA", "None", "1e999", "[/]", "{}", 0, -1, 1.5,
     True, False, None, [], {}, [[]], 10**30, -(10**400), float("nan"), float("inf"), [None], {"a": {"b": [1]}}, {"bytes": "x"},
     {"path": 5}, {"bytes": None, "path": "1.png"}, [{"role": "user"}], [{"role": None, "content": 5}], [{"type": "image"}]]
)  # fmt: skip
VALUES = st.recursive(
    ODD | st.text(st.characters(), max_size=20) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "a"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
TURN = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
ROWS: list[dict[str, Any]] = [
    {"image": "1.png", "prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog.", "id": "a",
     "chosen_spans": [[0, 2]], "rejected_spans": [[0, 1]], "objects": [{"label": "cat", "box": [0, 0, 5, 5]}]},
    {"image": "1.png", "question": "What is it?", "chosen": "A cat.", "rejected": "A dog.", "idx": 3, "origin_dataset": "coco"},
    {"image": "1.png", "text": json.dumps({"question": "What?", "chosen": "A cat.", "rejected": "A dog."})},
    {"images": ["1.png"], "prompt": [TURN], "chosen": [{"role": "assistant", "content": "A cat."}],
     "rejected": [{"role": "assistant", "content": "A dog."}], "rejected_images": ["1.png"]},
    {"images": ["1.png"], "chosen": "It is a cat.", "rejected": "It is a dog."},
    {"conversations": [{"from": "human", "value": "What?"}], "images": ["1.png"], "system": "",
     "chosen": {"from": "gpt", "value": "A cat."}, "rejected": {"from": "gpt", "value": "A dog."}},
    {"messages": [TURN, {"role": "assistant", "content": "A cat."}], "rejected_response": "A dog.", "images": ["1.png"]},
    {"instruction": "What?", "input": "Say it.", "chosen": "A cat.", "rejected": "A dog.", "images": ["1.png"], "history": []},
]  # fmt: skip
COLUMNS = sorted({name for row in ROWS for name in row} | {"rejected_image", "tools", "category", "\x1b[31m"})


@st.composite
def rows(draw: st.DrawFn) -> list[Any]:
    """Records of a format, some of them spoiled: a column lost, changed or added, or no record at all."""
    row = draw(st.sampled_from(ROWS))
    drawn: list[Any] = [dict(row) for _ in range(draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(drawn) - 1))
        if not isinstance(drawn[place], dict):
            continue
        name = draw(st.sampled_from([*row, *COLUMNS]))
        if draw(st.booleans()):
            drawn[place][name] = draw(VALUES)
        else:
            drawn[place].pop(name, None)
        if draw(st.integers(0, 20)) == 0:
            drawn[place] = draw(VALUES)
    return drawn


def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes after accidents: cut, changed, written in another encoding, with something in front."""
    accident = draw(st.sampled_from(["none", "none", "cut", "flip", "insert", "mark", "utf-16", "latin1", "twice"]))
    place = draw(st.integers(0, len(data)))
    if accident == "cut":
        return data[:place]
    if accident == "flip":
        for _ in range(draw(st.integers(1, 8))):
            place = draw(st.integers(0, max(0, len(data) - 1)))
            data = data[:place] + draw(st.binary(min_size=1, max_size=1)) + data[place + 1 :]
        return data
    if accident == "insert":
        return (
            data[:place]
            + draw(st.binary(max_size=8) | st.sampled_from([b"[" * 3000, b"9" * 5000, b"\0", b"NaN"]))
            + data[place:]
        )
    if accident == "mark":
        return draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0\0"])) + data
    if accident in ("utf-16", "latin1"):
        return data.decode("latin1").encode(accident)
    return data * 2 if accident == "twice" else data


@st.composite
def data_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of preference data, sound or not."""
    drawn = draw(rows())
    suffix = draw(st.sampled_from(["jsonl", "jsonl", "json", "parquet", "arrow"]))
    if suffix in ("parquet", "arrow"):
        try:
            records = [one for one in drawn if isinstance(one, dict)]
            tables = []
            for record in records:
                if draw(st.booleans()) and record.get("image") == "1.png":
                    record = {**record, "image": {"bytes": picture(), "path": None}}
                tables.append(record)
            table = pa.Table.from_pylist(tables)
            sink = io.BytesIO()
            if suffix == "parquet":
                pq.write_table(table, sink)
            else:
                with pa.ipc.new_stream(sink, table.schema) as stream:
                    stream.write_table(table)
            return f"d.{suffix}", spoiled(draw, sink.getvalue())
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):  # no table can hold this
            suffix = "jsonl"
    text = json.dumps(drawn) if suffix == "json" else "".join(json.dumps(one) + "\n" for one in drawn)
    return f"d.{suffix}", spoiled(draw, text.encode())


def folder_of(name: str, content: bytes, stack: contextlib.ExitStack) -> Path:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / "1.png").write_bytes(picture())
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.slow
@fuzzed(
    740,
    file=data_files(),
    more=st.sampled_from(
        [[], [], ["--json"], ["--on-error", "skip"], ["--format", "trl"], ["--format", "plain", "--json"], ["--limit", "2"],
         ["--columns", "prompt=question"], ["--columns", "image=images,prompt=instruction"], ["--image-root", "/tmp"]]
    ),
)  # fmt: skip
def test_data_check(file: tuple[str, bytes], more: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        folder = folder_of(*file, stack)
        command(["data", "check", file[0], *more], folder)


TEXTS = (
    st.text(st.characters(), max_size=30)
    | st.sampled_from(
        ["!!python/object/apply:os.system [x]", "!!int x", "&a [*a]", "*x", "{<<: 1}", ".nan", ".inf", "1e999", "2020-02-30", "1:30", "`",
         "%", "@", "'", '"', "{a: 1", "[" * 3000, "9" * 5000, "\x1b[31m", "\ud800", "\0", "\t", "? x", "- x", "a: b", "010", "yes", "~"]
    )
    | VALUES.map(lambda value: json.dumps(value, default=str) if abs(len(repr(value))) < 4000 else "x")
)  # fmt: skip
KEYS = st.sampled_from(
    ["train", "train.seed", "train.lora", "train.lora.rank", "train.epochs", "train.report_to", "train.savings", "method",
     "method.beta", "method.images", "method.images.step", "a.b", "", ".", "train.", ".train", "\x1b", "train.lora.rank.x", "__class__"]
) | st.text(st.characters(), max_size=10)  # fmt: skip
ALIGN = ["align", "--model", "./none", "--data", "none.jsonl", "--name", "one", "--results", "results"]


@pytest.mark.slow
@fuzzed(
    500,
    pairs=st.lists(st.tuples(KEYS, TEXTS), min_size=1, max_size=3),
    method=st.sampled_from(["dpo", "mfpo", "rlhfv"]),
)
def test_settings(pairs: list[tuple[str, str]], method: str) -> None:
    given_ = [part for key, text in pairs for part in ("--set", f"{key}={text}")]
    with tempfile.TemporaryDirectory() as folder:
        assert command([*ALIGN, "--method", method, *given_], Path(folder)) == 2


@st.composite
def recipes(draw: st.DrawFn) -> bytes:
    lines = ["train:", "  learning_rate: 0.0001", "  lora:", "    rank: 8", "method:", "  beta: 0.1"]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        lines[place] = lines[place].partition(":")[0] + ": " + draw(TEXTS)
    return spoiled(draw, "\n".join(lines).encode("utf-8", "surrogatepass"))


@pytest.mark.slow
@fuzzed(400, content=recipes() | st.binary(max_size=60))
def test_recipes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "r.yaml").write_bytes(content)
        assert command([*ALIGN, "--method", "dpo", "--recipe", "r.yaml"], Path(name)) == 2


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "bomb", "other"]))
    if kind == "other":
        return draw(
            st.sampled_from(
                [b"", b"%PDF-1.7", b"<svg xmlns='x'/>", b"<?xml version='1.0'?><svg/>", b"<!DOCTYPE html>", b"GIF89a"]
            )
            | st.binary(max_size=40)
        )
    if kind == "bomb":
        header = struct.pack(
            ">IIBBBBB", draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**32 - 1)), 8, 2, 0, 0, 0
        )
        chunk = b"IHDR" + header
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return spoiled(draw, picture(kind, draw(st.sampled_from(["RGB", "L"])), (draw(st.integers(1, 40)), 7)))


@pytest.mark.slow
@fuzzed(300, data=pictures())
def test_pictures(data: bytes) -> None:
    with contextlib.ExitStack() as stack:
        folder = folder_of("p.png", data, stack)
        row = {"image": "p.png", "prompt": "What?", "chosen": "A cat.", "rejected": "A dog."}
        inline = row | {"image": base64.b64encode(data).decode()}
        (folder / "d.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(inline) + "\n")
        command(["data", "check", "d.jsonl"], folder)
        for look in (ImageRef(path=folder / "p.png").open, ImageRef(data=data).facts, ImageRef(data=data).size):
            with contextlib.suppress(BadInputError):
                look()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness.models import export_full
    from tests.tiny import tiny_parts

    folder = tmp_path_factory.mktemp("model") / "tiny"
    model, processor = tiny_parts()
    export_full(model, processor, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, pytest.param(_EXHAUSTIVE, marks=pytest.mark.exhaustive)])
def test_align_before_anything_is_trained(base: Path, times: int) -> None:
    """The last record can never be used, so that sound data end here, too."""

    @settings(
        max_examples=60 * times,
        derandomize=times == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(found=rows(), columns=st.sampled_from([[], ["--columns", "prompt=question"], ["--image-root", "."]]))
    def check(found: list[Any], columns: list[str]) -> None:
        lines = []
        for row in [*found, {**ROWS[0], "image": "none.png"}]:
            with contextlib.suppress(ValueError):
                lines.append(json.dumps(row))
        with contextlib.ExitStack() as stack:
            folder = folder_of("d.jsonl", "\n".join(lines).encode(), stack)
            (folder / "results").mkdir()
            arguments = ["align", "--method", "dpo", "--model", str(base), "--data", "d.jsonl", "--dry-run", *columns]
            assert command(arguments, folder) == 2

    gc.freeze()  # `align` collects garbage before it loads a model: a hundred times over all that torch brings would take a minute
    try:
        check()
    finally:
        gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        [b"data", b"check", b"d\xff.jsonl"],
        [b"data", b"check", b"x" * 5000],
        [b"align", b"--method", b"\x1b[31m", b"--model", b"x"],
        [b"align", b"--method", b"dpo", b"--model", b"none/x", b"--set", b"train.seed=\xed\xa0\x80"],
        [b"align", b"--method", b"dpo", b"--model", b"none/x", b"--recipe", b"/dev/zero"],
        [b"data", b"check", b"--columns", b"\xff=a", b"d.jsonl"],
    ],
)
@pytest.mark.parametrize("locale", ["C", "en_US.UTF-8"])
def test_in_a_process_of_its_own(arguments: list[bytes], locale: str, tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": locale, "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"harness", *arguments],
        cwd=tmp_path,
        capture_output=True,
        env=environment,
        timeout=60,
    )
    said = done.stderr.decode("utf-8", "backslashreplace")
    assert done.returncode == 2 and "error: " in said and "defect" not in said and len(said) <= 2000
    assert b"\x1b" not in done.stderr and not any(tmp_path.iterdir())
