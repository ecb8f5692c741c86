"""Memory is flat in the number of items: images are opened when they are needed, and are not kept."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest

from benchmarks.halbench import QUESTIONS, ObjectHalBench
from harness.core.errors import BadInputError
from harness.remote.endpoint import KEY_VARIABLE
from tests.harness.serving.fake_vision import SECRET, seeing
from tests.peak import peak_bytes
from tests.tiny import large_pope, tiny_photograph

FEW, MANY = 200, 800
SIDE = 384
_AN_ITEM = 40_000
"""Bytes that an item may take: its question, its request and its answer, as Python has them, and 10,000 resamples of a byte each.

An image here has 440,000.
"""


@pytest.mark.slow
def test_four_times_the_items_take_no_more_images_at_once(tmp_path: Path) -> None:
    peaks = {}
    with seeing() as server:
        for count in (FEW, MANY):
            large_pope(tmp_path / str(count), count, SIDE)
            command = [sys.executable, "-m", "harness", "eval", "--endpoint", server.url, "--model", "seer", "--suite", "pope",
                       "--data", "data", "--set", "backend.concurrency=8"]  # fmt: skip
            peaks[count] = peak_bytes(command, tmp_path / str(count), **{KEY_VARIABLE: SECRET})
    image = (tmp_path / str(FEW) / "data" / "pope" / "images" / "0.png").stat().st_size
    assert image > 10 * _AN_ITEM, "too small an image to tell"
    assert peaks[MANY] - peaks[FEW] < (MANY - FEW) * _AN_ITEM


def test_halbenchs_images_stay_in_their_file(tmp_path: Path) -> None:
    pictures = [tiny_photograph(tmp_path / f"{number}.png", number).read_bytes() for number in range(3)]
    rows = [
        {"image_id": number, "question": "Describe it: é", "image": base64.b64encode(data).decode()}
        for number, data in enumerate(pictures)
    ]
    path = tmp_path / QUESTIONS
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    (tmp_path / "annotations").mkdir()
    categories = [{"id": 1, "name": "dog"}]
    instances = {
        "images": [{"id": number} for number in range(3)],
        "annotations": [{"id": 1, "image_id": number, "category_id": 1} for number in range(3)],
        "categories": categories,
    }
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps(instances))
    captions = {"images": instances["images"], "annotations": [{"id": 1, "image_id": 0, "caption": "A dog."}]}
    (tmp_path / "annotations" / "captions_val2014.json").write_text(json.dumps(captions))
    items = ObjectHalBench().items(tmp_path)
    assert [item.image.data for item in items] == [None] * 3
    assert [item.image.read() for item in items] == pictures
    path.write_text("{}\n")
    with pytest.raises(BadInputError, match="cannot be read again"):
        items[1].image.read()
