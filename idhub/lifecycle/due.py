"""What has come due: starts, ends and scheduled leaves, at their exact instant and after any downtime."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import literal_column, select, union
from sqlalchemy.orm import Session

from idhub.changes import SYSTEM
from idhub.db import Database
from idhub.directory.kinds import EmploymentState
from idhub.directory.tables import Employment
from idhub.lifecycle.intake import Reevaluate
from idhub.lifecycle.pace import GoesOn, Pace, nobody_else
from idhub.lifecycle.receipts import mark_elapsed
from idhub.lifecycle.transition import TransitionResult, transition

_BATCH = 200
# So many at once are left to whoever can take them, before the first of them is begun.
_MANY = 50
_LOG = structlog.get_logger(__name__)


# Spelled out in the statement: SQLite uses a partial index only when it sees the index's own condition there.
_STAGED: Any = literal_column(f"'{EmploymentState.STAGED.value}'")
_ENDED: Any = literal_column(f"'{EmploymentState.ENDED.value}'")


def due_principals(
    database: Database, *, now: datetime, limit: int = _BATCH, besides: Sequence[str] = ()
) -> Sequence[str]:
    """People with an employment that should have begun or ended by `now`, `besides` left out."""
    begun = select(Employment.principal_id).where(
        Employment.state == _STAGED, Employment.starts_at <= now, Employment.principal_id.not_in(besides)
    )
    ended = select(Employment.principal_id).where(
        Employment.state != _ENDED, Employment.ends_at <= now, Employment.principal_id.not_in(besides)
    )
    with database.read() as session:
        return session.execute(union(begun, ended).limit(limit)).scalars().all()


def apply_due(database: Database, *, now: datetime, goes_on: GoesOn = nobody_else) -> int:
    """Make every start and end that has come due. Returns how many people changed.

    Access itself does not wait for this: the window is part of every check. What follows here is the rest:
    entitlements, deliveries, cases, events. Somebody whose change fails holds up nobody else; it is tried again with
    the next run.
    """
    changed = 0
    failed: list[str] = []
    pace = Pace(database.dialect, is_short=True)
    found = len(due_principals(database, now=now, limit=_MANY))
    if found == _MANY and not goes_on(found):
        return 0
    while found and (principal_ids := due_principals(database, now=now, limit=pace.size, besides=failed)):
        failed_before = len(failed)
        try:
            done = len(reevaluate(database, principal_ids, now=now, pace=pace).changed)
        except Exception:
            _LOG.exception("due.batch_failed", people=len(principal_ids))
            done = _one_by_one(database, principal_ids, failed, now=now)
        changed += done
        if not done and len(failed) == failed_before:
            break
        if not goes_on(done):
            return changed
        database.give_way()
    database.run(lambda session: mark_elapsed(session, now=now))
    return changed


def _one_by_one(database: Database, principal_ids: Sequence[str], failed: list[str], *, now: datetime) -> int:
    """Each alone, so that one who fails is found; appends those to `failed`."""
    changed = 0
    for principal_id in principal_ids:
        try:
            changed += len(reevaluate(database, [principal_id], now=now).changed)
        except Exception:
            _LOG.exception("due.failed", person=principal_id)
            failed.append(principal_id)
    return changed


def reevaluate(
    database: Database, principal_ids: Sequence[str], *, now: datetime, pace: Pace | None = None
) -> TransitionResult:
    """Look at these people again, in one transaction."""
    changes = [Reevaluate(principal_id=principal_id) for principal_id in principal_ids]
    learning = pace or Pace(database.dialect)

    def work(session: Session) -> TransitionResult:
        with learning.work_on(len(changes)):
            return transition(session, changes, now=now, actor=SYSTEM, door="schedule")

    return database.run(work)
