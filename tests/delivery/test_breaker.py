"""What holds a queue beside a refused credential: TLS, outages of several deliveries, limits of requests."""

from datetime import timedelta

import pytest

from idhub.changes import COMMAND_LINE
from idhub.db import Database
from idhub.delivery.channel import Outcome
from idhub.delivery.queue import (
    expire_leases,
    held_applications,
    holds,
    lease,
    resume,
    send_dead_again,
    settle,
    settle_all,
)
from idhub.settings import Settings
from tests.delivery.rows import DONE, delivery, put, row
from tests.support.clock import Clock

FAILING = Outcome(kind="retry", status_code=503, error="maintenance", failure="failing")
UNREACHABLE = Outcome(kind="retry", error="No connection to crm.example:443.", failure="unreachable")
UNTRUSTED = Outcome(kind="retry", error="The certificate is not accepted (certificate has expired).", failure="tls")
LIMITED = Outcome(
    kind="retry", status_code=429, error="slow down", failure="rate_limit", retry_after=timedelta(seconds=90)
)


def fail(hub: Database, clock: Clock, settings: Settings, outcome: Outcome, times: int) -> None:
    for leased in lease(hub, worker="w", now=clock(), limit=times, settings=settings):
        settle(hub, leased, outcome, now=clock(), settings=settings)


def held(hub: Database) -> dict[str, str]:
    with hub.read() as session:
        return held_applications(session)


@pytest.mark.parametrize(("outcome", "reason"), [(FAILING, "failing"), (UNREACHABLE, "unreachable")])
def test_outage_holds_the_queue_after_five_deliveries_and_says_why(
    hub: Database, clock: Clock, settings: Settings, outcome: Outcome, reason: str
) -> None:
    put(hub, clock, *[delivery(f"l{i}") for i in range(8)])
    fail(hub, clock, settings, outcome, 4)
    assert held(hub) == {}
    fail(hub, clock, settings, outcome, 1)
    assert held(hub) == {"app_a": reason}
    with hub.read() as session:
        (hold,) = holds(session)
    assert str(outcome.error) in str(hold.note)
    assert lease(hub, worker="w", now=clock(), limit=9, settings=settings) == []
    clock.advance(minutes=1)
    (probe,) = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    settle(hub, probe, DONE, now=clock(), settings=settings)
    assert held(hub) == {}
    assert len(lease(hub, worker="w", now=clock(), limit=9, settings=settings)) == 7


def test_many_that_fail_together_are_one_outage(hub: Database, clock: Clock, settings: Settings) -> None:
    """What was under way when the service went says no more of how long it will be away than one of them does."""
    put(hub, clock, *[delivery(f"l{i}") for i in range(45)])
    leased = lease(hub, worker="w", now=clock(), limit=45, settings=settings)
    settle_all(hub, [(one, UNREACHABLE) for one in leased[:30]], now=clock(), settings=settings)
    clock.advance(seconds=10)
    settle_all(hub, [(one, UNREACHABLE) for one in leased[30:]], now=clock(), settings=settings)
    clock.advance(seconds=31)

    (probe,) = lease(hub, worker="w", now=clock(), limit=9, settings=settings)

    settle(hub, probe, DONE, now=clock(), settings=settings)
    assert held(hub) == {}


@pytest.mark.parametrize(("outcome", "is_tried"), [(UNREACHABLE, True), (LIMITED, False)])
def test_who_sends_dead_letters_again_has_the_queue_tried(
    hub: Database, clock: Clock, settings: Settings, outcome: Outcome, is_tried: bool
) -> None:
    """Somebody says that it was mended; what the service itself asked to wait for is waited for."""
    put(hub, clock, *[delivery(f"l{i}") for i in range(8)])
    fail(hub, clock, settings, outcome, 5)
    assert lease(hub, worker="w", now=clock(), limit=9, settings=settings) == []
    with hub.transaction() as session:
        assert send_dead_again(session, "app_a", now=clock(), actor=COMMAND_LINE) == (0, 0)
    assert len(lease(hub, worker="w", now=clock(), limit=9, settings=settings)) == is_tried


def test_one_delivery_that_fails_alone_holds_nothing_and_is_given_up(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    (poison,) = put(hub, clock, delivery("l0"))
    few = settings.model_copy(update={"delivery_max_attempts": 8})
    for _ in range(8):
        clock.advance(minutes=20)
        fail(hub, clock, few, FAILING, 1)
    assert held(hub) == {}
    assert row(hub, poison).state == "dead"


def test_certificate_holds_at_once_and_never_makes_a_dead_letter(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    (one,) = put(hub, clock, delivery("l0"))
    few = settings.model_copy(update={"delivery_max_attempts": 2})
    for _ in range(4):
        fail(hub, clock, few, UNTRUSTED, 1)
        assert held(hub) == {"app_a": "tls"}
        clock.advance(minutes=20)
    assert row(hub, one).state == "pending"


def test_limit_holds_for_as_long_as_the_application_says(hub: Database, clock: Clock, settings: Settings) -> None:
    put(hub, clock, *[delivery(f"l{i}") for i in range(3)], delivery("l9", application_id="app_b"))
    (first,) = [
        one for one in lease(hub, worker="w", now=clock(), limit=1, settings=settings) if one.application_id == "app_a"
    ]
    settle(hub, first, LIMITED, now=clock(), settings=settings)
    assert held(hub) == {"app_a": "rate_limit"}
    others = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    assert {one.application_id for one in others} == {"app_b"}
    clock.advance(seconds=89)
    expire_leases(hub, now=clock(), settings=settings)
    assert [
        o for o in lease(hub, worker="w", now=clock(), limit=9, settings=settings) if o.application_id == "app_a"
    ] == []
    clock.advance(seconds=2)
    (probe,) = [
        o for o in lease(hub, worker="w", now=clock(), limit=9, settings=settings) if o.application_id == "app_a"
    ]
    settle(hub, probe, DONE, now=clock(), settings=settings)
    assert held(hub) == {}


def test_another_kind_of_failure_keeps_the_hold_and_names_itself(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    put(hub, clock, *[delivery(f"l{i}") for i in range(8)])
    fail(hub, clock, settings, FAILING, 5)
    clock.advance(minutes=1)
    fail(hub, clock, settings, UNREACHABLE, 1)
    assert held(hub) == {"app_a": "unreachable"}
    with hub.transaction() as session:
        resume(session, "app_a", now=clock(), actor=COMMAND_LINE)
    assert held(hub) == {}
