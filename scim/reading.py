"""Resources as clients send them, brought into one form; and as they are shown again.

A body is read against its resource type: names in their one spelling, values of the right type, nothing that only the
server may say. What is read here is what PATCH works on and what a store keeps.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import Any, Final

from scim.attributes import Attribute, ResourceType, Schema
from scim.errors import InvalidPath, InvalidSyntax, InvalidValue, NotMutable
from scim.filter_grammar import ATTRIBUTE_PATH, AttributePath
from scim.schemas import Resource

MAX_TEXT: Final = 4_096
MAX_BINARY_TEXT: Final = 65_536
MAX_VALUES: Final = 1_000
"""Values of one attribute of a request; members of groups have a bound of their own."""
_SCHEMAS: Final = "schemas"
_LEAST_BYTES: Final = 12
"""Of an object or a list, on average: the shortest member of a group has more."""
_SPARE_BYTES: Final = 800_000


def is_mostly_brackets(body: bytes) -> bool:
    """Whether a JSON text holds so many objects and lists that it is no resource, no list of some, and no bulk.

    Sixteen megabytes of brackets become half a gigabyte, and take two seconds in which nothing else runs.
    """
    return _LEAST_BYTES * (body.count(b"{") + body.count(b"[")) > len(body) + _SPARE_BYTES


def parse_json(body: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
        InvalidSyntax: not UTF-8, not JSON, hardly more than brackets, a name twice in one object (readers differ on
            which one counts), nested too deep, or no object.
    """
    if is_mostly_brackets(body):
        raise InvalidSyntax("The body is hardly more than brackets.")
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidSyntax("The body is no JSON text in UTF-8.") from error
    if not isinstance(document, dict):
        raise InvalidSyntax("The body is no JSON object.")
    return document


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    folded = {name.lower() for name, _ in pairs}
    if len(folded) != len(pairs):
        # RFC 7643 section 2.1: attribute names do not tell cases apart.
        raise InvalidSyntax("A name stands twice in one object of the body.")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise ValueError(name)


def read_resource(document: Mapping[str, Any], kind: ResourceType) -> Resource:
    """The resource of a POST or PUT, in one form: without what clients cannot say, and without empty values.

    Read-only attributes are passed over (RFC 7644 sections 3.3 and 3.5.1), and so are attributes that the type does not
    have: senders send more than they were told to.

    Raises:
        InvalidSyntax: `schemas` does not name the type.
        InvalidValue: a value of a wrong type, or a required one missing; `attribute` names it.
    """
    _check_schemas(document, kind)
    resource: Resource = {}
    for name, value in document.items():
        extension = kind.schema_of(name) if ":" in name else None
        if extension is not None and extension is not kind.schema:
            held = _read_extension(extension, value)
            if held:
                resource[extension.id] = held
            continue
        attribute = kind.attribute(name)
        if attribute is not None and attribute.mutability != "readOnly":
            _put(resource, attribute, read_value(attribute, value))
    return finish(resource, kind)


def finish(resource: Resource, kind: ResourceType) -> Resource:
    """The resource with `schemas` naming what it uses, checked for what must be there.

    Raises:
        InvalidValue: a required attribute has no value.
    """
    for attribute in kind.schema.attributes:
        _require(resource.get(attribute.name), attribute, attribute.name)
    for extension in kind.extensions:
        held = resource.get(extension.id)
        if held is None and extension.id not in kind.required_extensions:
            continue
        for attribute in extension.attributes:
            _require((held or {}).get(attribute.name), attribute, f"{extension.id}:{attribute.name}")
    used = [extension.id for extension in kind.extensions if extension.id in resource]
    return {_SCHEMAS: [kind.schema.id, *used], **{name: value for name, value in resource.items() if name != _SCHEMAS}}


def keep_immutable(before: Mapping[str, Any], after: Resource, kind: ResourceType) -> Resource:
    """A replacement, with what it cannot say, or not any more, carried over from before (RFC 7644 section 3.5.1).

    Raises:
        NotMutable: it says something else of such an attribute.
    """
    kept = _keep_fixed(before, after, (*kind.common, *kind.schema.attributes), "")
    for extension in kind.extensions:
        held = _keep_fixed(
            before.get(extension.id) or {}, kept.get(extension.id) or {}, extension.attributes, f"{extension.id}:"
        )
        if held:
            kept[extension.id] = held
    return finish(kept, kind)


def _keep_fixed(
    before: Mapping[str, Any], after: Mapping[str, Any], attributes: Iterable[Attribute], prefix: str
) -> Resource:
    kept = dict(after)
    for attribute in attributes:
        held = before.get(attribute.name)
        if held is None:
            continue
        if attribute.mutability == "readOnly":
            kept[attribute.name] = held
        if attribute.mutability != "immutable":
            continue
        if kept.setdefault(attribute.name, held) != held:
            raise NotMutable(f"{prefix}{attribute.name} cannot be changed.", attribute=f"{prefix}{attribute.name}")
    return kept


