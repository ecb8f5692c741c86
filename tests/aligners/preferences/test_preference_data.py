"""Readers of preference data: the public formats, and everything that can be wrong with a record."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.preferences import read_preferences
from harness.core.errors import BadInputError, HarnessError
from tests.tiny import decompression_bomb


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def rlaif(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "ds_name": "set",
        "image": {"bytes": png(number), "path": f"{number}.png"},
        "question": "What is it?",
        "chosen": "A dog.",
        "rejected": "A cat.",
        "origin_dataset": "origin",
        "origin_split": "{}",
        "idx": number,
        "image_path": f"{number}.png",
    }
    return row | changes


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return str(path)


def test_rlaif_v(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist(
            [rlaif(1, objects=None), rlaif(2, objects=[{"label": "dog", "box": [0.0, 0.0, 4.0, 4.0]}])]
        ),
        tmp_path / "a.parquet",
    )
    found = read_preferences(str(tmp_path))
    first, second = found.examples
    assert (first.id, first.prompt, dict(first.responses), first.source) == (
        "1",
        "What is it?",
        {"chosen": "A dog.", "rejected": "A cat."},
        "origin",
    )
    assert first.images["original"].open().size == (8, 8)
    assert first.corrections is None
    assert second.regions[0].label == "dog"


def test_rlhf_v_has_its_texts_in_json(tmp_path: Path) -> None:
    said = {"question": "What is it?", "chosen": "A dog.", "rejected": "A cat."}
    row = {key: value for key, value in rlaif(1).items() if key not in said} | {
        "text": json.dumps(said),
        "chosen_spans": [[2, 5]],
        "rejected_spans": [[2, 5]],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (example,) = read_preferences(str(tmp_path / "a.parquet")).examples
    assert dict(example.responses) == {"chosen": "A dog.", "rejected": "A cat."}
    assert example.corrections == {"chosen": ((2, 5),), "rejected": ((2, 5),)}


def test_plain_jsonl_with_files_and_base64(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    inline = base64.b64encode(png(1)).decode()
    rows = [
        {
            "image": "x.png",
            "prompt": "p",
            "chosen": "a",
            "rejected": "b",
            "rejected_image": f"data:image/png;base64,{inline}",
        }
    ]
    (example,) = read_preferences(jsonl(tmp_path / "d.jsonl", rows)).examples
    assert set(example.images) == {"original", "rejected"}
    assert example.images["rejected"].fingerprint() != example.images["original"].fingerprint()


GOOD = {"image": "x.png", "prompt": "p", "chosen": "a", "rejected": "b"}
BAD = {
    "no image": ({"prompt": "p", "chosen": "a", "rejected": "b"}, "no image"),
    "missing file": (GOOD | {"image": "y.png"}, "does not exist"),
    "does not decode": (GOOD | {"image": "broken.png"}, "does not decode"),
    "outside the folder": (GOOD | {"image": "../x.png"}, "leaves the data folder"),
    "url": (GOOD | {"image": "https://example.org/x.png"}, "URL"),
    "empty chosen": (GOOD | {"chosen": "  "}, "'chosen' is empty"),
    "identical": (GOOD | {"rejected": "a "}, "identical"),
    "wrong type": (GOOD | {"rejected": 3}, "not text"),
    "stray token": (GOOD | {"prompt": "p <image> q"}, "the prompt contains a stray '<image>'"),
    "two placeholders": (GOOD | {"prompt": "<image><image> p"}, "stray"),
    "placeholder in a response": (GOOD | {"chosen": "<image> a"}, "'chosen' contains a stray '<image>'"),
    "another family's token": (GOOD | {"prompt": "<|image_pad|> p"}, r"stray '<\|image_pad\|>'"),
    "nothing but a placeholder": (GOOD | {"prompt": " <image> "}, "the prompt is empty except for the image"),
    "an invisible response": (GOOD | {"rejected": "\u200b\u2060 \n"}, "'rejected' is empty"),
    "half a character": (GOOD | {"chosen": "a\ud83d"}, r"half of a character \(position 1\)"),
    "no prompt": ({"image": "x.png", "chosen": "a", "rejected": "b"}, "there is no 'prompt'"),
    "image of a wrong type": (GOOD | {"image": 7}, "the image is a whole number, not a path"),
    "two images": (GOOD | {"image": ["x.png", "x.png"]}, "the record has 2 images"),
    "another scheme": (GOOD | {"image": "file:///etc/passwd"}, "URL of a kind that is not downloaded"),
    "absolute path": (GOOD | {"image": "/etc/passwd"}, "leaves the data folder: /etc/passwd"),
    "link to outside": (GOOD | {"image": "link.png"}, "leaves the data folder"),
    "NUL in a path": (GOOD | {"image": "x\0.png"}, "does not exist"),
    "bomb": (GOOD | {"image": "bomb.png"}, "more than 178956970 pixels"),
    "broken line": ('{"image": "x.png", ', "not valid JSON"),
    "not an object": ("[1]", "not a JSON object"),
    "span outside": (GOOD | {"chosen_spans": [[0, 9]]}, "outside"),
    "box upside down": (GOOD | {"objects": [{"label": "x", "box": [5, 5, 1, 1]}]}, "box"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_and_fatal_or_listed(name: str, tmp_path: Path) -> None:
    bad, reason = BAD[name]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "x.png").write_bytes(png())
    (tmp_path / "x.png").write_bytes(png())
    (folder / "broken.png").write_bytes(png()[:90])
    (folder / "link.png").symlink_to(tmp_path / "x.png")
    if name == "bomb":
        decompression_bomb(folder / "bomb.png")
    path = jsonl(folder / "d.jsonl", [GOOD, bad, GOOD])
    with pytest.raises(BadInputError, match=reason) as error:
        read_preferences(path)
    assert error.value.where == f"{path}:2"
    found = read_preferences(path, on_error="skip")
    assert len(found.examples) == 2
    assert [(one.where, bool(re.search(reason, one.reason))) for one in found.dropped] == [(f"{path}:2", True)]


def test_an_id_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    with pytest.raises(BadInputError, match="seen before"):
        read_preferences(jsonl(tmp_path / "d.jsonl", [GOOD | {"id": "a"}, GOOD | {"id": "a"}]))


def test_a_limit_is_a_seeded_sample_in_order(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    path = jsonl(tmp_path / "d.jsonl", [GOOD | {"id": n} for n in range(20)])
    first, same, other = (read_preferences(path, limit=5, seed=seed) for seed in (0, 0, 1))
    ids = [int(example.id) for example in first.examples]
    assert len(ids) == 5 and ids == sorted(ids)
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([rlaif(1)]), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInputError, match="not a complete Parquet"):
        read_preferences(str(path))


def test_a_public_name_is_found_in_the_hubs_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    folder = tmp_path / "datasets--openbmb--RLAIF-V-Dataset"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    pq.write_table(pa.Table.from_pylist([rlaif(1)]), snapshot / "part.parquet")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    import huggingface_hub._snapshot_download as download

    monkeypatch.setattr(download, "constants", constants)
    assert len(read_preferences("rlaif-v").examples) == 1
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(HarnessError, match="is not in the hub's cache, and HF_HUB_OFFLINE is set"):
        read_preferences("rlaif-v")


def test_unknown_data_says_what_is_taken(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="preference data does not exist") as error:
        read_preferences(str(tmp_path / "nothing"))
    assert "rlaif-v" in str(error.value.remedy)
