"""Whether a token of the administration API or of a SCIM sender may be used now: one rule for all who ask."""

from datetime import datetime
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.credentials.predicate import may_act
from idhub.directory.tables import Principal


class TokenRow(Protocol):
    """What of a token's row decides; its installation epoch is the statement's that found it."""

    principal_id: str | None
    enrolment_epoch: int | None
    expires_at: datetime | None
    revoked_at: datetime | None


def is_usable(session: Session, row: TokenRow, *, now: datetime) -> bool:
    """Not revoked or expired, its epochs equal, its person active."""
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        return False
    if row.principal_id is None:
        return True
    epoch = session.execute(
        select(Principal.enrolment_epoch).where(Principal.id == row.principal_id, may_act(now))
    ).scalar_one_or_none()
    return epoch == row.enrolment_epoch
