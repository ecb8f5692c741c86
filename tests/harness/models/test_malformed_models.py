"""Malformed files of a model end as one paragraph: what, where, remedy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import app
from harness.cli.errors import run
from harness.core.errors import HarnessError
from tests.tiny import tiny_llava, tiny_photograph


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("exported") / "base")


def nested(**values: Any) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        for name, value in values.items():
            *parts, last = name.split("__")
            place = config
            for part in parts:
                place = place[part]
            place[last] = value

    return change


TEXTS = {
    "nothing": "",
    "a list": "[1, 2]",
    "a text": '"x"',
    "null": "null",
    "cut": '{"model_type": "llava"',
    "an empty object": "{}",
    "a number of thousands of digits": '{"model_type": "llava", "vocab_size": ' + "9" * 6000 + "}",
    "deep nesting": '{"a":' * 5000 + "1" + "}" * 5000,
    "another encoding": "\x00\x01",
    "a list as type": '{"model_type": ["llava"]}',
    "a number as type": '{"model_type": 5}',
    "an unknown type": '{"model_type": "nobodys"}',
}
CHANGES = {
    "no width": nested(text_config__hidden_size=None),
    "NaN as width": nested(text_config__hidden_size=float("nan")),
    "infinitely many layers": nested(text_config__num_hidden_layers=float("inf")),
    "a negative width": nested(text_config__hidden_size=-128),
    "no heads": nested(text_config__num_attention_heads=0),
    "a billion layers": nested(text_config__num_hidden_layers=10**9),
    "a billion layers of the tower": nested(vision_config__num_hidden_layers=10**9),
    "a huge vocabulary": nested(text_config__vocab_size=10**18),
    "beyond 64 bits": nested(text_config__hidden_size=10**30),
    "a text as width": nested(text_config__hidden_size="128"),
    "a list as part": nested(text_config=[1]),
    "a text as part": nested(vision_config="clip"),
    "an unknown part": nested(text_config__model_type="nobodys"),
    "a patch of nothing": nested(vision_config__patch_size=0),
    "an activation that is none": nested(text_config__hidden_act="nobodys"),
    "a dtype that is none": nested(dtype="float3"),
}
FILES = {
    "tokenizer.json": ("{}", "[]", '{"model": {"type": "BPE"}}', ""),
    "tokenizer_config.json": ("[]", '{"tokenizer_class": 5}', "", '{"tokenizer_class": "Nobodys"}'),
    "processor_config.json": (
        "[]",
        '{"processor_class": 5}',
        "",
        '{"processor_class": "LlavaProcessor", "patch_size": "x"}',
    ),
    "generation_config.json": ("[]", "", '{"eos_token_id": "x"}'),
}
CASES: dict[str, tuple[str, str | Callable[[dict[str, Any]], object]]] = {
    **{f"config.json: {name}": ("config.json", text) for name, text in TEXTS.items()},
    **{f"config.json: {name}": ("config.json", change) for name, change in CHANGES.items()},
    **{f"{file}: {text!r}": (file, text) for file, texts in FILES.items() for text in texts},
}


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_spoiled_file(case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, change = CASES[case]
    path = folder / file
    if isinstance(change, str):
        path.write_text(change)
    else:
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))
    picture = tiny_photograph(tmp_path / "p.png", 0)
    code = run(app, ["ask", str(folder), str(picture), "what is this", "--max-new-tokens", "2"])
    said = capsys.readouterr()
    # What a model can do without, or reads as it is meant, is no error.
    harmless = case.startswith("generation_config.json") or case == "config.json: a dtype that is none"
    assert code == 2 or (harmless and code == 0), said.err
    if code:
        # A library's warning on the way is in a file, which the first line names.
        words = re.sub(r"\Amessages of other libraries: .*\n", "", said.err)
        assert words.startswith("error: ") and "remedy: " in words and str(folder) in words
        assert len(said.err) <= 2000 and "defect" not in said.err and said.err.count("error: ") == 1
        assert not set(said.err) & {chr(code) for code in range(32)} - {"\n"}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("kind", ["a folder", "a loop of links", "a broken link"])
def test_something_else_in_the_place_of_a_file(
    file: str, kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / file
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "a loop of links" else tmp_path / "nowhere")
    code = run(app, ["ask", str(folder), str(tiny_photograph(tmp_path / "p.png", 0)), "what", "--max-new-tokens", "2"])
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("error: ") and "remedy: " in said and "defect" not in said, said
    assert len(said) <= 2000


def test_the_message_of_a_library_is_cut_to_its_first_line() -> None:
    from harness.models.pretrained import first_line, reading

    assert first_line(ValueError("")) == "ValueError"
    assert (
        first_line(ValueError("Error(s) in loading:\n\tsize mismatch for a\nmore"))
        == "Error(s) in loading: size mismatch for a"
    )
    with pytest.raises(HarnessError, match="what failed: KeyError: 'a'"), reading("/", "what failed"):
        raise KeyError("a")
    with pytest.raises(MemoryError), reading("/", "what failed"):
        raise MemoryError
