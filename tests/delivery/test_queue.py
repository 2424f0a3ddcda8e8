"""The queue on both databases: lanes, leases, fencing, back-off, grades."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from idhub.changes import COMMAND_LINE
from idhub.db import Database
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome
from idhub.delivery.leases import CLOCKS_DIFFER
from idhub.delivery.leasing import lease_asked
from idhub.delivery.queue import expire_leases, lease, pause, plan, send_again, send_dead_again, settle, settle_all
from idhub.delivery.settling import FARTHEST_ATTEMPT, call_back
from idhub.delivery.tables import Delivery, DeliveryHold
from idhub.delivery.wake import Asked
from idhub.directory.tables import Installation
from idhub.errors import Conflict, NotFound
from idhub.settings import Settings
from tests.delivery.conftest import add_applications
from tests.delivery.rows import BROKEN, DONE, SILENT, attempts, delivery, put, recorded, row
from tests.support.clock import Clock


def take(
    database: Database, clock: Clock, settings: Settings, *, limit: int = 100, worker: str = "w1"
) -> list[LeasedDelivery]:
    return lease(database, worker=worker, now=clock(), limit=limit, settings=settings)


def take_asked(database: Database, clock: Clock, settings: Settings, wanted: list[str]) -> list[LeasedDelivery]:
    rows = [row(database, one) for one in wanted]
    asked = [Asked(one.id, one.application_id, one.channel) for one in rows]
    return lease_asked(database, asked, worker="w1", now=clock(), settings=settings)


def ids(leased: list[LeasedDelivery]) -> list[str]:
    return [one.id for one in leased]


def test_a_planned_delivery_is_leased_sent_and_done_with_an_event_each(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    planned = delivery(principal_id="per_1", account_id="acc_1", payload={"userName": "李"}, required_grade=Grade.E1)
    (planned_id,) = put(hub, clock, planned)

    (leased,) = take(hub, clock, settings)
    assert (leased.id, leased.attempt, leased.payload, leased.lane) == (planned_id, 1, {"userName": "李"}, "acc_1")
    assert (leased.operation, leased.required_grade, leased.quiet_after) == ("deprovision", Grade.E1, None)
    (attempt,) = attempts(hub, planned_id)
    assert (attempt.deadline_at, attempt.ended_at) == (clock() + settings.delivery_timeout, None)
    assert take(hub, clock, settings) == []

    clock.advance(seconds=1)
    assert settle(hub, leased, DONE, now=clock(), settings=settings)

    done = row(hub, planned_id)
    assert (done.state, done.grade, done.evidence, done.last_status) == ("done", 1, {"status": 200}, 200)
    assert (done.first_sent_at, done.answered_at, done.finished_at) == (attempt.started_at, clock(), clock())
    assert (done.leased_by, done.leased_until) == (None, None)
    (attempt,) = attempts(hub, planned_id)
    assert (attempt.outcome, attempt.grade, attempt.ended_at, attempt.status_code) == ("done", 1, clock(), 200)
    assert recorded(hub, planned_id) == ["delivery.planned", "delivery.sent", "delivery.done"]


def test_a_plan_that_rolls_back_leaves_nothing(hub: Database, clock: Clock, settings: Settings) -> None:
    with pytest.raises(RuntimeError), hub.transaction() as session:
        plan(session, [delivery()], now=clock())
        raise RuntimeError

    assert take(hub, clock, settings) == []
    with hub.read() as session:
        assert session.execute(text("SELECT count(*) FROM audit_events")).scalar() == 0


def test_only_the_oldest_unfinished_delivery_of_a_lane_is_leased(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    first, second, other = put(hub, clock, delivery(), delivery(), delivery("acc_2"))

    leased = take(hub, clock, settings)
    assert sorted(ids(leased)) == sorted([first, other])
    head = next(one for one in leased if one.id == first)

    settle(hub, head, BROKEN, now=clock(), settings=settings)
    assert take(hub, clock, settings) == [], "the second does not overtake a first that waits for its retry"
    clock.advance(minutes=1)
    (again,) = take(hub, clock, settings)
    assert (again.id, again.attempt) == (first, 2)
    settle(hub, again, DONE, now=clock(), settings=settings)
    assert ids(take(hub, clock, settings)) == [second]


def test_a_dead_delivery_lets_its_lane_go_on(hub: Database, clock: Clock, settings: Settings) -> None:
    first, second = put(hub, clock, delivery(), delivery())
    (leased,) = take(hub, clock, settings)

    settle(
        hub,
        leased,
        Outcome(kind="dead", status_code=409, error="owned by somebody else"),
        now=clock(),
        settings=settings,
    )

    assert (row(hub, first).state, row(hub, first).last_error) == ("dead", "owned by somebody else")
    assert recorded(hub, first)[-1] == "delivery.dead"
    assert ids(take(hub, clock, settings)) == [second]


def test_seq_goes_on_behind_finished_deliveries(hub: Database, clock: Clock, settings: Settings) -> None:
    (first,) = put(hub, clock, delivery())
    settle(hub, take(hub, clock, settings)[0], DONE, now=clock(), settings=settings)

    second, third = put(hub, clock, delivery(), delivery())

    assert [row(hub, one).seq for one in (first, second, third)] == [1, 2, 3]


def test_two_workers_that_want_the_same_deliveries_share_them(hub: Database, clock: Clock, settings: Settings) -> None:
    """O12."""
    planned = put(hub, clock, *[delivery(f"acc_{i}") for i in range(10)])

    one = take(hub, clock, settings, limit=6, worker="w1")
    two = take(hub, clock, settings, limit=6, worker="w2")

    assert sorted(ids(one) + ids(two)) == sorted(planned)


def test_a_worker_stalled_past_its_lease_changes_nothing_when_it_comes_back(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    """D11, O12: its late write is refused, the other worker's answer stands."""
    (planned_id,) = put(hub, clock, delivery())
    (stalled,) = take(hub, clock, settings, worker="w1")
    clock.advance(settings.delivery_lease)

    assert take(hub, clock, settings, worker="w2") == [], "until it is given back, nobody takes it"
    assert expire_leases(hub, now=clock(), settings=settings) == 1
    late_before_takeover = settle(hub, stalled, DONE, now=clock(), settings=settings)
    clock.advance(seconds=2)
    (taken,) = take(hub, clock, settings, worker="w2")
    assert (taken.id, taken.attempt) == (planned_id, 2)

    late = settle(hub, stalled, Outcome(kind="dead", error="late"), now=clock(), settings=settings)

    assert (late_before_takeover, late) == (False, False)
    assert row(hub, planned_id).state == "leased"
    assert settle(hub, taken, DONE, now=clock(), settings=settings)
    assert not settle(hub, stalled, Outcome(kind="dead", error="late"), now=clock(), settings=settings)
    assert not settle(hub, taken, BROKEN, now=clock(), settings=settings), "an answer is recorded once"
    assert row(hub, planned_id).state == "done"
    assert [a.outcome for a in attempts(hub, planned_id)] == ["lost", "done"]


