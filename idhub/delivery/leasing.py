"""Leasing: which deliveries a worker may send now, and what becomes of those whose worker fell silent.

Within a lane only the oldest unfinished delivery is leased, so a lane never has two in flight. Applications take
turns, each within its bulkhead. The attempt and its total deadline are stored before anything is sent.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from idhub.changes import SYSTEM, Event, EventType, record
from idhub.db import Database, Instant, bulk_insert
from idhub.delivery.channel import Grade, LeasedDelivery
from idhub.delivery.holds import Hold, Queue, claim_probe, held_queues, holds
from idhub.delivery.tables import ENDINGS, Delivery, DeliveryAttempt
from idhub.delivery.wake import Asked
from idhub.directory.organizations import recovery_reason
from idhub.settings import Settings

_UNFINISHED = ("pending", "leased")
ENOUGH = 0.9
"""Of the places that are free: when endings alone take so many, what else waits is looked for at the next look."""
# Made once: an alias costs more to make than the statements that use it.
_older, _later, _inner, _earlier, _row = (aliased(Delivery) for _ in range(5))


_IN_FLIGHT = (
    select(Delivery.application_id, func.count()).where(Delivery.state == "leased").group_by(Delivery.application_id)
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    id: str
    application_id: str
    channel: str
    next_attempt_at: datetime
    is_ending: bool = False
    """It ends somebody's access: it goes before whatever else its application has due."""


def lease(
    database: Database,
    *,
    worker: str,
    now: datetime,
    limit: int,
    settings: Settings,
    due_for: timedelta = timedelta(0),
) -> list[LeasedDelivery]:
    """Take up to `limit` due deliveries for this worker alone, until `settings.delivery_lease` from now.

    Those alone that have been due for `due_for`: what is newer is left to whoever was asked for it.

    The bulkhead (`settings.delivery_per_application`) counts what every worker has in flight; workers that lease at the
    same instant may exceed it by one round.

    Nothing is leased while the hub is in recovery mode.

    Opens its own transactions: a read to choose, a short write to claim. Claiming checks everything again.
    """
    if limit <= 0:
        return []
    with database.read() as session:
        chosen, probes = _choose(session, limit, settings.delivery_per_application, now=now, due_for=due_for)
        if not chosen or recovery_reason(session) is not None:
            # Restored from a backup: what it would send may have been sent, or withdrawn, before (design section 8).
            return []

    def claim(session: Session) -> list[LeasedDelivery]:
        allowed = [
            candidate.id
            for candidate in chosen
            if (queue := (candidate.application_id, candidate.channel)) not in probes
            or claim_probe(session, queue, now=now, interval=settings.delivery_lease)
        ]
        return _claim(session, allowed, worker, now=now, settings=settings)

    return database.run(claim)


def lease_asked(
    database: Database, asked: Sequence[Asked], *, worker: str, now: datetime, settings: Settings
) -> list[LeasedDelivery]:
    """Take deliveries that were planned just now: those of them that `lease` might take, without looking for them.

    One short transaction of its own. What stays waits for `lease`.
    """

    def claim(session: Session) -> list[LeasedDelivery]:
        if recovery_reason(session) is not None:
            return []
        in_flight = Counter({row[0]: row[1] for row in session.connection().execute(_IN_FLIGHT)})
        whole, by_channel = held_queues(holds(session))
        allowed = []
        for one in asked:
            is_held = one.application_id in whole or (one.application_id, one.channel) in by_channel
            if not is_held and in_flight[one.application_id] < settings.delivery_per_application:
                in_flight[one.application_id] += 1
                allowed.append(one.id)
        return _claim(session, allowed, worker, now=now, settings=settings)

    return database.run(claim)


