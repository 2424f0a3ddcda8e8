"""What has come due: starts, ends and scheduled leaves, at their exact instant and after any downtime."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, union

from idhub.changes import SYSTEM
from idhub.db import Database
from idhub.directory.tables import Employment, EmploymentState
from idhub.lifecycle.intake import Reevaluate
from idhub.lifecycle.receipts import mark_elapsed
from idhub.lifecycle.transition import TransitionResult, transition

_BATCH = 200


def due_principals(database: Database, *, now: datetime, limit: int = _BATCH) -> Sequence[str]:
    """People with an employment that should have begun or ended by `now`."""
    begun = select(Employment.principal_id).where(
        Employment.state == EmploymentState.STAGED, Employment.starts_at <= now
    )
    ended = select(Employment.principal_id).where(Employment.state != EmploymentState.ENDED, Employment.ends_at <= now)
    with database.read() as session:
        return session.execute(union(begun, ended).limit(limit)).scalars().all()


def apply_due(database: Database, *, now: datetime) -> int:
    """Make every start and end that has come due. Returns how many people changed.

    Access itself does not wait for this: the window is part of every check. What follows here is the rest:
    entitlements, deliveries, cases, events.
    """
    changed = 0
    while principal_ids := due_principals(database, now=now):
        result = reevaluate(database, principal_ids, now=now)
        changed += len(result.changed)
        if not result.changed:
            break
    with database.transaction() as session:
        mark_elapsed(session, now=now)
    return changed


def reevaluate(database: Database, principal_ids: Sequence[str], *, now: datetime) -> TransitionResult:
    """Look at these people again, in one transaction."""
    with database.transaction() as session:
        changes = [Reevaluate(principal_id=principal_id) for principal_id in principal_ids]
        return transition(session, changes, now=now, actor=SYSTEM, door="schedule")
