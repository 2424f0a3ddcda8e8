"""What senders are documented to send, from hire to deletion: over HTTP to a hub that is served, on both databases.

The request shapes are those of the vendors' documentation (Entra ID, Okta) or what integrators report (OneLogin,
JumpCloud); identifiers and names are ours. Single habits are in `test_scim_senders`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_models import EnterpriseUser, Error, ListResponse, PatchOp, PatchOperation, SearchRequest, User

from idhub.api.scim import PREFIX
from idhub.demo.hub import Hub
from scim.schemas import BULK_REQUEST, ENTERPRISE_USER, GROUP, PATCH_OP, USER
from tests.flows.conftest import COMPANY, write_people
from tests.support.databases import Databases

pytestmark = pytest.mark.slow
CONTOSO = "urn:ietf:params:scim:schemas:extension:contoso:1.0:User"
WORK_MAIL = 'emails[type eq "work"].value'


@dataclass
class Served:
    """`idhub serve`, its command line, and an HR department that reads what became of somebody."""

    hub: Hub
    open: ExitStack
    hr: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.hr = self.client("/api/v1", "--scope", "people:read")

    def client(self, path: str, *options: str) -> httpx2.Client:
        """Somebody with a new token."""
        token = self.hub.run("token", "create", *options).stdout.strip()
        headers = {"Authorization": f"Bearer {token}"}
        return self.open.enter_context(httpx2.Client(base_url=self.hub.address + path, headers=headers, timeout=30))

    def sender(self, name: str, *options: str) -> Sender:
        """A sender whose token is limited to the company."""
        limits = ("--scope", "scim:write", "--name", name, "--organization", COMPANY)
        return Sender(self.client(PREFIX, *limits, *options), self.hr)


@dataclass(frozen=True)
class Sender:
    """Speaks SCIM to the hub, and asks HR what it has done."""

    http: httpx2.Client
    hr: httpx2.Client

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        """A call below `/scim/v2`."""
        headers = {"Content-Type": "application/scim+json; charset=utf-8"}
        return self.http.request(method, path, json=body, headers=headers, **options)

    def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The document of a call that must succeed."""
        answer = self.call(method, path, body, **options)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def patch(self, path: str, *operations: Any) -> Any:
        """A change."""
        return self.ok("PATCH", path, {"schemas": [PATCH_OP], "Operations": list(operations)})

    def found(self, filter_: str, **options: str) -> list[str]:
        """Ids of the people whom a filter selects."""
        page = self.ok("GET", "/Users", params={"filter": filter_, **options})
        return [each["id"] for each in page["Resources"]]

    def members(self, path: str) -> list[str]:
        """Who is in a group."""
        return [each["value"] for each in self.ok("GET", path).get("members", [])]

    def person(self, user: Any) -> Any:
        """What the hub's own API says of somebody."""
        answer = self.hr.get(f"/people/{user['id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def standing(self, user: Any) -> str:
        """`active`, `suspended` or `left`."""
        return str(self.person(user)["standing"])


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("lives")
    extension = {"schema": CONTOSO, "attributes": [{"name": "HireDate", "type": "dateTime"}, {"name": "JobCode"}]}
    Path(folder / "apps.yaml").write_text(yaml.safe_dump({"applications": [], "scim_extensions": [extension]}))
    write_people(folder / "people.csv")
    with databases.fresh(request.param, folder, migrated=False) as url, ExitStack() as stack:
        hub = Hub(folder, outbound_allow="127.0.0.1:1", settings={"IDHUB_DATABASE_URL": url})
        stack.callback(hub.close)
        hub.start()
        hub.run("people", "import", folder / "people.csv")
        hub.run("apply", folder / "apps.yaml")
        yield Served(hub, stack)


@pytest.mark.parametrize("flag", ["without", "aadOptscim062020"])
def test_entra(served: Served, flag: str) -> None:
    """Requests of "Develop and plan provisioning for a SCIM endpoint", without and with the flag for RFC 7644."""
    scim = served.sender(f"entra-{flag}")
    name, mail = f"Test_User_{flag}", f"{flag}@testuser.example"
    probe = scim.ok("GET", "/Users", params={"filter": 'userName eq "non-existent user"'})
    unknown = scim.found(f'userName eq "{name}"')
    user = scim.ok(
        "POST",
        "/Users",
        {
            "schemas": [USER, ENTERPRISE_USER],
            "externalId": "0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef",
            "userName": name,
            "active": True,
            "emails": [{"primary": True, "type": "work", "value": mail}],
            "meta": {"resourceType": "User"},
            "name": {"formatted": "givenName familyName", "familyName": "familyName", "givenName": "givenName"},
            "roles": [],
        },
    )
    path = f"/Users/{user['id']}"
    matched = [scim.found(f'userName eq "{name}"'), scim.found(f'{WORK_MAIL} eq "{mail}"')]
    number = f"{ENTERPRISE_USER}:employeeNumber"
    if flag == "without":
        operations: list[Any] = [
            {"op": "Replace", "path": "displayName", "value": "Pvlo"},
            {"op": "Replace", "path": WORK_MAIL, "value": f"updated-{mail}"},
            {"op": "Replace", "path": "name.givenName", "value": "Gtfd"},
            {"op": "Replace", "path": "externalId", "value": "Eqpj"},
            {"op": "Replace", "path": number, "value": f"A-{flag}"},
            {"op": "Add", "path": "nickName", "value": "Babs"},
        ]
        off: Any = {"op": "Replace", "path": "active", "value": "False"}
        on: Any = {"op": "Replace", "path": "active", "value": "True"}
    else:
        value = {"displayName": "Pvlo", "name.givenName": "Gtfd", "externalId": "Eqpj", number: f"A-{flag}"}
        operations = [
            {"op": "replace", "path": WORK_MAIL, "value": f"updated-{mail}"},
            {"op": "replace", "value": value},
            {"op": "add", "path": "nickName", "value": "Babs"},
        ]
        off, on = ({"op": "replace", "path": "active", "value": value} for value in (False, True))
    changed = scim.patch(path, *operations)
    renamed = scim.patch(path, {"op": "Replace", "path": "userName", "value": f"5b50-{mail}"})

    group = scim.ok(
        "POST",
        "/Groups",
        {
            "schemas": [GROUP, "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"],
            "externalId": "8aa1a0c0-c4c3-4bc0-b4a5-2ef676900159",
            "displayName": f"displayName {flag}",
            "meta": {"resourceType": "Group"},
        },
    )
    group_path = f"/Groups/{group['id']}"
    query = {"excludedAttributes": "members", "filter": f'displayName eq "displayName {flag}"'}
    listed = scim.ok("GET", "/Groups", params=query)
    scim.patch(group_path, {"op": "Replace", "path": "displayName", "value": f"1879db59 {flag}"})
    member = [{"$ref": None, "value": user["id"]}]
    scim.patch(group_path, {"op": "Add", "path": "members", "value": member})
    joined = scim.members(group_path)
    unshown = scim.ok("GET", group_path, params={"excludedAttributes": "members"})
    if flag == "without":
        scim.patch(group_path, {"op": "Remove", "path": "members", "value": member})
    else:
        scim.patch(group_path, {"op": "remove", "path": f'members[value eq "{user["id"]}"]'})
    left = scim.members(group_path)

    standings = []
    for operation in (off, on, off):
        shown = scim.patch(path, operation)["active"]
        standings.append((shown, scim.ok("GET", path)["active"], scim.standing(user)))
    gone = [scim.call("DELETE", path).status_code, scim.call("DELETE", group_path).status_code]

    assert (probe["totalResults"], unknown) == (0, [])
    assert matched == [[user["id"]]] * 2
    assert (changed["displayName"], changed["externalId"], changed["nickName"]) == ("Pvlo", "Eqpj", "Babs")
    assert changed["emails"] == [{"value": f"updated-{mail}", "type": "work", "primary": True}]
    assert (changed["name"]["givenName"], changed["name"]["familyName"]) == ("Gtfd", "familyName")
    assert scim.person(user)["employments"][0]["employee_number"] == f"A-{flag}"
    assert renamed["userName"] == f"5b50-{mail}"
    assert ([each["id"] for each in listed["Resources"]], joined, left) == ([group["id"]], [user["id"]], [])
    assert "members" not in unshown
    assert standings == [(False, False, "suspended"), (True, True, "active"), (False, False, "suspended")]
    assert (gone, scim.standing(user)) == ([204, 204], "left")
    assert [scim.call("GET", each).status_code for each in (path, group_path)] == [404, 404]


def test_okta(served: Served) -> None:
    """Requests of Okta's SCIM 2.0 reference: it looks, creates, reads, replaces, pushes groups, and deactivates."""
    scim = served.sender("okta")
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
    paging = {"startIndex": "1", "count": "100"}
    unknown = scim.found('userName eq "test.user@okta.example"', **paging)
    user = scim.ok("POST", "/Users", {"schemas": [USER], **profile})
    path = f"/Users/{user['id']}"
    listed = scim.ok("GET", "/Users", params=paging)
    whole = {
        **profile,
        "schemas": [USER],
        "id": user["id"],
        "name": {"givenName": "Another", "middleName": "Excited", "familyName": "User"},
        "meta": {"resourceType": "User"},
    }
    put = scim.ok("PUT", path, whole)

    other = scim.ok("POST", "/Users", {"schemas": [USER], "userName": "other.user@okta.example"})
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Test SCIMv2", "members": []})
    group_path = f"/Groups/{group['id']}"
    entry = {"value": other["id"], "display": "other.user@okta.example"}
    scim.patch(group_path, {"op": "add", "path": "members", "value": [entry]})
    renamed = scim.patch(group_path, {"op": "replace", "value": {"id": group["id"], "displayName": "Renamed"}})
    scim.patch(
        group_path,
        {"op": "remove", "path": f'members[value eq "{other["id"]}"]'},
        {"op": "add", "path": "members", "value": [{"value": user["id"], "display": "test.user@okta.example"}]},
    )
    swapped = scim.members(group_path)
    scim.patch(group_path, {"op": "replace", "path": "members", "value": [entry]})
    replaced = scim.members(group_path)

    off = scim.patch(path, {"op": "replace", "value": {"active": False}})
    standing = scim.standing(user)
    on = scim.patch(path, {"op": "replace", "value": {"active": True}})
    off_by_put = scim.ok("PUT", path, {**whole, "active": False})
    removed = scim.call("DELETE", group_path)

    assert unknown == []
    assert (user["active"], "password" in user) == (True, False)
    assert user["id"] in {each["id"] for each in listed["Resources"]}
    assert (listed["startIndex"], listed["itemsPerPage"]) == (1, listed["totalResults"])
    assert put["name"] == {"givenName": "Another", "middleName": "Excited", "familyName": "User"}
    assert renamed["displayName"] == "Renamed"
    assert (swapped, replaced) == ([user["id"]], [other["id"]])
    assert (off["active"], standing, on["active"], off_by_put["active"]) == (False, "suspended", True, False)
    assert (scim.standing(user), removed.status_code) == ("suspended", 204)


def test_onelogin(served: Served) -> None:
    """It looks by name, patches what changed, suspends, and deletes; its mail has no type."""
    scim = served.sender("onelogin")
    name = "one.user@onelogin.example"
    unknown = scim.found(f'userName eq "{name}"')
    user = scim.ok(
        "POST",
        "/Users",
        {
            "schemas": [USER, ENTERPRISE_USER],
            "userName": name,
            "externalId": "159673341",
            "name": {"givenName": "One", "familyName": "User", "formatted": "One User"},
            "displayName": "One User",
            "emails": [{"value": name, "primary": True}],
            "active": True,
            ENTERPRISE_USER: {"department": "Sales", "employeeNumber": "OL-1"},
        },
    )
    path = f"/Users/{user['id']}"
    changed = scim.patch(path, {"op": "replace", "value": {"title": "Lead", "name": {"familyName": "Login"}}})
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "OneLogin team"})
    group_path = f"/Groups/{group['id']}"
    scim.patch(group_path, {"op": "add", "path": "members", "value": [{"value": user["id"]}]})
    joined = scim.members(group_path)
    scim.patch(group_path, {"op": "remove", "path": f'members[value eq "{user["id"]}"]'})
    left = scim.members(group_path)
    standings = []
    for active in (False, True):
        scim.patch(path, {"op": "replace", "path": "active", "value": active})
        standings.append(scim.standing(user))
    gone = [scim.call("DELETE", each).status_code for each in (group_path, path)]

    assert unknown == []
    assert (changed["title"], changed["name"]["familyName"], changed["name"]["givenName"]) == ("Lead", "Login", "One")
    assert scim.person(user)["email"] == name
    assert (joined, left) == ([user["id"]], [])
    assert (standings, gone, scim.standing(user)) == (["suspended", "active"], [204, 204], "left")


