"""SCIM filters, read into a small tree (RFC 7644 section 3.4.2.2 with errata 4670, 4690, 7322 and 8924).

The grammar is scim2-filter-parser's, and this module is the only one that touches that library. Its lexer is replaced
and its precedence repaired, because version 0.7.0

- reads `a or b and c` as `(a or b) and c`: the wrong people;
- takes one-digit numbers only: no sign, fraction or exponent;
- ends a string at an escaped quote and decodes no escape;
- confuses `true` with `"true"`, and `null` with `"null"`, and knows them in lower case only;
- splits names that begin with true, false or null, and takes names like `eq` for operators wherever they stand;
- accepts `a[b[c pr]]`, `a[b pr] eq 1` and other forms that mean nothing; and
- has no bound on length or depth.

`tests/scim/test_filter_oracle.py` proves the result against scim2-models' independent reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import isfinite
from typing import Any, Final, TypeAlias

from scim2_filter_parser import ast as library
from scim2_filter_parser.lexer import SCIMLexer
from scim2_filter_parser.parser import SCIMParser, SCIMParserError

from scim.errors import InvalidFilter

MAX_FILTER_LENGTH: Final = 8_192
MAX_NESTING: Final = 32
_CACHED_FILTERS: Final = 512

CompareValue: TypeAlias = str | int | float | bool | None


class Operator(StrEnum):
    """Attribute operators that take a value (RFC 7644 table 3); `pr` is `Present`."""

    EQ = "eq"
    NE = "ne"
    CO = "co"
    SW = "sw"
    EW = "ew"
    GT = "gt"
    GE = "ge"
    LT = "lt"
    LE = "le"


@dataclass(frozen=True, slots=True)
class AttributePath:
    """`[schema ":"] name ["." sub_name]`, spelled as the filter spells it."""

    name: str
    sub_name: str | None = None
    schema: str | None = None

    def __str__(self) -> str:
        prefix = f"{self.schema}:" if self.schema else ""
        suffix = f".{self.sub_name}" if self.sub_name else ""
        return f"{prefix}{self.name}{suffix}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`path operator value`."""

    path: AttributePath
    operator: Operator
    value: CompareValue


@dataclass(frozen=True, slots=True)
class Present:
    """`path pr`."""

    path: AttributePath


@dataclass(frozen=True, slots=True)
class Not:
    """`not (expression)`."""

    expression: Filter


