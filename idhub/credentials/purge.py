"""Forgetting what can no longer be used: expired credentials, ended sessions, counters that have run out.

Spent and expired values stay a day past their end, so that a late replay is still recognised and recorded. Sessions,
what was done in them, and one-time links stay readable for a while longer.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, case, delete, exists, inspect, or_, select, tuple_

from idhub.credentials.tables import (
    AccessToken,
    AuthorizationCode,
    Grant,
    Invitation,
    LoginTransaction,
    RefreshToken,
    RememberedDevice,
    SamlArtifact,
    SamlLogout,
    SamlRequest,
    ServiceTicket,
    SessionParticipant,
    SsoSession,
    Throttle,
    UpstreamSession,
)
from idhub.db import Base, Database

_BATCH = 500
_BATCHES_A_RUN = 40
# A little longer than they are valid: a late replay is still recognised as one.
_KEEP_SPENT = timedelta(hours=24)
# Lists of sessions stay readable for a while after the sessions have ended.
_KEEP_ENDED = timedelta(days=90)
# A counter does not say which limit it is of. One that counts nothing is a mark, or a place that somebody signed in
# from, which is known for thirty days; one that counts may be of failures in a row, which only a success disregards.
_KEEP_PLACES = timedelta(days=31)
_KEEP_FAILURES = timedelta(days=90)
_KEEP_FULL = timedelta(days=360)
_FULL = 100


def purge_expired(database: Database, *, now: datetime) -> dict[str, int]:
    """Delete credentials that are long dead, in small batches; returns how many by table.

    Opens its own transactions. Bounded: what is left over is for the next run. Nothing that still works, or whose
    replay must be recognised, goes.
    """
    removed: dict[str, int] = {}
    for table, condition in _dead(now):
        key = inspect(table).primary_key
        for _ in range(_BATCHES_A_RUN):
            # Found in a read, so that the write lock is held for deletes by key alone.
            with database.read() as session:
                keys = [tuple(row) for row in session.execute(select(*key).where(condition).limit(_BATCH))]
            if keys:
                with database.transaction(durable=False) as session:
                    statement = delete(table).where(tuple_(*key).in_(keys), condition)
                    done = session.execute(statement.execution_options(synchronize_session=False))
                name = table.__tablename__
                removed[name] = removed.get(name, 0) + int(getattr(done, "rowcount", 0))
            if len(keys) < _BATCH:
                break
    return removed


def _dead(now: datetime) -> list[tuple[type[Base], ColumnElement[bool]]]:
    """What may go, in the order in which rows refer to each other."""
    spent, ended = now - _KEEP_SPENT, now - _KEEP_ENDED
    over = and_(SsoSession.expires_at < ended, or_(SsoSession.ended_at.is_(None), SsoSession.ended_at < ended))
    sessions_over = select(SsoSession.id).where(over)
    grant_over = or_(Grant.ended_at < ended, and_(Grant.session_id.is_not(None), Grant.session_id.in_(sessions_over)))
    no_tokens = and_(
        *(~exists().where(table.grant_id == Grant.id) for table in (AccessToken, RefreshToken, AuthorizationCode))
    )
    no_grants = ~exists().where(Grant.session_id == SsoSession.id)
    no_logouts = ~exists().where(SamlLogout.session_id == SsoSession.id)
    no_upstream = ~exists().where(UpstreamSession.session_id == SsoSession.id)
    no_participants = ~exists().where(SessionParticipant.session_id == SsoSession.id)
    since = Throttle.window_started_at
    counters_over = case(
        (Throttle.failures == 0, since < now - _KEEP_PLACES),
        (Throttle.failures < _FULL, since < now - _KEEP_FAILURES),
        else_=since < now - _KEEP_FULL,
    )
    return [
        (AuthorizationCode, AuthorizationCode.expires_at < spent),
        (AccessToken, AccessToken.expires_at < spent),
        (RefreshToken, RefreshToken.expires_at < spent),
        (LoginTransaction, LoginTransaction.expires_at < spent),
        (RememberedDevice, RememberedDevice.expires_at < spent),
        (Throttle, counters_over),
        (Invitation, Invitation.expires_at < ended),
        (Grant, and_(grant_over, no_tokens)),
        (SamlArtifact, SamlArtifact.expires_at < spent),
        (SamlRequest, SamlRequest.expires_at < spent),
        (SamlLogout, SamlLogout.session_id.in_(sessions_over)),
        (ServiceTicket, ServiceTicket.expires_at < spent),
        (SessionParticipant, SessionParticipant.session_id.in_(sessions_over)),
        (UpstreamSession, UpstreamSession.session_id.in_(sessions_over)),
        (SsoSession, and_(over, no_grants, no_participants, no_logouts, no_upstream)),
    ]
