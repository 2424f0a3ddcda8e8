"""A clock that stands still until it is told otherwise, and one that does not."""

from datetime import UTC, datetime, timedelta


class Clock:
    """Aware UTC time under the test's control. Call it for `now`."""

    def __init__(self, start: datetime = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)) -> None:
        self.now = start

    def __call__(self) -> datetime:
        """The present instant."""
        return self.now

    def advance(self, by: timedelta | None = None, /, **parts: float) -> datetime:
        """Move on, by a timedelta or by its parts (`minutes=5`); returns the new instant."""
        step = by if by is not None else timedelta(**parts)
        if step < timedelta(0):
            raise ValueError("time does not go back")
        self.now += step
        return self.now

    def correct(self, by: timedelta) -> datetime:
        """Jump, as the clock of a machine does that was wrong; returns the new instant."""
        self.now += by
        return self.now


class RealClock(Clock):
    """The machine's own: products read it too."""

    def __call__(self) -> datetime:
        """The present instant."""
        return datetime.now(UTC)
