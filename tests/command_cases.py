"""How every command is run once, and the small inputs that it takes. A new command needs a line in `COMMANDS`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.scored_runs import make_run
from tests.tiny import tiny_llava, tiny_photograph

SETTINGS = ("learning_rate=0.02", "batch_size=8", "micro_batch_size=8", "max_length=256")
ALIGN = (
    *("--method", "dpo", "--model", "./base", "--data", "prefs/rlaif-v.parquet"),
    *(part for one in SETTINGS for part in ("--set", f"train.{one}")),
)
ENGINE = ("--backend", "transformers")
SMALL = ("--data", "data", *ENGINE, "--set", "sampling.max_new_tokens=4")


ENDPOINT = "{endpoint}"
"""Stands for the URL of an endpoint whose model names one of the pocket world's things, by the seed."""


@dataclass(frozen=True)
class Case:
    """How a command is run once.

    Attributes:
        arguments: behind the command's name.
        after: the commands whose leavings it takes.
        leaves: what must be there then, below the folder; "*" stands for any name.
        says: what must stand in its output.
    """

    arguments: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    leaves: str | None = None
    says: str = ""


COMMANDS: dict[str, Case] = {
    "align": Case((*ALIGN, "--name", "one"), leaves="results/one/manifest.json"),
    "launch": Case(("--processes", "1", "align", *ALIGN, "--name", "two"), leaves="results/two/manifest.json"),
    "export": Case(("one", "-o", "exported"), ("align",), "exported/model.safetensors"),
    "push": Case(("exported", "somebody/model", "--dry-run"), ("export",), says="model.safetensors"),
    "verify": Case(("one", "--probes", "2", *ENGINE), ("align",), says="same"),
    "balance": Case(("one", "--data", "held-out.jsonl", "--dtype", "float32"), ("align",), says="image"),
    "ask": Case(("one", "p.png", "what is this", "--max-new-tokens", "3"), ("align",)),
    "eval": Case(
        ("--run", "one", "--suite", "mmhal", "--judge", "pocket-truth", "--limit", "24", *SMALL),
        ("align",),
        "results/one/evals/mmhal@data/scores-pocket-truth.json",
    ),
    "rejudge": Case(
        ("--run", "one", "--data", "data", "--judge", "pocket-truth", "--dry-run"), ("eval",), says="judge"
    ),
    "merge": Case(
        ("one", "--suite", "halbench", "--data", "data", "--set", "sampling.max_new_tokens=4"),
        ("shards of eval",),
        "results/one/evals/halbench@data/scores-*.json",
    ),
    "calibrate": Case(
        (
            *("--reference", "results/one/evals/mmhal@data/items-pocket-truth.jsonl"),
            *("--judge", "pocket-truth"),
        ),
        ("eval",),
        says="rating",
    ),
    "experiment": Case(("one.yaml", "--dry-run"), says="dpo"),
    "leaderboard": Case(("scored", "--markdown"), says="CHAIRs"),
    "compare": Case(("one", "other", "--results", "scored"), says="halbench"),
    "report": Case(("--results", "scored", "-o", "report.html"), leaves="report.html"),
    "plot": Case(("--results", "scored", "-o", "charts", "--format", "svg"), leaves="charts/*.svg"),
    "runs": Case(("--results", "scored"), says="other"),
    "publish": Case(
        ("one", "--results", "scored", "-o", "published", "--organisation", "us"),
        leaves="published/every_eval_ever/data/halbench/us/one/*.json",
    ),
    "score": Case(
        ("--suite", "pope", "--questions", "questions.jsonl", "--responses", "answers.jsonl", "--json"), says='"f1"'
    ),
    "import-results": Case(
        ("brought.jsonl", "--suite", "pope", "--data", "data", "--allow-partial", "--name", "theirs"),
        leaves="results/theirs/evals/pope@data/scores.json",
        says="POPE",
    ),
    "serve": Case(("one", "--port"), ("align",)),  # with a port, and stopped: test_serve
    "view": Case(("--results", "scored", "--port", "0")),  # and stopped: tests/harness/reports/test_view.py
    "quickstart": Case(
        ("--methods", "dpo", "--suites", "mmhal", "--split", "validation", *ENGINE, "--results", "quick"),
        leaves="quick/report.html",
    ),
    "list": Case(says="mfpo"),
    "new": Case(("method", "mine"), leaves="harness-mine/test_harness_mine.py", says="pytest"),
    "plugin check": Case(("./harness-mine/harness_mine.py:Mine",), ("new",), says="the gradient is finite"),
    "doctor": Case(says="torch"),
    "data list": Case(says="halbench"),
    "data get": Case(("rlaif-v",), leaves="hf/hub/datasets--*/snapshots/*/x.parquet"),
    "data check": Case(("prefs/rlaif-v.parquet", "--model", "./base"), says="8"),
    "data import": Case(
        ("brought", "coco-val2014", "--root", "root"), leaves="root/*/images/COCO_val2014_000000000042.jpg"
    ),
    "data corrupt": Case(
        ("prefs/rlaif-v.parquet", "-o", "made", "--corruption", "blur", "--limit", "3"), leaves="made/manifest.json"
    ),
    "data generate": Case(
        (
            *("vlm", "--endpoint", ENDPOINT, "--prompts", "prefs/rlaif-v.parquet", "--judge", "pocket-truth"),
            *("--samples", "20", "-o", "pairs"),
        ),
        leaves="pairs/manifest.json",
    ),
    "data preview": Case(("made", "-o", "sheet.png"), ("data corrupt",), "sheet.png"),
}
"""Every command, and how it is run. A new command needs a line here."""


