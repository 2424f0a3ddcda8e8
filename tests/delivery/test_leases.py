"""Singletons by lease rows: one holder at a time, and a fence against the one that was."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from idhub.db import Database
from idhub.delivery.leases import hold, release, still_held
from tests.support.clock import Clock

LIFE = timedelta(seconds=10)


def test_one_holder_at_a_time(hub: Database, clock: Clock) -> None:
    first = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)

    assert first is not None
    assert first.token == 1
    assert hold(hub, "schedule", "b", now=clock(), lifetime=LIFE) is None
    assert hold(hub, "purge", "b", now=clock(), lifetime=LIFE) is not None, "leases do not know each other"


def test_a_holder_that_renews_keeps_its_token(hub: Database, clock: Clock) -> None:
    first = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)
    clock.advance(seconds=9)
    again = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)
    clock.advance(seconds=9)

    assert first == again
    assert hold(hub, "schedule", "b", now=clock(), lifetime=LIFE) is None


def test_a_silent_holder_is_succeeded_and_fenced_off(hub: Database, clock: Clock) -> None:
    old = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)
    assert old is not None
    clock.advance(LIFE)
    new = hold(hub, "schedule", "b", now=clock(), lifetime=LIFE)
    assert new is not None
    assert new.token == old.token + 1

    with hub.transaction() as session:
        assert not still_held(session, old)
        assert still_held(session, new)
    release(hub, old, now=clock())
    assert hold(hub, "schedule", "c", now=clock(), lifetime=LIFE) is None, "the old one cannot give away the new one's"


def test_the_same_holder_coming_back_late_gets_a_new_token(hub: Database, clock: Clock) -> None:
    old = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)
    clock.advance(LIFE)
    new = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)

    assert old is not None
    assert new is not None
    assert new.token == 2
    with hub.transaction() as session:
        assert not still_held(session, old)


def test_a_released_lease_is_free_at_once_and_its_token_goes_on(hub: Database, clock: Clock) -> None:
    first = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)
    assert first is not None
    release(hub, first, now=clock())

    second = hold(hub, "schedule", "b", now=clock(), lifetime=LIFE)
    assert second is not None
    assert second.token == 2


def test_of_many_that_ask_at_once_one_gets_it(hub: Database, clock: Clock) -> None:
    with ThreadPoolExecutor(6) as threads:
        held = list(threads.map(lambda i: hold(hub, "schedule", f"n{i}", now=clock(), lifetime=LIFE), range(12)))

    assert len([one for one in held if one is not None]) == 1


def test_a_lease_of_a_clock_that_was_wrong_keeps_nobody_waiting_for_it(hub: Database, clock: Clock) -> None:
    """D19: taken while the clock was a day ahead; the process is gone, and its successor has another name."""
    clock.correct(timedelta(days=1))
    old = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)
    assert old is not None
    clock.correct(-timedelta(days=1))
    new = hold(hub, "schedule", "b", now=clock(), lifetime=LIFE)
    assert new is not None
    assert new.token == old.token + 1
    with hub.transaction() as session:
        assert not still_held(session, old), "nobody works beside the new one"


def test_a_holder_whose_clock_was_put_right_renews_so_that_others_can_follow(hub: Database, clock: Clock) -> None:
    clock.correct(timedelta(days=1))
    first = hold(hub, "schedule", "a", now=clock(), lifetime=LIFE)
    clock.correct(-timedelta(days=1))
    assert hold(hub, "schedule", "a", now=clock(), lifetime=LIFE) == first
    assert hold(hub, "schedule", "b", now=clock(), lifetime=LIFE) is None
    clock.advance(LIFE)
    assert hold(hub, "schedule", "b", now=clock(), lifetime=LIFE) is not None


def test_clocks_that_differ_a_little_take_nothing_from_each_other(hub: Database, clock: Clock) -> None:
    ahead = clock() + timedelta(seconds=50)
    first = hold(hub, "schedule", "a", now=ahead, lifetime=LIFE)
    assert first is not None
    assert hold(hub, "schedule", "b", now=clock(), lifetime=LIFE) is None
    with hub.transaction() as session:
        assert still_held(session, first)
