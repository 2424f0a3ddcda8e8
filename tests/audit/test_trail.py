"""Appending, guards and erasure, on both databases."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from audit.errors import AuditError, InvalidEvent
from audit.events import Actor, EventType
from audit.live import verify_database
from audit.merkle import leaf_hash
from audit.search import Query, search
from audit.tables import audit_events, audit_person_keys, audit_personal, audit_terms
from audit.tiles import prove
from audit.trail import (
    INSERT_COLUMNS,
    append,
    erase_person,
    erase_text,
    event_rows,
    insert,
    insert_statement,
    position_of,
)
from audit.verify import verify_export
from tests.audit.support import AT_PLACE, MemorySealer, Trail, event

PERSONAL = {"name": "张三", "email": "zhang.san@example.com"}


def counts(trail: Trail) -> tuple[int, ...]:
    with trail.engine.connect() as connection:
        return tuple(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (audit_events, audit_person_keys, audit_personal, audit_terms)
        )


def test_what_is_stored_is_what_is_hashed(trail: Trail) -> None:
    [event_id] = trail.append(event(7, details={"é": "張\n三"}))
    with trail.engine.connect() as connection:
        row = connection.execute(select(audit_events)).one()
    body = bytes(row.body)
    assert bytes(row.leaf_hash) == leaf_hash(body)
    said = orjson.loads(body)
    assert (said["event_id"], said["at"], said["person_id"]) == (row.event_id, row.at, row.person_id)
    assert row.event_id == event_id
    assert (row.xid is not None) == trail.is_postgresql


def test_events_vanish_with_their_transaction(trail: Trail) -> None:
    with pytest.raises(RuntimeError), trail.engine.begin() as connection:
        append(connection, [event(1, personal=PERSONAL)] * 40, sealer=trail.sealer)
        raise RuntimeError
    assert counts(trail) == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [1, 40])
def test_what_the_database_refuses_is_one_kind_of_error_whatever_the_size(trail: Trail, size: int) -> None:
    """Large batches go by COPY on PostgreSQL: whoever retries or translates must not need to know."""
    rows = event_rows([event(number) for number in range(size)], sealer=trail.sealer)
    for expected in (None, IntegrityError):
        with trail.engine.begin() as connection:
            if expected is None:
                insert(connection, rows)
                continue
            with pytest.raises(expected):
                insert(connection, rows)
            connection.rollback()


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("size", [1, 9, 40])
def test_a_connection_that_is_lost_meanwhile_is_told_as_one_and_given_to_nobody(trail: Trail, size: int) -> None:
    with trail.engine.connect() as connection:
        own = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with trail.engine.begin() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({own}, 5000)")
        with pytest.raises(OperationalError) as raised:
            append(connection, [event(number) for number in range(size)], sealer=trail.sealer)
        assert raised.value.connection_invalidated
        assert connection.invalidated
    trail.append(event(1))
    assert counts(trail)[0] == 1


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 1_000])
def test_a_batch_of_any_size_keeps_its_order(trail: Trail, size: int) -> None:
    ids = trail.append(*[event(number, personal={"name": f"n{number}\t"}) for number in range(size)])
    with trail.engine.connect() as connection:
        stored = connection.scalars(select(audit_events.c.event_id).order_by(audit_events.c.id)).all()
    assert stored == ids
    assert counts(trail)[1:3] == (size, size)


def test_a_refused_event_refuses_its_batch(trail: Trail) -> None:
    with pytest.raises(InvalidEvent):
        trail.append(event(1), event(2, details={"x": 0.5}))
    assert counts(trail)[0] == 0


def test_appending_nothing_writes_nothing(trail: Trail) -> None:
    assert trail.append() == []


def test_a_bare_driver_inserts_the_same_rows(sqlite_trail: Trail) -> None:
    rows = event_rows([event(1, personal=PERSONAL), event(2)], sealer=sqlite_trail.sealer)
    driver = sqlite3.connect(str(sqlite_trail.engine.url.database))
    for table, values in rows.tables():
        assert all(len(one) == len(INSERT_COLUMNS[table]) for one in values)
        driver.executemany(insert_statement(table, "qmark"), values)
    driver.commit()
    driver.close()
    with sqlite_trail.engine.connect() as connection:
        found = search(connection, Query(person_id="per_1"), sealer=sqlite_trail.sealer)
    assert found.records[0].personal == PERSONAL
    assert insert_statement("audit_person_keys", "numeric_dollar").endswith("VALUES ($1, $2, $3)")


def test_personal_values_are_nowhere_in_clear(trail: Trail) -> None:
    trail.append(event(1, type=EventType.LOGIN_FAILED, person_id=None, target_id="-", personal=PERSONAL))
    trail.append(event(2, personal=PERSONAL))
    with trail.engine.connect() as connection:
        for table in (audit_events, audit_person_keys, audit_personal, audit_terms):
            rows = connection.execute(select(table)).all()
            assert rows, table.name
            for row in rows:
                for value in row:
                    held = bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode()
                    assert "张三".encode() not in held
                    assert b"zhang.san" not in held


def test_a_commitment_is_salted_hash_of_field_and_value(trail: Trail) -> None:
    """Two events about the same value have different commitments; each opens with its own salt."""
    rows = event_rows([event(1, personal=PERSONAL), event(1, personal=PERSONAL)], sealer=trail.sealer)
    commitments = [orjson.loads(row[INSERT_COLUMNS["audit_events"].index("body")])["personal"] for row in
                   rows.audit_events]  # fmt: skip
    assert set(commitments[0]) == set(PERSONAL)
    assert not set(commitments[0].values()) & set(commitments[1].values())
    assert commitments[0]["name"] != hashlib.sha256(b"name\x00" + "张三".encode()).hexdigest()


@pytest.mark.parametrize("field", ["Name", "", "a b", "x" * 65, "名", "a\x00b"])
def test_a_personal_field_needs_a_plain_name(field: str) -> None:
    with pytest.raises(InvalidEvent, match="name of a personal value"):
        event_rows([event(1, personal={field: "x"})], sealer=MemorySealer())


@pytest.mark.parametrize("count", [1, 31, 32, 100])
def test_a_batch_of_any_size_is_there_after_the_commit(trail: Trail, count: int) -> None:
    """Also when appending is the first thing that a connection does."""
    with trail.engine.connect() as connection:
        append(connection, [event(number) for number in range(count)], sealer=trail.sealer)
        connection.commit()
    assert counts(trail)[0] == count


def by(trail: Trail) -> dict[str, Any]:
    return {"actor": Actor("person", "per_officer"), "now": trail.now, "sealer": trail.sealer}


def test_erasing_a_person_leaves_every_proof(trail: Trail) -> None:
    ids = trail.append(
        event(1, personal=PERSONAL),
        event(1, type=EventType.LOGIN_FAILED, personal={"username": "zhangsan"}),
        event(2, personal={"name": "李四"}),
    )
    trail.seal()
    exported_before = trail.export("before.jsonl").read_bytes()
    with trail.engine.begin() as connection:
        assert erase_person(connection, "per_1", **by(trail)) == 2
    assert counts(trail) == (4, 1, 1, 0)
    with trail.engine.connect() as connection:
        assert verify_database(connection, trail.keys, trail.witness, sealer=trail.sealer).findings == []
        proof = prove(connection, ids[0])
        erased = search(connection, Query(person_id="per_1"), sealer=trail.sealer).records
        kept = search(connection, Query(person_id="per_2"), sealer=trail.sealer).records
        assert search(connection, Query(personal_text="zhangsan"), sealer=trail.sealer).records == []
    assert proof is not None
    assert erased[0].type == EventType.PERSON_ERASED
    assert [record.personal for record in erased[1:]] == [{"username": None}, {"name": None, "email": None}]
    assert not any(record.is_tampered for record in erased)
    assert kept[0].personal == {"name": "李四"}
    after = trail.export("after.jsonl", reveal=True)
    assert verify_export(after, keys=trail.keys, witness=trail.witness).is_valid
    assert "张三".encode() not in after.read_bytes()
    assert exported_before == trail.export("again.jsonl").read_bytes()


def test_erasing_a_person_leaves_others_of_the_batch(trail: Trail) -> None:
    trail.append(event(1, personal=PERSONAL), event(2, personal=PERSONAL))
    with trail.engine.begin() as connection:
        assert erase_person(connection, "per_nobody", **by(trail)) == 0
        assert erase_person(connection, "per_1", **by(trail)) == 1
    assert counts(trail) == (3, 1, 1, 0)


def test_what_was_typed_by_nobody_known_is_erased_by_its_text(trail: Trail) -> None:
    failed = {"type": EventType.LOGIN_FAILED, "person_id": None, "target_kind": "login", "target_id": "-"}
    trail.append(
        event(1, **failed, personal={"username": "Eve@Example.com"}),
        event(2, **failed, personal={"username": "other"}),
    )
    with trail.engine.begin() as connection:
        found = search(connection, Query(personal_text=" eve@example.COM "), sealer=trail.sealer).records
        assert [one.personal for one in found] == [{"username": "Eve@Example.com"}]
        assert erase_text(connection, "eve@example.com", **by(trail)) == 1
        assert search(connection, Query(personal_text="eve@example.com"), sealer=trail.sealer).records == []
    assert counts(trail) == (3, 1, 1, 1)
    trail.seal()
    with trail.engine.connect() as connection:
        assert verify_database(connection, trail.keys, trail.witness, sealer=trail.sealer).findings == []


def test_changed_personal_values_are_shown_as_tampered(trail: Trail) -> None:
    ids = trail.append(event(1, personal=PERSONAL), event(2, personal=PERSONAL))
    with trail.without_guards() as connection:
        one, other = (
            connection.execute(select(audit_personal).where(audit_personal.c.event_id == event_id)).one()
            for event_id in ids
        )
        connection.execute(
            audit_personal.update()
            .where(audit_personal.c.event_id == ids[0])
            .values(sealed_values=other.sealed_values, key_id=other.key_id)
        )
        assert one.sealed_values != other.sealed_values
    with trail.engine.connect() as connection:
        records = {record.event_id: record for record in search(connection, Query(), sealer=trail.sealer).records}
    assert records[ids[0]].is_tampered
    assert records[ids[0]].personal == {"name": None, "email": None}
    assert not records[ids[1]].is_tampered


def test_an_unreadable_body_is_still_found_and_marked(trail: Trail) -> None:
    trail.append(event(1))
    with trail.without_guards() as connection:
        connection.execute(audit_events.update().values(body=b"not json"))
    with trail.engine.connect() as connection:
        [record] = search(connection, Query(), sealer=trail.sealer).records
    assert record.is_tampered
    assert record.target_id == "per_1"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET body = body WHERE " + AT_PLACE.format("= 3"),
        "UPDATE audit_events SET actor_id = 'x'",
        "UPDATE audit_events SET \"class\" = 'access'",
        "UPDATE audit_events SET position = 99",
        "UPDATE audit_positions SET position = 99 WHERE position = 3",
        "UPDATE audit_positions SET event_row = 99 WHERE position = 3",
        "DELETE FROM audit_positions WHERE position = 3",
        "DELETE FROM audit_events WHERE " + AT_PLACE.format("= 3"),
        "DELETE FROM audit_events WHERE id NOT IN (SELECT event_row FROM audit_positions)",
        "INSERT INTO audit_lease VALUES ('sequencer', 'the version before', 1, 1)",
        "UPDATE audit_checkpoints SET note = 'x'",
        "DELETE FROM audit_checkpoints",
        "UPDATE audit_tiles SET root = root",
        "DELETE FROM audit_tiles",
        "UPDATE audit_head SET size = size - 1",
        "DELETE FROM audit_head",
        "UPDATE audit_personal SET sealed_values = sealed_values",
    ],
)
def test_the_trail_is_insert_only(trail: Trail, statement: str) -> None:
    trail.append(event(0, personal=PERSONAL))
    trail.fill(300)
    trail.append(event(9))
    with pytest.raises(DBAPIError, match="is insert-only"), trail.engine.begin() as connection:
        connection.execute(text(statement))


def test_truncate_is_refused(trail: Trail) -> None:
    trail.fill(3)
    if trail.is_postgresql:
        for table in ("audit_events", "audit_positions"):
            with pytest.raises(DBAPIError, match="is insert-only"), trail.engine.begin() as connection:
                connection.execute(text(f"TRUNCATE {table}"))


def test_two_events_cannot_have_one_place(trail: Trail) -> None:
    trail.fill(2)
    trail.append(event(5))
    for values in (
        "SELECT 1, MAX(id) FROM audit_events",
        "SELECT 2, event_row FROM audit_positions WHERE position = 1",
    ):
        with pytest.raises(DBAPIError, match=r"(?i)unique"), trail.engine.begin() as connection:
            connection.execute(text(f"INSERT INTO audit_positions (position, event_row) {values}"))


def test_positions_are_told(trail: Trail) -> None:
    ids = trail.fill(3)
    [waiting] = trail.append(event(9))
    with trail.engine.connect() as connection:
        assert [position_of(connection, one) for one in ids] == [0, 1, 2]
        assert position_of(connection, waiting) is None
        assert prove(connection, waiting) is None
        for asked in (position_of, prove):
            with pytest.raises(AuditError, match="no such event"):
                asked(connection, "evt_unknown")


def test_guards_may_be_installed_again(trail: Trail) -> None:
    from audit.trail import install_guards

    with trail.engine.begin() as connection:
        install_guards(connection)


INJECTIONS: list[Any] = [
    "' OR 1=1 --",
    "%",
    "_",
    "per_%",
    "*",
    "\\",
    "\x00",
    "\ud800",
    "'; DROP TABLE audit_events; --",
]


@pytest.mark.parametrize("field", ["actor_id", "action", "target_id", "target_kind", "outcome", "ip", "request_id",
                                   "person_id", "application_id", "personal_text", "case_id"])  # fmt: skip
def test_a_search_takes_every_text_literally(trail: Trail, field: str) -> None:
    """G06: no SQL, no LIKE, no expression gets through."""
    trail.append(event(1, request_id="r", application_id="app_1"))
    with trail.engine.connect() as connection:
        for injection in INJECTIONS:
            assert search(connection, Query(**{field: injection}), sealer=trail.sealer).records == []
        assert len(search(connection, Query(), sealer=trail.sealer).records) == 1
