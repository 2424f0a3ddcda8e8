"""Verification of the live tables. Entry point: `verify_database`.

Everything that the tables say is compared with the canonical bodies, and those with the signed checkpoints: columns,
leaf hashes, tiles of every level, head, lease, decisions of retention; with a `Sealer` also the personal values and the
search terms beside the events.

Not compared, since nothing rests on them: `xid` of an event that has its place, the surrogate `id` of a term,
`updated_at` of the head, how far the sequencer says it came (events that it passed over are found), `owner_id` and a
past `expires_at` of the lease.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    Table,
    bindparam,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.types import NullType

from audit.arrivals import arrivals
from audit.beside import SideTables
from audit.checker import TILE_SIZE, LogChecker, VerifyResult, witnessed_checkpoints
from audit.checkpoint import ReadableWitness, VerifyingKey
from audit.events import EventType, to_micros
from audit.merkle import EMPTY_ROOT, LEAF_BEGUN, leaf_hash
from audit.personal import Sealer
from audit.tables import (
    LEASE,
    audit_checkpoints,
    audit_events,
    audit_head,
    audit_lease,
    audit_personal,
    audit_positions,
    audit_reach,
    audit_refused,
    audit_retention,
    audit_terms,
    audit_tiles,
)
from audit.tiles import StoredCheckpoints, split_hashes, tile_root

_PAGE: Final = 1_024
# Longer than any sequencer ever takes its lease for, with some disagreement of clocks.
_LEASE_BOUND: Final = timedelta(minutes=10)
_event = audit_events.c
_place = audit_positions.c.position
# Whoever puts a row in chooses its number.
_FIRST_ID: Final = -(2**63)
# What the columns say again of a body, beside the event's id.
_SAID: Final = (
    "at", "type", "class", "actor_id", "target_kind", "target_id", "outcome", "person_id", "organization_id",
    "application_id", "case_id", "delivery_id", "request_id", "ip",
)  # fmt: skip


# Read as bytes whatever tampering made of them: SQLite stores any type in any column.
_BYTES: Final = (cast(_event.body, LargeBinary).label("body"), cast(_event.leaf_hash, LargeBinary).label("leaf_hash"))


def verify_database(
    connection: Connection,
    keys: Sequence[VerifyingKey],
    witness: ReadableWitness | None = None,
    *,
    sealer: Sealer | None = None,
    now: datetime | None = None,
) -> VerifyResult:
    """Verify the live tables as `audit.verify` does an export; events without a checkpoint are `unproven`, no fault.

    With `sealer` the personal values and search terms beside the events are opened and compared too; with `now` the
    sequencer's lease is.

    Writes nothing. Call it in one snapshot (a read transaction).
    """
    seen, lost = witnessed_checkpoints(witness, keys) if witness else ([], [])
    checker = LogChecker(keys, seen, lost)
    heads = connection.execute(select(audit_head).order_by(audit_head.c.id)).all()
    head = next((one for one in heads if one.id == 1), None)
    if len(heads) > 1:
        checker.report("inserted", "the log has more than one head")
    size = head.size if head else 0
    notes = StoredCheckpoints(connection)
    tiles = _Tiles(connection, checker)
    beside = SideTables(connection, checker, sealer)
    start = _removed(connection, checker, notes, tiles)
    due = 0
    for page in _pages(connection, start):
        places, accompanied = _page_holds(checker, page)
        beside.compare(accompanied)
        for position, leaf in places:
            if position != checker.position:
                text = f"events {checker.position} to {position - 1} are missing"
                checker.report("missing", text, checker.position, position)
                checker.skip_to(position)
            if len(checker.leaves) == TILE_SIZE:
                checker.next_tile()
            if leaf is None:
                checker.report("missing", f"event {position} is missing", position)
                checker.skip_to(position + 1)
            else:
                checker.leaves.append(leaf)
                checker.result.events += 1
            if position + 1 >= due:
                due = _compare_here(checker, notes, tiles)
    if checker.position != size:
        what = "truncated" if checker.position < size else "inserted"
        text = f"the head counts {size} events, {checker.position} are here"
        checker.report(what, text, min(size, checker.position))
    if notes.next is not None:
        text = f"a checkpoint covers {notes.next[0]} events, {checker.position} are here"
        checker.report("truncated", text, checker.position)
    if head is not None:
        _head_holds(checker, head)
    _lease_holds(connection, checker, head, now)
    tiles.finish()
    _witnessed_are_kept(connection, checker, [one.size for one in seen if one.purpose == "checkpoint"])
    _retention_holds(connection, checker)
    beside.finish()
    result = checker.finish(allow_tail=True)
    result.unproven += _waiting_hold(connection, checker)
    _places_hold(connection, checker, has_head=head is not None)
    return result


class _Tiles:
    """Compares the stored tiles of every level with those that the leaves make, as they become complete."""

    def __init__(self, connection: Connection, checker: LogChecker) -> None:
        self._connection = connection
        self._checker = checker
        self._roots: list[list[bytes]] = []
        """For each level above the leaves, the roots of the tiles below that are complete, since the last whole one."""
        self._numbers: list[int] = []

    def leaf_tile(self, number: int) -> list[bytes] | None:
        """Return the stored hashes of a tile of leaves; compare what stands above them."""
        row = self._row(0, number)
        if row is None:
            return None
        hashes = split_hashes(stored_bytes(row.hashes))
        if len(hashes) == TILE_SIZE:
            self._above(0, number, tile_root(hashes), stored_bytes(row.root))
        return hashes

    def finish(self) -> None:
        """Find rows that no complete tile accounts for."""
        for level, count in enumerate([self._checker.position // TILE_SIZE, *self._numbers]):
            self._beyond(level, count)
        extra = self._connection.execute(
            select(audit_tiles.c.level).where((audit_tiles.c.level > len(self._numbers)) | (audit_tiles.c.level < 0))
        ).first()
        if extra is not None:
            self._checker.report("inserted", f"a tile of level {extra.level} is stored, which the log has not reached")

    def _beyond(self, level: int, count: int) -> None:
        extra = self._connection.execute(
            select(audit_tiles.c.tile)
            .where(audit_tiles.c.level == level, (audit_tiles.c.tile >= count) | (audit_tiles.c.tile < 0))
            .order_by(audit_tiles.c.tile)
            .limit(1)
        ).first()
        if extra is not None:
            place = max(0, extra.tile) * TILE_SIZE ** (level + 1)
            text = f"tile {extra.tile} of level {level} covers events that are not here"
            self._checker.report("inserted", text, place)

    def _above(self, level: int, number: int, root: bytes, stored_root: bytes) -> None:
        width = TILE_SIZE ** (level + 1)
        start = number * width
        if root != stored_root:
            text = f"the root stored for tile {number} of level {level} is not the one of its hashes"
            self._checker.report("tile", text, start, start + width)
        if len(self._roots) == level:
            self._roots.append([])
            self._numbers.append(0)
        waiting = self._roots[level]
        waiting.append(root)
        if len(waiting) < TILE_SIZE:
            return
        self._roots[level] = []
        above = self._numbers[level]
        self._numbers[level] += 1
        row = self._row(level + 1, above)
        start, width = above * width * TILE_SIZE, width * TILE_SIZE
        if row is None:
            self._checker.report("missing", f"tile {above} of level {level + 1} is missing", start, start + width)
            return
        if split_hashes(stored_bytes(row.hashes)) != waiting:
            text = f"tile {above} of level {level + 1} does not hold the roots of the tiles below"
            self._checker.report("tile", text, start, start + width)
        self._above(level + 1, above, tile_root(waiting), stored_bytes(row.root))

    def _row(self, level: int, number: int) -> Any:
        return self._connection.execute(
            select(
                cast(audit_tiles.c.hashes, LargeBinary).label("hashes"),
                cast(audit_tiles.c.root, LargeBinary).label("root"),
            ).where(audit_tiles.c.level == level, audit_tiles.c.tile == number)
        ).one_or_none()


def _removed(connection: Connection, checker: LogChecker, notes: StoredCheckpoints, tiles: _Tiles) -> int:
    """Take in the tiles of events that retention has removed; return the position to go on from."""
    through: int = connection.execute(select(func.max(audit_retention.c.through_position))).scalar_one() or 0
    first = connection.execute(select(func.min(_place))).scalar_one()
    removed = min(through, through if first is None else first - first % TILE_SIZE)
    for number in range(removed // TILE_SIZE):
        stored = tiles.leaf_tile(number)
        if stored is None:
            checker.report("missing", f"the hashes of tile {number} are missing", number * TILE_SIZE)
            checker.break_off()
        if checker.leaves:
            checker.next_tile()
        checker.leaves.extend(stored or [b""] * TILE_SIZE)
        checker.result.withheld += TILE_SIZE
        _compare_said(checker, notes)
    return checker.position


def _compare_here(checker: LogChecker, notes: StoredCheckpoints, tiles: _Tiles) -> int:
    """Compare with whatever was said about the log at exactly this size; return the next size to do so at."""
    position = checker.position
    if position % TILE_SIZE == 0:
        stored = tiles.leaf_tile(position // TILE_SIZE - 1)
        if stored is None:
            checker.report("missing", "a tile of hashes is missing", position - TILE_SIZE, position)
        else:
            checker.compare_tile(stored)
    _compare_said(checker, notes)
    due = [position - position % TILE_SIZE + TILE_SIZE]
    due += [notes.next[0]] if notes.next is not None else []
    seen = checker.witness_due()
    return min(due if seen is None else [*due, seen])


def _compare_said(checker: LogChecker, notes: StoredCheckpoints) -> None:
    for size, note, columns in notes.up_to(checker.position):
        signed = checker.checkpoint(note)
        if signed is not None and columns != (signed.size, signed.root, to_micros(signed.signed_at)):
            text = f"the columns of the checkpoint of size {size} do not say what it says"
            checker.report("edited", text, max(0, size - 1))
    checker.compare_witness()


def stored_bytes(value: Any) -> bytes:
    """Bytes of a column, also where tampering changed its type (SQLite lets it); those bytes then do not fit."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return b"" if value is None else str(value).encode("utf-8", "surrogateescape")


