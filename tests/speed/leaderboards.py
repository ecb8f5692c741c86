"""How long a leaderboard of full runs takes: four suites each, with as many items as the official ones, in real score files.

Answers and verdicts are made by the scorers from made-up responses, a handful of times for each suite; every run then has each item from
one of these, by its own seed, with its own sums and intervals. So the files are of the real size (about 50 MB a run) and no two are alike.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.amber import AMBER, AmberSettings
from benchmarks.base import Benchmark
from benchmarks.halbench import HalBenchSettings, ObjectHalBench
from benchmarks.mmhal import TYPES, MMHalBench
from benchmarks.objects import read_vocabulary
from benchmarks.pope import POPE, SPLITS
from harness.files import write_json
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.runs.score import item_rows, score_suite, write_scores
from harness.types import ImageRef, Item, Response, SampleScore
from tests.peak import peak_bytes
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


def suites() -> list[Suite]:
    """All four."""
    halbench = ObjectHalBench(HalBenchSettings(extractor="spacy"))
    amber = AMBER(AmberSettings(nouns="spacy", similarity="exact"))
    found = []
    for benchmark, items in ((halbench, _halbench()), (amber, _amber()), (POPE(), _pope()), (MMHalBench(), _mmhal())):
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
        found.append(
            Suite(benchmark, versions[0][2], items, [one[0] for one in versions], [one[1] for one in versions])
        )
    return found


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


def make_runs(results: Path, count: int) -> None:
    """So many run folders; the first is the base of the others."""
    made = suites()
    for number in range(count):
        name, method = ("base-m", "base") if number == 0 else (f"dpo-{number:03}", "dpo")
        for suite in made:
            rng = random.Random(f"{number} {suite.benchmark.name}")
            picked = [rng.randrange(VERSIONS) for _ in suite.items]
            scores = [suite.scores[version][place] for place, version in enumerate(picked)]
            suite.benchmark.score = lambda *_, own=scores: own  # type: ignore[method-assign, misc]
            about = {
                "target": name, "method": method, "model": "m", "data": "official", "source": "official",
                "serving": {"backend": "vllm", "distribution": "vllm 0.32.0", "device": "NVIDIA H100"},
                "sampling": {"temperature": 0.0, "max_new_tokens": suite.benchmark.max_new_tokens},
            }  # fmt: skip
            given = {item.id: Response(item.id, "") for item in suite.items}  # scored before
            record, _ = score_suite(suite.benchmark, suite.items, given, judge=suite.judge, about=about)
            rows = [suite.rows[version][place] for place, version in enumerate(picked)]
            write_scores(results / name / "evals" / f"{suite.benchmark.name}@official", record, rows)
        config = {
            "model": "m",
            "method": method,
            "data": "rlaif-v",
            "settings": {"train": {"seed": number}, "method": {}},
        }
        manifest = {"kind": "base" if number == 0 else "align", "name": name, "base": {"label": "m"}, "config": config}
        write_json(results / name / "manifest.json", manifest)


def measured(count: int) -> Iterator[tuple[str, float, str, float | None]]:
    """(what, value, unit, bound) of the first and the second leaderboard of so many runs, each in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HARNESS_CACHE"] = str(folder / "cache")
        make_runs(folder / "results", count)
        size = sum(file.stat().st_size for file in (folder / "results").rglob("*") if file.is_file())
        yield f"leaderboard of {count} full runs: their files", size / 2**30, "GB", None
        yield (
            "what is kept of them",
            sum(f.stat().st_size for f in (folder / "cache").rglob("*") if f.is_file()) / 2**20,
            "MB",
            None,
        )
        command = [sys.executable, "-m", "harness", "leaderboard", "--json"]
        for what, bound in (("the first time after they were scored", None), ("again", 5.0)):
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            yield what, time.perf_counter() - start, "s", bound
        yield "again: memory", peak_bytes(command, folder) / 2**20, "MB", 300
        shutil.rmtree(folder / "cache")
        yield "with nothing kept: memory", peak_bytes(command, folder) / 2**20, "MB", 300
