"""Backends that turn requests into responses: vLLM by default, transformers if vLLM is not installed."""
