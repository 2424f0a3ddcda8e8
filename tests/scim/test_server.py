"""The protocol of the service provider over a store in memory (RFC 7644; RFC 9865)."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from scim.errors import NotFound
from scim.messages import MEDIA_TYPE, ScimRequest, ScimResponse
from scim.samples.memory import MemoryStore
from scim.schemas import (
    BULK_REQUEST,
    ENTERPRISE_USER,
    ERROR,
    GROUP,
    LIST_RESPONSE,
    PATCH_OP,
    SEARCH_REQUEST,
    USER,
)
from scim.server import Limits, Server
from scim.standard import GROUP_TYPE, USER_TYPE

BASE = "https://hub.example/scim/v2"


class Client:
    """Speaks to a server over a store of its own."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.server = Server(
            [USER_TYPE, GROUP_TYPE], base_url=BASE, limits=Limits(max_body=50_000, max_bulk_operations=20)
        )

    def ask(
        self, method: str, path: str, body: Any = None, *, query: str = "", headers: dict[str, str] | None = None
    ) -> ScimResponse:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        request = ScimRequest(method=method, path=path, query=query, headers=headers or {}, body=raw)
        return self.server.answer(request, self.store.transactions)

    def json(self, method: str, path: str, body: Any = None, **options: Any) -> dict[str, Any]:
        answer = self.ask(method, path, body, **options)
        assert answer.error is None, answer.body
        document: dict[str, Any] = json.loads(answer.body or b"{}")
        return document

    def user(self, name: str, **values: Any) -> dict[str, Any]:
        return self.json("POST", "/Users", {"schemas": [USER], "userName": name, **values})


@pytest.fixture
def client() -> Client:
    return Client()


def _patch(*operations: dict[str, Any]) -> dict[str, Any]:
    return {"schemas": [PATCH_OP], "Operations": list(operations)}


def _error(answer: ScimResponse) -> tuple[int, str | None, str]:
    document = json.loads(answer.body or b"{}")
    assert document["schemas"] == [ERROR]
    assert document["status"] == str(answer.status)
    return answer.status, document.get("scimType"), document["detail"]


# --- resources --------------------------------------------------------------------------------------------------------


def test_created_resource_tells_where_and_which_version_it_is(client: Client) -> None:
    """RFC 7644 section 3.3; RFC 7643 section 3.1."""
    answer = client.ask("POST", "/Users", {"schemas": [USER], "userName": "bjensen", "password": "secret"})

    document = json.loads(answer.body or b"")
    assert answer.status == 201
    assert answer.headers == {"Content-Type": MEDIA_TYPE, "ETag": 'W/"1"', "Location": f"{BASE}/Users/1"}
    assert document["meta"] == {
        "resourceType": "User",
        "created": "2026-11-23T00:00:01.000Z",
        "lastModified": "2026-11-23T00:00:01.000Z",
        "location": f"{BASE}/Users/1",
        "version": 'W/"1"',
    }
    assert "password" not in document


def test_second_user_of_a_name_is_refused_whatever_its_case(client: Client) -> None:
    client.user("bjensen")

    answer = client.ask("POST", "/Users", {"schemas": [USER], "userName": "BJensen"})

    assert _error(answer)[:2] == (409, "uniqueness")


def test_put_replaces_and_patch_changes(client: Client) -> None:
    client.user("bjensen", title="A", nickName="B")

    replaced = client.json("PUT", "/Users/1", {"schemas": [USER], "userName": "bjensen", "nickName": "C"})
    patched = client.json("PATCH", "/Users/1", _patch({"op": "add", "path": "title", "value": "D"}))

    assert "title" not in replaced
    assert (patched["nickName"], patched["title"]) == ("C", "D")
    assert patched["meta"]["version"] == 'W/"3"'


def test_change_that_changes_nothing_keeps_the_version(client: Client) -> None:
    client.user("bjensen", title="A")

    patched = client.json("PATCH", "/Users/1", _patch({"op": "replace", "path": "title", "value": "A"}))

    assert patched["meta"]["version"] == 'W/"1"'


def test_deleted_resource_is_gone(client: Client) -> None:
    client.user("bjensen")

    assert client.ask("DELETE", "/Users/1").status == 204
    assert _error(client.ask("GET", "/Users/1")) == (404, None, "There is no such resource.")
    assert _error(client.ask("DELETE", "/Users/1"))[0] == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_stale_version_is_refused_and_changes_nothing(client: Client, method: str) -> None:
    """RFC 7644 section 3.14."""
    client.user("bjensen", title="A")
    bodies = {
        "PUT": {"schemas": [USER], "userName": "other"},
        "PATCH": _patch({"op": "replace", "path": "title", "value": "B"}),
    }

    answer = client.ask(method, "/Users/1", bodies.get(method), headers={"if-match": 'W/"7"'})

    assert _error(answer)[0] == 412
    assert client.json("GET", "/Users/1")["title"] == "A"


