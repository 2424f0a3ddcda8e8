"""Every column of every table of the trail, changed by raw SQL, is found at its place or is named as harmless.

The cases are generated from the tables: a new column or table without a row here fails. Each case forges in a
transaction of a database's owner (no guards), verifies in the same transaction, and rolls back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, LargeBinary, Table, Text, delete, func, insert, select, update

from audit.checker import VerifyResult
from audit.errors import AuditError
from audit.events import Actor, EventType
from audit.export import export_jsonl
from audit.live import verify_database
from audit.retention import Decision, decide, remove
from audit.tables import (
    audit_checkpoints,
    audit_events,
    audit_head,
    audit_lease,
    audit_person_keys,
    audit_personal,
    audit_positions,
    audit_reach,
    audit_refused,
    audit_retention,
    audit_terms,
    audit_tiles,
    event_place,
    metadata,
)
from audit.trail import erase_person
from audit.verify import verify_export
from tests.audit.support import Trail, event
from tests.support.databases import DatabaseKind, Databases

HARMLESS = {
    ("audit_events", "xid"): "read only until an event has its place",
    ("audit_reach", "xid"): "too low: looked through again; too high: events that are passed over are found (below)",
    ("audit_reach", "event_row"): "as `xid`",
    ("audit_terms", "id"): "a surrogate key",
    ("audit_head", "updated_at"): "told to nobody",
    ("audit_lease", "owner_id"): "whoever holds the lease; it runs out by itself",
    ("audit_lease", "expires_at"): "a past one is free, one too far ahead is found (below)",
    ("audit_lease", "fencing"): "a higher one is given out next, one below the head's is found (below)",
}
EMPTY = {"audit_refused"}
"""Tables that hold nothing in an honest log; what is put into them is tested below."""
HERE = 400
"""Where an event is changed: in a complete tile, between two checkpoints."""


@dataclass(frozen=True)
class Case:
    """A column of a table, changed, emptied, or exchanged between two rows."""

    operation: str
    table: Table
    column: str

    def __str__(self) -> str:
        return f"{self.operation}-{self.table.name}.{self.column}"


def cases() -> list[Case]:
    made = []
    for table in metadata.sorted_tables:
        for column in table.columns:
            if table.name in EMPTY:
                continue
            made.append(Case("edit", table, column.name))
            if column.nullable:
                made.append(Case("empty", table, column.name))
    return made


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trail]:
    """560 events, some with personal values and terms; 256 gone by retention, one person erased; six checkpoints."""
    kind: DatabaseKind = request.param
    folder = tmp_path_factory.mktemp("told")
    with databases.fresh(kind, folder, migrated=False) as url:
        trail = Trail(url, folder)
        failed: dict[str, Any] = {"type": EventType.LOGIN_FAILED, "target_kind": "login"}
        for start in range(0, 560, 112):
            trail.append(
                *[
                    event(
                        number,
                        personal={"name": f"person {number}", "email": f"{number}@example.com"}
                        if number % 5 == 1
                        else {},
                        application_id="app_1",
                        case_id="cas_1",
                        delivery_id="dlv_1",
                        request_id="req_1",
                        reason="why",
                        actor=Actor("service", "svc_hr", "HR feed", ip="10.0.0.1"),
                        **(failed if number % 2 else {}),
                    )
                    for number in range(start, start + 112)
                ]
            )
            trail.seal()
        whole = verify_export(trail.export(), keys=trail.keys, witness=trail.witness)
        with trail.engine.begin() as connection:
            auditor = Actor("person", "per_auditor")
            decision = Decision(256, auditor, "13 months are over", trail.now)
            decide(connection, decision, exported=whole, sealer=trail.sealer)
            erase_person(connection, "per_331", actor=auditor, now=trail.now, sealer=trail.sealer)
        trail.seal()
        with trail.engine.begin() as connection:
            while remove(connection):
                pass
        trail.export("honest.jsonl")
        yield trail
        trail.engine.dispose()


@contextmanager
def forging(trail: Trail) -> Iterator[Connection]:
    """A database owner's transaction without guards; nothing of it stays."""
    with trail.engine.connect() as connection:
        if trail.is_postgresql:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars()
            for trigger in list(triggers):
                connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        try:
            yield connection
        finally:
            connection.rollback()


def verified(trail: Trail, connection: Connection) -> VerifyResult:
    return verify_database(connection, trail.keys, trail.witness, sealer=trail.sealer, now=trail.now)


def exported(trail: Trail, connection: Connection, folder: Path) -> VerifyResult | None:
    """What an export of the forged tables says, None when the export is refused or says what was there before."""
    path = folder / "forged.jsonl"
    try:
        lines = list(export_jsonl(connection, sign_with=trail.signer, now=trail.now))
    except AuditError:
        return None
    if said(lines) == said((trail.folder / "honest.jsonl").read_bytes().splitlines(keepends=True)):
        return None
    path.write_bytes(b"".join(lines))
    return verify_export(path, keys=trail.keys, witness=trail.witness)


