"""`harness data generate`, against endpoints whose answers and verdicts are known."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.core.files import write_jsonl
from harness.remote.endpoint import KEY_VARIABLE
from tests import commands, warm
from tests.harness.generation.scripted import Asked, Likely, ScriptedEndpoint, scripted

ANSWERS = {
    "red.png": ["A red square.", "A red square and a dog.", "A red square, a dog and a cat."],
    "blue.png": ["A blue square.", "A blue square with a border.", "A blue square."],
    "grey.png": ["A cat.", "A dog.", "A cat and a dog."],
}
"""What the model says about each picture, drawn by the seed."""
CLAIMS = {
    "A red square.": "- Is there a red square?",
    "A red square and a dog.": "- Is there a red square?\n- Is there a dog?",
    "A red square, a dog and a cat.": "1. Is there a red square?\n2. Is there a dog?\n3. Is there a cat?",
    "A blue square.": "- Is there a blue square?",
    "A blue square with a border.": "- Is there a blue square?\n- Is there a border?",
    "A cat.": "- Is there a cat?",
    "A dog.": "NONE",
    "A cat and a dog.": "I see a cat and a dog.",
}
"""Answer -> what the splitter makes of it; the last one cannot be read."""
SEEN = {
    ("red.png", "Is there a red square?"): "Yes.",
    ("red.png", "Is there a dog?"): "No, there is no dog.",
    ("red.png", "Is there a cat?"): "No",
    ("blue.png", "Is there a blue square?"): "Yes",
    ("blue.png", "Is there a border?"): "Hard to say.",
    ("grey.png", "Is there a cat?"): "no",
}
SCORES = {
    ("red.png", "A red square."): 0.0,
    ("red.png", "A red square and a dog."): -1.0,
    ("red.png", "A red square, a dog and a cat."): -2.0,
    ("blue.png", "A blue square."): 0.0,
    ("grey.png", "A cat."): -1.0,
}
"""Worked out by hand: minus the claims denied. The other answers are not judged: a claim without a verdict, no claim, no list."""
TASK = ["--samples", "8", "--temperature", "1", "--pairs", "9", "--judge", "claims", "--part-size", "2"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures and a file of prompts about them."""
    folder = tmp_path / "pictures"
    draw(folder)
    write_jsonl(folder / "prompts.jsonl", [{"id": name, "image": name, "prompt": "What is shown?"} for name in ANSWERS])
    return folder


def draw(folder: Path) -> None:
    """The pictures, in a new folder."""
    folder.mkdir()
    for name in ANSWERS:
        Image.new("RGB", (24, 24), name.partition(".")[0]).save(folder / name)


def speaking(pictures: Path) -> Callable[[Asked], str]:
    names = {hashlib.sha256((pictures / name).read_bytes()).hexdigest(): name for name in ANSWERS}

    def say(asked: Asked) -> str:
        name = names.get(asked.image, "")
        if asked.model == "splitter":
            assert not asked.image
            return CLAIMS[asked.text.rpartition("Answer: ")[2].strip()]
        if not name:
            return "A probe."
        if asked.model == "verifier":
            return SEEN[name, asked.text.removesuffix(" Please answer yes or no.")]
        assert asked.seed is not None
        return ANSWERS[name][asked.seed % 3]

    return say


@pytest.fixture
def endpoint(pictures: Path) -> Iterator[ScriptedEndpoint]:
    with scripted(speaking(pictures)) as server:
        yield server


