"""Which tokens count as corrected: by hand, as RLHF-V's public code has it and as every single change."""

from __future__ import annotations

import difflib
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligners.base import Aligner, Loss, Needs
from aligners.chip import CHiP, CHiPSettings
from aligners.corrections import CorrectedTokens, changed_tokens
from aligners.dpo import DPO
from aligners.rlhfv import RLHFV, RLHFVSettings
from aligners.training.encoding import corrections_of, encode_all
from aligners.training.job import AlignJob
from harness.core.config import TrainSettings
from harness.core.types import ImageRef, PreferenceExample
from tests.tiny import tiny_parts, tiny_photograph

PUBLIC = CorrectedTokens()
EVERY = CorrectedTokens(min_match=1, one_sided=True)


def marked(marks: list[bool]) -> list[int]:
    return [place for place, mark in enumerate(marks) if mark]


@pytest.mark.claims("corrected.min_match")
def test_changes_with_fewer_than_three_common_tokens_between_them_are_one() -> None:
    # Six changes, at 3, 6, 9, 12, 14 and 16; between them 2, 2, 2, 1 and 1 common tokens; three common ones at the end.
    chosen = list(range(20))
    rejected = [token + 100 if token in (3, 6, 9, 12, 14, 16) else token for token in chosen]
    for span in changed_tokens(chosen, rejected, PUBLIC):
        assert marked(span) == list(range(3, 17))  # 14
    for span in changed_tokens(chosen, rejected, EVERY):
        assert marked(span) == [3, 6, 9, 12, 14, 16]
    for span in changed_tokens(chosen, rejected, CorrectedTokens(min_match=2)):
        assert marked(span) == [3, 6, 9, 12, 13, 14, 15, 16]
    far = [token + 100 if token in (3, 7) else token for token in chosen]  # three common tokens between the two
    assert marked(changed_tokens(chosen, far, PUBLIC)[0]) == [3, 7]


def test_the_beginning_goes_on_from_the_prompt_and_the_end_stands_alone() -> None:
    chosen, rejected = [1, 50, 3, 4, 5, 60, 8, 9], [1, 70, 3, 4, 5, 80, 8, 9]
    for span in changed_tokens(chosen, rejected, PUBLIC):
        # The first token is common and behind the prompt. The last two, the end token among them, are fewer than three.
        assert marked(span) == [1, 5, 6, 7]
    for span in changed_tokens(chosen, rejected, CorrectedTokens(min_match=2)):
        assert marked(span) == [1, 5]


@pytest.mark.claims("corrected.one_sided")
def test_what_is_only_added_or_only_removed_is_not_corrected() -> None:
    chosen, rejected = [1, 2, 3, 4, 5, 6], [1, 2, 3, 90, 91, 4, 5, 6]
    assert [marked(one) for one in changed_tokens(chosen, rejected, PUBLIC)] == [[], []]
    assert [marked(one) for one in changed_tokens(chosen, rejected, CorrectedTokens(one_sided=True))] == [[], [3, 4]]
    assert [marked(one) for one in changed_tokens(rejected, chosen, CorrectedTokens(one_sided=True))] == [[3, 4], []]
    both = [1, 2, 3, 80, 4, 5, 6]
    assert [marked(one) for one in changed_tokens(both, rejected, PUBLIC)] == [[3], [3, 4]]


IDS = st.lists(st.integers(0, 6), max_size=24)


@settings(max_examples=300, deadline=None)
@given(IDS, IDS)
def test_every_change_leaves_what_both_have_in_common(chosen: list[int], rejected: list[int]) -> None:
    ours, theirs = changed_tokens(chosen, rejected, EVERY)
    kept = [token for token, mark in zip(chosen, ours, strict=True) if not mark]
    assert kept == [token for token, mark in zip(rejected, theirs, strict=True) if not mark]
    assert chosen != rejected or not any(ours)


@settings(max_examples=300, deadline=None)
@given(IDS, IDS, st.integers(1, 5))
def test_the_public_rule_written_out(chosen: list[int], rejected: list[int], least: int) -> None:
    """The other way round: with the prompt before both, as the public code has them, gaps between the blocks that are long enough."""
    prompt = list(range(100, 130))  # longer than what both have in common anywhere, as prompts with images are
    a, b = [*prompt, *rejected], [*prompt, *chosen]
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    long = [block for block in blocks[:-1] if block.size >= least] + [blocks[-1]]
    expected: tuple[set[int], set[int]] = (set(), set())
    for one, following in itertools.pairwise(long):
        gaps = (range(one.b + one.size, following.b), range(one.a + one.size, following.a))
        if all(gaps):
            for places, gap in zip(expected, gaps, strict=True):
                places.update(place - len(prompt) for place in gap)
    found = changed_tokens(chosen, rejected, CorrectedTokens(min_match=least))
    assert [set(marked(one)) for one in found] == list(expected)


@pytest.mark.claims("rlhfv.corrected", "chip.corrected")
def test_the_settings_of_a_method_say_how() -> None:
    every = {"corrected": {"min_match": 1, "one_sided": True}}
    assert corrections_of(DPO()) is None
    assert corrections_of(RLHFV()) == corrections_of(CHiP()) == CorrectedTokens(min_match=3, one_sided=False)
    assert corrections_of(RLHFV(RLHFVSettings.model_validate(every))) == EVERY
    assert corrections_of(CHiP(CHiPSettings.model_validate(every))) == EVERY

    class Plugin(Aligner):
        name, summary, source = "p", "", ""
        needs = Needs.CORRECTIONS

        def loss(self, policy: object, reference: object) -> Loss:
            raise NotImplementedError

    assert corrections_of(Plugin()) == CorrectedTokens()


@pytest.mark.parametrize(("how", "count"), [(CorrectedTokens(), 0), (EVERY, 1)])
def test_the_trainer_encodes_by_them(how: CorrectedTokens, count: int, tmp_path: Path) -> None:
    _, processor = tiny_parts()
    picture = ImageRef(path=tiny_photograph(tmp_path / "p.png", 0))
    texts = {"chosen": "There is a dog on the left.", "rejected": "There is a dog and a cup on the left."}
    row = PreferenceExample("1", "what is this", {"original": picture}, texts)
    method = RLHFV(RLHFVSettings(corrected=how))
    encoded, refused = encode_all(
        processor, [row], method, AlignJob("", "", tmp_path, TrainSettings(), tmp_path / "cache")
    )
    assert not refused and not any(encoded["1"].corrected["chosen"])
    assert (sum(encoded["1"].corrected["rejected"]) > 0) == bool(count)
    assert json.loads(json.dumps(method.settings.model_dump()))["corrected"] == how.model_dump()
