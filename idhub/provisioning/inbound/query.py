"""SCIM filters over people as conditions of the database, as far as they go.

What is translated selects at least everybody whom the filter means (a superset); `is_exact` says whether it selects
nobody else. The rest is decided by the filter itself over the resources, a bounded number of them.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from itertools import product
from math import prod
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Select,
    SelectBase,
    String,
    and_,
    bindparam,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    union,
)

from idhub.db import Instant, to_micros
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
    """A condition on `Person`, `Principal` and the left-joined `ScimUser`."""

    made: Callable[[], ColumnElement[bool]] | None
    """Makes its clause, which costs more than what it asks where a walk needs none; None selects everybody."""
    is_exact: bool
    begins: tuple[str, str] | None = None
    """(attribute, text): it selects nobody of whom the attribute, a name or `userName`, does not begin so."""
    is_beginning: bool = False
    """Whether `begins` says it all: nothing else is asked of who is met by it."""
    looks_at_each: bool = False
    """Whether the database has no index for it and asks it of everybody."""
    kept: "tuple[ColumnElement[bool], Mapping[str, Any]] | None" = None
    """The clause as one that is the same object each time, and its parameters; None: it is made anew."""

    @property
    def clause(self) -> ColumnElement[bool] | None:
        """Made anew each time; None selects everybody."""
        return None if self.made is None else self.made()


_Ask: TypeAlias = Callable[[str], ColumnElement[str]]


@dataclass(frozen=True, slots=True)
class Lookup:
    """Equality with what an index finds: a statement of ids, and the values that it asks for."""

    make: Callable[[_Ask], SelectBase]
    """Makes the statement of what stands for a value in it."""
    values: Mapping[str, str]

    @property
    def ids(self) -> SelectBase:
        """The statement, the same each time: a value is the parameter of its name, see `parameters`."""
        return _kept_ids(self.make)

    @property
    def parameters(self) -> dict[str, str]:
        return {f"looked_up_{name}": value for name, value in self.values.items()}

    @property
    def clause(self) -> ColumnElement[bool]:
        """The same as a condition among others, which may ask the same of other values."""
        return Person.id.in_(self.make(lambda name: literal(self.values[name], String)))


@cache
def _kept_ids(make: Callable[[_Ask], SelectBase]) -> SelectBase:
    return make(lambda name: bindparam(f"looked_up_{name}", type_=String))


EVERYBODY: Final = Condition(None, is_exact=False)
_TEXTS: Final = {
    "displayname": Person.display_name,
    "name.familyname": Person.family_name,
    "name.givenname": Person.given_name,
}
_MOST_SPELLINGS: Final = 16
_SHOWN_TO: Final = timedelta(milliseconds=1)
_LISTS: Final = frozenset({"emails", "phonenumbers"})
_COMPARED: Final[Mapping[Operator, Callable[[Any, str], ColumnElement[bool]]]] = {
    Operator.EQ: lambda column, text: column == text,
    Operator.SW: lambda column, text: column.startswith(text, autoescape=True),
    Operator.CO: lambda column, text: column.contains(text, autoescape=True),
    Operator.EW: lambda column, text: column.endswith(text, autoescape=True),
}
_INSTANTS: Final[Mapping[Operator, Callable[[Any, Any], ColumnElement[bool]]]] = {
    Operator.GT: lambda column, value: column > value,
    Operator.GE: lambda column, value: column >= value,
    Operator.LT: lambda column, value: column < value,
    Operator.LE: lambda column, value: column <= value,
}


def lookup_of(tree: Filter, kind: ResourceType, *, provider: str) -> Lookup | None:
    """How an index finds at least everybody whom a filter means, where it asks for one value and nothing else."""
    match tree:
        case ValuePath():
            return _selected(tree)
        case Comparison(operator=Operator.EQ, value=str(value)) if may_name(value):
            return _equal(tree, value, kind, provider)
    return None


def user_condition(tree: Filter, kind: ResourceType, *, provider: str) -> Condition:
    """The condition for a filter over users.

    Args:
        kind: the type, with the extensions that the filter may name.
        provider: whose external ids are meant.
    """
    match tree:
        case And():
            parts = [user_condition(term, kind, provider=provider) for term in tree.terms]
            clauses = [part.made for part in parts if part.made is not None]
            begins = next((part.begins for part in parts if part.begins is not None), None)
            return Condition(
                (lambda: and_(*[make() for make in clauses])) if clauses else None,
                all(part.is_exact for part in parts),
                begins=begins,
                # One list of ids among them is enough to look at nobody else.
                looks_at_each=all(part.looks_at_each or part.made is None for part in parts) and bool(clauses),
            )
        case Or():
            parts = [user_condition(term, kind, provider=provider) for term in tree.terms]
            clauses = [part.made for part in parts if part.made is not None]
            if len(clauses) < len(parts):
                return EVERYBODY
            return Condition(
                lambda: or_(*[make() for make in clauses]),
                all(part.is_exact for part in parts),
                looks_at_each=any(part.looks_at_each for part in parts),
            )
        case Not():
            inner = user_condition(tree.expression, kind, provider=provider)
            made = inner.made
            if not inner.is_exact or made is None:
                return EVERYBODY
            return Condition(lambda: not_(func.coalesce(made(), false())), is_exact=True, looks_at_each=True)
        case Present():
            always = _name(tree.path) in {"id", "username", "meta", "displayname", "active"}
            return Condition(true, is_exact=True) if always else EVERYBODY
        case ValuePath() | Comparison():
            found = lookup_of(tree, kind, provider=provider)
            if found is not None:
                return Condition(lambda: found.clause, is_exact=found.make in _EXACT)
            return EVERYBODY if isinstance(tree, ValuePath) else _compared(tree, kind)


def _name(path: AttributePath) -> str | None:
    """The path in lower case; of the enterprise extension with its URN, None for any other schema."""
    if path.schema is not None and path.schema.lower() not in {USER.lower(), ENTERPRISE_USER.lower()}:
        return None
    name = path.name.lower() + (f".{path.sub_name.lower()}" if path.sub_name else "")
    return f"enterprise:{name}" if (path.schema or "").lower() == ENTERPRISE_USER.lower() else name


def _selected(tree: ValuePath) -> Lookup | None:
    """`emails[type eq "work" and value eq "x"]`: those who have the value at all."""
    name = _name(tree.path)
    terms = tree.expression.terms if isinstance(tree.expression, And) else (tree.expression,)
    for term in terms:
        if isinstance(term, Comparison) and term.operator is Operator.EQ and _name(term.path) == "value":
            return _has_value(name, term.value)
    return None


def _equal(tree: Comparison, value: str, kind: ResourceType, provider: str) -> Lookup | None:
    name = _name(tree.path)
    match name:
        case None:
            return _of_extension(tree, kind)
        case "id":
            return Lookup(_by_id, {"value": value})
        case "externalid":
            return Lookup(_by_external_id, {"value": value, "given_by": provider})
        case "username":
            return _named(value)
        case "enterprise:employeenumber":
            return Lookup(_by_login_name, _candidates(value))
    head, _, rest = name.partition(".")
    return _has_value(head, value) if head in _LISTS and rest in {"", "value"} else None


def _compared(tree: Comparison, kind: ResourceType) -> Condition:
    name, value = _name(tree.path), tree.value
    if name is None:
        found = _of_extension(tree, kind)
        return EVERYBODY if found is None else Condition(lambda: found.clause, is_exact=False)
    if name in {"meta.created", "meta.lastmodified"} and isinstance(value, str):
        return _instant(name, tree.operator, value)
    if name in _TEXTS and isinstance(value, str):
        return _text(name, tree.operator, value)
    if name == "username" and tree.operator is Operator.SW and isinstance(value, str) and may_name(value):
        return Condition(None, is_exact=False, begins=("userName", value), is_beginning=True)
    if tree.operator is Operator.EQ and name == "active" and isinstance(value, bool | str):
        is_active = value if isinstance(value, bool) else value.lower() == "true"
        shown = Principal.standing.in_(SHOWN_ACTIVE)
        return Condition(lambda: shown if is_active else not_(shown), is_exact=True, looks_at_each=not is_active)
    return EVERYBODY


def _of_extension(tree: Comparison, kind: ResourceType) -> Lookup | None:
    """Equality with a value of a registered extension: those who have it filed."""
    target = kind.find(tree.path)
    value = tree.value
    if tree.operator is not Operator.EQ or target is None or target.extension is None or value is None:
        return None
    if target.attribute.type not in {"string", "reference", "integer"} or not may_name(str(value)):
        return None
    name = lookup_name(target.extension, target.attribute)
    return Lookup(_by_said, {"name": name, "value": lookup_value(target.attribute, value)[:254]})


def _named(value: str) -> Lookup:
    """Who has this userName: by a sender's word, or else by a name that they sign in with."""
    try:
        key = user_name_key(value)
    except Invalid:
        # Nobody can.
        return Lookup(_by_id, {"value": ""})
    values = {"value": key, **_candidates(value)}
    _, slash, number = value.rpartition("/")
    if slash:
        return Lookup(_by_name_or_number, {**values, "number": number})
    return Lookup(_by_name, values)


