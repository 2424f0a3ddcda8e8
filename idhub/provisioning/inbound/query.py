"""SCIM filters over people as conditions of the database, as far as they go.

What is translated selects at least everybody whom the filter means (a superset); `is_exact` says whether it selects
nobody else. The rest is decided by the filter itself over the resources, a bounded number of them.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from math import prod
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, false, func, not_, or_, select, true, union

from idhub.db import to_micros
from idhub.directory.names import login_name_candidates, may_name
from idhub.directory.tables import Employment, LoginName, Person, Principal
from idhub.errors import Invalid
from idhub.provisioning.inbound.extensions import lookup_name, lookup_value
from idhub.provisioning.inbound.person_resource import SHOWN_ACTIVE, user_name_key
from idhub.provisioning.inbound.tables import ScimExternalId, ScimUser, ScimValue
from scim.attributes import ResourceType
from scim.filter_grammar import And, AttributePath, Comparison, Filter, Not, Operator, Or, Present, ValuePath
from scim.schemas import ENTERPRISE_USER, USER


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on `Person`, `Principal` and the left-joined `ScimUser`; None selects everybody."""

    clause: ColumnElement[bool] | None
    is_exact: bool
    begins: tuple[str, str] | None = None
    """(attribute, text): it selects nobody of whom the attribute, a name or `userName`, does not begin so."""
    is_beginning: bool = False
    """Whether `begins` says it all: who is met by it needs no further look of the database."""
    looks_at_each: bool = False
    """Whether the database has no index for it and asks it of everybody."""


EVERYBODY: Final = Condition(None, is_exact=False)
_TEXTS: Final = {
    "displayname": Person.display_name,
    "name.familyname": Person.family_name,
    "name.givenname": Person.given_name,
}
_MOST_SPELLINGS: Final = 16
_SHOWN_TO: Final = timedelta(milliseconds=1)
_LISTS: Final = frozenset({"emails", "phonenumbers"})
_INSTANTS: Final = {
    Operator.GT: lambda column, value: column > value,
    Operator.GE: lambda column, value: column >= value,
    Operator.LT: lambda column, value: column < value,
    Operator.LE: lambda column, value: column <= value,
}


def user_condition(tree: Filter, kind: ResourceType, *, provider: str) -> Condition:
    """The condition for a filter over users.

    Args:
        kind: the type, with the extensions that the filter may name.
        provider: whose external ids are meant.
    """
    match tree:
        case And():
            parts = [user_condition(term, kind, provider=provider) for term in tree.terms]
            clauses = [part.clause for part in parts if part.clause is not None]
            begins = next((part.begins for part in parts if part.begins is not None), None)
            return Condition(
                and_(*clauses) if clauses else None,
                all(part.is_exact for part in parts),
                begins,
                # One list of ids among them is enough to look at nobody else.
                all(part.looks_at_each or part.clause is None for part in parts) and bool(clauses),
            )
        case Or():
            parts = [user_condition(term, kind, provider=provider) for term in tree.terms]
            clauses = [part.clause for part in parts if part.clause is not None]
            if len(clauses) < len(parts):
                return EVERYBODY
            return Condition(
                or_(*clauses),
                all(part.is_exact for part in parts),
                looks_at_each=any(part.looks_at_each for part in parts),
            )
        case Not():
            inner = user_condition(tree.expression, kind, provider=provider)
            if not inner.is_exact or inner.clause is None:
                return EVERYBODY
            return Condition(not_(func.coalesce(inner.clause, false())), is_exact=True, looks_at_each=True)
        case Present():
            always = _name(tree.path) in {"id", "username", "meta", "displayname", "active"}
            return Condition(true(), is_exact=True) if always else EVERYBODY
        case ValuePath():
            return _selected(tree)
        case Comparison():
            return _compared(tree, kind, provider)


def _name(path: AttributePath) -> str | None:
    """The path in lower case; of the enterprise extension with its URN, None for any other schema."""
    if path.schema is not None and path.schema.lower() not in {USER.lower(), ENTERPRISE_USER.lower()}:
        return None
    name = path.name.lower() + (f".{path.sub_name.lower()}" if path.sub_name else "")
    return f"enterprise:{name}" if (path.schema or "").lower() == ENTERPRISE_USER.lower() else name


def _selected(tree: ValuePath) -> Condition:
    """`emails[type eq "work" and value eq "x"]`: those who have the value at all."""
    name = _name(tree.path)
    terms = tree.expression.terms if isinstance(tree.expression, And) else (tree.expression,)
    for term in terms:
        if isinstance(term, Comparison) and term.operator is Operator.EQ and _name(term.path) == "value":
            return _has_value(name, term.value)
    return EVERYBODY


def _compared(tree: Comparison, kind: ResourceType, provider: str) -> Condition:
    name, value = _name(tree.path), tree.value
    if name is None:
        return _of_extension(tree, kind)
    if name in {"meta.created", "meta.lastmodified"} and isinstance(value, str):
        return _instant(name, tree.operator, value)
    if name in _TEXTS and isinstance(value, str):
        return _text(name, tree.operator, value)
    if name == "username" and tree.operator is Operator.SW and isinstance(value, str) and may_name(value):
        return Condition(None, is_exact=False, begins=("userName", value))
    if tree.operator is not Operator.EQ:
        return EVERYBODY
    if name == "active" and isinstance(value, bool | str):
        is_active = value if isinstance(value, bool) else value.lower() == "true"
        shown = Principal.standing.in_(SHOWN_ACTIVE)
        return Condition(shown if is_active else not_(shown), is_exact=True, looks_at_each=not is_active)
    if not isinstance(value, str) or not may_name(value):
        return EVERYBODY
    if name == "id":
        return Condition(Person.id == value, is_exact=True)
    if name == "externalid":
        return Condition(Person.id.in_(_external(provider, value)), is_exact=True)
    if name == "username":
        return Condition(_is_named(value), is_exact=False)
    if name == "enterprise:employeenumber":
        numbers = select(LoginName.principal_id).where(LoginName.value.in_(login_name_candidates(value)))
        return Condition(Person.id.in_(numbers), is_exact=False)
    head, _, rest = (name or "").partition(".")
    return _has_value(head, value) if head in _LISTS and rest in {"", "value"} else EVERYBODY


