"""What a later delivery makes moot, and what is sent and proven whatever comes after it."""

from datetime import date, timedelta
from threading import Thread
from typing import Any

import orjson
import pytest
from sqlalchemy import insert, select, text

from audit.tables import audit_events
from idhub.changes import EventType
from idhub.db import Database
from idhub.delivery.channel import Grade, Outcome, PlannedDelivery
from idhub.delivery.queue import expire_leases, lease, plan, settle
from idhub.directory.tables import Principal
from idhub.lifecycle.tables import Case
from idhub.settings import Settings
from tests.delivery.rows import BROKEN, DONE, SILENT, UNAUTHORIZED, attempts, delivery, put, recorded, row
from tests.support.clock import Clock


def provision(**values: Any) -> PlannedDelivery:
    return delivery(operation="provision", **values)


def states(hub: Database, *ids: str) -> list[str]:
    return [row(hub, one).state for one in ids]


def add_case(hub: Database, clock: Clock, case_id: str) -> None:
    with hub.transaction() as session:
        if session.execute(select(Principal.id)).first() is None:
            session.execute(
                insert(Principal).values(
                    id="per_1",
                    kind="person",
                    organization_id="org_1",
                    standing="active",
                    access_epoch=1,
                    enrolment_epoch=1,
                    access_starts_at=clock() - timedelta(days=1),
                    created_at=clock(),
                    changed_at=clock(),
                )
            )
        session.execute(
            insert(Case).values(
                id=case_id,
                number=f"R-{date(2026, 11, 1):%Y-%m}-{case_id}",
                kind="joiner",
                principal_id="per_1",
                organization_id="org_1",
                state="running",
                effective_at=clock(),
                opened_at=clock(),
                opened_by="test",
                plan={},
            )
        )


def moot(hub: Database) -> dict[str, tuple[str | None, str | None]]:
    """Superseded deliveries by their events: the case they were of, and what superseded them."""
    with hub.read() as session:
        bodies = session.execute(
            select(audit_events.c.body).where(audit_events.c.type == EventType.DELIVERY_SUPERSEDED)
        ).scalars()
        events = [orjson.loads(body) for body in bodies]
    return {one["delivery_id"]: (one.get("case_id"), one["details"].get("by")) for one in events}


def due(hub: Database) -> list[str]:
    with hub.read() as session:
        return sorted(session.execute(text("SELECT case_id FROM receipts_due")).scalars())


def test_a_deprovision_supersedes_provisions_that_wait(hub: Database, clock: Clock, settings: Settings) -> None:
    first, second = put(hub, clock, provision(case_id="cas_j"), provision(case_id="cas_k"))
    (other,) = put(hub, clock, provision(lane="acc_2"))

    (last,) = put(hub, clock, delivery())

    assert states(hub, first, second, last, other) == ["superseded", "superseded", "pending", "pending"]
    assert row(hub, first).finished_at == clock()
    leased = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    assert {one.id for one in leased} == {last, other}
    with hub.read() as session:
        about = select(audit_events.c.body).where(audit_events.c.delivery_id == last).order_by(audit_events.c.id)
        body = session.execute(about).scalars().first()
    assert body is not None
    assert orjson.loads(body)["details"]["supersedes"] == [first, second]
    assert moot(hub) == {first: ("cas_j", last), second: ("cas_k", last)}


def test_what_is_moot_when_it_is_planned_says_so_too(hub: Database, clock: Clock) -> None:
    first, second = put(hub, clock, provision(), delivery())
    assert states(hub, first, second) == ["superseded", "pending"]
    assert moot(hub) == {first: (None, None)}


