"""Every example of RFC 7643 and RFC 7644, sent to the server as it is printed; identifiers are those of the hub.

The documents stand in `tests/scim/rfc_examples`, named by RFC and section.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scim2_models import ResourceType, Schema, ServiceProviderConfig

from scim.schemas import BULK_RESPONSE, ENTERPRISE_USER, ERROR, GROUP, LIST_RESPONSE, SEARCH_REQUEST, USER
from tests.api.shared_hub import clear, shared_hub
from tests.api.test_scim import BASE, Scim
from tests.support.databases import Databases

EXAMPLES = Path(__file__).parents[1] / "scim" / "rfc_examples"
BABS, JAMES, MANDY = (
    "2819c223-7f76-453a-919d-413861904646",
    "08e1d05d-121c-4561-8b96-473d93df9210",
    "902c246b-6245-4190-8e05-00816be7344a",
)
LEFT_OUT = {"password", "x509Certificates"}
"""Attributes of RFC 7643 that the hub does not have, and why: `scim.standard`."""


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scim]:
    with shared_hub(databases, "sqlite", tmp_path_factory.mktemp("rfc")) as api:
        yield Scim(api, organization_id=api.world.hq)


@pytest.fixture
def scim(hub: Scim) -> Iterator[Scim]:
    yield hub
    clear(hub)


def _text(name: str) -> str:
    """An example; some are printed with shortened identifiers."""
    text = (EXAMPLES / f"{name}.json").read_text()
    for short, whole in (
        ("2819c223...919d-413861904646", BABS),
        ("2819c223-7f76-...413861904646", BABS),
        ("2819c223...413861904646", BABS),
        ("08e1d05d...473d93df9210", JAMES),
    ):
        text = text.replace(short, whole)
    return text


def _example(name: str, ids: dict[str, str] | None = None) -> Any:
    text = _text(name)
    for theirs, ours in (ids or {}).items():
        text = text.replace(theirs, ours)
    return json.loads(text)


def _people(scim: Scim) -> dict[str, str]:
    return {
        BABS: scim.user("bjensen", displayName="Babs Jensen")["id"],
        JAMES: scim.user("jsmith", displayName="James Smith")["id"],
        MANDY: scim.user("mandy", displayName="Mandy Pepperidge")["id"],
    }


def _group(scim: Scim, ids: dict[str, str], *members: str) -> Any:
    listed = [{"value": ids[each]} for each in members]
    return scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Tour Guides", "members": listed})


def _members(group: Any) -> list[str]:
    return [each["value"] for each in group.get("members", [])]


# --- RFC 7643 section 8 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["7643-8.1-user-minimal", "7643-8.2-user-full", "7643-8.3-enterprise_user"])
def test_user_of_section_8_is_kept_and_shown_as_it_is_printed(scim: Scim, name: str) -> None:
    """What a client cannot say (`id`, `meta`, `groups`), what the hub leaves out and the manager's name go."""
    example = _example(name)

    made = scim.ok("POST", "/Users", example)
    shown = scim.ok("GET", f"/Users/{made['id']}")

    expected = {key: value for key, value in example.items() if key not in {"id", "meta", "groups", *LEFT_OUT}}
    if ENTERPRISE_USER in expected:
        # The manager is nobody here: the identifier is kept as a word.
        expected[ENTERPRISE_USER]["manager"] = {"value": expected[ENTERPRISE_USER]["manager"]["value"]}
    assert {key: value for key, value in shown.items() if key not in {"id", "meta", "active"}} == {
        key: value for key, value in expected.items() if key != "active"
    }
    assert shown["active"] is True
    assert shown["meta"]["resourceType"] == example["meta"]["resourceType"]
    assert shown["meta"].keys() == example["meta"].keys()


def test_group_of_section_8_4(scim: Scim) -> None:
    ids = _people(scim)
    example = _example("7643-8.4-group", ids)

    made = scim.ok("POST", "/Groups", example)

    assert made["displayName"] == example["displayName"]
    assert _members(made) == [each["value"] for each in example["members"]]
    assert made["meta"].keys() == example["meta"].keys()


