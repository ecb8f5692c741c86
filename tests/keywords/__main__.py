"""How many of the best keywords name something that is to be seen: `python -m tests.keywords [PIPELINE ...]`.

Twenty photographs were described in a few sentences each, in the manner of preferred answers, and of the words of every description those
were marked by a person that name something visible (`captions.jsonl`; the photographs are RLAIF-V's examples, and are not kept here). A
keyword counts as right if its last word is marked. The descriptions and marks were written before any ranking was run on them.
MFPO's paper reports 86 % of 100 keywords that were checked by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aligners.rejected_images.keywords import Keyword, Ranking, keywords, pipeline
from harness.core.files import read_jsonl

CAPTIONS = Path(__file__).parent / "captions.jsonl"
RANKINGS: tuple[Ranking, ...] = ("graph", "multipartite")


def is_visible(keyword: Keyword, visible: list[str]) -> bool:
    """Whether the keyword's last word (as it stands, its lemma, or without a plural's s) is one of those that were marked."""
    last = keyword.phrase.split()[-1]
    return bool({last, last.removesuffix("s"), keyword.lemmas[-1]} & set(visible))


def measure(name: str, ranking: Ranking, top_k: int = 5) -> tuple[int, int, list[str]]:
    """Keywords that are visible, all keywords, and those that are not."""
    right, count, wrong = 0, 0, []
    for row in read_jsonl(CAPTIONS, "captions"):
        for keyword in keywords(row["caption"], top_k, pipeline(name), ranking):
            count += 1
            right += is_visible(keyword, row["visible"])
            if not is_visible(keyword, row["visible"]):
                wrong.append(keyword.phrase)
    return right, count, wrong


if __name__ == "__main__":
    for name in sys.argv[1:] or ["blank"]:
        for ranking in RANKINGS:
            right, count, wrong = measure(name, ranking)
            print(
                f"{Path(name).name} {ranking}: {right} of {count} ({100 * right / count:.0f} %); not: {', '.join(wrong)}"
            )
