"""Verification of the live tables. Entry point: `audit.verify.verify_database`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson
from sqlalchemy import Connection, LargeBinary, cast, func, select

from audit.checkpoint import ReadableWitness, VerifyingKey
from audit.merkle import leaf_hash
from audit.tables import audit_events, audit_head, audit_retention
from audit.tiles import StoredCheckpoints, stored_tile
from audit.verify import TILE_SIZE, LogChecker, VerifyResult, witnessed_checkpoints

_PAGE: Final = 1_024
_event = audit_events.c
_OPTIONAL: Final = (
    "person_id",
    "organization_id",
    "application_id",
    "case_id",
    "delivery_id",
    "request_id",
)


# Read as bytes whatever tampering made of them: SQLite stores any type in any column.
_BYTES: Final = (cast(_event.body, LargeBinary).label("body"), cast(_event.leaf_hash, LargeBinary).label("leaf_hash"))


def verify_tables(
    connection: Connection, keys: Sequence[VerifyingKey], witness: ReadableWitness | None
) -> VerifyResult:
    """See `audit.verify.verify_database`."""
    checker = LogChecker(keys, witnessed_checkpoints(witness, keys) if witness else ())
    head = connection.execute(select(audit_head.c.size, audit_head.c.root)).one_or_none()
    size = head.size if head else 0
    notes = StoredCheckpoints(connection)
    start = _removed(connection, checker, notes)
    for row in _rows(connection, start):
        if row.position != checker.position:
            text = f"events {checker.position} to {row.position - 1} are missing"
            checker.report("missing", text, checker.position, row.position)
            checker.skip_to(row.position)
        _event_holds(checker, row)
        if len(checker.leaves) == TILE_SIZE:
            checker.next_tile()
        checker.leaves.append(leaf_hash(_stored(row.body)))
        checker.result.events += 1
        _compare_here(connection, checker, notes)
    if checker.position != size:
        what = "truncated" if checker.position < size else "inserted"
        text = f"the head counts {size} events, {checker.position} are here"
        checker.report(what, text, min(size, checker.position))
    if notes.next is not None:
        text = f"a checkpoint covers {notes.next[0]} events, {checker.position} are here"
        checker.report("truncated", text, checker.position)
    result = checker.finish(allow_tail=True)
    waiting: int = connection.execute(
        select(func.count()).select_from(audit_events).where(_event.position.is_(None))
    ).scalar_one()
    result.unproven += waiting
    _waiting_hold(connection, checker)
    return result


def _removed(connection: Connection, checker: LogChecker, notes: StoredCheckpoints) -> int:
    """Take in the tiles of events that retention has removed; return the position to go on from."""
    through: int = connection.execute(select(func.max(audit_retention.c.through_position))).scalar_one() or 0
    first = connection.execute(select(func.min(_event.position))).scalar_one()
    removed = min(through, through if first is None else first - first % TILE_SIZE)
    for number in range(removed // TILE_SIZE):
        stored = stored_tile(connection, number)
        if stored is None:
            checker.report("missing", f"the hashes of tile {number} are missing", number * TILE_SIZE)
            checker.break_off()
        if checker.leaves:
            checker.next_tile()
        checker.leaves.extend(stored or [b""] * TILE_SIZE)
        checker.result.withheld += TILE_SIZE
        _compare_said(checker, notes)
    return checker.position


def _compare_here(connection: Connection, checker: LogChecker, notes: StoredCheckpoints) -> None:
    """Compare with whatever was said about the log at exactly this size."""
    position = checker.position
    if position % TILE_SIZE == 0:
        stored = stored_tile(connection, position // TILE_SIZE - 1)
        if stored is None:
            checker.report("missing", "a tile of hashes is missing", position - TILE_SIZE)
        else:
            checker.compare_tile(stored)
    _compare_said(checker, notes)


def _compare_said(checker: LogChecker, notes: StoredCheckpoints) -> None:
    for note in notes.up_to(checker.position):
        checker.checkpoint(note)
    checker.compare_witness()


def _stored(value: Any) -> bytes:
    """Bytes of a column, also where tampering changed its type (SQLite lets it); those bytes then do not fit."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return b"" if value is None else str(value).encode("utf-8", "surrogateescape")


def _event_holds(checker: LogChecker, row: Any) -> None:
    """The columns must say what the body says, and the stored hash must be the body's."""
    body = _stored(row.body)
    if leaf_hash(body) != _stored(row.leaf_hash):
        checker.report("edited", f"event {row.event_id} does not have the hash stored beside it", row.position)
    try:
        said = orjson.loads(body)
        actor, target = said["actor"], said["target"]
        columns = (said["event_id"], said["at"], said["type"], said["class"], said["outcome"], actor["id"])
        columns += (actor.get("ip"), target["kind"], target["id"], *(said.get(name) for name in _OPTIONAL))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        checker.report("edited", f"event {row.event_id} has no canonical body", row.position)
        return
    stored = (row.event_id, row.at, row.type, row.event_class, row.outcome, row.actor_id)
    stored += (row.ip, row.target_kind, row.target_id, *(getattr(row, name) for name in _OPTIONAL))
    if stored != columns:
        checker.report("edited", f"the columns of event {row.event_id} do not say what it says", row.position)


def _waiting_hold(connection: Connection, checker: LogChecker) -> None:
    """Events that wait for their place must have the bytes that were appended."""
    last_id = 0
    while True:
        page = connection.execute(
            select(_event.id, _event.event_id, *_BYTES)
            .where(_event.position.is_(None), _event.id > last_id)
            .order_by(_event.id)
            .limit(_PAGE)
        ).all()
        for row in page:
            if leaf_hash(_stored(row.body)) != _stored(row.leaf_hash):
                checker.report("edited", f"event {row.event_id}, which has no place yet, was changed")
        if len(page) < _PAGE:
            return
        last_id = page[-1].id


def _rows(connection: Connection, start: int) -> Iterator[Any]:
    columns = [c for c in _event if c.name not in ("id", "xid", "class", "body", "leaf_hash")]
    while True:
        page = connection.execute(
            select(*columns, *_BYTES, _event["class"].label("event_class"))
            .where(_event.position >= start)
            .order_by(_event.position)
            .limit(_PAGE)
        ).all()
        yield from page
        if len(page) < _PAGE:
            return
        start = page[-1].position + 1
