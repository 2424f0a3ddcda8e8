"""Data of SCIM events in full form (RFC 9967 section 2.4): a resource as its receiver would read it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from scim.attributes import ResourceType, Target
from scim.events import Kind
from scim.filter_grammar import ATTRIBUTE_PATH, AttributePath
from scim.schemas import PATCH_OP

MOST_DATA: Final = 64_000
"""Bytes of data in a token; what is larger is told without, and read by whoever wants it (RFC 9967 section 5)."""
_SHOWN: Final = frozenset({"always", "default"})


def full_payload(
    kind: Kind, names: Sequence[str], document: Mapping[str, Any], resource_type: ResourceType
) -> dict[str, Any] | None:
    """The payload of an event about this resource; None: nothing of it may be shown, or it is too large.

    Args:
        names: paths of what was changed.
        document: the resource as a GET shows it.
        resource_type: as whoever is told has it: what they may not read is never returned.
    """
    data = _patch(names, document, resource_type) if kind is Kind.PATCHED else dict(document)
    if data is None or len(orjson.dumps(data)) > MOST_DATA:
        return None
    version = (document.get("meta") or {}).get("version")
    return {"data": data, **({"version": version} if version else {})}


def _patch(names: Sequence[str], document: Mapping[str, Any], resource_type: ResourceType) -> dict[str, Any] | None:
    """Section 2.4.2: a PATCH after which the attributes are what they are now."""
    # What is not shown where it has a value is passed over: its absence would not say that it has none.
    shown = {
        str(target): target
        for target in _targets(names, resource_type)
        if all(each.returned in _SHOWN for each in (target.attribute, target.sub) if each is not None)
    }
    operations = [_operation(path, _value(target, document)) for path, target in shown.items()]
    return {"schemas": [PATCH_OP], "Operations": operations} if operations else None


def _targets(names: Sequence[str], resource_type: ResourceType) -> Iterator[Target]:
    for name in names:
        extension = resource_type.schema_of(name)
        if extension is not None:
            yield from (Target(extension.id, attribute) for attribute in extension.attributes)
        elif match := ATTRIBUTE_PATH.fullmatch(name):
            target = resource_type.find(AttributePath(match["name"], match["sub_name"], match["schema"]))
            if target is not None:
                yield target


def _value(target: Target, document: Mapping[str, Any]) -> Any:
    holder = document.get(target.extension) or {} if target.extension else document
    value = holder.get(target.attribute.name)
    return value.get(target.sub.name) if target.sub and isinstance(value, Mapping) else value


def _operation(path: str, value: Any) -> dict[str, Any]:
    return {"op": "remove", "path": path} if value is None else {"op": "replace", "path": path, "value": value}
