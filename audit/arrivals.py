"""Which events wait for their place in the log: what the sequencer takes in next, and what `/readyz` counts.

Events are taken in the order of arrival: on SQLite by `id`, which one writer after the other gives out; on PostgreSQL
by the number of their transaction, then `id`. `audit_reach` says how far that has come. A transaction gets a number
above those of all that ended before it, and everything below a snapshot's xmin is over: so nothing can arrive behind
that point later, however long its transaction was open.

Numbers of transactions hold within one cluster. What a dump brought from another may lie ahead of this one's
(`came_along`); when the point reached does, all is looked through once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    exists,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)

from audit.tables import audit_events, audit_positions, audit_reach, audit_refused

COUNT_UP_TO: Final = 10_000
_event = audit_events.c
_TAKEN: Final = (_event.id, _event.xid, _event.event_id, _event.body, _event.leaf_hash)
# The offset keeps PostgreSQL from joining: few rows are asked about, and each is found by index.
_IS_PLACED: Final = exists(
    select(literal(1)).where(audit_positions.c.event_row == _event.id).correlate(audit_events).offset(0)
)
_XMIN: Final = literal_column("(pg_snapshot_xmin(pg_current_snapshot())::text)::bigint", BigInteger)
_XMAX: Final = literal_column("(pg_snapshot_xmax(pg_current_snapshot())::text)::bigint", BigInteger)
_LAST_ID: Final = 2**62


class Reach(NamedTuple):
    """A point in the order of arrival; the first number is 0 on SQLite."""

    xid: int
    id: int


_NOTHING: Final = Reach(-1, -1)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How things stand at one moment, as one connection sees them."""

    after: Reach
    """What arrived up to here was taken in."""
    horizon: Reach
    """What arrived up to here is over, and visible to every later statement."""
    ahead: int | None
    """No transaction of this cluster has reached this number; None: transactions have no numbers."""
    has_moved: bool
    """The point reached lies ahead of all that there is: it is another cluster's, or events are gone."""

    def settled(self, limit: int) -> Select[Any]:
        """Events to take in, in order."""
        rows = select(*_TAKEN).where(self._beyond(), ~_IS_PLACED)
        if self.ahead is None:
            return rows.order_by(_event.id).limit(limit)
        return rows.where(_event.xid <= self.horizon.xid).order_by(_event.xid, _event.id).limit(limit)

    def came_along(self, limit: int) -> Select[Any] | None:
        """Events without a place whose transaction was one of another cluster; None: there are none such here."""
        if self.ahead is None:
            return None
        # As of the statement itself: what it sees and this cluster had not reached is not of this cluster.
        reached = select(_XMAX).scalar_subquery()
        foreign = select(*_TAKEN).where(_event.position.is_(None), _event.xid >= reached, ~_IS_PLACED)
        return foreign.order_by(_event.xid, _event.id).limit(limit)

    def waiting(self) -> Select[Any]:
        """`id` and `at` of events that wait, whether they may be taken in already or not, in order."""
        rows = select(_event.id, _event.at).where(self._beyond(), ~_IS_PLACED)
        if self.ahead is None:
            return rows.order_by(_event.id)
        return rows.where(_event.xid < self.ahead).order_by(_event.xid, _event.id)

    def are_behind(self) -> ColumnElement[bool]:
        """Of events without a place: those that are said to have been taken in."""
        if self.ahead is None:
            return _event.id <= self.after.id
        return tuple_(_event.xid, _event.id) <= tuple_(literal(self.after.xid), literal(self.after.id))

    def _beyond(self) -> ColumnElement[bool]:
        if self.ahead is None:
            return _event.id > self.after.id
        # What versions before r0022 placed is not in the index (`ix_audit_events_arrived`).
        return _event.position.is_(None) & (
            tuple_(_event.xid, _event.id) > tuple_(literal(self.after.xid), literal(self.after.id))
        )


def arrivals(connection: Connection) -> Arrivals:
    """Return how things stand. Who gives out places by it must have read the head before, and move that one."""
    reach = connection.execute(select(audit_reach.c.xid, audit_reach.c.event_row).where(audit_reach.c.id == 1)).first()
    through = Reach(*reach) if reach is not None else _NOTHING
    if connection.dialect.name == "postgresql":
        xmin, xmax = connection.execute(select(_XMIN, _XMAX)).one()
        has_moved = through.xid >= xmax
        return Arrivals(_NOTHING if has_moved else through, Reach(xmin - 1, _LAST_ID), xmax, has_moved)
    newest = connection.execute(select(func.max(_event.id))).scalar_one() or 0
    has_moved = through.id > newest
    return Arrivals(_NOTHING if has_moved else through, Reach(0, newest), None, has_moved)


def refused(connection: Connection) -> Sequence[Any]:
    """Return the events that were passed over, as `Arrivals.settled` does, with `at`."""
    # Two statements, for there are none: PostgreSQL takes an empty table for a large one, and would read all events.
    named = connection.scalars(select(audit_refused.c.event_row).limit(COUNT_UP_TO)).all()
    if not named:
        return []
    return connection.execute(
        select(*_TAKEN, _event.at).where(_event.id.in_(named), ~_IS_PLACED).order_by(_event.id)
    ).all()


def is_waiting(connection: Connection) -> bool:
    """Tell whether any event has no place, those that were passed over aside."""
    return connection.execute(arrivals(connection).waiting().limit(1)).first() is not None


def count_waiting(connection: Connection) -> tuple[int, int | None]:
    """Return how many events have no place, counted up to 10,000, and since when the first waits (microseconds)."""
    waiting = arrivals(connection).waiting()
    pending: int = connection.execute(
        select(func.count()).select_from(waiting.limit(COUNT_UP_TO).subquery())
    ).scalar_one()
    first = connection.execute(waiting.limit(1)).first() if pending else None
    passed_over = refused(connection)
    since = [row.at for row in (first, *passed_over) if row is not None]
    return min(pending + len(passed_over), COUNT_UP_TO), min(since, default=None)