@dataclass(frozen=True, slots=True)
class And:
    """Two or more terms, all of which must hold."""

    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Two or more terms, one of which must hold."""

    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class ValuePath:
    """`path[expression]`: one and the same value of the attribute satisfies the expression."""

    path: AttributePath
    expression: Filter


Filter: TypeAlias = Comparison | Present | Not | And | Or | ValuePath


def parse_filter(text: str) -> Filter:
    """Read a filter.

    Raises:
        InvalidFilter: not in the grammar, longer than `MAX_FILTER_LENGTH` or nested deeper than `MAX_NESTING`.
    """
    if len(text) > MAX_FILTER_LENGTH:
        raise InvalidFilter(f"The filter is longer than {MAX_FILTER_LENGTH} characters.")
    return _parse(text)


@lru_cache(maxsize=_CACHED_FILTERS)
def _parse(text: str) -> Filter:
    # The tokens are all read before the parser starts, so that depth is known before anything recurses.
    tokens = list(_tokens(text))
    if (alone := _alone(tokens)) is not None:
        return alone
    try:
        tree = _Grammar().parse(iter(tokens))
    except SCIMParserError as error:
        raise InvalidFilter("The filter is not complete or has a bracket out of place.") from error
    return _expression(tree, inside_value_path=False)


# --- tokens -----------------------------------------------------------------------------------------------------------

_NAME: Final = r"\$?[A-Za-z][A-Za-z0-9$_-]*"
_URN: Final = r"urn:[A-Za-z0-9][A-Za-z0-9._-]*(?::[A-Za-z0-9][A-Za-z0-9._-]*)*"
_END: Final = r"(?![A-Za-z0-9$_-])"
_SPACE: Final = re.compile(r"[ \t\f\r\n]*")
ATTRIBUTE_PATH: Final = re.compile(rf"(?:(?P<schema>(?i:{_URN})):)?(?P<name>{_NAME})(?:\.(?P<sub_name>{_NAME}))?")
_SUB_ATTRIBUTE: Final = re.compile(rf"\.[ \t\f\r\n]*(?P<name>{_NAME})")
_OPERATOR: Final = re.compile(rf"(?i:eq|ne|co|sw|ew|gt|ge|lt|le|pr){_END}")
_LOGICAL: Final = re.compile(rf"(?i:and|or){_END}")
_NOT: Final = re.compile(rf"(?i:not){_END}")
_WORD: Final = re.compile(rf"(?i:true|false|null){_END}")
# RFC 8259: the escapes and numbers of JSON, and nothing more.
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*"')
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MAX_DIGITS: Final = 64
_WORDS: Final[dict[str, tuple[str, CompareValue]]] = {
    "true": ("TRUE", True),
    "false": ("FALSE", False),
    "null": ("NULL", None),
}


class _Expects(StrEnum):
    """What may stand next; a name is told from a keyword by its place, not by its spelling."""

    OPERAND = "an attribute, 'not' or '('"
    OPERATOR = "an operator"
    VALUE = "a value: a JSON string, a number, true, false or null"
    CONNECTIVE = "'and', 'or' or a closing bracket"


@dataclass(frozen=True, slots=True)
class _Token:
    type: str
    value: Any
    index: int
    end: int
    lineno: int = 1


def _tokens(text: str) -> Iterator[_Token]:
    """The tokens that the library's grammar knows, with decoded values in place of texts.

    Raises:
        InvalidFilter: a character that cannot stand where it stands, or too many open brackets.
    """
    position = _skip_space(text, 0)
    expects, depth = _Expects.OPERAND, 0
    while position < len(text):
        read = _read_symbol(text, position, expects) or _read_word(text, position, expects)
        if read is None:
            raise InvalidFilter(
                f"The filter cannot be read at character {position + 1}: expected {expects}.", position=position
            )
        tokens, end, expects = read
        for kind, value in tokens:
            depth += (kind in {"LPAREN", "LBRACKET"}) - (kind in {"RPAREN", "RBRACKET"})
            if depth > MAX_NESTING:
                raise InvalidFilter(f"The filter nests more than {MAX_NESTING} expressions.", position=position)
            yield _Token(kind, value, position, end)
        position = _skip_space(text, end)


_Read: TypeAlias = tuple[list[tuple[str, Any]], int, _Expects]

_SYMBOLS: Final[dict[tuple[_Expects, str], tuple[str, _Expects]]] = {
    (_Expects.OPERAND, "("): ("LPAREN", _Expects.OPERAND),
    (_Expects.OPERATOR, "["): ("LBRACKET", _Expects.OPERAND),
    (_Expects.CONNECTIVE, ")"): ("RPAREN", _Expects.CONNECTIVE),
    (_Expects.CONNECTIVE, "]"): ("RBRACKET", _Expects.CONNECTIVE),
}


def _read_symbol(text: str, position: int, expects: _Expects) -> _Read | None:
    symbol = _SYMBOLS.get((expects, text[position]))
    if symbol is not None:
        return [(symbol[0], text[position])], position + 1, symbol[1]
    if expects is _Expects.CONNECTIVE and (match := _SUB_ATTRIBUTE.match(text, position)):
        return [("SUBATTR", match["name"])], match.end(), _Expects.OPERATOR
    return None


def _read_word(text: str, position: int, expects: _Expects) -> _Read | None:
    if expects is _Expects.OPERAND:
        return _read_operand(text, position)
    if expects is _Expects.VALUE:
        return _read_value(text, position)
    pattern = _OPERATOR if expects is _Expects.OPERATOR else _LOGICAL
    if (match := pattern.match(text, position)) is None:
        return None
    word = match[0].lower()
    after = _Expects.CONNECTIVE if word == "pr" else _Expects.VALUE
    return [(word.upper(), word)], match.end(), after if expects is _Expects.OPERATOR else _Expects.OPERAND


def _read_operand(text: str, position: int) -> _Read | None:
    if match := _NOT.match(text, position):
        return [("NOT", "not")], match.end(), _Expects.OPERAND
    if (match := ATTRIBUTE_PATH.match(text, position)) is None:
        return None
    parts = [("SCHEMA_URI", match["schema"]), ("ATTRNAME", match["name"]), ("SUBATTR", match["sub_name"])]
    return [part for part in parts if part[1] is not None], match.end(), _Expects.OPERATOR


def _read_value(text: str, position: int) -> _Read | None:
    if match := _STRING.match(text, position):
        value = json.loads(match[0])
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidFilter("A string in the filter holds half a surrogate pair.", position=position)
        return [("COMP_VALUE", value)], match.end(), _Expects.CONNECTIVE
    if match := _NUMBER.match(text, position):
        return [("NUMBER", _number(match[0], position))], match.end(), _Expects.CONNECTIVE
    if match := _WORD.match(text, position):
        return [_WORDS[match[0].lower()]], match.end(), _Expects.CONNECTIVE
    return None


def _number(text: str, position: int) -> int | float:
    if len(text) <= _MAX_DIGITS:
        value = float(text) if set(text) & set(".eE") else int(text)
        if isfinite(value):
            return value
    raise InvalidFilter("A number in the filter is out of range.", position=position)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


# --- tree -------------------------------------------------------------------------------------------------------------


def _alone(tokens: list[_Token]) -> Comparison | None:
    """A filter that is one comparison, as most are: there is nothing to parse. None: it is not."""
    match [(token.type, token.value) for token in tokens]:
        case [*path, (operator, _), ("COMP_VALUE", value)] if operator in _COMPARES:
            parts = dict(path)
            if [kind for kind, _ in path] == [kind for kind in _PATH if kind in parts] and "ATTRNAME" in parts:
                where = AttributePath(parts["ATTRNAME"], parts.get("SUBATTR"), parts.get("SCHEMA_URI"))
                return Comparison(where, Operator(operator.lower()), value)
    return None


_PATH: Final = ("SCHEMA_URI", "ATTRNAME", "SUBATTR")
_COMPARES: Final = frozenset(operator.upper() for operator in Operator)


class _Grammar(SCIMParser):  # type: ignore[misc]
    """The library's rules with the RFC's precedence: `not` over `and` over `or`."""

    tokens = SCIMLexer.tokens
    precedence = (("left", "OR"), ("left", "AND"), ("right", "NOT"))
    # Named again because the parser generator reads the rules of one class only; `filter` first: it is the start.
    filter = SCIMParser.filter
    value_path = SCIMParser.value_path
    attr_exp = SCIMParser.attr_exp
    log_exp = SCIMParser.log_exp
    comp_value = SCIMParser.comp_value
    attr_path = SCIMParser.attr_path
    sub_attr = SCIMParser.sub_attr


def _expression(node: Any, *, inside_value_path: bool) -> Filter:
    """Turn the library's mutable nodes into ours and refuse what its grammar lets through."""
    if isinstance(node, library.Filter):
        if node.namespace is not None:
            return _value_path(node, None, inside_value_path=inside_value_path)
        inner = _expression(node.expr, inside_value_path=inside_value_path)
        return Not(inner) if node.negated else inner
    if isinstance(node, library.LogExpr):
        terms = tuple(_expression(term, inside_value_path=inside_value_path) for term in _terms(node))
        return And(terms) if node.op == "and" else Or(terms)
    return _attribute_expression(node, inside_value_path=inside_value_path)


