"""A test of every row in `scim.senders`. Whole lives, from hire to deletion, are in `test_scim_lives`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from idhub.api.configuration import apply
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