def test_configuration_of_section_8_5_is_answered_with_every_part(scim: Scim) -> None:
    shown = scim.ok("GET", "/ServiceProviderConfig")
    example = _example("7643-8.5-service_provider_configuration")

    ServiceProviderConfig.model_validate(shown)
    assert not example.keys() - shown.keys() - {"documentationUri"}
    for part in ("patch", "bulk", "filter", "changePassword", "sort", "etag"):
        assert not example[part].keys() - shown[part].keys()


@pytest.mark.parametrize("name", ["user", "group"])
def test_resource_type_of_section_8_6(scim: Scim, name: str) -> None:
    example = _example(f"7643-8.6-resource_type-{name}")
    shown = scim.ok("GET", f"/ResourceTypes/{example['id']}")

    ResourceType.model_validate(shown)
    for part in ("schemas", "id", "name", "endpoint", "schema"):
        assert shown[part] == example[part]
    assert [each["schema"] for each in shown.get("schemaExtensions", [])] == [
        each["schema"] for each in example.get("schemaExtensions", [])
    ]


def _attributes(listed: list[Any], prefix: str = "") -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for each in listed:
        name = prefix + each["name"]
        found[name] = (each["type"], each["multiValued"], each["required"])
        found |= _attributes(each.get("subAttributes", []), f"{name}.")
    return found


@pytest.mark.parametrize("name", ["user", "group", "enterprise_user"])
def test_schema_of_section_8_7_1(scim: Scim, name: str) -> None:
    """Every attribute is there with its type; the differences are said here."""
    example = _example(f"7643-8.7.1-schema-{name}")
    shown = scim.ok("GET", f"/Schemas/{example['id']}")
    theirs, ours = _attributes(example["attributes"]), _attributes(shown["attributes"])

    Schema.model_validate(shown)
    missing = {each for each in theirs if each not in ours}
    assert missing == {each for each in theirs if each.partition(".")[0] in LEFT_OUT}
    differing = {each for each in theirs if each in ours and theirs[each] != ours[each]}
    # Required as printed, RECOMMENDED and OPTIONAL in section 4.3: senders say a manager's value alone.
    assert differing == ({"manager.value", "manager.$ref"} if name == "enterprise_user" else set())


@pytest.mark.parametrize("name", ["resource_type", "schema", "service_provider_configuration"])
def test_schemas_of_section_8_7_2_are_what_our_descriptions_follow(scim: Scim, name: str) -> None:
    """The descriptions have no schema of their own at `/Schemas` (section 4 of RFC 7644 lists resources' only)."""
    example = _example(f"7643-8.7.2-schema-{name}")
    shown = {
        "resource_type": lambda: scim.ok("GET", "/ResourceTypes/User"),
        "schema": lambda: scim.ok("GET", f"/Schemas/{USER}"),
        "service_provider_configuration": lambda: scim.ok("GET", "/ServiceProviderConfig"),
    }[name]()

    assert shown["schemas"] == [example["id"]]
    required = {each["name"] for each in example["attributes"] if each["required"]}
    assert not required - shown.keys()


# --- RFC 7644 section 3.3 to 3.6 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["7644-3.3-user-post", "7644-3.14-user-post"])
def test_creation_of_sections_3_3_and_3_14(scim: Scim, name: str) -> None:
    request, response = _example(f"{name}_request"), _example(f"{name}_response")

    answer = scim.call("POST", "/Users", request)

    assert answer.status_code == 201
    made = answer.json()
    assert not response.keys() - made.keys()
    assert made["meta"].keys() == response["meta"].keys()
    assert (answer.headers["location"], answer.headers["etag"]) == (made["meta"]["location"], made["meta"]["version"])
    assert {key: made[key] for key in request} == request


def test_known_resource_of_section_3_4_1(scim: Scim) -> None:
    example = _example("7644-3.4.1-user-known-resource")
    made = scim.ok("POST", "/Users", example)

    answer = scim.call("GET", f"/Users/{made['id']}", headers={"Accept": "application/scim+json"})

    assert answer.headers["content-type"] == "application/scim+json"
    assert not example.keys() - answer.json().keys() - LEFT_OUT


