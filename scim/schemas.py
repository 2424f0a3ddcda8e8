"""Schema URNs, and users as plain dictionaries (RFC 7643 sections 4.1 and 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, TypeGuard

USER: Final = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP: Final = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE_USER: Final = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
LIST_RESPONSE: Final = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
PATCH_OP: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ERROR: Final = "urn:ietf:params:scim:api:messages:2.0:Error"
SEARCH_REQUEST: Final = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"
BULK_REQUEST: Final = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
BULK_RESPONSE: Final = "urn:ietf:params:scim:api:messages:2.0:BulkResponse"
BULK_STATUS: Final = "urn:idhub:params:scim:api:messages:2.0:BulkStatus"
"""Ours: how far a bulk request is that is worked later."""
SERVICE_PROVIDER_CONFIG: Final = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"

Resource: TypeAlias = dict[str, Any]
Changes: TypeAlias = Mapping[str, Any]
"""New values by attribute path, an extension's attribute as `URN:name`; None removes the attribute."""

_MAX_ID: Final = 255


def is_active(resource: Mapping[str, Any]) -> bool | None:
    """Whether the account is administratively active; None where the other side does not say.

    Some services answer `"False"` for false. Anything else that is not a boolean says nothing, and so does whoever says
    it twice, in two spellings.
    """
    if sum(len(key) == len("active") and key.lower() == "active" for key in resource) > 1:
        return None
    value = attribute(resource, "active")
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def attribute(resource: Mapping[str, Any], path: str) -> Any:
    """The value at `name` or `URN:name`, whatever case the other side spells names in (RFC 7643 section 2.1)."""
    schema, _, name = path.rpartition(":")
    if schema:
        extension = _spelled(resource, schema)
        return _spelled(extension, name) if isinstance(extension, Mapping) else None
    return _spelled(resource, name)


def value_at(resource: Mapping[str, Any], path: str) -> Any:
    """The value at a path of at most two names, or under the path itself where attributes are kept so."""
    if path in resource or path.startswith("urn:"):
        return attribute(resource, path) if path not in resource else resource[path]
    name, _, sub = path.partition(".")
    held = attribute(resource, name)
    return attribute(held, sub) if sub and isinstance(held, Mapping) else held


def kept_id(entry: object) -> str | None:
    """The id of an entry that a service showed; None when it has none that can be stored and asked for again."""
    found = attribute(entry, "id") if isinstance(entry, Mapping) else None
    return found if can_be_kept(found) else None


def can_be_kept(remote_id: object) -> TypeGuard[str]:
    """Whether an id that a service gave can be stored and asked for again."""
    return isinstance(remote_id, str) and 0 < len(remote_id) <= _MAX_ID and remote_id.isprintable()


def with_changes(resource: Mapping[str, Any], changes: Changes) -> Resource:
    """The resource as a PUT sends it: what is there, with the changes laid over.

    A replacement that carried only our attributes would erase what the application keeps beside them.
    """
    result = {name: value for name, value in resource.items() if name.lower() != "meta"}
    for path, value in changes.items():
        schema, _, name = path.rpartition(":")
        if schema:
            key = _key(result, schema) or schema
            held = result.get(key)
            result[key] = _with(held if isinstance(held, Mapping) else {}, name, value)
        else:
            result = _with(result, name, value)
    schemas = list(result.get("schemas") or [USER])
    used = [path.rpartition(":")[0] for path in changes if ":" in path]
    result["schemas"] = [*schemas, *(schema for schema in dict.fromkeys(used) if schema not in schemas)]
    return result


def _with(holder: Mapping[str, Any], name: str, value: Any) -> Resource:
    result = dict(holder)
    key = _key(result, name) or name
    if value is None:
        result.pop(key, None)
    else:
        result[key] = value
    return result


def _spelled(holder: Mapping[str, Any], name: str) -> Any:
    key = _key(holder, name)
    return holder[key] if key is not None else None


def _key(holder: Mapping[str, Any], name: str) -> str | None:
    if name in holder:
        return name
    folded = name.lower()
    return next((key for key in holder if key.lower() == folded), None)
