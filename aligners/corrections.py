"""Finding the tokens that a correction changed, if the data do not have them: RLHF-V's corrected segments.

Source: RLHF-V's public code (thunlp/Muffin and RLHF-V/RLAIF-V, `utils/diff_lib.py`), which marks the tokens of the paper's segments y_c.
The paper itself says only that segments are corrected. Differences: difflib's heuristic for sequences of 200 and more elements, which
treats frequent tokens as junk, is off, because it would depend on the prompt's length.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import Field

from harness.core.config import StrictModel


class CorrectedTokens(StrictModel):
    """How corrected tokens are found; defaults are the public code's."""

    min_match: int = Field(
        3,
        ge=1,
        description="number of common tokens that separates two changes; shorter common runs "
        "count as changed (1: every common token is unchanged)",
    )
    one_sided: bool = Field(
        False,
        description="whether tokens that one response only adds or only omits count as corrected",
    )


def changed_tokens(
    chosen: Sequence[int], rejected: Sequence[int], how: CorrectedTokens
) -> tuple[list[bool], list[bool]]:
    """Which tokens of the chosen and of the rejected response were corrected.

    Args:
        chosen: ids, end token included.
        rejected: ids, end token included.
        how: what counts.

    Returns:
        A mark for each token of either.
    """
    # The public code compares prompt and response together; so a common beginning of both responses continues the longest match.
    common = next(
        (place for place, (a, b) in enumerate(zip(rejected, chosen, strict=False)) if a != b),
        min(len(rejected), len(chosen)),
    )
    rest = difflib.SequenceMatcher(None, rejected[common:], chosen[common:], autojunk=False)
    marks = ([False] * len(chosen), [False] * len(rejected))
    ours = theirs = common  # end of the last run of unchanged tokens
    for block in rest.get_matching_blocks():
        if block.size < how.min_match and block.size > 0:  # the last block is difflib's empty end marker
            continue
        to_ours, to_theirs = common + block.b, common + block.a
        if how.one_sided or (to_ours > ours and to_theirs > theirs):
            marks[0][ours:to_ours] = [True] * (to_ours - ours)
            marks[1][theirs:to_theirs] = [True] * (to_theirs - theirs)
        ours, theirs = to_ours + block.size, to_theirs + block.size
    return marks