def arguments(pictures: Path, server: ScriptedEndpoint, *more: str) -> list[str]:
    return [
        "data", "generate", "vlm", "--prompts", str(pictures / "prompts.jsonl"), "--endpoint", server.url, *TASK,
        "--set", "judge.splitter.model=splitter", "--set", f"judge.splitter.base_url={server.url}",
        "--set", "judge.verifier=verifier", "--set", f"judge.verifier_url={server.url}", *more,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-test")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def run(folder: Path, arguments: list[str], code: int = 0) -> tuple[str, str]:
    found, out, err = commands.run_here(arguments, folder)
    assert found == code, err
    return out, err


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def expected_pairs() -> set[tuple[str, str, str]]:
    scores = list(SCORES.items())
    return {
        (name, better, worse)
        for (name, better), high in scores
        for (other, worse), low in scores
        if name == other and high - low >= 1
    }


@pytest.mark.claims("judge.claims.splitter", "judge.claims.verifier", "judge.claims.verifier_url")
def test_claims_give_the_pairs_worked_out_by_hand(tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint) -> None:
    out, _ = run(tmp_path, arguments(pictures, endpoint, "-o", "pairs", "--set", "pair.length_balance=false", "--json"))
    manifest = json.loads(out)
    rows = rows_of(tmp_path / "pairs")
    found = {(row["id"].rpartition("-")[0], row["chosen"], row["rejected"]) for row in rows}
    assert found == expected_pairs() and len(found) == 3 == manifest["pairs"]
    assert {(row["chosen_score"], row["rejected_score"]) for row in rows} == {(0.0, -1.0), (0.0, -2.0), (-1.0, -2.0)}
    assert all(row["image"]["bytes"] == (pictures / row["image"]["path"]).read_bytes() for row in rows)
    [why] = {row["rejected_why"] for row in rows if row["rejected_score"] == -2.0}
    assert why == "2 of 3 claims denied: Is there a dog?; Is there a cat?"
    counts = manifest["counts"]
    assert counts["prompts"] == 3 and counts["answers"] == 24 and counts["prompts without a pair"] == 2
    assert counts["usable"] == len(SCORES) and counts["not judged"] >= 3
    reasons = manifest["not_judged"]
    assert {"the answer makes no claim", "1 of 2 claims were not judged"} < reasons.keys() and len(reasons) == 3
    assert sum(reasons.values()) == 3 and any(reason.startswith("not split into claims") for reason in reasons)
    probes = ("Describe this image.", "Say yes.")
    repeated = [(asked, n) for asked, n in endpoint.asked.items() if n > 1 and asked.text not in probes]
    assert [(asked.text.rpartition("Answer: ")[2].strip(), n) for asked, n in repeated] == [("A cat and a dog.", 2)], (
        "only a list that cannot be read is asked for again"
    )

    before = endpoint.asked.total()
    again, _ = run(
        tmp_path, arguments(pictures, endpoint, "-o", "pairs", "--set", "pair.length_balance=false", "--json")
    )
    assert json.loads(again) == manifest and endpoint.asked.total() <= before + 2, "a complete set is only looked at"


@pytest.mark.slow
def test_a_faulty_endpoint_judges_each_claim_once(tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint) -> None:
    """Requests to the judge fail: rate limits, server errors, replies that are cut or empty. More than a tenth, so that each occurs."""
    plain = ("--set", "pair.length_balance=false")
    run(tmp_path, arguments(pictures, endpoint, "-o", "undisturbed", *plain))
    refused = "Is there a dog?"

    def claims(server: ScriptedEndpoint) -> dict[Asked, int]:
        """Claim -> how often the verifier judged it."""
        return {asked: n for asked, n in server.asked.items() if asked.text.endswith("yes or no.")}

    def judged_by(server: ScriptedEndpoint) -> tuple[str, ...]:
        """Settings of a judge behind another endpoint than the sampled model."""
        given = (
            f"judge.splitter.base_url={server.url}",
            f"judge.verifier_url={server.url}",
            "judge.splitter.concurrency=1",
        )
        return tuple(part for one in given for part in ("--set", one))

    with scripted(speaking(pictures), faulty=0.25) as server:
        run(tmp_path, arguments(pictures, endpoint, "-o", "pairs", *plain, *judged_by(server)))
        assert server.failed.total() >= 4 and min(server.failed.values()) >= 1 and len(server.failed) == 4
        assert claims(server) == claims(endpoint) and set(claims(server).values()) == {1}
    assert rows_of(tmp_path / "pairs") == rows_of(tmp_path / "undisturbed")

    def refusing(asked: Asked) -> str | tuple[int, dict[str, Any]]:
        if refused in asked.text and asked.model == "verifier":
            return 400, {"error": {"message": "against the rules", "code": "content_filter"}}
        return speaking(pictures)(asked)

    with scripted(refusing, faulty=0.1) as server:
        _, said = run(tmp_path, arguments(pictures, endpoint, "-o", "refused", *plain, *judged_by(server)), 1)
    assert "no pair could be made" in said and "not judged" in said, "an answer with an unjudged claim was paired"


@pytest.mark.slow
@pytest.mark.claims("judge.claims.compare")
def test_the_probabilities_of_yes_and_no_decide(
    tmp_path: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each claim's words say the opposite of its probabilities, and the claim that words leave open is likelier false."""
    plain = ("-o", "pairs", "--set", "pair.length_balance=false")

    def say(asked: Asked) -> str | Likely:
        text = speaking(pictures)(asked)
        if asked.model != "verifier" or not asked.text.endswith("yes or no."):
            return Likely(text, {"Yes": -0.1}) if asked.text == "Say yes." else text
        truth = text.lower().startswith("yes")
        return Likely(
            "No" if truth else "Yes", {"Yes": -0.3, "No": -1.3} if truth else {" No": -0.5, "no": 0, "Yes": -1}
        )

    with scripted(say) as server:
        run(tmp_path, arguments(pictures, server, *plain))
        found = {(row["id"].rpartition("-")[0], row["chosen"], row["rejected"]) for row in rows_of(tmp_path / "pairs")}
        assert found == expected_pairs() | {("blue.png", "A blue square.", "A blue square with a border.")}
        config = json.loads((tmp_path / "pairs" / "config.json").read_text())
        assert config["judge"]["compare"] == "probabilities"
        _, said = run(tmp_path, arguments(pictures, server, *plain, "--overwrite", "--set", "judge.compare=words"), 1)
        assert "2 prompts have equal scores only" in said, "the words deny what is there"
    with scripted(speaking(pictures)) as server:
        more = ("--overwrite", "--set", "judge.compare=probabilities")
        _, said = run(tmp_path, arguments(pictures, server, *plain, *more), 2)
        assert "judge.compare=words" in said and "no log-probabilities" in said
        run(tmp_path, arguments(pictures, server, "-o", "words"))
        config = json.loads((tmp_path / "words" / "config.json").read_text())
        assert config["judge"]["compare"] == "words" and "the verifier's words decide" in caplog.text


def test_the_set_is_preference_data(tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint) -> None:
    out, _ = run(tmp_path, arguments(pictures, endpoint, "-o", "pairs"))
    assert "pairs of 3 prompts in pairs" in out and "not judged" in out
    report, _ = run(tmp_path, ["data", "check", "pairs", "--json"])
    [checked] = json.loads(report)["preferences"]
    assert checked["fatal"] == [] and checked["unread_columns"] == {} and checked["usable"] == checked["records"] > 0
    written = b"".join(path.read_bytes() for path in (tmp_path / "pairs").rglob("*") if path.is_file())
    assert b"sk-test" not in written


def test_other_settings_need_another_folder_or_overwrite(
    tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint
) -> None:
    run(tmp_path, arguments(pictures, endpoint, "-o", "pairs"))
    before = {path: path.read_bytes() for path in (tmp_path / "pairs").rglob("*.parquet")}
    _, said = run(tmp_path, arguments(pictures, endpoint, "-o", "pairs", "--min-gap", "2"), 2)
    assert "pairing" in said and "--overwrite" in said
    assert {path: path.read_bytes() for path in before} == before
    candidates = endpoint.asked.total()
    out, _ = run(tmp_path, arguments(pictures, endpoint, "-o", "pairs", "--min-gap", "2", "--overwrite", "--json"))
    assert json.loads(out)["pairs"] == 1
    new = {asked for asked in endpoint.asked if asked.model == "vlm" and asked.text == "What is shown?"}
    assert len(new) == 24 and endpoint.asked.total() - candidates < 24, "kept answers are used again"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    _, said = run(tmp_path, arguments(pictures, endpoint, "-o", "mine"), 2)
    assert "is not a set of pairs" in said and (tmp_path / "mine" / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_shards_make_the_same_pairs(tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint) -> None:
    plain = ("--set", "pair.length_balance=false", "--set", "judge.splitter.concurrency=2")
    run(tmp_path, arguments(pictures, endpoint, "-o", "whole", *plain))
    # The second shard's pictures have no pair between them, which is said; the first shard has them all.
    run(tmp_path, arguments(pictures, endpoint, "-o", "shards", "--shard", "1/2", *plain))
    _, said = run(tmp_path, arguments(pictures, endpoint, "-o", "shards", "--shard", "2/2", *plain), 1)
    assert "no pair could be made" in said and "not judged" in said
    assert rows_of(tmp_path / "shards") == rows_of(tmp_path / "whole")
    assert not (tmp_path / "shards" / "manifest.json").exists(), "a set with an unfinished shard is not complete"


def test_a_model_that_refuses_everything(tmp_path: Path, pictures: Path) -> None:
    def say(asked: Asked) -> str | tuple[int, dict[str, Any]]:
        if asked.model == "vlm" and asked.text == "What is shown?":
            return 400, {"error": {"message": "against the rules", "code": "content_filter"}}
        return "A probe."

    with scripted(say) as server:
        _, said = run(tmp_path, arguments(pictures, server, "-o", "pairs"), 1)
    assert "no pair could be made" in said and "24 could not be answered" in said
    assert not list((tmp_path / "pairs").glob("*.parquet")) and not (tmp_path / "pairs" / "manifest.json").exists()


def test_a_verifier_that_sees_no_pictures(tmp_path: Path, pictures: Path) -> None:
    def say(asked: Asked) -> str | tuple[int, dict[str, Any]]:
        if asked.model == "verifier" and asked.image:
            return 400, {"error": {"message": "this model takes no images"}}
        return "Yes."

    with scripted(say) as server:
        _, said = run(tmp_path, arguments(pictures, server, "-o", "pairs"), 2)
        assert "image" in said and not (tmp_path / "pairs").exists()
        assert {asked.model for asked in server.asked} == {"verifier"}, "no candidate was paid for"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "What?"}], "image"),
        ([{"image": "red.png"}], "question"),
        ([{"image": "../outside.png", "prompt": "What?"}], "outside"),
        ([{"image": "none.png", "prompt": "What?"}], "none.png"),
        ([], "no prompts"),
        (
            [{"id": "a", "image": "red.png", "prompt": "What?"}, {"id": "a", "image": "blue.png", "prompt": "What?"}],
            "two prompts",
        ),
    ],
)
def test_prompts_that_cannot_be_asked(
    rows: list[dict[str, Any]], said: str, tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint
) -> None:
    write_jsonl(pictures / "prompts.jsonl", rows)
    _, error = run(tmp_path, arguments(pictures, endpoint, "-o", "pairs"), 2)
    assert said in error and "defect" not in error and not (tmp_path / "pairs").exists()


