"""Each option and setting of `harness data generate` does what it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from aligners.preferences import DataOptions
from aligners.preferences.formats.base import COMMON, GENERATED
from aligners.preferences.set_folder import read_manifest
from harness.core.errors import BadInputError
from harness.core.files import write_json, write_jsonl
from harness.generation.chair import ChairJudge, ChairSettings
from harness.generation.claims import ClaimsJudge, ClaimsSettings
from harness.generation.detectors import DetectorsJudge, DetectorsSettings
from harness.generation.prompts import QUESTIONS, read_prompts
from harness.generation.push import data_card
from harness.generation.records import PairSetManifest
from harness.generation.table import schema
from harness.models import resolve
from harness.runs.targets import target_of_model
from harness.worlds.pocket.formats import write_benchmarks
from tests.aligners.preferences.test_preference_images import server as server
from tests.commands import run_here
from tests.harness.generation.four_pictures import QUESTION, WORDS, asked, name_of, row, rows, run, say
from tests.harness.generation.four_pictures import endpoint as endpoint
from tests.harness.generation.four_pictures import here as here
from tests.harness.generation.scripted import Asked, ScriptedEndpoint, scripted
from tests.tiny import tiny_llava


@pytest.mark.claims(
    "data generate --endpoint", "data generate --samples", "data generate --temperature", "data generate --seed",
    "data generate --output", "data generate --json", "data generate --judge", "data generate --prompts",
    "sample.samples", "sample.temperature", "sample.top_p", "sample.max_new_tokens",
)  # fmt: skip
def test_how_answers_are_sampled(here: Path, endpoint: ScriptedEndpoint) -> None:
    sample = ("--set", "sample.top_p=0.9", "--set", "sample.max_new_tokens=33")
    manifest = run(endpoint, "--temperature", "1.5", *sample)
    assert {(one.temperature, one.top_p, one.max_tokens) for one in asked(endpoint)} == {(1.5, 0.9, 33)}
    seeds = {one.seed for one in asked(endpoint)}
    assert len(seeds) == 24 == manifest["counts"]["answers"], "each answer has a seed of its own"
    run(endpoint, "--seed", "1", output="others", samples="3")
    assert len({one.seed for one in asked(endpoint)}) == 36
    run(endpoint, output="plain", samples="2")
    plain = {(one.temperature, one.top_p, one.max_tokens) for one in asked(endpoint)} - {(1.5, 0.9, 33)}
    assert plain == {(0.7, 1.0, 512)}
    assert {row["judge"] for row in rows()} == {"chair"} and Path("others/manifest.json").exists()


@pytest.mark.slow
@pytest.mark.claims(
    "data generate --pairs", "data generate --how", "data generate --min-gap", "data generate --set",
    "pair.per_prompt", "pair.how", "pair.min_gap", "pair.length_balance",
)  # fmt: skip
def test_which_answers_are_paired(here: Path, endpoint: ScriptedEndpoint) -> None:
    plain = ("--set", "pair.length_balance=false")
    every = run(endpoint, "--pairs", "99", *plain, output="every")["pairs"]
    one = run(endpoint, "--pairs", "1", *plain, output="one")["pairs"]
    assert one <= 4 < every
    run(endpoint, "--pairs", "1", "--how", "best-worst", *plain, output="best")
    gaps = {row["id"].rpartition("-")[0]: row["chosen_score"] - row["rejected_score"] for row in rows("every")}
    for pair in rows("every"):
        name = pair["id"].rpartition("-")[0]
        gaps[name] = max(gaps[name], pair["chosen_score"] - pair["rejected_score"])
    best = {row["id"].rpartition("-")[0]: row["chosen_score"] - row["rejected_score"] for row in rows("best")}
    assert best == gaps
    wide = run(endpoint, "--pairs", "99", "--min-gap", "0.5", *plain, output="wide")["pairs"]
    assert 0 < wide < every and all(row["chosen_score"] - row["rejected_score"] >= 0.5 for row in rows("wide"))
    assert run(endpoint, "--pairs", "99", output="balanced")["length_balance"]["mean_words"]


def test_lengths_are_balanced(here: Path) -> None:
    """Short right answers and long wrong ones: without the balance, pairs teach brevity."""

    def longer(said: Asked) -> str:
        return ("A dog.", "A dog and a cat, both of them on the ground.", f"A {'very ' * 30}red cup.")[
            (said.seed or 0) % 3
        ]

    with scripted(longer) as endpoint:
        run(endpoint, "--pairs", "99", "--set", "pair.length_balance=false", output="plain", samples="12")
        manifest = run(endpoint, "--pairs", "99", output="balanced", samples="12")
    plain, balanced = rows("plain"), rows("balanced")

    def difference(pairs: list[dict[str, Any]]) -> float:
        return abs(sum(len(row["chosen"].split()) - len(row["rejected"].split()) for row in pairs)) / len(pairs)

    assert 0 < len(balanced) < len(plain) and difference(balanced) < difference(plain)
    assert manifest["length_balance"]["left_out"] == len(plain) - len(balanced)


@pytest.mark.claims(
    "data generate --limit", "data generate --shard", "data generate --part-size", "data generate --overwrite"
)
def test_parts_of_the_prompts(here: Path, endpoint: ScriptedEndpoint) -> None:
    assert run(endpoint, "--limit", "2", output="two")["counts"]["prompts"] == 2
    plain = ("--set", "pair.length_balance=false")
    run(endpoint, "--part-size", "1", *plain, output="parts")
    assert len(list(Path("parts").glob("*.parquet"))) == 4
    for number in (1, 2):
        run(endpoint, "--shard", f"{number}/2", *plain, output="shards")
    assert rows("shards") == rows("parts") and json.loads(Path("shards/manifest.json").read_text())["pairs"] == len(
        rows("parts")
    )
    assert "--overwrite" in run(endpoint, "--pairs", "1", *plain, "--part-size", "1", code=2, output="parts")
    run(endpoint, "--pairs", "1", *plain, "--part-size", "1", "--overwrite", output="parts")
    assert len(rows("parts")) <= 4


def test_a_reference_answer_is_kept_with_the_pairs(here: Path, endpoint: ScriptedEndpoint) -> None:
    """It comes from the file of prompts, or from preference data: its column for it, or else the chosen answer."""
    answers = {"Is it red?": "It is.", "Is it green?": None}
    prompts = [{"image": name_of(1), "prompt": text, "reference": answer} for text, answer in answers.items()]
    write_jsonl(Path("asked.jsonl"), [{k: v for k, v in one.items() if v is not None} for one in prompts])
    write_jsonl(Path("standard.jsonl"), [row(1), row(2) | {"standard_response": "A dog and a cat."}])
    run(endpoint, prompts="standard.jsonl", output="of-data")
    assert {one["standard_response"] for one in rows("of-data")} == {"A", "A dog and a cat."}
    assert {one.text: one.reference for one in read_prompts("asked.jsonl").prompts} == {
        "Is it red?": "It is.",
        "Is it green?": "",
    }


def test_a_folder_of_images_with_records_is_asked_their_questions(here: Path) -> None:
    (here / "folder").mkdir()
    picture = (here / name_of(1)).rename(here / "folder" / "one.png")
    record = {"file_name": picture.name, "prompt": QUESTION, "chosen": "A", "rejected": "B"}
    metadata = {
        "metadata.csv": f"{','.join(record)}\n{','.join(record.values())}\n",
        "metadata.json": json.dumps([record]),
        "metadata.JSONL": json.dumps(record),
    }
    for name, text in metadata.items():
        (here / "folder" / name).write_text(text)
        assert [prompt.text for prompt in read_prompts("folder").prompts] == [QUESTION], name
        (here / "folder" / name).unlink()
    (here / "folder" / "dataset_info.json").write_text('{"description": "no records"}')
    assert [prompt.text in QUESTIONS for prompt in read_prompts("folder").prompts] == [True]
    with pytest.raises(BadInputError, match="no effect on a folder of images"):
        read_prompts("folder", options=DataOptions({"prompt": "query"}))


def test_options_of_a_file_of_prompts(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Columns get their names before a file is taken for prompts or for preference data, and images may lie elsewhere."""
    (here / "elsewhere").mkdir()
    (here / name_of(1)).rename(here / "elsewhere" / "1.png")
    bare = {"picture": "1.png", "query_": QUESTION, "reference": "A dog."}
    options = DataOptions({"image": "picture", "prompt": "query_"}, Path("elsewhere"))
    write_jsonl(Path("asked.jsonl"), [bare | {"note": "mine"}])
    [prompt] = read_prompts("asked.jsonl", options=options).prompts
    assert (prompt.text, prompt.reference, prompt.image.name) == (QUESTION, "A dog.", "1.png")
    assert "the column 'note' is not used (1 of 1 records have it)" in caplog.text
    with pytest.raises(BadInputError, match="there is no column 'pictures'"):
        read_prompts("asked.jsonl", options=DataOptions({"image": "pictures"}, Path("elsewhere")))
    paired = DataOptions({**options.columns, "chosen": "good", "rejected": "bad"}, Path("elsewhere"))
    write_jsonl(Path("asked.jsonl"), [bare | {"good": "A big dog.", "bad": "A cat."}])
    assert [prompt.reference for prompt in read_prompts("asked.jsonl", options=paired).prompts] == ["A big dog."]
    for turns in (
        {"system": "Be brief."},
        {"history": [["Is it red?", "Yes."]]},
        {"earlier_turns": [{"role": "user"}]},
    ):
        write_jsonl(Path("asked.jsonl"), [bare | turns])
        with pytest.raises(BadInputError, match=f"turns before the prompt \\('{next(iter(turns))}'\\)"):
            read_prompts("asked.jsonl", options=options)


