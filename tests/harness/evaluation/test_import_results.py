"""`harness import-results`: a run's answers, written out in each tool's form and imported, give the run's scores again."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.remote.endpoint import KEY_VARIABLE
from harness.worlds.pocket.formats import write_benchmarks
from tests.benchmarks.scoring import jsonl
from tests.commands import json_here as run
from tests.commands import run_here
from tests.harness.core.test_spreadsheet import spreadsheet
from tests.harness.serving.fake_vision import SECRET, VisionServer, seeing, small_pope

Row = dict[str, Any]
SUITES = ("pope", "halbench", "chair", "amber", "mmhal", "mmstar", "mme", "hallusionbench")
LIMIT = "24"


def say(picture: bytes, question: str) -> str:
    """An answer that depends on picture and question: yes or no, or a description."""
    digest = hashlib.sha256(picture + question.encode()).digest()
    if question.startswith(("Is ", "Are ", "Does ")):
        return ("Yes", "No", "Yes, there is.", "no")[digest[0] % 4]
    things = ("a dog", "a cat", "a car", "a bench", "two apples", "a red ball")
    return f"The picture shows {things[digest[0] % 6]} and {things[digest[1] % 6]}."


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the drawn world's suites, and a run `seer` that `harness eval` made of an endpoint's answers."""
    folder = tmp_path_factory.mktemp("imports")
    write_benchmarks(0, "validation", folder / "data")
    (folder / "data" / "chair").mkdir()
    (folder / "data" / "chair" / "images").symlink_to(folder / "data" / "halbench" / "images")
    with pytest.MonkeyPatch.context() as patch, seeing() as server:
        patch.chdir(folder)
        patch.setenv(KEY_VARIABLE, SECRET)
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        server.say = say
        _evaluate(server, *SUITES)
        yield folder


def _evaluate(server: VisionServer, *suites: str) -> None:
    asked = ["eval", "--endpoint", server.url, "--model", "seer", "--data", "data", "--limit", LIMIT]
    run(*asked, "--suite", ",".join(suites), "--judge", "pocket-truth", "--set", "hallusionbench.scoring=match")


