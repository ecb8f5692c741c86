"""Records: the models of our own files. A file is written from its record, and checked against it once, where it is read.

The files are not trusted: a killed writer, another version or somebody else may have written them. An invalid file is refused with its
path and the first problem; unknown keys are ignored, so that other versions may add some.

The records of a run's folder are in `harness.records`; packages that those may not import have their own (`docs/ARCHITECTURE.md`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from harness.core.errors import BadInputError, shown

MOST = 1e12
"""Maximum of values and counts; larger ones cannot be real."""
_NAMED = 12
"""Number of missing keys that an error names."""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("this is not a text")
    return value


AnyText = Annotated[str, PlainValidator(_text)]
"""A text that may contain lone surrogates, as a model's answer, a path or a command line may."""
Number = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
Value = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=int(MOST))]


class Record(BaseModel):
    """An object in a file: values are not converted to other types, and unknown keys are ignored."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    def written(self) -> dict[str, Any]:
        """The JSON-able object that a file holds: the model's keys that were given, in the model's order, then all others."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Versioned(Record):
    """The top level of a file, whose `schema` is the version of its format.

    A file without `schema` is from version 0.1 of this tool and has schema 1. A file with a later schema than this tool knows is refused.
    """

    KNOWN: ClassVar[int]
    """The schema of written files."""
    schema_number: int = Field(1, alias="schema", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, value: Any) -> Any:
        # Checked first, because a later schema may allow what seems wrong.
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
        BadInputError: it is invalid; the message names the first invalid key.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise unusable(error, what, where, remedy) from None


def unusable(error: ValidationError, what: str, where: Path | str, remedy: str = _AGAIN) -> BadInputError:
    """The error about a value that is not the record that it should be, with the first thing that is wrong."""
    return BadInputError(f"the {what} cannot be used: {_reason(error)}", where=str(where), remedy=remedy)


def _reason(error: ValidationError) -> str:
    """A short description of the first problem."""
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
