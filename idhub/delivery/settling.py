"""Settling: what an attempt achieved becomes the state of its delivery. The rules are in `decide`, which is pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import BindParameter, and_, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from audit.events import clean_text
from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.db import Database, Instant
from idhub.delivery.channel import Failure, Grade, LeasedDelivery, Outcome
from idhub.delivery.holds import Failed, Queue, note_answers, probe_now
from idhub.delivery.leases import CLOCKS_DIFFER
from idhub.delivery.planning import Overtaker, lock_provisions, overtaken
from idhub.delivery.receipt_box import touch_cases
from idhub.delivery.tables import Delivery, DeliveryAttempt, DeliveryHold
from idhub.delivery.wake import announce
from idhub.directory.tables import Principal
from idhub.errors import Conflict, NotFound
from idhub.settings import Settings

FIRST_DELAY = timedelta(seconds=1)
LONGEST_DELAY = timedelta(minutes=15)
FARTHEST_ATTEMPT = timedelta(hours=2)
"""Nothing waits longer for its next attempt: what an application asks for is an hour at most, and a quarter on top."""
_SHORTEST_DELAY = timedelta(milliseconds=50)
_ERROR_LIMIT = 500
_NEVER_FATAL: frozenset[Failure | None] = frozenset({"unauthorized", "tls", "rate_limit"})
_NEEDS_SOMEBODY = ("dead", "review")
"""States that only a person ends: by sending again, or by what they decide."""
_LOST = "The worker stopped before it recorded an answer."


@dataclass(frozen=True, slots=True)
class Decision:
    """What a delivery becomes after an attempt."""

    state: Literal["pending", "done", "review", "dead", "superseded"]
    grade: Grade
    is_better: bool
    """This attempt proved at least as much as any before: its evidence is the delivery's."""
    delay: timedelta
    """Until the next attempt, where there is one."""


def decide(
    leased: LeasedDelivery,
    outcome: Outcome,
    *,
    best: Grade,
    attempts_spent: int,
    max_attempts: int,
    is_moot: bool = False,
) -> Decision:
    """What follows from an attempt's outcome.

    Done only at or above the required grade. Superseded when it is not done and moot. In review when the channel says
    so. Given up when the channel says so or after `max_attempts`; never because a credential or a certificate is
    refused, or a limit of requests is used up: those are the connection's faults, and hold its queue instead.

    Args:
        best: best grade proven by earlier attempts; it is kept.
        attempts_spent: attempts since it was planned, or last put back, this one included.
        is_moot: what was planned behind it while it was under way makes a further attempt moot.
    """
    grade = max(best, outcome.grade)
    is_better = outcome.grade >= best
    if outcome.kind == "done" and grade >= leased.required_grade:
        return Decision("done", grade, is_better, timedelta(0))
    if is_moot:
        return Decision("superseded", grade, is_better, timedelta(0))
    if outcome.kind == "review":
        return Decision("review", grade, is_better, timedelta(0))
    waits = outcome.status_code == 401 or outcome.failure in _NEVER_FATAL
    if not waits and (outcome.kind == "dead" or attempts_spent >= max_attempts):
        return Decision("dead", grade, is_better, timedelta(0))
    return Decision("pending", grade, is_better, delay_before(leased.id, attempts_spent + 1, outcome.retry_after))


def delay_before(delivery_id: str, attempt: int, retry_after: timedelta | None = None) -> timedelta:
    """Wait before `attempt` (2 is the first retry): exponential with full jitter, the same for the same delivery.

    What the application asked for is waited in full; jitter comes on top, so that not all come back at once.
    """
    doublings: int = min(max(attempt - 2, 0), 20)
    ceiling = min(FIRST_DELAY * (1 << doublings), LONGEST_DELAY)
    digest = hashlib.sha256(f"{delivery_id}:{attempt}".encode()).digest()
    share = int.from_bytes(digest[:6], "big") / (1 << 48)
    delay = max(ceiling * share, _SHORTEST_DELAY)
    return delay if retry_after is None else retry_after + min(delay, max(retry_after / 4, _SHORTEST_DELAY))


