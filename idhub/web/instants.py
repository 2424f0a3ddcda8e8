"""Instants as people type them (brief, section 9): a day alone means the end of that day."""

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from idhub.directory.calendar import FIRST_YEAR, LAST_YEAR, parse_day
from idhub.errors import Invalid
from idhub.pages import N_

_CLOCK = re.compile(r"(?:[tT\s,]+)(\d{1,2}):(\d{2})(?::\d{2})?$")
_WEEKDAYS = {"一": 0, "二": 1, "三": 2, "四": 3, "五": 4, "六": 5, "日": 6, "天": 6}
_EN_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS = {"今天": 0, "today": 0, "明天": 1, "tomorrow": 1, "后天": 2}
CANNOT_READ = N_("The time could not be read. Write it like 2026-11-30 18:00.")
_MAX = 40


def parse_instant(text: str, zone: str, *, now: datetime) -> datetime | None:
    """The instant that `text` names at a place; None for nothing, which means now.

    A day alone is the last working day: the instant is 00:00 of the next.

    Raises:
        Invalid: it cannot be read; rule `instant.form`.
    """
    words = text.strip().lower()
    if not words:
        return None
    if len(words) > _MAX:
        raise Invalid(CANNOT_READ, field="effective_at", rule="instant.form")
    place = ZoneInfo(zone)
    try:
        exact = datetime.fromisoformat(words.upper())
    except ValueError:
        exact = None
    if exact is not None and exact.tzinfo is not None:
        return _kept(exact)
    today = now.astimezone(place).date()
    clock = _CLOCK.search(words)
    try:
        day = _day(words[: clock.start()] if clock else words, today)
        if clock:
            local = datetime(day.year, day.month, day.day, int(clock[1]), int(clock[2]), tzinfo=place)
        else:
            following = day + timedelta(days=1)
            local = datetime(following.year, following.month, following.day, tzinfo=place)
    except (ValueError, OverflowError) as error:
        raise Invalid(CANNOT_READ, field="effective_at", rule="instant.form") from error
    return _kept(local)


def _kept(moment: datetime) -> datetime:
    # The ends of the calendar have no instant in UTC, and no post begins or ends there.
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise Invalid(CANNOT_READ, field="effective_at", rule="instant.form")
    return moment.astimezone(UTC)


def parse_date(text: str, zone: str, *, now: datetime, field: str) -> date | None:
    """The day that `text` names at a place; None for nothing. Years from 1900 to 2199.

    Raises:
        Invalid: rule `date.form` or `date.range`.
    """
    words = text.strip().lower()
    if not words:
        return None
    try:
        day = _day(words, now.astimezone(ZoneInfo(zone)).date()) if len(words) <= _MAX else None
    except (ValueError, OverflowError):
        day = None
    if day is None:
        raise Invalid(f"{field} must be a date such as 2026-11-30.", field=field, rule="date.form")
    return parse_day(day.isoformat(), field=field)


def _day(words: str, today: date) -> date:
    words = words.strip()
    if words in _DAYS:
        return today + timedelta(days=_DAYS[words])
    if found := re.fullmatch(r"(下?)(?:周|星期)([一二三四五六日天])", words):
        return _weekday(today, _WEEKDAYS[found[2]], next_week=bool(found[1]))
    if (found := re.fullmatch(r"(next )?(\w+)", words)) and found[2] in _EN_WEEKDAYS:
        return _weekday(today, _EN_WEEKDAYS.index(found[2]), next_week=bool(found[1]))
    if found := re.fullmatch(r"(\d{1,2})-(\d{1,2})", words):
        day = date(today.year, int(found[1]), int(found[2]))
        return day if day >= today else date(today.year + 1, int(found[1]), int(found[2]))
    return date.fromisoformat(words)


def _weekday(today: date, weekday: int, *, next_week: bool) -> date:
    monday = today - timedelta(days=today.weekday())
    day = monday + timedelta(days=weekday + (7 if next_week else 0))
    return day if day >= today else day + timedelta(days=7)