@pytest.mark.parametrize("condition", ['W/"1"', '"1"', "*", 'W/"9", W/"1"'])
def test_right_version_is_let_through(client: Client, condition: str) -> None:
    client.user("bjensen")

    assert client.ask("DELETE", "/Users/1", headers={"if-match": condition}).status == 204


def test_known_version_is_not_sent_again(client: Client) -> None:
    client.user("bjensen")

    answer = client.ask("GET", "/Users/1", headers={"if-none-match": 'W/"1"'})

    assert (answer.status, answer.body) == (304, None)


# --- bodies and addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/Nothing", 404),
        ("POST", "/", 405),
        ("GET", "/users", 404),
        ("GET", "/Users/1/2", 404),
        ("GET", "/Schemas/urn:nothing", 404),
        ("GET", "/Me", 404),
        ("PUT", "/Users", 405),
        ("POST", "/Users/1", 405),
        ("POST", "/Schemas", 405),
        ("GET", "/Bulk", 405),
        ("GET", "/Users/.search", 405),
    ],
)
def test_address_or_method_that_is_not_there(client: Client, method: str, path: str, status: int) -> None:
    answer = client.ask(method, path)

    assert _error(answer)[0] == status
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"", {}, (400, "invalidSyntax")),
        (b"{", {}, (400, "invalidSyntax")),
        (b'{"schemas": [], "userName": "a"}', {}, (400, "invalidSyntax")),
        (json.dumps({"schemas": [USER]}).encode(), {}, (400, "invalidValue")),
        (b"{}", {"content-type": "text/plain"}, (415, None)),
        (b" " * 50_001, {}, (413, None)),
    ],
    ids=["empty", "open", "no-schemas", "no-name", "text", "large"],
)
def test_body_that_cannot_be_taken(
    client: Client, body: bytes, headers: dict[str, str], expected: tuple[int, str | None]
) -> None:
    assert _error(client.ask("POST", "/Users", body, headers=headers))[:2] == expected


def test_descriptions_cannot_be_filtered(client: Client) -> None:
    """RFC 7644 section 4."""
    assert _error(client.ask("GET", "/Schemas", query='filter=id eq "x"'))[0] == 403


def test_description_is_found_by_its_name(client: Client) -> None:
    schema = client.json("GET", f"/Schemas/{ENTERPRISE_USER}")
    kind = client.json("GET", "/ResourceTypes/User")

    assert schema["meta"]["location"] == f"{BASE}/Schemas/{ENTERPRISE_USER}"
    assert kind["schemaExtensions"] == [{"schema": ENTERPRISE_USER, "required": False}]


# --- lists ------------------------------------------------------------------------------------------------------------


def test_index_paging(client: Client) -> None:
    """RFC 7644 section 3.4.2.4."""
    for name in "abcde":
        client.user(name)

    page = client.json("GET", "/Users", query="startIndex=2&count=2")
    none = client.json("GET", "/Users", query="startIndex=-3&count=0")
    beyond = client.json("GET", "/Users", query="startIndex=9")

    assert [user["userName"] for user in page["Resources"]] == ["b", "c"]
    assert {name: page[name] for name in ("schemas", "totalResults", "startIndex", "itemsPerPage")} == {
        "schemas": [LIST_RESPONSE],
        "totalResults": 5,
        "startIndex": 2,
        "itemsPerPage": 2,
    }
    assert (none["totalResults"], none["startIndex"], none["Resources"]) == (5, 1, [])
    assert beyond["Resources"] == []


def test_cursor_paging_walks_the_whole_list(client: Client) -> None:
    """RFC 9865 section 2."""
    for name in "abcde":
        client.user(name)
    seen: list[str] = []
    cursor: str | None = ""

    while cursor is not None:
        page = client.json("GET", "/Users", query=f"cursor={cursor}&count=2")
        seen += [user["userName"] for user in page["Resources"]]
        cursor = page.get("nextCursor")
        assert "startIndex" not in page

    assert seen == list("abcde")


