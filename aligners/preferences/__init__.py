"""Preference data sets: the public formats and a plain one, with every record checked."""

from aligners.preferences.options import DataOptions
from aligners.preferences.read import Dropped, PreferenceSet, read_preferences
from aligners.preferences.sources import KNOWN

__all__ = ["KNOWN", "DataOptions", "Dropped", "PreferenceSet", "read_preferences"]
