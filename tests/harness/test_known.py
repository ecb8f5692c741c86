"""What was found out about a checkpoint's files is found out once, and again as soon as one of them is another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import BadInputError
from harness.models import inspect, load_processor, template_hash, template_hash_of
from tests.tiny import tiny_llava

ASK_AGAIN = """
import sys
from pathlib import Path
from harness.models import inspect, template_hash_of
folder = Path(sys.argv[1])
print(inspect(folder).architecture, template_hash_of(folder))
assert not {"torch", "transformers"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("known") / "base")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def ask_again(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ASK_AGAIN, str(folder)], capture_output=True, text=True)


def test_the_second_time_nothing_is_imported(base: Path) -> None:
    assert "AssertionError" in ask_again(base).stderr, "the first time it has to be"
    done = ask_again(base)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["LlavaForConditionalGeneration", template_hash(load_processor(base))]


def test_another_file_is_another_question(tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "model")
    before, config = template_hash_of(folder), json.loads((folder / "config.json").read_text())
    inspect(folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ '!' }}")
    assert template_hash_of(folder) == template_hash(load_processor(folder)) != before
    config["text_config"]["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    for _ in range(2):  # a refusal is not kept, and neither is what it was before
        with pytest.raises(BadInputError, match="do not match"):
            inspect(folder)


def test_a_checkpoint_without_a_processor_is_refused_every_time(tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "model")
    template_hash_of(folder)
    for file in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    for _ in range(2):
        with pytest.raises(BadInputError, match="no processor"):
            template_hash_of(folder)