def settle(database: Database, leased: LeasedDelivery, outcome: Outcome, *, now: datetime, settings: Settings) -> bool:
    """Record one outcome; see `settle_all`. Returns False when the lease was lost and nothing was changed."""
    return leased.id in settle_all(database, [(leased, outcome)], now=now, settings=settings)


def settle_all(
    database: Database, results: Sequence[tuple[LeasedDelivery, Outcome]], *, now: datetime, settings: Settings
) -> set[str]:
    """Record what attempts achieved, in one transaction; returns the ids whose lease still held.

    An outcome whose lease was taken over, or expired and was given back, changes nothing.
    """
    return database.run(lambda session: _settle(session, results, now=now, settings=settings, is_lost=False))


def expire_leases(database: Database, *, now: datetime, settings: Settings) -> int:
    """Give back deliveries whose worker fell silent. Returns how many.

    Whether the attempt had an effect is not known: it counts as running for as long as one may that has just begun.
    """
    # What is leased for longer than anything was leased on a clock that has gone back since.
    longest = now + settings.delivery_lease + CLOCKS_DIFFER
    is_over = or_(Delivery.leased_until <= now, Delivery.leased_until > longest)
    expired = (Delivery.state == "leased", is_over)
    with database.read() as session:
        if session.execute(select(Delivery.id).where(*expired).limit(1)).first() is None:
            return 0

    def give_back(session: Session) -> int:
        statement = select(*_LEASED_COLUMNS).where(*expired).order_by(Delivery.id).with_for_update(skip_locked=True)
        lost = [
            (
                LeasedDelivery(**{**row._mapping, "required_grade": Grade(row.required_grade)}),
                Outcome(kind="retry", error=_LOST),
            )
            for row in session.execute(statement)
        ]
        return len(_settle(session, lost, now=now, settings=settings, is_lost=True))

    return database.run(give_back)


def call_back(database: Database, *, now: datetime) -> int:
    """Make due what a clock that has gone back left in the future: what was never tried, and what nothing lets wait so
    long. Returns how many. For a process that begins, or sees its clock go back.
    """
    never_tried = and_(Delivery.attempts == 0, Delivery.next_attempt_at > now + CLOCKS_DIFFER)
    too_late = (Delivery.state == "pending", or_(never_tried, Delivery.next_attempt_at > now + FARTHEST_ATTEMPT))
    late_probe = DeliveryHold.next_probe_at > now + FARTHEST_ATTEMPT
    with database.read() as session:
        looks = (select(Delivery.id).where(*too_late), select(DeliveryHold.application_id).where(late_probe))
        if all(session.execute(look.limit(1)).first() is None for look in looks):
            return 0

    def call(session: Session) -> int:
        session.execute(update(DeliveryHold).where(late_probe).values(next_probe_at=now))
        ids = select(Delivery.id).where(*too_late).order_by(Delivery.id).with_for_update(skip_locked=True)
        called = session.execute(update(Delivery).where(Delivery.id.in_(ids)).values(next_attempt_at=now))
        return int(getattr(called, "rowcount", 0))

    return database.run(call)


_LEASED_COLUMNS = (
    Delivery.id,
    Delivery.application_id,
    Delivery.channel,
    Delivery.lane,
    Delivery.operation,
    Delivery.payload,
    Delivery.attempts.label("attempt"),
    Delivery.principal_id,
    Delivery.account_id,
    Delivery.participant_id,
    Delivery.case_id,
    Delivery.required_grade,
    Delivery.deadline_at,
    Delivery.quiet_after,
)


