"""Agreement of raters on numbers worked by hand, and a calibration of a judge that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ratings import parse_strict
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import write_jsonl
from harness.judging.agreement import agreement, kappa, self_agreement
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.judging.calibration import calibrate
from harness.judging.templates import fill, read_template


def test_kappa_by_hand() -> None:
    # 20 of 50 both yes, 15 both no, 5 and 10 apart: observed 0.7, expected 0.5*0.6 + 0.5*0.4 = 0.5 (Cohen's kappa 0.4).
    one = [1.0] * 25 + [0.0] * 25
    other = [1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15
    assert kappa(one, other) == pytest.approx(0.4)
    # Ratings 0, 1, 2 and 0, 2, 2: squared distances sum 1 of 3; by chance (2 pairs 4 apart, 1 of 1 a step...) 15/9.
    # Expected: rows {0,1,2} x {0,2,2}: 0+4+4 + 1+1+1 + 4+0+0 = 15 of 9 pairs. 1 - (1/3)/(15/9) = 0.8.
    assert kappa([0, 1, 2], [0, 2, 2], quadratic=True) == pytest.approx(0.8)
    assert kappa([1, 1], [1, 1]) is None and kappa([], []) is None


def test_agreement_by_hand() -> None:
    found = agreement([6, 3, 2, 0], [5, 3, 3, 3], 3.0)
    assert (found["n"], found["exact"], found["within_one"], found["same_verdict"]) == (4, 0.25, 0.75, 0.5)
    assert found["mean_difference"] == pytest.approx(3 / 4)
    votes = self_agreement([[4, 4, 5], [1]], 3.0)
    assert (votes["n"], votes["exact"], votes["within_one"]) == (3, pytest.approx(1 / 3), 1.0)
    assert self_agreement([[1], [2]], 3.0)["exact"] is None


class Known(Judge):
    """Rates what the prompt says, one higher on every odd vote; cannot be read on "x"."""

    name, samples = "known", True
    votes = 2

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        for request in requests:
            yield JudgeReply(
                request.item.id, f"Rating: {int(request.prompt) + request.sample % 2}" if request.prompt != "x" else "?"
            )

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.name}


def test_calibration(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": str(place), "rating": place} for place in range(6)]
    rows += [{"prompt": "x", "rating": 3}, {"prompt": "1", "rating": None}]
    write_jsonl(tmp_path / "reference.jsonl", rows)
    agreement = calibrate(Known(), tmp_path / "reference.jsonl", parse_strict, 3.0)
    assert agreement["unread"] == 1 and agreement["reference"]["n"] == 6 and agreement["itself"]["n"] == 6
    assert agreement["itself"]["exact"] == 0.0 and agreement["itself"]["within_one"] == 1.0
    # Means of n and n + 1 are rounded to the even one: 0, 2, 2, 4, 4, 6 against 0 to 5.
    assert agreement["reference"]["exact"] == 0.5 and agreement["reference"]["mean_difference"] == 0.5

    write_jsonl(tmp_path / "items.jsonl", [{"item": "1", "details": {"said": "yes"}}])
    with pytest.raises(BadInputError, match="not rated by a judge"):
        calibrate(Known(), tmp_path / "items.jsonl", parse_strict, 3.0)
    write_jsonl(tmp_path / "none.jsonl", [{"prompt": "x", "rating": 3}])
    with pytest.raises(HarnessError, match="no reply could be parsed"):
        calibrate(Known(), tmp_path / "none.jsonl", parse_strict, 3.0)


def test_a_template_is_read_and_never_run(tmp_path: Path) -> None:
    script = tmp_path / "official.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ntemplate = '''A {{}} B {{}}'''\nother = 1\n")
    text, digest = read_template(script)
    assert text == "A {} B {}" and len(digest) == 64 and not (tmp_path / "ran").exists()
    assert fill(text, {"one": "{two}", "two": "{}"}) == "A {two} B {}"
    with pytest.raises(BadInputError, match="2 placeholders for 1 fields"):
        fill(text, {"one": ""})
    with pytest.raises(BadInputError, match="no string is assigned to 'prompt'"):
        read_template(script, "prompt")
    script.write_text("template = f'{x}'\n")
    with pytest.raises(BadInputError, match="no string"):
        read_template(script)
    script.write_text("template = '")
    with pytest.raises(BadInputError, match="not a valid Python file"):
        read_template(script)
    assert fill("{b}{a}", {"a": "{b}", "b": "1"}) == "1{b}"
