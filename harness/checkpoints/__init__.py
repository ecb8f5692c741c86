"""Checkpoints that exist: verify, ask, export, push."""