def _page_holds(
    checker: LogChecker, page: Sequence[Any]
) -> tuple[list[tuple[int, bytes | None]], list[tuple[int, str, dict[str, Any]]]]:
    """The columns of each event must say what its body says, and the stored hash must be the body's.

    Returns each place with its leaf (None: its event is gone), and which events (place, id, body) have something
    beside them, or should. One loop over bare tuples: this is done for every event that there ever was.
    """
    begin = LEAF_BEGUN.copy
    places: list[tuple[int, bytes | None]] = []
    accompanied: list[tuple[int, str, dict[str, Any]]] = []
    for position, event_id, old_position, stored_body, stored_hash, has_values, has_terms, *stored in page:
        if event_id is None:
            places.append((position, None))
            continue
        body = stored_body if type(stored_body) is bytes else stored_bytes(stored_body)
        begun = begin()
        begun.update(body)
        leaf = begun.digest()
        places.append((position, leaf))
        if leaf != stored_hash and leaf != stored_bytes(stored_hash):
            checker.report("edited", f"event {event_id} does not have the hash stored beside it", position)
        try:
            said: dict[str, Any] = orjson.loads(body)
            actor, target, find = said["actor"], said["target"], said.get
            columns = [
                said["event_id"], said["at"], said["type"], said["class"], actor["id"], target["kind"], target["id"],
                said["outcome"], find("person_id"), find("organization_id"), find("application_id"), find("case_id"),
                find("delivery_id"), find("request_id"), actor.get("ip"),
            ]  # fmt: skip
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            checker.report("edited", f"event {event_id} has no canonical body", position)
            continue
        if [event_id, *stored] != columns or (old_position is not None and old_position != position):
            checker.report("edited", f"the columns of event {event_id} do not say what it says", position)
        if has_values or has_terms or "personal" in said:
            accompanied.append((position, event_id, said))
    return places, accompanied