def _has_value(name: str | None, value: Any) -> Lookup | None:
    if name not in _LISTS or not isinstance(value, str) or not may_name(value):
        return None
    values = {"name": name, "value": folded_value(value), **_candidates(value)}
    return Lookup(_by_value, values)


def _candidates(value: str) -> dict[str, str]:
    """What `_by_login_name` asks for."""
    forms = login_name_candidates(value)
    return {"form": forms[0], "other_form": forms[-1]}


# One list of ids each: alternatives joined by OR would be asked of everybody.
def _by_id(ask: _Ask) -> Select[str]:
    return select(Person.id).where(Person.id == ask("value"))


def _by_external_id(ask: _Ask) -> Select[str]:
    return select(ScimExternalId.resource_id).where(
        ScimExternalId.provider == ask("given_by"),
        ScimExternalId.kind == "User",
        ScimExternalId.external_id == ask("value"),
    )


def _by_login_name(ask: _Ask) -> Select[str]:
    return select(LoginName.principal_id).where(LoginName.value.in_([ask("form"), ask("other_form")]))


def _by_said(ask: _Ask) -> Select[str]:
    return select(ScimValue.principal_id).where(ScimValue.name == ask("name"), ScimValue.value == ask("value"))


def _by_value(ask: _Ask) -> SelectBase:
    return union(_by_login_name(ask), _by_said(ask))


