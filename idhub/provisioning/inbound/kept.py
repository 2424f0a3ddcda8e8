"""What is kept of a sender's words beside the directory, and what filters find of it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import orjson
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from idhub.changes import Event, EventType, record
from idhub.db import bulk_insert, chunked, upsert
from idhub.directory.people import PersonView, show_person
from idhub.keys import Keyring
from idhub.lifecycle import intake
from idhub.lifecycle.transition import transition
from idhub.provisioning.events.feed import tell_one
from idhub.provisioning.inbound.extensions import filed
from idhub.provisioning.inbound.person_resource import REMOVED_ACTIVE, UNSAID, Said, user_name_key
from idhub.provisioning.inbound.query import folded_value
from idhub.provisioning.inbound.sender import ExternalIds, Sender
from idhub.provisioning.inbound.tables import ScimUniqueValue, ScimUser, ScimValue
from scim.attributes import ResourceType
from scim.errors import InvalidValue, NotUnique
from scim.events import Kind
from scim.schemas import ENTERPRISE_USER, Resource

_MAX_EXTRAS: Final = 32_768
_INDEXED: Final = ("emails", "phoneNumbers")
_Values: TypeAlias = set[tuple[str, str]]
_Unique: TypeAlias = dict[tuple[str, str], str]


class Kept:
    """What one sender said of people."""

    def __init__(
        self,
        session: Session,
        sender: Sender,
        keyring: Keyring,
        kind: ResourceType,
        external: ExternalIds,
        *,
        now: datetime,
    ) -> None:
        self._session, self._sender, self._keyring, self._kind = session, sender, keyring, kind
        self._external, self._now = external, now

    def keep(
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
        post = person.main
        company, code, manager = (post.company, post.company_code, post.manager_id) if post else (None, None, None)
        extras = unplaced(said, companies=(company, code), manager_id=manager)
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
            self._tell(person, said, extras, known, is_gone=deleted_at is not None)
            if known is not None and known.deleted_at is None and deleted_at is None:
                self._record_said(person, known.extras, extras, has_other_name=known.user_name != said.user_name)
        self._external.set(principal_id, said.external_id)
        self._note_source(person, said, is_gone=deleted_at is not None)

    def _tell(self, person: PersonView, said: Said, extras: Mapping[str, Any], known: Any, *, is_gone: bool) -> None:
        """Tell whoever listens what the one door does not see."""
        was_gone = known is not None and known.deleted_at is not None
        if was_gone:
            # Seen again, if at all, by what the one door did.
            return
        other = () if known is not None and known.user_name == said.user_name else ("userName",)
        names = [*other, *changed_names({} if known is None else known.extras, extras)]
        kind = Kind.DELETED if is_gone else Kind.PATCHED
        told = () if is_gone else names
        tell_one(self._session, "User", person.id, kind, told, organization_id=person.organization_id, now=self._now)

    def _index(self, principal_id: str, extras: Mapping[str, Any], *, is_gone: bool) -> None:
        """File what filters find by equality, and hold what nobody else may have.

        Raises:
            NotUnique: somebody has it.
        """
        self._session.execute(delete(ScimValue).where(ScimValue.principal_id == principal_id))
        self._session.execute(delete(ScimUniqueValue).where(ScimUniqueValue.principal_id == principal_id))
        values, unique = self._filed(extras)
        if is_gone:
            unique = {}
        for (name, value_hash), attribute_name in unique.items():
            held = self._session.get(ScimUniqueValue, (name, value_hash))
            if held is not None:
                raise NotUnique(f"{attribute_name} is another person's.", attribute=attribute_name)
        self._insert([(principal_id, values, unique)])

    def _record_said(
        self, person: PersonView, before: Mapping[str, Any], after: Mapping[str, Any], *, has_other_name: bool
    ) -> None:
        """The event of a change that the directory does not see; the names of the attributes, never their values."""
        names = changed_names(before, after)
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
        mark = self.source_mark(person.id, person.organization_id, said, is_gone=is_gone)
        transition(
            self._session,
            [intake.SetSource(principal_id=person.id, source=mark, employment_id=person.main_employment_id)],
            now=self._now,
            actor=self._sender.caller.actor,
            door=self._sender.caller.door,
            request_id=self._sender.caller.request_id,
        )

    def source_mark(
        self, principal_id: str, organization_id: str, said: Said, *, is_gone: bool = False
    ) -> intake.SourceMark:
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
        key = said.external_id or principal_id
        return intake.SourceMark(
            provider=self._sender.provider,
            key=principal_id,
            scope=organization_id,
            content_hash=hashlib.sha256(raw).hexdigest(),
            generation=key[:40],
            state="left" if is_gone else "present",
            raw_sealed=self._keyring.seal(f"source_records:{self._sender.provider}:{principal_id}", raw),
        )

    # --- of several who are new ---------------------------------------------------------------------------------------

    def taken(self, said: Sequence[tuple[Said, Resource]]) -> set[int]:
        """Places of those whom `keep_new` would refuse, or who need the looks of `keep`."""
        hashes: dict[tuple[str, str], int] = {}
        refused: set[int] = set()
        for place, (_, extras) in enumerate(said):
            for key in self._filed(extras)[1]:
                if key in hashes:
                    refused.add(place)
                hashes.setdefault(key, place)
            if len(orjson.dumps(extras)) > _MAX_EXTRAS:
                refused.add(place)
        for part in chunked(sorted({value_hash for _, value_hash in hashes})):
            held = select(ScimUniqueValue.name, ScimUniqueValue.value_hash).where(ScimUniqueValue.value_hash.in_(part))
            refused |= {hashes[row[0], row[1]] for row in self._session.execute(held) if (row[0], row[1]) in hashes}
        return refused

    def keep_new(self, people: Sequence[tuple[str, Said, Resource]]) -> None:
        """`keep` of people who were made in this transaction: their ids, what was said, and the extras of it."""
        bulk_insert(
            self._session,
            ScimUser,
            [
                {
                    "principal_id": principal_id,
                    "user_name": said.user_name,
                    "user_name_key": user_name_key(said.user_name),
                    "extras": extras,
                    "version": 1,
                    "changed_at": self._now,
                    "deleted_at": None,
                    "ended_by": None,
                    "ended_epoch": None,
                }
                for principal_id, said, extras in people
            ],
        )
        self._insert([(principal_id, *self._filed(extras)) for principal_id, _, extras in people])
        self._external.add((principal_id, said.external_id) for principal_id, said, _ in people)

    # --- what filters find --------------------------------------------------------------------------------------------

    def _filed(self, extras: Mapping[str, Any]) -> tuple[_Values, _Unique]:
        """What filters find by equality, and what nobody else may have, with the attribute that says so."""
        own = list(filed(self._kind.extensions, extras))
        values = {
            (name.lower(), folded_value(entry["value"]))
            for name in _INDEXED
            for entry in extras.get(name) or ()
            if entry.get("value")
        } | {(name, value[:254]) for _, _, name, value in own}
        unique = {
            (name, hashlib.sha256(value.encode()).hexdigest()): f"{urn}:{attribute.name}"
            for urn, attribute, name, value in own
            if attribute.uniqueness == "server"
        }
        return values, unique

    def _insert(self, people: Sequence[tuple[str, _Values, _Unique]]) -> None:
        bulk_insert(
            self._session,
            ScimUniqueValue,
            (
                {"name": name, "value_hash": value_hash, "principal_id": principal_id}
                for principal_id, _, unique in people
                for name, value_hash in unique
            ),
        )
        bulk_insert(
            self._session,
            ScimValue,
            (
                {"principal_id": principal_id, "name": name, "value": value}
                for principal_id, values, _ in people
                for name, value in sorted(values)
            ),
        )


def changed_names(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of attributes of which something else is kept now."""
    return sorted(n for n in {*before, *after} if not n.startswith("~") and before.get(n) != after.get(n))


def unplaced(said: Said, *, companies: Collection[str | None], manager_id: str | None) -> Resource:
    """The extras, with the words for company and manager that named nothing here.

    Args:
        companies: what the person's company is called.
    """
    extras = dict(said.extras)
    enterprise = dict(extras.get(ENTERPRISE_USER) or {})
    if said.company is not None and said.company not in companies:
        enterprise["organization"] = said.company
    if said.manager is not None and manager_id != said.manager:
        enterprise["manager"] = {"value": said.manager}
    if enterprise:
        extras[ENTERPRISE_USER] = enterprise
    return extras
