"""Extensions of the SCIM user that this installation has registered: their attributes, and where values are found."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Text, func, select, type_coerce
from sqlalchemy.orm import Session

from idhub.db import upsert
from idhub.errors import Conflict, Invalid
from idhub.provisioning.inbound.tables import ScimExtension
from scim.attributes import Attribute, Schema
from scim.extensions import InvalidExtension, describe, read_extension

MAX_EXTENSIONS: Final = 20
_FIXED: Final = ("type", "multi_valued", "case_exact", "uniqueness")
"""What values that are stored already would contradict, were it another."""


_BETWEEN: Final = "\n"
"""Canonical JSON has none."""
REGISTERED: Final[ColumnElement[str]] = select(
    func.coalesce(func.aggregate_strings(type_coerce(ScimExtension.body, Text), _BETWEEN), "")
).scalar_subquery()
"""Column of any statement: every extension, see `read_registered`."""


def registered(session: Session) -> tuple[Schema, ...]:
    """Every extension, by URN."""
    return read_registered(session.connection().execute(_REGISTERED).scalar_one())


def read_registered(text: str) -> tuple[Schema, ...]:
    """The same, of what was found as `REGISTERED`."""
    return tuple(sorted(map(_parsed, text.split(_BETWEEN)), key=lambda schema: schema.id)) if text else ()


_REGISTERED = select(REGISTERED)


@lru_cache(maxsize=4 * MAX_EXTENSIONS)
def _parsed(body: str) -> Schema:
    return read_extension(orjson.loads(body))


def register(session: Session, document: Mapping[str, Any], *, now: datetime) -> tuple[str, Any, Any] | None:
    """Make an extension what a description says; attributes may come and go, but not turn into others.

    Returns (URN, before, after), or None where it was so already.

    Raises:
        Invalid: the description is none; `field` says where.
        Conflict: an attribute would become another, or there are too many extensions.
    """
    try:
        schema = read_extension(document)
    except InvalidExtension as error:
        raise Invalid(
            f"scim_extensions: {error}", field=f"scim_extensions.{error.field}", rule="extension.invalid"
        ) from error
    known = {each.id.lower(): each for each in registered(session)}
    before = known.get(schema.id.lower())
    if before is None and len(known) >= MAX_EXTENSIONS:
        raise Conflict(
            f"There are at most {MAX_EXTENSIONS} extensions.", field="scim_extensions", rule="extension.too_many"
        )
    if before is not None:
        _check_same(before, schema)
    described = describe(schema)
    if before is not None and describe(before) == described:
        return None
    urn = schema.id if before is None else before.id
    statement = upsert(session, ScimExtension).values(schema=urn, body=described, changed_at=now)
    session.execute(
        statement.on_conflict_do_update(index_elements=["schema"], set_={"body": described, "changed_at": now})
    )
    return urn, None if before is None else describe(before), described


def _check_same(before: Schema, after: Schema) -> None:
    if before.id != after.id:
        raise Conflict(f"The extension is registered as {before.id}.", field="schema", rule="extension.spelling")
    for attribute in after.attributes:
        old = before.attribute(attribute.name)
        changed = old and next((name for name in _FIXED if getattr(old, name) != getattr(attribute, name)), None)
        if changed:
            raise Conflict(
                f"{after.id}: {attribute.name} is registered with another {changed}; give the attribute a new name.",
                field=f"scim_extensions.attributes.{attribute.name}",
                rule="extension.changed",
            )


def lookup_name(urn: str, attribute: Attribute) -> str:
    """How values of an extension's attribute are filed for filters: the file's names are short."""
    return "x" + hashlib.sha256(f"{urn.lower()}:{attribute.name.lower()}".encode()).hexdigest()[:39]


def lookup_value(attribute: Attribute, value: object) -> str:
    """The one form in which a value is filed and looked for."""
    text = str(value)
    return text if attribute.case_exact or attribute.type == "integer" else text.casefold()


def filed(schemas: Sequence[Schema], extras: Mapping[str, Any]) -> Iterator[tuple[str, Attribute, str, str]]:
    """(URN, attribute, name, value) of each value of a registered extension that filters find by equality."""
    for schema in schemas:
        held = extras.get(schema.id) or {}
        for attribute in schema.attributes:
            value = held.get(attribute.name)
            if value is None or attribute.type not in {"string", "reference", "integer"}:
                continue
            for each in value if isinstance(value, list) else [value]:
                yield schema.id, attribute, lookup_name(schema.id, attribute), lookup_value(attribute, each)
