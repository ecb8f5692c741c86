"""The functions of `import harness`, used as a notebook uses them: in a fresh process, far from the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aligners.preferences import read_preferences
from aligners.preferences.options import DataOptions
from harness.api.data import stored
from harness.core.errors import BadInputError
from tests.commands import harness
from tests.harness.serving.fake_vision import small_pope
from tests.tiny import tiny_llava, tiny_photograph

NOTEBOOK = """
import json
import pandas as pd
from PIL import Image
import harness

rows = [
    {
        "image": Image.open(f"pictures/{number % 4}.png"),
        "question": "What is this?",
        "chosen": "A dog on the left.",
        "rejected": "A cat on the left.",
    }
    for number in range(16)
]
steps = []
settings = {"train.learning_rate": 1e-2, "train": {"batch_size": 8}, "train.max_length": 256}
run = harness.align("dpo", "./base", rows, name="mine", settings=settings, on_step=steps.append)
records = harness.evaluate(run, "pope", base=True, data="data", backend="transformers", limit=8)
again = harness.evaluate(["mine"], ["pope"], data="data", backend="transformers", limit=8)
board = harness.leaderboard(metrics=["pope.f1"])
page = harness.report("report.html")
scored = harness.score("pope", questions="questions.jsonl", responses="answers.jsonl")
frames = harness.load_runs()
print(json.dumps({
    "steps": [(row["step"], row["loss"]) for row in steps],
    "checkpoint": str(run.checkpoint),
    "records": [record.target for record in records],
    "again": [record.metrics == old.metrics for record, old in zip(again, records[1:])],
    "board": board[["checkpoint", "metric"]].values.tolist(),
    "page": str(page),
    "f1": scored.metrics["f1"].value,
    "items": len(frames.items),
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("notebook")
    tiny_llava(made / "base")
    small_pope(made)
    (made / "pictures").mkdir()
    for number in range(4):
        tiny_photograph(made / "pictures" / f"{number}.png", number)
    questions = [
        {
            "question_id": number,
            "image": "0.png",
            "text": f"Is there a dog, {number}?",
            "label": ("yes", "no")[number % 2],
        }
        for number in range(4)
    ]
    (made / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    answers = [{"question_id": number, "answer": ("Yes.", "No.")[number % 2]} for number in range(4)]
    (made / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return made


@pytest.fixture(scope="module")
def told(folder: Path) -> dict:  # type: ignore[type-arg]
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\n") == 1, done.stdout
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_a_notebook_aligns_evaluates_and_reports(told: dict, folder: Path) -> None:  # type: ignore[type-arg]
    assert [step for step, _ in told["steps"]] == [1, 2] and told["steps"][0][1] == pytest.approx(0.6931, abs=1e-3)
    assert Path(told["checkpoint"]).is_relative_to("results/mine")
    assert told["records"] == ["base-base", "mine"] and told["again"] == [True]
    assert ["mine", "pope.f1"] in told["board"] and ["base-base", "pope.f1"] in told["board"]
    assert Path(told["page"]).read_text().startswith("<!")
    assert told["f1"] == 1.0 and told["items"] == 16


@pytest.mark.slow
def test_the_functions_give_what_the_commands_print(told: dict, folder: Path) -> None:  # type: ignore[type-arg]
    command = ["--suite", "pope", "--data", "data", "--backend", "transformers", "--limit", "8", "--json"]
    [record] = json.loads(harness(folder, "eval", "--run", "mine", *command).stdout)
    [kept] = (folder / "results" / "mine" / "evals").rglob("scores*.json")
    assert record["metrics"] == json.loads(kept.read_text())["metrics"]
    score = ["score", "--suite", "pope", "--questions", "questions.jsonl", "--responses", "answers.jsonl", "--json"]
    assert json.loads(harness(folder, *score).stdout)["metrics"]["f1"]["value"] == told["f1"]


def test_rows_of_any_kind_are_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    picture = Image.open(tiny_photograph(tmp_path / "p.png", 0))
    rows = [
        {"image": picture, "question": f"What {number}?", "chosen": "A dog.", "rejected": "A cat."}
        for number in range(3)
    ]
    file, root = stored(rows)
    assert file is not None and root is None and file == stored(pd.DataFrame(rows))[0] == stored(tuple(rows))[0]
    assert stored(rows[:2])[0] != file and stored("rlaif-v") == ("rlaif-v", None) and stored(None) == (None, None)
    examples = read_preferences(file).examples
    assert [example.prompt for example in examples] == ["What 0?", "What 1?", "What 2?"]
    assert examples[0].images["original"].open().convert("RGB").tobytes() == picture.convert("RGB").tobytes()
    plain = datasets.Dataset.from_list([row | {"image": str(tmp_path / "p.png")} for row in rows])
    held = plain.cast_column("image", datasets.Image())
    again = stored(held)[0]
    assert again is not None
    assert (
        read_preferences(again).examples[0].images["original"].open().convert("RGB").tobytes()
        == picture.convert("RGB").tobytes()
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows"),
        ([{"image": object(), "chosen": "x"}], "'image' has a value of the type object"),
        ([{"chosen": "x"}, {"chosen": 3}], "the column 'chosen' cannot be stored"),
        ([{"image": Image.new("F", (2, 2))}], "the column 'image' has a PIL image that cannot be stored"),
    ],
)
def test_rows_that_cannot_be_stored(rows: list, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(BadInputError, match=said):
        stored(rows)


PAIR = {"question": "What?", "chosen": "A dog.", "rejected": "A cat."}


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_image_paths_are_relative_to_the_working_directory(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work" / "pics").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    near = tiny_photograph(Path("pics/1.png"), 1)
    far = tiny_photograph(tmp_path / "elsewhere" / "2.png", 2)
    values = ["pics/1.png", Path("pics/1.png"), str(far), {"bytes": None, "path": "pics/1.png"}]
    if given:  # a folder that the user gives is the only one that is read from
        values = ["2.png", far]
    for value in values:
        file, root = stored([PAIR | {"picture": value}], {"image": "picture"}, Path(given) if given else None)
        options = DataOptions.of({"image": "picture"}, tmp_path / given if given else root)
        [example] = read_preferences(str(file), options=options).examples
        wanted = far if given or value == str(far) else near
        assert example.images["original"].read() == wanted.read_bytes()
    asked = {"prompt": "What?", "chosen": "A dog.", "rejected": "A cat."}
    several, root = stored([asked | {"images": ["pics/1.png"]}, asked | {"images": [str(far)]}])
    assert root == tmp_path.resolve()
    assert len(read_preferences(str(several), options=DataOptions.of({}, root)).examples) == 2
    file, root = stored([PAIR | {"image": "none.png"}])
    with pytest.raises(BadInputError, match=r"the image file does not exist: none\.png"):
        read_preferences(str(file), options=DataOptions.of({}, root))


def test_frames_with_missing_values_and_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    rows = {
        "text": ["a", float("nan")],
        "number": [1.5, np.nan],
        "missing": [pd.NA, "b"],
        "spans": [np.array([[0, 1], [2, 3]]), np.array([[4, 5]])],
        "names": [np.array(["x"], dtype=object), np.array(["y", "z"], dtype=object)],
        "count": [np.int64(3), np.int64(4)],
    }
    table = pq.read_table(str(stored(pd.DataFrame(rows))[0])).to_pydict()
    assert table == {
        "text": ["a", None],
        "number": [1.5, None],
        "missing": [None, "b"],
        "spans": [[[0, 1], [2, 3]], [[4, 5]]],
        "names": [["x"], ["y", "z"]],
        "count": [3, 4],
    }


@pytest.mark.parametrize("kind", ["CMYK", "YCbCr", "rotated", "LA", "P", "I;16", "RGBa"])
def test_a_picture_in_the_hand_is_trained_as_its_file_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    image = Image.open(tiny_photograph(tmp_path / "p.png", 0)).convert("RGB").resize((40, 24))
    file = tmp_path / ("p.png" if kind in ("LA", "P", "I;16", "RGBa") else "p.jpg")
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, exif=exif)
    elif kind == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200).save(file)
    else:
        image.convert("RGBA" if kind == "RGBa" else kind).save(file)
    given = Image.open(file)
    held = stored([PAIR | {"image": given.convert("RGBa") if kind == "RGBa" else given}])
    as_file = stored([PAIR | {"image": file}])
    seen = [
        np.asarray(read_preferences(str(name), options=DataOptions.of({}, root)).examples[0].images["original"].open())
        for name, root in (held, as_file)
    ]
    assert seen[0].shape == ((40, 24, 3) if kind == "rotated" else (24, 40, 3)) and np.array_equal(seen[0], seen[1])


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import harness, sys; harness.align; print([name for name in ('torch', 'pandas', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
