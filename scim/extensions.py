"""Extensions that an installation registers for its own attributes (RFC 7643 section 3.3), read from a description.

An attribute has the names and defaults of section 2.2. What would be kept but never shown (`writeOnly`, `never`) is
refused, and so is what nobody could set (`readOnly`) and attributes made of attributes (`complex`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast, get_args

from scim.attributes import Attribute, Mutability, Returned, Schema, Uniqueness
from scim.filters import AttributeType
from scim.schemas import ENTERPRISE_USER, GROUP, USER

MAX_ATTRIBUTES: Final = 100
_LONGEST_URN: Final = 200
_URN: Final = re.compile(r"urn:[A-Za-z0-9][A-Za-z0-9-]{0,31}:[A-Za-z0-9._:-]*[A-Za-z0-9]")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")
_LONGEST_TEXT: Final = 500
_TAKEN: Final = frozenset(urn.lower() for urn in (USER, GROUP, ENTERPRISE_USER))
_MESSAGES: Final = "urn:ietf:params:scim:api:"
_TYPES: Final = tuple(kind for kind in get_args(AttributeType) if kind not in {"complex", "date"})
_MUTABILITIES: Final = ("readWrite", "immutable")
_RETURNED: Final = ("default", "always", "request")
_UNIQUENESS: Final = ("none", "server")
_UNIQUE_TYPES: Final = ("string", "reference", "integer")
_KNOWN: Final = frozenset(
    {
        "name",
        "type",
        "description",
        "multiValued",
        "required",
        "caseExact",
        "mutability",
        "returned",
        "uniqueness",
        "canonicalValues",
    }
)


class InvalidExtension(ValueError):
    """The description is none. `field` says where, as `attributes.JobCode.type`."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}.")
        self.field = field


def read_extension(document: Mapping[str, Any]) -> Schema:
    """The schema of `{"schema": urn, "name": ..., "description": ..., "attributes": [...]}`.

    Raises:
        InvalidExtension: a part breaks its rule.
    """
    urn = document.get("schema")
    if not isinstance(urn, str) or len(urn) > _LONGEST_URN or _URN.fullmatch(urn) is None:
        raise InvalidExtension("schema", f"must be a URN of at most {_LONGEST_URN} characters")
    if urn.lower() in _TAKEN or urn.lower().startswith(_MESSAGES):
        raise InvalidExtension("schema", "is a schema of the standard")
    name = document.get("name") or re.sub(r"[^A-Za-z0-9]+", "", urn.rpartition(":")[2]) or "Extension"
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidExtension("name", "must be letters and digits, beginning with a letter")
    listed = document.get("attributes")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not 0 < len(listed) <= MAX_ATTRIBUTES:
        raise InvalidExtension("attributes", f"must list 1 to {MAX_ATTRIBUTES} attributes")
    attributes = tuple(_attribute(each) for each in listed)
    names = [attribute.name.lower() for attribute in attributes]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InvalidExtension(f"attributes.{repeated}", "stands twice; names do not tell cases apart")
    return Schema(id=urn, name=name, description=_text(document, "description", "description"), attributes=attributes)


def _attribute(document: Any) -> Attribute:
    name = document.get("name") if isinstance(document, Mapping) else None
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidExtension("attributes.name", "must be letters, digits, - and _, beginning with a letter")
    where = f"attributes.{name}"
    unknown = next((key for key in document if key not in _KNOWN), None)
    if unknown is not None:
        raise InvalidExtension(f"{where}.{str(unknown)[:60]}", "is not known")
    kind = _one_of(document, "type", _TYPES, where)
    is_multiple = _flag(document, "multiValued", where)
    uniqueness = _one_of(document, "uniqueness", _UNIQUENESS, where)
    if uniqueness == "server" and (kind not in _UNIQUE_TYPES or is_multiple):
        raise InvalidExtension(f"{where}.uniqueness", f"is for single values of type {', '.join(_UNIQUE_TYPES)}")
    canonical = document.get("canonicalValues", [])
    if not isinstance(canonical, list) or not all(isinstance(value, str) for value in canonical):
        raise InvalidExtension(f"{where}.canonicalValues", "must list texts")
    return Attribute(
        name=name,
        type=cast(AttributeType, kind),
        multi_valued=is_multiple,
        description=_text(document, "description", where),
        required=_flag(document, "required", where),
        canonical_values=tuple(canonical[:100]),
        case_exact=_flag(document, "caseExact", where),
        mutability=cast(Mutability, _one_of(document, "mutability", _MUTABILITIES, where)),
        returned=cast(Returned, _one_of(document, "returned", _RETURNED, where)),
        uniqueness=cast(Uniqueness, uniqueness),
        reference_types=("external",) if kind == "reference" else (),
    )


def _one_of(document: Mapping[str, Any], name: str, choices: Sequence[str], where: str) -> str:
    value = document.get(name, choices[0])
    if value not in choices:
        raise InvalidExtension(f"{where}.{name}", f"must be one of {', '.join(choices)}")
    return str(value)


def _flag(document: Mapping[str, Any], name: str, where: str) -> bool:
    value = document.get(name, False)
    if not isinstance(value, bool):
        raise InvalidExtension(f"{where}.{name}", "must be true or false")
    return value


def _text(document: Mapping[str, Any], name: str, where: str) -> str:
    value = document.get(name, "")
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or any(character < " " for character in value):
        raise InvalidExtension(where, f"must have a {name} of at most {_LONGEST_TEXT} characters, on one line")
    return value


def describe(schema: Schema) -> dict[str, Any]:
    """What `read_extension` reads, with every default left out."""
    return {
        "schema": schema.id,
        "name": schema.name,
        **({"description": schema.description} if schema.description else {}),
        "attributes": [_described(attribute) for attribute in schema.attributes],
    }


def _described(attribute: Attribute) -> dict[str, Any]:
    default = Attribute(name=attribute.name)
    values: dict[str, tuple[Any, Any]] = {
        "type": (attribute.type, default.type),
        "description": (attribute.description, ""),
        "multiValued": (attribute.multi_valued, False),
        "required": (attribute.required, False),
        "caseExact": (attribute.case_exact, False),
        "mutability": (attribute.mutability, default.mutability),
        "returned": (attribute.returned, default.returned),
        "uniqueness": (attribute.uniqueness, default.uniqueness),
        "canonicalValues": (list(attribute.canonical_values), []),
    }
    return {"name": attribute.name} | {key: value for key, (value, usual) in values.items() if value != usual}
