"""The SCIM server over the real directory: conformance, senders' request shapes, the one door, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server
from starlette.testclient import TestClient

from idhub.api.scim import PREFIX
from idhub.directory.kinds import Standing
from idhub.directory.people import PersonView, show_person
from scim.schemas import BULK_REQUEST, ENTERPRISE_USER, ERROR, GROUP, PATCH_OP, SEARCH_REQUEST, USER
from tests.api.world import Api

MEDIA_TYPE = "application/scim+json"
BASE = "http://127.0.0.1:8000/scim/v2"


class Scim:
    """A sender with a token."""

    def __init__(self, api: Api, *scopes: str, organization_id: str | None = None, **values: Any) -> None:
        self.api = api
        self.token = api.token(*(scopes or ("scim:write",)), organization_id=organization_id, **values)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Response:
        """A call below `/scim/v2`."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": MEDIA_TYPE, **options.pop("headers", {})}
        answer: Response = self.api.http.request(method, PREFIX + path, json=body, headers=headers, **options)
        return answer

    def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The document of a call that must succeed."""
        answer = self.call(method, path, body, **options)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def user(self, user_name: str = "bjensen@corp.example", enterprise: Any = None, **values: Any) -> Any:
        """A new user."""
        body = {"schemas": [USER], "userName": user_name, **values}
        return self.ok("POST", "/Users", body if enterprise is None else {**body, ENTERPRISE_USER: enterprise})

    def patch(self, resource: Any, *operations: dict[str, Any], **options: Any) -> Any:
        """A change of a resource."""
        kind = resource["meta"]["resourceType"]
        body = {"schemas": [PATCH_OP], "Operations": list(operations)}
        return self.ok("PATCH", f"/{kind}s/{resource['id']}", body, **options)

    def found(self, kind: str, filter_: str) -> list[Any]:
        """Resources that a filter selects."""
        listed: list[Any] = self.ok("GET", f"/{kind}", params={"filter": filter_})["Resources"]
        return listed


@pytest.fixture
def scim(api: Api) -> Scim:
    """A sender limited to HQ."""
    return Scim(api, organization_id=api.world.hq)


def _standing(scim: Scim, user: Any) -> Standing:
    return Standing(scim.api.world.principal(user["id"]).standing)


def _person(scim: Scim, user: Any) -> PersonView:
    with scim.api.world.database.read() as session:
        return show_person(session, user["id"])


# --- conformance ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scim2_tester_finds_nothing(api: Api, scim: Scim) -> None:
    """Every check of an independent conformance suite."""
    base_url = api.http.base_url.join(PREFIX)
    with TestClient(api.app, base_url=str(base_url), headers={"Authorization": f"Bearer {scim.token}"}) as http:
        client = SyncSCIMClient(http)
        client.discover()
        results = check_server(client)

    failed = [
        (result.title, result.resource_type, result.reason) for result in results if result.status != Status.SUCCESS
    ]
    assert not failed, "\n".join(map(repr, failed))
    assert len(results) > 100


# --- the life of a person ---------------------------------------------------------------------------------------------


def test_created_user_is_a_person_of_the_senders_company(scim: Scim) -> None:
    user = scim.user(
        name={"familyName": "李", "givenName": "思雨"},
        emails=[{"value": "siyu.li@corp.example", "type": "work", "primary": True}, {"value": "s@home.example"}],
        phoneNumbers=[{"value": "+86 138 0000 0000", "type": "mobile"}],
        title="工程师",
        nickName="小雨",
        roles=[{"value": "administrator"}],
        enterprise={"employeeNumber": "QY9", "department": "研发/底盘", "costCenter": "4711"},
    )
    shown = scim.ok("GET", f"/Users/{user['id']}")

    post = scim.api.world.employments(user["id"])[0]
    assert (post.organization_id, post.employee_number, post.department) == (scim.api.world.hq, "QY9", "研发/底盘")
    assert shown == user
    assert _person(scim, user).display_name == "李思雨"
    assert [email["value"] for email in shown["emails"]] == ["siyu.li@corp.example", "s@home.example"]
    assert shown[ENTERPRISE_USER] == {
        "costCenter": "4711",
        "employeeNumber": "QY9",
        "department": "研发/底盘",
    }
    assert (shown["nickName"], shown["roles"], shown["active"]) == ("小雨", [{"value": "administrator"}], True)


def test_active_false_suspends_and_true_reactivates(scim: Scim) -> None:
    user = scim.user()
    before = scim.api.world.principal(user["id"]).access_epoch

    off = scim.patch(user, {"op": "Replace", "path": "active", "value": "False"})
    epoch = scim.api.world.principal(user["id"]).access_epoch
    standing = _standing(scim, user)
    on = scim.patch(user, {"op": "replace", "value": {"active": True}})

    assert (off["active"], standing, on["active"]) == (False, Standing.SUSPENDED, True)
    assert epoch > before
    assert _standing(scim, user) == Standing.ACTIVE


def test_deleted_user_has_left_and_is_out_of_sight(scim: Scim) -> None:
    user = scim.user(externalId="42")

    assert scim.call("DELETE", f"/Users/{user['id']}").status_code == 204
    assert _standing(scim, user) == Standing.LEFT
    assert scim.call("GET", f"/Users/{user['id']}").status_code == 404
    assert scim.call("PATCH", f"/Users/{user['id']}", {"schemas": [PATCH_OP]}).status_code == 404
    assert scim.found("Users", 'externalId eq "42"') == []
    assert [event["door"] for event in scim.api.events("person.offboarded")] == ["scim"]


def test_who_comes_back_is_the_same_person_under_new_epochs(scim: Scim) -> None:
    user = scim.user(enterprise={"employeeNumber": "QY9"})
    before = scim.api.world.principal(user["id"])
    scim.call("DELETE", f"/Users/{user['id']}")

    again = scim.user(enterprise={"employeeNumber": "QY9"})

    after = scim.api.world.principal(user["id"])
    assert again["id"] == user["id"]
    assert after.standing == Standing.ACTIVE
    assert after.access_epoch > before.access_epoch
    assert after.enrolment_epoch > before.enrolment_epoch


def test_who_left_through_another_door_comes_back_by_active(scim: Scim) -> None:
    user = scim.user()
    token = scim.api.token("people:write")
    scim.api.call("POST", f"/people/{user['id']}/offboarding", token=token, json={}, headers={})

    shown = scim.ok("GET", f"/Users/{user['id']}")
    back = scim.patch(shown, {"op": "replace", "path": "active", "value": True})

    assert (shown["active"], back["active"]) == (False, True)
    assert scim.api.world.principal(user["id"]).enrolment_epoch == 2


def test_put_replaces_what_the_directory_and_the_sender_know(scim: Scim) -> None:
    user = scim.user(title="A", nickName="B", enterprise={"employeeNumber": "QY9", "department": "X"})

    put = scim.ok("PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": "new@corp.example", "nickName": "C"})

    assert (put["userName"], put["nickName"], put.get("title")) == ("new@corp.example", "C", None)
    assert ENTERPRISE_USER not in put
    assert scim.api.world.employments(user["id"])[0].employee_number == "QY9"
    assert _standing(scim, user) == Standing.ACTIVE


def test_move_to_a_manager_and_another_department(scim: Scim) -> None:
    manager, user = scim.user("boss@corp.example"), scim.user("clerk@corp.example")

    moved = scim.patch(
        user,
        {"op": "add", "path": f"{ENTERPRISE_USER}:manager", "value": manager["id"]},
        {"op": "add", "path": f"{ENTERPRISE_USER}:department", "value": "研发"},
    )

    assert moved[ENTERPRISE_USER]["manager"] == {
        "value": manager["id"],
        "$ref": f"{BASE}/Users/{manager['id']}",
    }
    assert scim.api.world.employments(user["id"])[0].manager_id == manager["id"]


def test_words_for_people_who_are_none_are_kept_as_words(scim: Scim) -> None:
    user = scim.user(enterprise={"manager": {"value": "nobody"}, "organization": "Elsewhere"})

    assert user[ENTERPRISE_USER]["manager"] == {"value": "nobody"}
    assert user[ENTERPRISE_USER]["organization"] == "Elsewhere"
    assert scim.api.world.employments(user["id"])[0].organization_id == scim.api.world.hq


def test_people_of_the_hr_file_are_there_and_are_found(scim: Scim) -> None:
    person = scim.api.world.hire("王小明", employee_number="QY77")

    by_mail = scim.found("Users", 'userName eq "qy77@qiyue.example"')
    by_number = scim.found("Users", f'{ENTERPRISE_USER}:employeeNumber eq "qy77"')
    by_work_mail = scim.found("Users", 'emails[type eq "work" and value eq "QY77@qiyue.example"]')

    assert [user["id"] for user in (*by_mail, *by_number, *by_work_mail)] == [person] * 3


def test_a_cursor_that_was_used_gives_its_page_again(scim: Scim) -> None:
    """There is no `previousCursor`: whoever wants to go back keeps the cursors that it had."""
    for name in "abcde":
        scim.user(f"{name}@corp.example")

    def page(cursor: str) -> Any:
        return scim.ok("GET", "/Users", params={"cursor": cursor, "count": 2})

    first = page("")
    second = page(first["nextCursor"])
    third = page(second["nextCursor"])

    assert [len(each["Resources"]) for each in (first, second, third)] == [2, 2, 1]
    assert "previousCursor" not in second
    assert page(first["nextCursor"])["Resources"] == second["Resources"]


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_group_in_a_group_is_refused_for_what_it_is(scim: Scim) -> None:
    inner = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Inner"})
    member = {"value": inner["id"], "type": "Group"}

    made = scim.call("POST", "/Groups", {"schemas": [GROUP], "displayName": "Outer", "members": [member]})

    assert (made.status_code, made.json()["scimType"]) == (400, "invalidValue")
    assert made.json()["detail"] == "A member is a User; groups are not kept in groups."
    assert [each["displayName"] for each in scim.ok("GET", "/Groups")["Resources"]] == ["Inner"]


def test_group_and_its_members(scim: Scim) -> None:
    first, second = scim.user("a@corp.example"), scim.user("b@corp.example")
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team", "members": [{"value": first["id"]}]})

    scim.patch(group, {"op": "Add", "path": "members", "value": [{"value": second["id"]}, {"value": first["id"]}]})
    shown = scim.ok("GET", f"/Users/{second['id']}")["groups"]
    scim.patch(group, {"op": "Remove", "path": f'members[value eq "{first["id"]}"]'})
    members = scim.ok("GET", f"/Groups/{group['id']}")["members"]
    found = scim.found("Groups", f'members.value eq "{second["id"]}"')

    assert [each["display"] for each in shown] == ["Team"]
    assert [each["value"] for each in members] == [second["id"]]
    assert [each["id"] for each in found] == [group["id"]]
    assert scim.call("DELETE", f"/Groups/{group['id']}").status_code == 204
    assert scim.call("GET", f"/Groups/{group['id']}").status_code == 404
    assert scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})["id"] != group["id"]


@pytest.mark.parametrize(
    "body",
    [
        {"displayName": ""},
        {"displayName": "x" * 201},
        {"displayName": "a\u200bb"},
        {"displayName": "Team", "members": [{"value": "nobody"}]},
    ],
)
def test_group_that_cannot_be(scim: Scim, body: dict[str, Any]) -> None:
    answer = scim.call("POST", "/Groups", {"schemas": [GROUP], **body})

    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidValue")
    assert scim.ok("GET", "/Groups")["totalResults"] == 0


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def crowd(scim: Scim) -> Iterator[Scim]:
    """Five people."""
    for index, name in enumerate(("Ada", "Bo", "Cy", "Di", "Ed")):
        scim.user(
            f"{name.lower()}@corp.example",
            displayName=name,
            title="odd" if index % 2 else "even",
            emails=[
                {"value": f"{name}@corp.example", "type": "work"},
                {"value": f"{name}@home.example", "type": "home"},
            ],
        )
    yield scim


_FILTERS = [
    ('displayName eq "ada"', ["Ada"]),
    ('displayName sw "a" or displayName eq "Bo"', ["Ada", "Bo"]),
    ('not (displayName co "d")', ["Bo", "Cy"]),
    ('displayName ne "Ada"', ["Bo", "Cy", "Di", "Ed"]),
    ('title eq "odd"', ["Bo", "Di"]),
    ('title eq "even" and displayName gt "B"', ["Cy", "Ed"]),
    ('emails.value eq "bo@home.example"', ["Bo"]),
    ('emails[type eq "home"].value eq "bo@home.example"', ["Bo"]),
    ('emails[type eq "work" and value eq "bo@home.example"]', []),
    ('emails co "@home"', ["Ada", "Bo", "Cy", "Di", "Ed"]),
    ("active eq true", ["Ada", "Bo", "Cy", "Di", "Ed"]),
    ('active eq "False"', []),
    ("nickName pr", []),
    ('userName eq "BO@CORP.EXAMPLE"', ["Bo"]),
    ('userName sw "c"', ["Cy"]),
    ('id eq "nothing"', []),
    ('meta.created gt "2000-01-01T00:00:00Z"', ["Ada", "Bo", "Cy", "Di", "Ed"]),
    ('meta.lastModified lt "2000-01-01T00:00:00Z"', []),
    # What senders take for "ever" and "never": the ends of their calendars.
    ('meta.lastModified le "9999-12-31T23:59:59.9999999Z"', ["Ada", "Bo", "Cy", "Di", "Ed"]),
    ('meta.created lt "9999-12-31T23:59:59.9999999-12:00"', ["Ada", "Bo", "Cy", "Di", "Ed"]),
    ('meta.created gt "9999-12-31T23:59:59.9999999Z"', []),
    ('meta.lastModified gt "0001-01-01T00:00:00+14:00"', ["Ada", "Bo", "Cy", "Di", "Ed"]),
    ('meta.created le "0001-01-01T00:00:00Z"', []),
    ('displayName eq "a%"', []),
    ('displayName eq "\\u0000"', []),
]


def test_filters_select_whom_they_mean(crowd: Scim) -> None:
    found = {filter_: sorted(user["displayName"] for user in crowd.found("Users", filter_)) for filter_, _ in _FILTERS}

    assert found == dict(_FILTERS)


@pytest.mark.parametrize("collection", ["Users", "Groups"])
@pytest.mark.parametrize("cursor", ["9" * 5_000, "\u0663", "-1", "1.5", "\u00b2"])
def test_cursor_that_nobody_gave_is_refused(crowd: Scim, collection: str, cursor: str) -> None:
    """Python reads no number of more than 4,300 digits; the list answered 500."""
    for more in ({}, {"sortBy": "displayName"}):
        answer = crowd.call("GET", f"/{collection}", params={"cursor": cursor, **more})
        assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidCursor")


def test_every_way_of_paging_walks_everybody_once(crowd: Scim) -> None:
    walked: list[list[str]] = []
    for sort in ({}, {"sortBy": "displayName"}, {"sortBy": "title"}, {"filter": "title pr", "sortBy": "emails.value"}):
        by_index = [
            crowd.ok("GET", "/Users", params={**sort, "startIndex": start, "count": 2})["Resources"]
            for start in (1, 3, 5)
        ]
        walked.append([user["displayName"] for page in by_index for user in page])
        cursor: str | None = ""
        names: list[str] = []
        while cursor is not None:
            page = crowd.ok("GET", "/Users", params={**sort, "cursor": cursor, "count": 2})
            names += [user["displayName"] for user in page["Resources"]]
            cursor = page.get("nextCursor")
        walked.append(names)

    assert [sorted(names) for names in walked] == [["Ada", "Bo", "Cy", "Di", "Ed"]] * 8
    assert walked[2] == ["Ada", "Bo", "Cy", "Di", "Ed"]


@pytest.mark.parametrize("name", ["title", "name.familyName", "emails.value"])
def test_who_has_no_value_is_last_of_those_that_ascend_and_first_of_those_that_descend(scim: Scim, name: str) -> None:
    """RFC 7644 section 3.4.2.3. By the database where it can, else in memory."""
    said: Any = {"title": "x", "name": {"familyName": "x"}, "emails": [{"value": "x@corp.example"}]}
    plain = scim.user("plain")["id"]
    valued = scim.user("valued", **{name.partition(".")[0]: said[name.partition(".")[0]]})["id"]

    ids = [
        [each["id"] for each in scim.ok("GET", "/Users", params={"sortBy": name, **more})["Resources"]]
        for more in ({}, {"sortOrder": "descending"})
    ]

    assert ids == [[valued, plain], [plain, valued]]


def test_groups_without_a_value_are_first_of_those_that_descend(scim: Scim) -> None:
    plain, valued = (
        scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": name, **more})["id"]
        for name, more in (("A", {}), ("B", {"externalId": "b"}))
    )

    found = scim.ok("GET", "/Groups", params={"sortBy": "externalId", "sortOrder": "descending"})["Resources"]

    assert [each["id"] for each in found] == [plain, valued]


@pytest.mark.parametrize("more", [{}, {"sortBy": "userName"}, {"filter": "active eq true"}])
def test_count_of_none_by_cursor_tells_how_many_there_are(crowd: Scim, more: dict[str, str]) -> None:
    """RFC 9865 section 2: no resources, the total; there is no page to go on to."""
    page = crowd.ok("GET", "/Users", params={"cursor": "", "count": 0, **more})

    assert (page["totalResults"], page["Resources"], "nextCursor" in page) == (5, [], False)


def test_queries_that_cannot_be_met_are_recorded(crowd: Scim) -> None:
    queries = [{"filter": "nothing eq 1"}, {"cursor": "x", "sortBy": "displayName"}, {"count": "x"}]

    answers = [crowd.call("GET", "/Users", params=query).status_code for query in queries]

    assert answers == [400] * len(queries)
    recorded = [event["target"]["id"] for event in crowd.api.events("request.refused")]
    assert recorded == ["GET /scim/v2/Users"] * len(queries)


# --- who may ----------------------------------------------------------------------------------------------------------


_PLACES = ("/Users", "/Users/x", "/Groups", "/Schemas", "/Bulk", "/.search", "/Me", "/nothing")


@pytest.mark.parametrize("credential", [None, "Bearer nonsense", "Basic YTpi", "cookie", "api"])
def test_nobody_gets_in_without_a_token_for_scim(api: Api, credential: str | None) -> None:
    """RFC 7644 sections 7.4 and 7.6."""
    headers = {}
    if credential == "cookie":
        headers["Cookie"] = f"idhub_session={api.token('scim:write')}"
    elif credential == "api":
        headers["Authorization"] = f"Bearer {api.token('people:write')}"
    elif credential is not None:
        headers["Authorization"] = credential

    answers = {path: api.http.get(PREFIX + path, headers=headers) for path in _PLACES}

    expected = 403 if credential == "api" else 401
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(_PLACES, expected)
    for answer in answers.values():
        assert answer.json()["schemas"] == [ERROR]
        assert answer.headers["content-type"] == MEDIA_TYPE


def test_token_for_scim_opens_no_other_door(api: Api, scim: Scim) -> None:
    assert api.call("GET", "/people", token=scim.token).status_code == 403


def test_reading_token_changes_nothing(api: Api) -> None:
    writer, reader = Scim(api, organization_id=api.world.hq), Scim(api, "scim:read", organization_id=api.world.hq)
    user = writer.user()
    before = api.state()

    answers = [
        reader.call("POST", "/Users", {"schemas": [USER], "userName": "x"}),
        reader.call("PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": "x"}),
        reader.call("DELETE", f"/Users/{user['id']}"),
        reader.call("POST", "/Groups", {"schemas": [GROUP], "displayName": "x"}),
    ]

    assert [answer.status_code for answer in answers] == [403] * 4
    assert api.state() == before
    assert reader.ok("GET", f"/Users/{user['id']}")["id"] == user["id"]
    assert len(api.events("authorization.denied")) == 4


def test_people_of_another_company_do_not_exist(api: Api, scim: Scim) -> None:
    """No verb, list, search, bulk operation or group shows or touches them."""
    other = api.world.hire("Jana Fischer", organization_id=api.world.berlin, employee_number="B1")
    before = api.state()
    patch = {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "path": "active", "value": False}]}
    bulk = {"schemas": [BULK_REQUEST], "Operations": [{"method": "DELETE", "path": f"/Users/{other}"}]}
    search = {"schemas": [SEARCH_REQUEST], "filter": 'displayName co "Jana"'}

    answers = [
        scim.call("GET", f"/Users/{other}"),
        scim.call("PUT", f"/Users/{other}", {"schemas": [USER], "userName": "x"}),
        scim.call("PATCH", f"/Users/{other}", patch),
        scim.call("DELETE", f"/Users/{other}"),
    ]
    group = scim.call("POST", "/Groups", {"schemas": [GROUP], "displayName": "T", "members": [{"value": other}]})

    assert [answer.status_code for answer in answers] == [404] * 4
    assert group.status_code == 400
    assert scim.ok("POST", "/Bulk", bulk)["Operations"][0]["status"] == "404"
    assert scim.ok("POST", "/.search", search)["totalResults"] == 0
    assert scim.ok("GET", "/Users")["totalResults"] == 0
    assert scim.found("Users", f'id eq "{other}"') == []
    assert api.state() == before


def test_sender_of_one_company_cannot_place_people_in_another(scim: Scim) -> None:
    user = scim.user(enterprise={"organization": "BER"})

    assert scim.api.world.employments(user["id"])[0].organization_id == scim.api.world.hq


def test_sender_of_the_group_says_the_company(api: Api) -> None:
    everywhere = Scim(api)

    answer = everywhere.call("POST", "/Users", {"schemas": [USER], "userName": "x@corp.example"})
    user = everywhere.user("y@corp.example", enterprise={"organization": "BER"})

    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidValue")
    assert api.world.employments(user["id"])[0].organization_id == api.world.berlin


@pytest.mark.parametrize(
    "name",
    ["BJENSEN@corp.example", "\uff22jensen@corp.example", " bjensen@corp.example ", "bjensen\u200b@corp.example"],
)
def test_name_that_looks_the_same_is_taken(scim: Scim, name: str) -> None:
    scim.user("bjensen@corp.example")

    answer = scim.call("POST", "/Users", {"schemas": [USER], "userName": name})

    assert (answer.status_code, answer.json()["scimType"]) == (409, "uniqueness")


def test_nobody_is_taken_over_by_name_or_mail(scim: Scim) -> None:
    """CVE-2022-1680 and its like: a sender cannot become, or stand in the way of, somebody who is there."""
    scim.api.world.hire("王小明", employee_number="QY77")
    other = scim.user("other@corp.example")
    before = scim.api.state()

    answers = [
        scim.call("POST", "/Users", {"schemas": [USER], "userName": "qy77@qiyue.example"}),
        scim.call("POST", "/Users", {"schemas": [USER], "userName": "z", "emails": [{"value": "QY77@qiyue.example"}]}),
        scim.call("PUT", f"/Users/{other['id']}", {"schemas": [USER], "userName": "qy77@qiyue.example"}),
        scim.call(
            "PATCH",
            f"/Users/{other['id']}",
            {"schemas": [PATCH_OP], "Operations": [{"op": "add", "path": "emails", "value": "qy77@qiyue.example"}]},
        ),
    ]

    assert [answer.status_code for answer in answers] == [409] * 4
    assert scim.api.state() == before


@pytest.mark.parametrize(
    "body",
    [
        {"userName": ""},
        {"userName": "\u200b"},
        {"userName": "x" * 255},
        {"userName": "x", "displayName": "x" * 201},
        {"userName": "x", "displayName": "a\u202eb"},
        {"userName": "x", "emails": [{"value": "no address"}]},
        {"userName": "x", "title": "x" * 201},
        {"userName": "x", "externalId": "x" * 256},
        {"userName": "x", ENTERPRISE_USER: {"employeeNumber": "a b"}},
        {"userName": "x", ENTERPRISE_USER: {"department": "a//b"}},
        {"userName": "x", "addresses": [{"formatted": "x" * 4_000, "type": str(i)} for i in range(20)]},
    ],
)
def test_value_that_the_directory_refuses_names_its_attribute(scim: Scim, body: dict[str, Any]) -> None:
    before = scim.api.state()

    answer = scim.call("POST", "/Users", {"schemas": [USER], **body})

    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidValue")
    assert scim.api.state() == before
    assert scim.api.events("request.refused")[-1]["reason"] == "invalidValue"


def test_two_changes_at_once_meet_the_version(scim: Scim) -> None:
    user = scim.user()
    version = user["meta"]["version"]
    scim.patch(user, {"op": "add", "path": "nickName", "value": "A"}, headers={"If-Match": version})

    answer = scim.call(
        "PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": "x"}, headers={"If-Match": version}
    )

    assert answer.status_code == 412
    assert scim.ok("GET", f"/Users/{user['id']}")["nickName"] == "A"


def test_external_id_is_each_senders_own(api: Api) -> None:
    first = Scim(api, organization_id=api.world.hq)
    user = first.user(externalId="admin")
    taken = first.call("POST", "/Users", {"schemas": [USER], "userName": "z", "externalId": "admin"})

    assert user["id"].startswith("per_")
    assert taken.status_code == 409
    assert [each["id"] for each in first.found("Users", 'externalId eq "admin"')] == [user["id"]]


def test_last_administrator_cannot_be_deleted(scim: Scim) -> None:
    from idhub.authority import HubRole, assign_role
    from idhub.directory.organizations import root_organization

    user = scim.user()
    with scim.api.world.database.transaction() as session:
        assign_role(
            session, user["id"], HubRole.ADMINISTRATOR,
            organization_id=root_organization(session), now=scim.api.world.clock(), assigned_by="test",
        )  # fmt: skip

    answer = scim.call("DELETE", f"/Users/{user['id']}")

    assert answer.status_code == 409
    assert _standing(scim, user) == Standing.ACTIVE


def test_a_sender_of_one_company_moves_no_name_of_whoever_has_authority_beyond_it(api: Api) -> None:
    """Decision 0033: their mail and number are what they sign in with; the rest, and the end, are the sender's."""
    from idhub.authority import HubRole, assign_role
    from idhub.directory.organizations import root_organization

    scim = Scim(api, organization_id=api.world.hq)
    user = scim.user(emails=[{"value": "head@corp.example"}])
    with api.world.database.transaction() as session:
        assign_role(
            session, user["id"], HubRole.AUDITOR, organization_id=root_organization(session), now=api.world.clock(),
            assigned_by="test",
        )  # fmt: skip

    def patch(**value: Any) -> Any:
        operation = {"op": "replace", "value": value}
        return scim.call("PATCH", f"/Users/{user['id']}", {"schemas": [PATCH_OP], "Operations": [operation]})

    for moved in (
        {"emails": [{"value": "evil@corp.example"}]},
        {"phoneNumbers": [{"value": "+8613900000000", "type": "mobile"}]},
        {"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": {"employeeNumber": "EVIL"}},
    ):
        refused = patch(**moved, title="with it")
        assert refused.status_code == 403, (moved, refused.text)
    kept = scim.ok("GET", f"/Users/{user['id']}")
    assert (kept["emails"][0]["value"], kept.get("title")) == ("head@corp.example", user.get("title"))
    assert patch(title="Head").status_code == 200
    assert patch(active=False).status_code == 200
    assert _standing(scim, user) == Standing.SUSPENDED
    assert patch(active=True).status_code == 403
    assert _standing(scim, user) == Standing.SUSPENDED


