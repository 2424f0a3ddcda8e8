"""How fast a service may be asked: its own words in answers, and a budget that somebody set. Time comes in.

Services say it in four ways: `Retry-After` (RFC 9110 section 10.2.3); `RateLimit` of the IETF draft, in its newer form
(`"default";r=50;t=30`) and its older one (`limit=100, remaining=50, reset=30`); `RateLimit-Remaining` with
`RateLimit-Reset`; and the same with X- before, where the reset is a number of seconds or an instant.

Most say nothing until they refuse (429, and some 403, with one of these beside it). What was accepted by then, and how
long they want to be left alone, is their rate: whoever has waited comes back one by one at that rate, in the order of
asking, and not all in one moment to be refused again. What takes turns is a talk of some requests: one that has begun
goes on before the next one begins, else each would be cut off by its deadline and none would come to its end. With
every answer that is accepted they come a little faster, until the service refuses anew, or nobody has to wait any more.

A refusal is a fact; what an accepted answer says is left is a hint. Some services say that nothing is left for an hour
after every answer. So a hint makes nobody wait for more than a minute, and ends no talk that is under way: whoever
would have to wait past their deadline asks. A service that accepts what it said it would not is not believed any more
until it refuses.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

MAX_RETRY_AFTER: Final = timedelta(hours=1)
"""A longer wish is shortened: a leaver cannot wait for a day because a server said so."""
FARTHEST: Final = MAX_RETRY_AFTER + timedelta(minutes=1)
"""Nothing that is noted lies further ahead, but by a clock that has gone back since: then it keeps nobody waiting."""
_LONGEST_HINT: Final = timedelta(minutes=1)
"""How long anybody waits because of an answer that was accepted."""

_PARAMETER: Final = re.compile(r"\b(remaining|reset|r|t)\s*=\s*\"?(\d{1,12})")
_REMAINING: Final = ("ratelimit-remaining", "x-ratelimit-remaining", "x-rate-limit-remaining")
_RESET: Final = ("ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset")
_LEADING_DIGITS: Final = re.compile(r"\s*(\d{1,15})", re.ASCII)
_LEAST_EPOCH: Final = 1_000_000_000
_LEAST_MILLISECONDS: Final = 100_000_000_000
# Answers from whose times a rate is learned, and the share of an interval by which each one makes it shorter.
_LEARNED_FROM: Final = 256
_FASTER: Final = 1 / 256
_LONGEST_INTERVAL: Final = timedelta(seconds=10)
_SHORTEST_INTERVAL: Final = timedelta(milliseconds=2)
_TRIES_A_PAUSE: Final = 4
_REQUESTS_A_TALK: Final = 3
"""Search, change, read back: with its first request a talk takes turns for so many."""
_NOTHING: Final = timedelta(0)


class Budget(Protocol):
    """A limit that somebody set, shared by everybody who asks the service, in whatever process."""

    async def take(self, now: datetime, *, patience: timedelta) -> timedelta:
        """Take one turn; how long to wait for it. At least `patience`: nothing was taken."""


class Pace:
    """How fast one service may be asked, as one process knows it.

    Args:
        budget: a limit beside what the service itself says; None: there is none.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget
        self._remaining: int | None = None
        self._reset_at: datetime | None = None
        self._hinted_at: datetime | None = None
        """When an accepted answer said both; None: a refusal did."""
        self._used_up_at: datetime | None = None
        """When an accepted answer said first that nothing is left."""
        self._is_believed = True
        """What accepted answers say is left."""
        self._accepted: deque[datetime] = deque(maxlen=_LEARNED_FROM)
        self._interval = _NOTHING
        """Between two turns, as learned from refusals."""
        self._next_at: datetime | None = None
        """When the next turn is, where turns have an interval."""
        self.refusals = 0
        """Answers that refused (429): a turn that was taken before the last of them has to be taken anew."""

    async def take(self, now: datetime, *, patience: timedelta, asked: int = 0) -> timedelta:
        """Take one turn; how long to wait for it. At least `patience`: nothing was taken, it is too long to wait.

        Args:
            asked: requests that the same talk has sent before.
        """
        self._forget_future(now)
        turns = _REQUESTS_A_TALK if not asked else int(asked >= _REQUESTS_A_TALK)
        deadline = now + patience if asked else None
        wait = self._until_turn(now, turns, deadline)
        if wait < patience and self._budget is not None:
            wait = await self._budget.take(now, patience=patience)
            # Others may have taken turns meanwhile.
            wait = max(wait, self._until_turn(now, turns, deadline))
        if wait < patience:
            if turns:
                self._next_at = now + wait + turns * self._interval
            if self._remaining:
                self._remaining -= 1
        return wait

    def learn(self, headers: Mapping[str, str], status: int, *, now: datetime, sent_at: datetime | None = None) -> None:
        """Take note of what an answer says of the budget.

        Args:
            sent_at: when the request was sent; None: nothing is concluded from that.
        """
        if is_limit(headers, status):
            self._refused(now, retry_after(headers, now=now) or until_reset(headers, now=now) or timedelta(seconds=1))
            return
        remaining, reset = _limits(headers, now=now)
        if status < 500:
            self._accepted.append(now)
            shorter = self._interval * (1 - _FASTER)
            self._interval = shorter if shorter >= _SHORTEST_INTERVAL else _NOTHING
            if sent_at is not None and self._used_up_at is not None and sent_at > self._used_up_at:
                self._is_believed = False
                self._forget_hint()
        if remaining is not None and reset is not None and self._is_believed:
            # Answers overtake one another: within a period, the smallest number counts.
            is_same = self._reset_at is not None and abs(self._reset_at - reset) < timedelta(seconds=2)
            known = self._remaining if is_same and self._remaining is not None else remaining
            self._remaining, self._reset_at = min(known, remaining), min(reset, now + MAX_RETRY_AFTER)
            self._hinted_at = now
            if remaining:
                self._used_up_at = self._used_up_at if is_same else None
            elif self._used_up_at is None:
                self._used_up_at = now

    def _forget_future(self, now: datetime) -> None:
        if self._reset_at is not None and self._reset_at > now + FARTHEST:
            self._forget_hint()
        if self._next_at is not None and self._next_at > now + FARTHEST:
            self._next_at = None

    def _forget_hint(self) -> None:
        self._remaining = self._reset_at = self._hinted_at = self._used_up_at = None

    def _refused(self, now: datetime, pause: timedelta) -> None:
        self.refusals += 1
        until = now + pause
        # The fastest that it has accepted lately, its pause counted in: whatever was asked long ago slows nothing down.
        paces = ((until - at) / count for count, at in enumerate(reversed(self._accepted), 1))
        self._interval = min(*paces, pause / _TRIES_A_PAUSE, _LONGEST_INTERVAL)
        self._forget_hint()
        self._remaining, self._reset_at, self._next_at, self._is_believed = 0, until, until, True

    def _until_turn(self, now: datetime, turns: int, deadline: datetime | None) -> timedelta:
        """How long it is until the service allows anything, and until everybody who asked before has had a turn.

        Args:
            deadline: of a talk that is under way, which no hint ends.
        """
        allowed = self._until_allowed(now)
        if deadline is not None and now + allowed >= deadline and self._hinted_at is not None:
            allowed = _NOTHING
        if turns and self._interval and self._next_at is not None:
            return max(allowed, self._next_at - now)
        return allowed

    def _until_allowed(self, now: datetime) -> timedelta:
        if self._reset_at is not None and self._reset_at <= now:
            self._forget_hint()
        if self._reset_at is None or self._remaining is None or self._remaining > 0:
            return _NOTHING
        until = self._reset_at
        if self._hinted_at is not None:
            until = min(until, self._hinted_at + _LONGEST_HINT)
        return max(until - now, _NOTHING)