def test_a_crash_between_send_and_settle_sends_again_with_the_same_id(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    (planned_id,) = put(hub, clock, delivery())
    (first,) = take(hub, clock, settings)
    # The process dies here: the application has acted, nothing was recorded.
    given_up_at = clock.advance(settings.delivery_lease)
    expire_leases(hub, now=clock(), settings=settings)
    clock.advance(seconds=2)

    (second,) = take(hub, clock, settings)

    assert second.id == first.id == planned_id
    lost = attempts(hub, planned_id)[0]
    assert (lost.outcome, lost.ended_at) == ("lost", None)
    assert second.quiet_after == given_up_at + settings.delivery_timeout, "for as long as one that has just begun"


def test_what_a_worker_sends_whose_clock_is_behind_counts_as_running(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    """D19, and the invariant of receipts: its lease looks over at once to the others, and its deadline as well.

    Were that believed, they would read back what its write is still to change, and a receipt would say it was proven.
    """
    (planned_id,) = put(hub, clock, delivery())
    behind = clock.advance(CLOCKS_DIFFER) - CLOCKS_DIFFER
    (slow,) = lease(hub, worker="behind", now=behind, limit=1, settings=settings)
    assert expire_leases(hub, now=clock(), settings=settings) == 1
    began = clock()
    clock.advance(seconds=2)

    (second,) = take(hub, clock, settings)

    assert second.id == slow.id == planned_id
    assert second.quiet_after == began + settings.delivery_timeout
    assert not settle(hub, slow, DONE, now=behind, settings=settings)


def test_a_lease_that_still_runs_is_not_expired(hub: Database, clock: Clock, settings: Settings) -> None:
    put(hub, clock, delivery())
    take(hub, clock, settings)
    clock.advance(settings.delivery_lease - timedelta(microseconds=1))

    assert expire_leases(hub, now=clock(), settings=settings) == 0


def test_quiet_after_covers_every_earlier_attempt_of_the_lane(hub: Database, clock: Clock, settings: Settings) -> None:
    first, second = put(hub, clock, delivery(), delivery())
    (leased,) = take(hub, clock, settings)
    deadline = clock() + settings.delivery_timeout
    clock.advance(seconds=3)
    settle(hub, leased, SILENT, now=clock(), settings=settings)
    clock.advance(minutes=1)
    (again,) = take(hub, clock, settings)
    assert again.quiet_after == deadline, "without an answer the attempt runs until its deadline"
    answered_at = clock.advance(seconds=1)
    settle(hub, again, DONE, now=answered_at, settings=settings)

    (behind,) = take(hub, clock, settings)
    assert (behind.id, behind.quiet_after) == (second, answered_at)
    settle(hub, behind, DONE, now=clock.advance(seconds=1), settings=settings)
    put(hub, clock, delivery())
    (later,) = take(hub, clock, settings)
    assert later.quiet_after == clock()
    assert first != later.id


def test_a_delivery_is_done_only_at_its_required_grade_and_keeps_its_best(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    (planned_id,) = put(hub, clock, delivery(required_grade=Grade.E2))
    (leased,) = take(hub, clock, settings)
    settle(hub, leased, DONE, now=clock(), settings=settings)
    assert (row(hub, planned_id).state, row(hub, planned_id).grade) == ("pending", 1)

    clock.advance(minutes=1)
    (leased,) = take(hub, clock, settings)
    settle(hub, leased, BROKEN, now=clock(), settings=settings)
    waiting = row(hub, planned_id)
    assert (waiting.state, waiting.grade, waiting.evidence) == ("pending", 1, {"status": 200})

    clock.advance(minutes=1)
    (leased,) = take(hub, clock, settings)
    read_back = Outcome(kind="done", grade=Grade.E2, status_code=200, evidence={"read_back": "inactive"})
    settle(hub, leased, read_back, now=clock(), settings=settings)
    assert (row(hub, planned_id).state, row(hub, planned_id).evidence) == ("done", {"read_back": "inactive"})
    assert recorded(hub, planned_id).count("delivery.retried") == 2


def test_retry_after_is_honoured(hub: Database, clock: Clock, settings: Settings) -> None:
    """D12."""
    (planned_id,) = put(hub, clock, delivery())
    (leased,) = take(hub, clock, settings)
    told = Outcome(kind="retry", status_code=429, retry_after=timedelta(minutes=2))
    settle(hub, leased, told, now=clock(), settings=settings)

    clock.advance(seconds=119)
    assert take(hub, clock, settings) == []
    clock.advance(seconds=32)
    assert ids(take(hub, clock, settings)) == [planned_id]


def test_a_delivery_is_dead_after_its_last_attempt_and_can_be_put_back(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    few = settings.model_copy(update={"delivery_max_attempts": 2})
    (planned_id,) = put(hub, clock, delivery())

    def fail_twice() -> None:
        for expected in ("pending", "dead"):
            clock.advance(hours=1)
            (leased,) = take(hub, clock, few)
            settle(hub, leased, BROKEN, now=clock(), settings=few)
            assert row(hub, planned_id).state == expected

    fail_twice()
    assert row(hub, planned_id).finished_at == clock()
    with hub.transaction() as session:
        send_again(session, planned_id, now=clock(), actor=COMMAND_LINE)
    assert (row(hub, planned_id).state, row(hub, planned_id).finished_at) == ("pending", None)
    fail_twice()
    assert [a.number for a in attempts(hub, planned_id)] == [1, 2, 3, 4]
    assert recorded(hub, planned_id).count("delivery.requeued") == 1


def test_only_a_dead_delivery_that_nothing_has_overtaken_is_put_back(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    first, second = put(hub, clock, delivery(), delivery("acc_2"))
    with hub.transaction() as session, pytest.raises(NotFound):
        send_again(session, "dlv_unknown", now=clock(), actor=COMMAND_LINE)
    with hub.transaction() as session, pytest.raises(Conflict) as refused:
        send_again(session, first, now=clock(), actor=COMMAND_LINE)
    assert refused.value.rule == "delivery.not_dead"

    dead = Outcome(kind="dead", status_code=409)
    settle_all(hub, [(one, dead) for one in take(hub, clock, settings)], now=clock(), settings=settings)
    put(hub, clock, delivery(operation="provision"))
    with hub.transaction() as session, pytest.raises(Conflict) as refused:
        send_again(session, first, now=clock(), actor=COMMAND_LINE)
    assert refused.value.rule == "delivery.overtaken"
    with hub.transaction() as session:
        send_again(session, second, now=clock(), actor=COMMAND_LINE)


def test_what_waits_for_a_decision_is_not_dead_and_gives_way_to_what_is_planned_then(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    waits = Outcome(kind="review", status_code=200, error="whose is it?")
    (first,) = put(hub, clock, delivery(operation="provision"))
    (leased,) = take(hub, clock, settings)
    settle(hub, leased, waits, now=clock(), settings=settings)
    assert (row(hub, first).state, row(hub, first).finished_at) == ("review", clock())
    assert recorded(hub, first)[-1] == "delivery.awaits_review"
    assert [one.outcome for one in attempts(hub, first)] == ["review"]
    clock.advance(days=1)
    assert take(hub, clock, settings) == []
    with hub.transaction() as session:
        assert send_dead_again(session, "app_a", now=clock(), actor=COMMAND_LINE) == (0, 0)

    put(hub, clock, delivery(operation="provision"))
    assert row(hub, first).state == "superseded"


def test_what_waits_for_a_decision_can_be_sent_again_with_all_its_attempts(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    few = settings.model_copy(update={"delivery_max_attempts": 2})
    (only,) = put(hub, clock, delivery(operation="provision"))
    for outcome, expected in ((BROKEN, "pending"), (Outcome(kind="review", status_code=200), "review")):
        clock.advance(hours=1)
        (leased,) = take(hub, clock, few)
        settle(hub, leased, outcome, now=clock(), settings=few)
        assert row(hub, only).state == expected
    with hub.transaction() as session:
        send_again(session, only, now=clock(), actor=COMMAND_LINE)
    (leased,) = take(hub, clock, few)
    settle(hub, leased, BROKEN, now=clock(), settings=few)
    assert row(hub, only).state == "pending"


def test_a_silent_application_never_holds_more_than_its_bulkhead(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    small = settings.model_copy(update={"delivery_per_application": 3})
    put(hub, clock, *[delivery(f"a_{i}") for i in range(50)])
    put(hub, clock, *[delivery(f"b_{i}", application_id="app_b") for i in range(2)])

    leased = take(hub, clock, small, limit=10)

    assert sorted(one.application_id for one in leased) == ["app_a"] * 3 + ["app_b"] * 2
    assert take(hub, clock, small, limit=10) == []
    put(hub, clock, *[delivery(f"b2_{i}", application_id="app_b") for i in range(5)])
    assert {one.application_id for one in take(hub, clock, small, limit=10)} == {"app_b"}


def test_what_is_asked_for_is_taken_without_a_look(hub: Database, clock: Clock, settings: Settings) -> None:
    others = put(hub, clock, delivery("other"))
    mine = put(hub, clock, delivery("mine"), delivery("b", application_id="app_b"))
    leased = take_asked(hub, clock, settings, mine)
    assert sorted(ids(leased)) == sorted(mine)
    assert [recorded(hub, one)[-1] for one in mine] == ["delivery.sent"] * 2
    assert [len(attempts(hub, one)) for one in mine] == [1, 1]
    assert take_asked(hub, clock, settings, mine) == []
    assert ids(take(hub, clock, settings)) == others


def test_what_is_asked_for_waits_for_its_lane(hub: Database, clock: Clock, settings: Settings) -> None:
    (before,) = put(hub, clock, delivery("lane", operation="logout"))
    (mine,) = put(hub, clock, delivery("lane"))
    assert take_asked(hub, clock, settings, [mine]) == []
    assert ids(take(hub, clock, settings)) == [before]


def test_what_is_asked_for_stays_within_the_bulkhead(hub: Database, clock: Clock, settings: Settings) -> None:
    small = settings.model_copy(update={"delivery_per_application": 3})
    put(hub, clock, delivery("earlier"))
    assert len(take(hub, clock, small)) == 1
    mine = put(hub, clock, *(delivery(f"a_{i}") for i in range(5)))
    assert len(take_asked(hub, clock, small, mine)) == 2
    assert take(hub, clock, small) == []


@pytest.mark.parametrize("channel", ["scim", "*"])
def test_what_is_asked_for_is_held_with_its_queue(
    hub: Database, clock: Clock, settings: Settings, channel: str
) -> None:
    with hub.transaction() as session:
        pause(session, "app_a", now=clock(), actor=COMMAND_LINE)
        session.execute(update(DeliveryHold).values(channel=channel))
    held, free = put(hub, clock, delivery(), delivery("b", application_id="app_b"))
    assert ids(take_asked(hub, clock, settings, [held, free])) == [free]


def test_nothing_that_is_asked_for_leaves_a_hub_in_recovery(hub: Database, clock: Clock, settings: Settings) -> None:
    (mine,) = put(hub, clock, delivery())
    with hub.transaction() as session:
        session.execute(insert(Installation).values(id=1, created_at=clock(), recovery_reason="restored"))
    assert take_asked(hub, clock, settings, [mine]) == []


def test_what_is_new_is_left_to_whoever_was_asked_for_it(hub: Database, clock: Clock, settings: Settings) -> None:
    moment = timedelta(seconds=0.25)
    for operation in ("deprovision", "provision"):
        (mine,) = put(hub, clock, delivery(operation, operation=operation))

        def look() -> list[str]:
            return ids(lease(hub, worker="w2", now=clock(), limit=9, settings=settings, due_for=moment))

        assert look() == []
        clock.advance(seconds=0.25)
        assert look() == [mine]


def test_applications_take_turns(hub: Database, clock: Clock, settings: Settings) -> None:
    names = [f"app_{i:02}" for i in range(8)]
    add_applications(hub, names, clock)
    put(hub, clock, *[delivery(f"a_{i}", application_id=names[0]) for i in range(40)])
    clock.advance(seconds=1)
    put(hub, clock, *[delivery(f"{name}_x", application_id=name) for name in names[1:]])

    leased = take(hub, clock, settings, limit=8)

    assert sorted(one.application_id for one in leased) == names


@pytest.mark.parametrize("operation", ["deprovision", "logout"])
@pytest.mark.parametrize("others", [["app_a"], ["app_a", "app_b"]])
def test_who_leaves_does_not_wait_behind_a_first_load(
    hub: Database, clock: Clock, settings: Settings, operation: str, others: list[str]
) -> None:
    """The end of an access is sent before whatever else its application has due, however long that waits."""
    for application in others:
        put(hub, clock, *(delivery(f"{application}_{i}", application_id=application, operation="provision")
                          for i in range(40)))  # fmt: skip
    clock.advance(seconds=60)
    (ending,) = put(hub, clock, delivery("leaver", operation=operation))

    leased = lease(hub, worker="w1", now=clock(), limit=4, settings=settings)

    assert ending in {one.id for one in leased}
    assert len(leased) == 4, "what is left of the places goes to the others"


def test_an_ending_that_backs_off_holds_up_nobody(hub: Database, clock: Clock, settings: Settings) -> None:
    (ending,) = put(hub, clock, delivery("leaver"))
    (first,) = lease(hub, worker="w1", now=clock(), limit=1, settings=settings)
    settle(hub, first, BROKEN, now=clock(), settings=settings)
    (joiner,) = put(hub, clock, delivery("joiner", operation="provision"))

    assert first.id == ending
    assert [one.id for one in lease(hub, worker="w1", now=clock(), limit=1, settings=settings)] == [joiner]


def test_thousands_are_planned_and_leased_at_once(hub: Database, clock: Clock, settings: Settings) -> None:
    planned = put(hub, clock, *[delivery(f"lane_{i}", payload={"i": i}) for i in range(6000)])

    assert len(set(planned)) == 6000
    wide = settings.model_copy(update={"delivery_per_application": 1000})
    leased = take(hub, clock, wide, limit=1000)
    assert len(leased) == 1000
    assert len(settle_all(hub, [(one, DONE) for one in leased], now=clock(), settings=wide)) == 1000


def test_errors_are_stored_on_one_line_and_bounded(hub: Database, clock: Clock, settings: Settings) -> None:
    (planned_id,) = put(hub, clock, delivery())
    (leased,) = take(hub, clock, settings)

    settle(hub, leased, Outcome(kind="retry", error="a\r\nb\x1b[31m" + "x" * 9000), now=clock(), settings=settings)

    stored: Any = row(hub, planned_id).last_error
    assert stored.startswith("a\\u{000d}\\u{000a}b\\u{001b}[31m")
    assert len(stored) < 700


def test_settling_in_parallel_from_many_threads_loses_nothing(hub: Database, clock: Clock, settings: Settings) -> None:
    from concurrent.futures import ThreadPoolExecutor

    planned = put(hub, clock, *[delivery(f"lane_{i}", application_id=f"app_{'ab'[i % 2]}") for i in range(60)])

    def work(name: str) -> list[str]:
        done: list[str] = []
        while leased := lease(hub, worker=name, now=clock(), limit=5, settings=settings):
            done += settle_all(hub, [(one, DONE) for one in leased], now=clock(), settings=settings)
        return done

    with ThreadPoolExecutor(4) as threads:
        done = [one for part in threads.map(work, ["w1", "w2", "w3", "w4"]) for one in part]

    with hub.read() as session:
        left = session.execute(text("SELECT count(*) FROM deliveries WHERE state <> 'done'")).scalar()
    # Workers that met each other's locks may have stopped early; what was done was done once.
    assert len(done) == len(set(done)) == len(planned) - int(left or 0)
    assert all(len(attempts(hub, one)) == 1 for one in done)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_leasing_uses_its_indexes(hub: Database, clock: Clock) -> None:
    """The cost of a lease must not grow with what is finished, nor with what others have waiting."""
    from idhub.delivery import leasing

    due = leasing._due(clock(), is_ending=True).where(Delivery.application_id == "app_a")
    each = leasing._HEADS[False, True].params(applications='["app_a"]', now=clock(), each=2)
    others = leasing._due(clock(), is_ending=False).where(Delivery.application_id == "app_a")
    waiting = leasing._applications_with_pending()
    with hub.read() as session:
        for statement, is_ranked in ((due, True), (each, True), (others, True), (waiting, False)):
            compiled = statement.compile(session.connection(), compile_kwargs={"literal_binds": True})
            plan_lines = [
                r[3] for r in session.execute(text("EXPLAIN QUERY PLAN " + str(compiled).replace(":", "\\:")))
            ]
            assert not [line for line in plan_lines if line.startswith("SCAN") and "deliveries" in line], plan_lines
            walked = any("ix_deliveries_state" in line and "<expr>=? AND next_" in line for line in plan_lines)
            assert walked == is_ranked, plan_lines
        assert session.execute(select(1)).scalar() == 1


def test_what_was_planned_and_leased_on_a_clock_that_was_wrong_goes_on(
    hub: Database, clock: Clock, settings: Settings
) -> None:
    """D19: the clock was a day ahead. Of two leaves one was sent by a worker that is gone, the other waits."""
    clock.correct(timedelta(days=1))
    sent, waiting = put(hub, clock, delivery("acc_1"), delivery("acc_2"))
    assert ids(take(hub, clock, settings, limit=1)) == [sent]
    clock.correct(-timedelta(days=1))
    assert take(hub, clock, settings) == []

    assert expire_leases(hub, now=clock(), settings=settings) == 1
    assert call_back(hub, now=clock()) == 1
    assert call_back(hub, now=clock()) == 0
    clock.advance(seconds=2)
    again = {one.id: one for one in take(hub, clock, settings)}
    assert again.keys() == {sent, waiting}
    quiet_after = again[sent].quiet_after
    assert quiet_after is not None
    assert quiet_after <= clock() + settings.delivery_timeout, "what has begun by now is over by then"


def test_what_waits_because_it_was_asked_to_is_not_called_back(hub: Database, clock: Clock, settings: Settings) -> None:
    put(hub, clock, delivery())
    (leased,) = take(hub, clock, settings)
    asked = Outcome(kind="retry", status_code=503, retry_after=timedelta(hours=1))
    settle(hub, leased, asked, now=clock(), settings=settings)
    assert call_back(hub, now=clock()) == 0
    assert row(hub, leased.id).next_attempt_at <= clock() + FARTHEST_ATTEMPT


def test_a_probe_of_a_clock_that_was_wrong_is_due(hub: Database, clock: Clock) -> None:
    with hub.transaction() as session:
        pause(session, "app_a", now=clock(), actor=COMMAND_LINE)
        session.execute(update(DeliveryHold).values(channel="scim", next_probe_at=clock() + timedelta(days=1)))
    call_back(hub, now=clock())
    with hub.read() as session:
        assert session.execute(select(DeliveryHold.next_probe_at)).scalar_one() == clock()
