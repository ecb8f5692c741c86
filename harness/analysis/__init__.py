"""Comparing scores: leaderboards, paired comparisons, data frames."""
