"""What senders are documented to send, from hire to deletion, and a test of every row in `scim.senders`.

The request shapes are those of the vendors' documentation; identifiers and names are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_models import EnterpriseUser, Error, ListResponse, PatchOp, PatchOperation, SearchRequest, User
from starlette.testclient import TestClient

from idhub.api.configuration import apply
from idhub.api.scim import PREFIX
from idhub.changes import COMMAND_LINE
from idhub.directory.kinds import Standing
from idhub.provisioning.inbound.store import KINDS
from idhub.provisioning.inbound.terms import Terms, check_terms
from scim.schemas import BULK_REQUEST, ENTERPRISE_USER, GROUP, PATCH_OP, USER
from scim.senders import QUIRKS, SENDERS
from tests.api.shared_hub import clear, shared_hub
from tests.api.test_scim import Scim
from tests.api.world import Api
from tests.support.databases import Databases

CONTOSO = "urn:ietf:params:scim:schemas:extension:contoso:1.0:User"


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("senders")
    with shared_hub(databases, "sqlite", folder) as api:
        extension = {
            "schema": CONTOSO,
            "attributes": [{"name": "HireDate", "type": "dateTime"}, {"name": "JobCode"}],
        }
        file = Path(folder / "apps.yaml")
        file.write_text(yaml.safe_dump({"applications": [], "scim_extensions": [extension]}))
        world = api.world
        apply(world.database, world.keyring, file, clock=world.clock, actor=COMMAND_LINE, door="cli")
        yield api


@pytest.fixture
def scim(hub: Api) -> Iterator[Scim]:
    sender = Scim(hub, organization_id=hub.world.hq)
    yield sender
    clear(sender)


def _with(scim: Scim, **terms: Any) -> Scim:
    stored = check_terms(Terms(**terms), KINDS).as_json()
    return Scim(scim.api, organization_id=scim.api.world.hq, terms=stored)


def _standing(scim: Scim, user: Any) -> Standing:
    return Standing(scim.api.world.principal(user["id"]).standing)


def _patch(*operations: Any) -> dict[str, Any]:
    return {"schemas": [PATCH_OP], "Operations": list(operations)}


def _members(scim: Scim, group: Any) -> list[str]:
    return sorted(each["value"] for each in scim.ok("GET", f"/Groups/{group['id']}").get("members", []))


# --- whole lives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["without", "aadOptscim062020"])
def test_entra_from_hire_to_deletion(scim: Scim, flag: str) -> None:
    """Requests of "Develop and plan provisioning for a SCIM endpoint", without and with the flag for RFC 7644."""
    name = "Test_User_00aa00aa-bb11-cc22-dd33-44ee44ee44ee"
    probe = scim.ok("GET", "/Users", params={"filter": 'userName eq "non-existent user"'})
    unknown = scim.ok("GET", "/Users", params={"filter": f'userName eq "{name}"'})
    user = scim.ok(
        "POST",
        "/Users",
        {
            "schemas": [USER, ENTERPRISE_USER],
            "externalId": "0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef",
            "userName": name,
            "active": True,
            "emails": [{"primary": True, "type": "work", "value": "test_user@testuser.example"}],
            "meta": {"resourceType": "User"},
            "name": {"formatted": "givenName familyName", "familyName": "familyName", "givenName": "givenName"},
            "roles": [],
        },
    )
    found = scim.ok("GET", "/Users", params={"filter": f'userName eq "{name}"'})
    by_mail = scim.ok(
        "GET", "/Users", params={"filter": 'emails[type eq "work"].value eq "test_user@testuser.example"'}
    )
    mail = 'emails[type eq "work"].value'
    if flag == "without":
        operations: list[Any] = [
            {"op": "Replace", "path": "displayName", "value": "Pvlo"},
            {"op": "Replace", "path": mail, "value": "updated@testuser.example"},
            {"op": "Replace", "path": "name.givenName", "value": "Gtfd"},
            {"op": "Replace", "path": "externalId", "value": "Eqpj"},
            {"op": "Replace", "path": f"{ENTERPRISE_USER}:employeeNumber", "value": f"A-{flag}"},
            {"op": "Add", "path": "nickName", "value": "Babs"},
        ]
        disable: Any = {"op": "Replace", "path": "active", "value": "False"}
    else:
        operations = [
            {"op": "replace", "path": mail, "value": "updated@testuser.example"},
            {
                "op": "replace",
                "value": {
                    "displayName": "Pvlo",
                    "name.givenName": "Gtfd",
                    "externalId": "Eqpj",
                    f"{ENTERPRISE_USER}:employeeNumber": f"A-{flag}",
                },
            },
            {"op": "add", "path": "nickName", "value": "Babs"},
        ]
        disable = {"op": "replace", "path": "active", "value": False}
    changed = scim.ok("PATCH", f"/Users/{user['id']}", _patch(*operations))
    renamed = scim.ok(
        "PATCH", f"/Users/{user['id']}", _patch({"op": "Replace", "path": "userName", "value": "5b50@testuser.example"})
    )

    group = scim.ok(
        "POST",
        "/Groups",
        {
            "schemas": [GROUP, "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"],
            "externalId": "8aa1a0c0-c4c3-4bc0-b4a5-2ef676900159",
            "displayName": "displayName",
            "meta": {"resourceType": "Group"},
        },
    )
    listed = scim.ok(
        "GET", "/Groups", params={"excludedAttributes": "members", "filter": 'displayName eq "displayName"'}
    )
    path = f"/Groups/{group['id']}"
    scim.ok("PATCH", path, _patch({"op": "Replace", "path": "displayName", "value": "1879db59updatedDisplayName"}))
    member = [{"$ref": None, "value": user["id"]}]
    scim.ok("PATCH", path, _patch({"op": "Add", "path": "members", "value": member}))
    joined = _members(scim, group)
    if flag == "without":
        scim.ok("PATCH", path, _patch({"op": "Remove", "path": "members", "value": member}))
    else:
        scim.ok("PATCH", path, _patch({"op": "remove", "path": f'members[value eq "{user["id"]}"]'}))
    left = _members(scim, group)

    disabled = scim.ok("PATCH", f"/Users/{user['id']}", _patch(disable))
    standing = _standing(scim, user)
    shown = scim.ok("GET", "/Users", params={"filter": 'userName eq "5b50@testuser.example"'})["Resources"][0]
    gone = [scim.call("DELETE", f"/Users/{user['id']}"), scim.call("DELETE", path)]

    assert (probe["totalResults"], unknown["Resources"]) == (0, [])
    assert [each["Resources"][0]["id"] for each in (found, by_mail)] == [user["id"]] * 2
    assert (changed["displayName"], changed["externalId"], changed["nickName"]) == ("Pvlo", "Eqpj", "Babs")
    assert changed["emails"] == [{"value": "updated@testuser.example", "type": "work", "primary": True}]
    assert (changed["name"]["givenName"], changed["name"]["familyName"]) == ("Gtfd", "familyName")
    assert scim.api.world.employments(user["id"])[0].employee_number == f"A-{flag}"
    assert renamed["userName"] == "5b50@testuser.example"
    assert (listed["Resources"][0]["id"], joined, left) == (group["id"], [user["id"]], [])
    assert (disabled["active"], shown["active"], standing) == (False, False, Standing.SUSPENDED)
    assert [answer.status_code for answer in gone] == [204, 204]
    assert _standing(scim, user) == Standing.LEFT
    assert scim.call("GET", f"/Users/{user['id']}").status_code == 404


def test_okta_from_hire_to_deletion(scim: Scim) -> None:
    """Requests of Okta's SCIM 2.0 reference: it looks, creates, reads, replaces, pushes groups, and deactivates."""
    profile = {
        "userName": "test.user@okta.example",
        "name": {"givenName": "Test", "familyName": "User"},
        "emails": [{"primary": True, "value": "test.user@okta.example", "type": "work"}],
        "displayName": "Test User",
        "locale": "en-US",
        "externalId": "00ujl29u0le5T6Aj10h7",
        "groups": [],
        "password": "1mz050nq",
        "active": True,
    }
    query = {"filter": 'userName eq "test.user@okta.example"', "startIndex": "1", "count": "100"}
    unknown = scim.ok("GET", "/Users", params=query)
    user = scim.ok("POST", "/Users", {"schemas": [USER], **profile})
    path = f"/Users/{user['id']}"
    listed = scim.ok("GET", "/Users", params={"startIndex": "1", "count": "100"})
    whole = {
        **profile,
        "schemas": [USER],
        "id": user["id"],
        "name": {"givenName": "Another", "middleName": "Excited", "familyName": "User"},
        "meta": {"resourceType": "User"},
    }
    put = scim.ok("PUT", path, whole)

    other = scim.user("other.user@okta.example")
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Test SCIMv2", "members": []})
    group_path = f"/Groups/{group['id']}"
    scim.ok(
        "PATCH",
        group_path,
        _patch(
            {"op": "add", "path": "members", "value": [{"value": other["id"], "display": "other.user@okta.example"}]}
        ),
    )
    renamed = scim.ok(
        "PATCH", group_path, _patch({"op": "replace", "value": {"id": group["id"], "displayName": "Renamed"}})
    )
    scim.ok(
        "PATCH",
        group_path,
        _patch(
            {"op": "remove", "path": f'members[value eq "{other["id"]}"]'},
            {"op": "add", "path": "members", "value": [{"value": user["id"], "display": "test.user@okta.example"}]},
        ),
    )
    swapped = _members(scim, group)
    scim.ok(
        "PATCH",
        group_path,
        _patch({"op": "replace", "path": "members", "value": [{"value": other["id"], "display": "x"}]}),
    )
    replaced = _members(scim, group)

    off = scim.ok("PATCH", path, _patch({"op": "replace", "value": {"active": False}}))
    standing = _standing(scim, user)
    on = scim.ok("PATCH", path, _patch({"op": "replace", "value": {"active": True}}))
    off_by_put = scim.ok("PUT", path, {**whole, "active": False})
    removed = scim.call("DELETE", group_path)

    assert unknown["totalResults"] == 0
    assert (user["active"], "password" in user, listed["totalResults"]) == (True, False, 1)
    assert put["name"] == {"givenName": "Another", "middleName": "Excited", "familyName": "User"}
    assert renamed["displayName"] == "Renamed"
    assert (swapped, replaced) == ([user["id"]], [other["id"]])
    assert (off["active"], standing, on["active"], off_by_put["active"]) == (False, Standing.SUSPENDED, True, False)
    assert (_standing(scim, user), removed.status_code) == (Standing.SUSPENDED, 204)


