"""The judges `rating`, `rewrite` and `continuation`: their pairs are those worked out by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.preferences import read_preferences
from harness.core.files import write_jsonl
from harness.core.types import ImageRef, Response
from harness.generation.candidates import CandidateSampler
from harness.generation.continuation import ContinuationJudge, ContinuationSettings, beginning_of
from harness.generation.generate import generate
from harness.generation.rating import RatingJudge, RatingSettings
from harness.generation.rewrite import changed_spans, sentences_of
from harness.generation.settings import PairSettings, SampleSettings
from harness.generation.work import GenerateRequest
from harness.judging.candidates import Begun, Candidate, Prompt, verdicts_of
from harness.judging.replies import UnreadableError
from harness.remote.endpoint import KEY_VARIABLE
from harness.runs.targets import target_of_endpoint
from harness.serving.base import Backend, BackendSettings, Completion, Request
from harness.worlds.pocket import shipped
from tests.commands import json_here
from tests.harness.generation.scripted import Asked, Cut, ScriptedEndpoint, scripted

ANSWERS = ("A red dog. It runs.", "A dog on  grass. It sleeps.", "A cat. A cup.", "A dog. It runs.")
RATINGS = {ANSWERS[0]: "The dog is brown.\nRating: 6", ANSWERS[1]: "All is right. Rating: 10", ANSWERS[2]: "Rating: 11"}
"""The last answer's rating is read at the third request; the third's is not on the scale."""
CORRECTIONS = {
    ANSWERS[0]: "1. 3 | A brown dog.\n2. 4 | It runs.",
    ANSWERS[1]: "1. 4 | A dog on grass.\n2. 1 |",
    ANSWERS[2]: "1. 1 |\n2. 1 |",
    ANSWERS[3]: "1. 4 | A dog.\n2. 4 | It runs.",
}
CORRECTED = {
    ("A brown dog. It runs.", ANSWERS[0]): ([[2, 7]], [[2, 5]]),
    ("A dog on  grass.", ANSWERS[1]): ([], [[17, 27]]),
}
"""(chosen, rejected) -> changed characters of both. The third answer loses every sentence, the fourth is right."""
WEIGHTED = {
    ("A brown dog. It runs.", ANSWERS[0]): ([[0, 12, 1.5]], [[0, 10, 1.5]]),
    ("A dog on  grass.", ANSWERS[1]): (None, [[17, 27, 2.5]]),
}
"""The same -> weights of the corrected sentences in both: OPA-DPO's for the scores 3 and 1."""


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    again = 0

    def say(asked: Asked) -> str:
        nonlocal again
        if asked.model == "vlm":
            return "A probe." if asked.seed is None else ANSWERS[asked.seed % 4]
        if "NUMBER. SCORE" in asked.text:
            assert asked.image and "A good answer." in asked.text
            return next(
                CORRECTIONS[text]
                for text in ANSWERS
                if "\n".join(f"{n}. {one}" for n, one in enumerate(sentences_of(text), 1)) in asked.text
            )
        for text in ANSWERS:
            if f"Answer: {text}\n" in asked.text:
                again += text == ANSWERS[3]
                return RATINGS.get(text) or ("Rating: 3" if again == 3 else "I cannot say.")
        return "A probe."

    with scripted(say) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(KEY_VARIABLE, "sk-test")
    Image.new("RGB", (24, 24), "red").save("one.png")
    pair = {"id": "p", "image": "one.png", "prompt": "What is shown?", "chosen": "A good answer.", "rejected": "B"}
    write_jsonl(tmp_path / "prefs.jsonl", [pair])
    return tmp_path


def run(endpoint: ScriptedEndpoint, judge: str, *more: str, code: int = 0) -> Any:
    named = ["--prompts", "prefs.jsonl", "--judge", judge, "--endpoint", endpoint.url, "--samples", "24", "-o", "pairs"]
    model = ["--set", "judge.model=looker", "--set", f"judge.model_url={endpoint.url}"]
    plain = ["--pairs", "99", "--set", "pair.length_balance=false"]
    return json_here("data", "generate", "vlm", *named, *model, *plain, *more, code=code)


def rows() -> list[dict[str, Any]]:
    return pq.read_table(next(Path("pairs").glob("*.parquet"))).to_pylist()


