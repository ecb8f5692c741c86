"""The base class of methods that compare the original image with a rejected one."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypeVar

from aligners.base import CHOSEN, IMAGE_REJECTED, REJECTED, Aligner, AlignerSettings, PrepareContext
from aligners.rejected_images.generate import generate
from aligners.rejected_images.settings import ImagePreferenceSettings
from harness.core.types import PreferenceExample


class ImagePreferenceAlignerSettings(AlignerSettings):
    """Settings of a method with rejected images, which are made if the data have none."""

    images: ImagePreferenceSettings = ImagePreferenceSettings()


S_co = TypeVar("S_co", bound=ImagePreferenceAlignerSettings, default=ImagePreferenceAlignerSettings, covariant=True)


class ImagePreferenceAligner(Aligner[S_co]):
    """A method with three branches: both responses given the original image, and the preferred one given the rejected image."""

    branches = (CHOSEN, REJECTED, IMAGE_REJECTED)
    Settings = ImagePreferenceAlignerSettings

    def prepare(self, examples: Sequence[PreferenceExample], context: PrepareContext) -> Sequence[PreferenceExample]:
        """Make a rejected image for every example without one; the manifest records how they were made."""
        made, notes = generate(examples, self.settings.images, context)
        context.notes["image_preferences"] = notes.written()
        return made
