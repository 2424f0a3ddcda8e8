"""What a transition ends: sessions, grants and with them every token, and whom a logout must tell.

The epochs alone make every credential unusable; ending the rows as well keeps lists truthful and yields the
participants whose applications must be told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import OidcClient
from idhub.credentials.tables import Grant, Invitation, RememberedDevice, SessionParticipant, SsoSession
from idhub.db import chunked


@dataclass(frozen=True, slots=True)
class EndedParticipant:
    """An application that used a session which has ended."""

    id: str
    principal_id: str
    application_id: str
    client_id: str
    sid: str
    sub: str
    logout_uri: str | None
    token_expires_at: datetime | None


@dataclass(slots=True)
class Ended:
    """What ended, by principal."""

    sessions: dict[str, int] = field(default_factory=dict)
    grants: dict[str, int] = field(default_factory=dict)
    participants: list[EndedParticipant] = field(default_factory=list)


def end_credentials(session: Session, principal_ids: Sequence[str], *, reason: str, now: datetime) -> Ended:
    """End every session and grant of the principals.

    Runs after their rows were locked and their epochs raised, in the same transaction.
    """
    ended = Ended()
    for part in chunked(principal_ids):
        rows = session.execute(
            update(SsoSession)
            .where(SsoSession.principal_id.in_(part), SsoSession.ended_at.is_(None))
            .values(ended_at=now, end_reason=reason)
            .returning(SsoSession.principal_id)
            .execution_options(synchronize_session=False)
        )
        for (principal_id,) in rows:
            ended.sessions[principal_id] = ended.sessions.get(principal_id, 0) + 1
        rows = session.execute(
            update(Grant)
            .where(Grant.principal_id.in_(part), Grant.ended_at.is_(None))
            .values(ended_at=now, end_reason=reason)
            .returning(Grant.principal_id)
            .execution_options(synchronize_session=False)
        )
        for (principal_id,) in rows:
            ended.grants[principal_id] = ended.grants.get(principal_id, 0) + 1
        ended.participants += _end_participants(session, SessionParticipant.principal_id.in_(part), now=now)
    return ended


def end_enrolments(session: Session, principal_ids: Sequence[str], *, now: datetime) -> None:
    """Spend invitations and forget remembered devices of people who have left; their epoch is over anyway."""
    for part in chunked(principal_ids):
        session.execute(
            update(Invitation)
            .where(Invitation.principal_id.in_(part), Invitation.spent_at.is_(None))
            .values(spent_at=now)
            .execution_options(synchronize_session=False)
        )
        session.execute(
            update(RememberedDevice)
            .where(RememberedDevice.principal_id.in_(part), RememberedDevice.expires_at > now)
            .values(expires_at=now)
            .execution_options(synchronize_session=False)
        )


def end_application_access(
    session: Session, pairs: Sequence[tuple[str, str]], *, reason: str, now: datetime
) -> list[EndedParticipant]:
    """End the grants of (principal, application) pairs whose entitlement is gone; the sessions live on."""
    told: list[EndedParticipant] = []
    for part in chunked(pairs, 400):
        session.execute(
            update(Grant)
            .where(
                Grant.ended_at.is_(None),
                or_(*(and_(Grant.principal_id == p, Grant.application_id == a) for p, a in part)),
            )
            .values(ended_at=now, end_reason=reason)
            .execution_options(synchronize_session=False)
        )
        matches = or_(
            *(and_(SessionParticipant.principal_id == p, SessionParticipant.application_id == a) for p, a in part)
        )
        told += _end_participants(session, matches, now=now)
    return told


def end_sessions(session: Session, session_ids: Sequence[str], *, reason: str, now: datetime) -> list[EndedParticipant]:
    """End sessions with the grants that live on them (logout, "end all others")."""
    told: list[EndedParticipant] = []
    for part in chunked(session_ids):
        session.execute(
            update(SsoSession)
            .where(SsoSession.id.in_(part), SsoSession.ended_at.is_(None))
            .values(ended_at=now, end_reason=reason)
            .execution_options(synchronize_session=False)
        )
        session.execute(
            update(Grant)
            .where(Grant.session_id.in_(part), Grant.ended_at.is_(None))
            .values(ended_at=now, end_reason=reason)
            .execution_options(synchronize_session=False)
        )
        told += _end_participants(session, SessionParticipant.session_id.in_(part), now=now)
    return told


def _end_participants(session: Session, criterion: object, *, now: datetime) -> list[EndedParticipant]:
    rows = session.execute(
        select(
            SessionParticipant.id,
            SessionParticipant.principal_id,
            SessionParticipant.application_id,
            SessionParticipant.client_id,
            SessionParticipant.sid,
            SessionParticipant.sub,
            OidcClient.backchannel_logout_uri,
            SessionParticipant.token_expires_at,
        )
        .join(OidcClient, OidcClient.client_id == SessionParticipant.client_id)
        .where(SessionParticipant.ended_at.is_(None), criterion)  # type: ignore[arg-type]
    ).all()
    for part in chunked([row.id for row in rows]):
        session.execute(
            update(SessionParticipant)
            .where(SessionParticipant.id.in_(part))
            .values(ended_at=now)
            .execution_options(synchronize_session=False)
        )
    return [EndedParticipant(*row) for row in rows]
