"""Random filters select the same people through the database as by an evaluation that shares no code with the server.

The trees are drawn here, written as text with brackets where they are needed and where they are not, and evaluated over
what the server shows of everybody. How a tree is read is proven apart, in `tests/scim/test_filter_oracle.py`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scim.schemas import ENTERPRISE_USER, USER
from tests.api.shared_hub import shared_hub
from tests.api.test_scim import Scim
from tests.scim.examples import times
from tests.support.databases import DatabaseKind, Databases

E = f"{ENTERPRISE_USER}:"
TEXTS = (
    "userName", "displayName", "name.familyName", "name.givenName", "name.formatted", "title", "nickName", "userType",
    "locale", "emails", "emails.value", "emails.type", "phoneNumbers.value", "phoneNumbers.type", "roles.value",
    "addresses.locality", f"{E}employeeNumber", f"{E}costCenter", f"{E}department", f"{E}organization",
)  # fmt: skip
EXACT = ("id", "externalId", "profileUrl")
BOOLEANS = ("active", "emails.primary")
INSTANTS = ("meta.created", "meta.lastModified")
LISTS = {"emails": ("value", "type"), "phoneNumbers": ("value", "type"), "roles": ("value", "display")}
WORDS = (
    "Ada",
    "ada",
    "王",
    "小明",
    "Müller",
    "müller",
    "work",
    "home",
    "a@corp.example",
    "corp",
    "%",
    "_",
    'q"q',
    "\\",
    "",
)
"""Texts that people have, in other cases, or that a database could mistake for something else."""


def _population(sender: Scim) -> None:
    for index, (first, family) in enumerate(
        [
            ("Ada", "Müller"),
            ("ada", "O'Malley"),
            ("小明", "王"),
            ("ÉMILE", "ß"),
            ("Bo_", "100%"),
            ('q"q', "back\\slash"),
        ]
    ):
        sender.user(
            f"{'UPPER' if index % 2 else 'lower'}.{index}@corp.example",
            externalId=f"Ext{index}",
            displayName=f"{first} {family}",
            name={"givenName": first, "familyName": family, "formatted": f"{first} {family}"},
            active=index != 3,
            userType=("Employee", "Contractor", "Volunteer")[index % 3],
            locale="zh-CN",
            **({"title": "Engineer"} if index % 2 else {"nickName": first.upper()}),
            emails=[
                {"value": f"A{index}@corp.example", "type": "work", "primary": True},
                *([{"value": f"ada{index}@home.example", "type": "Home"}] if index % 3 else []),
            ],
            phoneNumbers=[{"value": f"+86 138 0000 000{index}", "type": "mobile"}] if index % 2 else [],
            roles=[{"value": "Admin", "display": "ADA"}] if index % 3 == 1 else [],
            addresses=[{"type": "work", "locality": "Köln"}, {"type": "home", "locality": "上海"}][: index % 3],
            enterprise={
                "employeeNumber": f"QY{index}",
                "organization": "HQ",
                **({"department": "研发/底盘", "costCenter": "Ada"} if index % 2 else {}),
            },
        )
    world = sender.api.world
    world.hire("王小明", employee_number="HR1")
    suspended = world.hire("Ada Lovelace", employee_number="HR2", title="ENGINEER", department_id=None)
    sender.call("PATCH", f"/Users/{suspended}", _off())


def _off() -> dict[str, Any]:
    return {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{"op": "replace", "path": "active", "value": False}],
    }


class Crowd:
    """A sender, and everybody whom it sees."""

    def __init__(self, sender: Scim) -> None:
        self.sender = sender
        self.people: list[dict[str, Any]] = sender.ok("GET", "/Users", params={"count": 1000})["Resources"]

    def selected(self, text: str) -> list[str]:
        """Ids of those whom the server selects."""
        page = self.sender.ok("GET", "/Users", params={"filter": text, "attributes": "id", "count": 1000})
        ids = [each["id"] for each in page["Resources"]]
        assert page["totalResults"] == len(ids) == len(set(ids))
        return sorted(ids)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def crowd(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crowd]:
    kind: DatabaseKind = request.param
    with shared_hub(databases, kind, tmp_path_factory.mktemp("filters")) as api:
        sender = Scim(api, organization_id=api.world.hq)
        _population(sender)
        yield Crowd(sender)


# --- drawing ----------------------------------------------------------------------------------------------------------

Tree = tuple[Any, ...]
_words = st.sampled_from(WORDS) | st.text(alphabet="aAdDéÉ1@.", max_size=3)
_ordering = ("eq", "ne", "gt", "ge", "lt", "le")
_any_text = st.sampled_from([*_ordering, "co", "sw", "ew"])


@st.composite
def _leaves(draw: st.DrawFn, people: list[dict[str, Any]]) -> Tree:
    kind = draw(st.sampled_from(["text", "text", "text", "exact", "boolean", "instant", "present", "null", "value"]))
    if kind == "boolean":
        return "compare", draw(st.sampled_from(BOOLEANS)), draw(st.sampled_from(["eq", "ne"])), draw(st.booleans())
    if kind == "instant":
        path = draw(st.sampled_from(INSTANTS))
        shown = [each["meta"][path.partition(".")[2]] for each in people]
        return (
            "compare",
            path,
            draw(st.sampled_from(_ordering)),
            draw(st.sampled_from([*shown, "2000-01-01T00:00:00+08:00"])),
        )
    if kind == "present":
        return "present", draw(st.sampled_from([*TEXTS, *EXACT, *BOOLEANS, "emails", "roles", "name"]))
    if kind == "null":
        return "compare", draw(st.sampled_from([*TEXTS, "externalId"])), draw(st.sampled_from(["eq", "ne"])), None
    if kind == "value":
        name = draw(st.sampled_from(sorted(LISTS)))
        return "selected", name, draw(_inner(people, name))
    path = draw(st.sampled_from(TEXTS if kind == "text" else EXACT))
    return "compare", path, draw(_any_text), draw(_value(people, path))


def _value(people: list[dict[str, Any]], path: str) -> st.SearchStrategy[str]:
    """A word, or what somebody has, perhaps in another case or a part of it."""
    held = sorted({text for each in people for text in _read(each, path) if isinstance(text, str)})
    if not held:
        return _words
    theirs = st.sampled_from(held)
    return _words | theirs | theirs.map(str.swapcase) | theirs.map(lambda text: text[: len(text) // 2 + 1])


@st.composite
def _inner(draw: st.DrawFn, people: list[dict[str, Any]], name: str) -> Tree:
    """What stands in the brackets of a value path: sub-attributes, joined or turned round."""

    def leaf() -> Tree:
        sub = draw(st.sampled_from(LISTS[name]))
        if draw(st.integers(0, 5)) == 0:
            return "present", sub
        return "compare", sub, draw(_any_text), draw(_value(people, f"{name}.{sub}"))

    shape = draw(st.sampled_from(["one", "and", "or", "not"]))
    if shape == "one":
        return leaf()
    return ("not", leaf()) if shape == "not" else (shape, leaf(), leaf())


def _trees(people: list[dict[str, Any]]) -> st.SearchStrategy[Tree]:
    return st.recursive(
        _leaves(people),
        lambda inner: (
            st.tuples(st.just("not"), inner)
            | st.tuples(st.sampled_from(["and", "or"]), inner, inner)
            | st.tuples(st.sampled_from(["and", "or"]), inner, inner, inner)
        ),
        max_leaves=6,
    )


def _written(tree: Tree, *, within: str = "") -> str:
    """The filter's text; `and` binds tighter than `or`, and a chain of one operator needs no brackets."""
    match tree:
        case ("not", inner):
            return f"not ({_written(inner)})"
        case ("present", path):
            return f"{path} pr"
        case ("selected", name, inner):
            return f"{name}[{_written(inner)}]"
        case ("compare", path, operator, value):
            return f"{path} {operator} {json.dumps(value)}"
        case (operator, *terms):
            text = f" {operator} ".join(_written(term, within=operator) for term in terms)
            return f"({text})" if (operator, within) == ("or", "and") else text
    raise AssertionError(tree)


