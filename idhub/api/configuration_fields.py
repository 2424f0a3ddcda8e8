"""Forms of fields that all blocks of a configuration file share."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from idhub.errors import Invalid

_DURATION = re.compile(r"(\d{1,6})\s*(s|m|h|d)?")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _no_control_characters(value: str) -> str:
    if any(c < " " or c == "\x7f" for c in value):
        raise PydanticCustomError("control_character", "must not contain control characters")
    return value


def no_nul(value: str) -> str:
    """The text, which PostgreSQL must be able to hold; for pydantic, which names the field of what is refused."""
    if "\0" in value:
        raise PydanticCustomError("control_character", "must not contain NUL")
    return value


PLAIN = AfterValidator(_no_control_characters)
Text = Annotated[str, Field(min_length=1, max_length=200), PLAIN]
Name = Annotated[str, Field(min_length=1, max_length=120), PLAIN]
Uri = Annotated[str, Field(min_length=1, max_length=2_000)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Names(Strict):
    """A name in both languages."""

    en: Name
    zh: Name | None = None


def duration(value: str | int | None, where: str) -> timedelta | None:
    """Seconds, or a number with s, m, h or d ("90", "6h"), as a time; None stays None.

    Raises:
        Invalid: it is none, or zero; `where` is the field that is named.
    """
    if value is None:
        return None
    match = _DURATION.fullmatch(str(value))
    if match is None or int(match[1]) == 0:
        raise Invalid(f"{where} must be seconds, or a number with s, m, h or d.", field=where, rule="duration")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2] or "s"])
