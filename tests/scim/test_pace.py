"""What answers say of limits, in the four ways in which services say it."""

from datetime import UTC, datetime, timedelta

import pytest

from scim.pace import BURST, Pace

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


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
    assert pace.wait(NOW) == timedelta(seconds=wait)
    assert pace.wait(NOW + timedelta(hours=2)) == timedelta(0)


def test_429_waits_as_long_as_it_says() -> None:
    pace = Pace()
    pace.learn(Headers({"Retry-After": "7"}), 429, now=NOW)
    assert pace.wait(NOW) == timedelta(seconds=7)
    pace = Pace()
    pace.learn(Headers({}), 429, now=NOW)
    assert pace.wait(NOW) == timedelta(seconds=1)


def test_what_is_left_is_counted_down_and_an_older_answer_takes_nothing_back() -> None:
    pace = Pace()
    pace.learn(Headers({"RateLimit-Remaining": "2", "RateLimit-Reset": "30"}), 200, now=NOW)
    assert pace.take(NOW) == pace.take(NOW) == timedelta(0)
    assert pace.wait(NOW) == timedelta(seconds=30)
    pace.learn(Headers({"RateLimit-Remaining": "5", "RateLimit-Reset": "30"}), 200, now=NOW)
    assert pace.wait(NOW) == timedelta(seconds=30)


def test_budget_that_somebody_set() -> None:
    pace = Pace(per_minute=60)
    assert [pace.take(NOW) for _ in range(BURST)] == [timedelta(0)] * BURST
    assert pace.take(NOW) == timedelta(seconds=1)
    assert pace.take(NOW) == timedelta(seconds=2)
    assert pace.wait(NOW + timedelta(seconds=60)) == timedelta(0)