def said(lines: list[bytes]) -> list[bytes]:
    """An export without its checkpoints: one more or less changes nothing that the others prove."""
    return [line for line in lines if not line.startswith(b'{"checkpoint"')]


def assert_found(result: VerifyResult, place: int | None) -> None:
    assert not result.is_valid
    assert result.exit_code == 1
    if place is None:
        return
    for one in result.findings:
        if one.position == place or (one.until is not None and one.position <= place < one.until):  # type: ignore[operator]
            return
    raise AssertionError(f"nothing is said of {place}: {result.findings[:5]}")


def victim(connection: Connection, table: Table) -> tuple[Any, int | None]:
    """One row of a table, as a condition, and the place that a finding about it must name (None: the whole log)."""
    placed = select(audit_events.c.event_id).where(event_place == HERE + 1).scalar_subquery()
    if table is audit_events:
        return event_place == HERE + 1, HERE + 1
    if table is audit_positions:
        return audit_positions.c.position == HERE + 1, HERE + 1
    if table is audit_terms:
        first = select(func.min(audit_terms.c.id)).where(audit_terms.c.event_id == placed).scalar_subquery()
        return audit_terms.c.id == first, HERE + 1
    if table is audit_personal:
        return table.c.event_id == placed, HERE + 1
    if table is audit_person_keys:
        key = select(audit_personal.c.key_id).where(audit_personal.c.event_id == placed).scalar_subquery()
        return audit_person_keys.c.id == key, HERE + 1
    if table is audit_tiles:
        return (audit_tiles.c.level == 0) & (audit_tiles.c.tile == HERE // 256), HERE
    if table is audit_checkpoints:
        return audit_checkpoints.c.size == 448, 447
    return table.c[next(iter(table.primary_key.columns)).name].is_not(None), None


def forged_value(column: Any, value: Any) -> Any:
    if isinstance(column.type, LargeBinary):
        return bytes([value[0] ^ 1]) + value[1:]
    if isinstance(column.type, Text) or hasattr(column.type, "length"):
        return (value or "") + "x"
    return (value or 0) + 100_000


@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_changed_column_is_found_at_its_place(told: Trail, tmp_path: Path, case: Case) -> None:
    """D35: by `verify` on the live tables; an export of them is refused, invalid, or says what was there before."""
    table, column = case.table, case.table.c[case.column]
    with forging(told) as connection:
        where, place = victim(connection, table)
        row = connection.execute(select(column).where(where)).first()
        assert row is not None
        value = None if case.operation == "empty" else forged_value(column, row[0])
        if value == row[0]:
            return  # it was empty
        changed = connection.execute(update(table).where(where).values({case.column: value})).rowcount
        assert changed >= 1
        result = verified(told, connection)
        if (table.name, case.column) in HARMLESS:
            assert result.findings == []
        else:
            assert_found(result, place)
        proof = exported(told, connection, tmp_path)
    assert proof is None or not proof.is_valid


def test_nothing_is_wrong_with_the_honest_trail(told: Trail) -> None:
    with forging(told) as connection:
        result = verified(told, connection)
        assert (result.findings, result.withheld, result.unproven) == ([], 256, 0)
        assert result.events == 562 - 256
    proof = verify_export(told.folder / "honest.jsonl", keys=told.keys, witness=told.witness)
    assert (proof.findings, proof.size, proof.withheld) == ([], 562, 256)


def test_every_harmless_column_exists() -> None:
    named = {(table.name, column.name) for table in metadata.sorted_tables for column in table.columns}
    assert named >= set(HARMLESS)


DELETIONS: dict[str, tuple[Any, int | None]] = {
    "audit_events": (event_place == HERE, HERE),
    "audit_events tail": (event_place >= 550, 550),
    "audit_events beginning": (event_place < 300, 256),
    "audit_events tile": ((event_place >= 256) & (event_place < 512), 256),
    "audit_events all": (audit_events.c.id > 0, 256),
    "audit_positions": (audit_positions.c.position == HERE, HERE),
    "audit_positions tail": (audit_positions.c.position >= 550, 550),
    "audit_positions beginning": (audit_positions.c.position < 300, 256),
    "audit_positions tile": ((audit_positions.c.position >= 256) & (audit_positions.c.position < 512), 256),
    "audit_positions all": (audit_positions.c.position >= 0, 256),
    "audit_reach": (audit_reach.c.id == 1, None),
    "audit_personal all": (audit_personal.c.event_id != "", 256),
    "audit_person_keys all": (audit_person_keys.c.id != "", 256),
    "audit_terms all": (audit_terms.c.id > 0, 261),
    "audit_tiles": ((audit_tiles.c.tile == 1), 256),
    "audit_tiles all": (audit_tiles.c.level >= 0, 0),
    "audit_head all": (audit_head.c.id == 1, 0),
    "audit_lease all": (audit_lease.c.name != "", None),
    "audit_checkpoints": (audit_checkpoints.c.size == 448, 447),
    "audit_checkpoints tail": (audit_checkpoints.c.size > 448, 559),
    "audit_checkpoints all": (audit_checkpoints.c.size > 0, 111),
    "audit_retention all": (audit_retention.c.through_position > 0, 0),
}


def test_every_table_has_a_deletion() -> None:
    assert {name.split(maxsplit=1)[0] for name in DELETIONS} == {table.name for table in metadata.sorted_tables} - EMPTY


@pytest.mark.parametrize("name", DELETIONS)
def test_deleted_rows_are_found_at_their_place(told: Trail, tmp_path: Path, name: str) -> None:
    """D36. A search term, a personal value: erased without an erasure in the log."""
    where, place = DELETIONS[name]
    table = metadata.tables[name.split(maxsplit=1)[0]]
    with forging(told) as connection:
        assert connection.execute(delete(table).where(where)).rowcount >= 1
        assert_found(verified(told, connection), place)
        proof = exported(told, connection, tmp_path)
    assert proof is None or not proof.is_valid


INSERTIONS: dict[str, tuple[dict[str, Any], int | None]] = {
    "audit_events": ({"id": -7, "event_id": "evt_forged"}, None),
    "audit_positions": ({"position": 562, "event_row": 999_999}, 562),
    "audit_reach": ({"id": 2}, None),
    "audit_person_keys": ({"id": "evt_forged"}, None),
    "audit_personal": ({"event_id": "evt_forged"}, None),
    "audit_terms": ({"id": 999_999, "event_id": "evt_forged"}, None),
    "audit_tiles": ({"tile": 99}, 99 * 256),
    "audit_head": ({"id": 2}, None),
    "audit_lease": ({"name": "sequencer2"}, None),
    "audit_checkpoints": ({"size": 449}, 448),
    "audit_retention": ({"through_position": 512}, 256),
}


@pytest.mark.parametrize("table", [one for one in metadata.sorted_tables if one.name not in EMPTY], ids=str)
def test_an_inserted_row_is_found(told: Trail, tmp_path: Path, table: Table) -> None:
    """D36: a copy of an honest row under another name."""
    changes, place = INSERTIONS[table.name]
    with forging(told) as connection:
        where, _ = victim(connection, table)
        row = connection.execute(select(table).where(where)).mappings().first()
        assert row is not None
        connection.execute(insert(table), [{**row, **changes}])
        assert_found(verified(told, connection), place)
        proof = exported(told, connection, tmp_path)
    assert proof is None or not proof.is_valid


@pytest.mark.parametrize("other", [HERE + 2, 530])
def test_swapped_events_are_found(told: Trail, tmp_path: Path, other: int) -> None:
    with forging(told) as connection:
        for old, new in ((HERE, -1), (other, HERE), (-1, other)):
            connection.execute(update(audit_positions).where(audit_positions.c.position == old).values(position=new))
        result = verified(told, connection)
        assert_found(result, HERE)
        if other < 512:  # beyond, no tile is complete and no checkpoint can be compared after the first fault
            assert_found(result, other)
        proof = exported(told, connection, tmp_path)
    assert proof is not None
    assert_found(proof, HERE)


def rehashed(connection: Connection, position: int) -> None:
    """What somebody does who knows how the log is made: body, columns, leaf hash, tile and its root fit again."""
    body = connection.execute(select(audit_events.c.body).where(event_place == position)).scalar_one()
    forged = bytes(body).replace(b'"svc_hr"', b'"svc_it"')
    leaf = hashlib.sha256(b"\x00" + forged).digest()
    connection.execute(
        update(audit_events).where(event_place == position).values(body=forged, leaf_hash=leaf, actor_id="svc_it")
    )
    tile = (audit_tiles.c.level == 0) & (audit_tiles.c.tile == position // 256)
    stored = connection.execute(select(audit_tiles.c.hashes).where(tile)).scalar_one_or_none()
    if stored is not None:
        from audit.tiles import split_hashes, tile_root

        hashes = split_hashes(bytes(stored))
        hashes[position % 256] = leaf
        connection.execute(update(audit_tiles).where(tile).values(hashes=b"".join(hashes), root=tile_root(hashes)))


@pytest.mark.parametrize("position", [300, HERE, 550])
def test_a_forger_without_the_key_is_found_between_two_checkpoints(told: Trail, tmp_path: Path, position: int) -> None:
    """Everything that can be computed is: the place is then known as narrowly as checkpoints were signed."""
    with forging(told) as connection:
        rehashed(connection, position)
        result = verified(told, connection)
        assert_found(result, position)
        proof = exported(told, connection, tmp_path)
    assert proof is not None
    assert_found(proof, position)
    for one in (*result.findings, *proof.findings):
        assert one.until is None or one.until - (one.position or 0) <= 112


def test_a_log_set_back_to_an_earlier_checkpoint_is_found_by_the_witness_alone(told: Trail, tmp_path: Path) -> None:
    """Whole tables cut to an older state that was once true, as a restored backup is."""
    from audit.merkle import Frontier

    with forging(told) as connection:
        leaves = connection.scalars(select(audit_events.c.leaf_hash).where(event_place < 448).order_by(event_place))
        gone = [bytes(one) for one in connection.scalars(select(audit_tiles.c.hashes).where(audit_tiles.c.tile == 0))]
        frontier = Frontier()
        frontier.extend([gone[0][start : start + 32] for start in range(0, 8_192, 32)])
        frontier.extend([bytes(one) for one in leaves])
        cut = select(audit_events.c.event_id).where(event_place >= 448).scalar_subquery()
        for table in (audit_terms, audit_personal):
            connection.execute(delete(table).where(table.c.event_id.in_(cut)))
        unused = select(audit_personal.c.key_id).scalar_subquery()
        connection.execute(delete(audit_person_keys).where(audit_person_keys.c.id.not_in(unused)))
        connection.execute(delete(audit_events).where(event_place >= 448))
        connection.execute(delete(audit_positions).where(audit_positions.c.position >= 448))
        connection.execute(delete(audit_tiles).where(audit_tiles.c.tile >= 1))
        connection.execute(delete(audit_checkpoints).where(audit_checkpoints.c.size > 448))
        connection.execute(update(audit_head).values(size=448, root=frontier.root(), frontier=frontier.to_bytes()))
        alone = verify_database(connection, told.keys, sealer=told.sealer)
        # Retention and erasure were decided later than this state: that shows even without a witness.
        assert {one.kind for one in alone.findings} == {"retention", "missing"}
        findings = verified(told, connection).findings
    assert ("truncated", 448) in {(one.kind, one.position) for one in findings}


def test_an_event_that_the_sequencer_would_pass_over_is_found(told: Trail) -> None:
    """Put in behind the point that the sequencer has reached, or that point moved past events that wait."""
    with forging(told) as connection:
        row = connection.execute(select(audit_events).where(event_place == HERE)).mappings().one()
        forged = {**row, "id": 999_999, "event_id": "evt_forged"}
        connection.execute(insert(audit_events), [forged])
        connection.execute(update(audit_reach).values(event_row=999_999 if not told.is_postgresql else 2**62))
        result = verified(told, connection)
        assert {one.kind for one in result.findings} == {"inserted"}
        assert "evt_forged" in result.findings[0].text
        # To call it refused excuses it only where it was changed.
        connection.execute(insert(audit_refused), [{"event_row": 999_999}])
        assert verified(told, connection).findings == []
        connection.execute(update(audit_events).where(audit_events.c.id == 999_999).values(body=b"{}"))
        assert [one.kind for one in verified(told, connection).findings] == ["edited"]


@pytest.mark.parametrize("row", [-5, None])
def test_a_refusal_of_no_waiting_event_is_found(told: Trail, row: int | None) -> None:
    with forging(told) as connection:
        placed = select(audit_positions.c.event_row).where(audit_positions.c.position == HERE)
        named = row if row is not None else connection.execute(placed).scalar_one()
        connection.execute(insert(audit_refused), [{"event_row": named}])
        assert [one.kind for one in verified(told, connection).findings] == ["inserted"]


def test_a_lease_that_would_stop_the_sequencer_is_found(told: Trail) -> None:
    with forging(told) as connection:
        connection.execute(update(audit_lease).values(owner_id="nobody", expires_at=2**62))
        assert [one.kind for one in verified(told, connection).findings] == ["lease"]
    with forging(told) as connection:
        connection.execute(update(audit_head).values(fencing=audit_head.c.fencing + 1))
        assert [one.kind for one in verified(told, connection).findings] == ["lease"]


def test_a_removed_lease_does_not_stop_the_sequencer(trail: Trail) -> None:
    for _ in range(3):
        trail.fill(1)
        trail.now += trail.sequencer._interval
    with trail.without_guards() as connection:
        connection.execute(update(audit_lease).values(fencing=9, expires_at=0))
    trail.fill(1)
    with trail.without_guards() as connection:
        connection.execute(delete(audit_lease))
    trail.fill(1)
    with trail.engine.connect() as connection:
        assert connection.execute(select(func.max(audit_positions.c.position))).scalar_one() == 4
        assert verify_database(connection, trail.keys, trail.witness).findings == []
