"""Preference data sets: one reader for the public formats, with every record checked."""

from aligners.data.read import Dropped, PreferenceSet, read_preferences

__all__ = ["Dropped", "PreferenceSet", "read_preferences"]
