"""Hallucination benchmarks: items, scoring to the digit, aggregation over counts."""
