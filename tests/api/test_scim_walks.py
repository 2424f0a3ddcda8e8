"""Lists that begin with a part of a name: everybody once, in pages, whoever named them and however they are spelled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import update

from idhub.db import new_id
from idhub.directory.tables import Organization
from idhub.lifecycle import intake
from idhub.provisioning.inbound.walk import MOST_LOOKED_UP
from scim.schemas import BULK_REQUEST, ENTERPRISE_USER, USER
from tests.api.shared_hub import shared_hub
from tests.api.test_scim import Scim
from tests.support.databases import DatabaseKind, Databases
from tests.support.plans import statements_of


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def scim(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scim]:
    """Four people of an HR file, whom no sender named, and three whom one did."""
    kind: DatabaseKind = request.param
    with shared_hub(databases, kind, tmp_path_factory.mktemp("walks")) as api:
        world = api.world
        for shown, number, mail in (
            ("Änne Älter", "HR1", "Aenne@corp.example"),
            # One login name stands for number and mail.
            ("änne ostwald", "aenne.o@corp.example", "aenne.o@corp.example"),
            # Two people of one mail are called by company and number.
            ("王小明", "HR3", "aenne.shared@corp.example"),
            ("王小红", "HR4", "aenne.shared@corp.example"),
        ):
            person = intake.PersonFacts(display_name=shown, email=mail)
            facts = world.facts(employee_number=number)
            world.change(intake.Onboard(principal_id=new_id("per"), person=person, employment=facts)).only()
        sender = Scim(api)
        for name, shown in (("Aenne.Said", "ÄNNE 100%"), ("aenne_x", "Anne_"), ("bo", "王")):
            sender.user(f"{name}@corp.example", displayName=shown, enterprise={"organization": "HQ"})
        yield sender


def names(scim: Scim, filter_: str, shown: str, *, count: int) -> list[str]:
    """What a walk in pages of `count` shows, in order."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = scim.ok("GET", "/Users", params={"filter": filter_, "cursor": cursor, "count": str(count)})
        found += [each[shown] for each in page["Resources"]]
        cursor = page.get("nextCursor")
    return found


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize(
    ("filter_", "shown", "expected"),
    [
        ('displayName sw "än"', "displayName", {"Änne Älter", "änne ostwald", "ÄNNE 100%"}),
        ('displayName sw "ÄNNE"', "displayName", {"Änne Älter", "änne ostwald", "ÄNNE 100%"}),
        ('displayName sw "änne 100%"', "displayName", {"ÄNNE 100%"}),
        ('displayName sw "anne_"', "displayName", {"Anne_"}),
        ('displayName sw "an%"', "displayName", set[str]()),
        ('displayName sw "王"', "displayName", {"王小明", "王小红", "王"}),
        ('displayName eq "王"', "displayName", {"王"}),
        ('displayName sw "王" and active eq true', "displayName", {"王小明", "王小红", "王"}),
        ('displayName sw "王" and userName sw "bo"', "displayName", {"王"}),
        (
            'userName sw "AENNE"',
            "userName",
            {"Aenne@corp.example", "aenne.o@corp.example", "Aenne.Said@corp.example", "aenne_x@corp.example"},
        ),
        ('userName sw "aenne_"', "userName", {"aenne_x@corp.example"}),
        ('userName sw "aenne.s"', "userName", {"Aenne.Said@corp.example"}),
        # Said by no sender; by company and number.
        ('userName sw "aenne.o"', "userName", {"aenne.o@corp.example"}),
        ('userName sw "hq"', "userName", {"HQ/HR3", "HQ/HR4"}),
    ],
)
def test_walk_by_a_beginning_meets_everybody_once(
    scim: Scim, filter_: str, shown: str, expected: set[str], count: int
) -> None:
    found = names(scim, filter_, shown, count=count)

    assert (len(found), set(found)) == (len(expected), expected)


