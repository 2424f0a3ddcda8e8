"""PATCH over resources: RFC 7644 section 3.5.2, and what senders do beside it."""

from typing import Any

import pytest

from scim.errors import InvalidFilter, InvalidPath, InvalidSyntax, InvalidValue, NoTarget, NotMutable, RequestError
from scim.patch import MAX_OPERATIONS, apply_patch
from scim.reading import read_resource
from scim.schemas import ENTERPRISE_USER, GROUP, PATCH_OP, USER
from scim.standard import GROUP_TYPE, USER_TYPE

WORK = {"value": "bjensen@corp.example", "type": "work", "primary": True}
HOME = {"value": "babs@home.example", "type": "home"}


def _user(**values: Any) -> dict[str, Any]:
    return read_resource({"schemas": [USER], "userName": "bjensen", **values}, USER_TYPE)


def _patch(resource: dict[str, Any], *operations: dict[str, Any], **options: Any) -> dict[str, Any]:
    body = {"schemas": [PATCH_OP], "Operations": list(operations)}
    kind = GROUP_TYPE if GROUP in resource["schemas"] else USER_TYPE
    return apply_patch(resource, body, kind, **options)


def _op(op: str, path: str | None = None, value: Any = None) -> dict[str, Any]:
    operation: dict[str, Any] = {"op": op}
    if path is not None:
        operation["path"] = path
    if value is not None:
        operation["value"] = value
    return operation


