"""A person as a SCIM user, and what an application's user lacks of it."""

from dataclasses import replace
from typing import Any

import pytest

from idhub.errors import Invalid
from idhub.provisioning.outbound.mapping import (
    DEPARTMENT,
    EMPLOYEE_NUMBER,
    MANAGER,
    PersonFacts,
    attributes_hash,
    differences,
    present,
    user_attributes,
    user_name_of,
)
from scim.schemas import ENTERPRISE_USER, USER, with_changes

ALICE = PersonFacts(
    principal_id="per_1",
    display_name="爱丽丝",
    given_name="丽丝",
    family_name="爱",
    email="alice@corp.example",
    mobile="13800000000",
    employee_number="QY1",
    title="工程师",
    organization="总部",
    department="底盘",
    manager_external_id="m1",
)


def desired(person: PersonFacts = ALICE) -> dict[str, Any]:
    return user_attributes(person, user_name=user_name_of(person, "email"))


def held(**changes: Any) -> dict[str, Any]:
    """The user as an application that took everything shows it, with changes of its own."""
    return {**with_changes({"schemas": [USER], "id": "7"}, present(desired())), **changes}


def test_nothing_differs_after_a_create() -> None:
    assert differences(desired(), held()) == {}


@pytest.mark.parametrize(
    ("email", "number", "preferred", "expected"),
    [
        ("a@x.example", "1", "email", "a@x.example"),
        ("a@x.example", "1", "employee_number", "1"),
        (None, "1", "email", "1"),
        ("a@x.example", None, "employee_number", "a@x.example"),
        ("", "1", "email", "1"),
    ],
)
def test_user_name(email: str | None, number: str | None, preferred: str, expected: str) -> None:
    assert user_name_of(replace(ALICE, email=email, employee_number=number), preferred) == expected


def test_person_without_any_name_is_refused() -> None:
    with pytest.raises(Invalid) as refusal:
        user_name_of(replace(ALICE, email=None, employee_number=None), "email")
    assert refusal.value.rule == "provisioning.user_name"


def test_empty_values_are_not_sent() -> None:
    bare = PersonFacts(principal_id="per_1", display_name="A", employee_number="1")
    assert present(user_attributes(bare, user_name="1")) == {
        "externalId": "per_1",
        "userName": "1",
        "name": {"formatted": "A"},
        "displayName": "A",
        "active": True,
        EMPLOYEE_NUMBER: "1",
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"active": False}, {"active": True}),
        ({"active": "False"}, {"active": True}),
        ({"active": "True"}, {}),
        ({"active": None}, {"active": True}),
        ({"userName": "ALICE@corp.example"}, {}),
        ({"userName": "bob"}, {"userName": "alice@corp.example"}),
        ({"externalId": None}, {"externalId": "per_1"}),
        ({"externalId": "PER_1"}, {"externalId": "per_1"}),
        ({"title": ""}, {"title": "工程师"}),
        ({"nickName": "Al", "meta": {"version": "2"}}, {}),
        (
            {"name": {"formatted": "爱丽丝", "familyName": "艾", "givenName": "丽丝", "middleName": "B"}},
            {"name": {"formatted": "爱丽丝", "familyName": "爱", "givenName": "丽丝", "middleName": "B"}},
        ),
        ({"name": None}, {"name": {"formatted": "爱丽丝", "familyName": "爱", "givenName": "丽丝"}}),
        ({"emails": None}, {"emails": [{"value": "alice@corp.example", "type": "work", "primary": True}]}),
        ({"emails": [{"value": "alice@corp.example", "type": "work"}, {"value": "x", "type": "home"}]}, {}),
        (
            {
                "emails": [
                    {"value": "old@corp.example", "type": "work"},
                    {"value": "x", "type": "home", "primary": True},
                ]
            },
            {
                "emails": [
                    {"value": "x", "type": "home", "primary": False},
                    {"value": "alice@corp.example", "type": "work", "primary": True},
                ]
            },
        ),
        ({"phoneNumbers": []}, {"phoneNumbers": [{"value": "13800000000", "type": "mobile"}]}),
        ({"emails": "nonsense"}, {"emails": [{"value": "alice@corp.example", "type": "work", "primary": True}]}),
    ],
)
def test_difference_of_core_attributes(change: dict[str, Any], expected: dict[str, Any]) -> None:
    assert differences(desired(), held(**change)) == expected


def test_difference_of_the_extension() -> None:
    extension = {"employeeNumber": "QY1", "organization": "总部", "department": "旧", "costCenter": "9"}
    extension_with_manager = {**extension, "manager": {"value": "m0", "displayName": "old"}}
    assert differences(desired(), held(**{ENTERPRISE_USER: extension_with_manager})) == {
        DEPARTMENT: "底盘",
        MANAGER: {"value": "m1"},
    }
    manager = {"value": "m1", "displayName": "Boss", "$ref": "../Users/m1"}
    assert (
        differences(desired(), held(**{ENTERPRISE_USER: {**extension, "department": "底盘", "manager": manager}})) == {}
    )


def test_names_are_compared_in_any_case() -> None:
    """RFC 7643 section 2.1: attribute names and URNs are case-insensitive."""
    spelled = {name.upper(): value for name, value in held().items()}
    assert differences(desired(), spelled) == {}


def test_value_that_the_person_lost_is_removed_and_others_stay() -> None:
    poor = replace(ALICE, title=None, mobile=None, manager_external_id=None, department=None)
    other = {"value": "010", "type": "work"}
    user = held(phoneNumbers=[other, {"value": "13800000000", "type": "mobile"}])
    assert differences(desired(poor), user) == {
        "title": None,
        "phoneNumbers": [other],
        DEPARTMENT: None,
        MANAGER: None,
    }
    assert differences(desired(replace(ALICE, mobile=None)), held()) == {"phoneNumbers": None}
    assert (
        differences(desired(poor), held(title=None, phoneNumbers=[other], **{ENTERPRISE_USER: {}}))[EMPLOYEE_NUMBER]
        == "QY1"
    )


def test_hash_follows_what_is_sent() -> None:
    assert attributes_hash(desired()) == attributes_hash(desired())
    assert attributes_hash(desired()) != attributes_hash(desired(replace(ALICE, title="主管")))
