"""What an attribute is (RFC 7643 section 2.2), and what a resource type is made of (sections 3 and 6).

One description serves reading a request, applying a PATCH, filtering, projecting an answer, and `/Schemas`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

from scim.filter_grammar import AttributePath
from scim.filters import AttributeSpec, AttributeType

Mutability: TypeAlias = Literal["readOnly", "readWrite", "immutable", "writeOnly"]
Returned: TypeAlias = Literal["always", "never", "default", "request"]
Uniqueness: TypeAlias = Literal["none", "server", "global"]

SCHEMA: Final = "urn:ietf:params:scim:schemas:core:2.0:Schema"
RESOURCE_TYPE: Final = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute and its characteristics, with the defaults of RFC 7643 section 2.2."""

    name: str
    type: AttributeType = "string"
    multi_valued: bool = False
    description: str = ""
    required: bool = False
    canonical_values: tuple[str, ...] = ()
    case_exact: bool = False
    mutability: Mutability = "readWrite"
    returned: Returned = "default"
    uniqueness: Uniqueness = "none"
    reference_types: tuple[str, ...] = ()
    sub_attributes: tuple[Attribute, ...] = ()

    @cached_property
    def _subs(self) -> Mapping[str, Attribute]:
        return _by_name(self.sub_attributes)

    def sub(self, name: str) -> Attribute | None:
        """The sub-attribute of this name, in whatever case it is spelled (RFC 7643 section 2.1)."""
        return self._subs.get(name.lower())

    @cached_property
    def spec(self) -> AttributeSpec:
        """What filters may do with it; `returned: never` cannot be compared (RFC 7643 section 7)."""
        return AttributeSpec(
            type=self.type,
            multi_valued=self.multi_valued,
            case_exact=self.case_exact,
            sub_attributes={sub.name: sub.spec for sub in self.sub_attributes},
            filterable=self.returned != "never",
        )

    def document(self) -> dict[str, Any]:
        """The attribute as `/Schemas` describes it (RFC 7643 section 7)."""
        document: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "multiValued": self.multi_valued,
            "description": self.description,
            "required": self.required,
            "mutability": self.mutability,
            "returned": self.returned,
        }
        if self.type == "complex":
            document["subAttributes"] = [sub.document() for sub in self.sub_attributes]
        else:
            document |= {"caseExact": self.case_exact, "uniqueness": self.uniqueness}
        if self.canonical_values:
            document["canonicalValues"] = list(self.canonical_values)
        if self.type == "reference":
            document["referenceTypes"] = list(self.reference_types)
        return document


@dataclass(frozen=True, kw_only=True)
class Schema:
    """A set of attributes under a URN."""

    id: str
    name: str
    description: str
    attributes: tuple[Attribute, ...]

    @cached_property
    def _attributes(self) -> Mapping[str, Attribute]:
        return _by_name(self.attributes)

    def attribute(self, name: str) -> Attribute | None:
        """The attribute of this name, in whatever case it is spelled."""
        return self._attributes.get(name.lower())

    def document(self, *, location: str) -> dict[str, Any]:
        """The schema as `/Schemas` serves it."""
        return {
            "schemas": [SCHEMA],
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "attributes": [attribute.document() for attribute in self.attributes],
            "meta": {"resourceType": "Schema", "location": location},
        }


@dataclass(frozen=True, slots=True)
class Target:
    """Where a path leads inside a resource; `extension` is the URN of the extension that holds the attribute."""

    extension: str | None
    attribute: Attribute
    sub: Attribute | None = None

    def __str__(self) -> str:
        prefix = f"{self.extension}:" if self.extension else ""
        return f"{prefix}{self.attribute.name}{f'.{self.sub.name}' if self.sub else ''}"


def _common_attributes() -> tuple[Attribute, ...]:
    return COMMON_ATTRIBUTES


