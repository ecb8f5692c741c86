"""Checks before the first update: whether the trainer computes what the model does."""
