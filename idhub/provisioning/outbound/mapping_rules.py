"""The mapping of one application: which attributes its accounts get, by expressions over the person. Pure.

Starts from the plain mapping (`mapping.user_attributes`) and lays the application's own rules over it, attribute by
attribute: `null` leaves one out, an expression makes its value. Paths are those of RFC 7644 section 3.5.2, as far as
they name one value: `title`, `name.familyName`, `emails[type eq "work"].value`, `URN:attribute`, `URN:manager.value`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import orjson

from idhub.errors import Invalid
from idhub.provisioning.outbound.expressions import Expression, Kind, compile_expression
from idhub.provisioning.outbound.mapping import DEFAULT_KINDS, PersonFacts, user_attributes, user_name_of
from scim.attributes import Attribute
from scim.discovery import RemoteAttribute
from scim.errors import InvalidFilter, InvalidPath
from scim.filters import Comparison
from scim.paths import parse_path
from scim.schemas import attribute
from scim.standard import USER_TYPE

MAX_RULES: Final = 200
_OURS: Final = frozenset({"id", "schemas", "meta", "groups", "externalid", "active"})
"""Attributes that no rule sets: what they say is the hub's or the application's."""
_FITTING: Final[Mapping[Kind, frozenset[str]]] = {
    "text": frozenset({"string", "reference", "datetime", "date", "binary"}),
    "boolean": frozenset({"boolean"}),
    "integer": frozenset({"integer", "decimal"}),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule puts its value: `top` (an extension's as `URN:name`), a part of it, an entry of a type."""

    top: str
    part: str | None = None
    type: str | None = None

    @property
    def schema_path(self) -> str:
        """Path in `RemoteAttribute`s."""
        return f"{self.top}.{self.part}" if self.part else self.top


@dataclass(frozen=True, slots=True)
class Rule:
    """One attribute of the mapping; `expression` None: it is not sent."""

    path: str
    place: Place
    expression: Expression | None


@dataclass(frozen=True, slots=True)
class ApplicationMapping:
    """The whole mapping of one application.

    Args:
        kinds: by multi-valued attribute, the types of the entries that are ours; others are the application's.
    """

    user_name_attribute: str
    rules: Sequence[Rule] = ()
    kinds: Mapping[str, frozenset[str]] = field(default_factory=lambda: DEFAULT_KINDS)

    def attributes(self, person: PersonFacts) -> dict[str, Any]:
        """The attributes of this person's account, None where the person has no value.

        Raises:
            Invalid: there is no userName to be made of this person.
        """
        facts = person.facts()
        rule_of_name = next((rule for rule in self.rules if rule.place.top == "userName"), None)
        user_name = user_name_of(person, self.user_name_attribute) if rule_of_name is None else ""
        result = user_attributes(person, user_name=user_name)
        for rule in self.rules:
            _put(result, rule, rule.expression.value(facts) if rule.expression else None)
        if not result.get("userName"):
            raise Invalid(
                "The mapping makes no userName of this person.", field="userName", rule="provisioning.user_name"
            )
        return result


def compile_mapping(rules: Mapping[str, str | None], *, user_name_attribute: str) -> ApplicationMapping:
    """Read and check the form of a mapping; `check_against` checks it against a schema.

    Raises:
        Invalid: `field` is the attribute, the sentence names the rule that it breaks.
    """
    return _compiled(orjson.dumps(rules).decode(), user_name_attribute)


@lru_cache(maxsize=1_024)
def _compiled(text: str, user_name_attribute: str) -> ApplicationMapping:
    rules: dict[str, str | None] = orjson.loads(text)
    if len(rules) > MAX_RULES:
        raise Invalid(f"A mapping has at most {MAX_RULES} rules.", field="mapping", rule="mapping.size")
    made = [_rule(path, expression) for path, expression in rules.items()]
    places: dict[tuple[str, str | None, str | None], str] = {}
    for rule in made:
        key = (rule.place.top.lower(), (rule.place.part or "").lower() or None, rule.place.type)
        if key in places:
            raise Invalid(f"{rule.path} stands twice.", field=rule.path, rule="mapping.repeated")
        places[key] = rule.path
    kinds = dict(DEFAULT_KINDS)
    for rule in made:
        if rule.place.type is not None:
            kinds[rule.place.top] = kinds.get(rule.place.top, frozenset()) | {rule.place.type}
    return ApplicationMapping(user_name_attribute, made, kinds)


def _rule(path: str, text: str | None) -> Rule:
    place = _place(path)
    try:
        expression = None if text is None else compile_expression(text)
    except Invalid as error:
        raise Invalid(f"{path}: {error.description}", field=path, rule=error.rule) from error
    if place.top == "userName" and expression is None:
        raise Invalid("userName cannot be left out.", field=path, rule="mapping.required")
    return Rule(path, place, expression)


def _place(path: str) -> Place:
    try:
        parsed = parse_path(path)
    except (InvalidPath, InvalidFilter) as error:
        raise Invalid(f"{path}: {error.description}", field=path, rule="mapping.path") from error
    schema, name, sub = parsed.attribute.schema, parsed.attribute.name, parsed.attribute.sub_name
    if schema is not None and schema.lower() == USER_TYPE.schema.id.lower():
        schema = None
    if schema is None and name.lower() in _OURS:
        raise Invalid(f"{path} is not for a mapping to set.", field=path, rule="mapping.reserved")
    top = f"{schema}:{name}" if schema else _spelled(name)
    if parsed.filter is None:
        return Place(top, sub)
    chosen = parsed.filter
    if not (
        isinstance(chosen, Comparison)
        and chosen.path.name.lower() == "type"
        and chosen.operator == "eq"
        and isinstance(chosen.value, str)
    ):
        raise Invalid(f'{path}: entries are chosen by [type eq "…"].', field=path, rule="mapping.path")
    return Place(top, sub or "value", chosen.value)


