"""Numbers for drawings: bar lengths, histogram columns, the letters and hue of an application's mark."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

_SHORTEST_S, _LONGEST_S = 30.0, 8 * 3600.0
_ATTENTION = timedelta(minutes=30)
_ALARM = timedelta(hours=4)
_HUES = 8


def exposure_length(exposure: timedelta) -> float:
    """Length 0..1 of an exposure window on a logarithmic scale from half a minute to eight hours."""
    seconds = min(max(exposure.total_seconds(), _SHORTEST_S), _LONGEST_S)
    position = math.log(seconds / _SHORTEST_S) / math.log(_LONGEST_S / _SHORTEST_S)
    return round(0.08 + 0.92 * position, 3)


def exposure_tone(exposure: timedelta) -> str:
    """Class of the bar: the accent, amber above half an hour, red from four hours."""
    if exposure >= _ALARM:
        return "cb"
    return "c3" if exposure > _ATTENTION else "c1"


def mark_of(name: str, slug: str) -> tuple[str, int]:
    """Letters and hue that stand for an application without a logo of its own; always the same for the same slug."""
    letters = name.strip()[:1].upper() or "?"
    first_word = (name.split(maxsplit=1) or [""])[0]
    if first_word.isascii() and first_word.isupper() and 1 < len(first_word) <= 4:
        letters = first_word
    return letters, zlib.crc32(slug.encode()) % _HUES


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a histogram: where it stands, how high it and its failing part are, and its numbers."""

    x: float
    width: float
    height: float
    bad_height: float
    starts_at: datetime
    total: int
    bad: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of events over time, ready to be drawn by the template."""

    columns: Sequence[Column]
    top: int
    """Number at the upper grid line."""
    height: float


def histogram(counts: Sequence[tuple[datetime, int, int]], *, width: float = 1076, height: float = 56) -> Histogram:
    """Columns for (start, total, failed) counts at even distances. The axis starts at zero."""
    highest = max((total for _, total, _ in counts), default=0)
    top = _round_up(highest)
    step = width / max(len(counts), 1)
    columns = [
        Column(
            x=round(index * step + 1, 2),
            width=round(max(step - 2, 1), 2),
            height=round(height * total / top, 2),
            bad_height=round(height * bad / top, 2),
            starts_at=at,
            total=total,
            bad=bad,
        )
        for index, (at, total, bad) in enumerate(counts)
    ]
    return Histogram(columns, top, height)


def _round_up(value: int) -> int:
    if value <= 4:
        return 4
    magnitude: int = 10 ** (len(str(value)) - 1)
    return next(m * magnitude for m in (1, 2, 4, 5, 10) if m * magnitude >= value)