@pytest.fixture
def here(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with that data and that run."""
    for name in ("data", "cache"):
        (tmp_path / name).symlink_to(evaluated / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "seer").symlink_to(evaluated / "results" / "seer")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def answered(suite: str, run_: str = "seer") -> list[Row]:
    """The rows of a run's item file."""
    [path] = Path("results").glob(f"{run_}/evals/{suite}@data/items*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def scores(suite: str, run_: str) -> Row:
    """What was measured."""
    [path] = Path("results").glob(f"{run_}/evals/{suite}@data/scores*.json")
    record: Row = json.loads(path.read_text())
    return {key: record[key] for key in ("suite", "variant", "n", "of", "unscored", "settings", "metrics", "counts")}


def imported(*arguments: str, code: int = 0) -> Any:
    return run("import-results", *arguments, "--data", "data", code=code)


def _lmms(doc: Callable[[Row], Row]) -> Callable[[Sequence[Row]], list[Row]]:
    return lambda rows: [
        {"doc_id": n, "doc": doc(row), "target": "", "resps": [[row["text"]]], "filtered_resps": [row["text"]]}
        for n, row in enumerate(rows)
    ]


def _split(row: Row) -> tuple[str, int]:
    split, _, number = row["item"].partition("/")
    return split, int(number)


def _pope_doc(row: Row) -> Row:
    split, number = _split(row)
    source = row["group"].removesuffix(".png")
    return {"question_id": str(number), "category": split, "question": row["prompt"], "answer": "yes", "image_source": source}  # fmt: skip


_YES_NO = " Please answer yes or no."


def _asked(row: Row) -> str:
    """A question of MMStar without the instruction behind it."""
    question: str = row["prompt"].removesuffix("\nAnswer the question directly.")
    return question


def _mmstar_row(row: Row) -> Row:
    return {
        "index": int(row["item"]),
        "question": _asked(row),
        "answer": "A",
        "category": "math",
        "l2_category": "geometry",
        "prediction": row["text"],
    }


def _hallusion(row: Row) -> Row:
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    return dict(zip(names, row["item"].split("_"), strict=True))


FORMS: dict[str, tuple[str, str, Callable[[Sequence[Row]], list[Row]]]] = {
    "lmms-eval pope": ("pope", "lmms-eval's samples", _lmms(_pope_doc)),
    "official pope with category": (
        "pope",
        "POPE's answers",
        lambda rows: [
            {
                "question_id": _split(row)[1],
                "category": _split(row)[0],
                "question": row["prompt"],
                "answer": row["text"],
            }
            for row in rows
        ],
    ),
    "pope by picture": (
        "pope",
        "VLMEvalKit's table",
        lambda rows: [
            {
                "index": n,
                "category": _split(row)[0],
                "image_path": f"images/{row['group']}",
                "question": row["prompt"],
                "answer": "Yes",
                "prediction": row["text"],
            }
            for n, row in enumerate(rows)
        ],
    ),
    "run": (
        "pope",
        "a run's answers (responses.jsonl)",
        lambda rows: [{"item": r["item"], "text": r["text"]} for r in rows],
    ),
    "COCO captions": (
        "chair",
        "COCO's captions",
        lambda rows: [{"image_id": int(row["group"]), "caption": row["text"]} for row in rows],
    ),
    "RLHF-V": (
        "halbench",
        "Object HalBench's answers",
        lambda rows: [{"image_id": r["group"], "question": r["prompt"], "answer": r["text"]} for r in rows],
    ),
    "halbench text": (
        "halbench",
        "Object HalBench's answers",
        lambda rows: [{"image_id": int(row["group"]), "text": row["text"]} for row in rows],
    ),
    "AMBER": ("amber", "AMBER's answers", lambda rows: [{"id": int(r["item"]), "response": r["text"]} for r in rows]),
    "MMHal": (
        "mmhal",
        "MMHal-Bench's responses",
        lambda rows: [
            {
                "question": row["prompt"],
                "image_src": f"https://host/{row['group']}",
                "gt_answer": "?",
                "model_answer": row["text"],
            }
            for row in rows
        ],
    ),
    "VLMEvalKit mmstar": ("mmstar", "VLMEvalKit's table", lambda rows: [_mmstar_row(row) for row in rows]),
    "lmms-eval mmstar": (
        "mmstar",
        "lmms-eval's samples",
        _lmms(lambda row: {"index": int(row["item"]), "question": _asked(row), "answer": "A", "category": "math"}),
    ),
    "LLaVA mmstar": (
        "mmstar",
        "LLaVA's answers",
        lambda rows: [
            {"question_id": int(row["item"]), "prompt": f"{_asked(row)}\nAnswer with the letter.", "text": row["text"]}
            for row in rows
        ],
    ),
    "lmms-eval mme": (
        "mme",
        "lmms-eval's samples",
        _lmms(
            lambda row: {
                "question_id": row["group"],
                "category": row["group"].partition("/")[0],
                "question": row["prompt"],
                "answer": "Yes",
            }
        ),
    ),
    "LLaVA mme": (
        "mme",
        "LLaVA's answers",
        lambda rows: [
            {
                "question_id": row["group"],
                "prompt": row["prompt"].removesuffix(_YES_NO) + "\nUse one word.",
                "text": row["text"],
            }
            for row in rows
        ],
    ),
    "VLMEvalKit mme": (
        "mme",
        "VLMEvalKit's table",
        lambda rows: [
            {
                "index": number,
                "category": row["group"].partition("/")[0],
                "image_path": row["group"],
                "question": row["prompt"],
                "answer": "Yes",
                "prediction": row["text"],
            }
            for number, row in enumerate(rows)
        ],
    ),
    "HallusionBench": (
        "hallusionbench",
        "HallusionBench's results",
        lambda rows: [
            {**_hallusion(row), "question": row["prompt"], "gt_answer": "1", "model_prediction": row["text"]}
            for row in rows
        ],
    ),
    "VLMEvalKit hallusionbench": (
        "hallusionbench",
        "VLMEvalKit's table",
        lambda rows: [
            {"index": f"hallusion_{row['item']}", "question": row["prompt"], "answer": "Yes", "prediction": row["text"]}
            for row in rows
        ],
    ),
    "lmms-eval hallusionbench": (
        "hallusionbench",
        "lmms-eval's samples",
        _lmms(lambda row: {**_hallusion(row), "question": row["prompt"], "gt_answer": "0"}),
    ),
    "LLaVA amber": (
        "amber",
        "LLaVA's answers",
        lambda rows: [
            {"question_id": int(r["item"]), "prompt": r["prompt"], "text": r["text"], "answer_id": "a", "model_id": "m"}
            for r in rows
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.claims("import-results --suite", "import-results --data", "import-results --allow-partial")
def test_a_runs_answers_come_back_with_its_scores(form: str, here: Path) -> None:
    suite, said, written = FORMS[form]
    jsonl(here / "answers.jsonl", written(answered(suite)))
    judge = {"mmhal": ["--judge", "pocket-truth"], "hallusionbench": ["--scoring", "match"]}.get(suite, [])
    assert "--allow-partial" in imported("answers.jsonl", "--suite", suite, *judge, code=2)
    assert not (here / "results" / "answers").exists()
    record = imported("answers.jsonl", "--suite", suite, "--allow-partial", *judge)
    assert (record["method"], record["target"]) == ("imported", "answers")
    assert scores(suite, "answers") == scores(suite, "seer")
    assert answered(suite, "answers") == answered(suite)
    manifest = json.loads((here / "results" / "answers" / "manifest.json").read_text())
    about = manifest["imported"][f"{suite}@data"]
    digest = hashlib.sha256((here / "answers.jsonl").read_bytes()).hexdigest()
    assert (about["form"], about["files"]) == (said, [{"path": "answers.jsonl", "sha256": digest}])


@pytest.mark.parametrize("ending", ["tsv", "xlsx"])
def test_a_table_of_vlmevalkit(ending: str, here: Path) -> None:
    rows = FORMS["VLMEvalKit mmstar"][2](answered("mmstar"))
    cells = [[*rows[0]], *([str(value) for value in row.values()] for row in rows)]
    if ending == "tsv":
        with (here / "table.tsv").open("w", newline="") as stream:
            csv.writer(stream, delimiter="\t").writerows(cells)
    else:
        spreadsheet(here / "table.xlsx", cells)
    imported(f"table.{ending}", "--suite", "mmstar", "--allow-partial")
    assert scores("mmstar", "table") == scores("mmstar", "seer")


def test_an_official_folder_of_mme_and_a_file_of_it(here: Path) -> None:
    rows = answered("mme")
    (here / "Your_Results").mkdir()
    tasks = {row["group"].partition("/")[0] for row in rows}
    for task in tasks:
        own = [row for row in rows if row["group"].startswith(f"{task}/")]
        lines = ["\t".join([row["group"].partition("/")[2], row["prompt"], "Yes", row["text"]]) for row in own]
        (here / "Your_Results" / f"{task}.txt").write_text("\n".join(lines))
    imported("Your_Results", "--suite", "mme", "--allow-partial")
    assert scores("mme", "Your_Results") == scores("mme", "seer")
    first = min(tasks)
    record = imported(f"Your_Results/{first}.txt", "--suite", "mme", "--allow-partial", "--name", "one")
    assert record["counts"][f"{first}.n"] == record["n"] == sum(row["group"].startswith(f"{first}/") for row in rows)
    (here / "empty").mkdir()
    assert "no result of MME" in imported("empty", "--suite", "mme", code=2)


def questions(split: str) -> list[Row]:
    """The rows of a split's official file."""
    return [json.loads(line) for line in Path(f"data/pope/coco_pope_{split}.json").read_text().splitlines()]


def test_whole_pope_from_official_files_and_from_llava(here: Path) -> None:
    def answer(row: Row) -> str:
        return "yes" if row["question_id"] % 3 else "No."

    splits = ("adversarial", "popular", "random")
    for split in splits:
        official = [{"question": row["text"], "answer": answer(row)} for row in questions(split)]
        jsonl(here / f"{split}.jsonl", official)
    record = imported(*(f"{split}.jsonl" for split in splits), "--suite", "pope", "--name", "official")
    assert record["n"] == record["of"] == sum(len(questions(split)) for split in splits)
    rows = [row for split in splits for row in questions(split)]
    llava = [
        {
            "question_id": n,
            "prompt": f"{row['text']}\nAnswer the question using a single word or phrase.",
            "text": answer(row),
        }
        for n, row in enumerate(rows)
    ]
    jsonl(here / "llava.jsonl", llava)
    imported("llava.jsonl", "--suite", "pope")
    assert scores("pope", "llava") == scores("pope", "official")
    right = sum((answer(row) == "yes") == (row["label"] == "yes") for row in rows)
    assert record["counts"]["random.n"] == len(questions("random"))
    assert right == sum(record["counts"][f"{split}.{cell}"] for split in splits for cell in ("tp", "tn"))
    # The same file without a split in its name is told by its questions.
    (here / "random.jsonl").rename(here / "one.jsonl")
    assert imported("one.jsonl", "--suite", "pope", "--allow-partial")["counts"]["random.n"] == len(questions("random"))


def _changed(rows: list[Row], place: int, **values: Any) -> list[Row]:
    return [row | values if number == place else row for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("suite", "spoil", "said"),
    [
        ("amber", lambda rows: [*rows, rows[0]], "answered twice, first at"),
        ("amber", lambda rows: _changed(rows, 3, id=999_999), "belong to no item of amber; first: 999999"),
        ("amber", lambda rows: _changed(rows, 3, image="COCO_val2014_000000999999.jpg"), "is about the picture"),
        ("amber", lambda rows: _changed(rows, 3, query="What time is it?"), "numbers the questions in another way"),
        ("amber", lambda rows: [{key: row[key] for key in ("response",)} for row in rows], "the row has no id"),
        ("amber", lambda rows: [], "the file has no answers"),
        (
            "amber",
            lambda rows: [*rows, {"image_id": 1, "caption": "A dog."}],
            "has no 'response'; its keys are 'image_id', 'caption'",
        ),
        ("pope", lambda rows: rows, "it is not clear"),
        ("halbench", lambda rows: rows, "do not name their images"),
        ("mmstar", lambda rows: [{"question_id": 0, "prompt": "Another question?", "text": "A"}], "another way"),
        ("mmstar", lambda rows: [{"question_id": 0, "text": "A"}], "no 'index'"),
        (
            "mme",
            lambda rows: [{"question_id": "count/none.png", "prompt": "Is it?", "text": "A"}],
            "0 questions of the task",
        ),
        (
            "hallusionbench",
            lambda rows: [{"index": "hallusion_VD_x_0_0_0", "question": "?", "prediction": "A"}],
            "VD_x_0_0_0",
        ),
        ("chair", lambda rows: [{"image_id": 999_999, "caption": "A dog."}], "is not one of the"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    suite: str, spoil: Callable[[list[Row]], list[Row]], said: str, here: Path
) -> None:
    rows = [{"id": int(row["item"]), "response": row["text"]} for row in answered("amber")]
    if suite == "pope":
        rows = [{"question_id": n, "text": "yes"} for n in range(5)]
    jsonl(here / "answers.jsonl", spoil(rows))
    error = imported("answers.jsonl", "--suite", suite, "--allow-partial", code=2)
    assert said in error and "remedy" in error and "answers.jsonl" in error, error
    assert [path.name for path in (here / "results").iterdir()] == ["seer"]


def _state(folder: Path) -> dict[str, bytes]:
    """Every file, except locks, which say when they were held last."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.claims(
    "import-results --name", "import-results --overwrite", "import-results --results", "import-results --json"
)
def test_twice_changes_nothing_and_another_file_needs_overwrite(here: Path) -> None:
    rows = [{"id": int(row["item"]), "response": row["text"]} for row in answered("amber")]
    jsonl(here / "answers.jsonl", rows)
    command = ["answers.jsonl", "--suite", "amber", "--allow-partial", "--name", "theirs", "--results", "elsewhere"]
    imported(*command)
    before = _state(here / "elsewhere")
    imported(*command)
    assert _state(here / "elsewhere") == before
    jsonl(here / "others.jsonl", rows[1:])
    other = ["others.jsonl", *command[1:]]
    assert "--overwrite" in imported(*other, code=2)
    assert _state(here / "elsewhere") == before
    assert imported(*other, "--overwrite")["n"] == len(rows) - 1
    kept = [path for path in (here / "elsewhere").rglob("responses.jsonl") if ".replaced" in path.parts]
    assert [path.read_bytes() for path in kept] == [before["theirs/evals/amber@data/responses.jsonl"]]
    # Another suite joins the run.
    jsonl(here / "pope.jsonl", FORMS["run"][2](answered("pope")))
    imported("pope.jsonl", *["--suite", "pope", *command[3:]])
    manifest = json.loads((here / "elsewhere" / "theirs" / "manifest.json").read_text())
    assert sorted(manifest["imported"]) == ["amber@data", "pope@data"]
    # A folder with something else is not touched.
    assert "something else" in imported("pope.jsonl", "--suite", "pope", "--name", "seer", "--allow-partial", code=2)


@pytest.mark.claims("import-results --model")
def test_it_stands_beside_other_runs_and_is_not_asked(here: Path) -> None:
    jsonl(here / "theirs.jsonl", FORMS["run"][2](answered("pope")))
    imported("theirs.jsonl", "--suite", "pope", "--allow-partial", "--model", "seer")
    boards = run("leaderboard")
    [board] = [one for one in boards if {row["checkpoint"] for row in one["rows"]} == {"seer", "theirs"}]
    assert board["data"] == "data"
    code, out, error = run_here(["compare", "seer", "theirs"])
    assert code == 0 and "pope" in out.lower(), error
    code, _, error = run_here(["report", "-o", "report.html"])
    assert code == 0 and "theirs" in (here / "report.html").read_text(), error
    asked = ["eval", "--run", "theirs", "--suite", "pope", "--data", "data", "--backend", "transformers"]
    code, _, error = run_here(asked)
    assert code == 2 and "no model to ask" in error, error


def test_an_import_that_is_killed_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pope(tmp_path)
    monkeypatch.chdir(tmp_path)
    jsonl(Path("answers.jsonl"), [{"question_id": number, "text": "Yes."} for number in range(40)])
    arguments = ["import-results", "answers.jsonl", "--suite", "pope", "--name", "yes", "--data", "data"]
    killed = (
        "import os, sys\nfrom harness.evaluation import imports\n"
        "imports._Importing._put = lambda *_: os._exit(9)\n"
        f"from harness.cli import main\nsys.argv = {['harness', *arguments]!r}\nmain()"
    )
    assert subprocess.run([sys.executable, "-c", killed], capture_output=True).returncode == 9
    assert not Path("results/yes").exists() and len(list(Path("results").glob(".*.harness-tmp"))) == 1
    [row] = run("runs", "--json")
    assert (row["state"], row["removable"]) == ("leftover", True)
    code, _, error = run_here(arguments)
    assert code == 0, error
    assert Path("results/yes/manifest.json").exists() and not list(Path("results").glob(".*.harness-tmp"))
