"""Experiments: one file from preference data to a leaderboard with claims. See docs/experiments.md."""