def _settle(
    session: Session,
    results: Sequence[tuple[LeasedDelivery, Outcome]],
    *,
    now: datetime,
    settings: Settings,
    is_lost: bool,
) -> set[str]:
    by_id = {leased.id: (leased, outcome) for leased, outcome in results}
    failing = [leased for leased, outcome in results if not _is_proof(leased, outcome)]
    # Before any lock of ours on a delivery, as planning does: whoever plans behind one of these has done so, or waits.
    lock_provisions(session, failing)
    rows = _current(session, sorted(by_id))
    mine = {i: row for i, row in rows.items() if row.lease_token == by_id[i][0].attempt}
    # A first attempt has no earlier one that it could have been given up with.
    spent = _attempts_before_last_end(session, sorted(i for i, row in mine.items() if row.lease_token > 1))
    moot = overtaken(session, [leased for leased in failing if leased.id in mine])
    deliveries, attempts, events, touched = [], [], [], []
    failed: list[Failed] = []
    accepted: set[Queue] = set()
    for delivery_id, row in mine.items():
        leased, outcome = by_id[delivery_id]
        decision = decide(
            leased,
            outcome,
            best=Grade(row.grade),
            attempts_spent=leased.attempt - spent.get(delivery_id, 0),
            max_attempts=settings.delivery_max_attempts,
            is_moot=delivery_id in moot,
        )
        # Without an answer the other side may still be at work; until the deadline that was stored it counts as such.
        over_at = now if outcome.status_code is not None else row.attempt_deadline_at
        if is_lost:
            # Stored by a clock of which nothing is known here: one that is behind lets a lease look over that has just
            # begun. What has been sent by now is over in so long, whatever it says.
            over_at = now + settings.delivery_timeout
        quiet_after = max(over_at, row.quiet_after or over_at)
        error = clean_text(outcome.error, _ERROR_LIMIT) if outcome.error else None
        deliveries.append(_delivery_values(leased, outcome, decision, row, error, quiet_after, now=now, lost=is_lost))
        attempts.append(_attempt_values(leased, outcome, decision, error, now=now, lost=is_lost))
        events.append(_event(leased, outcome, decision, error, moot.get(delivery_id), now=now))
        if decision.state != "pending" or decision.grade > row.grade:
            touched.append(leased.case_id)
        _note(leased, outcome, failed, accepted)
    _write(session, deliveries, attempts)
    record(session, events)
    note_answers(session, failed, accepted, now=now)
    touch_cases(session, touched, now=now)
    return set(mine)


# Made once: building a statement costs more than what it asks.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_CURRENT = (
    select(
        Delivery.id,
        Delivery.lease_token,
        Delivery.grade,
        Delivery.evidence,
        Delivery.quiet_after,
        Delivery.first_sent_at,
        DeliveryAttempt.started_at,
        DeliveryAttempt.deadline_at.label("attempt_deadline_at"),
    )
    .join(
        DeliveryAttempt,
        (DeliveryAttempt.delivery_id == Delivery.id) & (DeliveryAttempt.number == Delivery.lease_token),
    )
    # `lower` keeps SQLite from walking everything that is leased instead of looking up these few by their keys.
    .where(Delivery.id.in_(_IDS), func.lower(Delivery.state) == "leased")
    # In one order, so that two settling workers cannot lock each other out.
    .order_by(Delivery.id)
    .with_for_update(of=Delivery)
)
_ENDS = (
    select(DeliveryAttempt.delivery_id, func.max(DeliveryAttempt.number))
    .where(DeliveryAttempt.delivery_id.in_(_IDS), DeliveryAttempt.outcome.in_(_NEEDS_SOMEBODY))
    .group_by(DeliveryAttempt.delivery_id)
)
_SETTLE = (
    update(Delivery)
    .where(Delivery.id == bindparam("b_id"), Delivery.lease_token == bindparam("b_token"))
    .values(
        state=bindparam("b_state"),
        grade=bindparam("b_grade"),
        evidence=bindparam("b_evidence"),
        next_attempt_at=bindparam("b_next"),
        quiet_after=bindparam("b_quiet"),
        leased_until=None,
        leased_by=None,
        last_error=bindparam("b_error"),
        last_status=bindparam("b_status"),
        first_sent_at=bindparam("b_first_sent"),
        answered_at=func.coalesce(bindparam("b_answered", type_=Instant()), Delivery.answered_at),
        finished_at=bindparam("b_finished"),
    )
)
_CLOSE = (
    update(DeliveryAttempt)
    .where(DeliveryAttempt.delivery_id == bindparam("b_id"), DeliveryAttempt.number == bindparam("b_number"))
    .values(
        ended_at=bindparam("b_ended"),
        outcome=bindparam("b_outcome"),
        grade=bindparam("b_grade"),
        status_code=bindparam("b_status"),
        error=bindparam("b_error"),
        evidence=bindparam("b_evidence"),
    )
)


