"""Forgetting what can no longer be used: expired codes, tokens and login transactions.

Rows stay a day past their end, so that a late replay is still recognised and recorded. Sessions, grants and
participants stay: they say who was where.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select

from idhub.credentials.tables import AccessToken, AuthorizationCode, LoginTransaction, RefreshToken
from idhub.db import Database

_KEPT = timedelta(days=1)
_BATCH = 500
_TABLES: tuple[tuple[Any, Any], ...] = (
    (AccessToken.token_hash, AccessToken.expires_at),
    (AuthorizationCode.code_hash, AuthorizationCode.expires_at),
    (RefreshToken.token_hash, RefreshToken.expires_at),
    (LoginTransaction.id_hash, LoginTransaction.expires_at),
)


def purge_expired(database: Database, *, now: datetime, max_batches: int = 100) -> int:
    """Delete expired rows, a few hundred a transaction, so that nobody waits for it. Returns how many went.

    Opens its own transactions. What is left after `max_batches` goes the next time.
    """
    gone = 0
    before = now - _KEPT
    for key, expires_at in _TABLES:
        for _ in range(max_batches):
            with database.transaction(durable=False) as session:
                keys = list(session.execute(select(key).where(expires_at < before).limit(_BATCH)).scalars())
                if keys:
                    session.execute(delete(key.class_).where(key.in_(keys), expires_at < before))
            gone += len(keys)
            if len(keys) < _BATCH:
                break
    return gone