def _head_holds(checker: LogChecker, head: Any) -> None:
    frontier = checker.frontier()
    if frontier is None or frontier.size != head.size:
        return  # something worse was reported
    stored = (stored_bytes(head.root), stored_bytes(head.frontier))
    if stored != (frontier.root() if frontier.size else EMPTY_ROOT, frontier.to_bytes()):
        checker.report("edited", "the head of the log does not fit its events", max(0, head.size - 1))


def _lease_holds(connection: Connection, checker: LogChecker, head: Any, now: datetime | None) -> None:
    """The lease guards nothing but work; a forged one would stop the sequencer."""
    rows = connection.execute(select(audit_lease)).all()
    if head is None:
        return
    if [row.name for row in rows] != [LEASE]:
        checker.report("lease", "the sequencer's lease is missing, or another stands beside it")
        return
    if head.fencing > rows[0].fencing:
        checker.report("lease", "the head of the log was moved under a lease that was never given")
    if now is not None and rows[0].expires_at > to_micros(now + _LEASE_BOUND):
        checker.report("lease", "the sequencer's lease was given for longer than any sequencer asks")


def _witnessed_are_kept(connection: Connection, checker: LogChecker, sizes: Sequence[int]) -> None:
    """A checkpoint is stored before a witness gets it: one that is only there was removed here."""
    wanted = {size for size in sizes if size <= checker.position}
    if not wanted:
        return
    kept = set(connection.scalars(select(audit_checkpoints.c.size).order_by(audit_checkpoints.c.size)))
    for size in sorted(wanted - kept):
        checker.report("missing", f"the checkpoint of size {size}, which the witness has, is missing", size - 1)