def test_partial_attributes_of_section_3_4_2(scim: Scim) -> None:
    _people(scim)
    example = _example("7644-3.4.2-list_response-partial_attributes")

    shown = scim.ok("GET", "/Users?attributes=userName")

    assert shown["schemas"] == example["schemas"]
    assert [set(each) - {"schemas"} for each in shown["Resources"]] == [{"id", "userName"}] * 3


@pytest.mark.parametrize(
    ("filter_", "names"),
    [
        ('userName eq "bjensen"', ["bjensen"]),
        ('name.familyName co "O\'Malley"', ["omalley"]),
        ('userName sw "J"', ["jsmith"]),
        (f'{USER}:userName sw "J"', ["jsmith"]),
        ("title pr", ["bjensen", "omalley"]),
        ('meta.lastModified gt "2011-05-13T04:42:34Z"', ["bjensen", "jsmith", "omalley"]),
        ('meta.lastModified ge "2011-05-13T04:42:34Z"', ["bjensen", "jsmith", "omalley"]),
        ('meta.lastModified lt "2011-05-13T04:42:34Z"', []),
        ('meta.lastModified le "2011-05-13T04:42:34Z"', []),
        ('title pr and userType eq "Employee"', ["bjensen"]),
        ('title pr or userType eq "Intern"', ["bjensen", "jsmith", "omalley"]),
        (f'schemas eq "{ENTERPRISE_USER}"', ["bjensen"]),
        ('userType eq "Employee" and (emails co "example.com" or emails.value co "example.org")', ["bjensen"]),
        ('userType ne "Employee" and not (emails co "example.com" or emails.value co "example.org")', ["omalley"]),
        ('userType eq "Employee" and (emails.type eq "work")', ["bjensen"]),
        ('userType eq "Employee" and emails[type eq "work" and value co "@example.com"]', ["bjensen"]),
        (
            'emails[type eq "work" and value co "@example.com"] or ims[type eq "xmpp" and value co "@foo.com"]',
            ["bjensen", "omalley"],
        ),
    ],
)
def test_filter_of_section_3_4_2_2(scim: Scim, filter_: str, names: list[str]) -> None:
    scim.user(
        "bjensen",
        title="Guide",
        userType="Employee",
        emails=[{"value": "b@example.com", "type": "work"}],
        enterprise={"costCenter": "1"},
    )
    scim.user("jsmith", userType="Intern", emails=[{"value": "j@example.org", "type": "work"}])
    scim.user(
        "omalley",
        title="Guide",
        userType="Contractor",
        name={"familyName": "O'Malley"},
        emails=[{"value": "o@example.net", "type": "work"}],
        ims=[{"value": "o@foo.com", "type": "xmpp"}],
    )

    assert sorted(each["userName"] for each in scim.found("Users", filter_)) == names


def test_sorting_and_paging_of_sections_3_4_2_3_and_3_4_2_4(scim: Scim) -> None:
    _people(scim)

    ascending = scim.ok("GET", "/Users?sortBy=userName&sortOrder=ascending")
    descending = scim.ok("GET", "/Users?sortBy=name.familyName&sortOrder=descending")
    page = scim.ok("GET", "/Users?startIndex=1&count=10")

    assert [each["userName"] for each in ascending["Resources"]] == ["bjensen", "jsmith", "mandy"]
    assert descending["totalResults"] == 3
    assert {key: page[key] for key in ("totalResults", "itemsPerPage", "startIndex", "schemas")} == {
        "totalResults": 3,
        "itemsPerPage": 3,
        "startIndex": 1,
        "schemas": [LIST_RESPONSE],
    }


