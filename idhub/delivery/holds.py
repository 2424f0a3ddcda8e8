"""Holds: an application's queue stands still, in order, until its credential works again or somebody resumes it.

Repeated 401s open the circuit of one channel of an application: its queue is held and one delivery is let through now
and then as a probe. A probe that is accepted, or `resume`, ends the hold. Attempts refused with 401 never make a dead
letter: the fault is the connection's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, tuple_, update
from sqlalchemy.orm import Session

from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.delivery.tables import DeliveryHold
from idhub.delivery.wake import announce
from idhub.errors import NotFound

REFUSALS_BEFORE_HOLD = 3
_FIRST_PROBE = timedelta(seconds=30)
_SLOWEST_PROBE = timedelta(minutes=15)
UNAUTHORIZED = "unauthorized"
PAUSED = "paused"
EVERY_CHANNEL = "*"

Queue = tuple[str, str]
"""Application and channel."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold, as pages show it."""

    application_id: str
    channel: str
    reason: str
    note: str | None
    held_since: datetime
    next_probe_at: datetime | None
    held_by: str

    def is_probe_due(self, now: datetime) -> bool:
        """Whether one delivery may be let through."""
        return self.next_probe_at is not None and self.next_probe_at <= now


_COUNTED = select(DeliveryHold.application_id, DeliveryHold.channel, DeliveryHold.refusals, DeliveryHold.held_since)
_HELD = (
    select(
        DeliveryHold.application_id,
        DeliveryHold.channel,
        DeliveryHold.reason,
        DeliveryHold.note,
        DeliveryHold.held_since,
        DeliveryHold.next_probe_at,
        DeliveryHold.held_by,
    )
    .where(DeliveryHold.held_since.is_not(None))
    .order_by(DeliveryHold.application_id, DeliveryHold.channel)
)


def holds(session: Session, application_ids: Iterable[str] | None = None) -> list[Hold]:
    """Queues that stand still, by application."""
    statement = _HELD
    if application_ids is not None:
        statement = statement.where(DeliveryHold.application_id.in_(list(application_ids)))
    rows = session.connection().execute(statement)
    return [
        Hold(*row[:4], held_since=row.held_since, next_probe_at=row.next_probe_at, held_by=row.held_by)
        for row in rows
        if row.held_since
    ]


def held_applications(session: Session) -> dict[str, str]:
    """Applications that have a queue standing still, with the reason: paused, or unauthorized."""
    return {hold.application_id: hold.reason for hold in reversed(holds(session))}


def pause(session: Session, application_id: str, *, now: datetime, actor: Actor, note: str | None = None) -> None:
    """Hold an application's deliveries until `resume`. What is in flight is finished; nothing is probed."""
    values = {"note": note, "held_since": now, "held_by": f"{actor.kind}:{actor.id}"[:60]}
    changed = session.execute(
        update(DeliveryHold)
        .where(DeliveryHold.application_id == application_id, DeliveryHold.channel == EVERY_CHANNEL)
        .values(values)
    )
    if not _count(changed):
        row = {"application_id": application_id, "channel": EVERY_CHANNEL, "reason": PAUSED, "refusals": 0, **values}
        session.execute(insert(DeliveryHold).values(row))
    _record(session, application_id, EVERY_CHANNEL, EventType.DELIVERY_HELD, PAUSED, now=now, actor=actor)


def resume(session: Session, application_id: str, *, now: datetime, actor: Actor) -> None:
    """Let an application's deliveries go on, whatever held them.

    Raises:
        NotFound: nothing holds them.
    """
    removed = session.execute(
        delete(DeliveryHold).where(DeliveryHold.application_id == application_id, DeliveryHold.held_since.is_not(None))
    )
    if not _count(removed):
        raise NotFound("The deliveries of this application are not held.", rule="hold.none")
    _record(session, application_id, EVERY_CHANNEL, EventType.DELIVERY_RESUMED, None, now=now, actor=actor)
    announce(session)


def claim_probe(session: Session, queue: Queue, *, now: datetime, interval: timedelta) -> bool:
    """Take the right to send one probe; of several workers one gets it."""
    claimed = session.execute(
        update(DeliveryHold)
        .where(
            DeliveryHold.application_id == queue[0],
            DeliveryHold.channel == queue[1],
            DeliveryHold.next_probe_at <= now,
        )
        .values(next_probe_at=now + interval)
    )
    return _count(claimed) == 1


def note_answers(session: Session, refused: Mapping[Queue, int], accepted: set[Queue], *, now: datetime) -> None:
    """Count the answers of one round: 401s towards a hold, anything that passed authentication against it."""
    concerned = sorted({*refused, *accepted})
    if not concerned:
        return
    key = tuple_(DeliveryHold.application_id, DeliveryHold.channel)
    # There are few, mostly none: fewer than there are applications.
    known: dict[Queue, tuple[int, datetime | None]] = {
        (row.application_id, row.channel): (row.refusals, row.held_since)
        for row in session.connection().execute(_COUNTED)
    }
    for queue in sorted(accepted & known.keys()):
        session.execute(delete(DeliveryHold).where(key == queue))
        if known[queue][1] is not None:
            _record(session, *queue, EventType.DELIVERY_RESUMED, None, now=now, actor=SYSTEM)
            announce(session)
    for queue in sorted(refused.keys() - accepted):
        _refuse(session, queue, refused[queue], known.get(queue), now=now)


def _refuse(
    session: Session, queue: Queue, count: int, known: tuple[int, datetime | None] | None, *, now: datetime
) -> None:
    earlier, held_since = known or (0, None)
    refusals = earlier + count
    is_held = refusals >= REFUSALS_BEFORE_HOLD
    # Doubles with each probe that was refused.
    wait = min(_FIRST_PROBE * 2 ** min(max(refusals - REFUSALS_BEFORE_HOLD, 0), 10), _SLOWEST_PROBE)
    values: dict[str, Any] = {
        "reason": UNAUTHORIZED,
        "note": "The application refuses the hub's credential (401). Renew it; deliveries wait in order.",
        "refusals": refusals,
        "held_since": (held_since or now) if is_held else None,
        "next_probe_at": now + wait if is_held else None,
        "held_by": "system:hub",
    }
    where = (DeliveryHold.application_id == queue[0], DeliveryHold.channel == queue[1])
    if known is None:
        session.execute(insert(DeliveryHold).values(application_id=queue[0], channel=queue[1], **values))
    else:
        session.execute(update(DeliveryHold).where(*where).values(values))
    if is_held and held_since is None:
        _record(session, *queue, EventType.DELIVERY_HELD, UNAUTHORIZED, now=now, actor=SYSTEM)


def _record(
    session: Session, application_id: str, channel: str, kind: EventType, reason: str | None, *, now: datetime,
    actor: Actor,
) -> None:  # fmt: skip
    event = Event(
        type=kind,
        at=now,
        actor=actor,
        door="worker" if actor == SYSTEM else "console",
        target_kind="application",
        target_id=application_id,
        application_id=application_id,
        reason=reason,
        details={"channel": channel},
    )
    record(session, [event])


def _count(result: object) -> int:
    count: int = getattr(result, "rowcount", 0)
    return count


def held_queues(held: Sequence[Hold]) -> tuple[set[str], set[Queue]]:
    """Applications held as a whole, and queues held by channel."""
    whole = {hold.application_id for hold in held if hold.channel == EVERY_CHANNEL}
    return whole, {(hold.application_id, hold.channel) for hold in held if hold.channel != EVERY_CHANNEL}
