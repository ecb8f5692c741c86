"""MFPO's part 1: rejected images, which differ from the original only in the regions that the preferred response describes."""

from aligners.rejected_images.aligner import ImagePreferenceAligner, ImagePreferenceAlignerSettings
from aligners.rejected_images.generate import generate
from aligners.rejected_images.settings import ImagePreferenceSettings

__all__ = ["ImagePreferenceAligner", "ImagePreferenceAlignerSettings", "ImagePreferenceSettings", "generate"]