def test_search_of_section_3_4_3(scim: Scim) -> None:
    scim.user("smith", displayName="Smith James")
    scim.user("other", displayName="Jones")
    example = _example("7644-3.4.3-list_response-post_query")

    for path in ("/.search", "/Users/.search"):
        shown = scim.ok("POST", path, _example("7644-3.4.3-search_request"))

        assert not example.keys() - shown.keys()
        assert [each["displayName"] for each in shown["Resources"]] == ["Smith James"]
        assert set(shown["Resources"][0]) == {"schemas", "id", "userName", "displayName"}


def test_replacement_of_section_3_5_1(scim: Scim) -> None:
    made = scim.ok("POST", "/Users", _example("7644-3.3-user-post_request"))
    request = _example("7644-3.5.1-user-put_request", {BABS: made["id"]})

    answer = scim.call("PUT", f"/Users/{made['id']}", request, headers={"If-Match": made["meta"]["version"]})

    assert answer.status_code == 200
    shown = answer.json()
    assert not _example("7644-3.5.1-user-put_response").keys() - shown.keys()
    assert {key: shown[key] for key in ("userName", "externalId", "name", "emails")} == {
        key: request[key] for key in ("userName", "externalId", "name", "emails")
    }
    assert shown["meta"]["version"] != made["meta"]["version"]


def test_add_of_section_3_5_2_1(scim: Scim) -> None:
    ids = _people(scim)
    group = _group(scim, ids)
    user = scim.ok("GET", f"/Users/{ids[BABS]}")

    joined = scim.ok("PATCH", f"/Groups/{group['id']}", _example("7644-3.5.2.1-patch_op-add_members", ids))
    changed = scim.ok("PATCH", f"/Users/{user['id']}", _example("7644-3.5.2.1-patch_op-add_emails", ids))
    again = scim.ok("PATCH", f"/Users/{user['id']}", _example("7644-3.5.2.1-patch_op-add_emails", ids))

    assert _members(joined) == [ids[BABS]]
    assert (changed["emails"], changed["nickName"]) == ([{"value": "babs@jensen.org", "type": "home"}], "Babs")
    # "If the target location already contains the value specified, no changes SHOULD be made".
    assert again["meta"]["version"] == changed["meta"]["version"]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("remove_one_member", [JAMES]),
        ("remove_all_members", []),
    ],
)
def test_remove_members_of_section_3_5_2_2(scim: Scim, name: str, left: list[str]) -> None:
    ids = _people(scim)
    group = _group(scim, ids, BABS, JAMES)

    shown = scim.ok("PATCH", f"/Groups/{group['id']}", _example(f"7644-3.5.2.2-patch_op-{name}", ids))

    assert _members(shown) == [ids[each] for each in left]


def test_remove_and_add_of_section_3_5_2_2(scim: Scim) -> None:
    ids = _people(scim)
    group = _group(scim, ids, BABS, MANDY)

    shown = scim.ok("PATCH", f"/Groups/{group['id']}", _example("7644-3.5.2.2-patch_op-remove_and_add_one_member", ids))

    assert sorted(_members(shown)) == sorted([ids[MANDY], ids[JAMES]])


def test_remove_of_selected_values_of_section_3_5_2_2(scim: Scim) -> None:
    user = scim.user(
        "bjensen",
        emails=[
            {"value": "b@example.com", "type": "work"},
            {"value": "b@example.org", "type": "work"},
            {"value": "b@example.com", "type": "home"},
        ],
    )

    shown = scim.ok("PATCH", f"/Users/{user['id']}", _example("7644-3.5.2.2-patch_op-remove_multi_complex_value"))

    assert shown["emails"] == [{"value": "b@example.org", "type": "work"}, {"value": "b@example.com", "type": "home"}]


