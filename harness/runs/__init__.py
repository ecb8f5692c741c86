"""Runs: folders, manifests, the response log, and the orchestration of align, eval and score."""
