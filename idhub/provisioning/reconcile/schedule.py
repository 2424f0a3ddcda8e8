"""What the worker does by itself: the next application that is due, and findings that deliveries have settled.

And what somebody asks of it: every application now, each in its turn.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session

from idhub.access.reconcile_plan import due, note_run, plan_of
from idhub.access.tables import Application, ReconcilePlan, ScimTarget
from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.db import Database
from idhub.delivery.http import OutboundHttp
from idhub.delivery.tables import Lease
from idhub.errors import Conflict
from idhub.keys import Keyring
from idhub.provisioning.reconcile import findings
from idhub.provisioning.reconcile.run import RUNNING, Report, lease_of, reconcile
from idhub.provisioning.reconcile.tables import ReconcileRun

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


@dataclass(frozen=True, slots=True)
class Turn:
    """An application that is being compared, or waits for the worker to come to it."""

    application_id: str
    slug: str
    name: str
    name_zh: str | None
    since: datetime
    is_running: bool
    read: int = 0
    total: int | None = None


def turns(session: Session, *, within: Select[str] | None, now: datetime) -> list[Turn]:
    """What is compared now and what is next, in that order.

    Args:
        within: Subquery of the organizations whose applications count; None: all do.
    """
    running = and_(
        ReconcileRun.application_id == Application.id, ReconcileRun.source == "scim", ReconcileRun.state == RUNNING
    )
    statement = (
        _comparable(within)
        .add_columns(
            *(Application.slug, Application.name, Application.name_zh, ReconcilePlan.next_run_at),
            *(ReconcileRun.started_at, ReconcileRun.read, ReconcileRun.total),
        )
        .outerjoin(ReconcilePlan, ReconcilePlan.application_id == Application.id)
        .outerjoin(ReconcileRun, running)
        .where(or_(ReconcilePlan.next_run_at <= now, ReconcileRun.id.is_not(None)))
        .order_by(ReconcilePlan.next_run_at, Application.id)
    )
    rows = session.execute(statement).all()
    # A run that was broken off has its row until the next one; whether somebody is at it, its lease says.
    held = select(Lease.name).where(Lease.name.in_([lease_of(row.id) for row in rows]), Lease.until > now)
    leases = set(session.execute(held).scalars())
    found = []
    for row in rows:
        if row.started_at is not None and lease_of(row.id) in leases:
            progress = (row.started_at, True, row.read, row.total)
        elif row.next_run_at is not None and row.next_run_at <= now:
            progress = (row.next_run_at, False, 0, None)
        else:
            continue
        found.append(Turn(row.id, row.slug, row.name, row.name_zh, *progress))
    return sorted(found, key=lambda turn: not turn.is_running)


def ask(session: Session, *, within: Select[str] | None, now: datetime, actor: Actor, door: str) -> int:
    """Have the worker compare every application that is not compared or next already. Returns how many.

    Raises:
        Conflict: there is none.
    """
    every = session.execute(_comparable(within)).all()
    if not every:
        raise Conflict("There is no application to compare.", field="application", rule="reconcile.nothing")
    busy = {turn.application_id for turn in turns(session, within=within, now=now)}
    asked = [row for row in every if row.id not in busy]
    if not asked:
        raise Conflict("All of them are under way already.", field="application", rule="reconcile.under_way")
    for row in asked:
        note_run(session, row.id, next_run_at=now)
    events = [
        Event(
            type=EventType.RECONCILE_ASKED,
            at=now,
            actor=actor,
            door=door,
            target_kind="application",
            target_id=row.id,
            organization_id=row.organization_id,
            application_id=row.id,
        )
        for row in asked
    ]
    record(session, events)
    return len(asked)


def _comparable(within: Select[str] | None) -> Select[*tuple[Any, ...]]:
    statement: Select[*tuple[Any, ...]] = (
        select(Application.id, Application.organization_id)
        .join(ScimTarget, ScimTarget.application_id == Application.id)
        .where(Application.is_enabled)
    )
    return statement if within is None else statement.where(Application.organization_id.in_(within))