def test_replace_of_section_3_5_2_3(scim: Scim) -> None:
    ids = _people(scim)
    group = _group(scim, ids, MANDY)
    user = scim.ok(
        "PUT",
        f"/Users/{ids[BABS]}",
        {
            "schemas": [USER],
            "userName": "bjensen",
            "addresses": [{"type": "work", "streetAddress": "1"}, {"type": "home", "streetAddress": "2"}],
        },
    )
    path = f"/Users/{user['id']}"

    members = scim.ok("PATCH", f"/Groups/{group['id']}", _example("7644-3.5.2.3-patch_op-replace_all_members", ids))
    address = scim.ok("PATCH", path, _example("7644-3.5.2.3-patch_op-replace_user_work_address"))
    street = scim.ok("PATCH", path, _example("7644-3.5.2.3-patch_op-replace_street_address"))
    emails = scim.ok("PATCH", path, _example("7644-3.5.2.3-patch_op-replace_all_email_values"))

    work = _example("7644-3.5.2.3-patch_op-replace_user_work_address")["Operations"][0]["value"]
    assert sorted(_members(members)) == sorted([ids[BABS], ids[JAMES]])
    assert address["addresses"] == [work, {"type": "home", "streetAddress": "2"}]
    assert street["addresses"][0] == {**work, "streetAddress": "1010 Broadway Ave"}
    assert (emails["emails"], emails["nickName"]) == (
        _example("7644-3.5.2.3-patch_op-replace_all_email_values")["Operations"][0]["value"]["emails"],
        "Babs",
    )


