"""A refused credential holds its queue, in order; nothing else waits for it. D17."""

from datetime import timedelta

import pytest

from idhub.changes import COMMAND_LINE
from idhub.db import Database
from idhub.delivery.channel import LeasedDelivery
from idhub.delivery.queue import held_applications, holds, lease, pause, resume, settle
from idhub.errors import NotFound
from idhub.settings import Settings
from tests.delivery.rows import BROKEN, DONE, UNAUTHORIZED, delivery, put, row
from tests.support.clock import Clock


def take(hub: Database, clock: Clock, settings: Settings, limit: int = 50) -> list[LeasedDelivery]:
    return lease(hub, worker="w", now=clock(), limit=limit, settings=settings)


def held(hub: Database) -> dict[str, str]:
    with hub.read() as session:
        return held_applications(session)


def refuse_until_held(hub: Database, clock: Clock, settings: Settings) -> None:
    for _ in range(3):
        (leased,) = take(hub, clock, settings, limit=1)
        assert leased.application_id == "app_a"
        settle(hub, leased, UNAUTHORIZED, now=clock(), settings=settings)
        clock.advance(seconds=2)


def test_repeated_401_hold_the_queue_with_a_reason(hub: Database, clock: Clock, settings: Settings) -> None:
    put(hub, clock, *[delivery(f"l{i}") for i in range(5)])

    refuse_until_held(hub, clock, settings)

    assert held(hub) == {"app_a": "unauthorized"}
    with hub.read() as session:
        (one,) = holds(session)
    assert one.channel == "scim"
    assert one.note == "The application refuses the hub's credential (401). Renew it; deliveries wait in order."
    assert take(hub, clock, settings) == []


def test_two_401_and_a_success_hold_nothing(hub: Database, clock: Clock, settings: Settings) -> None:
    put(hub, clock, *[delivery(f"l{i}") for i in range(6)])
    for outcome in (UNAUTHORIZED, UNAUTHORIZED, DONE, UNAUTHORIZED, UNAUTHORIZED):
        leased = take(hub, clock, settings, limit=1)[0]
        settle(hub, leased, outcome, now=clock(), settings=settings)
        clock.advance(seconds=2)

    assert held(hub) == {}


def test_5xx_and_silence_hold_nothing_and_excuse_nothing(hub: Database, clock: Clock, settings: Settings) -> None:
    put(hub, clock, *[delivery(f"l{i}") for i in range(9)])
    for outcome in (BROKEN, BROKEN, BROKEN, BROKEN, UNAUTHORIZED, BROKEN, UNAUTHORIZED, BROKEN, UNAUTHORIZED):
        leased = take(hub, clock, settings, limit=1)[0]
        settle(hub, leased, outcome, now=clock(), settings=settings)

    assert held(hub) == {"app_a": "unauthorized"}


def test_a_held_queue_holds_up_neither_another_channel_nor_another_application(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    put(hub, clock, delivery())
    refuse_until_held(hub, clock, settings)

    logout, other = put(
        hub,
        clock,
        delivery("p1", channel="backchannel_logout", operation="logout"),
        delivery("b1", application_id="app_b"),
    )

    assert {one.id for one in take(hub, clock, settings)} == {logout, other}


def test_a_held_queue_is_probed_ever_less_often_and_never_dies(hub: Database, clock: Clock, settings: Settings) -> None:
    """Hours of 401: attempts do not add up to a dead letter, the first in line stays the first."""
    few = settings.model_copy(update={"delivery_max_attempts": 4})
    first, *_ = put(hub, clock, delivery("a"), delivery("b"), delivery("a"))
    refuse_until_held(hub, clock, few)
    gaps: list[timedelta] = []
    last = clock()
    while len(gaps) < 7:
        clock.advance(seconds=15)
        probes = take(hub, clock, few)
        assert len(probes) <= 1
        if probes:
            gaps.append(clock() - last)
            last = clock()
            settle(hub, probes[0], UNAUTHORIZED, now=clock(), settings=few)

    assert gaps == sorted(gaps)
    assert gaps[0] >= timedelta(seconds=25)
    assert timedelta(minutes=15) <= gaps[-1] <= timedelta(minutes=17)
    assert row(hub, first).state == "pending"


def test_a_probe_that_is_accepted_opens_the_queue_in_order(hub: Database, clock: Clock, settings: Settings) -> None:
    lane = put(hub, clock, delivery("a"), delivery("a"))
    refuse_until_held(hub, clock, settings)
    clock.advance(minutes=1)
    (probe,) = take(hub, clock, settings)
    assert take(hub, clock, settings) == [], "one probe at a time"

    settle(hub, probe, DONE, now=clock(), settings=settings)

    assert held(hub) == {}
    assert [one.id for one in take(hub, clock, settings)] == [lane[1]]


def test_of_two_workers_one_probes(hub: Database, clock: Clock, settings: Settings) -> None:
    put(hub, clock, delivery("a"))
    refuse_until_held(hub, clock, settings)
    put(hub, clock, *[delivery(f"x{i}") for i in range(4)])
    clock.advance(minutes=1)

    taken = [lease(hub, worker=f"w{i}", now=clock(), limit=5, settings=settings) for i in range(2)]

    assert sorted(map(len, taken)) == [0, 1]


def test_a_pause_lasts_until_somebody_resumes(hub: Database, clock: Clock, settings: Settings) -> None:
    (planned,) = put(hub, clock, delivery())
    with hub.transaction() as session:
        pause(session, "app_a", now=clock(), actor=COMMAND_LINE, note="migration tonight")
        pause(session, "app_a", now=clock(), actor=COMMAND_LINE, note="migration tomorrow")
    clock.advance(days=1)
    assert take(hub, clock, settings) == []
    assert held(hub) == {"app_a": "paused"}

    with hub.transaction() as session:
        resume(session, "app_a", now=clock(), actor=COMMAND_LINE)
        with pytest.raises(NotFound):
            resume(session, "app_a", now=clock(), actor=COMMAND_LINE)
    assert [one.id for one in take(hub, clock, settings)] == [planned]


def test_nothing_is_sent_in_recovery_mode(hub: Database, clock: Clock, settings: Settings) -> None:
    from idhub.directory.tables import Installation

    put(hub, clock, delivery())
    with hub.transaction() as session:
        session.add(
            Installation(id=1, epoch=2, created_at=clock(), rules_version=1, recovery_reason="behind its witness")
        )
    assert take(hub, clock, settings) == []
