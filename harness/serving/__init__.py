"""Backends that turn requests into responses: vLLM by default, transformers where vLLM is not installed."""