@pytest.mark.parametrize(
    ("path", "is_known"),
    [
        ("members", True),
        ("name.familyName", True),
        ('addresses[type eq "work"]', True),
        (f'members[value eq "{BABS}"]', True),
        # Printed in section 3.5.2; members have no such sub-attribute (RFC 7643 section 4.2 calls it `display`).
        (f'members[value eq "{BABS}"].displayName', False),
    ],
)
def test_path_of_section_3_5_2(scim: Scim, path: str, is_known: bool) -> None:
    ids = _people(scim)
    if path.startswith("members"):
        target = _group(scim, ids, BABS)
        body = {"op": "remove", "path": path.replace(BABS, ids[BABS])}
    else:
        target = scim.user("target", name={"familyName": "X"}, addresses=[{"type": "work", "streetAddress": "1"}])
        body = {"op": "remove", "path": path}
    kind = target["meta"]["resourceType"]

    answer = scim.call(
        "PATCH",
        f"/{kind}s/{target['id']}",
        {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": [body]},
    )

    assert answer.status_code == (200 if is_known else 400)
    if is_known:
        assert path.partition(".")[0].partition("[")[0] not in answer.json()
    else:
        assert answer.json()["scimType"] == "invalidPath"


def test_deletion_of_section_3_6(scim: Scim) -> None:
    user = scim.user("bjensen")

    gone = scim.call("DELETE", f"/Users/{user['id']}", headers={"If-Match": user["meta"]["version"]})
    after = scim.call("GET", f"/Users/{user['id']}")

    assert (gone.status_code, gone.content, after.status_code) == (204, b"", 404)
    assert after.json().keys() == _example("7644-3.6-error-not_found").keys()
    assert scim.call("POST", "/Users", {"schemas": [USER], "userName": "bjensen"}).status_code == 201


# --- RFC 7644 section 3.7 ---------------------------------------------------------------------------------------------


def test_circular_reference_of_section_3_7_1_is_a_conflict(scim: Scim) -> None:
    """Groups may not contain each other here; the section lets a server stop with 409."""
    shown = scim.ok("POST", "/Bulk", _example("7644-3.7.1-bulk_request-circular_conflict"))

    assert [each["status"] for each in shown["Operations"]] == ["409", "409"]
    assert [each["bulkId"] for each in shown["Operations"]] == ["qwerty", "ytrewq"]
    assert scim.ok("GET", "/Groups")["totalResults"] == 0


def test_temporary_identifiers_of_section_3_7_2(scim: Scim) -> None:
    shown = scim.ok("POST", "/Bulk", _example("7644-3.7.2-bulk_request-temporary_identifier"))
    example = _example("7644-3.7.2-bulk_response-temporary_identifier")

    assert shown["schemas"] == example["schemas"] == [BULK_RESPONSE]
    assert [each["status"] for each in shown["Operations"]] == ["201", "201"]
    for ours, theirs in zip(shown["Operations"], example["Operations"], strict=True):
        assert ours.keys() == theirs.keys()
    alice, guides = (each["location"].removeprefix(BASE) for each in shown["Operations"])
    assert _members(scim.ok("GET", guides)) == [alice.rpartition("/")[2]]


def test_manager_by_temporary_identifier_of_section_3_7_2(scim: Scim) -> None:
    shown = scim.ok("POST", "/Bulk", _example("7644-3.7.2-bulk_request-enterprise_user"))

    alice, bob = (each["location"].removeprefix(BASE) for each in shown["Operations"])
    assert scim.ok("GET", bob)[ENTERPRISE_USER]["manager"]["value"] == alice.rpartition("/")[2]


def _multiple(scim: Scim, *, schema: str = USER, versions: bool = True) -> Any:
    """The request of section 3.7.3. The schema that its POST names is misprinted: `messages` for `schemas:core`."""
    request = _example("7644-3.7.3-bulk_request-multiple_operations")
    users = [scim.user(name, nickName="x") for name in ("bob", "dave", "eve")]
    request["Operations"][0]["data"]["schemas"] = [schema]
    for operation, user in zip(request["Operations"][1:], users, strict=True):
        operation["path"] = f"/Users/{user['id']}"
        if versions:
            operation["version"] = user["meta"]["version"]
    return request


def test_multiple_operations_of_section_3_7_3(scim: Scim) -> None:
    shown = scim.ok("POST", "/Bulk", _multiple(scim))
    example = _example("7644-3.7.3-bulk_response-multiple_operations")

    assert [each["status"] for each in shown["Operations"]] == [each["status"] for each in example["Operations"]]
    for ours, theirs in zip(shown["Operations"], example["Operations"], strict=True):
        assert ours.keys() == theirs.keys()
    patched = scim.ok("GET", shown["Operations"][2]["location"].removeprefix(BASE))
    assert (patched["userName"], "nickName" in patched) == ("Dave", False)


def test_first_error_of_section_3_7_3_ends_the_request(scim: Scim) -> None:
    """`failOnErrors` is 1, and the POST is invalid as printed."""
    request = _multiple(scim, schema="urn:ietf:params:scim:api:messages:2.0:User")

    shown = scim.ok("POST", "/Bulk", request)

    example = _example("7644-3.7.3-bulk_response-error_invalid_syntax")
    assert len(shown["Operations"]) == len(example["Operations"]) == 1
    assert shown["Operations"][0].keys() == example["Operations"][0].keys()
    response = shown["Operations"][0]["response"]
    assert {**response, "detail": ""} == {**_example("7644-3.7.3-error-invalid_syntax"), "detail": ""}


def test_multiple_errors_of_section_3_7_3(scim: Scim) -> None:
    """Without `failOnErrors` each operation is answered; the printed versions are nobody's."""
    request = _multiple(scim, schema="urn:ietf:params:scim:api:messages:2.0:User", versions=False)
    request["failOnErrors"] = None
    request["Operations"][3]["path"] = "/Users/e9025315-6bea-44e1-899c-1e07454e468b"

    shown = scim.ok("POST", "/Bulk", request)

    example = _example("7644-3.7.3-bulk_response-multiple_errors")
    assert [each["status"] for each in shown["Operations"]] == [each["status"] for each in example["Operations"]]
    for ours, theirs in zip(shown["Operations"], example["Operations"], strict=True):
        assert ours.keys() == theirs.keys()


def test_payload_of_section_3_7_4_is_too_large(scim: Scim) -> None:
    most = scim.ok("GET", "/ServiceProviderConfig")["bulk"]["maxPayloadSize"]

    answer = scim.api.http.post(
        "/scim/v2/Bulk", content=b" " * (most + 1), headers={"Authorization": f"Bearer {scim.token}"}
    )

    assert answer.status_code == 413
    assert answer.json().keys() == _example("7644-3.7.4-error-payload_too_large").keys()


# --- RFC 7644 section 3.9 and on --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["userName", f"{USER}:userName", "USERNAME"])
def test_partial_answer_of_sections_3_9_and_3_10(scim: Scim, name: str) -> None:
    user = scim.user("bjensen", title="x")

    shown = scim.ok("GET", f"/Users/{user['id']}", params={"attributes": name})

    assert shown == {**_example("7644-3.9-user-partial_response"), "id": user["id"]}


def test_errors_of_section_3_12(scim: Scim) -> None:
    user = scim.user("bjensen")
    change = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{"op": "replace", "path": "id", "value": "x"}],
    }

    missing = scim.call("GET", f"/Users/{BABS}").json()
    refused = scim.call("PATCH", f"/Users/{user['id']}", change).json()

    assert missing.keys() == _example("7644-3.12-error-not_found").keys()
    assert (missing["schemas"], missing["status"]) == ([ERROR], "404")
    example = _example("7644-3.12-error-bad_request")
    assert {**refused, "detail": ""} == {**example, "detail": ""}