def test_bad_options(tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint) -> None:
    for more, said in (
        (["--temperature", "0"], "temperature"),
        (["--samples", "1"], "samples"),
        (["--how", "worst"], "how"),
        (["--set", "pairs.how=random"], "unknown group of settings"),
        (["--annotations", "here"], "annotations"),
        (["--shard", "5/9"], "fewer than 9 shards"),
    ):
        _, error = run(tmp_path, arguments(pictures, endpoint, "-o", "pairs", *more), 2)
        assert said in error and not (tmp_path / "pairs").exists()
    chair = ["data", "generate", "vlm", "--endpoint", endpoint.url, "--judge", "chair", "-o", "pairs"]
    _, error = run(tmp_path, [*chair, "--prompts", str(pictures / "prompts.jsonl")], 2)
    assert "no boxes" in error


def test_a_folder_of_pictures_is_asked_standard_questions(
    tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint
) -> None:
    (pictures / "prompts.jsonl").unlink()
    task = arguments(pictures, endpoint, "-o", "pairs")
    task[task.index("--prompts") + 1] = str(pictures)
    run(tmp_path, task)
    asked = {one.text for one in endpoint.asked if one.model == "vlm" and one.image in {
        hashlib.sha256((pictures / name).read_bytes()).hexdigest() for name in ANSWERS}}  # fmt: skip
    assert asked and all("escri" in text for text in asked)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.exhaustive)])