@pytest.mark.claims(
    "judge.rating.model", "judge.rating.model_url", "judge.rating.most", "judge.rating.asks", "judge.rating.max_tokens"
)
def test_rating(here: Path, endpoint: ScriptedEndpoint) -> None:
    manifest = run(endpoint, "rating", "--set", "judge.max_tokens=77")
    pairs = {(row["chosen"], row["rejected"]): (row["chosen_score"], row["rejected_score"]) for row in rows()}
    assert pairs == {
        (ANSWERS[1], ANSWERS[0]): (10, 6),
        (ANSWERS[1], ANSWERS[3]): (10, 3),
        (ANSWERS[0], ANSWERS[3]): (6, 3),
    }
    assert manifest["not_judged"] == {"the reply cannot be parsed: '11' is above 10": 1}
    assert {row["rejected_why"] for row in rows() if row["rejected_score"] == 6} == {"The dog is brown."}
    asked = [one for one in endpoint.asked if one.model == "looker" and "Answer:" in one.text]
    assert len(asked) == 1 + 1 + 3 + 3 and {one.max_tokens for one in asked} == {77}
    assert {(one.temperature, one.seed) for one in asked} == {(0.0, None), (0.7, 1), (0.7, 2)}
    # What would be judged again: the answer without a rating, here and in another set that takes over these answers.
    planned = ("--set", "judge.max_tokens=77", "--dry-run")
    for more, calls in (((), 1), (("-o", "other", "--answers-of", "pairs"), 1), (("-o", "other"), 24)):
        assert run(endpoint, "rating", *planned, *more)["judge_calls"] == calls
    run(endpoint, "rating", "--overwrite", "--set", "judge.most=20", "--set", "judge.asks=1")
    assert {row["chosen"] for row in rows() if row["chosen_score"] == 11} == {ANSWERS[2]}
    assert "3" not in {str(row["rejected_score"]) for row in rows()} | {ANSWERS[3] in str(row) for row in rows()}


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("A cat is missing.\nRating: 8", 8),
        ("Rating (0-10): 8", 8),
        ("Rating: 8.\nOn a rating 0 to 10 scale, 10 is the best.", 8),
        ("**Rating:** 7.5", 7.5),
        ("Rating: 10/10", 10),
        ("Rating: 4/5", None),
        ("Rating (0-100): 80", None),
        ("Rating (0-100): 8", None),
        ("Rating: 7-8", None),
        ("Rating: -3", None),
        ("Rating: 11", None),
        ("Rating: 3 for detail.\nRating: 8", None),
    ],
)
def test_a_scale_is_not_taken_for_the_rating(reply: str, rating: float | None) -> None:
    judge = RatingJudge(RatingSettings(model="looker", model_url="http://127.0.0.1:1/v1"))  # type: ignore[arg-type]
    candidate = Candidate("a", Prompt("p", "What?", ImageRef(data=b"image")), "A dog.")
    assert judge.identity()["parser"] == 2, "verdicts of the earlier reader are not reused"
    if rating is None:
        with pytest.raises(UnreadableError):
            judge.read(candidate, reply)
    else:
        assert judge.read(candidate, reply).score == rating


