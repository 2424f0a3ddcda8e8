"""Searching: filters, scope, pages."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.event import listen

from audit.errors import InvalidQuery
from audit.events import FORMER_TYPES, Actor, EventClass, EventType
from audit.live import verify_database
from audit.search import Query, count, get, search
from audit.verify import verify_export
from tests.audit.support import NOW, Trail, event


def found(trail: Trail, **filters: object) -> list[str]:
    with trail.engine.connect() as connection:
        return [
            one.target_id
            for one in search(connection, Query(**filters), sealer=trail.sealer).records  # type: ignore[arg-type]
        ]


@pytest.fixture
def filled(trail: Trail) -> Trail:
    trail.append(
        event(1, actor=Actor("person", "per_9", ip="10.0.0.1"), request_id="req_1"),
        event(2, type=EventType.LOGIN_FAILED, outcome="failure", application_id="app_1", organization_id="org_2"),
        event(3, type=EventType.PERSON_OFFBOARDED, case_id="cas_1", organization_id="org_2"),
        event(
            4,
            target_kind="application",
            target_id="per_3",
            application_id="per_3",
            person_id=None,
            organization_id=None,
        ),
    )
    return trail


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["per_3", "per_3", "per_2", "per_1"]),
        ({"actor_id": "per_9"}, ["per_1"]),
        ({"ip": "10.0.0.1"}, ["per_1"]),
        ({"request_id": "req_1"}, ["per_1"]),
        ({"outcome": "failure"}, ["per_2"]),
        ({"application_id": "app_1"}, ["per_2"]),
        ({"case_id": "cas_1"}, ["per_3"]),
        ({"action": "person.offboarded"}, ["per_3"]),
        ({"action": "person."}, ["per_3", "per_3", "per_1"]),
        ({"action": "person"}, []),
        ({"action": "."}, []),
        ({"action": ""}, []),
        ({"target_id": "per_3"}, ["per_3", "per_3"]),
        ({"target_id": "per_3", "target_kind": "person"}, ["per_3"]),
        ({"target_id": "per_3", "target_kind": "application"}, ["per_3"]),
        ({"person_id": "per_3"}, ["per_3"]),
        ({"organization_ids": ["org_2"]}, ["per_3", "per_2"]),
        ({"organization_ids": ["org_1", "org_2"]}, ["per_3", "per_2", "per_1"]),
        ({"organization_ids": []}, []),
        ({"organization_ids": ["org_2"], "person_id": "per_1"}, []),
        ({"from_at": NOW + timedelta(milliseconds=3)}, ["per_3", "per_3"]),
        ({"to_at": NOW + timedelta(milliseconds=3)}, ["per_2", "per_1"]),
    ],
)
def test_filters(filled: Trail, filters: dict[str, object], expected: list[str]) -> None:
    assert found(filled, **filters) == expected


def test_types_that_nothing_writes_any_more_are_proven_and_found(trail: Trail) -> None:
    """Logs written earlier hold them."""
    for number, name in enumerate(FORMER_TYPES):
        with pytest.raises(ValueError, match="not a valid"):
            EventType(name)
        former = str.__new__(EventType, name)
        former._value_, former.event_class = name, EventClass.CREDENTIAL
        trail.append(event(number, type=former))
    trail.append(event(9, type=EventType.SESSION_ENDED))
    trail.seal()
    assert found(trail, action="session.") == ["per_9", "per_2", "per_1"]
    assert found(trail, action="code.redeemed") == ["per_0"]
    with trail.engine.connect() as connection:
        assert verify_database(connection, trail.keys, trail.witness).is_valid
    exported = trail.export()
    assert verify_export(exported, keys=trail.keys, witness=trail.witness).is_valid
    assert all(name.encode() in exported.read_bytes() for name in FORMER_TYPES)


def test_scope_holds_for_counting_too(filled: Trail) -> None:
    with filled.engine.connect() as connection:
        assert count(connection, Query(organization_ids=["org_2"]), sealer=filled.sealer) == (2, True)
        assert count(connection, Query(organization_ids=[]), sealer=filled.sealer) == (0, True)


def test_pages_meet_without_gap_or_overlap_even_within_one_instant(trail: Trail) -> None:
    ids = trail.append(*[event(number, at=NOW + timedelta(seconds=number // 10)) for number in range(45)])
    seen: list[str] = []
    cursor = None
    with trail.engine.connect() as connection:
        while True:
            page = search(connection, Query(size=7, after=cursor), sealer=trail.sealer)
            seen += [one.event_id for one in page.records]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert seen == ids[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "!!", "MTIz", "MS4yLjM", "é", base64.b64encode(b"1.%d" % 2**64).decode(),
                                    base64.b64encode(b"1.1 OR 1=1").decode()])  # fmt: skip
def test_a_broken_cursor_is_refused(trail: Trail, cursor: str) -> None:
    with trail.engine.connect() as connection, pytest.raises(InvalidQuery, match="cursor is not one of ours"):
        search(connection, Query(after=cursor), sealer=trail.sealer)


@pytest.mark.parametrize("size", [0, -1, 501])
def test_a_page_has_a_size(trail: Trail, size: int) -> None:
    with trail.engine.connect() as connection, pytest.raises(InvalidQuery, match="1 to 500"):
        search(connection, Query(size=size), sealer=trail.sealer)


def test_an_empty_range_is_refused(trail: Trail) -> None:
    with trail.engine.connect() as connection, pytest.raises(InvalidQuery, match="range of time is empty"):
        search(connection, Query(from_at=NOW, to_at=NOW), sealer=trail.sealer)


def test_one_event_is_read_by_its_id(filled: Trail) -> None:
    with filled.engine.connect() as connection:
        newest = search(connection, Query(size=1), sealer=filled.sealer).records[0]
        assert get(connection, newest.event_id, sealer=filled.sealer) == newest
        assert get(connection, "evt_unknown", sealer=filled.sealer) is None


# PostgreSQL chooses by the rows there are.
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "index"),
    [
        ("person", "ix_audit_events_person_id"),
        ("application", "ix_audit_events_application_id"),
        ("delivery", "ix_audit_events_delivery_id"),
        ("session", "ix_audit_events_target"),
    ],
)
def test_a_target_is_found_by_an_index_in_the_order_of_the_page(filled: Trail, kind: str, index: str) -> None:
    """The log grows for ever: nobody reads all of it, nor sorts all that a busy target has, for one page."""
    asked: list[tuple[str, Any]] = []
    listen(filled.engine, "before_cursor_execute", lambda _c, _k, sent, given, _x, _m: asked.append((sent, given)))
    with filled.engine.connect() as connection:
        search(connection, Query(target_kind=kind, target_id="x"), sealer=filled.sealer)
        statement, given = asked[0]
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)]
    assert any(index in line for line in plan), plan
    assert not any("TEMP B-TREE" in line or line.startswith("SCAN") for line in plan), plan