# --- the reference ----------------------------------------------------------------------------------------------------


def _read(person: dict[str, Any], path: str) -> list[Any]:
    """The values at a path; [None] where there is none."""
    schema, _, name = path.rpartition(":")
    holder: Any = person.get(schema, {}) if schema else person
    if name == "2.0:User" or path == ENTERPRISE_USER:
        return [person.get(ENTERPRISE_USER)]
    found = [holder]
    for part in name.split("."):
        found = [each.get(part) if isinstance(each, dict) else None for each in found]
        found = [one for each in found for one in (each if isinstance(each, list) else [each])]
    return found or [None]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return _composed(_composed(text).lower())


def _compared(held: Any, operator: str, value: Any, path: str) -> bool:
    if value is None or held is None:
        return operator == "eq" and held is value
    if path in INSTANTS:
        held, value = datetime.fromisoformat(held), datetime.fromisoformat(value)
    elif isinstance(value, str):
        change: Callable[[str], str] = _composed if path in EXACT else _folded
        held, value = change(held), change(value)
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "eq": lambda a, b: a == b,
        "co": lambda a, b: b in a,
        "sw": lambda a, b: a.startswith(b),
        "ew": lambda a, b: a.endswith(b),
        "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
    }
    return tests[operator](held, value)


def _present(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_present, value.values() if isinstance(value, dict) else value))
    return value is not None and value != ""


