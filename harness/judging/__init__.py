"""Judges grade free-form answers; they are models, or programs that know the truth."""
