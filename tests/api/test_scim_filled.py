"""Lists over tables that are full, of documents too: both databases walk the index of what is asked for, page by page.

What is asked for with a document has tempted planners before: to join all documents in their order, or to read them all
first. So it is not the plan alone that is looked at: PostgreSQL says how many rows were read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from idhub.db import bulk_insert
from idhub.directory.tables import Employment, LoginName, Person, Principal
from idhub.provisioning.inbound.tables import ScimDocument, ScimUser
from scim.schemas import ENTERPRISE_USER
from tests.api.shared_hub import shared_hub
from tests.api.test_scim import Scim
from tests.api.world import Api
from tests.support.databases import DatabaseKind, Databases
from tests.support.plans import explained, rows_read, statements_of

_PEOPLE = 4_000
_START: str | None = ""
_SHOWN = 20
_MOST_READ = 1_200
"""Rows of a page of 20: some ten each, and a stride of 500 where the database must look at each one."""
_MOST_STEPPED = 1_600
"""Of who is limited, the same and a step through the index of names: of these there are 1,111."""
_SINCE = {"filter": 'meta.lastModified ge "2020-01-01T00:00:00Z"'}
_QUERIES: tuple[Mapping[str, str], ...] = (
    {},
    _SINCE,
    {"filter": 'displayName sw "ada 1"'},
    {"filter": 'userName sw "ada1"'},
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """People of whom every fourth is of another company, and every third was named by a sender; each has a document."""
    kind: DatabaseKind = request.param
    with shared_hub(databases, kind, tmp_path_factory.mktemp("filled")) as api:
        _fill(api)
        scim, cursor = Scim(api), _START
        while cursor is not None:
            cursor = scim.ok("GET", "/Users", params={"cursor": cursor, "count": "1000"}).get("nextCursor")
        yield api


def _fill(api: Api) -> None:
    now, world = api.world.clock(), api.world
    principals, people, posts, names, said = [], [], [], [], []
    for number in range(_PEOPLE):
        person, company = f"per_{number:026}", world.hq if number % 4 else world.berlin
        mail = f"ada{number}@corp.example"
        times = {"created_at": now, "changed_at": now}
        principals.append({
            "id": person, "kind": "person", "organization_id": company, "standing": "active", "access_starts_at": now,
            **times,
        })  # fmt: skip
        people.append({
            "id": person, "display_name": f"Ada {number}", "given_name": "Ada", "family_name": str(number),
            "email": mail, "main_employment_id": f"emp_{number:026}", "attribute_sources": {},
        })  # fmt: skip
        posts.append({
            "id": f"emp_{number:026}", "principal_id": person, "organization_id": company,
            "employee_number": f"F{number}", "type": "regular", "title": "Engineer", "state": "active",
            "starts_on": date(2020, 1, 1), "starts_at": now, **times,
        })  # fmt: skip
        names += [
            {"value": value, "principal_id": person, "kind": kind}
            for kind, value in (("employee_number", f"f{number}"), ("email", mail))
        ]
        if number % 3 == 0:
            said.append({
                "principal_id": person, "user_name": mail, "user_name_key": mail, "extras": {"nickName": "Ada"},
                "version": 1, "changed_at": now,
            })  # fmt: skip
    tables = ((Principal, principals), (Person, people), (Employment, posts), (LoginName, names), (ScimUser, said))
    with world.database.transaction() as session:
        for table, rows in tables:
            bulk_insert(session, table, rows)


def _analyze(api: Api) -> None:
    with api.world.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")


def test_pages_read_whom_they_show_whatever_the_database_knows_of_its_tables(api: Api) -> None:
    """Before anything was counted (ANALYZE), and after; of everybody, and of a token that is limited to a company."""
    senders = {"all": Scim(api, "scim:read"), "one company": Scim(api, "scim:read", organization_id=api.world.berlin)}
    with api.world.database.read() as session:
        assert session.execute(select(func.count()).select_from(ScimDocument)).scalar_one() == _PEOPLE
    wrong = []
    for state in ("nothing counted", "counted"):
        if state == "counted":
            _analyze(api)
        for name, sender in senders.items():
            for query in _QUERIES:
                is_stepped = name != "all" and " sw " in query.get("filter", "")
                most_read = _MOST_STEPPED if is_stepped else _MOST_READ
                wrong += [f"{state}, {name}, {query}: {each}" for each in _wrong(sender, query, most_read)]

    assert not wrong, "\n".join(wrong)


_LOOKUPS = (
    'userName eq "ada7@corp.example"',
    f'{ENTERPRISE_USER}:employeeNumber eq "F7"',
    'emails[type eq "work"].value eq "ada7@corp.example"',
)


@pytest.mark.parametrize("api", ["postgresql"], indirect=True)
def test_one_person_is_found_without_reading_others(api: Api) -> None:
    """By statements that put together what several indexes find."""
    scim = Scim(api, "scim:read")
    wrong = []
    for filter_ in _LOOKUPS:
        for _ in range(2):
            with rows_read(api.world.database.engine) as read:
                found = scim.found("Users", filter_)
            if [each["displayName"] for each in found] != ["Ada 7"] or sum(read.values()) > 40:
                wrong.append(f"{filter_}: {len(found)} people, rows read: {dict(read)}")

    assert not wrong, "\n".join(wrong)


_PAGE = 400


def test_first_walk_reads_no_more_for_its_last_page_than_for_its_first(databases: Databases, tmp_path: Path) -> None:
    """As after an import: documents were counted (ANALYZE) while there were none, and each page keeps some more."""
    with shared_hub(databases, "postgresql", tmp_path) as api:
        _fill(api)
        _analyze(api)
        scim, cursor, read_for_pages = Scim(api, "scim:read"), _START, []
        while cursor is not None:
            with rows_read(api.world.database.engine) as read:
                page = scim.ok("GET", "/Users", params={"cursor": cursor, "count": str(_PAGE)})
            read_for_pages.append(dict(read))
            cursor = page.get("nextCursor")

        assert len(read_for_pages) == _PEOPLE / _PAGE
        kept = [read.get(ScimDocument.__tablename__, 0) for read in read_for_pages]
        assert max(kept) <= 2 * _PAGE, f"a document is looked up for each person: {kept}"
        assert sum(read_for_pages[-1].values()) <= 1.5 * sum(read_for_pages[0].values()), read_for_pages


def _wrong(sender: Scim, query: Mapping[str, str], most_read: int) -> list[str]:
    """What is wrong with the first pages of a list."""
    found: list[str] = []
    cursor = ""
    for _ in range(3):
        database = sender.api.world.database
        with statements_of(database.engine) as sent, rows_read(database.engine) as read:
            page: dict[str, Any] = sender.ok("GET", "/Users", params={"cursor": cursor, "count": str(_SHOWN), **query})
        if len(page["Resources"]) != _SHOWN:
            found.append(f"{len(page['Resources'])} people")
        if sum(read.values()) > most_read:
            found.append(f"rows read: {dict(read)}")
        if database.dialect == "sqlite":
            found += [
                line
                for statement, parameters in sent.items()
                for line in explained(database, statement, parameters)
                if ("TEMP B-TREE FOR ORDER BY" in line and "scim_documents" in statement)
                or ("scim_documents" in line and "(principal_id=?)" not in line)
            ]
        cursor = page["nextCursor"]
    return found
