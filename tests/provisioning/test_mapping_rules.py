"""The mapping of one application: what it makes of a person, and what of it is refused before anybody is looked at."""

from typing import Any

import pytest

from idhub.errors import Invalid
from idhub.provisioning.outbound.mapping import PersonFacts, differences, user_attributes
from idhub.provisioning.outbound.mapping_rules import check_against, compile_mapping, value_at
from scim.discovery import RemoteAttribute
from scim.schemas import ENTERPRISE_USER

PERSON = PersonFacts(
    principal_id="per_1",
    display_name="张三",
    given_name="三",
    family_name="张",
    email="San.Zhang@corp.example",
    mobile="13800000000",
    employee_number="QY-1",
    title="工程师",
    company_code="HQ",
    department="底盘",
    roles=("lead",),
)


def made(rules: dict[str, str | None], *, user_name: str = "email") -> dict[str, Any]:
    return compile_mapping(rules, user_name_attribute=user_name).attributes(PERSON)


def test_without_rules_it_is_the_plain_mapping() -> None:
    assert made({}) == user_attributes(PERSON, user_name="San.Zhang@corp.example")


def test_rules_are_laid_over_it_attribute_by_attribute() -> None:
    attributes = made(
        {
            "userName": "lower(email)",
            "displayName": 'concat(display_name, " (", company_code, ")")',
            "title": None,
            "nickName": "pinyin(display_name)",
            "name.middleName": '"M"',
            'emails[type eq "home"].value': '"home@x.example"',
            'phoneNumbers[type eq "mobile"].value': None,
            'addresses[type eq "work"].locality': "department",
            f"{ENTERPRISE_USER}:costCenter": "company_code",
            f"{ENTERPRISE_USER}:manager.displayName": '"Boss"',
            "urn:example:params:scim:schemas:extension:car:2.0:User:level": "7",
        }
    )
    assert attributes["userName"] == "san.zhang@corp.example"
    assert attributes["displayName"] == "张三 (HQ)"
    assert attributes["title"] is None
    assert attributes["nickName"] == "zhangsan"
    assert attributes["name"] == {"formatted": "张三", "familyName": "张", "givenName": "三", "middleName": "M"}
    assert attributes["emails"] == [
        {"value": "San.Zhang@corp.example", "type": "work", "primary": True},
        {"value": "home@x.example", "type": "home"},
    ]
    assert attributes["phoneNumbers"] is None
    assert attributes["addresses"] == [{"locality": "底盘", "type": "work"}]
    assert attributes[f"{ENTERPRISE_USER}:costCenter"] == "HQ"
    assert attributes[f"{ENTERPRISE_USER}:manager"] == {"displayName": "Boss"}
    assert attributes["urn:example:params:scim:schemas:extension:car:2.0:User:level"] == 7
    assert value_at(attributes, 'emails[type eq "home"].value') == "home@x.example"
    assert value_at(attributes, "name.middleName") == "M"
    assert value_at(attributes, "externalId") == "per_1"


def test_entries_of_other_types_stay_the_applications() -> None:
    mapping = compile_mapping({'emails[type eq "home"].value': '"h@x"'}, user_name_attribute="email")
    desired = mapping.attributes(PERSON)
    held = [{"value": "o@x", "type": "other"}, {"value": "old@x", "type": "home"}]
    change = differences({"emails": desired["emails"]}, {"emails": held}, kinds=mapping.kinds)["emails"]
    assert [entry["value"] for entry in change] == ["o@x", "San.Zhang@corp.example", "h@x"]
    assert differences({"emails": desired["emails"]}, {"emails": change}, kinds=mapping.kinds) == {}


@pytest.mark.parametrize(
    ("rules", "field", "rule"),
    [
        ({"externalId": "email"}, "externalId", "mapping.reserved"),
        ({"active": "true"}, "active", "mapping.reserved"),
        ({"userName": None}, "userName", "mapping.required"),
        ({"title": "nonsense"}, "title", "expression.name"),
        ({"a b": "email"}, "a b", "mapping.path"),
        ({'emails[value eq "x"].value': "email"}, 'emails[value eq "x"].value', "mapping.path"),
        ({"title": "email", "TITLE": "email"}, "TITLE", "mapping.repeated"),
        ({f"urn:x:y:a{n}": '"x"' for n in range(201)}, "mapping", "mapping.size"),
    ],
)
def test_form_is_refused(rules: dict[str, str | None], field: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        compile_mapping(rules, user_name_attribute="email")
    assert (refused.value.field, refused.value.rule) == (field, rule)


SCHEMA = {
    "userName": RemoteAttribute(required=True),
    "level": RemoteAttribute(type="integer"),
    "vip": RemoteAttribute(type="boolean"),
    "tags": RemoteAttribute(multi_valued=True),
    "badge": RemoteAttribute(mutability="readOnly"),
    "name": RemoteAttribute(type="complex"),
    "name.familyName": RemoteAttribute(),
    "emails": RemoteAttribute(type="complex", multi_valued=True),
    "emails.value": RemoteAttribute(),
}


@pytest.mark.parametrize(
    ("path", "expression", "rule"),
    [
        ("level", "email", "mapping.type"),
        ("level", "7", None),
        ("vip", '"yes"', "mapping.type"),
        ("vip", "true", None),
        ("tags", "email", "mapping.type"),
        ("tags", "list(email)", None),
        ("userName", "list(email)", "mapping.type"),
        ("badge", "email", "mapping.read_only"),
        ("color", "email", "mapping.unknown"),
        ("name.familyName", "email", None),
        ("name.nobility", "email", "mapping.unknown"),
        ("userName.part", "email", "mapping.type"),
        ("emails.value", "email", "mapping.type"),
        ('emails[type eq "work"].value', "email", None),
        ('userName[type eq "work"].value', "email", "mapping.type"),
        ("level", "null", None),
    ],
)
def test_types_are_checked_against_the_applications_schema(path: str, expression: str, rule: str | None) -> None:
    mapping = compile_mapping({path: expression}, user_name_attribute="email")
    if rule is None:
        check_against(mapping, SCHEMA)
        return
    with pytest.raises(Invalid) as refused:
        check_against(mapping, SCHEMA)
    assert (refused.value.field, refused.value.rule) == (path, rule)


def test_without_its_schema_core_attributes_are_checked_and_unknown_extensions_let_through() -> None:
    check_against(compile_mapping({"urn:x:y:User:level": "7"}, user_name_attribute="email"), {})
    with pytest.raises(Invalid):
        check_against(compile_mapping({"colour": "email"}, user_name_attribute="email"), {})