def _terms(node: library.LogExpr) -> list[library.Filter]:
    """The terms of a chain of one operator; the library leans it to the left, as deep as it is long."""
    terms: list[library.Filter] = []
    operator, left = node.op, node
    while True:
        terms.append(left.expr2)
        first = left.expr1
        if first.negated or first.namespace is not None or not isinstance(first.expr, library.LogExpr):
            break
        if first.expr.op != operator:
            break
        left = first.expr
    terms.append(first)
    terms.reverse()
    return terms


def _attribute_expression(node: library.AttrExpr, *, inside_value_path: bool) -> Filter:
    name = node.attr_path.attr_name
    if isinstance(name, library.Filter):
        return _value_path(name, node, inside_value_path=inside_value_path)
    return _leaf(_path(node.attr_path), node)


def _leaf(path: AttributePath, node: library.AttrExpr) -> Comparison | Present:
    if node.comp_value is None:
        return Present(path)
    return Comparison(path, Operator(node.value), node.comp_value.value)


def _value_path(node: library.Filter, trailing: library.AttrExpr | None, *, inside_value_path: bool) -> ValuePath:
    """`a[...]`, and Entra's `a[...].b eq "x"`, which is read as `a[... and b eq "x"]`."""
    # Errata 4690 and 7322: no value path inside a value path.
    if inside_value_path or isinstance(node.namespace.attr_name, library.Filter):
        raise InvalidFilter("A value path cannot stand inside another value path.")
    path = _path(node.namespace)
    inner = _expression(node.expr, inside_value_path=True)
    if trailing is not None:
        # The library moves the sub-attribute behind the bracket into the path before it.
        if path.sub_name is None:
            raise InvalidFilter("A value path is compared by one of its sub-attributes, not by itself.")
        last = _leaf(AttributePath(path.sub_name), trailing)
        inner = And((*(inner.terms if isinstance(inner, And) else (inner,)), last))
        path = AttributePath(path.name, None, path.schema)
    if path.sub_name is not None:
        raise InvalidFilter(f"A value path cannot select from the sub-attribute {path}.", attribute=str(path))
    return ValuePath(path, inner)


def _path(node: library.AttrPath) -> AttributePath:
    return AttributePath(node.attr_name, node.sub_attr.value if node.sub_attr is not None else None, node.uri)
