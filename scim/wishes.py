"""What a list is to show, from a query or a SearchRequest (RFC 7644 sections 3.4.2 and 3.4.3; RFC 9865)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl

from scim.attributes import ResourceType, Target
from scim.errors import InvalidCount, InvalidFilter, InvalidPath, InvalidSyntax, InvalidValue
from scim.filter_grammar import ATTRIBUTE_PATH, AttributePath, Filter, parse_filter
from scim.filters import fitted
from scim.reading import Projection
from scim.schemas import SEARCH_REQUEST

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
MAX_ATTRIBUTE_NAMES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a list is asked for: by index, or by cursor (RFC 9865), where "" is the start."""

    filter: Filter | None
    sort_by: Target | None
    is_descending: bool
    count: int
    start_index: int = 1
    cursor: str | None = None
    shows: Callable[[str], bool] = lambda name: True
    """Whether a core attribute is shown at all: a store need not read what nobody looks at."""
    shows_type: Callable[[ResourceType], bool] = lambda kind: False
    """Whether nothing is left out of a resource that has only what a type shows by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """One request's."""

    filter: Filter | None = None
    sort_by: str | None = None
    is_descending: bool = False
    start_index: int = 1
    count: int = DEFAULT_PAGE
    cursor: str | None = None
    attributes: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    @classmethod
    def of_query(cls, query: str) -> Wishes:
        """Of a query string; parameters that SCIM does not know are passed over, repeated ones refused.

        Raises:
            InvalidValue: it cannot be read, or a parameter stands twice or has no such value.
            InvalidCount: of a page by cursor, `count` has no such value.
            InvalidFilter: the filter is none.

        RFC 7644 sections 3.4.2 and 3.9; RFC 9865.
        """
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=50)
        except ValueError as error:
            raise InvalidValue("The query cannot be read.") from error
        values: dict[str, Any] = {}
        for name, value in pairs:
            lower = name.lower()
            if lower in values:
                raise InvalidValue(f"{name[:60]} stands twice.", attribute=name[:60])
            if lower in _READERS:
                values[lower] = value
        for name in ("attributes", "excludedattributes"):
            if name in values:
                values[name] = [part for part in values[name].split(",") if part.strip()]
        return cls._of(values)

    @classmethod
    def of_body(cls, document: Mapping[str, Any]) -> Wishes:
        """Of a SearchRequest."""
        fields = {name.lower(): value for name, value in document.items()}
        schemas = fields.pop("schemas", None)
        if not isinstance(schemas, list) or SEARCH_REQUEST not in schemas:
            raise InvalidSyntax(f"schemas must name {SEARCH_REQUEST}.", attribute="schemas")
        return cls._of({name: value for name, value in fields.items() if name in _READERS and value is not None})

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Wishes:
        read: dict[str, Any] = {}
        for lower, (name, field_name, reader) in _READERS.items():
            if lower in values:
                try:
                    read[field_name] = reader(values[lower])
                except ValueError as error:
                    refusal = InvalidCount if name == "count" and "cursor" in values else InvalidValue
                    raise refusal(f"{name} must be {error}.", attribute=name) from error
        if "cursor" in read and "start_index" in read:
            raise InvalidValue("startIndex and cursor cannot be asked for together.", attribute="cursor")
        return cls(**read)

    def of_types(self, kinds: Sequence[ResourceType]) -> Sequence[Wishes | None]:
        """What is asked of each of several types: what a type does not have has no value there (RFC 7644 section
        3.4.2.1). None: nothing of it can match.

        Raises:
            InvalidFilter, InvalidPath: a name that none of them has.
        """
        asked: list[Wishes | None] = [self] * len(kinds)
        if self.filter is not None:
            parts = [fitted(self.filter, attributes=kind.specs, schema=kind.schema.id) for kind in kinds]
            for name in sorted(frozenset.intersection(*(unknown for _, unknown in parts))):
                raise InvalidFilter(f"There is no attribute {name!r} to filter by.", attribute=name)
            asked = [
                None if left is False else replace(self, filter=None if left is True else left) for left, _ in parts
            ]
        if self.sort_by is not None:
            can_sort = [self._can_sort(kind) for kind in kinds]
            if not any(can_sort):
                self._sort_target(kinds[0])
            asked = [
                each if each is None or can else replace(each, sort_by=None, is_descending=False)
                for each, can in zip(asked, can_sort, strict=True)
            ]
        return asked

    def _can_sort(self, kind: ResourceType) -> bool:
        try:
            self._sort_target(kind)
        except InvalidPath:
            return False
        return True

    def projection(self, kind: ResourceType) -> Projection:
        """The part of each resource that is shown."""
        return Projection(kind, attributes=self.attributes, excluded=self.excluded)

    def query(self, kind: ResourceType, *, skip: int | None = None, taken: int = 0) -> Query:
        """What the store is asked for; of several types, `skip` of this one and `taken` of earlier ones."""
        projection = self.projection(kind)
        return Query(
            filter=self.filter,
            sort_by=self._sort_target(kind),
            is_descending=self.is_descending,
            count=max(0, self.count - taken),
            start_index=self.start_index if skip is None else skip + 1,
            cursor=self.cursor,
            shows=projection.shows,
            shows_type=projection.shows_type,
        )

    def _sort_target(self, kind: ResourceType) -> Target | None:
        if self.sort_by is None:
            return None
        match = ATTRIBUTE_PATH.fullmatch(self.sort_by)
        target = match and kind.find(AttributePath(match["name"], match["sub_name"], match["schema"]))
        if not target:
            raise InvalidPath(f"There is no attribute {self.sort_by[:100]!r} to sort by.", attribute="sortBy")
        if "never" in {each.returned for each in (target.attribute, target.sub) if each is not None}:
            raise InvalidPath(f"There is no attribute {self.sort_by[:100]!r} to sort by.", attribute="sortBy")
        return target


def _whole(value: Any, *, least: int) -> int:
    """Values below the least stand for it (RFC 7644 section 3.4.2.4)."""
    try:
        number = int(value) if not isinstance(value, bool | float) else None
    except (TypeError, ValueError):
        number = None
    if number is None or abs(number) > 2**31:
        raise ValueError("a whole number")
    return max(least, number)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _direction(value: Any) -> bool:
    text = _text(value).lower()
    if text not in {"ascending", "descending"}:
        raise ValueError("ascending or descending")
    return text == "descending"


def _names(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError("a list of attribute names")
    if len(listed) > MAX_ATTRIBUTE_NAMES:
        raise ValueError(f"a list of at most {MAX_ATTRIBUTE_NAMES} attribute names")
    return tuple(listed)


_READERS: Final[Mapping[str, tuple[str, str, Callable[[Any], Any]]]] = {
    name.lower(): (name, field_name, reader)
    for name, field_name, reader in (
        ("filter", "filter", lambda value: parse_filter(_text(value))),
        ("sortBy", "sort_by", _text),
        ("sortOrder", "is_descending", _direction),
        ("startIndex", "start_index", lambda value: _whole(value, least=1)),
        ("count", "count", lambda value: min(MAX_PAGE, _whole(value, least=0))),
        ("cursor", "cursor", _text),
        ("attributes", "attributes", _names),
        ("excludedAttributes", "excluded", _names),
    )
}
"""By its name in small letters: how a parameter is spelled, the field it becomes, and what reads it."""
