"""What a service publishes of itself: /ServiceProviderConfig, /ResourceTypes, /Schemas (RFC 7644 section 4).

Read with tolerance, kept as little: three answers of unknown quality become a few facts, each of them known or not. A
service that publishes nothing is no fault; nothing is concluded from silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from scim.errors import remote_text
from scim.schemas import ENTERPRISE_USER, GROUP, USER, attribute

MAX_ATTRIBUTES: Final = 2_000
_TYPES: Final = frozenset(
    {"string", "boolean", "integer", "decimal", "datetime", "date", "reference", "binary", "complex"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the service says that it can do; None where it does not say."""

    patch: bool | None = None
    filter: bool | None = None
    max_results: int | None = None
    sort: bool | None = None
    etag: bool | None = None
    bulk: bool | None = None
    bulk_operations: int | None = None
    bulk_bytes: int | None = None
    change_password: bool | None = None
    authentication: tuple[str, ...] = ()
    has_groups: bool | None = None
    has_enterprise_user: bool | None = None

    def document(self) -> dict[str, Any]:
        """Plain data, for storing."""
        return asdict(self)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Capabilities:
        """Back from `document`; what a later version wrote beside is passed over."""
        known = {name: value for name, value in document.items() if name in cls.__dataclass_fields__}
        return cls(**{**known, "authentication": tuple(known.get("authentication") or ())})


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAttribute:
    """An attribute of the service's users, as its schema describes it."""

    type: str = "string"
    multi_valued: bool = False
    required: bool = False
    mutability: Literal["readOnly", "readWrite", "immutable", "writeOnly"] = "readWrite"
    canonical_values: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Plain data, for storing."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What came out of looking. `attributes`: by SCIM path, an extension's as `URN:name`, parts as `name.part`."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    attributes: Mapping[str, RemoteAttribute] = field(default_factory=dict)


def read_discovery(config: object, types: object, schemas: object) -> Discovery:
    """Make facts of the three answers; each may be anything, or None where there was none."""
    resource_types = {str(attribute(one, "name")).lower(): one for one in _listed(types)}
    by_urn = {str(attribute(one, "id")).lower(): one for one in _listed(schemas)}
    user = resource_types.get("user")
    extensions = [str(attribute(one, "schema")) for one in _entries(user, "schemaExtensions")] if user else []
    published = [urn for urn in by_urn if urn not in {USER.lower(), GROUP.lower()}]
    known = [urn.lower() for urn in extensions] or published
    capabilities = Capabilities(
        **_of_config(config),
        has_groups=("group" in resource_types) if resource_types else None,
        has_enterprise_user=(ENTERPRISE_USER.lower() in known) if user and (extensions or by_urn) else None,
    )
    attributes: dict[str, RemoteAttribute] = {}
    core = str(attribute(user, "schema") or USER) if user else USER
    for urn in [core, *(extensions or _extensions_of(by_urn))]:
        schema = by_urn.get(urn.lower())
        if schema is not None:
            prefix = "" if urn.lower() == core.lower() else f"{attribute(schema, 'id')}:"
            attributes |= dict(_attributes(schema, prefix))
    return Discovery(capabilities=capabilities, attributes=dict(list(attributes.items())[:MAX_ATTRIBUTES]))


def _extensions_of(by_urn: Mapping[str, Any]) -> list[str]:
    # Without /ResourceTypes: whatever says in its URN that it extends users.
    return [str(attribute(one, "id")) for urn, one in by_urn.items() if ":extension:" in urn and urn.endswith(":user")]


def _of_config(config: object) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        return {}
    schemes = [remote_text(attribute(one, "type") or attribute(one, "name")) for one in _schemes(config)]
    return {
        "patch": _supports(config, "patch"),
        "filter": _supports(config, "filter"),
        "max_results": _number(attribute(config, "filter"), "maxResults"),
        "sort": _supports(config, "sort"),
        "etag": _supports(config, "etag"),
        "bulk": _supports(config, "bulk"),
        "bulk_operations": _number(attribute(config, "bulk"), "maxOperations"),
        "bulk_bytes": _number(attribute(config, "bulk"), "maxPayloadSize"),
        "change_password": _supports(config, "changePassword"),
        "authentication": tuple(scheme[:40] for scheme in schemes[:10] if scheme),
    }


def _schemes(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _entries(config, "authenticationSchemes")


def _supports(config: Mapping[str, Any], name: str) -> bool | None:
    part = attribute(config, name)
    value = attribute(part, "supported") if isinstance(part, Mapping) else part
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def _number(part: object, name: str) -> int | None:
    value = attribute(part, name) if isinstance(part, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53 else None


def _listed(answer: object) -> list[Mapping[str, Any]]:
    """Resources of a list response, or of a bare array, which some services send."""
    resources = attribute(answer, "Resources") if isinstance(answer, Mapping) else answer
    return [one for one in resources if isinstance(one, Mapping)] if isinstance(resources, list) else []


def _entries(holder: object, name: str) -> list[Mapping[str, Any]]:
    value = attribute(holder, name) if isinstance(holder, Mapping) else None
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _attributes(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, RemoteAttribute]]:
    for one in _entries(schema, "attributes"):
        name = attribute(one, "name")
        if not isinstance(name, str) or not 0 < len(name) <= 200:
            continue
        yield f"{prefix}{name}", _attribute(one)
        for sub in _entries(one, "subAttributes"):
            sub_name = attribute(sub, "name")
            if isinstance(sub_name, str) and 0 < len(sub_name) <= 200:
                yield f"{prefix}{name}.{sub_name}", _attribute(sub)


def _attribute(one: Mapping[str, Any]) -> RemoteAttribute:
    kind = str(attribute(one, "type") or "string")
    mutability = attribute(one, "mutability")
    values = attribute(one, "canonicalValues")
    return RemoteAttribute(
        type=kind if kind.lower() in _TYPES else "string",
        multi_valued=attribute(one, "multiValued") is True,
        required=attribute(one, "required") is True,
        mutability=mutability if mutability in {"readOnly", "readWrite", "immutable", "writeOnly"} else "readWrite",
        canonical_values=tuple(str(value)[:200] for value in values[:100]) if isinstance(values, list) else (),
    )
