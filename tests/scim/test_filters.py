"""Predicates: who matches a rule, and which filters are refused."""

import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import pytest

from scim.errors import InvalidFilter
from scim.filters import AttributeSpec, compile_predicate, parse_filter, quote

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
CORE = "urn:ietf:params:scim:schemas:core:2.0:User"

PERSON: Mapping[str, AttributeSpec] = {
    "userName": AttributeSpec(),
    "externalId": AttributeSpec(case_exact=True),
    "trueName": AttributeSpec(),
    "active": AttributeSpec(type="boolean"),
    "level": AttributeSpec(type="integer"),
    "score": AttributeSpec(type="decimal"),
    "photo": AttributeSpec(type="binary"),
    "password": AttributeSpec(filterable=False),
    "tags": AttributeSpec(multi_valued=True),
    "changed": AttributeSpec(type="dateTime"),
    "name": AttributeSpec(type="complex", sub_attributes={"familyName": AttributeSpec()}),
    "emails": AttributeSpec(
        type="complex",
        multi_valued=True,
        sub_attributes={"value": AttributeSpec(), "type": AttributeSpec(), "primary": AttributeSpec(type="boolean")},
    ),
    "employments": AttributeSpec(
        type="complex",
        multi_valued=True,
        sub_attributes={
            "company": AttributeSpec(),
            "type": AttributeSpec(),
            "title": AttributeSpec(),
            "startOn": AttributeSpec(type="date"),
        },
    ),
    ENTERPRISE: AttributeSpec(type="complex", sub_attributes={"department": AttributeSpec()}),
}


def matches(text: str, document: Mapping[str, Any]) -> bool:
    return compile_predicate(text, attributes=PERSON, schema=CORE)(document)


def employed(*posts: tuple[str, str]) -> dict[str, Any]:
    return {"employments": [{"company": company, "type": type_} for company, type_ in posts]}


BIRTHRIGHT = 'employments.company eq "总部" and employments.type ne "contractor"'


@pytest.mark.parametrize(
    ("posts", "expected"),
    [
        ([("总部", "regular")], True),
        ([("总部", "contractor")], False),
        ([("二厂", "regular")], False),
        ([("二厂", "intern"), ("总部", "regular")], True),
        # ne means "none is": a contractor anywhere is not let in by another post of his.
        ([("总部", "contractor"), ("二厂", "regular")], False),
        ([], False),
    ],
)
def test_birthright_rule_lets_in_whom_it_names(posts: list[tuple[str, str]], expected: bool) -> None:
    assert matches(BIRTHRIGHT, employed(*posts)) is expected


def test_value_path_asks_one_and_the_same_value() -> None:
    rule = 'employments[company eq "总部" and type ne "contractor"]'
    crossed = employed(("总部", "contractor"), ("二厂", "regular"))
    assert not matches(rule, crossed)
    assert matches('employments.company eq "总部" and employments.type eq "regular"', crossed)
    assert matches(rule, employed(("总部", "contractor"), ("总部", "regular")))


@pytest.mark.parametrize(
    "text",
    [
        'userName sw "ada"',
        'emails.value CO "@corp.example"',
        'urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:employeeNumber eq "7"',
        'urn:ietf:params:scim:schemas:core:2.0:User:name.familyName ne "\\"x\\u00fc"',
        'eq.co eq "and"',
    ],
)
def test_one_comparison_is_read_as_it_is_in_brackets(text: str) -> None:
    """By itself it passes by the grammar."""
    assert parse_filter(text) == parse_filter(f"({text})")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # `and` binds more tightly than `or`; the library alone reads (a or b) and c.
        ('userName eq "a" or userName eq "b" and userName eq "c"', True),
        ('(userName eq "a" or userName eq "b") and userName eq "c"', False),
        ('userName eq "c" and userName eq "b" or userName eq "a"', True),
        ('not (userName eq "a") or userName eq "a"', True),
        ('not (userName eq "b") and userName eq "a"', True),
        ('NOT (userName EQ "b") AND userName eQ "A" oR active pr', True),
        ('not(userName eq "a")', False),
    ],
)
def test_precedence_of_logical_operators(text: str, expected: bool) -> None:
    """RFC 7644 section 3.4.2.2: grouping, then not, then and, then or."""
    assert matches(text, {"userName": "a"}) is expected


