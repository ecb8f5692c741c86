"""A suite as a plugin's author writes it, with descriptions and yes/no questions, and a backend that answers it by a file."""

from __future__ import annotations

SOURCE = '''"""A museum's pictures: what a description of one invents and finds, and whether a question about one is answered right."""

import json
from pathlib import Path

from benchmarks.base import Benchmark, ratio
from harness.core.declared import FrontierChart, BarChart
from harness.core.files import read_jsonl
from harness.core.types import Evidence, ImageRef, Item, MetricSpec, SampleScore
from harness.serving.base import Backend, Completion


class Museum(Benchmark):
    """Descriptions and questions."""

    name, title, source, max_new_tokens = "museum", "Museum", "this file", 16
    metrics = (
        MetricSpec("invention", "invented", higher_is_better=False, headline=True),
        MetricSpec("coverage", "covered", higher_is_better=True, headline=True, invented_by="invention"),
        MetricSpec("correct", "right answers", higher_is_better=True, headline=True),
    )
    charts = (
        FrontierChart("coverage", "What is invented against what is covered", said="coverage", invented="invention"),
        BarChart("correct", "correct", "Right answers in the museum, {board}.", "right answers", mark=0.5),
    )

    def items(self, data):
        """Rows {id, question, picture, answer}; the answer to a question is yes or no, that to the others is what is there."""
        rows = read_jsonl(data / "questions.jsonl")
        return [
            Item(row["id"], row["question"], ImageRef(data / row["picture"]), row["picture"], {"answer": row["answer"]})
            for row in rows
        ]

    def score(self, items, responses, judge=None):
        """Evidence of a description; of an answer, what was said and what is right."""
        return [self._one(item, responses[item.id].text) for item in items]

    def _one(self, item, text):
        truth = item.reference["answer"]
        if truth in ("yes", "no"):
            said = text if text in ("yes", "no") else None
            return SampleScore(item.id, item.group, {"asked": 1, "correct": said == truth}, (), {"said": said, "label": truth})
        named, there = text.split(), truth.split()
        evidence = [Evidence(word, "correct" if word in there else "hallucinated", word) for word in named]
        evidence += [Evidence(word, "missed", word) for word in there if word not in named]
        counts = {"named": len(named), "there": len(there), "invented": len(set(named) - set(there))}
        counts["covered"] = len(set(named) & set(there))
        return SampleScore(item.id, item.group, counts, tuple(evidence))

    def aggregate(self, totals):
        """Shares."""
        return {
            "invention": ratio(totals["invented"], totals["named"]),
            "coverage": ratio(totals["covered"], totals["there"]),
            "correct": ratio(totals["correct"], totals["asked"]),
        }


class Reader(Backend):
    """Answers as the file said.json in the checkpoint's folder has them, by the questions' text."""

    name = "reader"

    @classmethod
    def missing(cls):
        """Nothing."""
        return None

    def start(self):
        """Nothing to do."""

    def close(self):
        """Nothing to do."""

    def provenance(self):
        """The name."""
        return {"backend": "reader"}

    def generate(self, requests):
        """One answer a question."""
        for request in requests:
            folder = Path(self.adapters.get(request.target, self.base))
            said = json.loads((folder / "said.json").read_text())
            yield Completion(request.id, request.target, said[request.prompt], "stop", 3, 1)
'''

QUESTIONS = [
    ("d1", "Describe the first.", "vase bowl"),
    ("d2", "Describe the second.", "chair lamp"),
    ("q1", "Is there a vase?", "yes"),
    ("q2", "Is there a clock?", "no"),
    ("q3", "Is there a bowl?", "yes"),
]
"""(id, question, answer)."""
ANSWERS = {
    "honest": ["vase", "", "yes", "no", "yes"],
    "inventive": ["vase bowl clock", "chair lamp", "yes", "yes", "perhaps"],
}
"""Checkpoint -> its answers."""
VERDICTS = {
    "honest": ["clean", "missed", "correct", "correct", "correct"],
    "inventive": ["invented", "clean", "correct", "wrong: false yes", "wrong: unreadable"],
}
"""Checkpoint -> what is to be said of its answers."""