def _spelled(name: str) -> str:
    """A core attribute's name in the spelling of RFC 7643: rules may write it in any case."""
    known: Attribute | None = USER_TYPE.attribute(name)
    return known.name if known is not None else name


def _put(result: dict[str, Any], rule: Rule, value: Any) -> None:
    place = rule.place
    if place.type is not None:
        _put_entry(result, place, value)
    elif place.part is None:
        result[_key(result, place.top)] = value
    else:
        key = _key(result, place.top)
        held = dict(result.get(key) or {})
        held.pop(place.part, None)
        if value is not None:
            held[place.part] = value
        result[key] = held or None


def _put_entry(result: dict[str, Any], place: Place, value: Any) -> None:
    entries = [dict(entry) for entry in result.get(place.top) or []]
    ours = next((entry for entry in entries if entry.get("type") == place.type), None)
    if value is None:
        if ours is not None:
            ours.pop(place.part or "value", None)
            if not set(ours) - {"type", "primary"}:
                entries.remove(ours)
    elif ours is None:
        entries.append({place.part or "value": value, "type": place.type})
    else:
        ours[place.part or "value"] = value
    result[place.top] = entries or None


def _key(result: Mapping[str, Any], top: str) -> str:
    return next((key for key in result if key.lower() == top.lower()), top)


def standard_attributes() -> dict[str, RemoteAttribute]:
    """The attributes of RFC 7643: what a mapping is checked against where a service publishes no schema."""
    found: dict[str, RemoteAttribute] = {}
    for schema in (USER_TYPE.schema, *USER_TYPE.extensions):
        prefix = "" if schema.id == USER_TYPE.schema.id else f"{schema.id}:"
        for one in schema.attributes:
            found[f"{prefix}{one.name}"] = _remote(one)
            found |= {f"{prefix}{one.name}.{sub.name}": _remote(sub) for sub in one.sub_attributes}
    return found


def _remote(one: Attribute) -> RemoteAttribute:
    return RemoteAttribute(
        type=one.type, multi_valued=one.multi_valued, required=one.required, mutability=one.mutability
    )


def check_against(mapping: ApplicationMapping, attributes: Mapping[str, RemoteAttribute]) -> None:
    """Check every rule against the schema of the application's users.

    Without its own schema, attributes of RFC 7643 are checked, and extensions that nobody described are let through.

    Raises:
        Invalid: `field` is the attribute; the sentence says what the schema wants. Rule `mapping.unknown`,
            `mapping.read_only` or `mapping.type`.
    """
    known = attributes or standard_attributes()
    by_name = {path.lower(): one for path, one in known.items()}
    described = {path.lower().rpartition(":")[0] for path in known}
    for rule in mapping.rules:
        if rule.expression is None:
            continue
        top = by_name.get(rule.place.top.lower())
        if top is None:
            schema = rule.place.top.lower().rpartition(":")[0]
            if not attributes and schema and schema not in described:
                continue
            raise Invalid(
                f"{rule.path}: the application's schema has no such attribute.", field=rule.path, rule="mapping.unknown"
            )
        _check_type(rule, top, by_name)


def _check_type(rule: Rule, top: RemoteAttribute, by_name: Mapping[str, RemoteAttribute]) -> None:
    place, expression = rule.place, rule.expression
    if expression is None or expression.kind == "null":
        return
    one = top
    if place.part is not None:
        if top.type != "complex":
            raise Invalid(f"{rule.path}: {place.top} has no parts.", field=rule.path, rule="mapping.type")
        found = by_name.get(place.schema_path.lower())
        if found is None and any(path.startswith(f"{place.top.lower()}.") for path in by_name):
            raise Invalid(
                f"{rule.path}: {place.top} has no part {place.part}.", field=rule.path, rule="mapping.unknown"
            )
        one = found or RemoteAttribute()
    if one.mutability == "readOnly" or top.mutability == "readOnly":
        raise Invalid(f"{rule.path}: the application sets it itself.", field=rule.path, rule="mapping.read_only")
    if top.multi_valued and place.part is not None and place.type is None:
        raise Invalid(
            f'{rule.path}: {place.top} has several values; name one by [type eq "…"].',
            field=rule.path,
            rule="mapping.type",
        )
    if place.type is not None and not top.multi_valued:
        raise Invalid(f"{rule.path}: {place.top} has one value only.", field=rule.path, rule="mapping.type")
    is_list = one.multi_valued and place.part is None
    wanted = one.type.lower()
    fits = is_list == (expression.kind == "list")
    if fits and not is_list:
        fits = wanted in _FITTING.get(expression.kind, frozenset())
    if fits and is_list:
        # A list of texts for entries of a value each: the plain form that RFC 7643 section 2.4 lets servers take.
        fits = wanted in {"string", "reference", "complex"}
    if not fits:
        described = f"a list of {wanted}" if is_list else wanted
        raise Invalid(
            f"{rule.path}: the expression makes {expression.kind}, and the application wants {described}.",
            field=rule.path,
            rule="mapping.type",
        )


def value_at(attributes: Mapping[str, Any], path: str) -> Any:
    """The value that a mapping's result has at a path, as tests of a mapping name it.

    Raises:
        Invalid: the path is none.
    """
    if path.lower() in {"externalid", "active"}:
        return attributes.get(_key(attributes, path))
    place = _place(path)
    held = attributes.get(_key(attributes, place.top))
    if place.type is not None:
        entries = held if isinstance(held, list) else []
        held = next((entry for entry in entries if entry.get("type") == place.type), None)
    return attribute(held, place.part) if place.part and isinstance(held, Mapping) else (None if place.part else held)
