"""Predicates: SCIM filters compiled against the attributes they may name, evaluated over plain dictionaries.

Three readings that RFC 7644 section 3.4.2.2 leaves open, decided as scim2-models decides them:

- A comparison with a multi-valued attribute holds when any of its values matches. `ne` holds when *no* value is
  equal, so that `a ne x` is always `not (a eq x)`; "there is one that is not" is `employments[type ne "contractor"]`.
- An attribute without a value is equal to `null` and different from everything else; it is neither greater nor less.
- `emails co "x"` reads `emails.value co "x"`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, Final, Literal, TypeAlias
from unicodedata import is_normalized, normalize

from scim.errors import InvalidFilter
from scim.filter_grammar import (
    And,
    AttributePath,
    Comparison,
    Filter,
    Not,
    Operator,
    Or,
    Present,
    ValuePath,
    parse_filter,
)

__all__ = [
    "And",
    "AttributePath",
    "AttributeSpec",
    "Comparison",
    "Filter",
    "Not",
    "Operator",
    "Or",
    "Predicate",
    "Present",
    "ValuePath",
    "compile_filter",
    "compile_predicate",
    "parse_filter",
    "quote",
]

# What stands in a literal as it is.
_PLAIN_TEXT: Final = re.compile(r"[ !#-\[\]-~]*")

AttributeType: TypeAlias = Literal[
    "string", "boolean", "integer", "decimal", "dateTime", "date", "reference", "binary", "complex"
]
Predicate: TypeAlias = Callable[[Mapping[str, Any]], bool]
Document: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeSpec:
    """What a filter may do with one attribute (RFC 7643 section 2.2).

    `date` is ours: a full-date without time of day, compared with `"2026-11-23"`. Values of `dateTime` and `date` may
    be Python objects or their ISO texts. `sub_attributes` belong to `complex`. `filterable=False` answers as if the
    attribute were unknown: passwords and secrets (RFC 7643 section 7, `returned: never`).
    """

    type: AttributeType = "string"
    multi_valued: bool = False
    case_exact: bool = False
    sub_attributes: Mapping[str, AttributeSpec] = field(default_factory=dict)
    filterable: bool = True


def compile_predicate(text: str, *, attributes: Mapping[str, AttributeSpec], schema: str | None = None) -> Predicate:
    """Compile a filter into a function of a document, once for many documents.

    `attributes` are keyed by the names the documents use; filters spell them in any case. An extension is an entry
    keyed by its schema URN, of type complex. `schema` is the documents' own URN, which a filter may put before a name.

    Raises:
        InvalidFilter: not in the grammar, too long or too deep; an attribute that is not in `attributes`, or an
            operator or a value that its type cannot take. `attribute` names it.
    """
    return compile_filter(parse_filter(text), attributes=attributes, schema=schema)


def compile_filter(
    expression: Filter, *, attributes: Mapping[str, AttributeSpec], schema: str | None = None
) -> Predicate:
    """Like `compile_predicate`, from a tree that was read or built before."""
    return _compile(expression, _Scope.of(attributes, schema))


def fitted(
    expression: Filter, *, attributes: Mapping[str, AttributeSpec], schema: str | None = None
) -> tuple[Filter | bool, frozenset[str]]:
    """What a filter asks of a type that has not all of its attributes, and those: they are treated as if they had no
    value (RFC 7644 section 3.4.2.1). A truth value: nothing is left to ask.
    """
    scope, unknown = _Scope.of(attributes, schema), set[str]()
    return _fitted(expression, scope, unknown), frozenset(unknown)


def _fitted(node: Filter, scope: _Scope, unknown: set[str]) -> Filter | bool:
    match node:
        case Not():
            inner = _fitted(node.expression, scope, unknown)
            return not inner if isinstance(inner, bool) else Not(inner)
        case And() | Or():
            decides = isinstance(node, Or)
            terms = [_fitted(term, scope, unknown) for term in node.terms]
            left = tuple(term for term in terms if not isinstance(term, bool))
            if decides in terms or not left:
                return decides if decides in terms else not decides
            return left[0] if len(left) == 1 else type(node)(left)
        case Comparison() | Present() | ValuePath():
            try:
                scope.find(node.path)
            except InvalidFilter:
                unknown.add(str(node.path))
                return isinstance(node, Comparison) and _holds_of_nothing(node)
            return node


def _holds_of_nothing(node: Comparison) -> bool:
    """Whether an attribute without a value meets a comparison."""
    if node.operator is Operator.NE:
        return node.value is not None
    return node.operator is Operator.EQ and node.value is None


def quote(value: str) -> str:
    """A text as a filter's string literal: whatever it holds, it stays one value (RFC 7644 section 3.4.2.2).

    Raises:
        ValueError: half a surrogate pair, which no UTF-8 carries.
    """
    if _PLAIN_TEXT.fullmatch(value):
        return f'"{value}"'
    value.encode("utf-8")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " else f"\\u{ord(c):04x}" for c in escaped) + '"'


# --- names ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scope:
    """The names a filter may use here."""

    attributes: Mapping[str, AttributeSpec]
    schema: str | None = None

    @classmethod
    def of(cls, attributes: Mapping[str, AttributeSpec], schema: str | None = None) -> _Scope:
        return cls(attributes, schema.lower() if schema else None)

    def named(self, name: str) -> tuple[str, AttributeSpec] | None:
        """The name in documents and the specification of a name, whatever its case; None: there is none."""
        # Looked for, not put in order first: most filters name one.
        lower = name.lower()
        return next((each for each in self.attributes.items() if each[1].filterable and each[0].lower() == lower), None)

    def find(self, path: AttributePath) -> tuple[list[tuple[str, bool]], AttributeSpec]:
        """The steps from a document to the values, each with whether it is multi-valued, and what is found there."""
        parts = [path.name] if path.sub_name is None else [path.name, path.sub_name]
        if path.schema is not None and path.schema.lower() != self.schema:
            parts.insert(0, path.schema)
        scope, steps, spec = self, list[tuple[str, bool]](), AttributeSpec(type="complex")
        for part in parts:
            known = scope.named(part)
            if known is None:
                raise InvalidFilter(f"There is no attribute {str(path)!r} to filter by.", attribute=str(path))
            name, spec = known
            steps.append((name, spec.multi_valued))
            scope = _Scope.of(spec.sub_attributes)
        return steps, spec

    def find_comparable(self, path: AttributePath) -> tuple[list[tuple[str, bool]], AttributeSpec]:
        """Like `find`; a multi-valued complex attribute stands for its `value` (RFC 7643 section 2.4)."""
        steps, spec = self.find(path)
        if spec.type != "complex":
            return steps, spec
        if spec.multi_valued and (known := _Scope.of(spec.sub_attributes).named("value")) is not None:
            return [*steps, (known[0], known[1].multi_valued)], known[1]
        raise InvalidFilter(f"{path} has sub-attributes; compare one of them.", attribute=str(path))


# --- structure --------------------------------------------------------------------------------------------------------


def _compile(node: Filter, scope: _Scope) -> Predicate:
    match node:
        case Comparison():
            return _compile_comparison(node, scope)
        case Present():
            return _compile_present(node, scope)
        case ValuePath():
            return _compile_value_path(node, scope)
        case Not():
            inner = _compile(node.expression, scope)
            return lambda document: not inner(document)
        case And():
            return _conjunction([_compile(term, scope) for term in node.terms])
        case Or():
            return _disjunction([_compile(term, scope) for term in node.terms])


def _conjunction(terms: Sequence[Predicate]) -> Predicate:
    if len(terms) == 2:  # the usual case, without a generator
        first, second = terms
        return lambda document: first(document) and second(document)
    return lambda document: all(term(document) for term in terms)


def _disjunction(terms: Sequence[Predicate]) -> Predicate:
    if len(terms) == 2:  # the usual case, without a generator
        first, second = terms
        return lambda document: first(document) or second(document)
    return lambda document: any(term(document) for term in terms)


def _compile_value_path(node: ValuePath, scope: _Scope) -> Predicate:
    steps, spec = scope.find(node.path)
    if spec.type != "complex" or not spec.multi_valued:
        raise InvalidFilter(f"{node.path} holds no list of values to select from.", attribute=str(node.path))
    inner = _compile(node.expression, _Scope.of(spec.sub_attributes))
    values = _reader(steps)
    return lambda document: any(isinstance(value, Mapping) and inner(value) for value in values(document))


def _compile_present(node: Present, scope: _Scope) -> Predicate:
    steps, _ = scope.find(node.path)
    values = _reader(steps)
    return lambda document: any(map(_is_present, values(document)))


def _is_present(value: Any) -> bool:
    """RFC 7644 table 3, `pr`: not null and not empty; False and 0 are values."""
    if value is None:
        return False
    if isinstance(value, str | bytes):
        return len(value) > 0
    if isinstance(value, Mapping):
        return any(map(_is_present, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_present, value))
    return True


# --- comparison -------------------------------------------------------------------------------------------------------

_Key: TypeAlias = Callable[[Any], Any]
_Test: TypeAlias = Callable[[Any], bool]

_ORDERING: Final = {
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
}
_SUBSTRING: Final[dict[Operator, Callable[[str, str], bool]]] = {
    Operator.CO: operator.contains,
    Operator.SW: str.startswith,
    Operator.EW: str.endswith,
}
_TEXT_TYPES: Final = frozenset({"string", "reference"})
_UNORDERED_TYPES: Final = frozenset({"boolean", "binary"})


def _compile_comparison(node: Comparison, scope: _Scope) -> Predicate:
    steps, spec = scope.find_comparable(node.path)
    if node.operator is Operator.NE:
        equal = _compile_comparison(Comparison(node.path, Operator.EQ, node.value), scope)
        return lambda document: not equal(document)
    test = _test(node, spec)
    if len(steps) == 1 and not steps[0][1]:
        name = steps[0][0]
        return lambda document: test(document.get(name))
    values = _reader(steps)
    return lambda document: any(map(test, values(document)))


def _test(node: Comparison, spec: AttributeSpec) -> _Test:
    """A test of one value. Values of a wrong type never match, rather than raise."""
    if node.operator in _SUBSTRING:
        return _substring_test(node, spec)
    if node.operator in _ORDERING:
        if spec.type in _UNORDERED_TYPES:
            raise _unfit(node, f"{spec.type} values have no order")
        if node.value is None:
            return lambda value: False
    elif node.value is None:
        return lambda value: value is None
    key = _key(spec)
    expected = key(node.value)
    if expected is None:
        raise _unfit(node, f"it is not a value of type {spec.type}")
    if node.operator in _ORDERING:
        compare = _ORDERING[node.operator]
        return lambda value: (actual := key(value)) is not None and bool(compare(actual, expected))
    return lambda value: key(value) == expected


def _substring_test(node: Comparison, spec: AttributeSpec) -> _Test:
    if spec.type not in _TEXT_TYPES:
        raise _unfit(node, f"{node.operator} is for texts, and the attribute is of type {spec.type}")
    if not isinstance(node.value, str):
        raise _unfit(node, f"{node.operator} needs a string")
    key, compare = _key(spec), _SUBSTRING[node.operator]
    expected = key(node.value)
    return lambda value: (actual := key(value)) is not None and compare(actual, expected)


def _unfit(node: Comparison, why: str) -> InvalidFilter:
    return InvalidFilter(f"{node.path} cannot be compared so: {why}.", attribute=str(node.path))


def _key(spec: AttributeSpec) -> _Key:
    """What a value is compared as; None for anything that is not of the type."""
    if spec.type in _TEXT_TYPES:
        return _exact_text if spec.case_exact else _folded_text
    return _KEYS[spec.type]


def _exact_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return value if is_normalized("NFC", value) else normalize("NFC", value)


def _folded_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    if value.isascii():
        return value.lower()
    # Lower case does not keep the normal form, so it is restored.
    return normalize("NFC", normalize("NFC", value).lower())


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        # Entra sends `active eq "True"`.
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _instant(value: Any) -> datetime | None:
    """RFC 7643 section 2.3.5; without a zone it is UTC, and a time of day is required."""
    if isinstance(value, str):
        if "T" not in value.upper():
            return None
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _day(value: Any) -> date | None:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def _binary(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_KEYS: Final[dict[str, _Key]] = {
    "boolean": _boolean,
    "integer": _number,
    "decimal": _number,
    "dateTime": _instant,
    "date": _day,
    "binary": _binary,
}


# --- reading ----------------------------------------------------------------------------------------------------------


def _reader(steps: Sequence[tuple[str, bool]]) -> Callable[[Document], Sequence[Any]]:
    """A function from a document to the values at the end of the steps; `(None,)` where there is none."""
    names = tuple(name for name, _ in steps)
    if len(names) == 1:
        return partial(_read_one, names[0])
    return partial(_read_path, names)


def _read_one(name: str, document: Document) -> Sequence[Any]:
    value = document.get(name)
    if isinstance(value, list | tuple):
        return value or (None,)
    return (value,)


def _read_path(names: Sequence[str], document: Document) -> Sequence[Any]:
    values: Sequence[Any] = (document,)
    for name in names:
        found: list[Any] = []
        for parent in values:
            value = parent.get(name) if isinstance(parent, Mapping) else None
            if isinstance(value, list | tuple):
                found.extend(value)
            else:
                found.append(value)
        values = found
    return values or (None,)
