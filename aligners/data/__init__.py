"""Preference data sets: the public formats and a plain one, with every record checked."""

from aligners.data.options import DataOptions
from aligners.data.read import Dropped, PreferenceSet, preferences_of, read_preferences
from aligners.data.sources import KNOWN

__all__ = ["KNOWN", "DataOptions", "Dropped", "PreferenceSet", "preferences_of", "read_preferences"]