def _choose(
    session: Session, limit: int, per_application: int, *, now: datetime, due_for: timedelta
) -> tuple[list[_Candidate], set[Queue]]:
    connection = session.connection()
    waiting = [row for row in connection.execute(_WAITING).scalars() if row is not None]
    if not waiting:
        return [], set()
    in_flight = Counter({row[0]: row[1] for row in connection.execute(_IN_FLIGHT)})
    held = holds(session)
    whole, by_channel = held_queues(held)
    # Those with the least in flight first: nobody waits behind a busy neighbour.
    open_applications = sorted(
        (a for a in waiting if a not in whole and in_flight[a] < per_application), key=lambda a: (in_flight[a], a)
    )
    if not open_applications:
        return [], set()
    each = min(per_application, max(1, -(-2 * limit // len(open_applications))))
    due = now - due_for
    rows = _heads(session, open_applications, by_channel, each, now=due, is_ending=True)
    if len(rows) < limit * ENOUGH:
        rows += _heads(session, open_applications, by_channel, each, now=due, is_ending=False)
    probes = _probes(session, held, in_flight, now=now)
    return _take_turns(rows + probes, in_flight, per_application, limit), {
        (probe.application_id, probe.channel) for probe in probes
    }


def _applications_with_pending() -> Select[Any]:
    """Applications that have pending rows, by a loose scan of the index: its cost does not grow with their rows."""
    first = select(func.min(Delivery.application_id).label("id")).where(Delivery.state == "pending")
    found = first.cte("waiting", recursive=True)
    following = (
        select(func.min(_later.application_id))
        .where(_later.state == "pending", _later.application_id > found.c.id)
        .scalar_subquery()
    )
    found = found.union_all(select(following).where(found.c.id.is_not(None)))
    return select(found.c.id)


_WAITING = _applications_with_pending()


def is_head(row: Any) -> ColumnElement[bool]:
    """Whether nothing unfinished stands before this delivery in its lane. `row`: `Delivery` or an alias of it."""
    return ~exists().where(
        _older.lane == row.lane, _older.seq < row.seq, _older.state.in_([literal_column(f"'{s}'") for s in _UNFINISHED])
    )


def _heads(
    session: Session,
    applications: Sequence[str],
    held: Collection[Queue],
    each: int,
    *,
    now: datetime,
    is_ending: bool,
) -> list[_Candidate]:
    """The first `each` deliveries of every application that are due and first in their lanes.

    Args:
        is_ending: look among those that end an access; otherwise among the others.
    """
    with_holds = {application_id for application_id, _ in held}
    free = [a for a in applications if a not in with_holds]
    found: list[_Candidate] = []
    if free:
        found += _heads_of(session, free, each, now=now, is_ending=is_ending)
    for application_id in applications:
        if application_id in with_holds:
            channels = [channel for held_application, channel in held if held_application == application_id]
            statement = _due(now, is_ending=is_ending).where(
                Delivery.application_id == application_id, Delivery.channel.not_in(sorted(channels))
            )
            found += _fetch(session, statement.limit(each), is_ending=is_ending)
    return found


def _heads_of(
    session: Session, applications: Sequence[str], each: int, *, now: datetime, is_ending: bool
) -> list[_Candidate]:
    if len(applications) == 1:
        statement = _due(now, is_ending=is_ending).where(Delivery.application_id == applications[0]).limit(each)
        return _fetch(session, statement, is_ending=is_ending)
    is_postgresql = session.connection().dialect.name == "postgresql"
    listed = ",".join(applications) if is_postgresql else orjson.dumps(list(applications)).decode()
    values = {"applications": listed, "now": now, "each": each}
    return _fetch(session, _HEADS[is_postgresql, is_ending], values, is_ending=is_ending)


def _first_of_each(*, is_postgresql: bool, is_ending: bool) -> Select[Any, Any, Any, Any]:
    """The first few of every application of a list, with a statement that does not change with their number."""
    listed, each, now = bindparam("applications", type_=Text()), bindparam("each", type_=Integer()), _NOW
    if is_postgresql:
        names = select(func.unnest(func.string_to_array(listed, ",")).label("id")).cte("listed")
        due = _due(now, is_ending=is_ending).where(Delivery.application_id == names.c.id)
        top = due.correlate(names).limit(each).lateral("top")
        return select(top).select_from(names.join(top, true()))
    value = func.json_each(listed).table_valued("value")
    names = select(value.c.value.label("id")).cte("listed")
    ids = (
        select(_inner.id)
        .where(
            *_is_pending(_inner, is_ending=is_ending),
            _inner.application_id == names.c.id,
            _inner.next_attempt_at <= now,
            is_head(_inner),
        )
        .order_by(_inner.next_attempt_at)
        .limit(each)
        .correlate(names)
    )
    return select(Delivery.id, Delivery.application_id, Delivery.channel, Delivery.next_attempt_at).select_from(
        names.join(Delivery, Delivery.id.in_(ids))
    )


def _due(now: datetime | BindParameter[datetime], *, is_ending: bool) -> Select[Any, Any, Any, Any]:
    return (
        select(Delivery.id, Delivery.application_id, Delivery.channel, Delivery.next_attempt_at)
        .where(*_is_pending(Delivery, is_ending=is_ending), Delivery.next_attempt_at <= now, is_head(Delivery))
        .order_by(Delivery.next_attempt_at)
    )


def _is_pending(row: Any, *, is_ending: bool) -> tuple[ColumnElement[bool], ...]:
    """What makes a row one to choose from, in the words of `ix_deliveries_state`."""
    endings: list[ColumnElement[str]] = [literal_column(f"'{operation}'") for operation in ENDINGS]
    first: ColumnElement[int] = literal_column("0")
    then: ColumnElement[int] = literal_column("1")
    rank = case((row.operation.in_(endings), first), else_=then)
    return row.state == literal_column("'pending'"), rank == (first if is_ending else then)


_NOW: BindParameter[datetime] = bindparam("now", type_=Instant())
# Made once, for each database, among endings and among others: building a statement costs more than what it asks.
_HEADS = {
    (is_postgresql, is_ending): _first_of_each(is_postgresql=is_postgresql, is_ending=is_ending)
    for is_postgresql in (False, True)
    for is_ending in (False, True)
}


def _fetch(
    session: Session,
    statement: Select[Any, Any, Any, Any],
    values: Mapping[str, Any] | None = None,
    *,
    is_ending: bool = False,
) -> list[_Candidate]:
    return [_Candidate(*row, is_ending) for row in session.connection().execute(statement, values).all()]


def _probes(session: Session, held: Sequence[Hold], in_flight: Counter[str], *, now: datetime) -> list[_Candidate]:
    """For each held queue whose probe is due and that has nothing in flight: the delivery to probe with."""
    found = []
    for hold in held:
        if hold.is_probe_due(now) and not in_flight[hold.application_id]:
            # Its back-off does not matter: the hold decides when.
            for is_ending in (True, False):
                statement = _due(now, is_ending=is_ending).where(
                    Delivery.application_id == hold.application_id, Delivery.channel == hold.channel
                )
                if first := _fetch(session, statement.limit(1)):
                    found += first
                    break
    return found


def _take_turns(
    rows: Sequence[_Candidate], in_flight: Counter[str], per_application: int, limit: int
) -> list[_Candidate]:
    """Fill `limit` places application by application, within each bulkhead: endings first, then the oldest."""
    taken = Counter(in_flight)
    ranked = []
    for row in sorted(rows, key=lambda r: (not r.is_ending, r.next_attempt_at, r.id)):
        if taken[row.application_id] < per_application:
            ranked.append((not row.is_ending, taken[row.application_id], row.next_attempt_at, row.id, row))
            taken[row.application_id] += 1
    ranked.sort(key=lambda entry: entry[:4])
    return [row for *_, row in ranked[:limit]]


def _claiming(*, skips_locked: bool) -> ReturningUpdate[*tuple[Any, ...]]:
    # Every attempt of the lane that has ended or been given up on is in its delivery's `quiet_after`; none is running.
    quiet_after = (
        select(func.max(_earlier.quiet_after))
        .where(_earlier.lane == Delivery.lane, _earlier.seq <= Delivery.seq)
        .scalar_subquery()
    )
    # `lower` keeps SQLite from walking everything that is pending instead of looking up these few by their keys.
    is_pending = func.lower(_row.state) == "pending"
    is_due = _row.next_attempt_at <= bindparam("now", type_=Instant())
    free = select(_row.id).where(_row.id.in_(bindparam("ids", expanding=True)), is_pending, is_due, is_head(_row))
    if skips_locked:
        free = free.with_for_update(skip_locked=True, of=_row)
    return (
        update(Delivery)
        .where(Delivery.id.in_(free))
        .values(
            state="leased",
            attempts=Delivery.attempts + 1,
            # The fence: equal to the attempt's number for as long as both only go up together, here.
            lease_token=Delivery.attempts + 1,
            quiet_after=quiet_after,
            leased_by=bindparam("worker"),
            leased_until=bindparam("until"),
        )
        .returning(
            Delivery.id,
            Delivery.application_id,
            Delivery.channel,
            Delivery.lane,
            Delivery.operation,
            Delivery.payload,
            Delivery.attempts,
            Delivery.principal_id,
            Delivery.account_id,
            Delivery.participant_id,
            Delivery.case_id,
            Delivery.required_grade,
            Delivery.deadline_at,
            Delivery.quiet_after,
        )
    )


# Made once: building a statement costs more than what it asks.
_CLAIM = (_claiming(skips_locked=False), _claiming(skips_locked=True))


def _claim(
    session: Session, ids: Sequence[str], worker: str, *, now: datetime, settings: Settings
) -> list[LeasedDelivery]:
    if not ids:
        return []
    connection = session.connection()
    values = {"ids": list(ids), "now": now, "worker": worker, "until": now + settings.delivery_lease}
    claimed = connection.execute(_CLAIM[connection.dialect.name == "postgresql"], values).all()
    leased = [
        LeasedDelivery(
            id=c.id,
            application_id=c.application_id,
            channel=c.channel,
            lane=c.lane,
            operation=c.operation,
            payload=c.payload,
            attempt=c.attempts,
            principal_id=c.principal_id,
            account_id=c.account_id,
            participant_id=c.participant_id,
            case_id=c.case_id,
            required_grade=Grade(c.required_grade),
            deadline_at=c.deadline_at,
            # Whatever a clock said when it was stored: what has begun by now is over by then.
            quiet_after=c.quiet_after and min(c.quiet_after, now + settings.delivery_timeout),
        )
        for c in claimed
    ]
    attempts = [
        {
            "delivery_id": one.id,
            "number": one.attempt,
            "started_at": now,
            "deadline_at": now + settings.delivery_timeout,
            "evidence": {},
        }
        for one in leased
    ]
    bulk_insert(session, DeliveryAttempt, attempts)
    record(session, [_sent(one, now=now) for one in leased])
    return leased


def _sent(leased: LeasedDelivery, *, now: datetime) -> Event:
    return Event(
        type=EventType.DELIVERY_SENT,
        at=now,
        actor=SYSTEM,
        door="worker",
        target_kind="delivery",
        target_id=leased.id,
        person_id=leased.principal_id,
        application_id=leased.application_id,
        case_id=leased.case_id,
        delivery_id=leased.id,
        details={"attempt": leased.attempt},
    )
