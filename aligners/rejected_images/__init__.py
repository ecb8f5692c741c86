"""MFPO's part 1: a rejected image that differs from the original only where the preferred response looks."""

from aligners.rejected_images.aligner import ImagePreferenceAligner, ImagePreferenceAlignerSettings
from aligners.rejected_images.generate import generate
from aligners.rejected_images.settings import ImagePreferenceSettings

__all__ = ["ImagePreferenceAligner", "ImagePreferenceAlignerSettings", "ImagePreferenceSettings", "generate"]
