"""Groups of the SCIM server: static groups of the directory, as a sender sees and changes them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from idhub.authority import Action, authorize, visible_organizations
from idhub.changes import Event, EventType, record
from idhub.db import chunked
from idhub.directory import groups as group_book
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Group, Person
from idhub.provisioning.inbound_lists import document_of, ordered, start_of, window
from idhub.provisioning.inbound_sender import MAX_LOOKED_AT, ExternalIds, Sender, visible_people
from scim.errors import InvalidValue, TooMany
from scim.filters import compile_filter
from scim.schemas import GROUP, Resource
from scim.server import Page, Query, Stored
from scim.standard import GROUP_TYPE

MAX_MEMBERS: Final = 100_000


class Groups:
    """See `scim.server.Store`; its methods for groups, without the protocol's errors."""

    def __init__(self, session: Session, sender: Sender, *, base_url: str, now: datetime) -> None:
        self._session, self._sender = session, sender
        self._base_url, self._now = base_url, now
        self._external = ExternalIds(session, sender.provider, "Group")

    def _visible(self) -> Select[str]:
        return visible_people(self._session, self._sender)

    # --- groups -------------------------------------------------------------------------------------------------------

    def _visible_groups(self) -> Select[str]:
        statement = select(Group.id).where(Group.ended_at.is_(None))
        scope = visible_organizations(self._session, self._sender.caller.subject, Action.PEOPLE_READ)
        return statement if scope is None else statement.where(Group.organization_id.in_(scope))

    def show(self, ids: Sequence[str]) -> list[Stored]:
        rows = self._session.execute(
            select(Group).where(Group.id.in_(self._visible_groups()), Group.id.in_(ids))
        ).scalars()
        found = {row.id: row for row in rows}
        members = group_book.members_of(self._session, list(found))
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
                    version=str(row.version),
                    created_at=row.created_at,
                    changed_at=row.changed_at or row.created_at,
                )
            )
        return shown

    def _seen(self, ids: Collection[str]) -> set[str]:
        """The people among these whom the sender may see; of others it does not even learn that they belong."""
        seen: set[str] = set()
        for part in chunked(sorted(ids)):
            seen.update(self._session.execute(self._visible().where(Person.id.in_(part))).scalars())
        return seen

    def find(self, query: Query) -> Page:
        statement = self._visible_groups()
        if query.filter is None and query.sort_by is None:
            total = self._session.execute(select(func.count()).select_from(statement.subquery())).scalar_one()
            start = start_of(query)
            ids = self._session.execute(statement.order_by(Group.id).offset(start).limit(query.count)).scalars().all()
            more = query.cursor is not None and start + query.count < total
            return Page(items=self.show(ids), total=total, next_cursor=str(start + query.count) if more else None)
        ids = self._session.execute(statement.order_by(Group.id).limit(MAX_LOOKED_AT + 1)).scalars().all()
        if len(ids) > MAX_LOOKED_AT:
            raise TooMany(f"There are more than {MAX_LOOKED_AT} groups to look at; narrow the filter.")
        found = self.show(ids)
        if query.filter is not None:
            matches = compile_filter(query.filter, attributes=GROUP_TYPE.specs, schema=GROUP_TYPE.schema.id)
            found = [stored for stored in found if matches(document_of(stored))]
        return window(ordered(found, query), query)

    def create(self, resource: Resource) -> str:
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
        return group_id

    def change(self, held: Stored, resource: Resource) -> None:
        group = group_book.lock_group(self._session, held.id)
        authorize(
            self._session, self._sender.caller.subject, Action.PEOPLE_CHANGE, organization_id=group.organization_id
        )
        name_before = group.name
        if resource["displayName"] != name_before:
            group_book.rename_group(self._session, group, resource["displayName"], now=self._now)
        before = {member["value"] for member in held.resource.get("members") or ()}
        after = set(self._members(resource))
        join, leave = sorted(after - before), sorted(before - after)
        group_book.change_members(self._session, group.id, join=join, leave=leave, now=self._now)
        self._external.set(group.id, resource.get("externalId"))
        group_book.touch_group(self._session, group, now=self._now)
        details = {"joined": len(join), "gone": len(leave), "renamed": resource["displayName"] != name_before}
        self._record_group(EventType.GROUP_CHANGED, group, details, join=join, leave=leave)

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
            raise InvalidValue(f"There is no User {unknown[:60]!r}.", attribute="members")
        return wanted

    def delete(self, held: Stored) -> None:
        """End the group; its name is free again."""
        group = group_book.lock_group(self._session, held.id)
        name = group.name
        members = group_book.end_group(self._session, group, now=self._now)
        self._external.forget(held.id)
        self._record_group(EventType.GROUP_ENDED, group, {"name": name, "gone": len(members)}, leave=members)

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
