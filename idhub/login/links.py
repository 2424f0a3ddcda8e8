"""Identity links: which upstream subject is whose, who made the link, and who took it away.

A link binds a provider's own name of a subject to a person, within one enrolment. It is another way in for good, so
what rests on one ends with it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from idhub.changes import Actor, Event, EventType, record
from idhub.credentials.sessions import end_session
from idhub.credentials.tables import SsoSession, UpstreamSession
from idhub.db import upsert
from idhub.directory.kinds import EmploymentState
from idhub.directory.tables import Employment, IdentityLink, OrganizationClosure, Principal
from idhub.errors import NotFound
from idhub.login.providers import Provider, find_provider
from idhub.login.tables import IdentityProvider

_CURRENT = IdentityLink.enrolment_epoch == Principal.enrolment_epoch
"""A link dies with the enrolment that it was made in: platforms give their user ids to others."""


# ---------------------------------------------------------------- whose a subject is


def linked(session: Session, provider_id: str, subject: str) -> str | None:
    """Whose the subject is: the link's person, while they are enrolled as they were when it was made."""
    return session.execute(
        select(IdentityLink.principal_id)
        .join(Principal, Principal.id == IdentityLink.principal_id)
        .where(IdentityLink.provider == provider_id, IdentityLink.upstream_subject == subject, _CURRENT)
    ).scalar()


def linked_at(session: Session, provider_id: str, principal_id: str) -> datetime | None:
    """Since when the provider may speak for the person; None: it may not."""
    return session.execute(
        select(IdentityLink.created_at)
        .join(Principal, Principal.id == IdentityLink.principal_id)
        .where(IdentityLink.provider == provider_id, IdentityLink.principal_id == principal_id, _CURRENT)
    ).scalar()


def posts_under(provider: Provider) -> Select[Any]:
    """People with a post that the provider may speak for."""
    within = select(OrganizationClosure.descendant_id).where(
        OrganizationClosure.ancestor_id == provider.organization_id
    )
    return (
        select(Employment.principal_id)
        .where(Employment.organization_id.in_(within), Employment.state != EmploymentState.ENDED)
        .distinct()
    )


def link(
    session: Session,
    provider: Provider,
    subject: str,
    principal_id: str,
    *,
    enrolment: int,
    by: Literal["rule", "person"],
    actor: Actor,
    request_id: str | None,
    now: datetime,
) -> None:
    """Link the subject, with its event, unless it is linked; a link of an enrolment that is over makes room.

    Args:
        subject: what the provider calls the person for good, verified.
        enrolment: the person's enrolment epoch as read before the proof: a leave since then leaves the link dead.
        by: a rule of the provider, or the person who was signed in.
    """
    if linked(session, provider.id, subject) is not None:
        return
    row = {"principal_id": principal_id, "enrolment_epoch": enrolment, "created_at": now}
    statement = upsert(session, IdentityLink).values(provider=provider.id, upstream_subject=subject, **row)
    session.execute(statement.on_conflict_do_update(index_elements=["provider", "upstream_subject"], set_=row))
    made = Event(
        type=EventType.IDENTITY_LINKED,
        at=now,
        actor=actor,
        door="login",
        target_kind="provider",
        target_id=provider.id,
        person_id=principal_id,
        request_id=request_id,
        details={"provider": provider.slug, "by": by},
        personal={"subject": subject},
    )
    record(session, [made])


# ---------------------------------------------------------------- what a person sees of their own


@dataclass(frozen=True, slots=True)
class OwnLink:
    """A provider that may speak for a person, and since when it does; None: it is not linked."""

    slug: str
    name: str
    name_zh: str | None
    linked_at: datetime | None
    sign_on: str


def own_links(session: Session, principal_id: str, *, now: datetime) -> list[OwnLink]:
    """Providers in force of the organizations that the person has a post in, by slug."""
    posts = (
        select(OrganizationClosure.ancestor_id)
        .join(Employment, Employment.organization_id == OrganizationClosure.descendant_id)
        .where(Employment.principal_id == principal_id, Employment.state != EmploymentState.ENDED)
    )
    slugs = session.scalars(
        select(IdentityProvider.slug)
        .where(IdentityProvider.is_enabled, IdentityProvider.organization_id.in_(posts))
        .order_by(IdentityProvider.slug)
    )
    found = []
    for slug in list(slugs):
        provider = find_provider(session, now=now, slug=slug)
        if provider is not None:
            since = linked_at(session, provider.id, principal_id)
            found.append(OwnLink(slug, provider.name, provider.name_zh, since, provider.sign_on[1]))
    return found


# ---------------------------------------------------------------- what others see, and taking away


@dataclass(frozen=True, slots=True)
class HeldLink:
    """A link that a person holds, of a provider in force or not.

    Args:
        id: of the provider: another entity under the same slug is another one.
    """

    id: str
    slug: str
    name: str
    name_zh: str | None
    is_enabled: bool
    linked_at: datetime


def links_of(session: Session, principal_id: str) -> list[HeldLink]:
    """The links of a person that work, or would if their provider were switched on, oldest first."""
    rows = session.execute(
        select(
            IdentityProvider.id,
            IdentityProvider.slug,
            IdentityProvider.name,
            IdentityProvider.name_zh,
            IdentityProvider.is_enabled,
            IdentityLink.created_at,
        )
        .join(IdentityLink, IdentityLink.provider == IdentityProvider.id)
        .join(Principal, Principal.id == IdentityLink.principal_id)
        .where(IdentityLink.principal_id == principal_id, _CURRENT)
        .order_by(IdentityLink.created_at, IdentityProvider.id)
    )
    return [HeldLink(*row) for row in rows]


def find_link(session: Session, principal_id: str, provider_id: str) -> HeldLink:
    """The link of a person to a provider.

    Raises:
        NotFound: there is none.
    """
    for held in links_of(session, principal_id):
        if held.id == provider_id:
            return held
    raise NotFound("There is no such link.", field="provider", rule="link.unknown")


def unlink(
    session: Session,
    provider_id: str,
    slug: str,
    principal_id: str,
    *,
    actor: Actor,
    door: str = "login",
    request_id: str | None,
    now: datetime,
) -> bool:
    """Take the person's link to a provider away; False when there is none.

    Their sessions that rest on what the provider said end, but for the one that does this: whoever has that account is
    out, too. The person is locked first, so that a sign-in which went by the link is over, or finds none.
    """
    session.execute(select(Principal.id).where(Principal.id == principal_id).with_for_update(key_share=True))
    removed = session.execute(
        delete(IdentityLink)
        .where(IdentityLink.provider == provider_id, IdentityLink.principal_id == principal_id)
        .returning(IdentityLink.upstream_subject)
    ).all()
    if removed:
        unlinked = Event(
            type=EventType.IDENTITY_UNLINKED,
            at=now,
            actor=actor,
            door=door,
            target_kind="provider",
            target_id=provider_id,
            person_id=principal_id,
            request_id=request_id,
            details={"provider": slug},
        )
        record(session, [unlinked])
        resting = session.scalars(
            select(SsoSession.id)
            .join(UpstreamSession, UpstreamSession.session_id == SsoSession.id)
            .where(
                UpstreamSession.provider_id == provider_id,
                SsoSession.principal_id == principal_id,
                SsoSession.id != (actor.session_id or ""),
                SsoSession.ended_at.is_(None),
            )
        )
        for session_id in list(resting):
            end_session(session, session_id, reason="unlinked", now=now, actor=actor, door=door)
    return bool(removed)