def test_search_by_body_shows_what_a_query_shows(client: Client) -> None:
    """RFC 7644 section 3.4.3."""
    for name in "ab":
        client.user(name, emails=[{"value": f"{name}@corp.example", "type": "work"}])
    wish = {
        "schemas": [SEARCH_REQUEST],
        "filter": 'emails[type eq "work" and value co "b@"]',
        "attributes": ["userName"],
        "sortBy": "userName",
        "sortOrder": "descending",
    }

    found = client.json("POST", "/Users/.search", wish)["Resources"]

    assert [(user["userName"], set(user)) for user in found] == [("b", {"schemas", "id", "userName"})]


def test_search_over_all_types(client: Client) -> None:
    """RFC 7644 section 3.4.2.1: what a type does not know selects nothing of it."""
    client.user("a", displayName="Team")
    client.json("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})

    both = client.json("POST", "/.search", {"schemas": [SEARCH_REQUEST], "filter": 'displayName eq "team"'})
    users = client.json("POST", "/.search", {"schemas": [SEARCH_REQUEST], "filter": 'userName eq "a"'})
    second = client.json("POST", "/.search", {"schemas": [SEARCH_REQUEST], "startIndex": 2, "count": 1})

    assert [each["meta"]["resourceType"] for each in both["Resources"]] == ["User", "Group"]
    assert users["totalResults"] == 1
    assert [each["meta"]["resourceType"] for each in second["Resources"]] == ["Group"]


@pytest.mark.parametrize(
    ("filter_", "kinds"),
    [
        ('displayName eq "team" or userName eq "nobody"', ["User", "Group"]),
        ('displayName eq "team" and userName eq "a"', ["User"]),
        ('displayName eq "team" and not (userName pr)', ["Group"]),
        ('userName ne "a"', ["Group"]),
        ('nickName eq null and displayName eq "team"', ["User", "Group"]),
        ('emails[type eq "work"] or members pr', []),
        ('not (emails[type eq "work"]) and not (members pr)', ["User", "Group"]),
    ],
)
def test_what_a_type_does_not_have_has_no_value_there(client: Client, filter_: str, kinds: list[str]) -> None:
    """RFC 7644 section 3.4.2.1: SHALL be treated as an attribute without a value."""
    client.user("a", displayName="Team")
    client.json("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})

    found = client.json("POST", "/.search", {"schemas": [SEARCH_REQUEST], "filter": filter_})

    assert [each["meta"]["resourceType"] for each in found["Resources"]] == kinds
    assert found["totalResults"] == len(kinds)


def test_types_are_sorted_each_by_what_it_has(client: Client) -> None:
    for name in "ba":
        client.user(name)
        client.json("POST", "/Groups", {"schemas": [GROUP], "displayName": name})

    found = client.json("POST", "/.search", {"schemas": [SEARCH_REQUEST], "sortBy": "userName"})["Resources"]

    assert [each.get("userName") for each in found] == ["a", "b", None, None]


@pytest.mark.parametrize(
    ("wish", "scim_type"),
    [
        ({"filter": 'nothing eq "x" or userName eq "a"'}, "invalidFilter"),
        ({"filter": 'emails[nothing eq "x"]'}, "invalidFilter"),
        ({"filter": "active gt true"}, "invalidFilter"),
        ({"sortBy": "nothing"}, "invalidPath"),
        ({"cursor": ""}, "invalidValue"),
    ],
)
def test_search_over_all_types_that_cannot_be_met(client: Client, wish: dict[str, Any], scim_type: str) -> None:
    assert _error(client.ask("POST", "/.search", {"schemas": [SEARCH_REQUEST], **wish}))[:2] == (400, scim_type)


def test_root_is_asked_by_get_too(client: Client) -> None:
    """RFC 7644 section 3.4.2: a query against the server's root is over all types."""
    client.user("a", displayName="Team")
    client.json("POST", "/Groups", {"schemas": [GROUP], "displayName": "Team"})

    found = client.json("GET", "/", query='filter=displayName eq "team"&attributes=displayName')

    assert [each["displayName"] for each in found["Resources"]] == ["Team", "Team"]


@pytest.mark.parametrize(
    ("query", "scim_type"),
    [
        ("filter=userName", "invalidFilter"),
        ("filter=nothing eq 1", "invalidFilter"),
        ('filter=password eq "x"', "invalidFilter"),
        ("filter=" + "(" * 10_000, "invalidValue"),
        ("filter=" + "(" * 1_000, "invalidFilter"),
        ("sortBy=nothing", "invalidPath"),
        ("sortOrder=up", "invalidValue"),
        ("count=many", "invalidValue"),
        ("count=many&cursor=", "invalidCount"),
        ("startIndex=1.5", "invalidValue"),
        ("count=1&count=2", "invalidValue"),
        ("startIndex=1&cursor=", "invalidValue"),
        ("attributes=a&excludedAttributes=b", "invalidPath"),
        ("attributes=" + ",".join(["a"] * 201), "invalidValue"),
        ("filter=%FF", "invalidValue"),
    ],
)
def test_query_that_cannot_be_met(client: Client, query: str, scim_type: str) -> None:
    status, kind, _ = _error(client.ask("GET", "/Users", query=query))

    assert (status, kind) == (400, scim_type)


def test_count_is_bounded(client: Client) -> None:
    assert client.json("GET", "/Users", query="count=1000000")["Resources"] == []
    assert client.json("GET", "/ServiceProviderConfig")["filter"]["maxResults"] == 1_000


# --- bulk -------------------------------------------------------------------------------------------------------------


def _bulk(*operations: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"schemas": [BULK_REQUEST], "Operations": list(operations), **fields}


def _post(bulk_id: str, path: str = "/Users", **data: Any) -> dict[str, Any]:
    return {"method": "POST", "path": path, "bulkId": bulk_id, "data": data}


def test_bulk_resolves_what_its_operations_make_in_any_order(client: Client) -> None:
    """RFC 7644 section 3.7.2."""
    message = _bulk(
        _post("g", "/Groups", schemas=[GROUP], displayName="Team", members=[{"value": "bulkId:u"}]),
        _post("u", schemas=[USER], userName="a"),
        {"method": "DELETE", "path": "/Users/nobody"},
    )

    results = client.json("POST", "/Bulk", message)["Operations"]
    group = client.json("GET", results[0]["location"].removeprefix(BASE))
    user = client.json("GET", results[1]["location"].removeprefix(BASE))

    assert [(each["method"], each["status"], each.get("bulkId")) for each in results] == [
        ("POST", "201", "g"),
        ("POST", "201", "u"),
        ("DELETE", "404", None),
    ]
    assert group["members"] == [{"value": user["id"]}]
    assert results[2]["response"]["status"] == "404"


def test_bulk_in_a_circle_is_told_and_half_of_it_is_not_made(client: Client) -> None:
    """RFC 7644 section 3.7.1."""
    message = _bulk(
        _post("a", "/Groups", schemas=[GROUP], displayName="A", members=[{"value": "bulkId:b"}]),
        _post("b", "/Groups", schemas=[GROUP], displayName="B", members=[{"value": "bulkId:a"}]),
    )

    results = client.json("POST", "/Bulk", message)["Operations"]

    assert [each["status"] for each in results] == ["409", "409"]
    assert client.json("GET", "/Groups")["totalResults"] == 0


def test_bulk_stops_after_as_many_errors_as_it_may_have(client: Client) -> None:
    """RFC 7644 section 3.7.3."""
    wrong = {"method": "DELETE", "path": "/Users/nobody"}

    results = client.json("POST", "/Bulk", _bulk(wrong, wrong, wrong, failOnErrors=2))["Operations"]

    assert [each["status"] for each in results] == ["404", "404"]


def test_bulk_takes_versions(client: Client) -> None:
    client.user("a")
    stale = {"method": "DELETE", "path": "/Users/1", "version": 'W/"9"'}

    assert client.json("POST", "/Bulk", _bulk(stale))["Operations"][0]["status"] == "412"


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ({}, 400),
        (_bulk(), 400),
        (_bulk({"method": "GET", "path": "/Users"}), 400),
        (_bulk({"method": "POST", "path": "/Users", "data": {}}), 400),
        (_bulk({"method": "POST", "path": "/Bulk", "bulkId": "x"}), 400),
        (_bulk({"method": "DELETE", "path": "Users/1"}), 400),
        (_bulk(_post("x"), _post("x")), 400),
        (_bulk({"method": "DELETE", "path": "/Users/1"}, failOnErrors=0), 400),
        (_bulk(*[{"method": "DELETE", "path": "/Users/1"}] * 21), 413),
    ],
)
def test_bulk_that_cannot_be_read(client: Client, message: dict[str, Any], status: int) -> None:
    assert _error(client.ask("POST", "/Bulk", message))[0] == status


def test_what_one_transaction_takes_back_is_its_own_alone(client: Client) -> None:
    """A sample behind a server with threads: somebody's create survives another's failure that began before it."""
    store, written = client.store, threading.Event()

    def create() -> None:
        client.user("ada")
        written.set()

    other = threading.Thread(target=create)

    def fails() -> None:
        with store.transactions():
            other.start()
            # Time enough for the other one, if it were let in.
            written.wait(0.3)
            raise NotFound("There is no such resource.")

    with pytest.raises(NotFound):
        fails()
    other.join(30)
    assert client.json("GET", "/Users")["totalResults"] == 1