def test_scim2_client_from_hire_to_deletion(scim: Scim) -> None:
    """A client that others wrote, with its own models and its own checks of every answer."""
    base_url = scim.api.http.base_url.join(PREFIX)
    with TestClient(scim.api.app, base_url=str(base_url), headers={"Authorization": f"Bearer {scim.token}"}) as http:
        client: Any = SyncSCIMClient(http)
        client.discover()
        user_model: Any = client.get_resource_model("User")
        group_model: Any = client.get_resource_model("Group")
        patch: Any = PatchOp[User[EnterpriseUser]]
        user = client.create(user_model(user_name="bjensen@corp.example", active=True))
        query: Any = SearchRequest(filter='userName eq "bjensen@corp.example"')
        found = client.query(user_model, query_parameters=query)
        changed = client.modify(
            user_model,
            user.id,
            patch(operations=[PatchOperation(op="add", path="title", value="Engineer")]),
        )
        changed.nick_name = "Babs"
        replaced = client.replace(changed)
        group = client.create(group_model.model_validate({"displayName": "Team", "members": [{"value": user.id}]}))
        client.modify(
            user_model,
            user.id,
            patch(operations=[PatchOperation(op="replace", path="active", value=False)]),
        )
        off = client.query(user_model, user.id)
        client.delete(group_model, group.id)
        client.delete(user_model, user.id)
        gone = client.query(user_model, user.id, raise_scim_errors=False)

    assert isinstance(found, ListResponse)
    assert found.resources is not None
    assert [each.id for each in found.resources] == [user.id]
    assert (changed.title, replaced.nick_name, replaced.title) == ("Engineer", "Babs", "Engineer")
    assert [each.value for each in group.members or []] == [user.id]
    assert off.active is False
    assert isinstance(gone, Error)
    assert {EnterpriseUser.__schema__, CONTOSO} <= set(user_model.get_extension_models())


