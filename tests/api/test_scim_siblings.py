"""What the SCIM server refuses at one address it refuses at its siblings: other verbs, `/.search`, bulk, groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from scim.schemas import BULK_REQUEST, GROUP, PATCH_OP, SEARCH_REQUEST, USER
from tests.api.test_scim import Scim
from tests.api.world import Api

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def scim(api: Api) -> Scim:
    """A sender of HQ."""
    return Scim(api, organization_id=api.world.hq)


def _bulk(scim: Scim, *operations: dict[str, Any]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = scim.ok(
        "POST", "/Bulk", {"schemas": [BULK_REQUEST], "Operations": list(operations)}
    )["Operations"]
    return listed


def _patch(*operations: dict[str, Any]) -> dict[str, Any]:
    return {"schemas": [PATCH_OP], "Operations": list(operations)}


def test_stale_version_changes_nothing_by_whichever_verb(scim: Scim) -> None:
    """RFC 7644 section 3.14; C13."""
    user = scim.user()
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})
    scim.patch(user, {"op": "add", "path": "nickName", "value": "A"})
    scim.patch(group, {"op": "add", "path": "members", "value": [{"value": user["id"]}]})
    before = scim.api.state()
    changes: list[tuple[str, Any, Any]] = [
        ("PUT", user, {"schemas": [USER], "userName": "x"}),
        ("PATCH", user, _patch({"op": "add", "path": "title", "value": "x"})),
        ("DELETE", user, None),
        ("PUT", group, {"schemas": [GROUP], "displayName": "x"}),
        ("PATCH", group, _patch({"op": "remove", "path": "members"})),
        ("DELETE", group, None),
    ]

    alone = [
        scim.call(
            verb, f"/{held['meta']['resourceType']}s/{held['id']}", body, headers={"If-Match": held["meta"]["version"]}
        ).status_code
        for verb, held, body in changes
    ]
    together = _bulk(
        scim,
        *(
            {
                "method": verb,
                "path": f"/{held['meta']['resourceType']}s/{held['id']}",
                "version": held["meta"]["version"],
                **({} if body is None else {"data": body}),
            }
            for verb, held, body in changes
        ),
    )

    assert alone == [412] * 6
    assert [each["status"] for each in together] == ["412"] * 6
    assert scim.api.state() == before
    assert scim.ok("GET", f"/Groups/{group['id']}")["members"][0]["value"] == user["id"]


def test_members_who_are_added_at_once_are_all_there(scim: Scim) -> None:
    """RFC 7644 section 3.14; C13. Without a version nobody is refused, and nobody is lost."""
    users = [scim.user(f"ada{number}@corp.example") for number in range(4)]
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})
    together = Barrier(len(users))

    def join(user: Any) -> int:
        together.wait(30)
        change = _patch({"op": "add", "path": "members", "value": [{"value": user["id"]}]})
        return scim.call("PATCH", f"/Groups/{group['id']}", change).status_code

    with ThreadPoolExecutor(len(users)) as threads:
        statuses = list(threads.map(join, users))

    members = scim.ok("GET", f"/Groups/{group['id']}")["members"]
    assert statuses == [200] * len(users)
    assert {each["value"] for each in members} == {user["id"] for user in users}


@pytest.mark.parametrize("name", ["BJENSEN@corp.example", "\uff22jensen@corp.example", "bjensen\u200b@corp.example"])
def test_name_that_looks_the_same_is_taken_by_whichever_verb(scim: Scim, name: str) -> None:
    """RFC 7644 section 7.8; C16."""
    scim.user("bjensen@corp.example")
    other = scim.user("other@corp.example")
    body = {"schemas": [USER], "userName": name}
    change = _patch({"op": "replace", "path": "userName", "value": name})
    before = scim.api.state()

    answers = [
        scim.call("PUT", f"/Users/{other['id']}", body),
        scim.call("PATCH", f"/Users/{other['id']}", change),
    ]
    together = _bulk(
        scim,
        {"method": "POST", "path": "/Users", "bulkId": "a", "data": body},
        {"method": "PUT", "path": f"/Users/{other['id']}", "data": body},
        {"method": "PATCH", "path": f"/Users/{other['id']}", "data": change},
    )

    assert [(each.status_code, each.json()["scimType"]) for each in answers] == [(409, "uniqueness")] * 2
    assert [each["status"] for each in together] == ["409"] * 3
    assert scim.api.state() == before


def test_two_of_a_load_who_look_the_same_are_one(scim: Scim) -> None:
    """RFC 7644 section 7.8; C16. They are made together where nothing can be told apart: these can."""
    together = _bulk(
        scim,
        *(
            {"method": "POST", "path": "/Users", "bulkId": name, "data": {"schemas": [USER], "userName": name}}
            for name in ("zoe@corp.example", "ZOE@corp.example", "zo\u200be@corp.example")
        ),
    )

    assert [each["status"] for each in together] == ["201", "409", "409"]


@pytest.mark.parametrize(
    "filter_",
    [
        'password sw "a"',
        'x509Certificates.value eq "a"',
        "(" * 5_000 + "title pr" + ")" * 5_000,
        'userName eq "a\\u0000"x',
        "userName co",
    ],
)
def test_filter_that_asks_for_too_much_is_refused_at_every_address(scim: Scim, filter_: str) -> None:
    """RFC 7644 section 3.4.2.2; C07."""
    user = scim.user()
    search = {"schemas": [SEARCH_REQUEST], "filter": filter_}
    before = scim.api.state()

    searched = [scim.call("POST", path, search) for path in ("/.search", "/Users/.search", "/Groups/.search")]
    listed = [scim.call("GET", path, params={"filter": filter_[:2_000]}) for path in ("/Users", "/Groups")]
    walked = scim.call("GET", "/Users", params={"filter": filter_[:2_000], "cursor": ""})
    change = _patch({"op": "remove", "path": f"emails[{filter_}]"})
    patched = scim.call("PATCH", f"/Users/{user['id']}", change)

    assert [(each.status_code, each.json()["scimType"]) for each in (*searched, *listed, walked)] == [
        (400, "invalidFilter")
    ] * 6
    assert patched.status_code == 400
    assert scim.api.state() == before
