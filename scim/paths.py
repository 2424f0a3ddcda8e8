"""Paths of PATCH operations and of projections (RFC 7644 section 3.5.2, figure 7; section 3.10)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from scim.errors import InvalidPath
from scim.filter_grammar import ATTRIBUTE_PATH, AttributePath, Filter, ValuePath, parse_filter

MAX_PATH_LENGTH: Final = 2_048
_TRAILING: Final = re.compile(r"\.([A-Za-z$][A-Za-z0-9$_-]*)")


@dataclass(frozen=True, slots=True)
class Path:
    """`attribute`, `attribute.sub`, `attribute[filter]` or `attribute[filter].sub`, spelled as it was sent."""

    attribute: AttributePath
    filter: Filter | None = None


def parse_path(text: str) -> Path:
    """Read a path.

    Raises:
        InvalidPath: not in the grammar.
        InvalidFilter: the part in brackets is none.
    """
    text = text.strip()
    if not text or len(text) > MAX_PATH_LENGTH:
        raise InvalidPath(f"A path has 1 to {MAX_PATH_LENGTH} characters.")
    head, bracket, rest = text.partition("[")
    match = ATTRIBUTE_PATH.fullmatch(head.rstrip() if bracket else head)
    if match is None:
        raise InvalidPath("The path cannot be read: it is no attribute, with or without a filter in brackets.")
    attribute = AttributePath(match["name"], match["sub_name"], match["schema"])
    if not bracket:
        return Path(attribute)
    inner, closing, tail = rest.rpartition("]")
    trailing = _TRAILING.fullmatch(tail) if tail else None
    if not closing or attribute.sub_name is not None or (tail and trailing is None):
        raise InvalidPath("The path cannot be read: brackets stand behind an attribute and before a sub-attribute.")
    selected = parse_filter(inner)
    if _selects_within(selected):
        raise InvalidPath("A value path cannot stand inside another value path.")
    if trailing is not None:
        attribute = AttributePath(attribute.name, trailing[1], attribute.schema)
    return Path(attribute, selected)


def _selects_within(tree: Filter) -> bool:
    if isinstance(tree, ValuePath):
        return True
    return any(map(_selects_within, [*getattr(tree, "terms", ()), *filter(None, [getattr(tree, "expression", None)])]))
