"""From a model and preference data to a checkpoint in a run folder."""