@pytest.mark.parametrize(
    ("text", "document", "expected"),
    [
        ("level eq 12", {"level": 12}, True),
        ("level gt 9", {"level": 12}, True),
        ("level ge -12", {"level": -12}, True),
        ("score lt 1.5e2", {"score": 149.5}, True),
        ("level eq 1", {"level": True}, False),
        ('userName eq "a\\"b"', {"userName": 'a"b'}, True),
        ('userName eq "\\u5f20\\n"', {"userName": "张\n"}, True),
        ('userName eq "true"', {"userName": "true"}, True),
        ("active eq true", {"active": True}, True),
        ('active eq "True"', {"active": True}, True),
        ("active eq false", {}, False),
        ('trueName eq "x"', {"trueName": "x"}, True),
        ("trueName eq null", {}, True),
        ('trueName eq "null"', {}, False),
        ("trueName ne null", {"trueName": "x"}, True),
        ('trueName ne "x"', {}, True),
        ('userName eq "BJensen"', {"userName": "bjENSEN"}, True),
        ('externalId eq "A"', {"externalId": "a"}, False),
        ('userName eq "café"', {"userName": "cafe\u0301"}, True),
        ('userName co "jen"', {"userName": "BJensen"}, True),
        ('userName sw "bj"', {"userName": "BJensen"}, True),
        ('userName ew "sen"', {"userName": "BJensen"}, True),
        ('userName sw "sen"', {"userName": "BJensen"}, False),
        ('userName co ".*"', {"userName": "BJensen"}, False),
        ('userName gt "a"', {"userName": "b"}, True),
        ('userName gt "a"', {}, False),
        ('name.familyName eq "张"', {"name": {"familyName": "张"}}, True),
        ('name.familyName eq "张"', {"name": None}, False),
        ('tags eq "x"', {"tags": ["y", "x"]}, True),
        ('tags ne "x"', {"tags": ["y", "x"]}, False),
        ("tags pr", {"tags": []}, False),
        ("tags pr", {"tags": ["x"]}, True),
        ("active pr", {"active": False}, True),
        ("name pr", {"name": {"familyName": ""}}, False),
        ("emails pr", {"emails": [{"value": "a@b.example"}]}, True),
        ('emails co "b.example"', {"emails": [{"value": "a@b.example"}]}, True),
        ('emails[type eq "work"].value eq "a"', {"emails": [{"type": "home", "value": "a"}, {"type": "work"}]}, False),
        ('emails[type eq "work"].value eq "a"', {"emails": [{"type": "work", "value": "a"}]}, True),
        ("emails[primary eq true and value pr]", {"emails": [{"primary": True, "value": "a"}]}, True),
        ("emails[not (primary eq true)]", {"emails": [{"primary": True}]}, False),
        ("emails[value pr]", {}, False),
        (f'{ENTERPRISE}:department eq "研发"', {ENTERPRISE: {"department": "研发"}}, True),
        (f'{CORE}:userName eq "a"', {"userName": "a"}, True),
        ('changed gt "2026-11-23T00:00:00+08:00"', {"changed": datetime(2026, 11, 22, 16, 0, 1, tzinfo=UTC)}, True),
        ('changed eq "2026-11-23T00:00:00+08:00"', {"changed": "2026-11-22T16:00:00Z"}, True),
        ('employments.startOn le "2026-11-23"', {"employments": [{"startOn": date(2026, 11, 23)}]}, True),
        ('employments[startOn gt "2026-11-23"]', {"employments": [{"startOn": "2026-11-23"}]}, False),
        ('userName eq "1"', {"userName": 1}, False),
    ],
)
def test_comparison(text: str, document: Mapping[str, Any], expected: bool) -> None:
    assert matches(text, document) is expected


