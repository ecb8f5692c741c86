"""Runs with real score files of four suites, made by the scorers from made-up responses: of any size, and without a model or pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from benchmarks.amber import AMBER, AmberSettings
from benchmarks.base import Benchmark
from benchmarks.halbench import HalBenchSettings, ObjectHalBench
from benchmarks.mmhal import TYPES, MMHalBench
from benchmarks.objects import read_vocabulary
from benchmarks.pope import POPE, SPLITS
from harness.core.files import write_json
from harness.core.types import ImageRef, Item, Response, SampleScore
from harness.evaluation.score import item_rows, score_suite, write_scores
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from tests.speed.scoring import descriptions

VERSIONS = 4
"""Of each item's answer."""


class _Draws(Judge):
    """Ratings by a seed, so that MMHal-Bench has some."""

    name = "draws"

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = random.Random(seed)

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        for request in requests:
            yield JudgeReply(request.item.id, f"Rating: {self._rng.randrange(7)}")

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.name, "model": None, "version": 1}


@dataclass(frozen=True)
class Suite:
    """A suite's items, and every version of their scores with their rows as lines."""

    benchmark: Benchmark
    judge: Judge | None
    items: list[Item]
    scores: list[list[SampleScore]]
    rows: list[list[dict[str, Any]]]


def suites(most: int = 20_000) -> list[Suite]:
    """All four, with at most about so many of each one's items."""
    halbench = ObjectHalBench(HalBenchSettings(extractor="spacy"))
    amber = AMBER(AmberSettings(nouns="spacy", similarity="exact"))
    names = []
    for benchmark, every in ((halbench, _halbench()), (amber, _amber()), (POPE(), _pope()), (MMHalBench(), _mmhal())):
        items = every[:: -(-len(every) // most)]
        versions = []
        for seed in range(VERSIONS):
            rng = random.Random(seed)
            texts = iter(
                descriptions(len(items), seed=seed) if benchmark is not amber else descriptions(1004, seed=seed)
            )
            responses = {item.id: Response(item.id, _answer(item, rng, texts)) for item in items}
            judge = _Draws(seed) if benchmark.needs_judge else None
            scores = benchmark.score(items, responses, judge)
            versions.append((scores, item_rows(items, responses, scores), judge))
        names.append(
            Suite(benchmark, versions[0][2], items, [one[0] for one in versions], [one[1] for one in versions])
        )
    return names


def _answer(item: Item, rng: random.Random, texts: Iterator[str]) -> str:
    return (
        next(texts)
        if item.prompt.startswith("Describe")
        else rng.choice(("Yes", "No", "Yes, there is.", "No, there is no such thing."))
    )


def _words() -> list[str]:
    return sorted({word for word in read_vocabulary().words if " " not in word})


def _item(name: str, prompt: str, group: str, reference: dict[str, Any]) -> Item:
    return Item(name, prompt, ImageRef(name=group), group, reference)


def _halbench() -> list[Item]:
    rng, words = random.Random(0), sorted(set(read_vocabulary().words.values()))
    return [
        _item(f"{n}#0", "Describe this image in detail.", str(n), {"instances": rng.sample(words, 4), "captions": []})
        for n in range(300)
    ]


def _amber() -> list[Item]:
    rng, words = random.Random(0), _words()
    shared = {
        "associations": {word: rng.sample(words, 3) for word in words},
        "vocabulary": frozenset(words),
        "safe": frozenset(words[:9]),
    }
    items = []
    for n in range(1, 1005):
        chosen = rng.sample(words, 14)
        truth: dict[str, Any] = {"id": n, "type": "generative", "truth": chosen[:8], "hallu": chosen[8:]}
        items.append(_item(str(n), "Describe this image.", f"AMBER_{n}.jpg", {"annotation": truth, **shared}))
    kinds = ("attribute-state", "attribute-number", "attribute-action", "hallucination", "relation")
    for n in range(1005, 15_221):
        truth = {"id": n, "type": f"discriminative-{rng.choice(kinds)}", "truth": rng.choice(("yes", "no"))}
        items.append(
            _item(
                str(n), "Is the sky sunny in this image?", f"AMBER_{n % 1004 + 1}.jpg", {"annotation": truth, **shared}
            )
        )
    return items


def _pope() -> list[Item]:
    rng = random.Random(0)
    items = []
    for split in SPLITS:
        for n in range(3000):
            reference = {"split": split, "label": rng.choice(("yes", "no"))}
            items.append(
                _item(f"{split}/{n}", "Is there a dog in the image?", f"COCO_val2014_{n // 6:012}.jpg", reference)
            )
    return items


def _mmhal() -> list[Item]:
    truth = {"question": "What?", "gt_answer": "A cup.", "image_content": ["cup"]}
    return [_item(str(n), "Describe the scene.", str(n), {"question_type": TYPES[n % 8], **truth}) for n in range(96)]


def make_runs(
    results: Path, names: Sequence[str], most: int = 20_000, data: str = "official", judge: str = "draws"
) -> None:
    """Run folders, each with all items of the suites or about so many; the first is the base of the others."""
    made = suites(most)
    for name in names:
        method = "base" if name == names[0] else name.partition("-")[0]
        for suite in made:
            rng = random.Random(f"{name} {suite.benchmark.name}")
            picked = [rng.randrange(VERSIONS) for _ in suite.items]
            scores = [suite.scores[version][place] for place, version in enumerate(picked)]
            suite.benchmark.score = lambda *_, own=scores: own  # type: ignore[method-assign, misc]
            about = {
                "target": name, "method": method, "model": "m", "data": data,
                "serving": {"backend": "vllm", "distribution": "vllm 0.32.0", "device": "NVIDIA H100"},
                "sampling": {"temperature": 0.0, "max_new_tokens": suite.benchmark.max_new_tokens},
            }  # fmt: skip
            given = {item.id: Response(item.id, "") for item in suite.items}  # scored before
            record, _ = score_suite(suite.benchmark, suite.items, given, judge=suite.judge, about=about)
            if suite.judge:
                record = record.model_copy(update={"variant": judge})
            rows = [suite.rows[version][place] for place, version in enumerate(picked)]
            write_scores(results / name / "evals" / f"{suite.benchmark.name}@{data}", record, rows)
        config = {"model": "m", "method": method, "data": "rlaif-v", "settings": {"train": {"seed": 0}, "method": {}}}
        manifest = {
            "kind": "base" if method == "base" else "align", "name": name, "config": config,
            "base": {"label": "m", "location": "m", "fingerprint": "0"},
            "finished": "2026-11-25T19:11:08.110+00:00", "harness": harness.__version__,
        }  # fmt: skip
        write_json(results / name / "manifest.json", manifest)
