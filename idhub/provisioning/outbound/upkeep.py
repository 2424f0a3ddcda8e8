"""What the worker does for targets beside sending: plans discoveries, groups, runs, deletions, what is due again.

Each job looks first and writes only where there is something to do: an idle hub takes no write lock for it.
"""

from datetime import datetime
from functools import partial

from sqlalchemy import select

from idhub.access.tables import ScimTarget
from idhub.db import Database
from idhub.provisioning.outbound import again, deletion, discovering, groups, sync, tokens

_PARTS = 10


def tend(database: Database, *, now: datetime) -> int:
    """Plan what is due of discoveries, groups, runs and accounts. Returns how many deliveries were planned."""
    with database.read() as session:
        if session.execute(select(ScimTarget.application_id).limit(1)).first() is None:
            return 0
        discoveries = discovering.is_due(session, now=now)
        changed_groups = groups.is_due(session, now=now)
        runs = sync.under_way(session)
        due_again = again.due(session)
    planned = 0
    if discoveries:
        planned += database.run(lambda session: discovering.plan_due(session, now=now))
    if changed_groups:
        planned += database.run(lambda session: groups.plan_due(session, now=now))
    for application_id in due_again:
        planned += database.run(partial(again.plan_due, application_id=application_id, now=now))
    for run_id in runs:
        for _ in range(_PARTS):
            part = database.run(partial(sync.advance, run_id=run_id, now=now))
            planned += part
            if not part:
                break
    return planned


def tend_slowly(database: Database, *, now: datetime) -> int:
    """Plan deletions whose time has come, and remind of tokens that end. Returns how many of both there were."""
    with database.read() as session:
        has_retention = deletion.is_due(session, now=now)
        ending = tokens.expiring(session, now=now)
    done = 0
    if has_retention:
        done += database.run(lambda session: deletion.plan_due(session, now=now))
    if ending:
        done += database.run(lambda session: tokens.remind(session, now=now))
    return done
