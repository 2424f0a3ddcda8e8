"""Groups of the SCIM server: static groups of the directory, as a sender sees and changes them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from idhub.authority import Action, authorize, visible_organizations
from idhub.changes import Event, EventType, record
from idhub.db import chunked, to_micros
from idhub.directory import groups as group_book
from idhub.directory.kinds import Standing
from idhub.directory.names import may_name
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Group, Person, Principal
from idhub.provisioning.events.feed import tell_one
from idhub.provisioning.inbound.lists import document_of, next_of, ordered, start_of, window
from idhub.provisioning.inbound.person_resource import SHOWN_ACTIVE
from idhub.provisioning.inbound.sender import MAX_LOOKED_AT, ExternalIds, Sender, end_person, visible_people
from idhub.provisioning.inbound.terms import Ending
from scim.attributes import ResourceType
from scim.errors import InvalidValue, TooMany
from scim.events import Kind
from scim.filter_grammar import And, Comparison, Filter, Operator
from scim.filters import compile_filter
from scim.messages import Forbidden
from scim.schemas import GROUP, Resource
from scim.server import Page, Stored
from scim.wishes import Query


def _names_members(query: Query) -> bool:
    """Whether a filter or an order says anything of members; said of a list in any way, they are read."""
    return query.sort_by is not None or "members" in repr(query.filter).lower()


MAX_MEMBERS: Final = 100_000
_MOST_OUT_OF_SCOPE: Final = 20
_PERCENT_OUT_OF_SCOPE: Final = 2
"""As the mass-change brake of HR files: more than 20 people and 2 % at once looks like a mistake."""


class Groups:
    """See `scim.server.Store`; its methods for groups, without the protocol's errors."""

    def __init__(self, session: Session, sender: Sender, kind: ResourceType, *, base_url: str, now: datetime) -> None:
        self._session, self._sender, self._kind = session, sender, kind
        self._base_url, self._now = base_url, now
        self._external = ExternalIds(session, sender.provider, "Group")

    def _visible(self) -> Select[str]:
        return visible_people(self._session, self._sender)

    # --- groups -------------------------------------------------------------------------------------------------------

    def _visible_groups(self) -> Select[str]:
        statement = select(Group.id).where(Group.ended_at.is_(None))
        scope = visible_organizations(self._session, self._sender.caller.subject, Action.PEOPLE_READ)
        return statement if scope is None else statement.where(Group.organization_id.in_(scope))

    def show(self, ids: Sequence[str], *, with_members: bool = True) -> list[Stored]:
        """Groups in the order of their ids; those that the sender may not see are left out, and so are such members."""
        rows = self._session.execute(
            select(Group).where(Group.id.in_(self._visible_groups()), Group.id.in_(ids))
        ).scalars()
        found = {row.id: row for row in rows}
        members = group_book.members_of(self._session, list(found)) if with_members else {}
        seen = self._seen({each for listed in members.values() for each in listed})
        external = self._external.of(list(found))
        shown = []
        for group_id in ids:
            row = found.get(group_id)
            if row is None:
                continue
            listed = [
                {"value": each, "$ref": f"{self._base_url}/Users/{each}", "type": "User"}
                for each in members.get(group_id, ())
                if each in seen
            ]
            resource: Resource = {"schemas": [GROUP], "displayName": row.name}
            if group_id in external:
                resource["externalId"] = external[group_id]
            if listed:
                resource["members"] = listed
            shown.append(
                Stored(
                    id=row.id,
                    resource=resource,
                    # The moment too: after a restored backup the same number comes again, of another content.
                    version=f"{row.version}.{to_micros(row.changed_at or row.created_at):x}",
                    created_at=row.created_at,
                    changed_at=row.changed_at or row.created_at,
                )
            )
        return shown

    def _document(self, stored: Stored) -> Mapping[str, Any]:
        return document_of(stored, self._kind, base_url=self._base_url)

    def _seen(self, ids: Collection[str]) -> set[str]:
        """The people among these whom the sender may see; of others it does not even learn that they belong."""
        seen: set[str] = set()
        for part in chunked(sorted(ids)):
            seen.update(self._session.execute(self._visible().where(Person.id.in_(part))).scalars())
        return seen

    def find(self, query: Query) -> Page:
        """See `scim.server.Store.find`.

        Raises:
            TooMany: more than `MAX_LOOKED_AT` would have to be looked at.
        """
        statement = self._visible_groups()
        with_members = query.shows("members") or _names_members(query)
        if query.filter is None and query.sort_by is None:
            total = self._session.execute(select(func.count()).select_from(statement.subquery())).scalar_one()
            start = start_of(query)
            ids = self._session.execute(statement.order_by(Group.id).offset(start).limit(query.count)).scalars().all()
            shown = self.show(ids, with_members=with_members)
            more = next_of(query, start, has_more=start + query.count < total)
            return Page(items=shown, total=total, next_cursor=more)
        if query.filter is not None:
            statement = statement.where(*self._narrowing(query.filter))
        ids = self._session.execute(statement.order_by(Group.id).limit(MAX_LOOKED_AT + 1)).scalars().all()
        if len(ids) > MAX_LOOKED_AT:
            raise TooMany(f"There are more than {MAX_LOOKED_AT} groups to look at; narrow the filter.")
        found = self.show(ids, with_members=with_members)
        if query.filter is not None:
            matches = compile_filter(query.filter, attributes=self._kind.specs, schema=self._kind.schema.id)
            found = [stored for stored in found if matches(self._document(stored))]
        return window(ordered(found, query, self._document), query)

    def _narrowing(self, tree: Filter) -> list[ColumnElement[bool]]:
        """Conditions that every group meets which the filter means: what senders look for before they make one."""
        narrowing: list[ColumnElement[bool]] = []
        for term in tree.terms if isinstance(tree, And) else (tree,):
            if not isinstance(term, Comparison) or term.operator is not Operator.EQ or not isinstance(term.value, str):
                continue
            target = self._kind.find(term.path)
            name = None if target is None or target.sub is not None else target.attribute.name
            if not may_name(term.value):
                continue
            if name == "id":
                narrowing.append(Group.id == term.value)
            elif name == "displayName" and term.value.isascii():
                narrowing.append(func.lower(Group.name) == term.value.lower())
            elif name == "externalId":
                narrowing.append(Group.id == self._external.find(term.value))
            elif name == "members":
                narrowing.append(Group.id.in_(group_book.with_member(term.value)))
        return narrowing

    def create(self, resource: Resource) -> str:
        """Make a group of the sender's company, or of the whole group where the sender has none; returns its id.

        Raises:
            NotPermitted: the sender may not change people there.
        """
        organization_id = self._sender.organization_id or root_organization(self._session)
        authorize(self._session, self._sender.caller.subject, Action.PEOPLE_CHANGE, organization_id=organization_id)
        group_id = group_book.create_group(
            self._session, resource["displayName"], organization_id=organization_id, now=self._now
        )
        members = self._members(resource)
        group_book.change_members(self._session, group_id, join=members, leave=(), now=self._now)
        self._external.set(group_id, resource.get("externalId"))
        group = group_book.lock_group(self._session, group_id)
        self._record_group(EventType.GROUP_CREATED, group, {"joined": len(members)})
        self._tell(group, Kind.CREATED, ["id", "displayName", *(["members"] if members else [])])
        return group_id

    def change(self, held: Stored, resource: Resource, *, replaces: bool) -> None:
        """Make a group what `resource` says, under its lock; members that the sender cannot see stay.

        Raises:
            NotPermitted: the sender may not change people there.
            InvalidValue: it is the group that the sender's terms name, and would be called otherwise.
        """
        group = group_book.lock_group(self._session, held.id)
        authorize(
            self._session, self._sender.caller.subject, Action.PEOPLE_CHANGE, organization_id=group.organization_id
        )
        name_before = group.name
        if resource["displayName"] != name_before:
            if self._is_scope(group):
                raise InvalidValue("The terms of this token name the group so.", attribute="displayName")
            group_book.rename_group(self._session, group, resource["displayName"], now=self._now)
        before = {member["value"] for member in held.resource.get("members") or ()}
        after = set(self._members(resource))
        join, leave = sorted(after - before), sorted(before - after)
        group_book.change_members(self._session, group.id, join=join, leave=leave, now=self._now)
        self._external.set(group.id, resource.get("externalId"))
        group_book.touch_group(self._session, group, now=self._now)
        details = {"joined": len(join), "gone": len(leave), "renamed": resource["displayName"] != name_before}
        self._record_group(EventType.GROUP_CHANGED, group, details, join=join, leave=leave)
        changed = {"displayName": details["renamed"], "members": bool(join or leave)}
        self._tell(group, Kind.PATCHED, [name for name, is_changed in changed.items() if is_changed])
        if self._is_scope(group):
            self._put_out_of_scope(leave, of=len(before))

    def _members(self, resource: Resource) -> list[str]:
        """Ids of the members, once each.

        Raises:
            InvalidValue: one is nobody whom the sender may see; groups in groups are not kept.
        """
        wanted = list(dict.fromkeys(str(member.get("value", "")) for member in resource.get("members") or ()))
        if len(wanted) > MAX_MEMBERS:
            raise InvalidValue(f"A group has at most {MAX_MEMBERS} members.", attribute="members")
        known = self._seen(wanted)
        unknown = next((each for each in wanted if each not in known), None)
        if unknown is not None:
            if self._session.execute(self._visible_groups().where(Group.id == unknown)).first() is not None:
                raise InvalidValue("A member is a User; groups are not kept in groups.", attribute="members")
            raise InvalidValue(f"There is no User {unknown[:60]!r}.", attribute="members")
        return wanted

    def delete(self, held: Stored) -> None:
        """End the group; its name is free again."""
        group = group_book.lock_group(self._session, held.id)
        name, is_scope = group.name, self._is_scope(group)
        members = group_book.end_group(self._session, group, now=self._now)
        self._external.forget(held.id)
        self._record_group(EventType.GROUP_ENDED, group, {"name": name, "gone": len(members)}, leave=members)
        self._tell(group, Kind.DELETED)
        if is_scope:
            seen = self._seen(members)
            self._put_out_of_scope(sorted(seen), of=len(seen))

    def _is_scope(self, group: Group) -> bool:
        return self._sender.terms.scope_group is not None and group.name == self._sender.terms.scope_group

    def _put_out_of_scope(self, people: Sequence[str], *, of: int) -> None:
        """What the terms say of people taken out of the sender's scope group.

        Raises:
            Forbidden: so many at once that it looks like a mistake; nothing is done.
        """
        most = max(_MOST_OUT_OF_SCOPE, of * _PERCENT_OUT_OF_SCOPE // 100)
        if len(people) > most:
            raise Forbidden(f"A request takes at most {most} people out of scope.", attribute="members")
        rows = self._session.execute(select(Principal.id, Principal.standing).where(Principal.id.in_(people)))
        standing: dict[str, str] = {row.id: row.standing for row in rows}
        ending = self._sender.terms.out_of_scope
        for person_id in sorted(standing):
            is_there = standing[person_id] in SHOWN_ACTIVE
            if is_there or (ending is Ending.LEAVE and standing[person_id] != Standing.LEFT):
                end_person(self._session, self._sender, person_id, ending, now=self._now, reason="SCIM: out of scope")

    def _tell(self, group: Group, kind: Kind, attributes: Sequence[str] = ()) -> None:
        tell_one(
            self._session,
            "Group",
            group.id,
            kind,
            attributes,
            organization_id=group.organization_id,
            now=self._now,
        )

    def _record_group(
        self,
        kind: EventType,
        group: Group,
        details: Mapping[str, Any],
        *,
        join: Sequence[str] = (),
        leave: Sequence[str] = (),
    ) -> None:
        """One event of the group, and one for each person who joined or left it."""
        common: dict[str, Any] = {
            "at": self._now,
            "actor": self._sender.caller.actor,
            "door": self._sender.caller.door,
            "target_kind": "group",
            "target_id": group.id,
            "organization_id": group.organization_id,
            "request_id": self._sender.caller.request_id,
        }
        changes = [(each, "joined") for each in join] + [(each, "left") for each in leave]
        events = [Event(type=kind, details={**details, "name": group.name}, **common)]
        events += [
            Event(type=EventType.GROUP_CHANGED, person_id=person_id, details={"member": what}, **common)
            for person_id, what in changes
        ]
        record(self._session, events)
