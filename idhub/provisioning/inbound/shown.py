"""People as a sender sees them: by id, and in lists of any length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Select, bindparam, func, select
from sqlalchemy.orm import Session

from idhub.authority import Action, scope_roots, visible_organizations
from idhub.db import chunked, plan_freely
from idhub.directory import groups as group_book
from idhub.directory.search import named
from idhub.directory.tables import Group, OrganizationClosure, Person, Principal
from idhub.kept import Planned
from idhub.keys import Keyring
from idhub.provisioning.inbound.documents import (
    Document,
    form_of,
    instant,
    joined,
    make_document,
    version_of,
    without_id,
)
from idhub.provisioning.inbound.lists import document_of, next_of, ordered, sort_name, start_of, window
from idhub.provisioning.inbound.page import DELETED, Met, People, fallback_names, present, read_met, read_rows
from idhub.provisioning.inbound.person_resource import Row, own_part
from idhub.provisioning.inbound.query import Condition, lookup_of, spellings, user_condition
from idhub.provisioning.inbound.sender import MAX_LOOKED_AT, Sender, visible, visible_people
from idhub.provisioning.inbound.walk import (
    MOST_LOOKED_UP,
    ByCompany,
    ById,
    ByKey,
    Cursors,
    Elsewhere,
    Place,
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
from scim.server import Page, Parsed, Stored
from scim.standard import USER_TYPE
from scim.wishes import Query

_BATCH: Final = 500
_MOST_COMPANIES: Final = 16
_WITHIN: Final = Planned(
    select(OrganizationClosure.descendant_id)
    .where(OrganizationClosure.ancestor_id.in_(bindparam("roots", expanding=True)))
    .distinct()
    .limit(_MOST_COMPANIES + 1)
)
_ALL: Final = select(Person.id)
_COUNT_ALL: Final = select(func.count()).select_from(Person)
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
        self._form = form_of(base_url)
        self.kind = kind
        self.made: list[Document] = []
        """Documents that lists had to make: worth keeping, where this was a snapshot (`keep_documents`)."""

    def visible(self) -> Select[str]:
        """Ids of whom the sender may see."""
        return visible_people(self._session, self._sender)

    def show(self, ids: Sequence[str]) -> list[Stored]:
        """Resources by id, in the order of ids, of those whom the sender may see."""
        people = self._people()
        found = {row.id: row for row in people.read_whole(self._session, people.whole.where(Person.id.in_(ids)))}
        return self._show_rows([found[each] for each in ids if each in found])

    def _people(self) -> People:
        return visible(self._session, self._sender)._replace(form=self._form)

    def _show_whole(self, ids: Sequence[str]) -> list[Stored]:
        """Resources of people who were found to be visible, with what filters see of them."""
        return self._show_rows(read_rows(self._session, ids, provider=self._sender.provider)) if ids else []

    def _show_rows(self, rows: Sequence[Row]) -> list[Stored]:
        if not rows:
            return []
        groups = self._groups_of([row.id for row in rows if row.has_groups])
        return [self._stored(made, groups.get(made.row.id, ())) for made in self._make(rows)]

    def _make(self, rows: Sequence[Row]) -> list[Document]:
        unnamed = [row for row in rows if row.said_name is None]
        names = fallback_names(self._session, unnamed) if unnamed else {}
        return [make_document(row, row.said_name or names[row.id], base_url=self._base_url) for row in rows]

    def _show_met(self, met: Sequence[Met | bytes], *, needs_whole: bool) -> Sequence[Stored | bytes]:
        """Resources of people whom a list met: out of their documents, which are made where there is none.

        Args:
            needs_whole: a filter looks at them, which sees more than what is shown.
        """
        ready = [each for each in met if isinstance(each, bytes)]
        if len(ready) == len(met):
            return ready
        rows = [each for each in met if not isinstance(each, bytes)]
        ids = [each.id.decode() for each in rows]
        groups = self._groups_of([one for one, each in zip(ids, rows, strict=True) if each.has_groups])
        lacking = [one for one, each in zip(ids, rows, strict=True) if not each.body]
        hidden = (
            [one for one, each in zip(ids, rows, strict=True) if each.body and not each.is_all] if needs_whole else []
        )
        made = self._made(lacking)
        self.made += made.values()
        made |= self._made(hidden)
        shown = iter(
            self._stored(made[one], groups.get(one, ()))
            if one in made
            else self._of_document(one, each, groups.get(one, ()))
            for one, each in zip(ids, rows, strict=True)
        )
        return [each if isinstance(each, bytes) else next(shown) for each in met]

    def _made(self, ids: Sequence[str]) -> dict[str, Document]:
        rows = read_rows(self._session, ids, provider=self._sender.provider) if ids else []
        return {made.row.id: made for made in self._make(rows)}

    def _document(self, stored: Stored) -> Mapping[str, Any]:
        return document_of(stored, self.kind, base_url=self._base_url)

    def _groups_of(self, ids: Sequence[str]) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Groups of each person that the sender may see."""
        groups = group_book.groups_of(self._session, ids)
        if not groups:
            return groups
        scope = visible_organizations(self._session, self._sender.caller.subject, Action.PEOPLE_READ)
        if scope is None:
            return groups
        named = {group_id for listed in groups.values() for group_id, _ in listed}
        seen: set[str] = set()
        for part in chunked(sorted(named)):
            within = select(Group.id).where(Group.id.in_(part), Group.organization_id.in_(scope))
            seen.update(self._session.connection().execute(within).scalars())
        return {each: [group for group in listed if group[0] in seen] for each, listed in groups.items()}

    def _stored(self, made: Document, groups: Sequence[tuple[str, str]]) -> Stored:
        row = made.row
        own = own_part(row.external_id, groups, base_url=self._base_url)
        body, digest = joined(made.body, made.digest, own)
        resource, whole = ({**made.resource, **own}, {**made.whole, **own}) if own else (made.resource, made.whole)
        return Stored(
            id=row.id,
            resource=resource,
            # Memberships and names of companies change beside the person's own version.
            version=version_of(row, digest),
            created_at=instant(row.created_at),
            changed_at=instant(max(row.changed_at, row.said_at or 0)),
            whole=whole,
            body=body,
            plain_of=USER_TYPE if made.is_plain else None,
        )

    def _of_document(self, person_id: str, met: Met, groups: Sequence[tuple[str, str]]) -> Stored:
        """The same of a document that was kept; nobody reads it who does not have to."""
        version, body = met.version.decode(), without_id(met.body)
        if met.external_id or groups:
            external_id = orjson.loads(met.external_id) if met.external_id else None
            own = own_part(external_id, groups, base_url=self._base_url)
            versions, _, digest = version.rpartition(".")
            body, digest = joined(body, digest, own)
            version = f"{versions}.{digest}"
        return Stored(
            id=person_id,
            resource=Parsed(body),
            version=version,
            created_at=instant(int(met.created_at)),
            changed_at=instant(int(met.changed_at)),
            body=body,
            plain_of=USER_TYPE if met.is_plain else None,
        )

    def find(self, query: Query) -> Page:
        """See `scim.server.Store.find`."""
        condition, matches = Condition(None, is_exact=True), None
        if query.filter is not None:
            # First, so that a filter which names no attribute of a user is refused though the database could decide.
            matches = compile_filter(query.filter, attributes=self.kind.specs, schema=self.kind.schema.id)
            page = self._looked_up(query.filter, matches, query)
            if page is not None:
                return page
            condition = user_condition(query.filter, self.kind, provider=self._sender.provider)
        left = None if condition.is_exact or matches is None else matches
        as_asked = self._as_asked(query, left)
        if query.cursor is not None and query.sort_by is None and (query.count or query.cursor or left is not None):
            return self._walked(query, query.cursor, condition, left)
        people, clause = self._people()._replace(**as_asked), condition.clause
        statement = people.ids if clause is None else people.ids.where(clause)
        if condition.begins is not None and condition.begins[0] != "userName":
            statement = self._narrowed(statement, condition.begins[1])
        column = _SORTED.get(sort_name(query.sort_by)) if query.sort_by is not None else None
        if left is None and (query.sort_by is None or column is not None):
            return self._page_of_users(people, statement, column, query, is_everybody=self._is_everybody(query))
        found = [
            stored
            for batch in self._all_users(statement)
            for stored in batch
            if left is None or left(self._document(stored))
        ]
        return window(ordered(found, query, self._document), query)

    @staticmethod
    def _as_asked(query: Query, left: Callable[[Mapping[str, Any]], bool] | None) -> Mapping[str, Any]:
        return {"shows_plain": query.shows_type(USER_TYPE), "is_looked_at": left is not None}

    def _walked(
        self, query: Query, cursor: str, condition: Condition, left: Callable[[Mapping[str, Any]], bool] | None
    ) -> Page:
        """The page behind a cursor.

        Args:
            left: what is left for the filter to decide.
        """
        scope = visible_organizations(self._session, self._sender.caller.subject, Action.PEOPLE_READ)
        cursors = cursors_of(self._keyring, self._sender, query.filter)
        at = cursors.read(cursor)
        # Every other name may be unsaid, and is not shown then.
        is_shown = condition.is_beginning and condition.begins is not None and condition.begins[0] == "userName"
        everybody = present(self._sender.provider)._replace(form=self._form, **self._as_asked(query, left))

        def page(is_elsewhere: str | None) -> Page:
            walks = self._walks(condition, scope, at, is_elsewhere=is_elsewhere, has_more=isinstance(query.filter, And))
            people = everybody
            if scope is not None and not all(isinstance(each, ByCompany) for each in walks):
                # By no index of companies: a database would rather sort all people of one than walk in order.
                people = people.where(Principal.organization_id.concat("").in_(scope))
            says_all = condition.is_beginning and all(isinstance(each, ByKey) for each in walks)
            return walk(
                self._session,
                walks,
                people if says_all else self._selected(people, condition),
                at,
                cursors,
                count=query.count,
                show=partial(self._show_met, needs_whole=left is not None and not is_shown),
                matches=None if left is None else lambda stored: left(self._document(stored)),
            )

        try:
            return page(None)
        except Elsewhere as told:
            return page(str(told))

    @staticmethod
    def _selected(people: People, condition: Condition) -> People:
        if condition.kept is not None:
            return people.where_kept(*condition.kept)
        clause = condition.clause
        return people if clause is None else people.where(clause)

    def _looked_up(self, tree: Filter, matches: Callable[[Mapping[str, Any]], bool], query: Query) -> Page | None:
        """The page of whom an index finds by one value; None: it does not, or there are many."""
        lookup = lookup_of(tree, self.kind, provider=self._sender.provider)
        if lookup is None or query.cursor:
            return None
        rows = looked_up(self._session, self._people(), lookup)
        if len(rows) == MOST_LOOKED_UP or (query.cursor is not None and len(rows) > query.count):
            return None
        found = [stored for stored in self._show_rows(rows) if matches(self._document(stored))]
        return window(ordered(found, query, self._document), query)

    def _walks(
        self, condition: Condition, scope: Select[str] | None, at: Place, *, is_elsewhere: str | None, has_more: bool
    ) -> Sequence[Walk]:
        """Ways to meet whom a condition selects. A walk by company says itself which companies.

        Args:
            scope: the companies that the sender is limited to; None: it is not.
            at, is_elsewhere: as of `by_user_name`.
            has_more: it asks for more than how something begins.
        """
        companies = None if scope is None else self._companies()
        # Of whom an index proposes, who is limited may see few.
        looks_at_each = scope is not None or (has_more and condition.looks_at_each)
        walks: Sequence[Walk]
        if condition.begins is None:
            walks = [ById(condition.looks_at_each)]
        elif condition.begins[0] == "userName":
            walks = by_user_name(
                self._session,
                condition.begins[1],
                at,
                is_elsewhere=is_elsewhere,
                looks_at_each=scope is not None,
                is_all=condition.is_beginning,
            )
        elif condition.begins[0] == "displayname":
            text = condition.begins[1]
            walks = by_display_name(spellings(text), text, looks_at_each=looks_at_each)
        else:
            walks = by_name(condition.begins[1])
        if scope is None:
            return walks
        return [self._within(companies, each) if isinstance(each, ById) else each for each in walks]

    def _within(self, companies: Sequence[str] | None, walk: ById) -> Walk:
        """A walk over everybody, by somebody who may not see everybody."""
        return ById(looks_at_each=True) if companies is None else ByCompany(companies, walk.looks_at_each)

    def _companies(self) -> Sequence[str] | None:
        """The companies that the sender is limited to; None: they are many."""
        roots = scope_roots(self._session, self._sender.caller.subject, Action.PEOPLE_READ)
        found = [row[0] for row in _WITHIN.all(self._session, {"roots": sorted(roots or ())})]
        return found if len(found) <= _MOST_COMPANIES else None

    def _narrowed(self, statement: Select[str], text: str) -> Select[str]:
        """Those whom the people's search finds by the name that a filter says, so that nobody else is looked at."""
        word = first_word(text)
        return statement if word is None else statement.where(named(self._session, word))

    def _is_everybody(self, query: Query) -> bool:
        """Whether a list is of all people but those whom a sender deleted."""
        return (
            query.filter is None
            and visible_organizations(self._session, self._sender.caller.subject, Action.PEOPLE_READ) is None
        )

    def _page_of_users(
        self,
        people: People,
        statement: Select[str],
        column: ColumnElement[Any] | None,
        query: Query,
        *,
        is_everybody: bool,
    ) -> Page:
        connection, start = self._session.connection(), start_of(query)
        order: list[Any] = [Person.id]
        if column is not None:
            order.insert(0, column.desc().nulls_first() if query.is_descending else column.asc().nulls_last())
        elif query.is_descending:
            order = [Person.id.desc()]
        with plan_freely(connection):
            # To ask of each one whether they were deleted takes thirty times as long as to count all.
            deleted = connection.execute(DELETED).scalar_one() if is_everybody else 0
            if is_everybody and not deleted and column is None:
                statement = _ALL
            ids = connection.execute(statement.order_by(*order).offset(start).limit(query.count + 1)).scalars().all()
            more = len(ids) > query.count
            if more or (start and not ids):
                counted = _COUNT_ALL if is_everybody else select(func.count()).select_from(statement.subquery())
                total = connection.execute(counted).scalar_one() - deleted
            else:
                total = start + len(ids)
        return Page(
            items=self._show_met(read_met(self._session, ids[: query.count], people), needs_whole=False),
            total=total,
            next_cursor=next_of(query, start, has_more=more),
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
            yield self._show_whole(ids)
            if len(ids) < _BATCH:
                return
            after = ids[-1]
