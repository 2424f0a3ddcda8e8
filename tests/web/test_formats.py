"""Times, durations and numbers in both languages."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from idhub.pages import Formatter, Language, load_translations

LOCALE = Path("idhub/web/locale")
NOW = datetime(2026, 11, 23, 6, 32, tzinfo=UTC)


def _formatter(language: Language, zone: str = "Asia/Shanghai") -> Formatter:
    return Formatter(language, zone, load_translations(LOCALE, language))


def test_an_instant_names_its_zone() -> None:
    at = datetime(2026, 11, 30, 10, 0, tzinfo=UTC)

    assert _formatter("zh-CN").instant(at) == "2026-11-30 18:00（北京时间）"
    assert _formatter("en").instant(at) == "30 Nov 2026, 18:00 (UTC+8)"
    assert _formatter("en", "Asia/Kolkata").instant(at) == "30 Nov 2026, 15:30 (UTC+5:30)"
    assert _formatter("zh-CN", "America/New_York").instant(at) == "2026-11-30 05:00（UTC-5）"


@pytest.mark.parametrize(
    ("at", "chinese", "english"),
    [
        (NOW - timedelta(minutes=1), "今天 14:31", "today 14:31"),
        (NOW - timedelta(hours=17, minutes=25), "昨天 21:07", "yesterday 21:07"),
        (NOW + timedelta(days=1), "明天 14:32", "tomorrow 14:32"),
        (NOW - timedelta(days=3), "3 天前", "3 days ago"),
        (NOW - timedelta(days=30), "10-24 14:32", "24 Oct, 14:32"),
        (NOW - timedelta(days=400), "2025-10-19", "19 Oct 2025"),
    ],
)
def test_near_times_are_said_as_one_would(at: datetime, chinese: str, english: str) -> None:
    assert _formatter("zh-CN").near(at, NOW) == chinese
    assert _formatter("en").near(at, NOW) == english


@pytest.mark.parametrize(
    ("length", "chinese", "english"),
    [
        (timedelta(minutes=46), "46 分钟", "46 min"),
        (timedelta(hours=8), "8 小时", "8 h"),
        (timedelta(seconds=70), "1 分 10 秒", "1 min 10 s"),
        (timedelta(hours=2, minutes=5, seconds=9), "2 小时 5 分", "2 h 5 min"),
        (timedelta(days=7, hours=3), "7 天 3 小时", "7 d 3 h"),
        (timedelta(0), "0 秒", "0 s"),
        (timedelta(minutes=-37), "−37 分钟", "−37 min"),
    ],
)
def test_durations_have_two_units_at_most(length: timedelta, chinese: str, english: str) -> None:
    assert _formatter("zh-CN").duration(length) == chinese
    assert _formatter("en").duration(length) == english


def test_unknown_is_never_drawn_as_zero() -> None:
    formatter = _formatter("zh-CN")

    assert formatter.number(None) == "—"
    assert formatter.duration(None) == "—"
    assert formatter.day(None) == "—"
    assert formatter.number(0) == "0"
    assert formatter.number(118642) == "118,642"


def test_a_day_is_the_day_at_the_place() -> None:
    late = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)

    assert _formatter("zh-CN").day(late) == "2026-12-01"
    assert _formatter("en").day(date(2026, 12, 1)) == "1 Dec 2026"
    assert _formatter("zh-CN").weekday(late) == "周二"


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "Pacific/Kiritimati", "America/Anchorage", "Etc/GMT+12", "UTC"])
@pytest.mark.parametrize(
    "at", [datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)], ids=["no end", "no time"]
)
def test_the_ends_of_the_calendar_are_shown(at: datetime, zone: str) -> None:
    """A certificate without an end is dated 9999-12-31T23:59:59Z (RFC 5280 section 4.1.2.5); pages answered 500."""
    for language in ("zh-CN", "en"):
        formatter = _formatter(language, zone)
        for shown in (formatter.instant, formatter.day, formatter.minute, formatter.weekday):
            assert shown(at)
        assert formatter.near(at, NOW)