def _current(session: Session, ids: Sequence[str]) -> dict[str, Any]:
    return {row.id: row for row in session.connection().execute(_CURRENT, {"ids": ids}).all()}


def _attempts_before_last_end(session: Session, ids: Sequence[str]) -> dict[str, int]:
    """A delivery that was put back starts counting anew after the attempt that it stopped with."""
    if not ids:
        return {}
    return {row[0]: row[1] for row in session.connection().execute(_ENDS, {"ids": ids})}


def _delivery_values(
    leased: LeasedDelivery,
    outcome: Outcome,
    decision: Decision,
    row: Any,
    error: str | None,
    quiet_after: datetime,
    *,
    now: datetime,
    lost: bool,
) -> dict[str, Any]:
    # An expired lease proves nothing, and takes no proof away.
    evidence = dict(outcome.evidence) if decision.is_better and not lost else row.evidence
    is_over = decision.state != "pending"
    return {
        "b_id": leased.id,
        "b_token": leased.attempt,
        "b_state": decision.state,
        "b_grade": int(decision.grade),
        "b_evidence": evidence,
        # A refused credential is waited for by the hold of its queue, not by each delivery.
        "b_next": now + (min(decision.delay, FIRST_DELAY) if outcome.status_code == 401 else decision.delay),
        "b_quiet": quiet_after,
        "b_error": error,
        "b_status": outcome.status_code,
        "b_first_sent": row.first_sent_at or row.started_at,
        "b_answered": now if outcome.status_code is not None else None,
        "b_finished": now if is_over else None,
    }


def _attempt_values(
    leased: LeasedDelivery, outcome: Outcome, decision: Decision, error: str | None, *, now: datetime, lost: bool
) -> dict[str, Any]:
    said = "retry" if decision.state in {"pending", "superseded"} else decision.state
    return {
        "b_id": leased.id,
        "b_number": leased.attempt,
        "b_ended": None if lost else now,
        "b_outcome": "lost" if lost and decision.state != "dead" else said,
        "b_grade": int(outcome.grade),
        "b_status": outcome.status_code,
        "b_error": error,
        "b_evidence": dict(outcome.evidence),
    }


def _is_proof(leased: LeasedDelivery, outcome: Outcome) -> bool:
    return outcome.kind == "done" and outcome.grade >= leased.required_grade


def _write(
    session: Session,
    deliveries: Sequence[Mapping[str, Any]],
    attempts: Sequence[Mapping[str, Any]],
) -> None:
    if not deliveries:
        return
    session.connection().execute(_SETTLE, deliveries)
    session.connection().execute(_CLOSE, attempts)


def _note(leased: LeasedDelivery, outcome: Outcome, failed: list[Failed], accepted: set[Queue]) -> None:
    queue = (leased.application_id, leased.channel)
    failure = "unauthorized" if outcome.status_code == 401 else outcome.failure
    if failure is not None:
        failed.append(Failed(queue, leased.id, failure, outcome.error, outcome.retry_after))
    elif (
        outcome.status_code is not None
        and outcome.status_code < 500
        and outcome.status_code not in {403, 407, 408, 429}
    ):
        accepted.add(queue)


