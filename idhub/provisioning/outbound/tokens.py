"""Credentials of targets: when they end, and how a new one takes the place of the old without a gap.

A new token is stored beside the present one, tried, and then switched to; the old one is forgotten with the switch. A
token that ends soon is an event and shown on the application's page and by `idhub doctor`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import exists, literal, select
from sqlalchemy.orm import Session

from audit.tables import audit_events
from idhub.access.applications import scim_token_context
from idhub.access.tables import Application, ScimTarget
from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.db import Instant
from idhub.delivery.holds import probe_now
from idhub.errors import Conflict, Invalid, NotFound
from idhub.provisioning.outbound.planner import CHANNEL

REMIND_BEFORE: Final = timedelta(days=14)
REMIND_EVERY: Final = timedelta(days=1)
_MAX_LENGTH: Final = 4_096

Seal = Callable[[str, bytes], bytes]


def next_token_context(application_id: str) -> str:
    """Name under which a token that is to take over is sealed."""
    return f"scim_targets:{application_id}:next_token"


@dataclass(frozen=True, slots=True)
class Expiring:
    """A target whose token ends soon, or has ended."""

    application_id: str
    slug: str
    expires_at: datetime
    has_next: bool


def expiring(session: Session, *, now: datetime) -> list[Expiring]:
    """Targets of enabled applications whose token ends within `REMIND_BEFORE`, the first to end first."""
    rows = session.execute(
        select(ScimTarget.application_id, Application.slug, ScimTarget.token_expires_at, ScimTarget.next_token_sealed)
        .join(Application, Application.id == ScimTarget.application_id)
        .where(Application.is_enabled, ScimTarget.token_expires_at <= now + REMIND_BEFORE)
        .order_by(ScimTarget.token_expires_at)
    )
    return [Expiring(row[0], row[1], row[2], row[3] is not None) for row in rows if row[2] is not None]


def remind(session: Session, *, now: datetime) -> int:
    """Record tokens that end soon, each once a day. Returns how many were recorded."""
    reminded = exists().where(
        audit_events.c.application_id == ScimTarget.application_id,
        audit_events.c.type == EventType.APPLICATION_TOKEN_EXPIRES,
        audit_events.c.at > literal(now - REMIND_EVERY, Instant()),
    )
    due = [one.application_id for one in expiring(session, now=now)]
    if not due:
        return 0
    open_ones = set(
        session.scalars(select(ScimTarget.application_id).where(ScimTarget.application_id.in_(due), ~reminded))
    )
    events = [
        _event(
            EventType.APPLICATION_TOKEN_EXPIRES,
            one.application_id,
            now=now,
            actor=SYSTEM,
            door="worker",
            reason="ended" if one.expires_at <= now else "soon",
        )
        for one in expiring(session, now=now)
        if one.application_id in open_ones
    ]
    record(session, events)
    return len(events)


def stage(
    session: Session,
    application_id: str,
    token: str,
    *,
    expires_at: datetime | None,
    seal: Seal,
    now: datetime,
    actor: Actor,
    door: str,
) -> None:
    """Put a new token beside the present one.

    Raises:
        Invalid: it cannot be sent in a header.
        NotFound: the application has no SCIM target.
    """
    if not 0 < len(token) <= _MAX_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise Invalid("A token is one line of printable ASCII without blanks.", field="token", rule="token.characters")
    target = _locked(session, application_id)
    target.next_token_sealed = seal(next_token_context(application_id), token.encode())
    target.next_token_expires_at = expires_at
    session.flush()
    record(session, [_event(EventType.APPLICATION_TOKEN_STAGED, application_id, now=now, actor=actor, door=door)])


def switch(
    session: Session,
    application_id: str,
    *,
    seal: Seal,
    open_sealed: Seal,
    now: datetime,
    actor: Actor,
    door: str,
) -> None:
    """Let the new token take the place of the old one, which is forgotten; a queue held for want of it is tried.

    Raises:
        NotFound: the application has no SCIM target.
        Conflict: there is no new token.
    """
    target = _locked(session, application_id)
    if target.next_token_sealed is None:
        raise Conflict("There is no new token to switch to.", field="token", rule="token.none_staged")
    token = open_sealed(next_token_context(application_id), target.next_token_sealed)
    target.token_sealed = seal(scim_token_context(application_id), token)
    target.token_hash = hashlib.sha256(token).hexdigest()
    target.token_expires_at = target.next_token_expires_at
    target.next_token_sealed = target.next_token_expires_at = None
    target.changed_at = now
    session.flush()
    probe_now(session, application_id, CHANNEL, now=now)
    record(session, [_event(EventType.APPLICATION_TOKEN_SWITCHED, application_id, now=now, actor=actor, door=door)])


def _locked(session: Session, application_id: str) -> ScimTarget:
    target = session.scalars(
        select(ScimTarget).where(ScimTarget.application_id == application_id).with_for_update()
    ).one_or_none()
    if target is None:
        raise NotFound("This application has no SCIM target.", field="application", rule="scim.none")
    return target


def _event(
    kind: EventType, application_id: str, *, now: datetime, actor: Actor, door: str, reason: str | None = None
) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=actor,
        door=door,
        target_kind="application",
        target_id=application_id,
        application_id=application_id,
        reason=reason,
    )