@pytest.mark.claims("data generate --on-error")
def test_invalid_records_are_skipped_and_counted(here: Path, endpoint: ScriptedEndpoint) -> None:
    write_jsonl(here / "prefs.jsonl", [row(1), row(2) | {"image": "none.png"}, row(3)])
    assert "--on-error skip" in run(endpoint, code=2) and not Path("pairs").exists()
    manifest = run(endpoint, "--on-error", "skip")
    assert (manifest["invalid_records"], manifest["counts"]["prompts"]) == (1, 2)
    asked = [{"image": name_of(1), "prompt": QUESTION}, {"image": "none.png", "prompt": QUESTION}]
    lines = [*map(json.dumps, asked), "{", json.dumps({"image": name_of(2), "prompt": "<image> <image>"})]
    Path("asked.jsonl").write_text("\n".join(lines))
    read = read_prompts("asked.jsonl", on_error="skip")
    assert len(read.prompts) == 1 and [one.where for one in read.dropped] == [f"asked.jsonl:{n}" for n in (2, 3, 4)]
    with pytest.raises(BadInputError, match="--on-error skip") as raised:
        read_prompts("asked.jsonl")
    assert raised.value.where == "asked.jsonl:2"


@pytest.mark.claims("data generate --columns", "data generate --image-root", "data generate --allow-download")
def test_prompts_of_preference_data(here: Path, endpoint: ScriptedEndpoint, server: tuple[str, list[str]]) -> None:
    (here / "elsewhere").mkdir()
    for number in range(1, 5):
        (here / name_of(number)).rename(here / "elsewhere" / name_of(number))
    renamed = [{("query_" if key == "prompt" else key): value for key, value in row(n).items()} for n in range(1, 5)]
    write_jsonl(here / "prefs.jsonl", renamed)
    assert "image" in run(endpoint, "--columns", "prompt=query_", code=2)
    assert run(endpoint, "--columns", "prompt=query_", "--image-root", "elsewhere")["pairs"] > 0
    write_jsonl(here / "remote.jsonl", [row(1) | {"image": f"{server[0]}/x.png"}])
    assert "--allow-download" in run(endpoint, code=2, prompts="remote.jsonl", output="remote")
    assert run(endpoint, "--allow-download", prompts="remote.jsonl", output="remote")["pairs"] > 0


