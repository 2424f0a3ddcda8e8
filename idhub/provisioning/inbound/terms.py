"""The terms on which a token speaks SCIM: what its words end, and how far they reach. Pure.

Terms are chosen when the token is made and stand in its row; a token without any has the defaults.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from idhub.errors import Invalid
from scim.attributes import Attribute, ResourceType, Schema

_NAME: Final = re.compile(r"(?:(?P<urn>urn:[A-Za-z0-9.:_-]+):)?(?P<name>[A-Za-z$][A-Za-z0-9$_-]*)")
_ALWAYS_READ: Final = frozenset({"id", "meta", "schemas"})
MOST_CALLS: Final = 1_000_000
"""Calls a minute that a token can be limited to."""
MAX_NAMES: Final = 100
_COMMON: Final = ("externalId",)


class Ending(StrEnum):
    """What becomes of a person whom a sender's word ends."""

    KEEP = "keep"
    """Nothing: the word says nothing about standing."""
    SUSPEND = "suspend"
    """Access is held back at once; factors and links survive."""
    LEAVE = "leave"
    """Every employment ends, all access with it, with a receipt."""


class Return(StrEnum):
    """Whom `active: true`, or a POST of somebody who has left, brings back."""

    ANYBODY = "anybody"
    OWN = "own"
    """Only whom a token of the same name has suspended or ended itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one token may say, and what it means.

    Args:
        inactive: `active: false`, in POST, PUT or PATCH.
        deleted: DELETE.
        unsaid: `active` left out of a PUT, or removed by a PATCH, of somebody who is active.
        out_of_scope: a person taken out of `scope_group`, or that group deleted.
        scope_group: name of the group in which the sender keeps those whom it is responsible for.
        readable, writable: attributes; None: all. `urn:...:User:department` names one of an extension.
        resources: types; None: all.
        calls_a_minute: None: no limit.
        replace_makes: whether PATCH `replace` of a value that no filter matches makes it, see `scim.patch`.
        post_replaces: whether POST of a person whom this sender knows by `externalId` replaces instead of 409.
    """

    inactive: Ending = Ending.SUSPEND
    deleted: Ending = Ending.LEAVE
    unsaid: Ending = Ending.KEEP
    out_of_scope: Ending = Ending.KEEP
    scope_group: str | None = None
    returns: Return = Return.ANYBODY
    readable: frozenset[str] | None = field(default=None)
    writable: frozenset[str] | None = field(default=None)
    resources: frozenset[str] | None = field(default=None)
    calls_a_minute: int | None = None
    replace_makes: bool = False
    post_replaces: bool = False

    def as_json(self) -> dict[str, Any]:
        """What is stored: only what differs from the defaults."""
        stored: dict[str, Any] = {}
        for name in Terms.__dataclass_fields__:
            value = getattr(self, name)
            if value != getattr(DEFAULT_TERMS, name):
                stored[name] = sorted(value) if isinstance(value, frozenset) else value
        return stored


DEFAULT_TERMS: Final = Terms()


def read_terms(stored: Mapping[str, Any] | None) -> Terms:
    """The terms of a token's row. What this version does not know of is refused: a limit must not fall away.

    Raises:
        ValueError: a name or value that this version does not know.
    """
    values: dict[str, Any] = {}
    for name, value in (stored or {}).items():
        if name not in Terms.__dataclass_fields__:
            raise ValueError(name)
        if name in {"inactive", "deleted", "unsaid", "out_of_scope"}:
            values[name] = Ending(value)
        elif name == "returns":
            values[name] = Return(value)
        elif name in {"replace_makes", "post_replaces"}:
            if not isinstance(value, bool):
                raise ValueError(name)
            values[name] = value
        else:
            values[name] = frozenset(value) if isinstance(value, list) else value
    return Terms(**values)


