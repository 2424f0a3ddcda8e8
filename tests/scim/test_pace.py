"""What answers say of limits, in the four ways in which services say it."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from scim.pace import Pace, retry_after

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
PATIENT = timedelta(days=1)


def take(pace: Pace, now: datetime = NOW, *, patience: timedelta = PATIENT, asked: int = 0) -> timedelta:
    return asyncio.run(pace.take(now, patience=patience, asked=asked))


class Budget:
    """One turn every two seconds."""

    def __init__(self) -> None:
        self.taken = 0

    async def take(self, now: datetime, *, patience: timedelta) -> timedelta:
        wait = timedelta(seconds=2) * self.taken
        self.taken += wait < patience
        return wait


class Headers(dict[str, str]):
    """Names without case."""

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        return next((value for key, value in self.items() if key.lower() == name.lower()), default)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "30"}, 30),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "12"}, 12),
        ({"X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Reset": str(int(NOW.timestamp()) + 45)}, 45),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str((int(NOW.timestamp()) + 45) * 1000)}, 45),
        ({"RateLimit": "limit=100, remaining=0, reset=50"}, 50),
        ({"RateLimit": '"default";r=0;t=20'}, 20),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "999999"}, 60),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000000001"}, 0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9" * 15}, 60),
        ({"RateLimit-Remaining": "3", "RateLimit-Reset": "30"}, 0),
        ({"RateLimit-Remaining": "0"}, 0),
        ({"RateLimit-Remaining": "many", "RateLimit-Reset": "soon"}, 0),
        ({"RateLimit": "x" * 5_000}, 0),
        ({}, 0),
    ],
)
def test_limits_are_learned_from_answers(headers: dict[str, str], wait: int) -> None:
    pace = Pace()
    pace.learn(Headers(headers), 200, now=NOW)
    assert take(pace) == timedelta(seconds=wait)
    assert take(pace, NOW + timedelta(hours=2)) == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 99999999999999999999 Jan 2026 00:00:00 GMT",
        f"Mon, 01 Jan 2026 00:00:00 -{'9' * 30}",
    ],
)
def test_dates_that_no_calendar_has_are_unreadable(text: str) -> None:
    assert retry_after(Headers({"Retry-After": text}), now=NOW) is None


def test_a_limit_said_by_403_pauses_as_one_by_429() -> None:
    """It is no answer that was accepted: what was said to be left stays believed."""
    pace = Pace()
    pace.learn(Headers({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1200"}), 403, now=NOW)
    assert (pace.refusals, take(pace)) == (1, timedelta(seconds=1200))
    pace = Pace()
    pace.learn(Headers({"Retry-After": "60"}), 403, now=NOW)
    assert (pace.refusals, take(pace)) == (1, timedelta(seconds=60))
    pace = Pace()
    pace.learn(Headers({}), 403, now=NOW)
    assert (pace.refusals, take(pace)) == (0, timedelta(0))


USED_UP = Headers({"RateLimit-Remaining": "0", "RateLimit-Reset": "3600"})


def test_talk_under_way_goes_on_where_waiting_would_end_it() -> None:
    """A service that says after each answer that nothing is left for an hour."""
    pace = Pace()
    pace.learn(USED_UP, 200, now=NOW, sent_at=NOW)
    a_little = timedelta(seconds=20)
    assert take(pace, patience=a_little, asked=1) == timedelta(0)
    # One that begins waits, for as long as it says, but no longer than a minute.
    assert take(pace, patience=a_little) == timedelta(minutes=1)


def test_talk_under_way_waits_where_that_is_short() -> None:
    pace = Pace()
    pace.learn(Headers({"RateLimit-Remaining": "0", "RateLimit-Reset": "5"}), 200, now=NOW, sent_at=NOW)
    assert take(pace, patience=timedelta(seconds=20), asked=1) == timedelta(seconds=5)


def test_service_that_accepts_what_it_said_it_would_not_is_not_believed_until_it_refuses() -> None:
    pace, later = Pace(), NOW + timedelta(seconds=1)
    pace.learn(USED_UP, 200, now=NOW, sent_at=NOW)
    # On its way before that was said: this proves nothing.
    pace.learn(USED_UP, 200, now=later, sent_at=NOW - timedelta(seconds=1))
    assert take(pace, later) > timedelta(0)
    pace.learn(USED_UP, 200, now=later + timedelta(seconds=1), sent_at=later + timedelta(milliseconds=1))
    assert take(pace, later + timedelta(seconds=1)) == timedelta(0)
    pace.learn(Headers({"Retry-After": "90"}), 429, now=later, sent_at=later)
    assert take(pace, later) == timedelta(seconds=90)
    again = later + timedelta(seconds=100)
    pace.learn(USED_UP, 200, now=again, sent_at=again)
    assert take(pace, again) == timedelta(minutes=1)


def test_service_that_keeps_its_word_is_believed_on() -> None:
    pace, said = Pace(), Headers({"RateLimit-Remaining": "0", "RateLimit-Reset": "5"})
    for number in range(3):
        now = NOW + timedelta(seconds=6 * number)
        assert take(pace, now) == timedelta(0)
        pace.learn(said, 200, now=now, sent_at=now)
        assert take(pace, now) == timedelta(seconds=5)


def test_429_without_retry_after_waits_until_its_reset() -> None:
    """Okta says it so."""
    pace = Pace()
    pace.learn(Headers({"X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Reset": "90"}), 429, now=NOW)
    assert take(pace) == timedelta(seconds=90)


def test_429_waits_as_long_as_it_says() -> None:
    pace = Pace()
    pace.learn(Headers({"Retry-After": "7"}), 429, now=NOW)
    assert take(pace) == timedelta(seconds=7)
    pace = Pace()
    pace.learn(Headers({}), 429, now=NOW)
    assert take(pace) == timedelta(seconds=1)


def test_what_is_left_is_counted_down_and_an_older_answer_takes_nothing_back() -> None:
    pace = Pace()
    pace.learn(Headers({"RateLimit-Remaining": "2", "RateLimit-Reset": "30"}), 200, now=NOW)
    assert take(pace) == take(pace) == timedelta(0)
    assert take(pace) == timedelta(seconds=30)
    pace.learn(Headers({"RateLimit-Remaining": "5", "RateLimit-Reset": "30"}), 200, now=NOW)
    assert take(pace) == timedelta(seconds=30)


def test_whoever_will_not_wait_takes_nothing() -> None:
    budget = Budget()
    pace = Pace(budget)
    pace.learn(Headers({"RateLimit-Remaining": "0", "RateLimit-Reset": "30"}), 200, now=NOW)
    assert take(pace, patience=timedelta(seconds=30)) == timedelta(seconds=30)
    assert budget.taken == 0


def test_the_longer_of_what_the_service_says_and_the_budget_counts() -> None:
    pace = Pace(Budget())
    assert [take(pace), take(pace)] == [timedelta(0), timedelta(seconds=2)]
    pace.learn(Headers({"RateLimit-Remaining": "0", "RateLimit-Reset": "30"}), 200, now=NOW)
    assert take(pace) == timedelta(seconds=30)


def accept(pace: Pace, count: int, *, every: timedelta, first: datetime) -> None:
    """So many requests are accepted, one after the other."""
    for number in range(count):
        pace.learn(Headers({}), 200, now=first + number * every)


def test_after_a_refusal_talks_begin_one_by_one_in_order_at_the_rate_that_was_accepted() -> None:
    """100 a minute: 100 were accepted within five seconds, then nothing more is until the minute is over."""
    pace = Pace()
    accept(pace, 100, every=timedelta(milliseconds=50), first=NOW - timedelta(seconds=5))
    pace.learn(Headers({"Retry-After": "55"}), 429, now=NOW)
    waits = [take(pace) for _ in range(20)]
    assert waits[0] == timedelta(seconds=55)
    between = {later - earlier for earlier, later in pairwise(waits)}
    assert len(between) == 1
    # A talk has three requests.
    assert timedelta(milliseconds=590) < between.pop() / 3 <= timedelta(milliseconds=600)


def test_a_talk_that_has_begun_goes_on_before_others_begin() -> None:
    pace = Pace()
    accept(pace, 10, every=timedelta(milliseconds=1), first=NOW - timedelta(milliseconds=10))
    pace.learn(Headers({"Retry-After": "20"}), 429, now=NOW)
    for _ in range(16):
        take(pace)
    later = NOW + timedelta(seconds=20)
    assert [take(pace, later, asked=asked) for asked in (1, 2)] == [timedelta(0)] * 2
    assert take(pace, later, asked=3) > timedelta(seconds=60), "a long one gets in line again"


def test_a_talk_that_has_begun_waits_while_the_service_refuses() -> None:
    pace = Pace()
    pace.learn(Headers({"Retry-After": "20"}), 429, now=NOW)
    assert take(pace, asked=1) == timedelta(seconds=20)


def test_those_refused_in_one_moment_teach_what_one_of_them_does() -> None:
    pace, other = Pace(), Pace()
    for one, refusals in ((pace, 1), (other, 16)):
        accept(one, 10, every=timedelta(milliseconds=1), first=NOW - timedelta(milliseconds=10))
        for _ in range(refusals):
            one.learn(Headers({"Retry-After": "20"}), 429, now=NOW)
    assert [take(pace) for _ in range(5)] == [take(other) for _ in range(5)]


def test_what_was_asked_long_ago_slows_nobody_down() -> None:
    pace = Pace()
    accept(pace, 50, every=timedelta(minutes=10), first=NOW - timedelta(days=1))
    accept(pace, 40, every=timedelta(milliseconds=1), first=NOW - timedelta(milliseconds=40))
    pace.learn(Headers({"Retry-After": "10"}), 429, now=NOW)
    first, second = take(pace), take(pace)
    assert (second - first) / 3 < timedelta(milliseconds=252)


def test_a_service_that_accepts_nothing_is_tried_a_few_times_a_pause() -> None:
    pace = Pace()
    pace.learn(Headers({"Retry-After": "20"}), 429, now=NOW)
    assert [take(pace) for _ in range(3)] == [timedelta(seconds=s) for s in (20, 35, 50)]


def test_whoever_gives_up_takes_no_turn_from_those_behind() -> None:
    pace = Pace()
    pace.learn(Headers({"Retry-After": "20"}), 429, now=NOW)
    assert take(pace, patience=timedelta(seconds=10)) == timedelta(seconds=20)
    assert take(pace) == timedelta(seconds=20)


@pytest.mark.parametrize(("limit", "window"), [(99, 60), (9, 1), (201, 3_600)])
def test_a_limit_is_used_and_seldom_run_into(limit: int, window: int) -> None:
    """A service of so many requests a window, sixteen talks at once, a clock of the test's own: five windows."""
    pace, now = Pace(), NOW
    end = NOW + 5 * timedelta(seconds=window)
    opened, used, accepted, refused = NOW, 0, 0, 0

    def answer(at: datetime) -> bool:
        nonlocal opened, used, accepted, refused
        if at - opened >= timedelta(seconds=window):
            opened, used = at, 0
        if used >= limit:
            refused += 1
            left = opened + timedelta(seconds=window) - at
            pace.learn(Headers({"Retry-After": str(max(1, round(left.total_seconds())))}), 429, now=at)
            return False
        used, accepted = used + 1, accepted + 1
        pace.learn(Headers({}), 200, now=at)
        return True

    while now < end:
        at = now + timedelta(milliseconds=1)
        for wait in sorted(take(pace, now) for _ in range(16)):
            at = max(at, now + wait)
            if not all(answer(now + wait) for _ in range(3)):
                break
        now = at
    assert accepted >= 0.8 * 5 * limit
    assert refused <= 0.05 * accepted + 5


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Retry-After": "1800"}, 429), ({"RateLimit-Remaining": "0", "RateLimit-Reset": "1800"}, 200)],
)
def test_a_clock_that_was_ahead_keeps_nobody_waiting(headers: dict[str, str], status: int) -> None:
    pace = Pace()
    pace.learn(Headers(headers), status, now=NOW + timedelta(days=1))
    take(pace, NOW + timedelta(days=1))
    assert take(pace, NOW) == timedelta(0)
