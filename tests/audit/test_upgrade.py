"""From logs whose places stood beside the events (before r0022) to places of their own: nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.events import to_micros
from audit.live import verify_database
from audit.merkle import Frontier
from audit.tables import (
    audit_checkpoints,
    audit_events,
    audit_head,
    audit_lease,
    audit_positions,
    audit_reach,
    audit_tiles,
    event_place,
)
from audit.tiles import tile_root
from audit.trail import append
from tests.audit.support import NOW, ORIGIN, Trail, event
from tests.support.migrating import migrate_to

SEALED, WAITING = 300, 3


def seal_as_before(connection: Connection, trail: Trail) -> None:
    """What the sequencer of the version before wrote for all events that are there."""
    rows = connection.execute(select(audit_events.c.id, audit_events.c.leaf_hash).order_by(audit_events.c.id)).all()
    for position, row in enumerate(rows):
        connection.execute(update(audit_events).where(audit_events.c.id == row.id).values(position=position))
    leaves = [bytes(row.leaf_hash) for row in rows]
    tree = Frontier()
    tree.extend(leaves)
    first = leaves[:256]
    connection.execute(
        insert(audit_tiles), [{"level": 0, "tile": 0, "root": tile_root(first), "hashes": b"".join(first)}]
    )
    head = {"id": 1, "size": tree.size, "frontier": tree.to_bytes(), "root": tree.root(), "fencing": 7}
    connection.execute(insert(audit_head), [{**head, "updated_at": to_micros(NOW)}])
    connection.execute(
        insert(audit_lease), [{"name": "sequencer", "owner_id": "before", "fencing": 7, "expires_at": 2**60}]
    )
    note = sign_checkpoint(Checkpoint(ORIGIN, tree.size, tree.root(), NOW), trail.signer)
    signed = {"size": tree.size, "root": tree.root(), "signed_at": to_micros(NOW), "note": note}
    connection.execute(insert(audit_checkpoints), [signed])


@contextmanager
def old_log(url: str, folder: Path) -> Iterator[Trail]:
    """A log of the version before, with events that have their place and some that wait for it; then migrated."""
    migrate_to(url, "r0021")
    trail = Trail(url, folder, is_migrated=True)
    with trail.engine.begin() as connection:
        append(connection, [event(number) for number in range(SEALED)], sealer=trail.sealer)
    with trail.engine.begin() as connection:
        seal_as_before(connection, trail)
    trail.append(*[event(number) for number in range(WAITING)])
    migrate_to(url, "head")
    yield trail
    trail.engine.dispose()


def test_an_old_log_goes_on_and_verifies(database_url: str, tmp_path: Path) -> None:
    with old_log(database_url, tmp_path) as trail:
        with trail.engine.connect() as connection:
            before = verify_database(connection, trail.keys)
        assert (before.findings, before.events, before.unproven) == ([], SEALED, WAITING)
        trail.append(event(9))
        trail.seal()
        with trail.engine.connect() as connection:
            result = verify_database(connection, trail.keys, trail.witness)
            in_order = connection.scalars(
                select(event_place).select_from(audit_events).order_by(audit_events.c.id)
            ).all()
        assert (result.findings, result.events, result.unproven) == ([], SEALED + WAITING + 1, 0)
        assert in_order == list(range(SEALED + WAITING + 1))


def test_the_version_before_appends_but_places_nothing(database_url: str, tmp_path: Path) -> None:
    """Its sequencer fails at the first thing that it does: no place is given twice, no lease is in the way."""
    taking = "INSERT INTO audit_lease (name, owner_id, fencing, expires_at) VALUES ('sequencer', 'before', 0, 0)"
    placing = f"UPDATE audit_events SET position = {SEALED} WHERE id = (SELECT MAX(id) FROM audit_events)"
    with old_log(database_url, tmp_path) as trail:
        for statement in (taking, placing):
            with pytest.raises(DBAPIError, match="is insert-only"), trail.engine.begin() as connection:
                connection.execute(text(statement))
        trail.append(event(8))  # as that version does: the statement is the same
        trail.seal()
        with trail.engine.connect() as connection:
            assert verify_database(connection, trail.keys).events == SEALED + WAITING + 1


def test_a_place_that_is_said_twice_must_be_the_same(database_url: str, tmp_path: Path) -> None:
    with old_log(database_url, tmp_path) as trail:
        trail.seal()
        with trail.without_guards() as connection:
            connection.execute(update(audit_events).where(event_place == 20).values(position=SEALED + 50))
        with trail.engine.connect() as connection:
            findings = verify_database(connection, trail.keys).findings
        assert [(one.kind, one.position) for one in findings] == [("edited", 20)]


def test_places_that_were_copied_cannot_be_changed(database_url: str, tmp_path: Path) -> None:
    with old_log(database_url, tmp_path) as trail:
        for statement in (
            "UPDATE audit_positions SET position = 900 WHERE position = 7",
            "DELETE FROM audit_positions",
        ):
            with pytest.raises(DBAPIError, match="is insert-only"), trail.engine.begin() as connection:
                connection.execute(text(statement))
        with trail.engine.connect() as connection:
            assert connection.execute(select(func.count()).select_from(audit_positions)).scalar_one() == SEALED


def test_an_empty_log_begins_at_nothing(database_url: str, tmp_path: Path) -> None:
    migrate_to(database_url, "head")
    trail = Trail(database_url, tmp_path, is_migrated=True)
    with trail.engine.connect() as connection:
        assert connection.execute(select(audit_reach)).all() == []
        assert verify_database(connection, trail.keys).findings == []
    trail.fill(2)
    with trail.engine.connect() as connection:
        assert verify_database(connection, trail.keys, trail.witness).events == 2
    trail.engine.dispose()
