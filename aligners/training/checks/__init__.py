"""What a run looks at before its first update: the trainer computes what the model does."""
