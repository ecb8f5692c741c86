"""Embedded worlds: models, preference data and benchmarks that are made on this machine."""
