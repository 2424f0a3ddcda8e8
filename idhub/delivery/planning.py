"""Planning: delivery rows with the change that wants them, in its transaction, thousands at once."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from idhub.changes import SYSTEM, Event, EventType, record
from idhub.db import bulk_insert, chunked, new_ids
from idhub.delivery.channel import LeasedDelivery, PlannedDelivery
from idhub.delivery.receipt_box import touch_cases
from idhub.delivery.tables import Delivery
from idhub.delivery.wake import Asked, announce
from idhub.directory.tables import Principal
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


_earlier, _later = aliased(Delivery), aliased(Delivery)
_BEHIND = (
    select(_earlier.id, _earlier.case_id, _later.id, _later.operation, _later.case_id)
    .join(_later, (_later.lane == _earlier.lane) & (_later.seq > _earlier.seq))
    .where(_earlier.id.in_(bindparam("ids", expanding=True)), _later.state != "superseded")
    .order_by(_earlier.id, _later.seq)
)
_LOCK = (
    select(Principal.id)
    .where(Principal.id.in_(bindparam("people", expanding=True)))
    # In one order, so that two that lock several cannot lock each other out.
    .order_by(Principal.id)
    .with_for_update(read=True)
)


@dataclass(frozen=True, slots=True)
class _Superseded:
    id: str
    lane: str
    case_id: str | None


class Overtaker(NamedTuple):
    """A delivery that makes an earlier one of its lane moot."""

    id: str
    operation: str


def plan(session: Session, planned: Sequence[PlannedDelivery], *, now: datetime) -> list[str]:
    """Store deliveries behind all earlier ones of their lanes; returns their ids, in order.

    A provision that still waits (or is in review, or was given up) becomes moot, and is superseded, by a later
    deprovision of its lane, and by a later provision unless a case of its own waits for its proof. One that is under
    way is once it has failed (`overtaken`). A deprovision or logout is never superseded: each is sent and proven. The
    event of the later delivery names what it supersedes, and each of those has an event of its own.

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
        last = planned[lanes[delivery.lane]]
        is_moot = delivery is not last and _makes_moot(
            last.operation, last.case_id, delivery.operation, delivery.case_id
        )
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
            events.append(_moot(delivery_id, delivery.case_id, last, None, now=now))
    bulk_insert(session, Delivery, rows)
    record(session, events)
    announce(
        session,
        [Asked(row["id"], row["application_id"], row["channel"]) for row in rows if row["state"] == "pending"],
    )
    return ids


def lock_provisions(session: Session, deliveries: Iterable[LeasedDelivery]) -> None:
    """Keep everybody from planning behind those of these that are provisions, until the transaction ends."""
    people = sorted({one.principal_id for one in deliveries if one.principal_id and one.operation == "provision"})
    for part in chunked(people):
        session.connection().execute(_LOCK, {"people": part})


def overtaken(session: Session, deliveries: Iterable[LeasedDelivery]) -> dict[str, Overtaker]:
    """Which of these were made moot while they were under way, and by what (`plan`), by id.

    Somebody who left meanwhile would otherwise keep their account until a provision that fails was given up.
    """
    found: dict[str, Overtaker] = {}
    provisions = sorted(one.id for one in deliveries if one.operation == "provision")
    for part in chunked(provisions):
        for earlier, case_id, later, operation, later_case_id in session.connection().execute(_BEHIND, {"ids": part}):
            if _makes_moot(operation, later_case_id, "provision", case_id):
                found[earlier] = Overtaker(later, operation)
    return found


def _makes_moot(later: str, later_case_id: str | None, earlier: str, earlier_case_id: str | None) -> bool:
    """Whether a later operation makes an earlier one of its lane moot."""
    if earlier != "provision":
        return False
    if later == "deprovision":
        return True
    return later == "provision" and earlier_case_id in {None, later_case_id}


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
