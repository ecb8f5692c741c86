"""The files of a set of rejected images: `config.json`, and the manifests of shards and of the whole set."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from aligners.preferences.set_records import SetFile
from harness.core.record import AnyText, Number, Record, Whole


class ImageSetConfig(Record):
    """What determines a set of rejected images, `config.json`."""

    kind: str = Field(description="image_preferences")
    format: int = Field(description="version of the columns")
    contents: Any = Field(None, description="of a set in the cache: hash of its examples")
    data: AnyText | None = Field(None, description="preference data, as the user named it")
    fingerprint: str | None = Field(None, description="of the data")
    settings: dict[str, Any] = Field(description="those that the images depend on")
    pipeline_and_models: dict[str, Any] | None = Field(
        None, description="of a set with keywords: versions, contents and data types of what found keywords and regions"
    )
    seed: int
    replace: bool = Field(description="whether images of the data are replaced")
    levels: list[Number] | None = Field(
        None, description="of a set with a list of images per example: shares of the corruption's strength"
    )
    examples: Whole = Field(description="of all shards")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of shards")
    part_size: Annotated[int, Field(ge=1)] = Field(description="examples per part")


class ImageSetManifest(ImageSetConfig):
    """What a set of rejected images, or a shard of it, holds: `manifest.json`, `shard-1-of-4.json`."""

    shard: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="number of this shard, and of all; not in a whole set of several"
    )
    counts: dict[str, Whole] = Field(description="examples by how their image was made, and dropped")
    dropped: list[str] = Field(description="ids of examples without an image")
    models: dict[str, str] = Field(description="detector and segmenter")
    frequent_keywords: dict[str, Whole] = Field(
        description="the 20 most frequent, with the number of images that each was found in; equally frequent ones by the alphabet"
    )
    files: list[SetFile]
    keywords: dict[str, Any] | None = Field(description="how keywords were ranked; null: not at all")
    versions: dict[str, str] = Field(description="of the packages that the images' bytes come from")
    seconds: float = Field(
        description="of the command that completed it, without the time of interrupted ones; of all shards, their sum"
    )


class ImagePreferenceNotes(Record):
    """`summary.prepared.image_preferences` in the manifest of a run: which rejected images it was trained with."""

    regions: Whole = Field(0, description="examples whose image was corrupted in regions")
    random_regions: Whole = Field(0, alias="random-regions", description="in regions at random places")
    whole_image: Whole = Field(0, alias="whole-image", description="everywhere")
    unchanged: Whole = Field(0, description="nowhere, because the corruption changes nothing of the image")
    given: Whole = Field(0, description="examples whose rejected image came with the data")
    dropped: Whole = Field(0, description="examples left out, because nothing was recognised in their image")
    source: str | None = Field(
        None,
        description="of the regions; given: all images came with the data, and the keys from corruption to levels are absent",
    )
    corruption: str | None = Field(None, description="of the images that were made, as the keys to levels")
    step: int | None = Field(None, description="of the diffusion")
    schedule: str | None = Field(None, description="of the diffusion")
    scale: Any = Field(None, description="of the noise")
    strength: float | None = Field(None, description="of other corruptions")
    levels: list[Number] | None = Field(
        None, description="of a list of images per example: shares of the corruption's strength"
    )
    keywords: dict[str, Any] | None = Field(None, description="how keywords were ranked; null: not at all")
    kept_in: AnyText | None = Field(None, description="folder of the set in the cache; null if no image was made")
    samples: AnyText | None = Field(None, description="file with samples, in the run's folder")

    @property
    def examples(self) -> int:
        """Number of examples trained on."""
        return self.regions + self.random_regions + self.whole_image + self.unchanged + self.given


class PreparedSummary(Record):
    """The part of `summary.prepared` in a run's manifest that methods with rejected images write."""

    image_preferences: ImagePreferenceNotes | None = None


class SampleRow(Record):
    """A row of `image_preferences.jsonl`: an example of a run with its rejected image. Images are files in the run's folder."""

    id: AnyText = Field(description="of the example")
    prompt: AnyText
    chosen: AnyText = Field(description="the chosen response")
    made: str = Field("given", description="regions, random-regions, whole-image, unchanged, or given by the data")
    keywords: list[AnyText] | None = Field(
        None, description="what regions were looked for; like all up to `seed` not of a given image"
    )
    boxes: Any = Field(None, description="regions: left, top, right, bottom in pixels")
    scores: Any = Field(None, description="of the regions")
    mask: str | None = Field(None, description="image of the corrupted pixels")
    corruption: str | None = None
    step: int | None = Field(None, description="of the diffusion")
    schedule: str | None = Field(None, description="of the diffusion")
    scale: Any = Field(None, description="of the noise")
    strength: float | None = Field(None, description="of a corruption that has one")
    seed: str | None = Field(None, description="of the corruption")
    original: str = Field(description="the original image")
    rejected: str = Field(description="the rejected image")