def test_hr_feed_sends_everybody_in_every_run(scim: Scim) -> None:
    """A bulk request with POST for everybody, numbers for managers and a schema of its own."""
    feed = _with(scim, post_replaces=True)

    def person(number: str, title: str, manager: str, *, active: bool = True) -> dict[str, Any]:
        return {
            "method": "POST",
            "bulkId": number,
            "path": "/Users",
            "data": {
                "schemas": [USER, ENTERPRISE_USER, CONTOSO],
                "externalId": number,
                "userName": f"user{number}@example.com",
                "displayName": f"Person {number}",
                "title": title,
                "active": active,
                ENTERPRISE_USER: {
                    "employeeNumber": number,
                    "organization": "Universal Studios",
                    "department": "Tour Operations",
                    "manager": {"value": manager, "displayName": "John Smith"},
                },
                CONTOSO: {"HireDate": "2021-05-01T00:00:00-05:00", "JobCode": "TG-1001"},
            },
        }

    first = [person("701984", "Tour Guide", "89607"), person("701985", "Tour Lead", "701984")]
    second = [person("701984", "Guide", "89607"), person("701985", "Tour Lead", "701984", active=False)]
    runs = [
        feed.ok("POST", "/Bulk", {"schemas": [BULK_REQUEST], "Operations": operations, "failOnErrors": None})
        for operations in (first, second)
    ]

    ids = [[each["location"].rpartition("/")[2] for each in run["Operations"]] for run in runs]
    lead = feed.ok("GET", f"/Users/{ids[0][1]}")
    assert [[each["status"] for each in run["Operations"]] for run in runs] == [["201", "201"], ["200", "200"]]
    assert ids[0] == ids[1]
    assert feed.ok("GET", f"/Users/{ids[0][0]}")["title"] == "Guide"
    assert lead[ENTERPRISE_USER]["manager"]["value"] == ids[0][0]
    assert lead[CONTOSO]["JobCode"] == "TG-1001"
    assert _standing(scim, lead) == Standing.SUSPENDED


