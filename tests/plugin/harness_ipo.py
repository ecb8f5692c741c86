"""A plugin: one preference method (IPO) and one benchmark (exact match)."""

from aligners.base import Aligner, Loss
from benchmarks.base import Benchmark
from harness.core.files import read_jsonl
from harness.core.types import ImageRef, Item, MetricSpec, SampleScore


class IPO(Aligner):
    """IPO: the log-ratio gap is regressed on 1/(2 beta), so that it cannot grow without end."""

    name, summary, source = "ipo", "identity preference optimisation", "Azar et al., AISTATS 2024, eq. 17"

    def loss(self, policy, reference):
        """(gap - 1/(2 beta))^2, with gap = log-ratio of chosen minus log-ratio of rejected; all [batch]."""
        ratio = {name: policy[name].sums - reference[name].sums for name in ("chosen", "rejected")}
        gap = ratio["chosen"] - ratio["rejected"]
        return Loss((gap - 1 / (2 * self.settings.beta)) ** 2, {"gap": gap.detach()})


class ExactMatch(Benchmark):
    """Share of questions whose answer is exactly the expected one."""

    name, title, source, max_new_tokens = "exact", "Exact match", "this file", 16
    metrics = (MetricSpec("accuracy", "Exact", higher_is_better=True, headline=True),)

    def items(self, data):
        """Questions from `questions.jsonl`: {id, image, question, answer}."""
        return [
            Item(
                str(row["id"]), row["question"], ImageRef(data / row["image"]), row["image"], {"answer": row["answer"]}
            )
            for row in read_jsonl(data / "questions.jsonl")
        ]

    def score(self, items, responses, judge=None):
        """One count an item: 1 if the answer is the expected one."""
        hits = {item.id: responses[item.id].text.strip() == item.reference["answer"] for item in items}
        return [SampleScore(item.id, item.group, {"right": float(hits[item.id])}) for item in items]

    def aggregate(self, totals):
        """accuracy = right / n."""
        return {"accuracy": totals["right"] / totals["n"]}
