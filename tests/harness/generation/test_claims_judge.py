"""The judge `claims`: what is read as a list of claims, and what is asked for again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.core.config import parse
from harness.core.errors import BadInputError
from harness.core.types import ImageRef
from harness.generation.claims import ClaimsJudge, ClaimsSettings, claims_in
from harness.judging.candidates import Candidate, Prompt, Verdict, verdicts_of
from harness.remote.endpoint import KEY_VARIABLE
from tests.harness.generation.scripted import Asked, Cut, ScriptedEndpoint, scripted
from tests.harness.generation.test_generate import draw, speaking


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEY_VARIABLE, "sk-test")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    draw(tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    ("reply", "claims"),
    [
        ("Here they are:\n- Is there a cat?\n2) Is it red?\n- Is there a cat?", ["Is there a cat?", "Is it red?"]),
        ("none.", []),
        ("<think>\n- Is there a cat?\n- Is it raining?\n</think>\n- Is there a dog?", ["Is there a dog?"]),
        ("<think>hm</think>NONE", []),
        ("<think>\n- Is there a cat?", None),
        ("- Is there a dog?\n- Is the dog brown? (yes)", None),
        ("- Is there a dog?\n- The sky is blue", None),
        ("I see a cat and a dog.", None),
    ],
)
def test_claims_of_a_reply(reply: str, claims: list[str] | None) -> None:
    assert claims_in(reply) == claims


def claims_judge(server: ScriptedEndpoint, **splitter: Any) -> ClaimsJudge:
    named = {"model": "splitter", "base_url": server.url, **splitter}
    settings = {"splitter": named, "verifier": "verifier", "verifier_url": server.url, "compare": "words"}
    return ClaimsJudge(parse(ClaimsSettings, settings, "judge claims"))


def judged(judge: ClaimsJudge, pictures: Path, *answers: str) -> dict[str, Verdict]:
    """Verdicts on answers about the red picture."""
    prompt = Prompt("red.png", "What is shown?", ImageRef(path=pictures / "red.png"))
    judge.check([prompt])
    with judge:
        return dict(verdicts_of(judge, [Candidate(text, prompt, text) for text in answers], pictures / "log"))


def test_a_list_that_cannot_be_read_is_asked_for_again(pictures: Path) -> None:
    def say(asked: Asked) -> str:
        return "I see something." if asked.model == "splitter" and not asked.temperature else speaking(pictures)(asked)

    with scripted(say) as server:
        [refused] = judged(claims_judge(server, asks=1), pictures, "A red square and a dog.").values()
        assert "cannot be parsed: 'I see something.'" in str(refused.error)
        [verdict] = judged(claims_judge(server), pictures, "A red square and a dog.").values()
        assert verdict.score == -1
        with pytest.raises(BadInputError, match=r"judge\.splitter\.votes must be 1"):
            claims_judge(server, votes=2)


def test_a_list_that_was_cut_off_is_no_list(pictures: Path) -> None:
    """The claims at its end are missing, and what is there would give the answer a better score."""

    def say(asked: Asked) -> str | Cut:
        text = speaking(pictures)(asked)
        return Cut(text.rpartition("\n")[0]) if asked.model == "splitter" and "a dog and a cat" in asked.text else text

    answers = ("A red square and a dog.", "A red square, a dog and a cat.")
    with scripted(say) as server:
        for _ in range(2):  # the second time, the replies are those of the cache
            verdicts = judged(claims_judge(server), pictures, *answers)
            assert verdicts[answers[0]].score == -1 and verdicts[answers[1]].score is None
            assert "cut off after 512 tokens: --set judge.splitter.max_tokens=2048" in str(verdicts[answers[1]].error)
        assert sum(count for asked, count in server.asked.items() if asked.model == "splitter") == 1 + 3


def test_settings_of_the_splitter_that_change_verdicts_are_in_the_identity() -> None:
    def identity(**splitter: Any) -> Any:
        settings = {"splitter": splitter, "verifier": "looker", "verifier_url": "http://127.0.0.1:1/v1"}
        return ClaimsJudge(ClaimsSettings.model_validate(settings)).identity()["splitter"]

    plain = {"model": "gpt-4o", "temperature": 0.0, "max_tokens": 512}
    assert identity() == plain, "sets of earlier versions stay complete"
    for changed in ({"reasoning_effort": "low"}, {"asks": 5}, {"retry_temperature": None}):
        assert identity(**changed) == plain | changed
