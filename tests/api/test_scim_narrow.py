"""What a token of one company, or of few rights, learns and does beyond them: nothing, by whichever side door."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from idhub.directory import groups as group_book
from idhub.provisioning.inbound.store import KINDS
from idhub.provisioning.inbound.terms import Terms, check_terms
from scim.schemas import BULK_REQUEST, SEARCH_REQUEST, USER
from tests.api.test_scim import Scim
from tests.api.world import Api

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def narrow(api: Api) -> Scim:
    """A sender of HQ."""
    return Scim(api, organization_id=api.world.hq)


def _walked(narrow: Scim, **query: str) -> str:
    for number in range(3):
        narrow.user(f"ada{number}@corp.example", displayName="Ada Lovelace")
    page = narrow.ok("GET", "/Users", params={"cursor": "", "count": "1", **query})
    cursor: str = page["nextCursor"]
    return cursor


@pytest.mark.parametrize("query", [{}, {"filter": 'displayName sw "ada"'}, {"filter": 'userName sw "ada"'}])
def test_cursor_tells_nothing_of_the_place_where_it_stands(narrow: Scim, query: dict[str, str]) -> None:
    """A walk may end early at somebody whom the sender may not see."""
    cursor = _walked(narrow, **query)

    shown = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    assert not [each for each in (b"lovelace", b"@corp", b"per_") if each in shown.lower()]


def test_cursor_is_of_one_list_of_one_sender(api: Api, narrow: Scim) -> None:
    """RFC 9865 section 2.1. A token that replaces another goes on where that one was."""
    cursor = _walked(narrow)
    filtered = {"cursor": cursor, "filter": 'displayName sw "ada"'}
    changed = cursor[:-3] + ("AAA" if cursor[-3:] != "AAA" else "BBB")
    renewed = Scim(api, organization_id=api.world.hq)

    refused = [
        narrow.call("GET", "/Users", params=filtered),
        narrow.call("GET", "/Users", params={"cursor": changed}),
        Scim(api, organization_id=api.world.berlin).call("GET", "/Users", params={"cursor": cursor}),
        Scim(api).call("GET", "/Users", params={"cursor": cursor}),
        Scim(api, organization_id=api.world.hq, name="other").call("GET", "/Users", params={"cursor": cursor}),
    ]

    assert [(each.status_code, each.json()["scimType"]) for each in refused] == [(400, "invalidCursor")] * 5
    assert len(renewed.ok("GET", "/Users", params={"cursor": cursor})["Resources"]) == 2


def test_user_shows_no_group_that_the_sender_may_not_see(api: Api, narrow: Scim) -> None:
    """Nor is it found by one, at whichever address."""
    user = narrow.user()
    with api.world.database.transaction() as session:
        for name, organization_id in (("Ours", api.world.hq), ("Secret plan", api.world.berlin)):
            group = group_book.create_group(session, name, organization_id=organization_id, now=api.world.clock())
            group_book.change_members(session, group, join=[user["id"]], leave=[], now=api.world.clock())
    filter_ = 'groups.display co "secret"'

    documents = [
        narrow.ok("GET", f"/Users/{user['id']}"),
        *narrow.ok("GET", "/Users")["Resources"],
        *narrow.ok("GET", "/Users", params={"cursor": ""})["Resources"],
        *narrow.ok("POST", "/Users/.search", {"schemas": [SEARCH_REQUEST]})["Resources"],
        narrow.ok("PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": "bjensen@corp.example", "title": "x"}),
        narrow.patch(user, {"op": "add", "path": "title", "value": "y"}),
    ]

    assert [[each["display"] for each in document["groups"]] for document in documents] == [["Ours"]] * 6
    assert narrow.found("Users", filter_) == []
    assert narrow.ok("POST", "/.search", {"schemas": [SEARCH_REQUEST], "filter": filter_})["totalResults"] == 0
    assert [each["display"] for each in Scim(api).ok("GET", f"/Users/{user['id']}")["groups"]] == [
        "Ours",
        "Secret plan",
    ]


def test_me_is_of_the_types_and_attributes_of_the_token(api: Api) -> None:
    """RFC 7644 section 3.11 is an alias: whatever is limited at the address is limited here."""
    person = api.world.hire("Ada", organization_id=api.world.hq, employee_number="A1")
    own: dict[str, Any] = {"organization_id": api.world.hq, "principal_id": person, "enrolment_epoch": 1}

    def terms(**values: Any) -> Any:
        return check_terms(Terms(**values), KINDS).as_json()

    whole = Scim(api, "scim:read", **own)
    limited = Scim(api, "scim:read", **own, terms=terms(readable=frozenset({"userName"})))
    groups = Scim(api, "scim:read", **own, terms=terms(resources=frozenset({"Group"})))

    assert whole.ok("GET", "/Me")["displayName"] == "Ada"
    assert not limited.ok("GET", "/Me").keys() & {"displayName", "name"}
    assert (groups.call("GET", "/Me").status_code, groups.call("GET", f"/Users/{person}").status_code) == (404, 404)


def test_me_of_a_person_of_another_company_does_not_exist(api: Api) -> None:
    person = api.world.hire("Jana", organization_id=api.world.berlin, employee_number="B1")
    narrow = Scim(api, "scim:read", organization_id=api.world.hq, principal_id=person, enrolment_epoch=1)

    assert narrow.call("GET", "/Me").status_code == 404


def test_reading_token_of_the_same_name_cancels_no_load(api: Api, narrow: Scim) -> None:
    operation = {"method": "POST", "path": "/Users", "bulkId": "a", "data": {"schemas": [USER], "userName": "a@x"}}
    accepted = narrow.call(
        "POST", "/Bulk", {"schemas": [BULK_REQUEST], "Operations": [operation]}, headers={"Prefer": "respond-async"}
    )
    path = accepted.headers["location"].partition("/scim/v2")[2]
    reader = Scim(api, "scim:read", organization_id=api.world.hq)

    assert reader.call("GET", path).status_code == 202
    assert reader.call("DELETE", path).status_code == 403


def test_search_takes_no_writers_turn(api: Api, narrow: Scim) -> None:
    """RFC 7644 section 3.4.3 is a POST that only reads: it goes on while somebody else writes."""
    user = narrow.user()
    body = {"schemas": [SEARCH_REQUEST], "filter": 'userName eq "bjensen@corp.example"'}
    with api.world.database.transaction():
        found = narrow.ok("POST", "/Users/.search", body)

    assert [each["id"] for each in found["Resources"]] == [user["id"]]
