"""Lists of SCIM cost what they show: no query reads a growing table whole, on either database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scim.schemas import ENTERPRISE_USER, GROUP
from tests.api.shared_hub import shared_hub
from tests.api.test_scim import Scim
from tests.support.databases import DatabaseKind, Databases
from tests.support.plans import scanned, statements_of

_CURSOR = {"cursor": "", "count": "2"}
_QUERIES: tuple[dict[str, str], ...] = (
    _CURSOR,
    {"filter": 'userName eq "ada@corp.example"'},
    {"filter": 'userName eq "HQ/QY1"'},
    {"filter": 'externalId eq "x"'},
    {"filter": 'id eq "x"'},
    {"filter": f'{ENTERPRISE_USER}:employeeNumber eq "QY1"'},
    {"filter": 'emails[type eq "work"].value eq "ada@corp.example"'},
    {"filter": 'phoneNumbers.value eq "13800000000"'},
    {"filter": 'displayName eq "Ada"'},
    {"filter": 'displayName sw "Ada"', **_CURSOR},
    {"filter": 'name.familyName sw "Mü"', **_CURSOR},
    {"filter": 'userName sw "ada"', **_CURSOR},
    {"filter": 'displayName co "da"', **_CURSOR},
    {"filter": 'title eq "x"', **_CURSOR},
    {"filter": 'active eq true and displayName sw "A"', **_CURSOR},
    {"filter": 'meta.lastModified gt "2020-01-01T00:00:00Z"', **_CURSOR},
    {"filter": 'userName eq "ada@corp.example" or externalId eq "x"'},
)
# One row holds thousands of people, and is kept in memory by whoever searches; a page that is put into one piece.
_WALKED = frozenset({"search_shelves", "found"})


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def scim(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scim]:
    kind: DatabaseKind = request.param
    with shared_hub(databases, kind, tmp_path_factory.mktemp("plans")) as api:
        sender = Scim(api)
        for number in range(5):
            sender.user(
                f"ada{number or ''}@corp.example",
                displayName="Ada",
                name={"familyName": "Müller"},
                emails=[{"value": f"ada{number or ''}@corp.example", "type": "work"}],
                enterprise={"employeeNumber": f"QY{number}", "organization": "HQ"},
            )
        yield sender


@pytest.mark.parametrize("query", _QUERIES, ids=lambda query: query.get("filter", "cursor")[:40])
def test_list_reads_no_growing_table_whole(scim: Scim, query: dict[str, str]) -> None:
    database = scim.api.world.database
    with statements_of(database.engine) as sent:
        page: dict[str, Any] = scim.ok("GET", "/Users", params=query)
    found = {
        statement: scans
        for statement, parameters in sent.items()
        if (scans := scanned(database, statement, parameters, walked=_WALKED))
    }

    assert page["schemas"]
    assert found == {}, "\n".join(f"{scans} {statement}" for statement, scans in found.items())


@pytest.mark.parametrize("filter_", ['displayName sw "a"', 'userName sw "ada"', 'displayName co "d"', "title pr", None])
def test_walk_meets_everybody_once_in_pages_of_any_size(scim: Scim, filter_: str | None) -> None:
    expected = 0 if filter_ == "title pr" else 5
    for count in (1, 2, 5, 6):
        ids: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            params = {"cursor": cursor, "count": str(count), **({"filter": filter_} if filter_ else {})}
            page = scim.ok("GET", "/Users", params=params)
            ids += [each["id"] for each in page["Resources"]]
            cursor = page.get("nextCursor")
            assert len(page["Resources"]) <= count

        assert (len(ids), len(set(ids))) == (expected, expected)


@pytest.mark.parametrize("cursor", ["x", "MQ", "OQ", "w7w", "MAA", "_" * 300])
def test_cursor_that_is_none_is_refused(scim: Scim, cursor: str) -> None:
    """RFC 9865 section 2.1."""
    answer = scim.call("GET", "/Users", params={"cursor": cursor})

    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidCursor")


def test_large_group_is_not_read_for_its_name(scim: Scim) -> None:
    """A sender asks for a group by name before it makes one, without the members."""
    scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})
    database = scim.api.world.database
    with statements_of(database.engine) as sent:
        scim.ok("GET", "/Groups", params={"filter": 'displayName eq "Team"', "excludedAttributes": "members"})

    assert not [statement for statement in sent if "group_members" in statement]
