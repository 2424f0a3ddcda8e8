"""A store in memory, which serves the protocol without a hub."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from scim.attributes import ResourceType, Target
from scim.bulk import NotTogether
from scim.errors import NotFound, NotUnique
from scim.filters import compile_filter
from scim.schemas import Resource
from scim.server import Page, Stored
from scim.wishes import Query

_START = datetime(2026, 11, 23, tzinfo=UTC)
_UNIQUE = {"User": "userName", "Group": "displayName"}


class MemoryStore:
    """Resources by type and id; ids are numbers in order of creation."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Stored]] = {}
        self._numbers = itertools.count(1)
        self._alone = threading.RLock()

    @contextmanager
    def transactions(self) -> Iterator[MemoryStore]:
        """One transaction: what was written is taken back when it fails. One at a time: only it is."""
        with self._alone:
            before = copy.deepcopy(self._held)
            try:
                yield self
            except BaseException:
                self._held = before
                raise

    def get(self, kind: ResourceType, resource_id: str, *, shows: Callable[[str], bool] = lambda name: True) -> Stored:
        found = self._held.get(kind.name, {}).get(resource_id)
        if found is None:
            raise NotFound("There is no such resource.")
        return found

    def find(self, kind: ResourceType, query: Query) -> Page:
        found = list(self._held.get(kind.name, {}).values())
        if query.filter is not None:
            matches = compile_filter(query.filter, attributes=kind.specs, schema=kind.schema.id)
            found = [stored for stored in found if matches(_whole(stored))]
        if (by := query.sort_by) is not None:
            found.sort(key=lambda stored: _sort_key(stored, by), reverse=query.is_descending)
        start = int(query.cursor or 0) if query.cursor is not None else query.start_index - 1
        items = found[start : start + query.count]
        has_more = query.cursor is not None and start + query.count < len(found)
        return Page(items=items, total=len(found), next_cursor=str(start + query.count) if has_more else None)

    def create(self, kind: ResourceType, resource: Resource) -> Stored:
        self._check_unique(kind, resource, None)
        number = next(self._numbers)
        at = _START + timedelta(seconds=number)
        stored = Stored(id=str(number), resource=resource, version="1", created_at=at, changed_at=at)
        self._held.setdefault(kind.name, {})[stored.id] = stored
        return stored

    def create_all(self, kind: ResourceType, resources: Sequence[Resource]) -> Sequence[Stored]:
        made, alone = [], set()
        for place, resource in enumerate(resources):
            try:
                made.append(self.create(kind, resource))
            except NotUnique:
                alone.add(place)
        if alone:
            raise NotTogether(alone)
        return made

    def change(
        self, kind: ResourceType, resource_id: str, change: Callable[[Stored], Resource], *, replaces: bool
    ) -> Stored:
        held = self.get(kind, resource_id)
        resource = change(held)
        if resource == held.resource:
            return held
        self._check_unique(kind, resource, resource_id)
        stored = Stored(
            id=held.id,
            resource=resource,
            version=str(int(held.version) + 1),
            created_at=held.created_at,
            changed_at=held.changed_at + timedelta(seconds=1),
        )
        self._held[kind.name][resource_id] = stored
        return stored

    def delete(self, kind: ResourceType, resource_id: str, check: Callable[[Stored], None]) -> None:
        check(self.get(kind, resource_id))
        del self._held[kind.name][resource_id]

    def me(self) -> tuple[ResourceType, str] | None:
        return None

    def _check_unique(self, kind: ResourceType, resource: Resource, own_id: str | None) -> None:
        name = _UNIQUE[kind.name]
        for stored in self._held.get(kind.name, {}).values():
            if stored.id != own_id and stored.resource[name].lower() == resource[name].lower():
                raise NotUnique(f"{name} is another's.", attribute=name)


def _whole(stored: Stored) -> dict[str, Any]:
    meta = {"created": stored.created_at, "lastModified": stored.changed_at}
    return {**stored.resource, "id": stored.id, "meta": meta}


def _sort_key(stored: Stored, by: Target) -> tuple[bool, str]:
    value: Any = _whole(stored)
    for name in filter(None, (by.extension, by.attribute.name)):
        value = value.get(name) if isinstance(value, dict) else None
    if by.attribute.multi_valued and isinstance(value, list):
        value = next((each for each in value if each.get("primary")), value[0] if value else None)
    if isinstance(value, dict):
        value = value.get(by.sub.name if by.sub else "value")
    return value is None, str(value or "").lower()
