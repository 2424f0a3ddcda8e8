"""Whoever speaks SCIM to the hub: what it may see, and what it calls things."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Select, delete, or_, select
from sqlalchemy.orm import Session

from idhub.authority import Action, visible_organizations
from idhub.db import upsert
from idhub.directory.kinds import Standing
from idhub.directory.tables import Person, Principal
from idhub.lifecycle import commands
from idhub.provisioning.tables import ScimExternalId, ScimUser
from scim.errors import InvalidValue, NotUnique

MAX_LOOKED_AT: Final = 20_000
"""Resources that a filter beyond the database's reach may look at."""
_LONGEST_EXTERNAL_ID: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Whoever speaks SCIM to the hub.

    Args:
        provider: name of the source that its words are kept under; external ids are unique within it.
        organization_id: the company that it is limited to; None: it says the company of each person.
    """

    caller: commands.Caller
    provider: str
    organization_id: str | None = None


def visible_people(session: Session, sender: Sender) -> Select[str]:
    """Ids of people whom the sender may see: in its company, and not deleted by a sender since they left."""
    statement = (
        select(Person.id)
        .join(Principal, Principal.id == Person.id)
        .outerjoin(ScimUser, ScimUser.principal_id == Person.id)
        .where(or_(Principal.standing != Standing.LEFT, ScimUser.deleted_at.is_(None)))
    )
    scope = visible_organizations(session, sender.caller.subject, Action.PEOPLE_READ)
    return statement if scope is None else statement.where(Principal.organization_id.in_(scope))


class ExternalIds:
    """What one sender calls resources of one kind."""

    def __init__(self, session: Session, provider: str, kind: Literal["User", "Group"]) -> None:
        self._session, self._provider, self._kind = session, provider, kind

    def of(self, ids: Sequence[str]) -> dict[str, str]:
        """External ids by id, of those that have one."""
        rows = self._session.execute(
            select(ScimExternalId.resource_id, ScimExternalId.external_id).where(
                ScimExternalId.provider == self._provider,
                ScimExternalId.kind == self._kind,
                ScimExternalId.resource_id.in_(ids),
            )
        )
        return {row.resource_id: row.external_id for row in rows}

    def set(self, resource_id: str, external_id: str | None) -> None:
        """Keep what the sender calls a resource now.

        Raises:
            NotUnique: it calls another one so.
            InvalidValue: too long.
        """
        if external_id is None:
            self.forget(resource_id)
            return
        if len(external_id) > _LONGEST_EXTERNAL_ID:
            raise InvalidValue(f"externalId has at most {_LONGEST_EXTERNAL_ID} characters.", attribute="externalId")
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

    def forget(self, resource_id: str) -> None:
        """The resource is gone, or has no such name any more."""
        self._session.execute(
            delete(ScimExternalId).where(
                ScimExternalId.provider == self._provider, ScimExternalId.resource_id == resource_id
            )
        )