def test_versions_of_section_3_14(scim: Scim) -> None:
    answer = scim.call("POST", "/Users", _example("7644-3.14-user-post_request"))
    path = f"/Users/{answer.json()['id']}"

    same = scim.call("GET", path, headers={"If-None-Match": answer.headers["etag"]})
    other = scim.call("GET", path, headers={"If-None-Match": 'W/"e180ee84f0671b1"'})

    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert other.status_code == 200


def test_discovery_of_section_4(scim: Scim) -> None:
    example = _example("7644-4-list_response-resource_types")

    shown = scim.ok("GET", "/ResourceTypes")

    assert shown["schemas"] == example["schemas"]
    assert [each["endpoint"] for each in shown["Resources"]] == ["/Users", "/Groups"]
    assert scim.call("GET", "/ResourceTypes", params={"filter": 'name eq "User"'}).status_code == 403


def test_types_of_section_3_4_2_1_are_asked_for_at_the_root(scim: Scim) -> None:
    """Printed without the quotes that the grammar of section 3.4.2.2 asks for."""
    ids = _people(scim)
    group = _group(scim, ids)
    printed = "(meta.resourceType eq User) or (meta.resourceType eq Group)"

    refused = scim.call("POST", "/.search", {"schemas": [SEARCH_REQUEST], "filter": printed})
    quoted = printed.replace("User", '"User"').replace("Group", '"Group"')
    found = scim.ok("POST", "/.search", {"schemas": [SEARCH_REQUEST], "filter": quoted})

    assert (refused.status_code, refused.json()["scimType"]) == (400, "invalidFilter")
    assert {each["id"] for each in found["Resources"]} == {*ids.values(), group["id"]}


@pytest.mark.parametrize("accept", ["application/scim+json", "application/json", None])
def test_representation_of_section_3_8(scim: Scim, accept: str | None) -> None:
    user = scim.user("bjensen")

    answer = scim.call("GET", f"/Users/{user['id']}", headers={} if accept is None else {"Accept": accept})

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/scim+json")


def test_alias_of_section_3_11_needs_somebody_who_calls(scim: Scim) -> None:
    """Of a machine's token it is nobody's; of a person's: `test_scim_narrow`."""
    assert scim.call("GET", "/Me").status_code == 404


def test_version_of_section_3_13_stands_in_the_address(scim: Scim) -> None:
    assert scim.user("bjensen")["meta"]["location"].startswith(f"{BASE}/Users/")
    assert BASE.endswith("/v2")