def test_a_folder_of_held_out_images_must_have_a_suite(
    here: Path, endpoint: ScriptedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    assert "there is no folder 'typo'" in run(endpoint, "--held-out", "typo", code=2)
    (here / "empty").mkdir()
    assert "no suite's questions" in run(endpoint, "--held-out", "empty", code=2) and not endpoint.asked
    assert run(endpoint, "--dry-run")["prompts"] == 4 and "no evaluation suite; not here: " in caplog.text


def test_what_a_command_says_of_its_model_and_its_shards(here: Path, endpoint: ScriptedEndpoint) -> None:
    task = ["--prompts", "prefs.jsonl", "--judge", "chair", "-o", "pairs", "--endpoint", endpoint.url]
    said = [run_here(["data", "generate", "vlm", *task, "--shard", f"{number}/2"])[1] for number in (1, 2)]
    assert "1 of 2 shards are done" in said[0] and "next:" not in said[0]
    assert "shards are done" not in said[1] and "next: harness align" in said[1]
    assert "'sample.samples' is given twice" in run(endpoint, "--set", "sample.samples=2", code=2, output="others")
    twice = ("--set", "backend.endpoints=[http://127.0.0.1:1/v1]")
    assert "'backend.endpoints' is given twice" in run(endpoint, *twice, code=2, output="others")
    write_json(here / "results" / "half" / "config.json", {"name": "half"})
    for name in ("half", "results/half"):
        said_of_run = run(None, "--backend", "transformers", model=name, code=2, output="others")
        assert f"the run '{name}' is not complete" in said_of_run and "--resume" in said_of_run


@pytest.mark.slow
@pytest.mark.claims("data generate --held-out")
def test_images_of_evaluation_suites_are_left_out(here: Path, endpoint: ScriptedEndpoint) -> None:
    write_benchmarks(0, "validation", here / "data")
    for number in range(1, 5):  # names that tell no COCO number, by which images would be recognised, too
        (here / name_of(number)).rename(here / f"p{number}.png")
    again = row(1) | {"id": "again", "image": "p1.png", "prompt": "Is there a dog?"}
    write_jsonl(here / "prefs.jsonl", [*(row(number) | {"image": f"p{number}.png"} for number in range(1, 5)), again])
    picture = next(path for path in sorted((here / "data").rglob("*.png")))
    (here / "p1.png").write_bytes(picture.read_bytes())
    assert run(endpoint, output="all")["counts"]["prompts"] == 5
    manifest = run(endpoint, "--held-out", "data")
    assert manifest["counts"]["prompts"] == 3 and set(manifest["held_out"].values()) == {1}
    assert manifest["held_out_prompts"] == dict.fromkeys(manifest["held_out"], 2)
    assert {*manifest["held_out"]} <= {*manifest["compared_with"]}
    suite, stored = next(iter(manifest["held_out"])), read_manifest(here / "pairs" / "manifest.json", PairSetManifest)
    assert f"- left out: 1 images that {suite} asks about, with 2 prompts\n" in data_card(stored, "pairs")
    assert f"- images compared with those of: {', '.join(stored.compared_with)}\n" in data_card(stored, "pairs")
    earlier = stored.model_copy(update={"held_out": {suite: 2}, "held_out_prompts": {}})  # earlier sets counted prompts
    assert f"- left out: 2 prompts about images that {suite} asks about\n" in data_card(earlier, "pairs")
    digest = hashlib.sha256(picture.read_bytes()).hexdigest()
    assert all(hashlib.sha256(row["image"]["bytes"]).hexdigest() != digest for row in rows())


@pytest.mark.slow
@pytest.mark.claims(
    "data generate --annotations", "judge.chair.annotations", "judge.chair.synonyms", "judge.chair.extractor",
    "judge.chair.recall_weight",
)  # fmt: skip
def test_what_chair_goes_by(here: Path, endpoint: ScriptedEndpoint) -> None:
    truth = here / "coco"
    write_json(
        truth / "instances_val2014.json",
        {
            "categories": [{"id": 1, "name": "cup"}],
            "annotations": [{"image_id": n, "category_id": 1} for n in range(1, 5)],
        },
    )
    write_json(
        truth / "captions_val2014.json", {"annotations": [{"image_id": n, "caption": "A bus."} for n in range(1, 5)]}
    )
    run(endpoint, "--pairs", "99", output="boxes")
    run(endpoint, "--pairs", "99", "--annotations", "coco", output="coco-pairs")
    absent = {
        word for row in rows("boxes") for word in row["rejected_why"].removeprefix("not in the image: ").split(", ")
    }
    assert absent <= {*WORDS} - {"dog", "cat"}
    absent = {
        word
        for row in rows("coco-pairs")
        for word in row["rejected_why"].removeprefix("not in the image: ").split(", ")
    }
    assert absent and absent <= {*WORDS} - {"cup", "bus"}

    scored = {(row["question"], row["chosen"]): row["chosen_score"] for row in rows("boxes")}
    run(endpoint, "--pairs", "99", "--set", "judge.recall_weight=1", output="recall")
    recalled = {(row["question"], row["chosen"]): row["chosen_score"] for row in rows("recall")}
    common = scored.keys() & recalled.keys()
    assert common and all(recalled[name] >= scored[name] for name in common) and recalled != scored

    (here / "words.txt").write_text("dog, cat\ncar\n")
    run(endpoint, "--pairs", "99", "--set", "judge.synonyms=words.txt", output="few")
    assert {row["rejected_why"] for row in rows("few")} == {"not in the image: car"}
    assert "no-such" in run(endpoint, "--set", "judge.extractor=no-such", code=2, output="none")


def test_a_corrected_truth_makes_another_set(here: Path, endpoint: ScriptedEndpoint) -> None:
    """At the same place, with other contents: nothing is complete, and no verdict is taken over."""

    def coco(word: str) -> None:
        known = [{"image_id": number, "category_id": 1} for number in range(1, 5)]
        said = [{"image_id": number, "caption": f"A {word}."} for number in range(1, 5)]
        write_json(
            here / "coco/instances_val2014.json", {"categories": [{"id": 1, "name": word}], "annotations": known}
        )
        write_json(here / "coco/captions_val2014.json", {"annotations": said})

    def boxes(word: str) -> None:
        objects = [{"label": word, "box": [1.0, 1.0, 9.0, 9.0]}]
        write_jsonl(here / "prefs.jsonl", [row(number) | {"objects": objects} for number in range(1, 5)])

    def synonyms(word: str) -> None:
        other = {"dog": "cat", "bus": "car"}[word]
        lines = [f"dog, {other}", *sorted({*WORDS} - {"dog", other})]
        (here / "words.txt").write_text("\n".join(lines))
        boxes("dog")

    def sampled() -> int:
        return sum(count for one, count in endpoint.asked.items() if one.text == QUESTION)

    for change, options in (
        (coco, ["--annotations", "coco"]),
        (synonyms, ["--set", "judge.synonyms=words.txt"]),
        (boxes, []),
    ):
        output = f"pairs-{change.__name__}"
        change("dog")
        more = ["--pairs", "99", "--set", "pair.length_balance=false", *options]
        run(endpoint, *more, output=output)
        before, count = rows(output), sampled()
        run(endpoint, *more, output=output)
        change("bus")
        assert "--overwrite" in run(endpoint, *more, output=output, code=2), output
        run(endpoint, *more, "--overwrite", output=output)
        assert sampled() == count, "answers are not sampled again"
        run(endpoint, *more, output=f"{output}-anew")
        assert rows(output) == rows(f"{output}-anew") != before, output


def test_a_changed_parser_makes_another_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a pipeline by its contents, and our rules by their version; otherwise the identity is that of earlier versions."""

    def identity(extractor: str) -> dict[str, Any]:
        return ChairJudge(ChairSettings(extractor=extractor)).identity()

    settings = {"synonyms": None, "annotations": None, "recall_weight": 0.0}
    for name in ("spacy", "nltk", "spacy:en_core_web_sm"):
        assert identity(name) == {"judge": "chair", "settings": settings | {"extractor": name}}
    (tmp_path / "mine").mkdir()
    hashes = []
    for contents in ("one", "two"):
        (tmp_path / "mine" / "meta.json").write_text(contents)
        hashes.append(identity(f"spacy:{tmp_path / 'mine'}")["pipeline_sha256"])
    assert len(set(hashes)) == 2
    monkeypatch.setattr("harness.generation.named_objects.RULES", 3)
    assert identity("spacy")["rules"] == 3 and "rules" not in identity("nltk")


def test_boxes_count_only_for_a_judge_that_reads_them() -> None:
    judges = {
        "chair": ChairJudge(),
        "with annotations": ChairJudge(ChairSettings(annotations="coco")),
        "detectors": DetectorsJudge(),
        "one detector": DetectorsJudge(DetectorsSettings(second="boxes")),
        "claims": ClaimsJudge(),
    }
    read = {name for name, judge in judges.items() if judge.reads_regions()}
    assert read == {"chair", "one detector"}


def test_a_judges_models_are_known_by_their_weights(tmp_path: Path) -> None:
    detector = tmp_path / "detector"
    detector.mkdir()
    before, judge = [], DetectorsSettings(first_model=str(detector))
    for content in (b"1", b"2"):
        (detector / "model.safetensors").write_bytes(content)
        before.append(DetectorsJudge(judge).identity())
    assert before[0] != before[1] and "weights" not in DetectorsJudge().identity()


@pytest.mark.slow
def test_a_verifier_of_this_machine_is_known_by_its_weights(tmp_path: Path) -> None:
    named = ClaimsSettings(verifier=str(tmp_path / "base"), backend="transformers")
    seen = []
    for seed in (0, 1):
        tiny_llava(tmp_path / "base", seed=seed)
        seen.append(ClaimsJudge(named).identity())
    assert seen[0] != seen[1]
    served = ClaimsSettings(verifier="base", verifier_url="http://127.0.0.1:1/v1")
    assert "weights" not in ClaimsJudge(served).identity()


@pytest.mark.slow
@pytest.mark.claims("data generate --backend", "data generate --results")
def test_a_model_of_this_machine(here: Path) -> None:
    tiny_llava(here / "base")
    target_of_model(resolve("./base"), here / "mine").begin()
    more = (
        "--backend",
        "transformers",
        "--set",
        "sample.max_new_tokens=3",
        "--set",
        "backend.dtype=float32",
        "--limit",
        "1",
    )
    said = run(None, *more, "--results", "mine", model="base-base", code=1)
    assert "6 cut off" in said
    [log] = Path("pairs").rglob("responses.jsonl")
    answers = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(answers) == 6 and {one["backend"] for one in answers} == {"transformers"}
    assert len({one["text"] for one in answers}) > 1, "answers with seeds of their own differ"
    assert "base-base" in run(None, *more, model="base-base", code=2, output="other")


@pytest.mark.slow
@pytest.mark.claims("judge.claims.backend")
def test_a_verifier_of_this_machine(here: Path) -> None:
    tiny_llava(here / "base")

    def speaks(asked: Asked) -> str:
        return "- Is there a dog?\n- Is there a cat?" if asked.model == "splitter" else say(asked)

    with scripted(speaks) as endpoint:
        judge = {
            "splitter.model": "splitter",
            "splitter.base_url": endpoint.url,
            "verifier": "./base",
            "backend": "transformers",
        }
        settings = [part for key, value in judge.items() for part in ("--set", f"judge.{key}={value}")]
        said = run(endpoint, *settings, "--limit", "1", code=1, judge="claims")
    assert "not judged" in said, "an untrained verifier says neither yes nor no"
    [log] = Path("pairs").rglob("claims/responses.jsonl")
    answers = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(answers) == 2 and {one["backend"] for one in answers} == {"transformers"}


def test_the_columns_that_tell_where_pairs_come_from_are_known(here: Path, endpoint: ScriptedEndpoint) -> None:
    common = {"id", "image", "question", "chosen", "rejected", "objects", "origin_dataset"}
    weights = {"chosen_weights", "rejected_weights", "standard_response"}
    read = weights | {"chosen_spans", "rejected_spans", "shared_context", "responses_end"}
    assert {*schema().names} - common - read == GENERATED and read < COMMON


def test_images_without_a_coco_number_are_not_taken_for_others(here: Path, endpoint: ScriptedEndpoint) -> None:
    (here / name_of(1)).rename(here / "mine_1.png")
    write_jsonl(here / "prefs.jsonl", [row(1) | {"image": "mine_1.png"}])
    instances = {"categories": [{"id": 1, "name": "cup"}], "annotations": [{"image_id": 1, "category_id": 1}]}
    write_json(here / "coco" / "instances_val2014.json", instances)
    write_json(here / "coco" / "captions_val2014.json", {"annotations": [{"image_id": 1, "caption": "A bus."}]})
    assert "COCO has no annotations of 1 of 1 images" in run(endpoint, "--annotations", "coco", code=2)


@pytest.mark.slow
def test_a_question_that_is_too_long_is_said_before_anything_is_asked(here: Path) -> None:
    tiny_llava(here / "base")
    write_jsonl(here / "prefs.jsonl", [row(1) | {"prompt": "What? " * 9000}])
    said = run(None, "--backend", "transformers", model="./base", code=2)
    assert "context is too short" in said and not list(Path("pairs").rglob("responses.jsonl"))


@pytest.mark.claims("data generate --dry-run")
def test_a_dry_run_asks_nothing_and_counts(here: Path, endpoint: ScriptedEndpoint) -> None:
    assert "needs a model that looks at the images" in run(endpoint, "--dry-run", judge="claims", code=2)
    split = ("--set", "judge.splitter.model=gpt-4o-mini", "--set", "judge.splitter.max_tokens=100")
    split = (*split, "--set", "judge.verifier=vlm", "--set", f"judge.verifier_url={endpoint.url}")
    plan = run(endpoint, *split, "--dry-run", judge="claims", samples="3")
    assert not endpoint.asked and not Path("pairs").exists() and not (here / "cache" / "judge").exists()
    assert (plan["prompts"], plan["answers"], plan["kept"]) == (4, 12, 0)
    assert plan["new_tokens_at_most"] == 12 * 512 and plan["prompt_tokens"] is None, "an endpoint's tokens are unknown"
    assert plan["judge_calls"] == 12 and plan["judge_completion_tokens_at_most"] == 1200
    assert plan["judge_usd_at_most"] == pytest.approx((plan["judge_prompt_tokens"] * 0.15 + 1200 * 0.6) / 1e6)
    named = ("--set", "judge.max_tokens=50", "--set", "judge.model=vlm", "--set", f"judge.model_url={endpoint.url}")
    looked = run(endpoint, *named, "--dry-run", judge="rating", samples="3")
    assert (looked["judge_calls"], looked["judge_completion_tokens_at_most"], looked["judge_usd_at_most"]) == (
        12,
        600,
        None,
    )
    run(endpoint, samples="3")
    plan = run(endpoint, "--dry-run", samples="4")
    assert (plan["answers"], plan["kept"], plan["new_tokens"], plan["judge_calls"]) == (16, 12, 40, 0)
    where = ["--prompts", "prefs.jsonl", "--judge", "chair", "-o", "pairs", "--endpoint", endpoint.url]
    assert "4 to sample, 12 kept" in run_here(["data", "generate", "vlm", *where, "--samples", "4", "--dry-run"])[1]
