"""The judge `detectors` and pairs of sentences: those worked out by hand, and detectors of the real architectures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.preferences.read import read_preferences
from harness.core.files import sha256_json, write_jsonl
from harness.core.types import ImageRef, Region
from harness.generation.candidates import CandidateSampler
from harness.generation.detectors import DetectorsJudge, DetectorsSettings, verdict_on
from harness.generation.generate import generate
from harness.generation.settings import PairSettings, SampleSettings
from harness.generation.verdicts import verdict_key
from harness.generation.work import GenerateRequest
from harness.judging.candidates import Candidate, CandidateJudge, Prompt, Verdict, verdicts_of
from harness.runs.targets import target_of_endpoint
from harness.serving.base import Backend, BackendSettings, Completion, Request
from tests.commands import run_here
from tests.tiny_detectors import tiny_grounding_dino, tiny_owlv2

SAID = {
    "": ["There is a dog.", "There is a cup.", "It is nice."],
    "There is a dog.": ["A cat sits.", "A bus waits.", "A cat and a bus."],
    "There is a dog. A cat sits.": ["", ""],
}
"""Context -> what the model continues it with, by the seed. A dog and a cat are in the picture."""
PAIRS = {
    ("", "There is a dog.", "There is a cup."),
    ("There is a dog.", "A cat sits.", "A bus waits."),
    ("There is a dog.", "A cat sits.", "A cat and a bus."),
}
"""(context, chosen, rejected), by hand: "It is nice." names no object, and only "A cat sits." can be continued."""


ALL, NOTHING = (1e-4, 1e-4), (1 - 1e-9, 1 - 1e-9)
"""Thresholds of both detectors; the tiny OWLv2's scores are close to 1."""