_SECTIONS: dict[str, tuple[Callable[..., None], ...]] = {
    # RFC 7643. Section 3 prints a part of what section 8.3 prints whole.
    "7643-3": (test_user_of_section_8_is_kept_and_shown_as_it_is_printed,),
    "7643-8.1": (test_user_of_section_8_is_kept_and_shown_as_it_is_printed,),
    "7643-8.2": (test_user_of_section_8_is_kept_and_shown_as_it_is_printed,),
    "7643-8.3": (test_user_of_section_8_is_kept_and_shown_as_it_is_printed,),
    "7643-8.4": (test_group_of_section_8_4,),
    "7643-8.5": (test_configuration_of_section_8_5_is_answered_with_every_part,),
    "7643-8.6": (test_resource_type_of_section_8_6,),
    "7643-8.7.1": (test_schema_of_section_8_7_1,),
    "7643-8.7.2": (test_schemas_of_section_8_7_2_are_what_our_descriptions_follow,),
    # RFC 7644.
    "7644-3.3": (test_creation_of_sections_3_3_and_3_14,),
    "7644-3.4.1": (test_known_resource_of_section_3_4_1,),
    "7644-3.4.2": (test_partial_attributes_of_section_3_4_2,),
    "7644-3.4.2.1": (test_types_of_section_3_4_2_1_are_asked_for_at_the_root,),
    "7644-3.4.2.2": (test_filter_of_section_3_4_2_2,),
    "7644-3.4.2.3": (test_sorting_and_paging_of_sections_3_4_2_3_and_3_4_2_4,),
    "7644-3.4.2.4": (test_sorting_and_paging_of_sections_3_4_2_3_and_3_4_2_4,),
    "7644-3.4.3": (test_search_of_section_3_4_3,),
    "7644-3.5.1": (test_replacement_of_section_3_5_1,),
    "7644-3.5.2": (test_path_of_section_3_5_2,),
    "7644-3.5.2.1": (test_add_of_section_3_5_2_1,),
    "7644-3.5.2.2": (
        test_remove_members_of_section_3_5_2_2,
        test_remove_and_add_of_section_3_5_2_2,
        test_remove_of_selected_values_of_section_3_5_2_2,
    ),
    "7644-3.5.2.3": (test_replace_of_section_3_5_2_3,),
    "7644-3.6": (test_deletion_of_section_3_6,),
    "7644-3.7.1": (test_circular_reference_of_section_3_7_1_is_a_conflict,),
    "7644-3.7.2": (
        test_temporary_identifiers_of_section_3_7_2,
        test_manager_by_temporary_identifier_of_section_3_7_2,
    ),
    "7644-3.7.3": (
        test_multiple_operations_of_section_3_7_3,
        test_first_error_of_section_3_7_3_ends_the_request,
        test_multiple_errors_of_section_3_7_3,
    ),
    "7644-3.7.4": (test_payload_of_section_3_7_4_is_too_large,),
    "7644-3.8": (test_representation_of_section_3_8,),
    "7644-3.9": (test_partial_answer_of_sections_3_9_and_3_10,),
    "7644-3.10": (test_partial_answer_of_sections_3_9_and_3_10,),
    "7644-3.11": (test_alias_of_section_3_11_needs_somebody_who_calls,),
    "7644-3.12": (test_errors_of_section_3_12,),
    "7644-3.13": (test_version_of_section_3_13_stands_in_the_address,),
    "7644-3.14": (test_creation_of_sections_3_3_and_3_14, test_versions_of_section_3_14),
    "7644-4": (test_discovery_of_section_4,),
}
"""Every section of both that prints requests, answers, filters or paths, and what plays them."""


def test_every_example_is_played_by_a_test_of_its_section() -> None:
    """No document without a section, none that the section's tests leave out, no test beside the list."""
    tests = {name: test for name, test in globals().items() if name.startswith("test_") and "section" in name}
    listed = {test.__name__ for played in _SECTIONS.values() for test in played}
    for path in EXAMPLES.glob("*.json"):
        section = "-".join(path.stem.split("-")[:2])
        source = "".join(inspect.getsource(test) + str(_marks(test)) for test in _SECTIONS[section])
        name = path.stem.removeprefix(f"{section}-")
        # Named whole, or with what is the same for several left to the test.
        parts = [path.stem, path.stem.rpartition("_")[0], path.stem.rpartition("-")[2], name.partition("-")[2]]
        assert any(part and part in source for part in parts), path.stem

    assert tests.keys() - listed == {"test_every_example_is_played_by_a_test_of_its_section"}
    assert listed <= tests.keys()


def _marks(test: Any) -> list[Any]:
    return [mark.args for mark in getattr(test, "pytestmark", ())]