def _by_name(ask: _Ask) -> SelectBase:
    said = select(ScimUser.principal_id).where(ScimUser.user_name_key == ask("value"))
    return union(said, _by_login_name(ask))


def _by_name_or_number(ask: _Ask) -> SelectBase:
    numbers = select(Employment.principal_id).where(Employment.employee_number == ask("number"))
    return union(
        select(ScimUser.principal_id).where(ScimUser.user_name_key == ask("value")), _by_login_name(ask), numbers
    )


_EXACT: Final = frozenset({_by_id, _by_external_id})


def folded_value(value: str) -> str:
    """The form in which `ScimValue` keeps a value."""
    return value.casefold()[:254]


def _text(name: str, operator: Operator, value: str) -> Condition:
    """A comparison of a name.

    The databases fold letters differently beyond ASCII. What has no case compares the same everywhere; of the rest
    every spelling in question is looked for, as far as they are few.
    """
    ways = spellings(value)
    is_beginning = operator in {Operator.EQ, Operator.SW}
    begins = (name, value) if is_beginning and value else None
    if not may_name(value) or ways is None:
        return Condition(None, is_exact=False, begins=begins if may_name(value) else None)
    compare = _COMPARED.get(operator)
    if compare is None:
        return EVERYBODY

    def made() -> ColumnElement[bool]:
        column = func.lower(_TEXTS[name])
        return or_(*[compare(column, text) for text in ways])

    is_exact = value.isascii() or len(ways) == 1
    return Condition(made, is_exact, begins, is_beginning=operator is Operator.SW, looks_at_each=True)


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
    try:
        at = datetime.fromisoformat(value)
        to_micros(at)
    except ValueError:
        return EVERYBODY
    if operator not in _INSTANTS or "T" not in value.upper():
        return EVERYBODY
    if operator in {Operator.LT, Operator.LE}:
        try:
            # Instants are shown in milliseconds, cut.
            at += _SHOWN_TO
        except OverflowError:
            # The end of a sender's calendar.
            return EVERYBODY
    return Condition(
        lambda: _instant_clause(name, operator, literal(at, Instant())),
        is_exact=operator in {Operator.GT, Operator.GE} and at.tzinfo is not None,
        looks_at_each=True,
        kept=(_kept_instant(name, operator), {"instant": at}),
    )


@cache
def _kept_instant(name: str, operator: Operator) -> ColumnElement[bool]:
    return _instant_clause(name, operator, bindparam("instant", type_=Instant()))


def _instant_clause(name: str, operator: Operator, at: ColumnElement[datetime]) -> ColumnElement[bool]:
    compare = _INSTANTS[operator]
    if name == "meta.created":
        return compare(Principal.created_at, at)
    of_person, of_said = compare(Principal.changed_at, at), compare(ScimUser.changed_at, at)
    if operator in {Operator.GT, Operator.GE}:
        return or_(of_person, func.coalesce(of_said, false()))
    return and_(of_person, func.coalesce(of_said, true()))