def test_jumpcloud(served: Served) -> None:
    """It tries the connection with a user and a group of its own; later every change is a PUT of the whole."""
    scim = served.sender("jumpcloud")
    for kind, body in (("Users", {"schemas": [USER], "userName": "jc-test"}), ("Groups", {"displayName": "jc-test"})):
        made = scim.ok("POST", f"/{kind}", {"schemas": [GROUP], **body})
        assert scim.call("DELETE", f"/{kind}/{made['id']}").status_code == 204
    whole = {
        "schemas": [USER],
        "userName": "jc.user@jumpcloud.example",
        "externalId": "5f9a1b2c3d",
        "name": {"givenName": "Jump", "familyName": "Cloud"},
        "emails": [{"value": "jc.user@jumpcloud.example", "type": "work", "primary": True}],
        "active": True,
        "title": "Engineer",
        "phoneNumbers": [],
    }
    user = scim.ok("POST", "/Users", whole)
    path = f"/Users/{user['id']}"
    changed = scim.ok("PUT", path, {**whole, "title": "Lead"})
    emptied = scim.ok("PUT", path, {name: value for name, value in whole.items() if name != "title"})
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "JumpCloud team"})
    group_path, team = f"/Groups/{group['id']}", {"schemas": [GROUP], "displayName": "JumpCloud team"}
    members = []
    for value in ([{"value": user["id"]}], []):
        scim.ok("PUT", group_path, {**team, "members": value})
        members.append(scim.members(group_path))
    standings = []
    for active in (False, True):
        scim.ok("PUT", path, {**whole, "active": active})
        standings.append(scim.standing(user))
    gone = [scim.call("DELETE", each).status_code for each in (group_path, path)]

    assert (changed["title"], "title" in emptied) == ("Lead", False)
    assert members == [[user["id"]], []]
    assert (standings, gone, scim.standing(user)) == (["suspended", "active"], [204, 204], "left")


