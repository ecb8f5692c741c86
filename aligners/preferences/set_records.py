"""What every set that a command writes has in its manifest, see `aligners.preferences.set_folder`."""

from __future__ import annotations

from pydantic import Field

from harness.core.record import Record, Whole


class SetFile(Record):
    """A Parquet file of a set."""

    name: str
    rows: Whole
    bytes: Whole | None = Field(None, description="its size; of rejected images")
