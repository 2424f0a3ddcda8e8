"""Data of events in full form: a PATCH that says what is, within bounds, of what may be shown."""

from dataclasses import replace

import pytest

from scim.event_data import MOST_DATA, full_payload
from scim.events import Kind
from scim.schemas import ENTERPRISE_USER
from scim.standard import GROUP_TYPE, USER_TYPE

DOCUMENT = {
    "id": "1",
    "userName": "ada",
    "name": {"givenName": "Ada"},
    ENTERPRISE_USER: {"department": "Ops"},
    "meta": {"version": 'W/"1"'},
}


@pytest.mark.parametrize(
    ("names", "operations"),
    [
        (["userName"], [{"op": "replace", "path": "userName", "value": "ada"}]),
        (["name.givenName"], [{"op": "replace", "path": "name.givenName", "value": "Ada"}]),
        (
            ["name.familyName", "title"],
            [{"op": "remove", "path": "name.familyName"}, {"op": "remove", "path": "title"}],
        ),
        (
            [f"{ENTERPRISE_USER}:department", f"{ENTERPRISE_USER}:manager"],
            [
                {"op": "replace", "path": f"{ENTERPRISE_USER}:department", "value": "Ops"},
                {"op": "remove", "path": f"{ENTERPRISE_USER}:manager"},
            ],
        ),
    ],
)
def test_patch_says_what_is(names: list[str], operations: list[dict[str, str]]) -> None:
    payload = full_payload(Kind.PATCHED, names, DOCUMENT, USER_TYPE)

    assert payload is not None
    assert (payload["data"]["Operations"], payload["version"]) == (operations, 'W/"1"')


def test_whole_extension_is_each_of_its_attributes() -> None:
    payload = full_payload(Kind.PATCHED, [ENTERPRISE_USER], DOCUMENT, USER_TYPE)

    assert payload is not None
    by_path = {each["path"].rpartition(":")[2]: each["op"] for each in payload["data"]["Operations"]}
    assert (by_path["department"], by_path["costCenter"]) == ("replace", "remove")


@pytest.mark.parametrize("names", [["password"], ["x"], ["urn:x:1.0:Y:z"], ['emails[type eq "work"]'], []])
def test_what_is_never_shown_is_not_said_to_be_removed(names: list[str]) -> None:
    assert full_payload(Kind.PATCHED, names, DOCUMENT, USER_TYPE) is None


def test_what_may_not_be_read_is_not_said_to_be_removed() -> None:
    attributes = tuple(
        replace(each, returned="never") if each.name == "title" else each for each in USER_TYPE.schema.attributes
    )
    limited = replace(USER_TYPE, schema=replace(USER_TYPE.schema, attributes=attributes))

    assert full_payload(Kind.PATCHED, ["title"], DOCUMENT, limited) is None


@pytest.mark.parametrize("kind", [Kind.CREATED, Kind.PATCHED, Kind.REPLACED])
def test_what_is_too_large_is_told_without_data(kind: Kind) -> None:
    members = [{"value": "x" * 100} for _ in range(MOST_DATA // 100)]

    assert full_payload(kind, ["members"], {"members": members}, GROUP_TYPE) is None
    assert full_payload(kind, ["members"], {"members": members[:100]}, GROUP_TYPE) is not None