# --- every quirk ------------------------------------------------------------------------------------------------------

PROOFS: dict[str, Callable[[Scim], None]] = {}


def proves(quirk: str) -> Callable[[Callable[[Scim], None]], Callable[[Scim], None]]:
    def register(proof: Callable[[Scim], None]) -> Callable[[Scim], None]:
        PROOFS[quirk] = proof
        return proof

    return register


@proves("entra-verbs")
def _(scim: Scim) -> None:
    user = scim.user(title="x")
    assert "title" not in scim.patch(user, {"op": "Remove", "path": "title"})


@proves("entra-false")
def _(scim: Scim) -> None:
    user = scim.user()
    assert scim.patch(user, {"op": "Replace", "path": "active", "value": "False"})["active"] is False


@proves("entra-remove-by-value")
def _(scim: Scim) -> None:
    first, second = scim.user("a@corp.example"), scim.user("b@corp.example")
    members = [{"value": each["id"]} for each in (first, second)]
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "T", "members": members})
    scim.patch(group, {"op": "Remove", "path": "members", "value": [{"$ref": None, "value": first["id"]}]})
    assert _members(scim, group) == [second["id"]]


@proves("entra-dotted-keys")
def _(scim: Scim) -> None:
    user = scim.user()
    value = {"name.givenName": "A", f"{ENTERPRISE_USER}:costCenter": "1"}
    changed = scim.patch(user, {"op": "Replace", "value": value})
    assert (changed["name"]["givenName"], changed[ENTERPRISE_USER]["costCenter"]) == ("A", "1")


