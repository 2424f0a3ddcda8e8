"""Whatever applications answer, whichever worker dies: nothing ends below its grade, no lane changes its order."""

from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select

from idhub.db import Database
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome
from idhub.delivery.queue import expire_leases, lease, settle
from idhub.delivery.settling import FIRST_DELAY, LONGEST_DELAY, decide, delay_before
from idhub.delivery.tables import Delivery, DeliveryAttempt
from idhub.settings import Settings
from tests.delivery.rows import delivery, put
from tests.support.clock import Clock

_examples = count()

grades = st.sampled_from(list(Grade))
outcomes = st.builds(
    Outcome,
    kind=st.sampled_from(["done", "retry", "review", "dead"]),
    grade=grades,
    status_code=st.sampled_from([None, 200, 404, 409, 429, 500, 503]),
    retry_after=st.sampled_from([None, timedelta(0), timedelta(minutes=3)]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("plan"), st.integers(0, 2), st.sampled_from(["provision", "deprovision"]), grades),
        st.tuples(st.just("work"), outcomes),
        st.tuples(st.just("crash"), st.booleans()),
    ),
    min_size=4,
    max_size=14,
)


def lane_rows(hub: Database, lanes: list[str]) -> list[Any]:
    with hub.read() as session:
        statement = select(*Delivery.__table__.columns).where(Delivery.lane.in_(lanes))
        return list(session.execute(statement.order_by(Delivery.lane, Delivery.seq)))


def check(hub: Database, lanes: list[str]) -> None:
    rows = lane_rows(hub, lanes)
    for row in rows:
        assert row.state != "done" or row.grade >= row.required_grade
        assert row.state != "superseded" or row.operation == "provision"
        assert row.lease_token == row.attempts
    for lane in lanes:
        of_lane = [row for row in rows if row.lane == lane]
        assert sum(row.state == "leased" for row in of_lane) <= 1
        unfinished = [row.seq for row in of_lane if row.state in {"pending", "leased"}]
        over = [row.seq for row in of_lane if row.state in {"done", "review", "dead"}]
        assert not unfinished or not over or max(over) < min(unfinished), "one overtook another"
        assert all(row.attempts == 0 for row in of_lane if unfinished and row.seq > min(unfinished))


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
@hypothesis_settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps)
def test_lanes_keep_their_order_and_deliveries_their_grade(
    hub: Database, clock: Clock, settings: Settings, steps: list[Any]
) -> None:
    few = settings.model_copy(update={"delivery_max_attempts": 3})
    lanes = [f"{next(_examples)}_{i}" for i in range(3)]
    stale: list[LeasedDelivery] = []
    for kind, *what in steps:
        if kind == "plan":
            index, operation, grade = what
            put(hub, clock, delivery(lanes[index], operation=operation, required_grade=grade))
        else:
            clock.advance(minutes=20)
            leased = lease(hub, worker="w", now=clock(), limit=10, settings=few)
            for late in stale:
                assert not settle(
                    hub, late, Outcome(kind="done", grade=Grade.E3, status_code=200), now=clock(), settings=few
                )
            if kind == "work":
                for one in leased:
                    assert settle(hub, one, what[0], now=clock(), settings=few)
            else:
                # The worker dies; what it held is given back, and it may come to again.
                stale += leased
                clock.advance(few.delivery_lease)
                expire_leases(hub, now=clock(), settings=few)
        check(hub, lanes)
    # Heal: everything ends, proven.
    for _ in range(60):
        clock.advance(minutes=20)
        for one in lease(hub, worker="w", now=clock(), limit=50, settings=few):
            settle(hub, one, Outcome(kind="done", grade=Grade.E3, status_code=200), now=clock(), settings=few)
        check(hub, lanes)
        if not [row for row in lane_rows(hub, lanes) if row.state in {"pending", "leased"}]:
            break
    assert {row.state for row in lane_rows(hub, lanes)} <= {"done", "review", "dead", "superseded"}
    with hub.read() as session:
        tries = session.execute(
            select(DeliveryAttempt.delivery_id, DeliveryAttempt.number)
            .join(Delivery, Delivery.id == DeliveryAttempt.delivery_id)
            .where(Delivery.lane.in_(lanes))
        ).all()
    assert len(tries) == sum(row.attempts for row in lane_rows(hub, lanes)), "every attempt is on record"


def a_lease(required: Grade, attempt: int = 1) -> LeasedDelivery:
    return LeasedDelivery(
        id="dlv_x",
        application_id="app_a",
        channel="scim",
        lane="l",
        operation="deprovision",
        payload={},
        attempt=attempt,
        principal_id=None,
        account_id=None,
        participant_id=None,
        case_id=None,
        required_grade=required,
        deadline_at=None,
        quiet_after=None,
    )


@given(required=grades, best=grades, outcome=outcomes, spent=st.integers(1, 50))
def test_a_decision_never_claims_more_than_was_proven(
    required: Grade, best: Grade, outcome: Outcome, spent: int
) -> None:
    decision = decide(a_lease(required), outcome, best=best, attempts_spent=spent, max_attempts=40)

    assert decision.grade == max(best, outcome.grade)
    assert decision.is_better == (outcome.grade >= best)
    if decision.state == "done":
        assert outcome.kind == "done"
        assert decision.grade >= required
    if decision.state == "pending":
        assert spent < 40
        assert decision.delay > timedelta(0)


@given(spent=st.integers(1, 500))
def test_a_401_never_makes_a_dead_letter(spent: int) -> None:
    for kind in ("retry", "dead"):
        refused = Outcome(kind=kind, status_code=401)
        decision = decide(a_lease(Grade.E1), refused, best=Grade.E0, attempts_spent=spent, max_attempts=40)
        assert decision.state == "pending"


@given(attempt=st.integers(2, 100), name=st.text(min_size=1, max_size=20))
def test_back_off_is_bounded_and_the_same_for_the_same_delivery(attempt: int, name: str) -> None:
    delay = delay_before(name, attempt)

    assert timedelta(0) < delay <= LONGEST_DELAY
    assert delay == delay_before(name, attempt)
    assert attempt > 2 or delay <= FIRST_DELAY


@given(asked=st.integers(0, 3600), attempt=st.integers(2, 50), name=st.text(min_size=1, max_size=20))
def test_what_an_application_asks_to_wait_is_waited_in_full(asked: int, attempt: int, name: str) -> None:
    told = timedelta(seconds=asked)

    assert told < delay_before(name, attempt, told) <= told * 1.25 + timedelta(seconds=1)


def test_deliveries_that_fail_together_do_not_come_back_together() -> None:
    """D12: no thundering herd."""
    delays = sorted(delay_before(f"dlv_{i}", 6) for i in range(1000))
    told = {delay_before(f"dlv_{i}", 2, timedelta(minutes=2)) for i in range(1000)}

    assert delays[100] < timedelta(seconds=2.5)
    assert delays[900] > timedelta(seconds=13)
    assert len(told) > 900
