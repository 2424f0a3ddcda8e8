"""Logout that begins at a company's identity provider: what rests on its word there ends here."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.changes import Actor, Event, EventType, record
from idhub.credentials.assertions import is_first_use
from idhub.credentials.sessions import end_session
from idhub.credentials.tables import SsoSession, UpstreamSession
from idhub.login.providers import Provider
from providers.saml import LIFETIME, SKEW, LogoutAsked


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """How a logout went.

    Args:
        is_known: the subject has, or had, a session here that rests on this provider.
        is_whole: every application of those sessions is told without a browser.
    """

    is_known: bool
    is_whole: bool


def log_out(
    session: Session, provider: Provider, asked: LogoutAsked, *, ip: str, request_id: str | None, now: datetime
) -> LoggedOut | None:
    """End the sessions that rest on what the provider said of the subject; None when the request was seen before.

    Applications are told by the worker. Those that only a browser can tell are not: their logout is not whole.
    """
    expires_at = now + LIFETIME + 2 * SKEW
    if not is_first_use(session, provider.id, asked.id, expires_at=expires_at):
        return None
    statement = (
        select(SsoSession.id, SsoSession.principal_id, SsoSession.ended_at)
        .join(UpstreamSession, UpstreamSession.session_id == SsoSession.id)
        .where(UpstreamSession.provider_id == provider.id, UpstreamSession.name_id == asked.name_id)
        .order_by(SsoSession.principal_id, SsoSession.id)
    )
    if asked.session_indexes:
        statement = statement.where(UpstreamSession.session_index.in_(asked.session_indexes))
    rows = session.execute(statement).all()
    actor = Actor(kind="client", id=provider.id, ip=ip)
    is_whole = True
    for row in rows:
        if row.ended_at is not None:
            continue
        wanted = Event(
            type=EventType.LOGOUT_REQUESTED,
            at=now,
            actor=actor,
            door="login",
            target_kind="session",
            target_id=row.id,
            request_id=request_id,
            person_id=row.principal_id,
            details={"provider": provider.slug},
        )
        record(session, [wanted])
        ended = end_session(session, row.id, reason="upstream_logout", now=now, actor=actor)
        is_whole = is_whole and all(participant.logout_uri for participant in ended)
    return LoggedOut(bool(rows), is_whole)
