"""What was found out about a checkpoint's files is found out once, and again as soon as one of them is another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.core.errors import BadInputError
from harness.core.files import sha256_bytes
from harness.models import inspect, known, load_processor, template_hash, template_hash_of
from tests.tiny import tiny_llava

ASK_AGAIN = """
import sys
import time
from pathlib import Path
from harness.core.files import sha256_bytes
from harness.models import inspect, known, template_hash_of
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


@pytest.mark.slow
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


def test_a_large_files_hash_is_kept_until_anything_of_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_bytes(path.read_bytes())

    monkeypatch.setattr(known, "sha256_file", counted)
    monkeypatch.setattr(known, "LARGE", 8)
    file = tmp_path / "model.safetensors"

    def told(content: bytes) -> int:
        """How often the file was read for its hash, which must be right, by a process that remembers nothing."""
        known._file_hash.cache_clear()
        before = len(read)
        assert known.file_hash(file) == sha256_bytes(content)
        return len(read) - before

    file.write_bytes(b"some weights")
    assert [told(b"some weights") for _ in range(2)] == [1, 1], "it was written just now"
    monkeypatch.setattr(known, "SETTLED", 0.0)
    assert [told(b"some weights") for _ in range(2)] == [1, 0]

    times = file.stat()
    time.sleep(0.05)  # longer than a tick of the file system's clock
    file.write_bytes(b"more weights")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [told(b"more weights") for _ in range(2)] == [1, 0], "another content of the same size and time"
    (tmp_path / "other").write_bytes(b"less weights")
    os.utime(tmp_path / "other", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "other").replace(file)
    assert told(b"less weights") == 1, "another file of the same name, size and time"

    small = tmp_path / "small"
    small.write_bytes(b"few")
    assert [known.file_hash(small), known.file_hash(small)] == [sha256_bytes(b"few")] * 2
    known._file_hash.cache_clear()
    assert known.file_hash(small) and read.count(small) == 2, "a small one is read in every process"


def test_a_cache_that_cannot_be_written_only_costs_time(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    assert inspect(base).architecture == "LlavaForConditionalGeneration"


def test_a_checkpoint_without_a_processor_is_refused_every_time(tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "model")
    template_hash_of(folder)
    for file in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    for _ in range(2):
        with pytest.raises(BadInputError, match="no processor"):
            template_hash_of(folder)