class Scripted(Backend):
    """A model whose sentences are known. `asked` counts the requests."""

    name, remote, continues = "scripted", True, True
    asked = 0

    @classmethod
    def missing(cls) -> str | None:
        return None

    def start(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to release."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            assert request.stop == (".", "!", "?") and not request.image.absent
            Scripted.asked += 1
            said = SAID[request.beginning]
            text = f"{request.beginning} {said[request.sampling.seed % len(said)]}".strip()
            yield Completion(request.id, request.target, text, "stop", 1, 1)

    def provenance(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (110, 60), "red").save("one.png")
    objects = [{"label": name, "box": [1.0, 1.0, 9.0, 9.0]} for name in ("dog", "cat")]
    pair = {"id": "p", "image": "one.png", "prompt": "What?", "chosen": "A", "rejected": "B", "objects": objects}
    write_jsonl(tmp_path / "prefs.jsonl", [pair])
    return tmp_path


def request(output: Path, **settings: Any) -> GenerateRequest:
    judge = DetectorsJudge(DetectorsSettings(first="boxes", second="boxes", **settings))
    sampler = CandidateSampler(
        target_of_endpoint("vlm", Path("results")), Scripted, BackendSettings(), SampleSettings(samples=12), 0
    )
    return GenerateRequest(sampler, "prefs.jsonl", judge, PairSettings(per_prompt=9, length_balance=False), output)


@pytest.mark.claims("judge.detectors.first", "judge.detectors.second")
def test_sentences_give_the_pairs_worked_out_by_hand(here: Path) -> None:
    manifest = generate(request(here / "pairs"))
    rows = pq.read_table(here / "pairs" / "part-00000.parquet").to_pylist()
    assert {(row["shared_context"] or "", row["chosen"], row["rejected"]) for row in rows} == PAIRS
    assert len(rows) == len(PAIRS) == manifest.pairs and {row["responses_end"] for row in rows} == {False}
    assert len({row["id"] for row in rows}) == 3
    assert manifest.not_judged == {"the sentence names no object": 1}
    examples = read_preferences(str(here / "pairs"), cache=here / "cache").examples
    assert {(one.context, one.responses["chosen"], one.responses["rejected"]) for one in examples} == PAIRS
    assert not any(one.ends for one in examples)

    assert run_here(["data", "preview", "pairs", "-n", "2"])[1] == "pairs.html: 2 pairs\n"
    page = (here / "pairs.html").read_text()
    assert page.count("<article>") == 2 and "no detector finds: " in page and "data:image/webp" in page
    run_here(["data", "preview", "pairs", "-o", "all.html"])
    page = (here / "all.html").read_text()
    assert "both continue</h2><p>There is a dog.</p>" in page and "A <mark>bus waits</mark>." in page
    for more in (["-o", "sheet.png"], ["--columns", "prompt=question"]):
        assert run_here(["data", "preview", "pairs", *more])[0] == 2

    before = Scripted.asked
    (here / "pairs" / "manifest.json").unlink()  # as after a kill: what was sampled is kept
    again = generate(request(here / "pairs"))
    assert Scripted.asked == before and again.pairs == manifest.pairs
    assert pq.read_table(here / "pairs" / "part-00000.parquet").to_pylist() == rows


class Reader(CandidateJudge):
    """Accepts every sentence but one about a cup; `read` has what it was asked about."""

    name, summary, source = "reader", "reads the context", "nobody"
    sentences = continues = True

    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        for candidate in candidates:
            self.read.append((candidate.context, candidate.text))
            yield candidate.id, Verdict(0.0 if "cup" in candidate.text else 1.0)

    read: list[tuple[str, str]]


@pytest.mark.parametrize("reads_context", [True, False])
def test_a_verdict_is_that_of_the_sentence_behind_its_context(
    here: Path, monkeypatch: pytest.MonkeyPatch, reads_context: bool
) -> None:
    said = {"": ["A dog.", "A cup."], "A dog.": ["It is red."], "A dog. It is red.": ["It is red."]}
    for context, sentences in (said | {"A dog. It is red. It is red.": [""]}).items():
        monkeypatch.setitem(SAID, context, sentences)
    monkeypatch.setattr(Reader, "reads_context", reads_context)
    judge = Reader()
    judge.read = []
    generate(replace(request(here / "pairs"), judge=judge))
    contexts = {context for context, text in judge.read if text == "It is red."}
    assert contexts == ({"A dog.", "A dog. It is red."} if reads_context else {"A dog."})


def test_keys_of_verdicts_without_a_context_stay() -> None:
    prompt = Prompt("p", "What?", ImageRef(data=b"image"), reference="A dog.")
    bare, behind = Candidate("a", prompt, "It is red."), Candidate("b", prompt, "It is red.", "A dog.")
    plain = sha256_json(["judge", "What?", prompt.image.fingerprint(), [[], "A dog."], "It is red."])
    assert verdict_key(bare, "judge") == verdict_key(behind, "judge", reads_context=False) == plain
    assert verdict_key(behind, "judge") != plain and not DetectorsJudge.reads_context


def test_only_what_both_detectors_say_counts() -> None:
    yes, no, split = (True, True), (False, False), (True, False)
    assert verdict_on({"dog": yes, "cat": yes}) == Verdict(1.0, "both detectors find: dog, cat")
    assert verdict_on({"dog": yes, "cup": no, "cat": split}) == Verdict(0.0, "no detector finds: cup")
    assert verdict_on({"dog": yes, "cat": split}).error == "the detectors disagree about an object"
    assert verdict_on({}).error == "the sentence names no object"


@pytest.mark.slow
@pytest.mark.claims(
    "judge.detectors.first_model", "judge.detectors.second_model", "judge.detectors.first_threshold",
    "judge.detectors.second_threshold", "judge.detectors.synonyms", "judge.detectors.extractor",
)  # fmt: skip
def test_detectors_of_the_real_architectures(here: Path) -> None:
    """With random weights, the threshold ALL finds everything and NOTHING nothing."""
    models = {"first_model": str(tiny_grounding_dino(here / "dino")), "second_model": str(tiny_owlv2(here / "owl"))}
    prompt = Prompt("p", "What?", ImageRef(path=here / "one.png"), (Region("dog", (1, 1, 9, 9)),))
    candidates = [Candidate("dog", prompt, "There is a dog."), Candidate("hound", prompt, "We see a hound.")]

    def judged(first: tuple[float, float], second: tuple[float, float], **more: Any) -> dict[str, Verdict]:
        settings = DetectorsSettings(first_threshold=first[0], second_threshold=second[1], **models, **more)
        with DetectorsJudge(settings) as judge:
            return dict(verdicts_of(judge, candidates, here))

    assert judged(ALL, ALL)["dog"].score == 1 and judged(NOTHING, NOTHING)["dog"].score == 0
    assert (
        judged(ALL, NOTHING)["dog"].error
        == judged(NOTHING, ALL)["dog"].error
        == "the detectors disagree about an object"
    )
    (here / "words.txt").write_text("hound\ncat\n")
    found = judged(NOTHING, NOTHING, synonyms=str(here / "words.txt"))
    assert found["hound"].score == 0 and found["dog"].error == "the sentence names no object"
    assert judged(NOTHING, NOTHING)["hound"].error == "the sentence names no object"
    with pytest.raises(Exception, match="no-such"):
        judged(NOTHING, NOTHING, extractor="no-such")
