"""The trainer: from checked examples to a checkpoint."""
