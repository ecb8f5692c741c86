"""`harness score`: every option is used or refused for every suite; a large file is scored in parts and in little memory."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.halbench import HalBenchSettings, ObjectHalBench
from harness.core.stats import Counts
from harness.core.types import SampleScore
from harness.evaluation.score import score_suite
from tests.benchmarks.scoring import jsonl
from tests.commands import run_here
from tests.peak import peak_bytes

KIND = "discriminative-attribute-state"


def files(folder: Path) -> dict[str, str]:
    """A sound file for every option that names one."""
    (folder / "amber.json").write_text(json.dumps([{"id": 1, "type": KIND, "truth": "yes"}]))
    (folder / "rel.json").write_text(json.dumps({"dog": ["puppy"]}))
    (folder / "safe.txt").write_text("picture\n")
    (folder / "syn.txt").write_text("dog, puppy\ncat\n")
    jsonl(folder / "gt.jsonl", [{"image_id": 1, "instances": ["dog"], "captions": ["a dog"]}])
    jsonl(folder / "chair.jsonl", [{"image_id": 1, "text": "A dog and a teddy bear."}])
    jsonl(folder / "ar.jsonl", [{"id": 1, "response": "Yes"}])
    jsonl(folder / "q_random.json", [{"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}])
    jsonl(folder / "pa.jsonl", [{"question_id": 1, "answer": "Yes"}])
    jsonl(folder / "rev.jsonl", [{"index": 0, "review": "Rating: 4"}])
    key = {"index": 0, "answer": "A", "category": "math", "l2_category": "geometry"}
    jsonl(folder / "choices.jsonl", [key])
    jsonl(folder / "chosen.jsonl", [{"index": 0, "prediction": "A"}])
    row = {
        "category": "VD",
        "subcategory": "map",
        "visual_input": "1",
        "set_id": "0",
        "figure_id": "0",
        "question_id": "0",
    }
    jsonl(folder / "hb.jsonl", [row | {"question": "Q?", "gt_answer_details": "", "gt_answer": "1"}])
    jsonl(folder / "said.jsonl", [{"id": "VD_map_0_0_0", "model_prediction": "Yes"}])
    jsonl(folder / "judged.jsonl", [{"id": "VD_map_0_0_0", "judge_reply": "correct"}])
    jsonl(folder / "pairs.jsonl", [{"question_id": 0, "category": "llava_bench_conv", "content": "8 7"}])
    question = {"imagename": "a.png", "question": "Q?", "answer": "A", "capability": ["rec"]}
    (folder / "vet.json").write_text(json.dumps({"v1_0": question}))
    (folder / "vet-answers.json").write_text(json.dumps({"v1_0": "A"}))
    (folder / "grades.json").write_text(json.dumps({"v1_0": {"score": [0.5]}}))
    (folder / "mme").mkdir()
    (folder / "mme" / "count.txt").write_text("a.jpg\tQ?\tYes\tYes\na.jpg\tQ?\tNo\tNo\n")
    return {}


CHAIR = {"--annotations": "gt.jsonl", "--responses": "chair.jsonl"}
POPE = {"--questions": "q_random.json", "--responses": "pa.jsonl"}
AMBER = {
    "--annotations": "amber.json",
    "--relations": "rel.json",
    "--safe-words": "safe.txt",
    "--responses": "ar.jsonl",
}
NEEDED = {
    "halbench": CHAIR,
    "chair": CHAIR,
    "amber": AMBER,
    "pope": POPE,
    "pope-aokvqa": POPE,
    "pope-gqa": POPE,
    "mmhal": {"--reviews": "rev.jsonl"},
    "mmstar": {"--questions": "choices.jsonl", "--responses": "chosen.jsonl"},
    "mme": {"--responses": "mme"},
    "llava-bench": {"--reviews": "pairs.jsonl"},
    "mm-vet": {"--questions": "vet.json", "--responses": "vet-answers.json", "--reviews": "grades.json"},
    "hallusionbench": {"--questions": "hb.jsonl", "--responses": "said.jsonl", "--reviews": "judged.jsonl"},
}
OPTIONS = {
    "--annotations": "gt.jsonl",
    "--relations": "rel.json",
    "--safe-words": "safe.txt",
    "--synonyms": "syn.txt",
    "--questions": "q_random.json",
    "--responses": "pa.jsonl",
    "--reviews": "rev.jsonl",
    "--extractor": "spacy",
    "--matched-words": "3",
    "--similarity": "exact",
    "--scoring": "judge",
    "--judge": "openai",
    "--judge-model": "some-model",
    "--judge-url": "http://127.0.0.1:9/v1",
    "--judge-price": "1,2",
    "--max-cost": "1",
    "--set": "judge.votes=3",
}
USED = {
    "halbench": {"--synonyms", "--extractor", "--matched-words"},
    "chair": {"--synonyms", "--extractor", "--matched-words"},
    "amber": {"--similarity"},
    "hallusionbench": {"--scoring"},
}
ALWAYS = {"--suite", "--items", "--allow-partial", "--max-unscored", "--json", "--help"}
"""Options whose effect does not depend on the suite."""


def test_this_walk_knows_every_option() -> None:
    import typer

    from harness.cli import app

    command = typer.main.get_command(app)
    above = typer.Context(command)
    known = {}
    for name in ("eval", "score"):  # both, as the documentation's pages are made: what one has is not the other's
        one = command.commands[name]  # type: ignore[attr-defined]
        known[name] = {
            name for parameter in one.get_params(typer.Context(one, parent=above)) for name in parameter.opts
        }
    assert known["score"] == set(OPTIONS) | ALWAYS
    assert "--synonyms" in known["eval"] and "--relations" not in known["eval"]


@pytest.mark.parametrize("suite", NEEDED)
def test_no_option_is_dropped_in_silence(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.core import registry

    assert set(registry.entries("benchmarks")) == set(NEEDED), "a new suite: say what its options are"
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    needed = [part for pair in NEEDED[suite].items() for part in pair]
    code, _, said = run_here(["score", "--suite", suite, *needed])
    assert code == 0, said
    for option, value in OPTIONS.items():
        if option in NEEDED[suite]:
            continue
        code, _, said = run_here(["score", "--suite", suite, *needed, option, value])
        if option in USED.get(suite, set()):
            assert code == 0, said
        else:
            assert code == 2 and option in said, f"{suite} {option}: {code} {said}"


def test_what_the_options_do_is_seen_in_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    base = ["score", "--suite", "chair", "--annotations", "gt.jsonl", "--responses", "chair.jsonl", "--json"]

    def record(*more: str) -> Any:
        code, out, said = run_here([*base, *more])
        assert code == 0, said
        return json.loads(out)

    plain = record()
    assert plain["variant"] == "spacy" and plain["counts"]["mentions"] == 2
    assert record("--synonyms", "syn.txt")["counts"]["mentions"] == 1
    assert record("--matched-words", "2")["counts"]["matched_mentions"] == 1
    code, _, said = run_here([*base, "--extractor", "spacy:no_such_pipeline"])
    assert code == 2 and "no_such_pipeline" in said


def rows(count: int, images: int) -> list[dict[str, Any]]:
    rng = random.Random(1)
    words = ["dog", "cat", "bus", "tree", "and", "teddy-bear", "the", "laptops"]
    return [{"image_id": n % images, "text": " ".join(rng.choices(words, k=12))} for n in range(count)]


def test_a_file_in_parts_scores_as_a_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = [{"image_id": n, "instances": ["dog"], "captions": ["a bus and a cat"][: n % 2]} for n in range(40)]
    paths = {
        "annotations": jsonl(tmp_path / "gt.jsonl", truth),
        "responses": jsonl(tmp_path / "r.jsonl", rows(2500, 40)),
    }
    settings = HalBenchSettings(matched_words=5)
    items, responses = (benchmark := ObjectHalBench(settings)).read_offline(paths)
    whole, _ = score_suite(benchmark, items, responses)
    command = ["score", "--suite", "halbench", "--matched-words", "5", "--json", "--items", str(tmp_path / "i.jsonl")]
    code, out, said = run_here([*command, *(part for name, path in paths.items() for part in (f"--{name}", str(path)))])
    assert code == 0, said
    parts = json.loads(out)
    assert parts["counts"] == whole.counts and parts["n"] == 2500
    assert whole.written()["metrics"] == parts["metrics"]
    written = [json.loads(line) for line in (tmp_path / "i.jsonl").read_text().splitlines()]
    assert [row["item"] for row in written] == [item.id for item in items]
    assert [row["text"] for row in written] == [responses[item.id].text for item in items]


def test_sums_of_parts_are_the_sums_of_all() -> None:
    scores = [SampleScore(str(n), str(n % 7), {"a": float(n), **({"b": 1.0} if n > 50 else {})}) for n in range(100)]
    whole = Counts.of(scores)
    parts = Counts.joined([Counts.of(scores[start : start + 13]) for start in range(0, 100, 13)])
    assert parts.names == whole.names and parts.clusters == whole.clusters
    assert (parts.matrix == whole.matrix).all()


def test_nothing_is_written_where_scoring_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "rev.jsonl", [{"index": 0, "review": "no idea"}])
    before = sorted(tmp_path.iterdir())
    code, _, said = run_here(["score", "--suite", "mmhal", "--reviews", "rev.jsonl", "--items", "i.jsonl"])
    assert code == 2 and "has no rating" in said and sorted(tmp_path.iterdir()) == before
    for place in (".", "gt.jsonl/x"):
        code, _, said = run_here(
            ["score", "--suite", "pope", "--questions", "q_random.json", "--responses", "pa.jsonl", "--items", place]
        )
        assert code == 2 and ("cannot be written" in said or "but a folder is needed" in said), said


@pytest.mark.exhaustive  # `make speed ARGS=score` measures the same
def test_memory_grows_less_than_the_file_does(tmp_path: Path) -> None:
    """Thirty megabytes more of responses take at most one and a half times as much more memory.

    With fewer, the part that is under way and spaCy's words would count for most of it.
    """
    jsonl(tmp_path / "gt.jsonl", [{"image_id": n, "instances": ["dog"], "captions": []} for n in range(50)])
    command = [
        sys.executable,
        "-m",
        "harness",
        "score",
        "--suite",
        "halbench",
        "--annotations",
        "gt.jsonl",
        "--responses",
    ]
    peaks, sizes = [], []
    for count in (3_000, 63_000):
        text = "The image shows a quiet place with a dog near a table and something else behind it. " * 6
        lines = [{"image_id": n % 50, "text": f"{text} {n}"} for n in range(count)]
        sizes.append(jsonl(tmp_path / f"{count}.jsonl", lines).stat().st_size)
        peaks.append(peak_bytes([*command, f"{count}.jsonl"], tmp_path, OMP_NUM_THREADS="1"))
    assert peaks[1] - peaks[0] <= 1.5 * (sizes[1] - sizes[0])


REMOTE = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "pope", "--extractor", "spacy"], "does not use --extractor"),
        (["--suite", "pope,amber", "--extractor", "nltk"], "does not use --extractor"),
        (["--suite", "pope", "--judge", "openai"], "no judge is asked"),
        (["--suite", "pope", "--judge-model", "gpt-4o"], "no judge is asked"),
        (["--suite", "pope", "--max-cost", "1"], "no judge is asked"),
        (["--suite", "pope", "--set", "judge.model=x"], "no judge is asked"),
        (["--suite", "pope", "--set", "halbench.matched_words=3"], "settings of 'halbench' have no effect"),
        (["--suite", "pope", "--base"], "--base"),
        (["--suite", "pope", "--shard", "1/2", "--judge", "openai"], "harness merge"),
        (["--suite", "halbench", "--shard", "1/2", "--extractor", "spacy"], "harness merge"),
        (["--suite", "pope", "--max-unscored", "-1"], "--max-unscored"),
    ],
)
def test_eval_drops_no_option_either(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "pope" / "images").mkdir(parents=True)
    (tmp_path / "data" / "pope" / "images" / "a.jpg").write_bytes(b"x")
    jsonl(
        tmp_path / "data" / "pope" / "coco_pope_random.json",
        [{"question_id": 1, "image": "a.jpg", "text": "?", "label": "yes"}],
    )
    code, _, error = run_here(["eval", *REMOTE, "--data", "data", *arguments])
    assert code == 2 and said in error, error


def test_an_extractor_is_taken_by_every_suite_that_has_one() -> None:
    from harness.cli.evaluate import _shared_out, layers_of
    from harness.core import registry

    kinds = {name: registry.load("benchmarks", name) for name in ("chair", "halbench", "pope")}
    layers = layers_of(["chair.prompt=Say."], _shared_out({"extractor": "nltk"}, kinds), {}, {})
    assert layers["chair"] == {"prompt": "Say.", "extractor": "nltk"} and layers["halbench"] == {"extractor": "nltk"}
    assert "pope" not in layers
