"""Planning: delivery rows with the change that wants them, in its transaction, thousands at once."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from idhub.changes import SYSTEM, Event, EventType, record
from idhub.db import bulk_insert, chunked, new_ids
from idhub.delivery.channel import PlannedDelivery
from idhub.delivery.receipt_box import touch_cases
from idhub.delivery.tables import Delivery
from idhub.delivery.wake import Asked, announce
from idhub.kept import Kept

# Made once: building a statement costs more than what it asks.
_LAST_PLACES = Kept(
    select(Delivery.lane, func.max(Delivery.seq))
    .where(Delivery.lane.in_(bindparam("lanes", expanding=True)))
    .group_by(Delivery.lane)
)
_MOOT = (
    update(Delivery)
    .where(
        Delivery.lane.in_(bindparam("lanes", expanding=True)),
        Delivery.operation == "provision",
        or_(Delivery.state == "pending", Delivery.state == "review", Delivery.state == "dead"),
    )
    .values(state="superseded", finished_at=bindparam("at"))
    .returning(Delivery.id, Delivery.lane, Delivery.case_id)
)
_MAKE_MOOT = Kept(_MOOT)
_MAKE_MOOT_OF = Kept(_MOOT.where(or_(Delivery.case_id.is_(None), Delivery.case_id == bindparam("case"))))


@dataclass(frozen=True, slots=True)
class _Superseded:
    id: str
    lane: str
    case_id: str | None


def plan(session: Session, planned: Sequence[PlannedDelivery], *, now: datetime) -> list[str]:
    """Store deliveries behind all earlier ones of their lanes; returns their ids, in order.

    A provision that still waits (or is in review, or was given up) becomes moot, and is superseded, by a later
    deprovision of its lane, and by a later provision unless a case of its own waits for its proof. A deprovision or
    logout is never superseded: each is sent and proven. The event of the later delivery names what it supersedes, and
    each of those has an event of its own.

    Runs in the caller's transaction, which must hold the locks of the principals concerned (design, invariant 2):
    the order within a lane rests on them.
    """
    if not planned:
        return []
    lanes = {delivery.lane: index for index, delivery in enumerate(planned)}
    before = _lanes_before(session, list(lanes))
    superseded = _supersede(session, planned, before, now=now)
    rows: list[dict[str, Any]] = []
    events: list[Event] = []
    place = dict(before)
    ids = new_ids("dlv", len(planned))
    for index, (delivery_id, delivery) in enumerate(zip(ids, planned, strict=True)):
        seq = place[delivery.lane] = place.get(delivery.lane, 0) + 1
        last = lanes[delivery.lane]
        is_moot = index != last and _makes_moot(planned[last], delivery)
        row = {
            "id": delivery_id,
            "seq": seq,
            "application_id": delivery.application_id,
            "channel": delivery.channel,
            "lane": delivery.lane,
            "operation": delivery.operation,
            "payload": dict(delivery.payload),
            "principal_id": delivery.principal_id,
            "account_id": delivery.account_id,
            "participant_id": delivery.participant_id,
            "case_id": delivery.case_id,
            "required_grade": int(delivery.required_grade),
            "deadline_at": delivery.deadline_at,
            "state": "superseded" if is_moot else "pending",
            "grade": 0,
            "evidence": {},
            "attempts": 0,
            "lease_token": 0,
            "next_attempt_at": now,
            "planned_at": now,
            "finished_at": now if is_moot else None,
        }
        rows.append(row)
        replaced = superseded.pop(delivery.lane, []) if index == lanes[delivery.lane] else []
        events.append(_event(delivery_id, delivery, seq, replaced, now=now))
        events.extend(_moot(one.id, one.case_id, delivery, delivery_id, now=now) for one in replaced)
        if is_moot:
            events.append(_moot(delivery_id, delivery.case_id, planned[last], None, now=now))
    bulk_insert(session, Delivery, rows)
    record(session, events)
    announce(
        session,
        [Asked(row["id"], row["application_id"], row["channel"]) for row in rows if row["state"] == "pending"],
    )
    return ids


def _makes_moot(later: PlannedDelivery, earlier: PlannedDelivery) -> bool:
    if earlier.operation != "provision":
        return False
    if later.operation == "deprovision":
        return True
    return later.operation == "provision" and earlier.case_id in {None, later.case_id}


def _lanes_before(session: Session, lanes: Sequence[str]) -> dict[str, int]:
    """Last place taken in each lane."""
    found: dict[str, int] = {}
    for part in chunked(lanes):
        for lane, seq in _LAST_PLACES.all(session, lanes=part):
            found[lane] = seq
    return found


def _supersede(
    session: Session, planned: Iterable[PlannedDelivery], before: Collection[str], *, now: datetime
) -> dict[str, list[_Superseded]]:
    deprovisioned: set[str] = set()
    provisioned: dict[str | None, set[str]] = defaultdict(set)
    for delivery in planned:
        if delivery.lane not in before:
            continue
        if delivery.operation == "deprovision":
            deprovisioned.add(delivery.lane)
        elif delivery.operation == "provision":
            provisioned[delivery.case_id].add(delivery.lane)
    found: dict[str, list[_Superseded]] = defaultdict(list)
    answers = [_MAKE_MOOT.ask(session, lanes=part, at=now) for part in chunked(sorted(deprovisioned))]
    for case_id, lanes in provisioned.items():
        answers += [
            _MAKE_MOOT_OF.ask(session, lanes=part, at=now, case=case_id)
            for part in chunked(sorted(lanes - deprovisioned))
        ]
    for asked in answers:
        for row in asked.rows():
            found[row.lane].append(_Superseded(*row))
    touch_cases(session, (one.case_id for rows in found.values() for one in rows), now=now)
    return found


def _event(
    delivery_id: str, delivery: PlannedDelivery, seq: int, replaced: Sequence[_Superseded], *, now: datetime
) -> Event:
    details: dict[str, str | int | list[str]] = {
        "operation": delivery.operation,
        "channel": delivery.channel,
        "seq": seq,
        "required_grade": int(delivery.required_grade),
    }
    if replaced:
        details["supersedes"] = [one.id for one in replaced]
    return Event(
        type=EventType.DELIVERY_PLANNED,
        at=now,
        actor=SYSTEM,
        door="system",
        target_kind="delivery",
        target_id=delivery_id,
        person_id=delivery.principal_id,
        application_id=delivery.application_id,
        case_id=delivery.case_id,
        delivery_id=delivery_id,
        details=details,
    )


def _moot(
    delivery_id: str, case_id: str | None, later: PlannedDelivery, later_id: str | None, *, now: datetime
) -> Event:
    """The event of a superseded delivery. `later` is of its lane, so of its account; planned with it, it has no id."""
    return Event(
        type=EventType.DELIVERY_SUPERSEDED,
        at=now,
        actor=SYSTEM,
        door="system",
        target_kind="delivery",
        target_id=delivery_id,
        person_id=later.principal_id,
        application_id=later.application_id,
        case_id=case_id,
        delivery_id=delivery_id,
        details={"by": later_id, "operation": later.operation} if later_id else {"operation": later.operation},
    )
