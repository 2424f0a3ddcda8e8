"""What the worker does by itself: the next application that is due, and findings that deliveries have settled."""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from idhub.access.reconcile_plan import due, note_run, plan_of
from idhub.changes import SYSTEM
from idhub.db import Database
from idhub.delivery.http import OutboundHttp
from idhub.errors import Conflict
from idhub.keys import Keyring
from idhub.provisioning.reconcile import findings
from idhub.provisioning.reconcile.run import Report, reconcile

_SHARE = 1 << 32


def reconcile_due(
    database: Database, keyring: Keyring, http: OutboundHttp, *, clock: Callable[[], datetime]
) -> Report | None:
    """Compare one application whose time has come; None when there is none.

    An application that was never compared gets a place within its interval first, the same in every process: those
    connected together, and a hub that is started anew, do not all ask at once.
    """
    now = clock()
    with database.read() as session:
        is_settling = findings.has_delivered(session)
        waiting = due(session, now=now)
        new = [application_id for application_id in waiting if plan_of(session, application_id).next_run_at is None]
    if is_settling:
        database.run(lambda session: findings.settle_delivered(session, now=now))
    if new:
        database.run(lambda session: _spread(session, new, now=now))
    for application_id in waiting:
        if application_id in new:
            continue
        try:
            return reconcile(database, keyring, http, application_id, clock=clock, actor=SYSTEM)
        except Conflict:
            # Another process is at it.
            continue
    return None


def _spread(session: Session, application_ids: list[str], *, now: datetime) -> None:
    for application_id in application_ids:
        every = plan_of(session, application_id).every
        note_run(session, application_id, next_run_at=now + first_wait(application_id, every))


def first_wait(application_id: str, every: timedelta) -> timedelta:
    """How long an application waits before it is compared for the first time."""
    place = int.from_bytes(hashlib.sha256(application_id.encode()).digest()[:4], "big")
    return every * (place / _SHARE)
