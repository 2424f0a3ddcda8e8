"""Times, dates, durations and numbers in the words of a language, at the installation's place."""

from datetime import UTC, date, datetime, timedelta
from gettext import NullTranslations
from zoneinfo import ZoneInfo

from idhub.pages.language import N_, Language

_EN_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEKDAYS = (N_("Monday"), N_("Tuesday"), N_("Wednesday"), N_("Thursday"), N_("Friday"), N_("Saturday"), N_("Sunday"))
_BEIJING = "Asia/Shanghai"
_NEAR_DAYS = 7
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


class Formatter:
    """Formats for one language and one time zone. All instants come in aware; "now" is handed in, never read."""

    def __init__(self, language: Language, zone: str, translations: NullTranslations) -> None:
        self.language = language
        self._zone_name = zone
        self._zone = ZoneInfo(zone)
        self._t = translations

    def local(self, value: datetime) -> datetime:
        """The instant on the clocks of the installation's place."""
        try:
            return value.astimezone(self._zone)
        except OverflowError:
            # A certificate or metadata without an end is dated 9999-12-31T23:59:59Z (RFC 5280 section 4.1.2.5), which
            # no place to the east has.
            return value

    def zone_label(self, value: datetime) -> str:
        """How the zone is named beside a time: 北京时间, or its offset."""
        if self._zone_name == _BEIJING and self.language == "zh-CN":
            return "北京时间"
        offset = self.local(value).utcoffset() or timedelta()
        minutes = int(offset.total_seconds()) // 60
        sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
        return f"UTC{sign}{hours}" + (f":{rest:02d}" if rest else "")

    def day(self, value: date | datetime | None) -> str:
        """2026-11-30, or 30 Nov 2026; a dash for none."""
        if value is None:
            return "—"
        day = self.local(value).date() if isinstance(value, datetime) else value
        return day.isoformat() if self.language == "zh-CN" else f"{day.day} {_EN_MONTHS[day.month - 1]} {day.year}"

    def weekday(self, value: date | datetime) -> str:
        """The day of the week."""
        day = self.local(value).date() if isinstance(value, datetime) else value
        return self._t.gettext(_WEEKDAYS[day.weekday()])

    def instant(self, value: datetime | None) -> str:
        """Full value with zone: 2026-11-30 18:00（北京时间）, or 30 Nov 2026, 18:00 (UTC+8)."""
        if value is None:
            return "—"
        zone = self.zone_label(value)
        return f"{self.minute(value)}（{zone}）" if self.language == "zh-CN" else f"{self.minute(value)} ({zone})"

    def minute(self, value: datetime | None) -> str:
        """To the minute, without zone."""
        if value is None:
            return "—"
        separator = " " if self.language == "zh-CN" else ", "
        return f"{self.day(value)}{separator}{self.local(value):%H:%M}"

    def second(self, value: datetime | None) -> str:
        """Date and clock to the second, digits only: for exact records and tooltips."""
        return "—" if value is None else f"{self.local(value):%Y-%m-%d %H:%M:%S}"

    def clock(self, value: datetime | None, *, milliseconds: bool = False) -> str:
        """The clock alone, to the second or millisecond."""
        if value is None:
            return "–"
        local = self.local(value)
        return f"{local:%H:%M:%S}" + (f".{local.microsecond // 1000:03d}" if milliseconds else "")

    def near(self, value: datetime | None, now: datetime) -> str:
        """As one would say it: 今天 14:31, 3 天前, 11-18, or the date where another year is meant."""
        if value is None:
            return "—"
        local, today = self.local(value), self.local(now).date()
        days = (today - local.date()).days
        if days == 0:
            return self._t.gettext("today %(clock)s") % {"clock": f"{local:%H:%M}"}
        if days == 1:
            return self._t.gettext("yesterday %(clock)s") % {"clock": f"{local:%H:%M}"}
        if days == -1:
            return self._t.gettext("tomorrow %(clock)s") % {"clock": f"{local:%H:%M}"}
        if 1 < days <= _NEAR_DAYS:
            return self._t.ngettext("%(num)s day ago", "%(num)s days ago", days) % {"num": days}
        if local.year == today.year:
            return f"{local:%m-%d %H:%M}" if self.language == "zh-CN" else f"{local.day} {local:%b}, {local:%H:%M}"
        return self.day(value)

    def duration(self, value: timedelta | float | None) -> str:
        """46 分钟, 8 小时, 1 分 10 秒: two units at most, and none finer than the size deserves."""
        if value is None:
            return "—"
        total = int(value.total_seconds() if isinstance(value, timedelta) else value)
        if total < 0:
            return "−" + self.duration(-total)
        days, hours, minutes, seconds = (
            total // _DAY, total % _DAY // _HOUR, total % _HOUR // _MINUTE, total % _MINUTE,
        )  # fmt: skip
        units = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
        if days:
            pattern = N_("%(days)s d %(hours)s h") if hours else N_("%(days)s d")
        elif hours:
            pattern = N_("%(hours)s h %(minutes)s min") if minutes else N_("%(hours)s h")
        elif minutes:
            pattern = N_("%(minutes)s min %(seconds)s s") if seconds else N_("%(minutes)s min")
        else:
            pattern = N_("%(seconds)s s")
        return self._t.gettext(pattern) % units

    def number(self, value: int | None) -> str:
        """With thousands separators; a dash for none, since unknown is not zero."""
        return "—" if value is None else f"{value:,}"

    def iso(self, value: datetime | date) -> str:
        """For `<time datetime>`."""
        if isinstance(value, datetime):
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return value.isoformat()