@pytest.mark.parametrize(
    ("text", "attribute"),
    [
        ('nickName eq "x"', "nickName"),
        ('employments.wage eq "x"', "employments.wage"),
        ('employments[wage eq "x"]', "wage"),
        ('userName.first eq "x"', "userName.first"),
        ('password sw "a"', "password"),
        ("password pr", "password"),
        (f'{ENTERPRISE}:userName eq "x"', f"{ENTERPRISE}:userName"),
        ('urn:example:x:userName eq "x"', "urn:example:x:userName"),
        ("active gt true", "active"),
        ('active co "t"', "active"),
        ("photo gt 1", "photo"),
        ('level eq "12"', "level"),
        ("userName eq 1", "userName"),
        ("userName co 1", "userName"),
        ("userName eq true", "userName"),
        ('name eq "x"', "name"),
        ('employments eq "x"', "employments"),
        ('name[familyName eq "x"]', "name"),
        ('employments.company[x eq "y"]', "employments.company"),
        ('changed gt "yesterday"', "changed"),
        ('changed gt "2026-11-23"', "changed"),
    ],
)
def test_filter_that_does_not_fit_is_refused_by_the_name_of_the_attribute(text: str, attribute: str) -> None:
    with pytest.raises(InvalidFilter) as refusal:
        compile_predicate(text, attributes=PERSON, schema=CORE)
    assert refusal.value.attribute == attribute


def test_unknown_attribute_says_which() -> None:
    with pytest.raises(InvalidFilter, match=r"^There is no attribute 'nickName' to filter by\.$"):
        compile_predicate('userName pr and nickName eq "x"', attributes=PERSON)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "userName",
        "userName eq",
        "userName eq x",
        "userName eq 'x'",
        'userName eq "x',
        'userName eq "\\x"',
        'userName eq "a\nb"',
        'userName eq "\\ud800"',
        "level eq 01",
        "level eq +1",
        "level eq 1e400",
        "level eq " + "9" * 5000,
        "level eq NaN",
        'userName regex "x"',
        'userName eq "x" and',
        'and userName eq "x"',
        'userName eq "x" userName eq "y"',
        '(userName eq "x"',
        'userName eq "x")',
        'not userName eq "x"',
        "emails[type eq true",
        "emails[]",
        "(emails[value pr)]",
        "emails[value pr] eq 1",
        "emails[emails[value pr]]",
        'emails.value[type eq "x"].value eq "y"',
        "emails..value pr",
        "userName pr\u0000",
        "\u0000",
        "用户 pr",
        "userName pr; drop table person",
    ],
)
def test_text_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_filter(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000,
        "(" * 8_000,
        "(" * 3_000 + "userName pr" + ")" * 3_000,
        "not (" * 1_000 + "userName pr" + ")" * 1_000,
        "emails[" * 1_000,
        "userName eq " + '"' + "\\u0000" * 10_000 + '"',
        "a" * 1_000_000,
        "-" * 8_000,
        "userName pr or " * 600,
    ],
)
def test_oversized_filter_is_refused_within_50_ms(text: str) -> None:
    """C07: no filter of a stranger costs more than a blink, or a stack."""
    parse_filter("userName pr")
    began = time.perf_counter()
    with pytest.raises(InvalidFilter):
        parse_filter(text)
    assert time.perf_counter() - began < 0.05


def test_long_chain_is_not_deep() -> None:
    text = " or ".join(['userName eq "x"'] * 400)
    assert matches(text, {"userName": "x"})
    assert not matches(text, {"userName": "y"})


def test_nesting_to_the_limit_is_read_and_one_more_refused() -> None:
    assert matches("(" * 32 + "userName pr" + ")" * 32, {"userName": "x"})
    with pytest.raises(InvalidFilter, match="nests more than 32"):
        parse_filter("(" * 33 + "userName pr" + ")" * 33)


@pytest.mark.parametrize("value", ['a"b', "a\\", '\\"', '" or userName pr or userName eq "', "张\n三\x00", "'", ""])
def test_quoted_value_stays_one_value(value: str) -> None:
    predicate = compile_predicate(f"externalId eq {quote(value)}", attributes=PERSON)
    assert predicate({"externalId": value})
    assert not predicate({"externalId": value + "x", "userName": "x"})


def test_predicate_serves_a_large_company() -> None:
    """A rule over 120,000 people is a matter of a second; the bound is ten times what was measured."""
    predicate = compile_predicate(BIRTHRIGHT, attributes=PERSON)
    people = [employed(("总部", "regular")), employed(("二厂", "regular"), ("总部", "contractor"))] * 10_000
    began = time.perf_counter()
    assert sum(map(predicate, people)) == 10_000
    assert time.perf_counter() - began < 1.5