def _of_extension(tree: Comparison, kind: ResourceType) -> Condition:
    """Equality with a value of a registered extension: those who have it filed."""
    target = kind.find(tree.path)
    value = tree.value
    if tree.operator is not Operator.EQ or target is None or target.extension is None or value is None:
        return EVERYBODY
    if target.attribute.type not in {"string", "reference", "integer"} or not may_name(str(value)):
        return EVERYBODY
    said = select(ScimValue.principal_id).where(
        ScimValue.name == lookup_name(target.extension, target.attribute),
        ScimValue.value == lookup_value(target.attribute, value)[:254],
    )
    return Condition(Person.id.in_(said), is_exact=False)


def _external(provider: str, value: str) -> Select[str]:
    return select(ScimExternalId.resource_id).where(
        ScimExternalId.provider == provider, ScimExternalId.kind == "User", ScimExternalId.external_id == value
    )


def _is_named(value: str) -> ColumnElement[bool]:
    """Who has this userName: by a sender's word, or else by a name that they sign in with."""
    try:
        key = user_name_key(value)
    except Invalid:
        return false()
    said = select(ScimUser.principal_id).where(ScimUser.user_name_key == key)
    signs_in = select(LoginName.principal_id).where(LoginName.value.in_(login_name_candidates(value)))
    _, slash, number = value.rpartition("/")
    numbers = select(Employment.principal_id).where(Employment.employee_number == number) if slash else None
    # One list of ids: alternatives joined by OR would be asked of everybody.
    alternatives = [said, signs_in, *([] if numbers is None else [numbers])]
    return Person.id.in_(union(*alternatives))


def _has_value(name: str | None, value: Any) -> Condition:
    if name not in _LISTS or not isinstance(value, str) or not may_name(value):
        return EVERYBODY
    signs_in = select(LoginName.principal_id).where(LoginName.value.in_(login_name_candidates(value)))
    said = select(ScimValue.principal_id).where(ScimValue.name == name, ScimValue.value == folded_value(value))
    return Condition(Person.id.in_(union(signs_in, said)), is_exact=False)


def folded_value(value: str) -> str:
    """The form in which `ScimValue` keeps a value."""
    return value.casefold()[:254]


def _text(name: str, operator: Operator, value: str) -> Condition:
    """A comparison of a name.

    The databases fold letters differently beyond ASCII. What has no case compares the same everywhere; of the rest
    every spelling in question is looked for, as far as they are few.
    """
    column = func.lower(_TEXTS[name])
    ways = spellings(value)
    is_beginning = operator in {Operator.EQ, Operator.SW}
    begins = (name, value) if is_beginning and value else None
    if not may_name(value) or ways is None:
        return Condition(None, is_exact=False, begins=begins if may_name(value) else None)
    compare: dict[Operator, Callable[[str], ColumnElement[bool]]] = {
        Operator.EQ: lambda text: column == text,
        Operator.SW: lambda text: column.startswith(text, autoescape=True),
        Operator.CO: lambda text: column.contains(text, autoescape=True),
        Operator.EW: lambda text: column.endswith(text, autoescape=True),
    }
    if operator not in compare:
        return EVERYBODY
    clauses = [compare[operator](text) for text in ways]
    is_exact = value.isascii() or len(ways) == 1
    return Condition(or_(*clauses), is_exact, begins, is_beginning=operator is Operator.SW, looks_at_each=True)


def spellings(value: str) -> list[str] | None:
    """How a text may stand in a column that the database has folded: its letters beyond ASCII in either case.

    None: in more ways than one looks for.
    """
    choices = [
        (character,) if character.isascii() else tuple(dict.fromkeys((character, character.lower(), character.upper())))
        for character in unicodedata.normalize("NFC", value).lower()
    ]
    if prod(map(len, choices)) > _MOST_SPELLINGS or any(len(one) != 1 for each in choices for one in each):
        return None
    return ["".join(one) for one in product(*choices)]


def _instant(name: str, operator: Operator, value: str) -> Condition:
    compare = _INSTANTS.get(operator)
    try:
        at = datetime.fromisoformat(value)
        to_micros(at)
    except ValueError:
        return EVERYBODY
    if compare is None or "T" not in value.upper():
        return EVERYBODY
    if operator in {Operator.LT, Operator.LE}:
        # Instants are shown in milliseconds, cut.
        at += _SHOWN_TO
    if name == "meta.created":
        return Condition(compare(Principal.created_at, at), is_exact=False, looks_at_each=True)
    of_person, of_said = compare(Principal.changed_at, at), compare(ScimUser.changed_at, at)
    if operator in {Operator.GT, Operator.GE}:
        return Condition(or_(of_person, func.coalesce(of_said, false())), is_exact=False, looks_at_each=True)
    return Condition(and_(of_person, func.coalesce(of_said, true())), is_exact=False, looks_at_each=True)
