"""The filter wrapper against scim2-models' `ScimFilter`, a reader and evaluator written by others on another parser."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scim2_models import EnterpriseUser, ScimFilter, User
from scim2_models.exceptions import InvalidFilterException
from scim2_models.path import expressions as oracle

from scim import filter_grammar as ours
from scim.errors import InvalidFilter
from scim.filters import AttributeSpec, compile_predicate, quote

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
CORE = "urn:ietf:params:scim:schemas:core:2.0:User"
_MODEL = User[EnterpriseUser]

_VALUE_TYPE = {"value": AttributeSpec(), "type": AttributeSpec(), "primary": AttributeSpec(type="boolean")}
ATTRIBUTES = {
    "userName": AttributeSpec(),
    "externalId": AttributeSpec(case_exact=True),
    "title": AttributeSpec(),
    "active": AttributeSpec(type="boolean"),
    "name": AttributeSpec(type="complex", sub_attributes={"familyName": AttributeSpec(), "givenName": AttributeSpec()}),
    "phoneNumbers": AttributeSpec(type="complex", multi_valued=True, sub_attributes=_VALUE_TYPE),
    "roles": AttributeSpec(type="complex", multi_valued=True, sub_attributes=_VALUE_TYPE),
    ENTERPRISE: AttributeSpec(
        type="complex", sub_attributes={"department": AttributeSpec(), "costCenter": AttributeSpec()}
    ),
}

# Few letters, so that comparisons often hold; with the characters that cases and normal forms turn on.
texts = st.text(alphabet='abAB"\\é\u0301张ß ', max_size=3)
_string_paths = st.sampled_from(
    [
        "userName",
        "USERNAME",
        "externalId",
        "title",
        "name.familyName",
        "Name.GivenName",
        "phoneNumbers.value",
        "phoneNumbers.type",
        "phoneNumbers",
        "roles.type",
        f"{CORE}:userName",
        f"{ENTERPRISE}:department",
    ]
)
_sub_paths = st.sampled_from(["value", "type", "Type"])
_operators = st.sampled_from(["eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le", "EQ", "Sw"])
_spaces = st.sampled_from([" ", "  ", "\t"])


def _joined(terms: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    connective = st.sampled_from([" and ", " or ", " AND ", " Or "])
    return st.one_of(
        st.tuples(terms, connective, terms).map("".join),
        st.tuples(terms, connective, terms, connective, terms).map("".join),
        terms.map("({})".format),
        terms.map("not ({})".format),
        terms.map("NOT( {} )".format),
    )


def _leaves(paths: st.SearchStrategy[str], boolean: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(paths, _spaces, _operators, _spaces, texts.map(quote)).map("".join),
        st.tuples(paths, st.sampled_from([" eq null", " ne null", " pr"])).map("".join),
        st.tuples(boolean, st.sampled_from([" eq true", " ne true", " eq false", " ne null", " pr", " eq TRUE"])).map(
            "".join
        ),
    )


_inner = st.recursive(_leaves(_sub_paths, st.just("primary")), _joined, max_leaves=4)
_value_paths = st.one_of(
    st.tuples(st.sampled_from(["phoneNumbers[", "roles["]), _inner, st.just("]")).map("".join),
    st.tuples(st.just("roles["), _inner, st.just("].value eq "), texts.map(quote)).map("".join),
)
filters = st.recursive(
    st.one_of(_leaves(_string_paths, st.sampled_from(["active", "roles.primary"])), _value_paths), _joined, max_leaves=8
)

_entries = st.lists(
    st.fixed_dictionaries({}, optional={"value": texts, "type": texts, "primary": st.booleans()}),
    min_size=1,
    max_size=3,
)
documents = st.fixed_dictionaries(
    {"userName": texts},
    optional={
        "externalId": texts,
        "title": texts,
        "active": st.booleans(),
        "name": st.fixed_dictionaries({}, optional={"familyName": texts, "givenName": texts}),
        "phoneNumbers": _entries,
        "roles": _entries,
        ENTERPRISE: st.fixed_dictionaries({}, optional={"department": texts, "costCenter": texts}),
    },
)


def normal(node: ours.Filter | oracle.FilterNode) -> Any:
    """Either tree in one notation; a chain within a chain of the same operator is one chain."""
    match node:
        case ours.Comparison(path, operator, value):
            return (operator.value, str(path).lower(), type(value), value)
        case oracle.Comparison(attr_path=path, op=operator, value=value):
            return (operator.value, str(path).lower(), type(value), value)
        case ours.Present(path) | oracle.Present(attr_path=path):
            return ("pr", str(path).lower())
        case ours.Not(inner) | oracle.Not(expr=inner):
            return ("not", normal(inner))
        case ours.ValuePath(path, inner) | oracle.ValuePath(attr_path=path, val_filter=inner):
            return ("[]", str(path).lower(), normal(inner))
        case ours.And(terms):
            return _chain("and", terms)
        case ours.Or(terms):
            return _chain("or", terms)
        case oracle.LogicalExpr(op=operator, terms=terms):
            return _chain(operator.value, terms)
    raise AssertionError(node)


def _chain(operator: str, terms: Any) -> Any:
    flat: list[Any] = []
    for term in map(normal, terms):
        flat.extend(term[1]) if term[0] == operator else flat.append(term)
    return (operator, flat)


@settings(max_examples=400, deadline=None)
@given(filters)
def test_both_readers_see_the_same_tree(text: str) -> None:
    assert normal(ours.parse_filter(text)) == normal(ScimFilter(text).ast)


@settings(max_examples=600, deadline=None)
@given(filters, documents)
def test_both_evaluators_agree(text: str, document: dict[str, Any]) -> None:
    person = _MODEL.model_validate({"schemas": [CORE, ENTERPRISE], **document})
    expected = ScimFilter[_MODEL](text).match(person)
    assert compile_predicate(text, attributes=ATTRIBUTES, schema=CORE)(document) is expected


_PIECES = ["userName", "emails", "eq", "pr", "and", "or", "not", "(", ")", "[", "]", ".", " ", '"x"', '"\\""', "12"]
_PIECES += [
    "-1.5e3",
    "true",
    "False",
    "null",
    "nullName",
    "$ref",
    "urn:a:b:",
    "co",
    '"',
    "\\",
    "张",
    "01",
    "\n",
    "not(",
]


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=9).map("".join))
def test_both_readers_refuse_the_same_noise(text: str) -> None:
    try:
        expected = normal(ScimFilter(text).ast)
    except (InvalidFilterException, ValueError):
        expected = None
    try:
        actual = normal(ours.parse_filter(text))
    except InvalidFilter:
        actual = None
    assert actual == expected


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet='usrName eqopand()[]"\\0123456789.-:truefalsn', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        ours.parse_filter(text)
    except InvalidFilter as refusal:
        assert refusal.description


@pytest.mark.parametrize(
    "text", ['trueName eq "x"', "falsehood pr", 'nullable eq "null"', 'notes eq "x"', 'orders pr and android eq "x"']
)
def test_names_that_begin_with_a_keyword(text: str) -> None:
    assert normal(ours.parse_filter(text)) == normal(ScimFilter(text).ast)