def test_hr_feed_sends_everybody_in_every_run(served: Served) -> None:
    """A bulk request with POST for everybody, numbers for managers and a schema of its own."""
    feed = served.sender("workday", "--post-replaces", "--inactive", "leave")

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
    assert (lead["active"], feed.standing(lead)) == (False, "left")


def test_scim2_client(served: Served) -> None:
    """A client that others wrote, with its own models and its own checks of every answer."""
    scim = served.sender("scim2-client")
    client: Any = SyncSCIMClient(scim.http)
    client.discover()
    user_model: Any = client.get_resource_model("User")
    group_model: Any = client.get_resource_model("Group")

    def patch(model: Any, resource: Any, **operation: Any) -> Any:
        body: Any = PatchOp[User[EnterpriseUser]] if model is user_model else PatchOp[group_model]
        return client.modify(model, resource.id, body(operations=[PatchOperation(**operation)]))

    user = client.create(user_model(user_name="bjensen@corp.example", active=True))
    query: Any = SearchRequest(filter='userName eq "bjensen@corp.example"')
    found = client.query(user_model, query_parameters=query)
    changed = patch(user_model, user, op="add", path="title", value="Engineer")
    changed.nick_name = "Babs"
    replaced = client.replace(changed)
    group = client.create(group_model.model_validate({"displayName": "Team", "members": [{"value": user.id}]}))
    emptied = patch(group_model, group, op="remove", path="members")
    patch(user_model, user, op="replace", path="active", value=False)
    off, standing = client.query(user_model, user.id), scim.standing({"id": user.id})
    patch(user_model, user, op="replace", path="active", value=True)
    client.delete(group_model, group.id)
    client.delete(user_model, user.id)
    gone = client.query(user_model, user.id, raise_scim_errors=False)

    assert isinstance(found, ListResponse)
    assert found.resources is not None
    assert [each.id for each in found.resources] == [user.id]
    assert (changed.title, replaced.nick_name, replaced.title) == ("Engineer", "Babs", "Engineer")
    assert ([each.value for each in group.members or []], emptied.members or []) == ([user.id], [])
    assert (off.active, standing, scim.standing({"id": user.id})) == (False, "suspended", "left")
    assert isinstance(gone, Error)
    assert {EnterpriseUser.__schema__, CONTOSO} <= set(user_model.get_extension_models())
