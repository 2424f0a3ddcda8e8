"""Lists that are made in memory: what a filter sees of a resource, its order, the part that was asked for. Pure."""

import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from scim.attributes import ResourceType, Target
from scim.errors import InvalidCursor
from scim.server import Page, Stored
from scim.wishes import Query


def document_of(stored: Stored, kind: ResourceType, *, base_url: str) -> Mapping[str, Any]:
    """The resource as a filter sees it: with what follows from what was said."""
    meta = {
        "resourceType": kind.name,
        "created": stored.created_at,
        "lastModified": stored.changed_at,
        "location": f"{base_url}{kind.endpoint}/{stored.id}",
        "version": f'W/"{stored.version}"',
    }
    if stored.whole is None:
        # A document that was kept is read only where the filter asks for something of it.
        return ChainMap({"id": stored.id, "meta": meta}, stored.resource)  # type: ignore[arg-type]
    return {**stored.whole, "schemas": stored.resource["schemas"], "id": stored.id, "meta": meta}


def sort_name(target: Target) -> str:
    """The path as `sortBy` names it, without the schema."""
    return target.attribute.name + (f".{target.sub.name}" if target.sub else "")


def ordered(found: list[Stored], query: Query, document_of: Callable[[Stored], Mapping[str, Any]]) -> list[Stored]:
    """Sorted as RFC 7644 section 3.4.2.3 says: by the primary value of several; without a value is
    last of those that ascend, first of those that descend.
    """
    if query.sort_by is None:
        return found
    target = query.sort_by

    def key(stored: Stored) -> Any:
        value: Any = document_of(stored)
        for name in (target.extension, target.attribute.name):
            if name is not None:
                value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, list):
            value = next((each for each in value if isinstance(each, Mapping) and each.get("primary")), value[0])
        if isinstance(value, Mapping):
            value = value.get(target.sub.name if target.sub else "value")
        if isinstance(value, str) and not (target.sub or target.attribute).case_exact:
            value = value.casefold()
        return value

    keyed = [(key(stored), stored) for stored in found]
    with_value = [pair for pair in keyed if pair[0] is not None]
    with_value.sort(key=lambda pair: pair[0], reverse=query.is_descending)
    valued, without = [stored for _, stored in with_value], [stored for value, stored in keyed if value is None]
    return without + valued if query.is_descending else valued + without


_START: Final = re.compile("[0-9]{1,10}")


def start_of(query: Query) -> int:
    """How many resources come before the page, by its cursor or its `startIndex`.

    Raises:
        InvalidCursor: the cursor is of another list.
    """
    if query.cursor is None:
        return query.start_index - 1
    if query.cursor and not _START.fullmatch(query.cursor):
        raise InvalidCursor("This cursor is not of this list.", attribute="cursor")
    return min(int(query.cursor or 0), 2**31)


def window(found: Sequence[Stored], query: Query) -> Page:
    """The query's page of all that was found."""
    start = start_of(query)
    return Page(
        items=found[start : start + query.count],
        total=len(found),
        next_cursor=next_of(query, start, has_more=start + query.count < len(found)),
    )


def next_of(query: Query, start: int, *, has_more: bool) -> str | None:
    """The cursor of the next page of a list that is counted; of pages of nobody there is no next one."""
    return str(start + query.count) if query.cursor is not None and query.count and has_more else None
