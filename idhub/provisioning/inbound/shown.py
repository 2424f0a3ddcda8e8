"""People as a sender sees them: by id, and in lists of any length."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from idhub.authority import Action, visible_organizations
from idhub.db import chunked, from_micros
from idhub.directory import groups as group_book
from idhub.directory.search import named
from idhub.directory.tables import Group, Person, Principal
from idhub.keys import Keyring
from idhub.provisioning.inbound.lists import document_of, ordered, sort_name, start_of, window
from idhub.provisioning.inbound.page import People, fallback_names, read_rows
from idhub.provisioning.inbound.person_resource import Row, shown_part, user_resource
from idhub.provisioning.inbound.query import Condition, lookup_of, spellings, user_condition
from idhub.provisioning.inbound.sender import MAX_LOOKED_AT, Sender, visible, visible_people
from idhub.provisioning.inbound.walk import (
    MOST_LOOKED_UP,
    ById,
    ByKey,
    Cursors,
    Walk,
    by_display_name,
    by_name,
    by_user_name,
    first_word,
    looked_up,
    walk,
)
from scim.attributes import ResourceType
from scim.errors import TooMany
from scim.filter_grammar import And, Filter
from scim.filters import compile_filter
from scim.server import Page, Stored
from scim.wishes import Query

_BATCH: Final = 500
_NOTHING_SAID: Final[Mapping[str, Any]] = {}
# People who came together have their instants in common.
_instant = lru_cache(maxsize=4_096)(from_micros)
_SORTED: Final[Mapping[str, ColumnElement[Any]]] = {
    "id": Person.id.expression,
    "displayName": func.lower(Person.display_name),
    "name.familyName": func.lower(Person.family_name),
    "name.givenName": func.lower(Person.given_name),
    "meta.created": Principal.created_at.expression,
}


def cursors_of(keyring: Keyring, sender: Sender, tree: Filter | None) -> Cursors:
    """The cursors of one list: of this sender (a token that replaces another goes on with them), company and filter."""
    return Cursors(keyring, f"{sender.provider}\n{sender.organization_id}\n{tree!r}")


class ShownUsers:
    """Reading of `Users`."""

    def __init__(
        self, session: Session, sender: Sender, keyring: Keyring, kind: ResourceType, *, base_url: str
    ) -> None:
        self._session, self._sender, self._keyring, self._base_url = session, sender, keyring, base_url
        self.kind = kind

    def visible(self) -> Select[str]:
        """Ids of whom the sender may see."""
        return visible_people(self._session, self._sender)

    def show(self, ids: Sequence[str]) -> list[Stored]:
        """Resources by id, in the order of ids, of those whom the sender may see."""
        people = visible(self._session, self._sender)
        found = {row.id: row for row in people.read(self._session, people.rows.where(Person.id.in_(ids)))}
        return self._show_rows([found[each] for each in ids if each in found])

    def _show_visible(self, ids: Sequence[str]) -> list[Stored]:
        """Resources of people who were found to be visible."""
        return self._show_rows(read_rows(self._session, ids, provider=self._sender.provider)) if ids else []

    def _show_rows(self, rows: Sequence[Row]) -> list[Stored]:
        if not rows:
            return []
        unnamed = [row for row in rows if row.said_name is None]
        names = fallback_names(self._session, unnamed) if unnamed else {}
        groups = self._groups_of([row.id for row in rows])
        return [self._stored(row, row.said_name or names[row.id], groups.get(row.id, ())) for row in rows]

    def _document(self, stored: Stored) -> Mapping[str, Any]:
        return document_of(stored, self.kind, base_url=self._base_url)

    def _groups_of(self, ids: Sequence[str]) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Groups of each person that the sender may see."""
        groups = group_book.groups_of(self._session, ids)
        scope = visible_organizations(self._session, self._sender.caller.subject, Action.PEOPLE_READ)
        if scope is None or not groups:
            return groups
        named = {group_id for listed in groups.values() for group_id, _ in listed}
        seen: set[str] = set()
        for part in chunked(sorted(named)):
            within = select(Group.id).where(Group.id.in_(part), Group.organization_id.in_(scope))
            seen.update(self._session.connection().execute(within).scalars())
        return {each: [group for group in listed if group[0] in seen] for each, listed in groups.items()}

    def _stored(self, row: Row, user_name: str, groups: Sequence[tuple[str, str]]) -> Stored:
        extras = orjson.loads(row.extras) if row.extras else _NOTHING_SAID
        whole = user_resource(row, user_name, extras, groups, base_url=self._base_url)
        resource = shown_part(whole, extras) if extras else whole
        body = orjson.dumps(resource)
        # Memberships and names of companies change beside the person's own version.
        digest = hashlib.sha256(body).hexdigest()[:16]
        return Stored(
            id=row.id,
            resource=resource,
            version=f"{row.version}.{row.said_version or 0}.{digest}",
            created_at=_instant(row.created_at),
            changed_at=_instant(max(row.changed_at, row.said_at or 0)),
            whole=whole,
            body=body,
        )

    def find(self, query: Query) -> Page:
        """See `scim.server.Store.find`."""
        people = visible(self._session, self._sender)
        condition, matches = Condition(None, is_exact=True), None
        if query.filter is not None:
            # First, so that a filter which names no attribute of a user is refused though the database could decide.
            matches = compile_filter(query.filter, attributes=self.kind.specs, schema=self.kind.schema.id)
            page = self._looked_up(people, query.filter, matches, query)
            if page is not None:
                return page
            condition = user_condition(query.filter, self.kind, provider=self._sender.provider)
        left = None if condition.is_exact or matches is None else matches
        if query.cursor is not None and query.sort_by is None:
            walks = self._walks(condition, has_more=isinstance(query.filter, And))
            says_all = condition.is_beginning and all(isinstance(each, ByKey) for each in walks)
            return walk(
                self._session,
                walks,
                people if condition.clause is None or says_all else people.where(condition.clause),
                query.cursor,
                cursors_of(self._keyring, self._sender, query.filter),
                count=query.count,
                show=self._show_rows,
                matches=None if left is None else lambda stored: left(self._document(stored)),
            )
        statement = people.ids if condition.clause is None else people.ids.where(condition.clause)
        if condition.begins is not None and condition.begins[0] != "userName":
            statement = self._narrowed(statement, condition.begins[1])
        column = _SORTED.get(sort_name(query.sort_by)) if query.sort_by is not None else None
        if left is None and (query.sort_by is None or column is not None):
            return self._page_of_users(statement, column, query)
        found = [
            stored
            for batch in self._all_users(statement)
            for stored in batch
            if left is None or left(self._document(stored))
        ]
        return window(ordered(found, query, self._document), query)

    def _looked_up(
        self, people: People, tree: Filter, matches: Callable[[Mapping[str, Any]], bool], query: Query
    ) -> Page | None:
        """The page of whom an index finds by one value; None: it does not, or there are many."""
        lookup = lookup_of(tree, self.kind, provider=self._sender.provider)
        if lookup is None or query.cursor:
            return None
        rows = looked_up(self._session, people, lookup)
        if len(rows) == MOST_LOOKED_UP or (query.cursor is not None and len(rows) > query.count):
            return None
        found = [stored for stored in self._show_rows(rows) if matches(self._document(stored))]
        return window(ordered(found, query, self._document), query)

    def _walks(self, condition: Condition, *, has_more: bool) -> Sequence[Walk]:
        """Ways to meet whom a condition selects.

        Args:
            has_more: it asks for more than how something begins.
        """
        if condition.begins is None:
            return [ById(condition.looks_at_each)]
        attribute, text = condition.begins
        if attribute == "userName":
            return by_user_name(self._session, text)
        if attribute == "displayname":
            return by_display_name(spellings(text), text, looks_at_each=has_more and condition.looks_at_each)
        return by_name(text)

    def _narrowed(self, statement: Select[str], text: str) -> Select[str]:
        """Those whom the people's search finds by the name that a filter says, so that nobody else is looked at."""
        word = first_word(text)
        return statement if word is None else statement.where(named(self._session, word))

    def _page_of_users(self, statement: Select[str], column: ColumnElement[Any] | None, query: Query) -> Page:
        connection, start = self._session.connection(), start_of(query)
        order: list[Any] = [Person.id]
        if column is not None:
            order.insert(0, column.desc().nulls_last() if query.is_descending else column.asc().nulls_last())
        elif query.is_descending:
            order = [Person.id.desc()]
        ids = connection.execute(statement.order_by(*order).offset(start).limit(query.count + 1)).scalars().all()
        more = len(ids) > query.count
        if more or (start and not ids):
            total = connection.execute(select(func.count()).select_from(statement.subquery())).scalar_one()
        else:
            total = start + len(ids)
        return Page(
            items=self._show_visible(ids[: query.count]),
            total=total,
            next_cursor=str(start + query.count) if query.cursor is not None and more else None,
        )

    def _all_users(self, statement: Select[str]) -> Iterator[list[Stored]]:
        """Everybody whom a statement selects, in order of their ids, a batch at a time.

        Raises:
            TooMany: more than the server is willing to look at.
        """
        after, seen = "", 0
        while True:
            batch = statement.where(Person.id > after).order_by(Person.id).limit(_BATCH)
            ids = self._session.connection().execute(batch).scalars().all()
            seen += len(ids)
            if seen > MAX_LOOKED_AT:
                raise TooMany(
                    f"This filter or order would look at more than {MAX_LOOKED_AT} people; narrow it by userName, "
                    "externalId, a mail address, a name or meta.lastModified."
                )
            yield self._show_visible(ids)
            if len(ids) < _BATCH:
                return
            after = ids[-1]
