"""Holds: an application's queue stands still, in order, until it works again or somebody resumes it.

What is the connection's fault opens the circuit of one channel of an application: a refused credential, a certificate
that is not trusted, a run of failures of several deliveries, a limit of requests that is used up. The queue is held and
one delivery is let through now and then as a probe. A probe that is accepted, or `resume`, ends the hold. One delivery
that fails alone holds nothing: it may be the delivery's fault.
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
FAILURES_BEFORE_HOLD = 5
"""Of several deliveries, one after the other, without anything accepted between."""
_BEFORE_HOLD: Mapping[str, int] = {
    "unauthorized": REFUSALS_BEFORE_HOLD,
    "tls": 1,
    "unreachable": FAILURES_BEFORE_HOLD,
    "failing": FAILURES_BEFORE_HOLD,
    "rate_limit": 1,
}
NOTES: Mapping[str, str] = {
    "unauthorized": "The application refuses the hub's credential (401). Renew it; deliveries wait in order.",
    "tls": "The application's certificate or TLS is not accepted. Deliveries wait in order.",
    "unreachable": "The application is not reached or does not answer. Deliveries wait in order.",
    "failing": "The application fails again and again. Deliveries wait in order.",
    "rate_limit": "The application's limit of requests is used up. Deliveries go on when it allows.",
}
"""How a note begins that the hub itself wrote; pages say it in the reader's language."""
_FIRST_PROBE = timedelta(seconds=30)
_SHORTEST_PATIENCE = timedelta(seconds=1)
_MAX_NOTE = 400
_SLOWEST_PROBE = timedelta(minutes=15)
UNAUTHORIZED = "unauthorized"
PAUSED = "paused"
EVERY_CHANNEL = "*"

Queue = tuple[str, str]
"""Application and channel."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that the connection was at fault for. `detail`: what the other side or the network said."""

    queue: Queue
    delivery_id: str
    failure: str
    detail: str | None = None
    retry_after: timedelta | None = None


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


_COUNTED = select(
    DeliveryHold.application_id,
    DeliveryHold.channel,
    DeliveryHold.reason,
    DeliveryHold.refusals,
    DeliveryHold.held_since,
    DeliveryHold.last_delivery,
).where(DeliveryHold.channel != EVERY_CHANNEL)
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


def probe_now(session: Session, application_id: str, channel: str | None = None, *, now: datetime) -> None:
    """Let a held queue be tried at once: what held it was mended, as far as somebody says.

    Without a channel all of the application's are, but for those that wait because the service asked for it. What is
    paused stays so.
    """
    chosen = DeliveryHold.reason != "rate_limit" if channel is None else DeliveryHold.channel == channel
    session.execute(
        update(DeliveryHold)
        .where(
            DeliveryHold.application_id == application_id,
            DeliveryHold.channel != EVERY_CHANNEL,
            DeliveryHold.held_since.is_not(None),
            chosen,
        )
        .values(next_probe_at=now)
    )
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


def note_answers(session: Session, failed: Sequence[Failed], accepted: set[Queue], *, now: datetime) -> None:
    """Count the answers of one round: failures towards a hold, anything that passed against it."""
    by_queue: dict[Queue, list[Failed]] = {}
    for one in failed:
        by_queue.setdefault(one.queue, []).append(one)
    if not by_queue and not accepted:
        return
    key = tuple_(DeliveryHold.application_id, DeliveryHold.channel)
    # There are few, mostly none: fewer than there are applications.
    known = {(row.application_id, row.channel): row for row in session.connection().execute(_COUNTED)}
    for queue in sorted(accepted & known.keys()):
        session.execute(delete(DeliveryHold).where(key == queue))
        if known[queue].held_since is not None:
            _record(session, *queue, EventType.DELIVERY_RESUMED, None, now=now, actor=SYSTEM)
            announce(session)
    for queue in sorted(by_queue.keys() - accepted):
        _count_failures(session, queue, by_queue[queue], known.get(queue), now=now)


def _count_failures(session: Session, queue: Queue, failed: Sequence[Failed], known: Any, *, now: datetime) -> None:
    # The kind that the round ended with; another kind than before begins to count anew, and keeps a hold that is there.
    reason = failed[-1].failure
    same = [one for one in failed if one.failure == reason]
    held_since = known.held_since if known is not None else None
    count = known.refusals if known is not None and known.reason == reason else 0
    last = known.last_delivery if known is not None else None
    for one in same:
        # A delivery that fails alone, again and again, may be at fault itself.
        if (reason not in {"failing", "unreachable"}) or one.delivery_id != last:
            count += 1
        last = one.delivery_id
    is_held = held_since is not None or count >= _BEFORE_HOLD[reason]
    # As long again as it has stood: that doubles with each probe, and not with what else was under way and failed too.
    wait = min(max(now - (held_since or now), _FIRST_PROBE), _SLOWEST_PROBE)
    asked = [one.retry_after for one in same if one.retry_after is not None]
    if reason == "rate_limit":
        wait = max([_SHORTEST_PATIENCE, *asked])
    detail = same[-1].detail
    values: dict[str, Any] = {
        "reason": reason,
        "note": f"{NOTES[reason]} {detail or ''}".strip()[:_MAX_NOTE] if reason != "unauthorized" else NOTES[reason],
        "refusals": count,
        "last_delivery": last,
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
        _record(session, *queue, EventType.DELIVERY_HELD, reason, now=now, actor=SYSTEM)


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
