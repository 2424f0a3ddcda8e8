"""Retention: the one way by which events leave the log.

Only whole tiles of 256 events from the beginning go, only below a signed checkpoint, and only after the caller has
exported and verified them (`audit.export`, `audit.verify`). The decision is a row of its own that stays, as do tiles,
head and checkpoints: the rest of the log and every later checkpoint can still be proven.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select

from audit.checker import VerifyResult
from audit.errors import NotRetainable
from audit.events import Actor, Event, EventType, clean_text, from_micros, to_micros
from audit.personal import Sealer
from audit.tables import (
    audit_checkpoints,
    audit_events,
    audit_person_keys,
    audit_personal,
    audit_positions,
    audit_retention,
    audit_terms,
    event_place,
)
from audit.tiles import TILE_SIZE
from audit.trail import append

# Tiles looked at in one statement.
_LOOK: Final = 64
# Two tiles: what is left while a removal is under way always begins at a tile whose hashes are known.
_BATCH: Final = 2 * TILE_SIZE


@dataclass(frozen=True, slots=True)
class Decision:
    """Who decided that events below `through_position` may go, and why."""

    through_position: int
    actor: Actor
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Removable:
    """Events from `first` up to, not including, `through_position` are older than was asked; `newest` of them."""

    first: int
    through_position: int
    newest: datetime | None

    @property
    def count(self) -> int:
        """How many."""
        return self.through_position - self.first


def removable(connection: Connection, *, before: datetime, at_most: int) -> Removable:
    """Find the whole tiles at the beginning of the log in which every event is older than `before`.

    Reads what it finds and no more, however long the log is.

    Args:
        at_most: a position beyond which nothing is looked at.
    """
    first: int = connection.execute(select(func.min(audit_positions.c.position))).scalar_one() or 0
    through, newest = first, None
    place = audit_positions.c.position
    tile = place // TILE_SIZE
    while True:
        found = connection.execute(
            select(tile.label("tile"), func.count().label("events"), func.max(audit_events.c.at).label("newest"))
            .join(audit_events, audit_events.c.id == audit_positions.c.event_row)
            .where(place >= through, place < through + _LOOK * TILE_SIZE, place < at_most)
            .group_by("tile")
            .order_by("tile")
        ).all()
        for row in found:
            if row.events < TILE_SIZE or row.newest >= to_micros(before):
                return Removable(first, through, newest)
            at = from_micros(row.newest)
            through, newest = through + TILE_SIZE, max(newest or at, at)
        if not found:
            return Removable(first, through, newest)


def decided_through(connection: Connection) -> int:
    """The position below which events may go by what was decided so far. Some may still be there."""
    return connection.execute(select(func.max(audit_retention.c.through_position))).scalar_one() or 0


def decide(connection: Connection, decision: Decision, *, exported: VerifyResult, sealer: Sealer) -> None:
    """Write down that events below a position may be removed. `exported` is the verified export that holds them.

    Appends `audit.pruned` in the same transaction: a decision that is not in the log is found by every verifier.

    Raises:
        NotRetainable: not a multiple of 256, not below a checkpoint, not more than before, or not in a valid export.
    """
    through = decision.through_position
    sealed = connection.execute(select(func.max(audit_checkpoints.c.size))).scalar_one() or 0
    before = decided_through(connection)
    if through % TILE_SIZE or not before < through <= sealed:
        raise NotRetainable("only whole tiles of 256 events below a checkpoint can be removed")
    if not exported.is_valid or exported.size < through or exported.withheld > before:
        raise NotRetainable("events are removed only after a valid export holds them")
    reason = clean_text(decision.reason)
    connection.execute(
        insert(audit_retention),
        [
            {
                "through_position": through,
                "decided_at": to_micros(decision.decided_at),
                "actor_id": decision.actor.id,
                "reason": reason,
            }
        ],
    )
    pruned = Event(
        type=EventType.AUDIT_PRUNED,
        at=decision.decided_at,
        actor=decision.actor,
        door="audit",
        target_kind="log",
        target_id="events",
        details={"through_position": through, "reason": reason},
    )
    append(connection, [pruned], sealer=sealer)


def remove(connection: Connection) -> int:
    """Delete some of the events that a decision covers; return how many. Call again until it returns 0.

    Raises:
        NotRetainable: the decision is not under a checkpoint yet; without it nobody could tell removal from deletion.
    """
    through = decided_through(connection)
    if through and not _is_proven(connection):
        raise NotRetainable("the decision has no checkpoint over it yet; try again in a second")
    first = connection.execute(select(func.min(audit_positions.c.position))).scalar_one()
    if first is None:
        return 0
    rows = connection.execute(
        select(audit_events.c.id, audit_events.c.event_id)
        .join(audit_positions, audit_positions.c.event_row == audit_events.c.id)
        .where(audit_positions.c.position < min(through, first + _BATCH))
    ).all()
    if not rows:
        return 0
    event_ids = [row.event_id for row in rows]
    connection.execute(delete(audit_terms).where(audit_terms.c.event_id.in_(event_ids)))
    connection.execute(delete(audit_personal).where(audit_personal.c.event_id.in_(event_ids)))
    still_used = select(audit_personal.c.key_id)
    connection.execute(
        delete(audit_person_keys).where(
            audit_person_keys.c.id.in_(event_ids), audit_person_keys.c.id.not_in(still_used)
        )
    )
    ids = [row.id for row in rows]
    # In this order: what lets an event go is its place.
    connection.execute(delete(audit_events).where(audit_events.c.id.in_(ids)))
    connection.execute(delete(audit_positions).where(audit_positions.c.event_row.in_(ids)))
    return len(rows)


def _is_proven(connection: Connection) -> bool:
    """Tell whether the newest decision's event lies under a signed checkpoint."""
    sealed = connection.execute(select(func.max(audit_checkpoints.c.size))).scalar_one() or 0
    decided = select(event_place).where(audit_events.c.type == EventType.AUDIT_PRUNED.value)
    newest = connection.execute(decided.order_by(audit_events.c.id.desc()).limit(1)).scalar_one_or_none()
    return newest is not None and newest < sealed