def check_terms(terms: Terms, kinds: Iterable[ResourceType]) -> Terms:
    """The terms with every name in its one spelling.

    Raises:
        Invalid: a name of no attribute or type; `field` is the option.
    """
    listed = list(kinds)
    if terms.inactive is Ending.KEEP or terms.deleted is Ending.KEEP:
        raise Invalid(
            "active: false and DELETE end something: suspend or leave.", field="terms", rule="terms.ends_nothing"
        )
    if (terms.scope_group is None) is not (terms.out_of_scope is Ending.KEEP):
        raise Invalid(
            "A scope group and what happens out of it are named together.", field="scope_group", rule="terms.scope"
        )
    if terms.calls_a_minute is not None and not 1 <= terms.calls_a_minute <= MOST_CALLS:
        raise Invalid(f"A token has 1 to {MOST_CALLS} calls a minute.", field="calls_a_minute", rule="terms.rate")
    types = {kind.name.lower(): kind.name for kind in listed}
    return replace(
        terms,
        readable=None if terms.readable is None else _attributes(terms.readable, listed, "readable"),
        writable=None if terms.writable is None else _attributes(terms.writable, listed, "writable"),
        resources=None if terms.resources is None else frozenset(_type(name, types) for name in terms.resources),
    )


def _type(name: str, types: Mapping[str, str]) -> str:
    known = types.get(name.strip().lower())
    if known is None:
        raise Invalid(
            f"There is no resource type {name[:60]!r}; there are {', '.join(types.values())}.",
            field="resource",
            rule="terms.resource",
        )
    return known


def _attributes(names: Iterable[str], kinds: list[ResourceType], option: str) -> frozenset[str]:
    listed = [name.strip() for name in names]
    if len(listed) > MAX_NAMES:
        raise Invalid(f"{option} names at most {MAX_NAMES} attributes.", field=option, rule="terms.attributes")
    return frozenset(_attribute(name, kinds, option) for name in listed)


def _attribute(name: str, kinds: list[ResourceType], option: str) -> str:
    for kind in kinds:
        schema = kind.schema_of(name)
        if schema is not None and schema is not kind.schema:
            return schema.id
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        if match["urn"] is None or match["urn"].lower() == kind.schema.id.lower():
            known = kind.attribute(match["name"])
            if known is not None:
                return known.name
        elif (extension := kind.schema_of(match["urn"])) is not None:
            known = extension.attribute(match["name"])
            if known is not None:
                return f"{extension.id}:{known.name}"
    raise Invalid(f"No resource has an attribute {name[:100]!r}.", field=option, rule="terms.attribute")


def limited(kind: ResourceType, terms: Terms) -> ResourceType:
    """The type as the terms let a token have it: what it may not read is never returned, and so not compared either;
    what it may not write is read-only."""
    if terms.readable is None and terms.writable is None:
        return kind
    return replace(
        kind,
        schema=_limited_schema(kind.schema, terms, prefix=""),
        extensions=tuple(_limited_schema(each, terms, prefix=f"{each.id}:") for each in kind.extensions),
        common=tuple(
            _limited(attribute, attribute.name, None, terms) if attribute.name in _COMMON else attribute
            for attribute in kind.common
        ),
    )


def _limited_schema(schema: Schema, terms: Terms, *, prefix: str) -> Schema:
    urn = schema.id if prefix else None
    return replace(
        schema,
        attributes=tuple(
            _limited(attribute, f"{prefix}{attribute.name}", urn, terms) for attribute in schema.attributes
        ),
    )


def _limited(attribute: Attribute, name: str, urn: str | None, terms: Terms) -> Attribute:
    if terms.readable is not None and not {name, urn} & terms.readable and name not in _ALWAYS_READ:
        attribute = replace(attribute, returned="never")
    if terms.writable is not None and not {name, urn} & terms.writable:
        attribute = replace(attribute, mutability="readOnly")
    return attribute


def may_write(terms: Terms, name: str) -> bool:
    """Whether the terms let a token say this core attribute."""
    return terms.writable is None or name in terms.writable
