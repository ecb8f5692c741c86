"""Spoiled files for `harness score`: numbers come out, or one paragraph that says what is wrong; never anything else.

2,000 spoilings by default; `-m exhaustive` tries twenty times as many.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands import run_here

GT = [{"image_id": n, "instances": ["dog", "car"], "captions": ["A dog and a car.", "A cup."]} for n in range(4)]
SAID = [{"image_id": n, "text": "The image shows a dog, a cat and a teddy-bear."} for n in range(4)]
AMBER = [
    {"id": 1, "type": "generative", "truth": ["dog", "car"], "hallu": ["cat"]},
    {"id": 2, "type": "generative", "truth": ["cup"], "hallu": ["cat"]},
    {"id": 3, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 4, "type": "discriminative-hallucination", "truth": "no"},
]
AMBER_SAID = [{"id": n, "response": text} for n, text in enumerate(("A dog and a cat.", "A cup.", "Yes", "No"), 1)]
RELATIONS = {"dog": ["puppy"], "car": [], "cat": [], "cup": []}
QUESTIONS = [
    {"question_id": n, "image": f"{n}.jpg", "text": "Is there a dog?", "label": ("yes", "no")[n % 2]}
    for n in range(1, 7)
]
ANSWERS = [{"question_id": n, "answer": "Yes, there is."} for n in range(1, 7)]
SAMPLES = [{"doc": {"question_id": str(n)}, "resps": [["Yes"]], "filtered_resps": ["No"]} for n in range(1, 7)]
REVIEWS = [{"index": n, "review": f"Good. Rating: {n}"} for n in range(7)]
COCO = {
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [{"image_id": n, "category_id": 1} for n in range(4)],
}
CAPTIONS = {"annotations": [{"image_id": n, "caption": "a dog"} for n in range(4)]}
WORDS = "dog, puppy\ncat, kitten\ncar, automobile\n"

Sound = tuple[list[str], dict[str, Any]]
SOUND: list[Sound] = [
    (
        ["--suite", "halbench", "--annotations", "ann.jsonl", "--responses", "hal.jsonl", "--synonyms", "syn.txt"],
        {"ann.jsonl": GT, "hal.jsonl": SAID, "syn.txt": WORDS},
    ),
    (
        ["--suite", "chair", "--annotations", "coco", "--responses", "hal.json", "--matched-words", "4"],
        {"coco/instances_val2014.json": COCO, "coco/captions_val2014.json": CAPTIONS, "hal.json": SAID},
    ),
    (
        ["--suite", "amber", "--annotations", "a.json", "--relations", "r.json", "--safe-words", "s.txt", "--responses", "ar.jsonl",
         "--similarity", "table:sim.json"],
        {"a.json": AMBER, "r.json": RELATIONS, "s.txt": "image\npicture\n", "ar.jsonl": AMBER_SAID, "sim.json": [["dog", "cat"]]},
    ),
    (
        ["--suite", "pope", "--questions", "q_random.json", "--responses", "pa.jsonl"],
        {"q_random.json": QUESTIONS, "pa.jsonl": ANSWERS},
    ),
    (
        ["--suite", "pope-gqa", "--questions", "q_popular.jsonl", "--responses", "pa.json"],
        {"q_popular.jsonl": QUESTIONS, "pa.json": SAMPLES},
    ),
    (["--suite", "mmhal", "--reviews", "rev.jsonl"], {"rev.jsonl": REVIEWS}),
]  # fmt: skip

HUGE, DEEP = "@@HUGE@@", "@@DEEP@@"
ODD = st.sampled_from(
    [None, True, False, 0, -1, 1, 1.9, 2.0, 1e308, -0.0, 2**63, "", " ", "Yes", "NO ", "yes", "dog", "0", "1", "-1", "000000000002",
     "../x", "/etc/passwd", "\x1b[31mRED\x07", "\ud800", "\u202e", "a\0b", "%s%n", "{question}", "<image>", "x" * 5000, "[" * 3000,
     [], [[]], {}, {"a": 1}, [None], ["dog"], float("nan"), float("inf"), HUGE, DEEP, "Rating: 4/10", "Rating (0-6): 5",
     "<think>", "teddy-bear-" * 50, "generative", "relation", 30_000_000]
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [place for key, one in inner for place in _places(one, (*path, key))]


@st.composite
def spoiled_values(draw: Callable[[Any], Any], value: Any) -> Any:
    """The value with one to three of its parts replaced, removed, doubled, or put under another key."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(value)[1:]
        if not places:
            return value
        *path, last = draw(st.sampled_from(places))
        node = value
        for key in path:
            node = node[key]
        kind = draw(st.sampled_from(["set", "set", "set", "delete", "double", "rename"]))
        if kind == "set":
            node[last] = copy.deepcopy(draw(ODD))  # or a later part would change what ODD holds
        elif kind == "double" and isinstance(node, list):
            node.append(copy.deepcopy(node[last]))
        elif kind == "rename" and isinstance(node, dict):
            node[draw(st.sampled_from(["text", "answer", "response", "prediction", "refusal", "resps", "doc"]))] = (
                node.pop(last)
            )
        else:
            del node[last]
    return value


