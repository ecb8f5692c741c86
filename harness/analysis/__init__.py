"""What scores say when they are put side by side: leaderboards, paired comparisons, data frames."""