def test_after_kills_the_set_is_the_same_to_the_byte(kills: int, tmp_path: Path, pictures: Path) -> None:
    with scripted(speaking(pictures)) as server:
        run(tmp_path, arguments(pictures, server, "-o", "undisturbed"))
    draw = random.Random(kills)
    with scripted(speaking(pictures), delay_s=0.15) as server:
        command = [*arguments(pictures, server, "-o", "killed")]
        for _ in range(kills):
            process = warm.start(
                command, cwd=tmp_path, env=os.environ | {"HARNESS_CACHE": str(tmp_path / "other")}, start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            start = server.asked.total()
            wanted = start + draw.randint(2, 8)
            deadline = time.monotonic() + 120
            while process.poll() is None and server.asked.total() < wanted and time.monotonic() < deadline:
                time.sleep(0.02)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        environment = os.environ | {"HARNESS_CACHE": str(tmp_path / "other")}
        done = warm.run(command, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
    files = [path.name for path in sorted((tmp_path / "undisturbed").glob("*.parquet"))]
    assert files == [path.name for path in sorted((tmp_path / "killed").glob("*.parquet"))]
    for name in files:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


@pytest.mark.claims("data generate --answers-of")
def test_another_judge_takes_the_answers_of_a_set(
    tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    plain = ("--set", "pair.length_balance=false")
    run(tmp_path, arguments(pictures, endpoint, "-o", "claims", "--samples", "6", *plain))
    first = (tmp_path / "claims").glob("candidates/*/responses.jsonl")
    kept = {row["request"]: row for path in first for row in map(json.loads, path.read_text().splitlines())}
    sampled = [asked for asked in endpoint.asked.elements() if asked.model == "vlm" and asked.text == "What is shown?"]
    assert len(kept) == len(sampled) == 18

    # The same prompts in another order, under other ids, in parts of another size; and two more answers to each.
    rows = [{"id": f"p{name}", "image": name, "prompt": "What is shown?"} for name in reversed(ANSWERS)]
    write_jsonl(pictures / "others.jsonl", rows)
    rated = [
        "data", "generate", "vlm", "--prompts", str(pictures / "others.jsonl"), "--endpoint", endpoint.url,
        "--judge", "claims", "--set", "judge.splitter.model=splitter", "--set", f"judge.splitter.base_url={endpoint.url}",
        "--set", "judge.verifier=verifier", "--set", f"judge.verifier_url={endpoint.url}", "--set", "judge.compare=words",
        "--samples", "8", "--temperature", "1", "--pairs", "9", "--part-size", "1", *plain,
    ]  # fmt: skip
    out, _ = run(tmp_path, [*rated, "-o", "rated", "--answers-of", "claims", "--dry-run", "--json"])
    plan = json.loads(out)
    assert (plan["answers"], plan["kept"]) == (24, 18) and not (tmp_path / "rated").exists()
    run(tmp_path, [*rated, "-o", "rated", "--answers-of", "claims"])
    assert "18 of 24 answers are those of claims" in caplog.text
    now = [asked for asked in endpoint.asked.elements() if asked.model == "vlm" and asked.text == "What is shown?"]
    assert len(now) == 24, "only the two further answers to each prompt were sampled"
    second = (tmp_path / "rated").glob("candidates/*/responses.jsonl")
    rows = [row for path in second for row in map(json.loads, path.read_text().splitlines())]
    same = [row for row in rows if row["request"] in kept]
    assert len(rows) == 24 and len(same) == 18
    assert all(row | {"item": kept[row["request"]]["item"]} == kept[row["request"]] for row in same), (
        "with their origin"
    )

    # The judge is the same: claims are only checked in a new answer, and in one that has no score.
    question = "Is there a {}? Please answer yes or no."
    checked = {
        name: [n for asked, n in endpoint.asked.items() if asked.text == question.format(name)]
        for name in ("cat", "dog", "border")
    }
    assert checked == {"cat": [1, 1], "dog": [2], "border": [2]}

    run(tmp_path, [*rated, "-o", "alone"])
    assert rows_of(tmp_path / "alone") == rows_of(tmp_path / "rated"), "the set is the one that sampling makes"
    run(tmp_path, [*rated, "-o", "other", "--answers-of", "claims", "--seed", "3"])
    assert "no answer of claims is to the same request: the sets differ in prompts, sampling, seed" in caplog.text


def test_answers_of_no_set(tmp_path: Path, pictures: Path, endpoint: ScriptedEndpoint) -> None:
    (tmp_path / "empty").mkdir()
    _, error = run(tmp_path, arguments(pictures, endpoint, "-o", "pairs", "--answers-of", "empty"), 2)
    assert "no answers of this set" in error and "candidates" in error and not (tmp_path / "pairs").exists()