def test_a_groups_entity_tag_is_not_met_again_after_a_restored_backup(scim: Scim) -> None:
    """RFC 7644 section 3.14: the number goes up from the backup's, once more, to another content."""
    from sqlalchemy import update

    from idhub.directory.tables import Group

    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})
    lost = scim.patch(group, {"op": "replace", "path": "displayName", "value": "Lost"})["meta"]["version"]
    assert scim.ok("GET", f"/Groups/{group['id']}")["meta"]["version"] == lost
    with scim.api.world.database.transaction() as session:
        session.execute(update(Group).where(Group.id == group["id"]).values(version=1, name="Team"))
    scim.api.world.clock.advance(minutes=5)
    made = scim.patch(group, {"op": "replace", "path": "displayName", "value": "Made since"})["meta"]["version"]
    assert made != lost
    body = {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "path": "displayName", "value": "Over it"}]}
    stale = scim.call("PATCH", f"/Groups/{group['id']}", body, headers={"If-Match": lost})
    assert stale.status_code == 412
    assert scim.ok("GET", f"/Groups/{group['id']}")["displayName"] == "Made since"


def test_large_body_is_refused_unread(scim: Scim) -> None:
    answer = scim.api.http.post(
        PREFIX + "/Bulk", content=b" " * 10_000_001, headers={"Authorization": f"Bearer {scim.token}"}
    )

    assert answer.status_code == 413


