"""The files of a set of rejected images: `config.json`, and the manifests of shards and of the whole set."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from aligners.preferences.set_records import SetFile
from harness.core.record import AnyText, Record, Whole


class ImageSetConfig(Record):
    """What determines a set of rejected images, `config.json`."""

    kind: str = Field(description="image_preferences")
    format: int = Field(description="version of the columns")
    contents: Any = Field(None, description="of a set in the cache: hash of its examples")
    data: AnyText | None = Field(None, description="preference data, as the user named it")
    fingerprint: str | None = Field(None, description="of the data")
    settings: dict[str, Any] = Field(description="those that the images depend on")
    seed: int
    replace: bool = Field(description="whether images of the data are replaced")
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
    frequent_keywords: dict[str, Whole] = Field(description="the most frequent, with their numbers")
    files: list[SetFile]
    keywords: dict[str, Any] | None = Field(description="how keywords were ranked; null: not at all")
    versions: dict[str, str] = Field(description="of the packages that the images' bytes come from")
    seconds: float = Field(description="that it took")