@pytest.mark.parametrize(
    ("before", "operation", "name", "after"),
    [
        pytest.param({}, _op("add", "title", "Chief"), "title", "Chief", id="add-simple"),
        pytest.param({"title": "A"}, _op("add", "title", "B"), "title", "B", id="add-replaces-single"),
        pytest.param({}, _op("Add", "TITLE", "B"), "title", "B", id="verb-and-name-in-any-case"),
        pytest.param({}, _op("add", f"{USER}:title", "B"), "title", "B", id="path-with-core-urn"),
        pytest.param(
            {"name": {"givenName": "Barbara"}},
            _op("add", "name", {"familyName": "Jensen"}),
            "name",
            {"givenName": "Barbara", "familyName": "Jensen"},
            id="add-complex-keeps-other-parts",
        ),
        pytest.param(
            {"name": {"givenName": "Barbara", "familyName": "J"}},
            _op("replace", "name", {"familyName": "Jensen"}),
            "name",
            {"givenName": "Barbara", "familyName": "Jensen"},
            id="replace-complex-keeps-other-parts",
        ),
        pytest.param(
            {"name": {"givenName": "Barbara"}},
            _op("replace", "name.familyName", "Jensen"),
            "name",
            {"givenName": "Barbara", "familyName": "Jensen"},
            id="replace-sub-attribute",
        ),
        pytest.param({"emails": [WORK]}, _op("add", "emails", [HOME]), "emails", [WORK, HOME], id="add-value"),
        pytest.param({"emails": [WORK]}, _op("add", "emails", HOME), "emails", [WORK, HOME], id="add-single-as-value"),
        pytest.param({"emails": [WORK]}, _op("add", "emails", [WORK]), "emails", [WORK], id="add-known-value-again"),
        pytest.param(
            {"emails": [WORK]},
            _op("add", "emails", [{**HOME, "primary": True}]),
            "emails",
            [{**WORK, "primary": False}, {**HOME, "primary": True}],
            id="new-primary-ends-the-old-one",
        ),
        pytest.param({"emails": [WORK]}, _op("replace", "emails", [HOME]), "emails", [HOME], id="replace-all-values"),
        pytest.param(
            {"emails": [WORK, HOME]},
            _op("replace", 'emails[type eq "work"].value', "new@corp.example"),
            "emails",
            [{**WORK, "value": "new@corp.example"}, HOME],
            id="replace-part-of-selected",
        ),
        pytest.param(
            {"emails": [WORK, HOME]},
            _op("replace", 'emails[type eq "work"]', {"value": "n@corp.example", "type": "work"}),
            "emails",
            [{"value": "n@corp.example", "type": "work"}, HOME],
            id="replace-selected-whole",
        ),
        pytest.param(
            {"emails": [WORK, HOME]}, _op("remove", 'emails[type eq "home"]'), "emails", [WORK], id="remove-selected"
        ),
        pytest.param({"emails": [HOME]}, _op("remove", 'emails[type eq "home"]'), "emails", None, id="remove-last"),
        pytest.param(
            {"emails": [WORK]}, _op("remove", 'emails[type eq "home"]'), "emails", [WORK], id="remove-what-is-not-there"
        ),
        pytest.param(
            {"emails": [WORK, HOME]},
            _op("remove", 'emails[type eq "work"].primary'),
            "emails",
            [{"value": WORK["value"], "type": "work"}, HOME],
            id="remove-part-of-selected",
        ),
        pytest.param({"title": "A"}, _op("remove", "title"), "title", None, id="remove-simple"),
        pytest.param({"title": "A"}, _op("replace", None, {"title": None}), "title", None, id="null-is-no-value"),
        pytest.param(
            {},
            _op("add", 'emails[type eq "work"].value', "x@corp.example"),
            "emails",
            [{"type": "work", "value": "x@corp.example"}],
            id="add-into-a-value-that-is-made",
        ),
        pytest.param(
            {"emails": [WORK, HOME]},
            _op("remove", "emails", [{"value": HOME["value"]}]),
            "emails",
            [WORK],
            id="remove-values-named-beside-the-path",
        ),
        pytest.param(
            {},
            _op("replace", None, {"name.givenName": "Barbara", "active": "False"}),
            "name",
            {"givenName": "Barbara"},
            id="keys-that-are-paths",
        ),
        pytest.param({}, _op("replace", None, {"active": "False"}), "active", False, id="boolean-as-text"),
        pytest.param(
            {},
            _op("add", f"{ENTERPRISE_USER}:department", "IT"),
            ENTERPRISE_USER,
            {"department": "IT"},
            id="extension-attribute",
        ),
        pytest.param(
            {},
            _op("add", None, {ENTERPRISE_USER: {"department": "IT"}, "title": "A"}),
            ENTERPRISE_USER,
            {"department": "IT"},
            id="extension-without-path",
        ),
        pytest.param(
            {},
            _op("add", ENTERPRISE_USER, {"department": "IT"}),
            ENTERPRISE_USER,
            {"department": "IT"},
            id="urn-as-path",
        ),
        pytest.param(
            {ENTERPRISE_USER: {"department": "IT"}},
            _op("remove", f"{ENTERPRISE_USER}:department"),
            ENTERPRISE_USER,
            None,
            id="empty-extension-goes",
        ),
        pytest.param({}, _op("add", None, {"notThere": 1, "title": "A"}), "title", "A", id="unknown-beside-known"),
        pytest.param({}, _op("replace", "id", None) | {"value": None}, "id", None, id="read-only-left-as-it-is"),
    ],
)
def test_operation(before: dict[str, Any], operation: dict[str, Any], name: str, after: Any) -> None:
    assert _patch(_user(**before), operation).get(name) == after