def test_values_of_a_filter_reach_no_log(scim: Scim, capsys: pytest.CaptureFixture[str]) -> None:
    """RFC 7644 section 7.5.2."""
    scim.found("Users", 'userName eq "canary-of-a-filter@corp.example"')
    scim.call("GET", "/Users", params={"filter": 'nothing eq "canary-of-a-filter"'})

    said = capsys.readouterr()
    assert "canary-of-a-filter" not in said.out + said.err
    assert "canary-of-a-filter" not in str(scim.api.events())


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=8)
    | st.sampled_from([USER, GROUP, "add", "remove"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "schemas",
                    "userName",
                    "name",
                    "emails",
                    "members",
                    "value",
                    "Operations",
                    "op",
                    "path",
                    "active",
                    "bulkId",
                    "method",
                    "data",
                    "filter",
                    "displayName",
                    "externalId",
                    ENTERPRISE_USER,
                    "manager",
                    "department",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
_PATHS = st.sampled_from(
    ["/Users", "/Groups", "/Bulk", "/.search", "/Users/.search", "/Users/USER", "/Groups/x", "/Me", "/%00"]
)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@settings(
    max_examples=120, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(method=st.sampled_from(["GET", "POST", "PUT", "PATCH"]), path=_PATHS, body=_JSON, filter_=st.text(max_size=20))
def test_whatever_is_sent_is_no_fault_of_ours(scim: Scim, method: str, path: str, body: Any, filter_: str) -> None:
    listed = scim.ok("GET", "/Users")["Resources"]
    user = listed[0] if listed else scim.user()
    if isinstance(body, dict) and body.get("schemas") != [PATCH_OP] and method == "PATCH":
        body = {**body, "schemas": [PATCH_OP]}

    answer = scim.call(method, path.replace("USER", user["id"]), body, params={"filter": filter_})

    assert answer.status_code < 500, answer.text


def test_every_refused_operation_of_a_bulk_leaves_its_event(scim: Scim) -> None:
    other = scim.api.world.hire("Jana Fischer", organization_id=scim.api.world.berlin, employee_number="B1")
    operations = [
        {"method": "DELETE", "path": f"/Users/{other}"},
        {"method": "POST", "path": "/Users", "bulkId": "x", "data": {"schemas": [USER], "userName": ""}},
        {"method": "POST", "path": "/Users", "bulkId": "y", "data": {"schemas": [USER], "userName": "y@corp.example"}},
    ]

    scim.ok("POST", "/Bulk", {"schemas": [BULK_REQUEST], "Operations": operations})

    assert [event["reason"] for event in scim.api.events("request.refused")] == ["scim.404", "invalidValue"]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("address", ["/Users/%00", "/Groups/a%00b", "/Bulk/%00"])
def test_address_with_a_character_that_no_identifier_holds_is_not_found(scim: Scim, method: str, address: str) -> None:
    answer = scim.call(method, address)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "There is no such address."