def test_a_provision_in_flight_is_not_superseded_while_it_may_succeed(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    (first,) = put(hub, clock, provision())
    (leased,) = lease(hub, worker="w", now=clock(), limit=1, settings=settings)

    (last,) = put(hub, clock, delivery())
    assert states(hub, first, last) == ["leased", "pending"]
    assert lease(hub, worker="w", now=clock(), limit=9, settings=settings) == [], "never two of a lane at once"
    settle(hub, leased, DONE, now=clock(), settings=settings)

    assert states(hub, first, last) == ["done", "pending"]
    assert moot(hub) == {}


@pytest.mark.parametrize(
    "outcome",
    [
        BROKEN,
        SILENT,
        UNAUTHORIZED,
        Outcome(kind="dead", status_code=409, error="409 Conflict"),
        Outcome(kind="review", status_code=200, error="two accounts fit"),
        Outcome(kind="done", grade=Grade.E0, status_code=200),
    ],
    ids=["broken", "silent", "unauthorized", "dead", "review", "not proven"],
)
def test_a_leave_does_not_wait_for_a_provision_that_was_under_way_and_failed(
    hub: Database, clock: Clock, settings: Settings, outcome: Outcome
) -> None:
    """It would be tried again, forty times over hours, and the account of who left would live on for as long."""
    add_case(hub, clock, "cas_joiner")
    (first,) = put(hub, clock, provision(case_id="cas_joiner"))
    (leased,) = lease(hub, worker="w", now=clock(), limit=1, settings=settings)
    deadline = clock() + settings.delivery_timeout
    (last,) = put(hub, clock, delivery())

    assert settle(hub, leased, outcome, now=clock(), settings=settings)

    assert states(hub, first, last) == ["superseded", "pending"]
    assert row(hub, first).finished_at == clock()
    assert row(hub, first).last_error == outcome.error
    assert [attempt.outcome for attempt in attempts(hub, first)] == ["retry"]
    assert moot(hub) == {first: ("cas_joiner", last)}
    assert recorded(hub, first)[-1] == EventType.DELIVERY_SUPERSEDED
    assert due(hub) == ["cas_joiner"], "superseding is told in the receipt"
    (after,) = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    over = clock() if outcome.status_code else deadline
    assert (after.id, after.quiet_after) == (last, over), "what the failed attempt may still do proves nothing"


def test_a_leave_does_not_wait_for_a_provision_whose_worker_died(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    (first,) = put(hub, clock, provision())
    lease(hub, worker="w", now=clock(), limit=1, settings=settings)
    (last,) = put(hub, clock, delivery())
    clock.advance(seconds=settings.delivery_lease.total_seconds() + 1)

    assert expire_leases(hub, now=clock(), settings=settings) == 1

    assert states(hub, first, last) == ["superseded", "pending"]
    assert [attempt.outcome for attempt in attempts(hub, first)] == ["lost"]


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [(None, "cas_m", "superseded"), ("cas_m", "cas_m", "superseded"), ("cas_m", "cas_n", "dead")],
)
def test_a_provision_under_way_fails_into_what_comes_behind_it(
    hub: Database, clock: Clock, settings: Settings, earlier: str | None, later: str, expected: str
) -> None:
    (first,) = put(hub, clock, provision(case_id=earlier))
    (leased,) = lease(hub, worker="w", now=clock(), limit=1, settings=settings)
    put(hub, clock, provision(case_id=later))

    settle(hub, leased, Outcome(kind="dead", status_code=409), now=clock(), settings=settings)

    assert states(hub, first) == [expected]


def test_a_leave_that_commits_while_a_failure_is_recorded_is_seen(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    add_case(hub, clock, "cas_joiner")
    (first,) = put(hub, clock, provision(principal_id="per_1"))
    (leased,) = lease(hub, worker="w", now=clock(), limit=1, settings=settings)
    settling = Thread(target=settle, args=(hub, leased, BROKEN), kwargs={"now": clock(), "settings": settings})

    with hub.transaction() as session:
        session.execute(select(Principal.id).where(Principal.id == "per_1").with_for_update())
        (last,) = plan(session, [delivery(principal_id="per_1")], now=clock())
        settling.start()
        settling.join(0.3)
        assert settling.is_alive(), "it waits for whoever may be planning behind it"
    settling.join(10)

    assert states(hub, first, last) == ["superseded", "pending"]


def test_a_deprovision_under_way_is_tried_again_whatever_comes_behind_it(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    (leave,) = put(hub, clock, delivery())
    (leased,) = lease(hub, worker="w", now=clock(), limit=1, settings=settings)
    put(hub, clock, provision(), delivery())

    settle(hub, leased, BROKEN, now=clock(), settings=settings)

    assert states(hub, leave) == ["pending"]


def test_a_provision_that_failed_is_superseded_and_its_attempts_still_count(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    """It may have had its effect late: a read-back before its deadline would prove nothing."""
    (first,) = put(hub, clock, provision())
    (leased,) = lease(hub, worker="w", now=clock(), limit=1, settings=settings)
    deadline = clock() + settings.delivery_timeout
    settle(hub, leased, Outcome(kind="retry", error="no answer"), now=clock(), settings=settings)

    (last,) = put(hub, clock, delivery())

    assert states(hub, first) == ["superseded"]
    (after,) = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    assert (after.id, after.quiet_after) == (last, deadline)


def test_a_dead_provision_is_moot_after_a_deprovision(hub: Database, clock: Clock, settings: Settings) -> None:
    (first,) = put(hub, clock, provision())
    (leased,) = lease(hub, worker="w", now=clock(), limit=1, settings=settings)
    settle(hub, leased, Outcome(kind="dead", status_code=409), now=clock(), settings=settings)

    put(hub, clock, delivery())

    assert states(hub, first) == ["superseded"]


@pytest.mark.parametrize("case_id", [None, "cas_l"])
def test_a_deprovision_is_never_superseded(
    hub: Database, clock: Clock, settings: Settings, case_id: str | None
) -> None:
    """A rehire the next morning does not take the proof of the leave away."""
    (leave,) = put(hub, clock, delivery(case_id=case_id))

    again, leave_again = put(hub, clock, provision(), delivery())

    assert states(hub, leave, again, leave_again) == ["pending", "superseded", "pending"]
    (leased,) = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    assert leased.id == leave


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        (None, None, "superseded"),
        (None, "cas_m", "superseded"),
        ("cas_m", "cas_m", "superseded"),
        ("cas_m", None, "pending"),
        ("cas_m", "cas_n", "pending"),
    ],
)
def test_a_provision_supersedes_one_that_no_other_case_waits_for(
    hub: Database, clock: Clock, earlier: str | None, later: str | None, expected: str
) -> None:
    (first,) = put(hub, clock, provision(case_id=earlier))
    (second,) = put(hub, clock, provision(case_id=later))
    together = put(hub, clock, provision(case_id=earlier, lane="b"), provision(case_id=later, lane="b"))

    assert states(hub, first, second) == [expected, "pending"]
    assert states(hub, *together) == [expected, "pending"]


def test_a_logout_supersedes_nothing(hub: Database, clock: Clock) -> None:
    first, second = put(hub, clock, provision(case_id="x"), delivery(operation="logout"))

    assert states(hub, first, second) == ["pending", "pending"]


def test_receipts_are_signed_again_when_their_deliveries_change(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    for case_id in ("cas_joiner", "cas_leaver"):
        add_case(hub, clock, case_id)
    put(hub, clock, provision(case_id="cas_joiner"))
    assert due(hub) == []

    put(hub, clock, delivery(case_id="cas_leaver"))
    assert due(hub) == ["cas_joiner"], "superseding is told in the receipt"

    (leased,) = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    settle(hub, leased, BROKEN, now=clock(), settings=settings)
    assert due(hub) == ["cas_joiner"], "a failed attempt changes nothing that a receipt says"
    clock.advance(minutes=1)
    (leased,) = lease(hub, worker="w", now=clock(), limit=9, settings=settings)
    settle(hub, leased, DONE, now=clock(), settings=settings)
    assert due(hub) == ["cas_joiner", "cas_leaver"]