def _check_schemas(document: Mapping[str, Any], kind: ResourceType) -> None:
    named = next((value for name, value in document.items() if name.lower() == _SCHEMAS), None)
    if not isinstance(named, list) or not all(isinstance(urn, str) for urn in named):
        raise InvalidSyntax("schemas must list the URNs that the resource follows.", attribute=_SCHEMAS)
    if kind.schema.id.lower() not in {urn.lower() for urn in named}:
        raise InvalidSyntax(f"schemas must name {kind.schema.id}.", attribute=_SCHEMAS)


def _read_extension(extension: Schema, value: Any) -> Resource:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidValue(f"{extension.id} must be an object.", attribute=extension.id)
    held: Resource = {}
    for name, part in value.items():
        attribute = extension.attribute(name)
        if attribute is not None and attribute.mutability != "readOnly":
            _put(held, attribute, read_value(attribute, part))
    return held


def _put(holder: Resource, attribute: Attribute, value: Any) -> None:
    if value is not None:
        holder[attribute.name] = value


def _require(value: Any, attribute: Attribute, name: str) -> None:
    if attribute.required and attribute.mutability != "readOnly" and value in (None, "", [], {}):
        raise InvalidValue(f"{name} is required.", attribute=name)


# --- values -----------------------------------------------------------------------------------------------------------


def read_value(attribute: Attribute, value: Any) -> Any:
    """A value in one form; None for null and for an empty list, which both mean "no value" (RFC 7643 section 2.5).

    Raises:
        InvalidValue: not of the attribute's type.
    """
    if not attribute.multi_valued:
        return read_single(attribute, value)
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_VALUES and attribute.name != "members":
        raise InvalidValue(f"{attribute.name} has more than {MAX_VALUES} values.", attribute=attribute.name)
    read = [single for single in (read_single(attribute, each) for each in values) if single is not None]
    if sum(1 for each in read if isinstance(each, dict) and each.get("primary") is True) > 1:
        # RFC 7643 section 2.4.
        raise InvalidValue(f"{attribute.name} has more than one primary value.", attribute=attribute.name)
    return read or None


def read_single(attribute: Attribute, value: Any) -> Any:
    """One value, or one of several, in one form.

    Raises:
        InvalidValue: not of the attribute's type.
    """
    if value is None:
        return None
    reader = _READERS[attribute.type]
    try:
        return reader(attribute, value)
    except ValueError as error:
        raise InvalidValue(f"{attribute.name} must be {error}.", attribute=attribute.name) from error


def _complex(attribute: Attribute, value: Any) -> Resource | None:
    if isinstance(value, str) and attribute.sub("value") is not None:
        # Some senders give the value alone.
        value = {"value": value}
    if not isinstance(value, dict):
        raise ValueError("an object")
    held: Resource = {}
    for name, part in value.items():
        sub = attribute.sub(name)
        if sub is not None:
            _put(held, sub, read_value(sub, part))
    return held or None


