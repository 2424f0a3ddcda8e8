"""Users of the SCIM server: people of the directory, as a sender sees and changes them.

Whatever changes a person's standing goes through `lifecycle.commands` and so through the one door. The sender's terms
say what its words end; `active: true` of somebody who has left is a rehire under new epochs.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from idhub.authority import Action, authorize
from idhub.changes import Event, EventType, record
from idhub.db import bulk_insert, from_micros, upsert
from idhub.directory import groups as group_book
from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.directory.names import login_name_candidates
from idhub.directory.organizations import ensure_department, find_organization
from idhub.directory.people import PersonView, show_person
from idhub.directory.search import named
from idhub.directory.tables import Employment, LoginName, Organization, Person, Principal
from idhub.errors import NotFound as Missing
from idhub.errors import NotPermitted
from idhub.keys import Keyring
from idhub.lifecycle import commands, intake
from idhub.lifecycle.transition import transition
from idhub.provisioning.inbound.extensions import filed
from idhub.provisioning.inbound.lists import document_of, ordered, sort_name, start_of, window
from idhub.provisioning.inbound.page import fallback_names, read_rows
from idhub.provisioning.inbound.person_resource import (
    REMOVED_ACTIVE,
    SHOWN_ACTIVE,
    UNSAID,
    Row,
    Said,
    read_said,
    shown_part,
    user_name_key,
    user_resource,
)
from idhub.provisioning.inbound.query import Condition, folded_value, user_condition
from idhub.provisioning.inbound.sender import (
    MAX_LOOKED_AT,
    ExternalIds,
    Sender,
    check_return,
    end_person,
    visible_people,
)
from idhub.provisioning.inbound.tables import ScimUniqueValue, ScimUser, ScimValue
from idhub.provisioning.inbound.terms import Ending
from idhub.provisioning.inbound.walk import ById, Walk, by_name, by_user_name, first_word, walk
from scim.attributes import ResourceType
from scim.errors import InvalidValue, NotUnique, TooMany
from scim.filters import compile_filter
from scim.schemas import ENTERPRISE_USER, Resource
from scim.server import Page, Query, Stored

_MAX_EXTRAS: Final = 32_768
_BATCH: Final = 500
_INDEXED: Final = ("emails", "phoneNumbers")
_SORTED: Final[Mapping[str, ColumnElement[Any]]] = {
    "id": Person.id.expression,
    "displayName": func.lower(Person.display_name),
    "name.familyName": func.lower(Person.family_name),
    "name.givenName": func.lower(Person.given_name),
    "meta.created": Principal.created_at.expression,
}


class Users:
    """See `scim.server.Store`; its methods for users, without the protocol's errors."""

    def __init__(
        self, session: Session, sender: Sender, keyring: Keyring, kind: ResourceType, *, base_url: str, now: datetime
    ) -> None:
        self._session, self._sender, self._keyring, self.kind = session, sender, keyring, kind
        self._base_url, self._now = base_url, now
        self._external = ExternalIds(session, sender.provider, "User")

    def _visible(self) -> Select[str]:
        return visible_people(self._session, self._sender)

    # --- users: showing -----------------------------------------------------------------------------------------------

    def show(self, ids: Sequence[str]) -> list[Stored]:
        """Resources by id, in the order of ids, of those whom the sender may see."""
        visible = set(self._session.execute(self._visible().where(Person.id.in_(ids))).scalars())
        return self._show_visible([each for each in ids if each in visible])

    def _show_visible(self, ids: Sequence[str]) -> list[Stored]:
        """Resources of people who were found to be visible."""
        if not ids:
            return []
        rows = read_rows(self._session, ids, provider=self._sender.provider)
        unnamed = [row for row in rows if row.said_name is None]
        names = fallback_names(self._session, unnamed) if unnamed else {}
        groups = group_book.groups_of(self._session, ids)
        return [self._stored(row, row.said_name or names[row.id], groups.get(row.id, ())) for row in rows]

    def _stored(self, row: Row, user_name: str, groups: Sequence[tuple[str, str]]) -> Stored:
        extras = orjson.loads(row.extras) if row.extras else {}
        whole = user_resource(row, user_name, extras, groups, base_url=self._base_url)
        resource = shown_part(whole, extras) if extras else whole
        body = orjson.dumps(resource)
        # Memberships and names of companies change beside the person's own version.
        digest = hashlib.sha256(body).hexdigest()[:16]
        return Stored(
            id=row.id,
            resource=resource,
            version=f"{row.version}.{row.said_version or 0}.{digest}",
            created_at=from_micros(row.created_at),
            changed_at=from_micros(max(row.changed_at, row.said_at or 0)),
            whole=whole,
            body=body,
        )

    # --- users: lists -------------------------------------------------------------------------------------------------

    def find(self, query: Query) -> Page:
        statement = self._visible()
        condition, matches = Condition(None, is_exact=True), None
        if query.filter is not None:
            # First, so that a filter which names no attribute of a user is refused though the database could decide.
            matches = compile_filter(query.filter, attributes=self.kind.specs, schema=self.kind.schema.id)
            condition = user_condition(query.filter, self.kind, provider=self._sender.provider)
            if condition.clause is not None:
                statement = statement.where(condition.clause)
        left = None if condition.is_exact or matches is None else matches
        if query.cursor is not None and query.sort_by is None:
            return walk(
                self._session,
                self._walks(condition),
                statement,
                query.cursor,
                count=query.count,
                show=self._show_visible,
                matches=None if left is None else lambda stored: left(document_of(stored)),
            )
        if condition.begins is not None and condition.begins[0] != "userName":
            statement = self._narrowed(statement, condition.begins[1])
        column = _SORTED.get(sort_name(query.sort_by)) if query.sort_by is not None else None
        if left is None and (query.sort_by is None or column is not None):
            return self._page_of_users(statement, column, query)
        found = [
            stored
            for batch in self._all_users(statement)
            for stored in batch
            if left is None or left(document_of(stored))
        ]
        return window(ordered(found, query), query)

    def _walks(self, condition: Condition) -> Sequence[Walk]:
        if condition.begins is None:
            return [ById(condition.looks_at_each)]
        attribute, text = condition.begins
        return by_user_name(self._session, text) if attribute == "userName" else by_name(text)

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

    # --- users: changing ----------------------------------------------------------------------------------------------

    def known(self, resource: Resource) -> str | None:
        """Whom this sender calls by the resource's `externalId`, and may see."""
        said = resource.get("externalId")
        found = None if said is None else self._external.find(said)
        if found is None:
            return None
        return self._session.execute(self._visible().where(Person.id == found)).scalar_one_or_none()

    def create(self, resource: Resource) -> str:
        # RFC 7643 section 4.1.1 leaves the default to the server: who is sent is active, unless it says otherwise.
        said = read_said({"active": True, **resource})
        organization_id = self._company(said)
        authorize(self._session, self._sender.caller.subject, Action.PEOPLE_CHANGE, organization_id=organization_id)
        number = intake.clean_employee_number(said.employee_number or _number_from(said.user_name))
        known = self._leaver(organization_id, number)
        self._check_names(said, known)
        post = {
            "organization_id": organization_id,
            "employee_number": number,
            "employment_type": said.employment_type or EmploymentType.REGULAR,
            "starts_on": self._today(organization_id),
            "department_id": self._department(organization_id, said),
            "title": said.title,
            "manager_id": self._manager(organization_id, said, known),
        }
        if known is None:
            principal_id = commands.onboard(
                self._session, self._sender.caller, person=said.person, now=self._now, **post
            )
        else:
            # One human is one person for life: who had this number and left comes back, and nothing from before works.
            principal_id = known
            self._bring_back(principal_id, post)
            commands.update_person(self._session, self._sender.caller, principal_id, values=said.person, now=self._now)
        self._keep(principal_id, said, has_returned=True)
        if not said.active:
            self._end(principal_id, self._sender.terms.inactive, "active is false")
        return principal_id

    def change(self, held: Stored, resource: Resource, *, replaces: bool) -> None:
        before, said = read_said(held.resource), read_said(resource)
        principal_id, caller, now = held.id, self._sender.caller, self._now
        if (said.user_name, said.person["email"]) != (before.user_name, before.person["email"]):
            self._check_names(said, principal_id, before=before)
        values = {name: value for name, value in said.person.items() if value != before.person[name]}
        if values:
            commands.update_person(self._session, caller, principal_id, values=values, now=now)
        person = show_person(self._session, principal_id)
        returns = bool(said.active) and person.standing not in SHOWN_ACTIVE
        if returns:
            check_return(self._session, self._sender, principal_id)
        if returns and person.standing == Standing.LEFT:
            self._rehire(person, said)
        else:
            self._move(person, before, said)
            if returns:
                commands.reactivate(self._session, caller, principal_id, now=now, reason="SCIM: active is true")
        was_removed = said.active is None and before.active is False and not replaces
        self._keep(principal_id, said, has_returned=returns, hides_standing=was_removed)
        if person.standing in SHOWN_ACTIVE:
            if said.active is False:
                self._end(principal_id, self._sender.terms.inactive, "active is false")
            elif said.active is None and (replaces or before.active is not None):
                self._end(principal_id, self._sender.terms.unsaid, "active was left out")

    def _end(self, principal_id: str, ending: Ending, why: str) -> None:
        end_person(self._session, self._sender, principal_id, ending, now=self._now, reason=f"SCIM: {why}")

    def _bring_back(self, principal_id: str, post: Mapping[str, Any]) -> None:
        """Somebody who left, under new epochs; or whom a DELETE suspended, in the post they have."""
        check_return(self._session, self._sender, principal_id)
        person = show_person(self._session, principal_id)
        if person.standing == Standing.LEFT:
            commands.rehire(self._session, self._sender.caller, principal_id, now=self._now, **post)
            return
        commands.reactivate(
            self._session, self._sender.caller, principal_id, now=self._now, reason="SCIM: the resource was sent again"
        )
        if person.main is not None:
            values = {"type": post["employment_type"]}
            values |= {name: post[name] for name in ("department_id", "title", "manager_id")}
            commands.move(
                self._session,
                self._sender.caller,
                principal_id,
                employment_id=person.main.id,
                values=values,
                now=self._now,
            )

    def _move(self, person: PersonView, before: Said, said: Said) -> None:
        post = person.main
        if post is None or post.state == EmploymentState.ENDED:
            return
        values: dict[str, Any] = {}
        organization_id = post.organization_id
        if said.company != before.company:
            organization_id = self._company(said, default=post.organization_id)
            if organization_id != post.organization_id:
                values["organization_id"] = organization_id
        if said.department != before.department or "organization_id" in values:
            values["department_id"] = self._department(organization_id, said)
        if said.title != before.title:
            values["title"] = said.title
        if said.manager != before.manager:
            values["manager_id"] = self._manager(organization_id, said, person.id)
        if said.employment_type not in {before.employment_type, None}:
            values["type"] = said.employment_type
        if said.employee_number not in {before.employee_number, None}:
            values["employee_number"] = intake.clean_employee_number(said.employee_number)
        if values:
            commands.move(
                self._session,
                self._sender.caller,
                person.id,
                employment_id=post.id,
                values=values,
                now=self._now,
            )

    def _rehire(self, person: PersonView, said: Said) -> None:
        post = person.main
        organization_id = self._company(said, default=post.organization_id if post else None)
        commands.rehire(
            self._session,
            self._sender.caller,
            person.id,
            organization_id=organization_id,
            employee_number=said.employee_number or (post.employee_number if post else _number_from(said.user_name)),
            employment_type=said.employment_type or EmploymentType.REGULAR,
            starts_on=self._today(organization_id),
            department_id=self._department(organization_id, said),
            title=said.title,
            manager_id=self._manager(organization_id, said, person.id),
            now=self._now,
        )

    def delete(self, held: Stored) -> None:
        person = show_person(self._session, held.id)
        self._keep(held.id, read_said(held.resource), deleted_at=self._now)
        self._external.forget(held.id)
        ending = self._sender.terms.deleted
        if person.standing in SHOWN_ACTIVE or (ending is Ending.LEAVE and person.standing != Standing.LEFT):
            self._end(held.id, ending, "the resource was deleted")

    # --- users: what words mean ---------------------------------------------------------------------------------------

    def _company(self, said: Said, *, default: str | None = None) -> str:
        """The company that the resource names, when the sender may speak for it; else its own, or the one it had."""
        if said.company is not None:
            try:
                named = find_organization(self._session, said.company)
                authorize(self._session, self._sender.caller.subject, Action.PEOPLE_CHANGE, organization_id=named)
            except Missing:
                named = None
            except NotPermitted:
                # As if it did not exist: a sender learns nothing of other companies.
                named = None
            if named is not None:
                return named
        fallback = default or self._sender.organization_id
        if fallback is None:
            raise InvalidValue(
                "organization of the enterprise extension must name a company of the group.",
                attribute=f"{ENTERPRISE_USER}:organization",
            )
        return fallback

    def _department(self, organization_id: str, said: Said) -> str | None:
        if said.department is None:
            return None
        return ensure_department(self._session, organization_id, said.department, now=self._now)

    def _manager(self, organization_id: str, said: Said, own_id: str | None) -> str | None:
        """The manager's id; one who does not exist, has left or is the person themself is no manager.

        HR systems say their own key, or the number: whom this sender calls so, then who has it in the same company.
        """
        if said.manager is None:
            return None
        numbered = select(Employment.principal_id).where(
            Employment.organization_id == organization_id, Employment.employee_number == said.manager
        )
        called = self._external.find(said.manager)
        for meant in (Person.id == said.manager, Person.id == called, Person.id.in_(numbered)):
            visible = self._visible().where(meant, Principal.standing != Standing.LEFT)
            found = self._session.execute(visible.limit(1)).scalar_one_or_none()
            if found is not None:
                return None if found == own_id else found
        return None

    def _today(self, organization_id: str) -> Any:
        zone = self._session.execute(
            select(Organization.time_zone).where(Organization.id == organization_id)
        ).scalar_one()
        return self._now.astimezone(ZoneInfo(zone)).date()

    def _leaver(self, organization_id: str, number: str) -> str | None:
        """Who had this number in this company and has left, or was deleted by a sender whose DELETE suspends.

        Somebody else who has the number keeps it, and `onboard` refuses.
        """
        was_deleted = select(ScimUser.principal_id).where(ScimUser.deleted_at.is_not(None))
        return self._session.execute(
            select(Principal.id)
            .join(Employment, Employment.principal_id == Principal.id)
            .where(
                Employment.organization_id == organization_id,
                Employment.employee_number == number,
                or_(
                    Principal.standing == Standing.LEFT,
                    and_(Principal.standing == Standing.SUSPENDED, Principal.id.in_(was_deleted)),
                ),
            )
            .with_for_update(of=Principal)
        ).scalar_one_or_none()

    def _check_names(self, said: Said, own_id: str | None, *, before: Said | None = None) -> None:
        """Refuse a userName or mail by which somebody else is known: it would take their place, or their sign-in.

        Raises:
            NotUnique: it is another's.
        """
        key = user_name_key(said.user_name)
        taken = self._session.execute(
            select(ScimUser.principal_id)
            .where(ScimUser.user_name_key == key, ScimUser.principal_id != (own_id or ""), _is_present())
            .join(Principal, Principal.id == ScimUser.principal_id)
        ).first()
        names = [("userName", said.user_name)] if before is None or before.user_name != said.user_name else []
        email = said.person["email"]
        if email and (before is None or before.person["email"] != email):
            names.append(("emails", email))
        for attribute, name in names:
            other = self._session.execute(
                select(LoginName.principal_id)
                .join(Principal, Principal.id == LoginName.principal_id)
                .where(
                    LoginName.value.in_(login_name_candidates(name)),
                    LoginName.principal_id != (own_id or ""),
                    LoginName.kind != "employee_number" if attribute == "userName" else LoginName.kind == "email",
                    Principal.standing != Standing.LEFT,
                )
                .limit(1)
            ).first()
            if other is not None:
                raise NotUnique(f"{attribute} is another person's.", attribute=attribute)
        if taken is not None:
            raise NotUnique("userName is another person's.", attribute="userName")

    # --- users: what is kept ------------------------------------------------------------------------------------------

    def _keep(
        self,
        principal_id: str,
        said: Said,
        *,
        deleted_at: datetime | None = None,
        has_returned: bool = False,
        hides_standing: bool = False,
    ) -> None:
        """Store what the directory has no place for, and what the source said.

        Args:
            hides_standing: the sender has taken `active` away: it is not shown, even of somebody who is not active.
        """
        person = show_person(self._session, principal_id)
        extras = self._unplaced(person, said)
        if hides_standing:
            extras[UNSAID] = [*extras.get(UNSAID, ()), REMOVED_ACTIVE]
        if len(orjson.dumps(extras)) > _MAX_EXTRAS:
            raise InvalidValue(f"The resource holds more than {_MAX_EXTRAS} bytes beside what the directory keeps.")
        key = user_name_key(said.user_name)
        # Who was deleted gives the name up; the row stays for whoever comes back.
        self._session.execute(
            update(ScimUser)
            .where(ScimUser.user_name_key == key, ScimUser.principal_id != principal_id)
            .values(user_name_key=ScimUser.principal_id)
            .execution_options(synchronize_session=False)
        )
        values = {
            "user_name": said.user_name,
            "user_name_key": key if deleted_at is None else principal_id,
            "extras": extras,
            "changed_at": self._now,
            "deleted_at": deleted_at,
            **({"ended_by": None} if has_returned else {}),
        }
        known = self._session.execute(
            select(ScimUser.user_name, ScimUser.extras, ScimUser.deleted_at).where(
                ScimUser.principal_id == principal_id
            )
        ).one_or_none()
        if known is None or has_returned or tuple(known) != (said.user_name, extras, deleted_at):
            statement = upsert(self._session, ScimUser).values(principal_id=principal_id, version=1, **values)
            self._session.execute(
                statement.on_conflict_do_update(
                    index_elements=["principal_id"], set_={**values, "version": ScimUser.version + 1}
                )
            )
            self._index(principal_id, extras, is_gone=deleted_at is not None)
            if known is not None and known.deleted_at is None and deleted_at is None:
                self._record_said(person, known.extras, extras, has_other_name=known.user_name != said.user_name)
        self._external.set(principal_id, said.external_id)
        self._note_source(person, said, is_gone=deleted_at is not None)

    def _unplaced(self, person: PersonView, said: Said) -> Resource:
        """The extras, with the words for company and manager that named nothing here."""
        extras = dict(said.extras)
        enterprise = dict(extras.get(ENTERPRISE_USER) or {})
        post = person.main
        if said.company is not None and (post is None or said.company not in {post.company, post.company_code}):
            enterprise["organization"] = said.company
        if said.manager is not None and (post is None or post.manager_id != said.manager):
            enterprise["manager"] = {"value": said.manager}
        if enterprise:
            extras[ENTERPRISE_USER] = enterprise
        return extras

    def _index(self, principal_id: str, extras: Mapping[str, Any], *, is_gone: bool) -> None:
        """File what filters find by equality, and hold what nobody else may have.

        Raises:
            NotUnique: somebody has it.
        """
        self._session.execute(delete(ScimValue).where(ScimValue.principal_id == principal_id))
        self._session.execute(delete(ScimUniqueValue).where(ScimUniqueValue.principal_id == principal_id))
        own = list(filed(self.kind.extensions, extras))
        unique = (
            {}
            if is_gone
            else {
                (name, hashlib.sha256(value.encode()).hexdigest()): f"{urn}:{attribute.name}"
                for urn, attribute, name, value in own
                if attribute.uniqueness == "server"
            }
        )
        for (name, value_hash), attribute_name in unique.items():
            held = self._session.get(ScimUniqueValue, (name, value_hash))
            if held is not None:
                raise NotUnique(f"{attribute_name} is another person's.", attribute=attribute_name)
        bulk_insert(
            self._session,
            ScimUniqueValue,
            ({"name": name, "value_hash": value_hash, "principal_id": principal_id} for name, value_hash in unique),
        )
        values = {
            (name.lower(), folded_value(entry["value"]))
            for name in _INDEXED
            for entry in extras.get(name) or ()
            if entry.get("value")
        } | {(name, value[:254]) for _, _, name, value in own}
        bulk_insert(
            self._session,
            ScimValue,
            ({"principal_id": principal_id, "name": name, "value": value} for name, value in sorted(values)),
        )

    def _record_said(
        self, person: PersonView, before: Mapping[str, Any], after: Mapping[str, Any], *, has_other_name: bool
    ) -> None:
        """The event of a change that the directory does not see; the names of the attributes, never their values."""
        names = sorted(n for n in {*before, *after} if not n.startswith("~") and before.get(n) != after.get(n))
        event = Event(
            type=EventType.PERSON_UPDATED,
            at=self._now,
            actor=self._sender.caller.actor,
            door=self._sender.caller.door,
            target_kind="person",
            target_id=person.id,
            person_id=person.id,
            organization_id=person.organization_id,
            request_id=self._sender.caller.request_id,
            details={"attributes": [*(["userName"] if has_other_name else []), *names]},
        )
        record(self._session, [event])

    def _note_source(self, person: PersonView, said: Said, *, is_gone: bool) -> None:
        """What this source said last of the person, sealed: personal data."""
        raw = orjson.dumps(
            {
                "userName": said.user_name,
                "active": said.active,
                **said.person,
                "title": said.title,
                "organization": said.company,
                "department": said.department,
                "manager": said.manager,
            },
            option=orjson.OPT_SORT_KEYS,
        )
        key = said.external_id or person.id
        mark = intake.SourceMark(
            provider=self._sender.provider,
            key=person.id,
            scope=person.organization_id,
            content_hash=hashlib.sha256(raw).hexdigest(),
            generation=key[:40],
            state="left" if is_gone else "present",
            raw_sealed=self._keyring.seal(f"source_records:{self._sender.provider}:{person.id}", raw),
        )
        transition(
            self._session,
            [intake.SetSource(principal_id=person.id, source=mark, employment_id=person.main_employment_id)],
            now=self._now,
            actor=self._sender.caller.actor,
            door=self._sender.caller.door,
            request_id=self._sender.caller.request_id,
        )


def _is_present() -> ColumnElement[bool]:
    return or_(Principal.standing.in_(SHOWN_ACTIVE), ScimUser.deleted_at.is_(None))


def _number_from(user_name: str) -> str:
    """An employee number for somebody whose sender gives none: the userName, as far as a number may be written so."""
    number = "".join(character for character in user_name if not character.isspace() and character != "/")[:64]
    return number or "scim"