def holds(tree: Tree, person: dict[str, Any]) -> bool:
    """RFC 7644 section 3.4.2.2; `ne` is "none is equal" (decision 0010)."""
    match tree:
        case ("not", inner):
            return not holds(inner, person)
        case ("and", *terms):
            return all(holds(term, person) for term in terms)
        case ("or", *terms):
            return any(holds(term, person) for term in terms)
        case ("present", path):
            return any(map(_present, _read(person, path)))
        case ("selected", name, inner):
            return any(holds(inner, each) for each in person.get(name, []))
        case ("compare", path, "ne", value):
            return not holds(("compare", path, "eq", value), person)
        case ("compare", path, operator, value):
            read = f"{path}.value" if path in LISTS else path
            return any(_compared(held, operator, value, path) for held in _read(person, read))
    raise AssertionError(tree)


# --- the proof --------------------------------------------------------------------------------------------------------


@settings(
    max_examples=times(50),
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_random_filters_select_whom_the_reference_selects(crowd: Crowd, data: st.DataObject) -> None:
    tree = data.draw(_trees(crowd.people))
    text = _written(tree)

    assert crowd.selected(text) == sorted(each["id"] for each in crowd.people if holds(tree, each)), text


def test_reference_itself_tells_people_apart(crowd: Crowd) -> None:
    """A reference that selects nobody, or everybody, would prove nothing."""
    for tree, count in (
        (("compare", "displayName", "sw", "ADA"), 3),
        (("selected", "emails", ("and", ("compare", "type", "eq", "home"), ("compare", "value", "sw", "ADA"))), 4),
        (("compare", "active", "eq", False), 2),
        (("compare", f"{E}department", "ew", "底盘"), 3),
    ):
        assert sum(holds(tree, each) for each in crowd.people) == count
    assert len(crowd.people) == 8


@pytest.mark.parametrize(
    ("filter_", "is_found"),
    [
        ('displayName eq "plain@corp.example"', True),
        ('displayName co "plain@"', True),
        ("active eq true", True),
        ("not (active eq true)", False),
        (f'{E}organization eq "总部"', True),
        ("displayName pr and active pr", True),
    ],
)
def test_filter_sees_what_follows_from_what_was_said(crowd: Crowd, filter_: str, is_found: bool) -> None:
    """A sender is not shown what it never said; whom a filter means does not hang on that."""
    sender = crowd.sender
    user = sender.ok("POST", "/Users", {"schemas": [USER], "userName": "plain@corp.example"})
    plain = sender.ok("PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": "plain@corp.example"})
    try:
        assert not {"displayName", "active"} & plain.keys()
        assert (user["id"] in crowd.selected(filter_)) is is_found
    finally:
        sender.call("DELETE", f"/Users/{user['id']}")
