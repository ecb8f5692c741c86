"""`harness data generate`: preference pairs from a model's own answers: sampled, judged, paired."""
