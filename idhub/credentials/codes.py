"""Issuing an authorization code: the moment when an application joins a session."""

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from idhub.access.tables import Application, OidcClient
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import opaque
from idhub.credentials.predicate import (
    SESSION_CRITERIA,
    Refused,
    entitled,
    first_failing,
    labelled,
    session_criteria,
)
from idhub.credentials.sessions import lock_principal
from idhub.credentials.tables import AuthorizationCode, Grant, SessionParticipant, SsoSession
from idhub.db import new_id
from idhub.directory.tables import Principal, SubjectIdentifier
from idhub.settings import Settings

PUBLIC_SECTOR = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRequest:
    """What a code is bound to. All values have been checked against the client's registration."""

    client_id: str
    redirect_uri: str
    code_challenge: str
    scope: str
    nonce: str | None
    ip: str | None
    request_id: str | None = None


def issue_code(
    session: Session, session_id: str, request: CodeRequest, *, now: datetime, settings: Settings
) -> str | Refused:
    """Issue a code under the session and return its value, or say which criterion of the use predicate failed.

    Locks the principal, then the session's row, and only then asks the predicate: a transition or a logout that began
    before is seen here, one that begins later sees the participant written here. The grant is stamped with the
    session's epochs, which were read before the password was checked.
    """
    principal_id = session.execute(select(SsoSession.principal_id).where(SsoSession.id == session_id)).scalar()
    if principal_id is None:
        return Refused("session_ended")
    lock_principal(session, principal_id)
    session.execute(
        update(SsoSession)
        .where(SsoSession.id == session_id, SsoSession.ended_at.is_(None), SsoSession.idle_expires_at > now)
        .values(last_seen_at=now, idle_expires_at=now + settings.session_idle)
    )
    criteria = {
        **session_criteria(now),
        "client_disabled": OidcClient.is_enabled.is_(True),
        "application_disabled": Application.is_enabled.is_(True),
        "not_entitled": entitled(now, principal_id=SsoSession.principal_id, application_id=OidcClient.application_id),
    }
    row = session.execute(
        select(
            SsoSession.access_epoch,
            SsoSession.enrolment_epoch,
            SsoSession.installation_epoch,
            SsoSession.authenticated_at,
            OidcClient.application_id,
            OidcClient.sector,
            *labelled(criteria),
        )
        .join(Principal, Principal.id == SsoSession.principal_id)
        .join(OidcClient, OidcClient.client_id == request.client_id)
        .join(Application, Application.id == OidcClient.application_id)
        .where(SsoSession.id == session_id)
    ).one()
    refused = first_failing(
        dict(row._mapping), (*SESSION_CRITERIA, "client_disabled", "application_disabled", "not_entitled")
    )
    if refused is not None:
        return refused
    sub = subject_of(session, principal_id, row.sector or PUBLIC_SECTOR, now=now)
    participant_id, has_joined = _join(
        session,
        session_id,
        principal_id,
        client_id=request.client_id,
        application_id=row.application_id,
        sub=sub,
        now=now,
    )
    grant_id, code = new_id("grt"), opaque.make("ac")
    session.execute(
        insert(Grant).values(
            id=grant_id,
            principal_id=principal_id,
            client_id=request.client_id,
            application_id=row.application_id,
            session_id=session_id,
            participant_id=participant_id,
            scope=request.scope,
            access_epoch=row.access_epoch,
            enrolment_epoch=row.enrolment_epoch,
            installation_epoch=row.installation_epoch,
            authenticated_at=row.authenticated_at,
            created_at=now,
        )
    )
    session.execute(
        insert(AuthorizationCode).values(
            code_hash=opaque.hash_of(code),
            grant_id=grant_id,
            client_id=request.client_id,
            redirect_uri=request.redirect_uri,
            code_challenge=request.code_challenge,
            nonce=request.nonce,
            expires_at=now + settings.code_lifetime,
        )
    )
    actor = Actor(kind="person", id=principal_id, session_id=session_id, ip=request.ip)
    issued = Event(
        type=EventType.CODE_ISSUED,
        at=now,
        actor=actor,
        door="oidc",
        target_kind="client",
        target_id=request.client_id,
        request_id=request.request_id,
        person_id=principal_id,
        application_id=row.application_id,
        details={"grant": grant_id, "scope": request.scope},
    )
    joined = Event(
        type=EventType.SESSION_APP_JOINED,
        at=now,
        actor=actor,
        door="oidc",
        target_kind="session",
        target_id=session_id,
        request_id=request.request_id,
        person_id=principal_id,
        application_id=row.application_id,
        details={"client": request.client_id},
    )
    record(session, [joined, issued] if has_joined else [issued])
    return code


def subject_of(session: Session, principal_id: str, sector: str, *, now: datetime) -> str:
    """The `sub` of the principal towards a sector, made on first use and kept for ever (OIDC Core section 8)."""
    find = select(SubjectIdentifier.sub).where(
        SubjectIdentifier.principal_id == principal_id, SubjectIdentifier.sector == sector
    )
    sub = session.execute(find).scalar()
    if sub is None:
        dialect = session.get_bind().dialect.name
        new = sqlite.insert(SubjectIdentifier) if dialect == "sqlite" else postgresql.insert(SubjectIdentifier)
        session.execute(
            new.values(
                principal_id=principal_id,
                sector=sector,
                # Not a client_id by any registration (RFC 9700 section 4.15): 160 random bits.
                sub=secrets.token_hex(20),
                is_active=True,
                created_at=now,
            ).on_conflict_do_nothing(index_elements=["principal_id", "sector"])
        )
        sub = session.execute(find).scalar_one()
    return sub


def _join(
    session: Session,
    session_id: str,
    principal_id: str,
    *,
    client_id: str,
    application_id: str,
    sub: str,
    now: datetime,
) -> tuple[str, bool]:
    """The participant row of this client in this session, alive; and whether it is new. The session's row is locked."""
    row = session.execute(
        select(SessionParticipant.id, SessionParticipant.ended_at).where(
            SessionParticipant.session_id == session_id, SessionParticipant.client_id == client_id
        )
    ).first()
    if row is None:
        participant_id = new_id("par")
        session.execute(
            insert(SessionParticipant).values(
                id=participant_id,
                session_id=session_id,
                principal_id=principal_id,
                application_id=application_id,
                client_id=client_id,
                sid=secrets.token_hex(20),
                sub=sub,
                joined_at=now,
                last_used_at=now,
            )
        )
        return participant_id, True
    values: dict[str, object] = {"last_used_at": now}
    if row.ended_at is not None:
        # It was told that this session is over and may remember that: it comes back under another name.
        values |= {"ended_at": None, "sid": secrets.token_hex(20), "joined_at": now, "token_expires_at": None}
    session.execute(update(SessionParticipant).where(SessionParticipant.id == row.id).values(**values))
    return row.id, row.ended_at is not None
