"""Hallucination benchmarks: items, scoring that reproduces the official scripts, aggregation of counts."""