def _text(attribute: Attribute, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return _checked(value, MAX_TEXT)


def _checked(value: str, limit: int) -> str:
    if len(value) > limit:
        raise ValueError(f"at most {limit} characters long")
    if any((character < " " and character not in "\t\n\r") or "\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("free of control characters and halves of surrogate pairs")
    return value


def _boolean(attribute: Attribute, value: Any) -> bool:
    if isinstance(value, str):
        # Entra sends "True" and "False".
        value = {"true": True, "false": False}.get(value.strip().lower())
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _integer(attribute: Attribute, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ValueError("a whole number")
    return value


def _decimal(attribute: Attribute, value: Any) -> int | float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("a number")
    return value


def _instant(attribute: Attribute, value: Any) -> str:
    text = _text(attribute, value)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or "T" not in text.upper():
        raise ValueError("a date and time such as 2026-11-23T08:00:00Z")
    return text


def _binary(attribute: Attribute, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_BINARY_TEXT:
        raise ValueError(f"base64 of at most {MAX_BINARY_TEXT} characters")
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("base64") from error
    return value


_READERS: Final = {
    "string": _text,
    "reference": _text,
    "boolean": _boolean,
    "integer": _integer,
    "decimal": _decimal,
    "dateTime": _instant,
    "date": _text,
    "binary": _binary,
    "complex": _complex,
}


# --- projection -------------------------------------------------------------------------------------------------------


class Projection:
    """Which attributes an answer shows (RFC 7644 section 3.9; RFC 7643 section 7, `returned`)."""

    def __init__(self, kind: ResourceType, *, attributes: Sequence[str] = (), excluded: Sequence[str] = ()) -> None:
        """Names that the type does not have select nothing.

        Raises:
            InvalidPath: a name that is none, or both lists at once.
        """
        if attributes and excluded:
            raise InvalidPath("attributes and excludedAttributes cannot be asked for together.")
        self._kind = kind
        self._wanted = _Names(attributes, kind) if attributes else None
        self._excluded = _Names(excluded, kind)
        # What is shown whole unless a client says otherwise; most requests say nothing.
        self._whole = kind.shown_whole if not attributes and not excluded else {}
        self._full = kind.shown_full if self._whole else frozenset()
        self._parts: dict[tuple[str, ...], Set[str]] = {}

    def shows(self, name: str) -> bool:
        """Whether anything of a core attribute is shown."""
        attribute = self._kind.attribute(name)
        if attribute is None or attribute.returned == "never":
            return False
        key = (None, attribute.name)
        if attribute.returned == "always":
            return True
        if self._wanted is not None:
            return key in self._wanted.whole or key in self._wanted.subs
        return attribute.returned != "request" and key not in self._excluded.whole

    def shows_all(self, resource: Mapping[str, Any]) -> bool:
        """Whether nothing of a resource is left out; sure only of a yes."""
        names = tuple(resource)
        parts = self._parts.get(names)
        if parts is None:
            # Resources of a list are much alike.
            parts = self._parts[names] = resource.keys() - self._full
        return "meta" in self._full and all(
            (known := self._whole.get(name)) and known >= resource[name].keys() for name in parts
        )

    def shows_type(self, kind: ResourceType) -> bool:
        """Whether nothing is left out of a resource that has only what another type shows by default."""
        if self._whole is kind.shown_whole:
            return True
        return all(
            self._whole.get(name) is True if known is True else known <= _set(self._whole.get(name))
            for name, known in kind.shown_whole.items()
        )

    def __call__(self, resource: Mapping[str, Any]) -> Resource:
        """The part of a resource that is shown; `schemas` and `id` always are."""
        shown: Resource = {_SCHEMAS: resource[_SCHEMAS]} if _SCHEMAS in resource else {}
        for name, value in resource.items():
            if name == _SCHEMAS:
                continue
            whole = self._whole.get(name)
            if whole is True or (whole and whole >= value.keys()):
                shown[name] = value
                continue
            extension = self._kind.schema_of(name) if ":" in name else None
            if extension is not None:
                parts = {
                    part: kept
                    for part, held in value.items()
                    if (known := extension.attribute(part)) is not None
                    and (kept := self._shown(known, held, extension.id)) is not None
                }
                if parts:
                    shown[name] = parts
                continue
            attribute = self._kind.attribute(name)
            if attribute is not None and (kept := self._shown(attribute, value, None)) is not None:
                shown[name] = kept
        return shown

    def _shown(self, attribute: Attribute, value: Any, extension: str | None) -> Any:
        if attribute.returned == "never":
            return None
        if attribute.returned == "always":
            return value
        key = (extension, attribute.name)
        if self._wanted is not None:
            if key in self._wanted.whole or extension in self._wanted.extensions:
                return _without_never(attribute, value)
            subs = self._wanted.subs.get(key)
            return None if subs is None else _only(value, subs)
        if attribute.returned == "request" or key in self._excluded.whole or extension in self._excluded.extensions:
            return None
        dropped = self._excluded.subs.get(key)
        return _without_never(attribute, value) if dropped is None else _without(value, dropped)


def _set(names: Any) -> Set[str]:
    return names if isinstance(names, frozenset) else frozenset()


class _Names:
    """Names of a projection, by what they lead to."""

    def __init__(self, names: Iterable[str], kind: ResourceType) -> None:
        self.whole: set[tuple[str | None, str]] = set()
        self.subs: dict[tuple[str | None, str], set[str]] = {}
        self.extensions: set[str | None] = set()
        for name in names:
            text = name.strip()
            schema = kind.schema_of(text)
            if schema is not None and schema is not kind.schema:
                self.extensions.add(schema.id)
                continue
            match = ATTRIBUTE_PATH.fullmatch(text)
            if match is None:
                raise InvalidPath(f"{text[:100]!r} is no attribute name.")
            target = kind.find(AttributePath(match["name"], match["sub_name"], match["schema"]))
            if target is None:
                continue
            key = (target.extension, target.attribute.name)
            if target.sub is None:
                self.whole.add(key)
            else:
                self.subs.setdefault(key, set()).add(target.sub.name)


def _only(value: Any, names: set[str]) -> Any:
    if isinstance(value, list):
        return [part for part in (_only(each, names) for each in value) if part] or None
    if not isinstance(value, dict):
        return None
    return {name: held for name, held in value.items() if name in names} or None


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, list):
        return [part for part in (_without(each, names) for each in value) if part] or None
    if not isinstance(value, dict):
        return value
    return {name: held for name, held in value.items() if name not in names} or None


def _without_never(attribute: Attribute, value: Any) -> Any:
    hidden = {sub.name for sub in attribute.sub_attributes if sub.returned == "never"}
    return _without(value, hidden) if hidden else value