def _is_shown(attribute: Attribute) -> bool:
    return attribute.returned in {"always", "default"} and all(
        sub.returned != "never" for sub in attribute.sub_attributes
    )


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """A kind of resource, its schema and its extensions (RFC 7643 section 6)."""

    name: str
    endpoint: str
    description: str
    schema: Schema
    extensions: tuple[Schema, ...] = ()
    required_extensions: frozenset[str] = field(default_factory=frozenset)
    common: tuple[Attribute, ...] = field(default_factory=_common_attributes)
    """Attributes that resources of every type have (section 3.1)."""

    @cached_property
    def _common(self) -> Mapping[str, Attribute]:
        return _by_name(self.common)

    @cached_property
    def _schemas(self) -> Mapping[str, Schema]:
        return {schema.id.lower(): schema for schema in (self.schema, *self.extensions)}

    @cached_property
    def shown_whole(self) -> Mapping[str, Any]:
        """Core attributes of which everything is shown unless a client says otherwise (True), and of each extension the
        names of such attributes."""
        found: dict[str, Any] = {"schemas": True} | {
            attribute.name: True for attribute in (*self.common, *self.schema.attributes) if _is_shown(attribute)
        }
        for extension in self.extensions:
            found[extension.id] = frozenset(each.name for each in extension.attributes if _is_shown(each))
        return found

    @cached_property
    def shown_full(self) -> frozenset[str]:
        """The core attributes among these."""
        return frozenset(name for name, known in self.shown_whole.items() if known is True)

    def schema_of(self, urn: str) -> Schema | None:
        """The core schema or extension with this URN; URNs are compared without regard to case (RFC 8141)."""
        return self._schemas.get(urn.lower())

    def attribute(self, name: str) -> Attribute | None:
        """A core or common attribute."""
        return self.schema.attribute(name) or self._common.get(name.lower())

    def find(self, path: AttributePath) -> Target | None:
        """Where a path leads; None where this type has no such attribute."""
        extension: str | None = None
        if path.schema is None or path.schema.lower() == self.schema.id.lower():
            attribute = self.attribute(path.name)
        else:
            schema = self.schema_of(path.schema)
            if schema is None:
                return None
            extension, attribute = schema.id, schema.attribute(path.name)
        if attribute is None:
            return None
        if path.sub_name is None:
            return Target(extension, attribute)
        sub = attribute.sub(path.sub_name)
        return None if sub is None else Target(extension, attribute, sub)

    @cached_property
    def specs(self) -> Mapping[str, AttributeSpec]:
        """What filters may name: common and core attributes, and each extension under its URN."""
        core = {attribute.name: attribute.spec for attribute in (*self.common, *self.schema.attributes)}
        # Section 3.4.2.2 of RFC 7644 shows `schemas eq "urn:..."`; URNs do not tell cases apart (RFC 8141).
        schemas = {"schemas": AttributeSpec(type="reference", multi_valued=True)}
        return (
            schemas
            | core
            | {
                extension.id: AttributeSpec(
                    type="complex",
                    sub_attributes={attribute.name: attribute.spec for attribute in extension.attributes},
                )
                for extension in self.extensions
            }
        )

    def document(self, *, location: str) -> dict[str, Any]:
        """The type as `/ResourceTypes` serves it."""
        document: dict[str, Any] = {
            "schemas": [RESOURCE_TYPE],
            "id": self.name,
            "name": self.name,
            "endpoint": self.endpoint,
            "description": self.description,
            "schema": self.schema.id,
            "meta": {"resourceType": "ResourceType", "location": location},
        }
        if self.extensions:
            document["schemaExtensions"] = [
                {"schema": extension.id, "required": extension.id in self.required_extensions}
                for extension in self.extensions
            ]
        return document


def _by_name(attributes: Iterable[Attribute]) -> Mapping[str, Attribute]:
    return {attribute.name.lower(): attribute for attribute in attributes}


# RFC 7643 section 3.1.
COMMON_ATTRIBUTES: Final = (
    Attribute(
        name="id",
        description="Identifier that the service provider gave the resource.",
        case_exact=True,
        mutability="readOnly",
        returned="always",
        uniqueness="server",
    ),
    Attribute(name="externalId", description="Identifier that the client gave the resource.", case_exact=True),
    Attribute(
        name="meta",
        type="complex",
        description="What the service provider knows about the resource.",
        mutability="readOnly",
        sub_attributes=(
            Attribute(name="resourceType", case_exact=True, mutability="readOnly"),
            Attribute(name="created", type="dateTime", mutability="readOnly"),
            Attribute(name="lastModified", type="dateTime", mutability="readOnly"),
            Attribute(
                name="location", type="reference", case_exact=True, mutability="readOnly", reference_types=("uri",)
            ),
            Attribute(name="version", case_exact=True, mutability="readOnly"),
        ),
    ),
)


def valued(name: str, description: str, *, types: tuple[str, ...] = (), value: Attribute | None = None) -> Attribute:
    """A multi-valued attribute of the usual form: value, display, type, primary (RFC 7643 section 2.4)."""
    return Attribute(
        name=name,
        type="complex",
        multi_valued=True,
        description=description,
        sub_attributes=(
            value or Attribute(name="value", description="The value."),
            Attribute(name="display", description="A name for people to read."),
            Attribute(name="type", description="What the value is for.", canonical_values=types),
            Attribute(name="primary", type="boolean", description="Whether it is preferred; true at most once."),
        ),
    )