def _retention_holds(connection: Connection, checker: LogChecker) -> None:
    """The newest decision that let events go must stand in the log itself, which nobody can write afterwards."""
    rows = connection.execute(select(audit_retention).order_by(audit_retention.c.through_position.desc())).all()
    if not rows:
        return
    said = {}
    for row in connection.execute(
        select(_event.actor_id, _event.at, *_BYTES).where(_event.type == EventType.AUDIT_PRUNED.value)
    ):
        try:
            details = orjson.loads(stored_bytes(row.body))["details"]
            said[details["through_position"], row.at, row.actor_id, details["reason"]] = True
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue
    newest = rows[0].through_position
    for row in rows:
        claim = (row.through_position, row.decided_at, row.actor_id, row.reason)
        # Older decisions may have gone with the events that a newer one removed.
        if claim not in said and (row.through_position == newest or checker.result.withheld == 0):
            text = f"events below {row.through_position} were removed, or may be, by a decision that is not in the log"
            checker.report("retention", text, 0, max(1, row.through_position))


def _waiting_hold(connection: Connection, checker: LogChecker) -> int:
    """Events that wait for their place must have the bytes that were appended, and must not have been passed over.

    Returns how many there are.
    """
    here = arrivals(connection)
    is_refused = exists().where(audit_refused.c.event_row == _event.id)
    is_passed = (here.are_behind() & ~is_refused) | _event.position.is_not(None)
    count, last_id = 0, _FIRST_ID
    while True:
        page = connection.execute(
            select(_event.id, _event.event_id, *_BYTES, is_passed.label("is_passed"))
            .where(~exists().where(audit_positions.c.event_row == _event.id), _event.id > last_id)
            .order_by(_event.id)
            .limit(_PAGE)
        ).all()
        for row in page:
            if leaf_hash(stored_bytes(row.body)) != stored_bytes(row.leaf_hash):
                checker.report("edited", f"event {row.event_id}, which has no place yet, was changed")
            elif row.is_passed:
                text = f"event {row.event_id} was put in where all have their place, or has lost its own"
                checker.report("inserted", text)
        count += len(page)
        if len(page) < _PAGE:
            return count
        last_id = page[-1].id


def _places_hold(connection: Connection, checker: LogChecker, *, has_head: bool) -> None:
    """Rows of the tables of places that no event accounts for."""
    reached = list(connection.scalars(select(audit_reach.c.id)))
    if reached != [1] and (has_head or reached):
        checker.report(
            "missing" if not reached else "inserted", "how far the sequencer came is said once, or not at all"
        )
    before = connection.execute(select(_place).where(_place < 0).limit(1)).scalar()
    if before is not None:
        checker.report("inserted", f"there is a place {before}, before the first")
    row = audit_refused.c.event_row
    untold = connection.execute(
        select(row)
        .where(
            or_(
                ~exists().where(_event.id == row),
                exists().where(audit_positions.c.event_row == row),
            )
        )
        .limit(1)
    ).scalar()
    if untold is not None:
        checker.report("inserted", f"audit_refused names a row, {untold}, that is no event without a place")


def _is_beside(table: Table) -> ColumnElement[Any]:
    """1 where the table has a row of the event.

    No EXISTS: PostgreSQL, which thinks of all events and not of one page, would read the whole table each time.
    """
    return (
        select(literal(1)).where(table.c.event_id == _event.event_id).limit(1).correlate(audit_events).scalar_subquery()
    )


def _pages(connection: Connection, start: int) -> Iterator[Sequence[Any]]:
    """Rows as `_page_holds` takes them, in the order of places."""
    statement = (
        select(
            _place,
            _event.event_id,
            _event.position,
            # As the driver gives them: the types of SQLAlchemy would look at each value once more.
            *(type_coerce(cast(column, LargeBinary), NullType()) for column in (_event.body, _event.leaf_hash)),
            *(_is_beside(table) for table in (audit_personal, audit_terms)),
            *(_event[name] for name in _SAID),
        )
        .outerjoin_from(audit_positions, audit_events, _event.id == audit_positions.c.event_row)
        .where(_place >= bindparam("start", type_=BigInteger))
        .order_by(_place)
        .limit(_PAGE)
    )
    while True:
        page = connection.execute(statement, {"start": start}).all()
        yield page
        if len(page) < _PAGE:
            return
        start = page[-1][0] + 1
