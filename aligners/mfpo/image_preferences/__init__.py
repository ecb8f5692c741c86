"""MFPO's part 1: a rejected image that differs from the original only where the preferred response looks."""

from aligners.mfpo.image_preferences.aligner import ImagePreferenceAligner, ImagePreferenceAlignerSettings
from aligners.mfpo.image_preferences.generate import generate
from aligners.mfpo.image_preferences.settings import ImagePreferenceSettings

__all__ = ["ImagePreferenceAligner", "ImagePreferenceAlignerSettings", "ImagePreferenceSettings", "generate"]
