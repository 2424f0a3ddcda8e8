"""Days and instants that can be right for a post: everything else would not survive a change of zone.

Typing slips such as the year 0202 are refused where they come in, whichever door that is.
"""

import re
from datetime import UTC, date, datetime

from idhub.errors import Invalid

FIRST_YEAR, LAST_YEAR = 1900, 2199
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_day(text: str, *, field: str) -> date:
    """An ISO date, 1900 to 2199.

    Raises:
        Invalid: not one.
    """
    try:
        # `fromisoformat` also takes 20261130 and 2026-W48-1, which people mistype for something else.
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None:
        raise Invalid(f"{field} must be a date such as 2026-11-30.", field=field, rule="date.form")
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise Invalid(f"{field} must lie between {FIRST_YEAR} and {LAST_YEAR}.", field=field, rule="date.range")
    return day


def parse_instant(text: str, *, field: str) -> datetime:
    """An ISO 8601 time with its zone, 1900 to 2199, as aware UTC.

    Raises:
        Invalid: not one.
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(
            f"{field} must be a time such as 2026-11-30T18:00+08:00.", field=field, rule="time.form"
        ) from error
    if value.tzinfo is None:
        raise Invalid(f"{field} must name its zone, such as +08:00.", field=field, rule="time.zone")
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise Invalid(f"{field} must lie between {FIRST_YEAR} and {LAST_YEAR}.", field=field, rule="time.range")
    return value.astimezone(UTC)