def is_limit(headers: Mapping[str, str], status: int) -> bool:
    """Whether an answer refuses because too much was asked: 429, or 403 that says until when (GitHub's, for one)."""
    if status != 403:
        return status == 429
    return bool(headers.get("Retry-After")) or _remaining(headers) == 0


def until_reset(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    """How long it is until the service counts anew, where it says that nothing is left."""
    remaining, reset = _limits(headers, now=now)
    return None if reset is None or remaining else reset - now


def retry_after(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    """RFC 9110 section 10.2.3: seconds, or a date, which is read against the service's own clock when it shows it."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal() and text.isascii():
        return min(timedelta(seconds=int(text[:9])), MAX_RETRY_AFTER)
    until = http_date(text)
    if until is None:
        return None
    wait = until - (http_date(headers.get("Date", "")) or now)
    return min(max(wait, timedelta(0)), MAX_RETRY_AFTER)


def http_date(text: str) -> datetime | None:
    """An HTTP date; None where it is none."""
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def _limits(headers: Mapping[str, str], *, now: datetime) -> tuple[int | None, datetime | None]:
    said = _parameters(headers)
    remaining, reset = _remaining(headers), said.get("reset", said.get("t")) or _first(headers, _RESET)
    if remaining is None or reset is None:
        return None, None
    return remaining, _instant(int(reset), now=now)


def _remaining(headers: Mapping[str, str]) -> int | None:
    said = _parameters(headers)
    text = said.get("remaining", said.get("r")) or _first(headers, _REMAINING)
    return None if text is None else int(text)


def _parameters(headers: Mapping[str, str]) -> dict[str, str]:
    text = headers.get("RateLimit")
    return dict(_PARAMETER.findall(text.lower())) if text else {}


def _first(headers: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    for name in names:
        text = headers.get(name)
        # `100, 100;w=60` and `30.5` are seen too: the leading digits count.
        match = _LEADING_DIGITS.match(text) if text else None
        if match is not None:
            return match[1]
    return None


def _instant(number: int, *, now: datetime) -> datetime:
    if number >= _LEAST_MILLISECONDS:
        number //= 1_000
    if number < _LEAST_EPOCH:
        return now + min(timedelta(seconds=number), MAX_RETRY_AFTER)
    # An instant may be far away, past what a calendar has, or, by a clock that goes wrong, long past.
    ahead = min(number - now.timestamp(), MAX_RETRY_AFTER.total_seconds())
    return now + timedelta(seconds=max(0.0, ahead))
