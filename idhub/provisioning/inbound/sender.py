"""Whoever speaks SCIM to the hub: what it may see, and what it calls things."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import Select, bindparam, delete, select, update
from sqlalchemy.orm import Session

from idhub.authority import Action, visible_organizations
from idhub.db import bulk_insert, chunked, upsert
from idhub.directory.tables import Principal
from idhub.errors import NotPermitted
from idhub.lifecycle import commands
from idhub.provisioning.inbound.page import People, present
from idhub.provisioning.inbound.tables import ScimExternalId, ScimUser
from idhub.provisioning.inbound.terms import DEFAULT_TERMS, Ending, Return, Terms
from scim.errors import InvalidValue, NotUnique

MAX_LOOKED_AT: Final = 20_000
"""Resources that a filter beyond the database's reach may look at."""
LONGEST_EXTERNAL_ID: Final = 255
_PROVIDER_LENGTH: Final = 60


def provider_of(token_name: str) -> str:
    """Name of the source that the words of tokens of this name are kept under."""
    return f"scim:{token_name}"[:_PROVIDER_LENGTH]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Whoever speaks SCIM to the hub.

    Args:
        provider: name of the source that its words are kept under; external ids are unique within it.
        organization_id: the company that it is limited to; None: it says the company of each person.
        terms: what its words end, and how far they reach.
    """

    caller: commands.Caller
    provider: str
    organization_id: str | None = None
    terms: Terms = DEFAULT_TERMS


def end_person(
    session: Session, sender: Sender, principal_id: str, ending: Ending, *, now: datetime, reason: str
) -> None:
    """What the sender's terms say of a person whom its word ends, through the one door."""
    if ending is Ending.KEEP:
        return
    act = commands.suspend if ending is Ending.SUSPEND else commands.offboard
    act(session, sender.caller, principal_id, now=now, reason=reason)
    session.execute(
        update(ScimUser)
        .where(ScimUser.principal_id == principal_id)
        .values(
            ended_by=sender.provider,
            ended_epoch=select(Principal.access_epoch).where(Principal.id == principal_id).scalar_subquery(),
        )
        .execution_options(synchronize_session=False)
    )


def check_return(session: Session, sender: Sender, principal_id: str) -> None:
    """Refuse to bring somebody back whom another has suspended or ended, where the terms say so.

    Raises:
        NotPermitted: it is not this sender's to undo.
    """
    if sender.terms.returns is Return.ANYBODY:
        return
    # The epoch goes up with every suspension and leave: a later one is somebody else's.
    own = session.execute(
        select(ScimUser.ended_by)
        .join(Principal, Principal.id == ScimUser.principal_id)
        .where(ScimUser.principal_id == principal_id, ScimUser.ended_epoch == Principal.access_epoch)
    ).scalar_one_or_none()
    if own != sender.provider:
        raise NotPermitted(
            "Somebody else suspended or ended this person; this token brings back only whom it ended itself.",
            field="active",
            rule="scim.returns",
        )


def visible(session: Session, sender: Sender) -> People:
    """Whom the sender may see: in its company, and not deleted by a sender."""
    people = present(sender.provider)
    scope = visible_organizations(session, sender.caller.subject, Action.PEOPLE_READ)
    return people if scope is None else people.where(Principal.organization_id.in_(scope))


def visible_people(session: Session, sender: Sender) -> Select[str]:
    """Ids of people whom the sender may see."""
    return visible(session, sender).ids


# Made once: building a statement costs more than what it asks.
_EXTERNAL = select(ScimExternalId.resource_id, ScimExternalId.external_id).where(
    ScimExternalId.provider == bindparam("provider"),
    ScimExternalId.kind == bindparam("kind"),
    ScimExternalId.resource_id.in_(bindparam("ids", expanding=True)),
)


class ExternalIds:
    """What one sender calls resources of one kind."""

    def __init__(self, session: Session, provider: str, kind: Literal["User", "Group"]) -> None:
        self._session, self._provider, self._kind = session, provider, kind

    def of(self, ids: Sequence[str]) -> dict[str, str]:
        """External ids by id, of those that have one."""
        asked = {"provider": self._provider, "kind": self._kind, "ids": list(ids)}
        return {row[0]: row[1] for row in self._session.connection().execute(_EXTERNAL, asked)}

    def find(self, external_id: str) -> str | None:
        """What the sender calls so."""
        return self._session.execute(
            select(ScimExternalId.resource_id).where(
                ScimExternalId.provider == self._provider,
                ScimExternalId.kind == self._kind,
                ScimExternalId.external_id == external_id,
            )
        ).scalar_one_or_none()

    def set(self, resource_id: str, external_id: str | None) -> None:
        """Keep what the sender calls a resource now.

        Raises:
            NotUnique: it calls another one so.
            InvalidValue: too long.
        """
        if external_id is None:
            self.forget(resource_id)
            return
        if len(external_id) > LONGEST_EXTERNAL_ID:
            raise InvalidValue(f"externalId has at most {LONGEST_EXTERNAL_ID} characters.", attribute="externalId")
        other = self._session.execute(
            select(ScimExternalId.resource_id).where(
                ScimExternalId.provider == self._provider,
                ScimExternalId.kind == self._kind,
                ScimExternalId.external_id == external_id,
                ScimExternalId.resource_id != resource_id,
            )
        ).first()
        if other is not None:
            raise NotUnique("externalId is another resource's.", attribute="externalId")
        values = {"kind": self._kind, "external_id": external_id}
        statement = upsert(self._session, ScimExternalId).values(
            provider=self._provider, resource_id=resource_id, **values
        )
        self._session.execute(statement.on_conflict_do_update(index_elements=["provider", "resource_id"], set_=values))

    def taken(self, names: Collection[str]) -> frozenset[str]:
        """Those of these external ids that stand for somebody."""
        found: set[str] = set()
        for part in chunked(sorted(names)):
            found.update(
                self._session.execute(
                    select(ScimExternalId.external_id).where(
                        ScimExternalId.provider == self._provider,
                        ScimExternalId.kind == self._kind,
                        ScimExternalId.external_id.in_(part),
                    )
                ).scalars()
            )
        return frozenset(found)

    def add(self, pairs: Iterable[tuple[str, str | None]]) -> None:
        """Keep what the sender calls resources that are new; an id that is taken already is the caller's mistake."""
        bulk_insert(
            self._session,
            ScimExternalId,
            (
                {
                    "provider": self._provider,
                    "resource_id": resource_id,
                    "kind": self._kind,
                    "external_id": external_id,
                }
                for resource_id, external_id in pairs
                if external_id is not None
            ),
        )

    def forget(self, resource_id: str) -> None:
        """The resource is gone, or has no such name any more."""
        self._session.execute(
            delete(ScimExternalId).where(
                ScimExternalId.provider == self._provider, ScimExternalId.resource_id == resource_id
            )
        )