def _dumped(value: Any) -> str:
    return json.dumps(value).replace(f'"{HUGE}"', "9" * 5000).replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000)


def _written(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if name.endswith(".jsonl") and isinstance(value, list):
        return "".join(_dumped(row) + "\n" for row in value).encode()
    return _dumped(value).encode()


@st.composite
def spoiled_bytes(draw: Callable[[Any], Any], data: bytes) -> bytes | None:
    """The bytes spoiled as files are; None is a folder in the place of the file."""
    kind = draw(
        st.sampled_from(
            ["cut", "flip", "mark", "utf16", "cr", "crlf", "random", "deep", "empty", "null", "twice", "folder"]
        )
    )
    place = draw(st.integers(0, max(0, len(data) - 1)))
    made: dict[str, bytes | None] = {
        "cut": data[:place],
        "flip": data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :],
        "mark": b"\xef\xbb\xbf" + data,
        "utf16": data.decode("utf-8", "replace").encode("utf-16"),
        "cr": data.replace(b"\n", b"\r"),
        "crlf": data.replace(b"\n", b"\r\n"),
        "random": draw(st.binary(max_size=200)),
        "deep": b"[" * 50_000,
        "empty": b"",
        "null": b"null",
        "twice": data + data,
        "folder": None,
    }
    return made[kind]


@st.composite
def commands(draw: Callable[[Any], Any]) -> tuple[list[str], dict[str, bytes | None]]:
    """Arguments and files of a command whose files are spoiled."""
    arguments, sound = draw(st.sampled_from(SOUND))
    spoiled = draw(st.sampled_from(sorted(sound)))
    files: dict[str, bytes | None] = {name: _written(name, value) for name, value in sound.items()}
    if isinstance(sound[spoiled], str) or draw(st.integers(0, 4)) == 0:
        files[spoiled] = draw(spoiled_bytes(files[spoiled]))
    else:
        files[spoiled] = _written(spoiled, draw(spoiled_values(sound[spoiled])))
    more = draw(st.sampled_from([[], ["--json"], ["--allow-partial"], ["--items", "i.jsonl"], ["--max-unscored", "1"]]))
    return [*arguments, *more], files


def _try(case: tuple[list[str], dict[str, bytes | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, files = case
    folder = Path(tempfile.mkdtemp())
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.mkdir() if data is None else path.write_bytes(data)
        monkeypatch.chdir(folder)
        before, start = sorted(folder.rglob("*")), time.process_time()
        code, out, said = run_here(["score", *arguments])
        took = time.process_time() - start
        assert code in (0, 2), said
        assert took < 5, f"{took} s of the processor, where two are wanted at the most"
        if code == 2:
            assert said.startswith("error: ") and not out and len(said) <= 2000, said
            assert sorted(folder.rglob("*")) == before, "nothing is written"
        for text in (out, said):
            assert "defect" not in text and "Traceback" not in text, text
            assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    finally:
        monkeypatch.undo()
        shutil.rmtree(folder)


FUZZ = settings(
    max_examples=2000, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def test_sound_files_are_scored() -> None:
    import spacy  # noqa: F401 (what a process imports once is no part of a command's time here)

    for arguments, sound in SOUND:
        patch = pytest.MonkeyPatch()
        files: dict[str, bytes | None] = {name: _written(name, value) for name, value in sound.items()}
        _try((arguments, files), patch)


@pytest.mark.slow
@given(commands())
@FUZZ
def test_a_spoiled_file_gives_numbers_or_one_paragraph(case: tuple[list[str], dict[str, bytes | None]]) -> None:
    _try(case, pytest.MonkeyPatch())


@pytest.mark.exhaustive
@given(commands())
@settings(FUZZ, max_examples=40_000, derandomize=False)
def test_many_more_spoiled_files(case: tuple[list[str], dict[str, bytes | None]]) -> None:
    _try(case, pytest.MonkeyPatch())