_EVENT_TYPES: Mapping[str, EventType] = {
    "pending": EventType.DELIVERY_RETRIED,
    "done": EventType.DELIVERY_DONE,
    "review": EventType.DELIVERY_AWAITS_REVIEW,
    "dead": EventType.DELIVERY_DEAD,
    "superseded": EventType.DELIVERY_SUPERSEDED,
}


def _event(
    leased: LeasedDelivery,
    outcome: Outcome,
    decision: Decision,
    error: str | None,
    overtaker: Overtaker | None,
    *,
    now: datetime,
) -> Event:
    details: dict[str, str | int | None] = {
        "attempt": leased.attempt,
        "operation": leased.operation,
        "channel": leased.channel,
        "grade": int(decision.grade),
    }
    if decision.state == "superseded" and overtaker is not None:
        details |= {"by": overtaker.id, "operation": overtaker.operation}
    if outcome.status_code is not None:
        details["status"] = outcome.status_code
    if error:
        details["error"] = error
    return Event(
        type=_EVENT_TYPES[decision.state],
        at=now,
        actor=SYSTEM,
        door="worker",
        target_kind="delivery",
        target_id=leased.id,
        outcome="success" if decision.state == "done" else "failure",
        person_id=leased.principal_id,
        application_id=leased.application_id,
        case_id=leased.case_id,
        delivery_id=leased.id,
        details=details,
    )


def send_again(session: Session, delivery_id: str, *, now: datetime, actor: Actor, door: str = "console") -> None:
    """Put a delivery that is dead or in review back in its place; it gets a full set of attempts.

    Raises:
        NotFound: there is no such delivery.
        Conflict: it is neither, or something later in its lane has overtaken it: sending it now would undo that.
    """
    found = session.execute(
        select(Delivery.principal_id, Delivery.application_id, Delivery.case_id, Delivery.lane, Delivery.seq).where(
            Delivery.id == delivery_id
        )
    ).first()
    if found is None:
        raise NotFound("There is no such delivery.", rule="delivery.unknown")
    if found.principal_id is not None:
        # Keeps transitions from planning behind it meanwhile (design, invariant 2).
        session.execute(select(Principal.id).where(Principal.id == found.principal_id).with_for_update())
    later = select(Delivery.id).where(
        Delivery.lane == found.lane, Delivery.seq > found.seq, Delivery.state != "superseded"
    )
    if session.execute(later.limit(1)).first() is not None:
        raise Conflict("A later delivery to the same account has overtaken this one.", rule="delivery.overtaken")
    revived = session.execute(
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state.in_(_NEEDS_SOMEBODY))
        .values(state="pending", next_attempt_at=now, finished_at=None)
        .returning(Delivery.id)
    ).first()
    if revived is None:
        raise Conflict("Only a dead delivery can be put back.", rule="delivery.not_dead")
    event = Event(
        type=EventType.DELIVERY_REQUEUED,
        at=now,
        actor=actor,
        door=door,
        target_kind="delivery",
        target_id=delivery_id,
        person_id=found.principal_id,
        application_id=found.application_id,
        case_id=found.case_id,
        delivery_id=delivery_id,
    )
    record(session, [event])
    touch_cases(session, [found.case_id], now=now)
    announce(session)


def send_dead_again(
    session: Session, application_id: str, *, now: datetime, actor: Actor, door: str = "console", limit: int = 1_000
) -> tuple[int, int]:
    """Put the dead deliveries of an application back, the oldest first: how many were, and how many stay.

    Those that something later in their lane has overtaken stay dead: sending them now would undo that. What is in
    review stays there: sending it again would change nothing. A queue that is held is tried at once.
    """
    probe_now(session, application_id, now=now)
    ids = session.scalars(
        select(Delivery.id)
        .where(Delivery.application_id == application_id, Delivery.state == "dead")
        .order_by(Delivery.principal_id, Delivery.lane, Delivery.seq)
        .limit(limit)
    ).all()
    revived = 0
    for delivery_id in ids:
        try:
            send_again(session, delivery_id, now=now, actor=actor, door=door)
        except Conflict:
            continue
        revived += 1
    return revived, len(ids) - revived
