"""Whether the harness's memory is flat in the number of items: answers of vLLM, large images; and a large file for `harness score`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
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


def score_file(megabytes: float) -> tuple[float, float]:
    """Memory of `harness score` above its start-up as a share of a file of descriptions, 150 words each; seconds it took.

    Start-up is what a file of a few descriptions takes.
    """
    from tests.speed.scoring import descriptions

    peaks, seconds, size = [], 0.0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth = [{"image_id": n, "instances": ["dog"], "captions": ["A dog and a cup."]} for n in range(500)]
        (folder / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
        texts = descriptions(2000, 150)
        for wanted in (500_000, megabytes * 1e6):
            size, number = 0, 0
            with (folder / "said.jsonl").open("w") as stream:
                while size < wanted:
                    row = {"image_id": number % 500, "text": f"{texts[number % 2000]} Picture {number}."}
                    size += stream.write(json.dumps(row) + "\n")
                    number += 1
            command = [sys.executable, "-m", "harness", "score", "--suite", "halbench", "--annotations", "truth.jsonl",
                       "--responses", "said.jsonl"]  # fmt: skip
            start = time.perf_counter()
            peaks.append(peak_bytes(command, folder))
            seconds = time.perf_counter() - start
    return (peaks[1] - peaks[0]) / size, seconds
