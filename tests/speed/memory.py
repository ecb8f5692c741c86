"""Whether the harness's memory is flat in the number of items: vLLM answers, each item has a large image of its own."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.peak import peak_bytes
from tests.tiny import large_pope, tiny_llava

SIDE = 512


@dataclass(frozen=True)
class Growth:
    """What more items took: `item` is bytes of memory for each of them, `written` what the run's files have of it, `image` an image's."""

    item: float
    written: float
    image: int


def growth(few: int, many: int) -> Growth:
    """The peaks of the harness's own process at both numbers of items, and what an item more came to."""
    peaks, written, image = {}, {}, 0
    with tempfile.TemporaryDirectory() as temporary:
        base = tiny_llava(Path(temporary) / "base")
        for count in (few, many):
            folder = large_pope(Path(temporary) / str(count), count, SIDE)
            command = [sys.executable, "-m", "harness", "eval", "--model", str(base), "--suite", "pope", "--data", "data",
                       "--backend", "vllm", "--set", "sampling.max_new_tokens=8"]  # fmt: skip
            peaks[count] = peak_bytes(command, folder)
            written[count] = sum(file.stat().st_size for file in (folder / "results").rglob("*") if file.is_file())
            image = (folder / "data" / "pope" / "images" / "0.png").stat().st_size
            shutil.rmtree(folder)
    return Growth((peaks[many] - peaks[few]) / (many - few), (written[many] - written[few]) / (many - few), image)
