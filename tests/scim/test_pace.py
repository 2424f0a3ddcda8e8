"""What answers say of limits, in the four ways in which services say it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from scim.pace import Pace

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
PATIENT = timedelta(days=1)


def take(pace: Pace, now: datetime = NOW, *, patience: timedelta = PATIENT) -> timedelta:
    return asyncio.run(pace.take(now, patience=patience))


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
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "999999"}, 3_600),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000000001"}, 0),
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