@pytest.mark.claims(
    "judge.rewrite.model",
    "judge.rewrite.model_url",
    "judge.rewrite.asks",
    "judge.rewrite.max_tokens",
    "judge.rewrite.weights",
)
def test_rewrite(here: Path, endpoint: ScriptedEndpoint) -> None:
    manifest = run(endpoint, "rewrite", "--set", "judge.max_tokens=77", "--set", "judge.asks=1")
    found = {(row["chosen"], row["rejected"]): (row["chosen_spans"], row["rejected_spans"]) for row in rows()}
    assert found == CORRECTED
    weights = {(row["chosen"], row["rejected"]): (row["chosen_weights"], row["rejected_weights"]) for row in rows()}
    assert weights == WEIGHTED and {row["standard_response"] for row in rows()} == {"A good answer."}
    assert manifest["not_judged"] == {"nothing of the answer can stay": 1, "nothing to correct": 1}
    assert {row["rejected_score"] for row in rows()} == {-1.0} and {row["chosen_score"] for row in rows()} == {0.0}
    asked = [one for one in endpoint.asked if one.model == "looker" and "NUMBER" in one.text]
    assert len(asked) == 4 and {one.max_tokens for one in asked} == {77}
    [checked] = json_here("data", "check", "pairs")["preferences"]
    assert checked["fatal"] == [] and checked["unread_columns"] == {} and checked["usable"] == 2
    for example in read_preferences("pairs").examples:
        assert example.responses["standard"] == "A good answer." and example.token_weights
    assert run(endpoint, "rewrite", "--set", "judge.max_tokens=77", "--set", "judge.asks=1") == manifest
    before = sum(count for one, count in endpoint.asked.items() if "NUMBER" in one.text)
    pairs = rows()
    run(endpoint, "rewrite", "--set", "judge.max_tokens=77", "--set", "judge.asks=1", "--overwrite", "--samples", "23")
    assert sum(count for one, count in endpoint.asked.items() if "NUMBER" in one.text) == before, "verdicts are kept"
    assert {tuple(row["chosen_spans"][0:1] and row["chosen_spans"][0]) for row in rows()} <= {
        tuple(row["chosen_spans"][0:1] and row["chosen_spans"][0]) for row in pairs
    }
    run(endpoint, "rewrite", "--overwrite", "--set", "judge.weights=[4, 3, 1]")
    assert {row["rejected_weights"][0][2] for row in rows()} == {4.0, 1.0}, (
        "verdicts with other weights are no longer used"
    )
    assert "at least 0" in run(endpoint, "rewrite", "--overwrite", "--set", "judge.weights=[-1, 3, 1]", code=2)


def test_a_reply_that_was_cut_off_is_asked_for_again_and_makes_no_pair(here: Path) -> None:
    """The last line of a cut correction is the beginning of a sentence, and it is not preferred to anything."""

    def say(asked: Asked) -> str | Cut:
        if asked.model == "vlm":
            return ANSWERS[(asked.seed or 0) % 2]
        if asked.seed is not None and "1. A red dog." in asked.text:
            return "1. 3 | A brown dog.\n2. 4 | It runs."
        return Cut("1. 4 | A dog on grass.\n2. 3 | It is")

    with scripted(say) as endpoint:
        manifest = run(endpoint, "rewrite", "--set", "judge.max_tokens=77", "--set", "judge.asks=2")
    assert {(row["chosen"], row["rejected"]) for row in rows()} == {("A brown dog. It runs.", ANSWERS[0])}
    [reason] = manifest["not_judged"]
    assert "cut off after 77 tokens" in reason and "--set judge.max_tokens=308" in reason


def test_changed_characters_are_whole_words() -> None:
    first, second = "Two red cars, parked.", "Three cars, both parked here."
    ours, theirs = changed_spans(first, second)
    assert [first[a:b] for a, b in ours] == ["Two red"]
    assert [second[a:b] for a, b in theirs] == ["Three", "both", "here"]