_MOBILE = {"path": 'phoneNumbers[type eq "mobile"].value', "value": "+86 138 0000 0000"}


@proves("entra-add-selected")
def _(scim: Scim) -> None:
    user = scim.user()
    assert scim.patch(user, {"op": "Add", **_MOBILE})["phoneNumbers"] == [
        {"type": "mobile", "value": "+86 138 0000 0000"}
    ]


@proves("entra-replace-selected")
def _(scim: Scim) -> None:
    user = scim.user()
    refused = scim.call("PATCH", f"/Users/{user['id']}", _patch({"op": "Replace", **_MOBILE}))
    assert (refused.status_code, refused.json()["scimType"]) == (400, "noTarget")
    made = _with(scim, replace_makes=True).patch(user, {"op": "Replace", **_MOBILE})
    assert made["phoneNumbers"][0]["type"] == "mobile"


@proves("entra-primary-text")
def _(scim: Scim) -> None:
    user = scim.user(roles=[{"value": "a"}, {"value": "b", "primary": True}])
    changed = scim.patch(user, {"op": "Replace", "path": 'roles[primary eq "True"].value', "value": "c"})
    assert [each["value"] for each in changed["roles"]] == ["a", "c"]


@proves("entra-manager")
def _(scim: Scim) -> None:
    boss, user = scim.user("boss@corp.example"), scim.user()
    changed = scim.patch(user, {"op": "Add", "path": f"{ENTERPRISE_USER}:manager", "value": boss["id"]})
    assert changed[ENTERPRISE_USER]["manager"]["value"] == boss["id"]


@proves("entra-group-schema")
def _(scim: Scim) -> None:
    schemas = [GROUP, "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"]
    group = scim.ok("POST", "/Groups", {"schemas": schemas, "displayName": "T", "meta": {"resourceType": "Group"}})
    assert group["schemas"] == [GROUP]


@proves("entra-member-query")
def _(scim: Scim) -> None:
    user, other = scim.user(), scim.user("other@corp.example")
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "T", "members": [{"value": user["id"]}]})
    for person, count in ((user, 1), (other, 0)):
        filter_ = f'id eq "{group["id"]}" and members eq "{person["id"]}"'
        listed = scim.ok("GET", "/Groups", params={"filter": filter_, "attributes": "id"})
        assert listed["totalResults"] == count


@proves("entra-probe")
def _(scim: Scim) -> None:
    answer = scim.call("GET", "/Users", params={"filter": 'userName eq "d1a1e0b0-nobody"'})
    assert (answer.status_code, answer.json()["Resources"]) == (200, [])


@proves("okta-deactivate")
def _(scim: Scim) -> None:
    user = scim.user()
    scim.patch(user, {"op": "replace", "value": {"active": False}})
    assert _standing(scim, user) == Standing.SUSPENDED


@proves("okta-put-whole")
def _(scim: Scim) -> None:
    user = scim.user()
    body = {**user, "groups": [{"value": "x"}], "password": "secret-1", "meta": {"resourceType": "User"}}
    put = scim.ok("PUT", f"/Users/{user['id']}", body)
    assert not {"password", "groups"} & put.keys()


@proves("okta-id-in-patch")
def _(scim: Scim) -> None:
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "T"})
    own = _patch({"op": "replace", "value": {"id": group["id"], "displayName": "U"}})
    other = _patch({"op": "replace", "value": {"id": "grp_x", "displayName": "V"}})
    assert scim.ok("PATCH", f"/Groups/{group['id']}", own)["displayName"] == "U"
    assert scim.call("PATCH", f"/Groups/{group['id']}", other).json()["scimType"] == "mutability"


@proves("okta-members")
def _(scim: Scim) -> None:
    first, second = scim.user("a@corp.example"), scim.user("b@corp.example")
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "T", "members": [{"value": first["id"]}]})
    scim.patch(
        group,
        {"op": "remove", "path": f'members[value eq "{first["id"]}"]'},
        {"op": "add", "path": "members", "value": [{"value": second["id"], "display": "b@corp.example"}]},
    )
    assert _members(scim, group) == [second["id"]]


