"""Judges: models, or programs that know the truth, that grade free-form answers."""
