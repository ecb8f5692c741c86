"""Records: the models of our own files. A file is written from its record, and checked against it once, where it is read.

The files are data: a killed writer, another version or a stranger may have made them. A file that does not fit is refused with its path
and the first thing that is wrong; other keys than those of the model pass, so that what other versions add does not matter.

The records of a run's folder are in `harness.records`; packages that those may not import have their own (`docs/ARCHITECTURE.md`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.core.errors import BadInputError, shown

MOST = 1e12
"""Larger values and counts are none: a thousand words on every image of the world."""
_NAMED = 12
"""Missing keys that an error names."""

Number = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
Value = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=int(MOST))]


class Record(BaseModel):
    """An object of a file: no value is turned into another type, and unknown keys pass."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    def written(self) -> dict[str, Any]:
        """The JSON-able object that a file holds: the model's keys that were given, in the model's order, then all others."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Versioned(Record):
    """The top of a file, which says by `schema` how the file is to be read.

    A file without one is of version 0.1 of this tool, and of schema 1. Of a file of a later schema than this tool knows, nothing is taken.
    """

    KNOWN: ClassVar[int]
    """The schema that is written."""
    schema_number: int = Field(1, alias="schema", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, value: Any) -> Any:
        # Before anything else: of a later schema, whatever seems wrong may be meant.
        number = value.get("schema") if isinstance(value, dict) else None
        if isinstance(number, int) and number > cls.KNOWN:
            raise ValueError(
                f"a newer version of harness wrote it (schema {number}; this version reads up to {cls.KNOWN}): upgrade harness"
            )
        return value


R = TypeVar("R", bound=Record)


_AGAIN = "run the command that wrote it again, or remove it"


def check(kind: type[R], value: Any, what: str, where: Path | str, remedy: str = _AGAIN) -> R:
    """A value, of a file or for one, as the record that it should be.

    Raises:
        BadInputError: it is another one; the first key that is wrong is named.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise unusable(error, what, where, remedy) from None


def unusable(error: ValidationError, what: str, where: Path | str, remedy: str = _AGAIN) -> BadInputError:
    """The error about a value that is not the record that it should be, with the first thing that is wrong."""
    return BadInputError(f"the {what} cannot be used: {_reason(error)}", where=str(where), remedy=remedy)


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong, in a few words."""
    errors = error.errors(include_url=False)
    if missing := sorted(".".join(map(str, entry["loc"])) for entry in errors if entry["type"] == "missing"):
        return f"it is from another version: it has no {', '.join(missing[:_NAMED])}"
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    key = shown(key, 200)[1:-1]
    if first["type"] == "value_error":
        said = first["msg"].removeprefix("Value error, ")
        return f"{key}: {said}" if key else said
    said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return f"{key} is {shown(first['input'])}: {said}" if key else f"it is {shown(first['input'])}: {said}"