def fill(folder: Path) -> None:
    """What the commands take, and packages that stand in nobody's way."""
    from harness.worlds.pocket.formats import write_benchmarks

    for name in ("benchmarks", "aligners"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('a package of the user was imported')\n")
    tiny_llava(folder / "base")
    _pairs(folder / "prefs")
    tiny_photograph(folder / "p.png", 0)
    write_benchmarks(0, "validation", folder / "data")
    for name in ("one", "other"):
        make_run(folder / "scored", name, ["a dog", "a cat and a dog", "a bird", "a horse"] * 10)
    (folder / "brought" / "val2014").mkdir(parents=True)
    shutil.copy(folder / "p.png", folder / "brought" / "val2014" / "COCO_val2014_000000000042.jpg")
    rows = [{"question_id": n, "image": f"{n}.png", "text": "Is there a dog?", "label": "yes"} for n in range(4)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [{"question_id": n, "question": "Is there a dog?", "answer": "yes"} for n in range(4)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    brought = {"question_id": 1, "category": "random", "answer": "yes"}
    (folder / "brought.jsonl").write_text(json.dumps(brought) + "\n")
    pair = {"image": "p.png", "prompt": "What is this?", "chosen": "A photograph.", "rejected": "A giraffe."}
    (folder / "held-out.jsonl").write_text(json.dumps(pair) + "\n")
    arms = {"dpo": {"method": "dpo"}}
    experiment: dict[str, Any] = {"title": "one", "model": "./base", "data": "./prefs/rlaif-v.parquet", "arms": arms}
    experiment |= {"suites": ["pope"], "benchmarks": "./data", "seeds": [0]}
    (folder / "one.yaml").write_text(json.dumps(experiment))


def _pairs(folder: Path) -> None:
    """Eight pairs of the drawn world, whose rejected answers are written and not sampled, which would take longer than all else."""
    from harness.worlds.pocket import text
    from harness.worlds.pocket.preferences import Pair, write_preferences
    from harness.worlds.pocket.scenes import make_scenes

    pairs = []
    for scene in make_scenes(0, "preference", 8):
        faithful = text.write_caption(text.faithful_mentions(scene), 0)
        pairs.append(
            Pair(scene, text.SHORT_PROMPT, faithful, f"{faithful} A giraffe stands behind it.", faithful, False)
        )
    folder.mkdir()
    write_preferences(pairs, folder)
