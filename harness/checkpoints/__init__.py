"""Work on finished checkpoints: verify, ask, export, push."""