def test_cursor_stays_good_when_the_person_at_whom_it_stands_is_renamed(scim: Scim) -> None:
    first = scim.ok("GET", "/Users", params={"filter": 'displayName sw "王"', "cursor": "", "count": "1"})
    person = first["Resources"][0]
    renamed = {"op": "replace", "path": "displayName", "value": "Zed"}
    scim.patch(person, renamed)
    try:
        rest = names_after(scim, first["nextCursor"])
    finally:
        scim.patch(person, {**renamed, "value": person["displayName"]})

    assert {person["displayName"], *rest} == {"王小明", "王小红", "王"}
    assert len(rest) == 2


@pytest.mark.parametrize("filter_", ['displayName sw "王"', 'userName sw "aenne"'])
def test_cursor_of_a_walk_by_ids_is_refused_by_one_by_names(scim: Scim, filter_: str) -> None:
    """RFC 9865 section 2.1."""
    cursor = scim.ok("GET", "/Users", params={"cursor": "", "count": "1"})["nextCursor"]
    answer = scim.call("GET", "/Users", params={"cursor": cursor, "filter": filter_})

    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidCursor")


def test_beginning_of_a_mail_is_asked_for_in_one_statement(scim: Scim) -> None:
    """That no sender and no company's code begins so is told by the page itself."""
    ask = {"filter": 'userName sw "aenne.o"', "cursor": "", "count": "2"}
    scim.ok("GET", "/Users", params=ask)
    with statements_of(scim.api.world.database.engine) as sent:
        page = scim.ok("GET", "/Users", params=ask)

    assert [each["userName"] for each in page["Resources"]] == ["aenne.o@corp.example"]
    assert len([each for each in sent if "scim_users" in each]) == 1


def test_cursor_of_a_walk_by_mail_is_refused_once_a_companys_code_begins_so(scim: Scim) -> None:
    """Whoever is called by company and number may stand before it (RFC 9865 section 2.1)."""
    ask = {"filter": 'userName sw "aenne"', "count": "3"}
    cursor = scim.ok("GET", "/Users", params={**ask, "cursor": ""})["nextCursor"]
    _call_company(scim, "HQ", "AENNE")
    try:
        answer = scim.call("GET", "/Users", params={**ask, "cursor": cursor})
    finally:
        _call_company(scim, "AENNE", "HQ")

    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidCursor")
    assert len(scim.ok("GET", "/Users", params={**ask, "cursor": cursor})["Resources"]) == 1


def _call_company(scim: Scim, code: str, new: str) -> None:
    with scim.api.world.database.transaction() as session:
        session.execute(update(Organization).where(Organization.code == code).values(code=new))


def names_after(scim: Scim, cursor: str) -> list[str]:
    page = scim.ok("GET", "/Users", params={"filter": 'displayName sw "王"', "cursor": cursor, "count": "100"})
    return [each["displayName"] for each in page["Resources"]]


def test_value_that_many_have_finds_them_all(scim: Scim) -> None:
    """More than one looks for at once, in each order of a list."""
    shared = {"value": "+49 30 5550", "type": "work"}
    operations = [
        {
            "method": "POST",
            "path": "/Users",
            "bulkId": str(number),
            "data": {
                "schemas": [USER, ENTERPRISE_USER],
                "userName": f"zz{number}@corp.example",
                "phoneNumbers": [shared],
                ENTERPRISE_USER: {"organization": "HQ"},
            },
        }
        for number in range(MOST_LOOKED_UP + 1)
    ]
    made = scim.ok("POST", "/Bulk", {"schemas": [BULK_REQUEST], "Operations": operations})
    ids = {each["location"].rpartition("/")[2] for each in made["Operations"]}
    ask = {"filter": f'phoneNumbers.value eq "{shared["value"]}"', "count": "1000"}
    try:
        orders: tuple[dict[str, str], ...] = ({}, {"cursor": ""}, {"sortBy": "userName"})
        answers = [scim.ok("GET", "/Users", params={**ask, **order}) for order in orders]
    finally:
        for each in ids:
            scim.call("DELETE", f"/Users/{each}")

    for found in answers:
        assert {each["id"] for each in found["Resources"]} == ids
        assert found["totalResults"] == MOST_LOOKED_UP + 1