@proves("okta-list")
def _(scim: Scim) -> None:
    scim.user()
    for start in ("1", "0"):
        page = scim.ok("GET", "/Users", params={"startIndex": start, "count": "100"})
        assert (page["startIndex"], page["itemsPerPage"]) == (1, 1)


@proves("onelogin-mail-without-type")
def _(scim: Scim) -> None:
    user = scim.user(emails=[{"value": "one@corp.example", "primary": True}])
    assert user["emails"] == [{"value": "one@corp.example", "primary": True}]
    assert scim.found("Users", 'emails eq "one@corp.example"')[0]["id"] == user["id"]


@proves("onelogin-json")
def _(scim: Scim) -> None:
    body = {"schemas": [USER], "userName": "a@corp.example"}
    answer = scim.call("POST", "/Users", body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert answer.status_code == 201


@proves("jumpcloud-put")
def _(scim: Scim) -> None:
    user = scim.user(title="x", active=True)
    put = scim.ok("PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": user["userName"], "active": False})
    assert ("title" in put, _standing(scim, user)) == (False, Standing.SUSPENDED)


@proves("jumpcloud-group-put")
def _(scim: Scim) -> None:
    first, second = scim.user("a@corp.example"), scim.user("b@corp.example")
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "T", "members": [{"value": first["id"]}]})
    body = {"schemas": [GROUP], "displayName": "T", "members": [{"value": second["id"]}]}
    scim.ok("PUT", f"/Groups/{group['id']}", body)
    assert _members(scim, group) == [second["id"]]


@proves("feed-upsert")
def _(scim: Scim) -> None:
    body = {"schemas": [USER], "userName": "a@corp.example", "externalId": "1", "title": "x"}
    user = scim.ok("POST", "/Users", body)
    assert scim.call("POST", "/Users", body).status_code == 409
    again = _with(scim, post_replaces=True).call("POST", "/Users", {**body, "title": "y"})
    assert (again.status_code, again.json()["id"], again.json()["title"]) == (200, user["id"], "y")


@proves("feed-manager-number")
def _(scim: Scim) -> None:
    boss = scim.user("boss@corp.example", externalId="k1", enterprise={"employeeNumber": "N1"})
    for index, word in enumerate(("k1", "N1")):
        user = scim.user(f"u{index}@corp.example", enterprise={"manager": {"value": word}})
        assert scim.api.world.employments(user["id"])[0].manager_id == boss["id"]


@proves("feed-extension")
def _(scim: Scim) -> None:
    values: dict[str, Any] = {CONTOSO: {"JobCode": "x"}, "urn:other:1.0:User": {"a": "b"}}
    user = scim.user(**values)
    assert user[CONTOSO] == {"JobCode": "x"}
    assert "urn:other:1.0:User" not in user


@proves("feed-errors-null")
def _(scim: Scim) -> None:
    operations = [
        {"method": "POST", "path": "/Users", "bulkId": name, "data": {"schemas": [USER], "userName": name}}
        for name in ("", "a@corp.example")
    ]
    operations[0]["bulkId"] = "first"
    body = {"schemas": [BULK_REQUEST], "Operations": operations, "failOnErrors": None}
    assert [each["status"] for each in scim.ok("POST", "/Bulk", body)["Operations"]] == ["400", "201"]


@pytest.mark.parametrize("quirk", [quirk.id for quirk in QUIRKS])
def test_quirk(scim: Scim, quirk: str) -> None:
    PROOFS[quirk](scim)


def test_table_is_well_formed() -> None:
    ids = [quirk.id for quirk in QUIRKS]
    assert len(set(ids)) == len(ids)
    assert {quirk.sender for quirk in QUIRKS} == set(SENDERS)
    assert set(PROOFS) == set(ids)
    assert {quirk.term for quirk in QUIRKS if quirk.term} <= set(Terms.__dataclass_fields__)