@pytest.mark.parametrize(
    ("operation", "error", "attribute"),
    [
        pytest.param(_op("remove"), NoTarget, "path", id="remove-without-path"),
        pytest.param(_op("move", "title", "A"), InvalidSyntax, "op", id="unknown-verb"),
        pytest.param({"path": "title", "value": "A"}, InvalidSyntax, "op", id="no-verb"),
        pytest.param(_op("add", "title"), InvalidValue, "value", id="no-value"),
        pytest.param(_op("add", None, "A"), InvalidValue, "value", id="no-path-and-no-object"),
        pytest.param(_op("add", "nothing", "A"), InvalidPath, "nothing", id="unknown-attribute"),
        pytest.param(
            _op("add", "urn:other:schema:title", "A"), InvalidPath, "urn:other:schema:title", id="unknown-urn"
        ),
        pytest.param(_op("add", "emails[type eq", "A"), InvalidPath, None, id="open-bracket"),
        pytest.param(_op("add", "emails[type eq]", "A"), InvalidFilter, None, id="filter-without-value"),
        pytest.param(_op("add", 'emails[nothing eq "A"]', {}), InvalidFilter, "nothing", id="filter-on-unknown"),
        pytest.param(_op("add", 'title[value eq "A"]', "A"), InvalidPath, "title", id="filter-on-single"),
        pytest.param(_op("replace", 'emails[type eq "x"].value', "A"), NoTarget, "emails", id="replace-without-match"),
        pytest.param(_op("add", 'emails[type ne "x"].value', "A"), NoTarget, "emails", id="add-that-names-no-value"),
        pytest.param(_op("replace", "id", "x"), NotMutable, "id", id="read-only"),
        pytest.param(_op("replace", None, {"id": "x"}), NotMutable, "id", id="read-only-without-path"),
        pytest.param(_op("add", "meta.version", "x"), NotMutable, "meta.version", id="read-only-part"),
        pytest.param(_op("add", "groups", [{"value": "x"}]), NotMutable, "groups", id="read-only-list"),
        pytest.param(_op("remove", "userName"), InvalidValue, "userName", id="required-is-removed"),
        pytest.param(_op("replace", "active", "maybe"), InvalidValue, "active", id="wrong-type"),
        pytest.param(_op("replace", "title", 7), InvalidValue, "title", id="number-for-text"),
        pytest.param(_op("replace", "title", "a\x00b"), InvalidValue, "title", id="control-character"),
        pytest.param(
            _op("add", "emails", [{"value": "a", "primary": True}, {"value": "b", "primary": True}]),
            InvalidValue,
            "emails",
            id="two-primary-values",
        ),
        pytest.param(_op("remove", USER), NotMutable, USER, id="core-is-removed"),
    ],
)
def test_refused_operation_changes_nothing(
    operation: dict[str, Any], error: type[RequestError], attribute: str | None
) -> None:
    resource = _user(title="A", id="ignored")
    before = _user(title="A")

    with pytest.raises(error) as refused:
        _patch(resource, _op("replace", "title", "B"), operation)

    assert refused.value.attribute == attribute
    assert resource == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"schemas": [PATCH_OP]},
        {"schemas": [PATCH_OP], "Operations": []},
        {"schemas": [USER], "Operations": [_op("add", "title", "A")]},
        {"schemas": [PATCH_OP], "Operations": ["add"]},
        {"schemas": [PATCH_OP], "Operations": [_op("add", "title", "A")] * (MAX_OPERATIONS + 1)},
    ],
    ids=["empty", "no-operations", "empty-operations", "other-schema", "no-object", "too-many"],
)
def test_message_that_is_no_patch(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidSyntax):
        apply_patch(_user(), body, USER_TYPE)


def test_replace_makes_a_value_where_the_senders_dialect_says_so() -> None:
    patched = _patch(_user(), _op("Replace", 'phoneNumbers[type eq "mobile"].value', "1"), replace_makes=True)

    assert patched["phoneNumbers"] == [{"type": "mobile", "value": "1"}]


def test_members_are_added_once_and_removed_by_value() -> None:
    group = read_resource({"schemas": [GROUP], "displayName": "A", "members": [{"value": "1"}]}, GROUP_TYPE)

    added = _patch(group, _op("add", "members", [{"value": "1"}, {"value": "2"}]))
    removed = _patch(added, _op("remove", 'members[value eq "1"]'))

    assert added["members"] == [{"value": "1"}, {"value": "2"}]
    assert removed["members"] == [{"value": "2"}]


def test_schemas_follow_the_extensions_in_use() -> None:
    user = _user()

    patched = _patch(user, _op("add", f"{ENTERPRISE_USER}:department", "IT"))

    assert user["schemas"] == [USER]
    assert patched["schemas"] == [USER, ENTERPRISE_USER]
