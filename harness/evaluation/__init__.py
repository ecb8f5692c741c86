"""From checkpoints and benchmark items to answers and scores."""