@pytest.mark.claims("judge.continuation.share")
def test_continuation(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    prompt = Prompt("p", "What?", ImageRef(path=tmp_path / "one.png"))
    texts = ["a b  c d", "e f g", "h", "i j k l", "m n o p", "q r s t"]
    made = {"a b": "a b x", "e": "e f g", "i j": "i j", "m n": "m n z", "q r": None}
    seen: list[Begun] = []

    def continued(begun: Any, folder: Path) -> Iterator[tuple[str, Response | None]]:
        seen.extend(begun)
        for one in begun:
            text = made[one.beginning]
            yield one.id, text and Response("", text, "length" if text == "m n z" else "stop")  # type: ignore[misc]

    judge = ContinuationJudge()
    judge.continue_answers = continued
    candidates = [Candidate(text, prompt, text) for text in texts]
    verdicts = dict(verdicts_of(judge, candidates, tmp_path))
    partners = {name: one.partner.text for name, one in verdicts.items() if one.partner}
    assert partners == {"a b  c d": "a b x"} and verdicts["a b  c d"].score == 1
    assert {name: one.error for name, one in verdicts.items() if one.error} == {
        "e f g": "the continuation is equal to the answer",
        "h": "the answer is too short to be cut",
        "i j k l": "the continuation is empty",
        "m n o p": "the continuation was cut off",
        "q r s t": "the continuation was refused",
    }
    assert all(one.image is None and one.question == "What?" for one in seen) and len({one.seed for one in seen}) == 5
    made |= {"a b  c": "a b  c", "e f": "e f g", "i j k": "i j k", "m n o": "m n o", "q r s": "q r s"}
    judge = ContinuationJudge(ContinuationSettings(share=0.75))
    judge.continue_answers, seen[:] = continued, []
    dict(verdicts_of(judge, candidates, tmp_path))
    assert seen[0].beginning == "a b  c" == beginning_of("a b  c d", 0.75)


class Speaking(Backend):
    """A model that says something about a picture, and something else without it. `running` engines are counted, and `starts`."""

    name, remote, continues = "speaking", True, True
    running = starts = 0

    @classmethod
    def missing(cls) -> str | None:
        return None

    def start(self) -> None:
        Speaking.starts += 1
        Speaking.running += 1

    def close(self) -> None:
        Speaking.running = 0

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        assert Speaking.running == 1
        for request in requests:
            text = f"{request.beginning} and more." if request.image.absent else "A dog and a cat."
            yield Completion(request.id, request.target, text, "stop", 1, 1)

    def provenance(self) -> dict[str, Any]:
        return {}


def test_one_engine_samples_all_parts_and_continues_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine takes a minute to start at full size, and a set has hundreds of parts."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for number in range(5):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [{"id": str(number), "image": f"{number}.png", "prompt": "What?"} for number in range(5)]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    target = target_of_endpoint("vlm", tmp_path / "results")
    sampler = CandidateSampler(target, Speaking, BackendSettings(), SampleSettings(samples=1), 0)
    wanted = PairSettings(length_balance=False)
    request = GenerateRequest(
        sampler, str(tmp_path / "prompts.jsonl"), ContinuationJudge(), wanted, tmp_path / "pairs", part_size=2
    )
    Speaking.starts = 0
    assert generate(request).pairs == 5
    assert (Speaking.starts, Speaking.running) == (1, 0), "three parts, sampled and continued"
    rows = [row for path in (tmp_path / "pairs").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert {(row["chosen"], row["rejected"]) for row in rows} == {("A dog and a cat.", "A dog and more.")}
    (tmp_path / "pairs/manifest.json").unlink()  # as after a kill: everything was asked
    assert generate(request).pairs == 5 and Speaking.starts == 1
    for log in (tmp_path / "pairs").glob("candidates/*/verdicts.jsonl"):
        log.unlink()
    for log in (tmp_path / "pairs").glob("candidates/*/continuation/responses.jsonl"):
        log.unlink()
    (tmp_path / "pairs/manifest.json").unlink()  # as after a kill before the judge
    assert generate(request).pairs == 5 and (Speaking.starts, Speaking.running) == (2, 0)


def test_an_endpoint_cannot_continue(here: Path, endpoint: ScriptedEndpoint) -> None:
    task = ["--prompts", "prefs.jsonl", "--endpoint", endpoint.url, "-o", "pairs"]
    said = json_here("data", "generate", "vlm", "--judge", "continuation", *task, code=2)
    assert "continue an answer" in said and not endpoint.asked


@pytest.mark.slow
@pytest.mark.claims("judge.rating.backend", "judge.rewrite.backend")
def test_a_judge_of_this_machine_and_a_model_that_continues(here: Path, endpoint: ScriptedEndpoint) -> None:
    shipped.unpack(here / "base")
    own = ["--set", "judge.model=./base", "--set", "judge.backend=transformers", "--set", "judge.model_url=null"]
    for judge in ("rating", "rewrite"):
        said = run(endpoint, judge, *own, "--set", "judge.max_tokens=4", "--overwrite", code=1)
        assert "not judged" in said
        [log] = Path("pairs").rglob(f"{judge}/responses.jsonl")
        assert {json.loads(line)["backend"] for line in log.read_text().splitlines()} == {"transformers"}
    local = ["--backend", "transformers", "--set", "backend.dtype=float32", "--samples", "3", "--temperature", "1"]
    task = ["--prompts", "prefs.jsonl", "--judge", "continuation", "-o", "continued", *local]
    manifest = json_here("data", "generate", "./base", *task, "--set", "pair.length_balance=false")
    table = pq.read_table(next(Path("continued").glob("*.parquet"))).to_pylist()
    assert len(table) == manifest["pairs"] > 0
    for row in table:
        begun = beginning_of(row["chosen"], 0.5)
        assert row["rejected"].startswith(begun) and row["rejected"] != row["chosen"]
    assert hashlib.sha256(table[0]["image"]["bytes"]).digest() == hashlib.sha256(Path("one.png").read_bytes()).digest()
