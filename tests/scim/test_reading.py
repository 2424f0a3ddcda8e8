"""Bodies read against their resource type, and what an answer shows of a resource."""

import time
from typing import Any

import pytest
from scim2_models import EnterpriseUser, Group, User

from scim.errors import InvalidPath, InvalidSyntax, InvalidValue
from scim.reading import Projection, parse_json, read_resource
from scim.schemas import ENTERPRISE_USER, USER
from scim.standard import ENTERPRISE_SCHEMA, GROUP_SCHEMA, USER_SCHEMA, USER_TYPE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "A": 2}',
        b'{"a": {"b": 1, "B": 2}}',
        b"\xff{}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=["empty", "list", "text", "open", "nan", "twice", "twice-in-other-case", "twice-inside", "no-utf-8", "deep"],
)
def test_body_that_is_no_object(body: bytes) -> None:
    with pytest.raises(InvalidSyntax):
        parse_json(body)


@pytest.mark.parametrize("unit", ["{},", "[],", "[[[]]],"])
def test_bulk_of_nothing_but_brackets_is_refused_before_it_is_large(unit: str) -> None:
    """10 MB of them took 300 MB and more than a second of the interpreter."""
    body = f'{{"Operations":[{unit * (9_900_000 // len(unit))}{unit[:-1]}]}}'.encode()
    began = time.process_time()
    with pytest.raises(InvalidSyntax):
        parse_json(body)
    assert time.process_time() - began < 0.5


def test_names_get_their_one_spelling_and_empty_values_go() -> None:
    user = read_resource(
        {
            "Schemas": [USER, ENTERPRISE_USER],
            "USERNAME": "a",
            "name": {"FamilyName": "B", "givenname": None},
            "emails": [],
            "nickName": None,
            ENTERPRISE_USER.upper(): {"Department": "IT"},
        },
        USER_TYPE,
    )

    assert user == {
        "schemas": [USER, ENTERPRISE_USER],
        "userName": "a",
        "name": {"familyName": "B"},
        ENTERPRISE_USER: {"department": "IT"},
    }


def test_what_only_the_server_says_is_passed_over() -> None:
    """RFC 7644 section 3.3."""
    user = read_resource(
        {"schemas": [USER], "userName": "a", "id": "x", "meta": {"version": "1"}, "groups": [{"value": "g"}]}, USER_TYPE
    )

    assert user == {"schemas": [USER], "userName": "a"}


@pytest.mark.parametrize(
    ("values", "attribute"),
    [
        ({}, "userName"),
        ({"userName": ""}, "userName"),
        ({"userName": 1}, "userName"),
        ({"userName": "a", "active": "perhaps"}, "active"),
        ({"userName": "a", "active": 1}, "active"),
        ({"userName": "a", "name": "B"}, "name"),
        ({"userName": "a", "emails": [1]}, "emails"),
        ({"userName": "a", "emails": [{"value": "x", "primary": True}, {"value": "y", "primary": True}]}, "emails"),
        ({"userName": "a", "title": "x" * 5_000}, "title"),
        ({"userName": "a", "title": "\ud800"}, "title"),
        ({"userName": "a", "photos": [{"value": "x", "type": 1}]}, "type"),
        ({"userName": "a", "emails": [{"value": str(i)} for i in range(1_001)]}, "emails"),
        ({"userName": "a", ENTERPRISE_USER: "IT"}, ENTERPRISE_USER),
    ],
)
def test_value_that_does_not_fit(values: dict[str, Any], attribute: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        read_resource({"schemas": [USER], **values}, USER_TYPE)

    assert refused.value.attribute == attribute


@pytest.mark.parametrize("schemas", [None, "x", [], [1], [ENTERPRISE_USER]])
def test_schemas_must_name_the_type(schemas: Any) -> None:
    with pytest.raises(InvalidSyntax) as refused:
        read_resource({"schemas": schemas, "userName": "a"}, USER_TYPE)

    assert refused.value.attribute == "schemas"


SHOWN = {
    "schemas": [USER, ENTERPRISE_USER],
    "id": "1",
    "userName": "a",
    "name": {"familyName": "B", "givenName": "C"},
    "emails": [{"value": "x", "type": "work"}],
    ENTERPRISE_USER: {"department": "IT", "costCenter": "1"},
}


@pytest.mark.parametrize(
    ("attributes", "excluded", "names"),
    [
        ([], [], {"userName", "name", "emails", ENTERPRISE_USER}),
        (["userName"], [], {"userName"}),
        (["USERNAME", "nothing"], [], {"userName"}),
        ([ENTERPRISE_USER], [], {ENTERPRISE_USER}),
        ([], ["emails", "id"], {"userName", "name", ENTERPRISE_USER}),
        ([], [ENTERPRISE_USER], {"userName", "name", "emails"}),
    ],
)
def test_projection_shows_what_was_asked(attributes: list[str], excluded: list[str], names: set[str]) -> None:
    shown = Projection(USER_TYPE, attributes=attributes, excluded=excluded)(SHOWN)

    assert set(shown) == {"schemas", "id"} | names


def test_projection_of_parts() -> None:
    wanted = Projection(USER_TYPE, attributes=["name.familyName", "emails.value", f"{ENTERPRISE_USER}:department"])
    without = Projection(USER_TYPE, excluded=["name.familyName"])

    assert wanted(SHOWN) == {
        "schemas": SHOWN["schemas"],
        "id": "1",
        "name": {"familyName": "B"},
        "emails": [{"value": "x"}],
        ENTERPRISE_USER: {"department": "IT"},
    }
    assert without(SHOWN)["name"] == {"givenName": "C"}


@pytest.mark.parametrize("names", [(["a b"], []), ([], ["a["]), (["a"], ["b"])])
def test_projection_that_cannot_be_read(names: tuple[list[str], list[str]]) -> None:
    with pytest.raises(InvalidPath):
        Projection(USER_TYPE, attributes=names[0], excluded=names[1])


@pytest.mark.parametrize(
    ("ours", "model"),
    [(USER_SCHEMA, User), (ENTERPRISE_SCHEMA, EnterpriseUser), (GROUP_SCHEMA, Group)],
    ids=["user", "enterprise", "group"],
)
def test_schemas_have_the_attributes_that_others_read_in_the_rfc(ours: Any, model: Any) -> None:
    theirs = model.to_schema().model_dump()["attributes"]

    wanted = {name: form for name, form in _outline(theirs).items() if name not in _LEFT_OUT}
    assert _outline(ours.document(location="x")["attributes"]) == wanted


_LEFT_OUT = {"password", "x509Certificates"}


def _outline(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        attribute["name"]: (
            attribute["type"],
            bool(attribute.get("multiValued")),
            _outline(attribute.get("subAttributes") or []),
        )
        for attribute in attributes
    }
