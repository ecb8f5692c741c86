"""What a judge of candidates gave is checked: a plugin's mistake is said to be its author's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.core.types import ImageRef
from harness.judging.candidates import Candidate, CandidateJudge, Prompt, Verdict, verdicts_of

PROMPT = Prompt("p", "What is this?", ImageRef(data=b"image"))
CANDIDATES = [Candidate(name, PROMPT, f"answer {name}") for name in ("a", "b")]
GOOD = [("b", Verdict(1.0)), ("a", Verdict(None, error="unreadable"))]


class Told(CandidateJudge):
    """Gives what it is told."""

    name, summary, source = "told", "gives what it is told", "nobody"
    gives: Any = GOOD

    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        return self.gives  # type: ignore[no-any-return]


def test_good_verdicts_pass(tmp_path: Path) -> None:
    assert list(verdicts_of(Told(), CANDIDATES, tmp_path)) == GOOD


@pytest.mark.parametrize(
    "gives",
    [
        None,
        [Verdict(1.0)],
        [("a", 1.0), ("b", 2.0)],
        [("c", Verdict(1.0))],
        [("a", Verdict(1.0)), ("a", Verdict(1.0))],
        [("a", Verdict(1.0))],
        [("a", Verdict(None)), ("b", Verdict(1.0))],
        [("a", Verdict(float("nan"))), ("b", Verdict(1.0))],
        [("a", Verdict("good")), ("b", Verdict(1.0))],  # type: ignore[arg-type]
    ],
    ids=["nothing", "no id", "no verdict", "a stranger", "twice", "too few", "no reason", "nan", "words"],
)
def test_bad_ones_are_the_authors_to_mend(gives: Any, tmp_path: Path) -> None:
    judge = Told()
    judge.gives = gives
    with pytest.raises(
        TypeError, match=r"Told\.judge returned .*expected"
    ):  # of a registered class it is a PluginError
        list(verdicts_of(judge, CANDIDATES, tmp_path))
