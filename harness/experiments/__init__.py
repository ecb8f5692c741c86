"""Experiments: one file describes everything from preference data to a leaderboard with claims. See docs/experiments.md."""
