"""How often applications are compared with what they should hold, and what follows by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, and_, or_, select, type_coerce
from sqlalchemy.orm import Session

from idhub.access.tables import Application, ReconcilePlan, ScimTarget
from idhub.db import to_micros, upsert

DEFAULT_EVERY = timedelta(days=1)
DEFAULT_POLICY = "report"
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class PlanView:
    """What holds for an application. `every` zero: only when somebody asks."""

    every: timedelta = DEFAULT_EVERY
    policy: str = DEFAULT_POLICY
    service_accounts: tuple[str, ...] = ()
    next_run_at: datetime | None = None
    completed_at: datetime | None = None


def plan_of(session: Session, application_id: str) -> PlanView:
    """The application's plan; the defaults where nothing was said."""
    row = session.execute(
        select(
            ReconcilePlan.every_seconds,
            ReconcilePlan.policy,
            ReconcilePlan.service_accounts,
            ReconcilePlan.next_run_at,
            ReconcilePlan.completed_at,
        ).where(ReconcilePlan.application_id == application_id)
    ).one_or_none()
    if row is None:
        return PlanView()
    return PlanView(
        timedelta(seconds=row.every_seconds), row.policy, tuple(row.service_accounts), row.next_run_at, row.completed_at
    )


def set_plan(
    session: Session, application_id: str, *, every: timedelta, policy: str, service_accounts: Sequence[str]
) -> list[tuple[str, object, object]]:
    """Say how an application is compared. Returns what changed: (field, before, after)."""
    before = plan_of(session, application_id)
    wanted: dict[str, object] = {
        "every_seconds": int(every.total_seconds()),
        "policy": policy,
        "service_accounts": list(service_accounts),
    }
    shown = {
        "every_seconds": int(before.every.total_seconds()),
        "policy": before.policy,
        "service_accounts": list(before.service_accounts),
    }
    changes = [(f"reconcile.{name}", shown[name], value) for name, value in wanted.items() if shown[name] != value]
    if changes:
        if not every:
            # Its next turn was by the interval that there is no more.
            wanted["next_run_at"] = None
        _write(session, application_id, wanted)
    return changes


def note_run(
    session: Session, application_id: str, *, next_run_at: datetime | None, completed_at: datetime | None = None
) -> None:
    """An application was compared; `completed_at` only for a complete read."""
    before = plan_of(session, application_id)
    _write(
        session,
        application_id,
        {
            "every_seconds": int(before.every.total_seconds()),
            "policy": before.policy,
            "service_accounts": list(before.service_accounts),
            "next_run_at": next_run_at,
            "completed_at": completed_at or before.completed_at,
        },
    )


def _write(session: Session, application_id: str, values: dict[str, object]) -> None:
    statement = upsert(session, ReconcilePlan).values(application_id=application_id, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["application_id"], set_=values))


def due(session: Session, *, now: datetime, limit: int = 20) -> Sequence[str]:
    """Applications whose time has come, those that waited longest first; switched-off ones are left alone."""
    rows = session.execute(
        select(ScimTarget.application_id)
        .join(Application, Application.id == ScimTarget.application_id)
        .outerjoin(ReconcilePlan, ReconcilePlan.application_id == ScimTarget.application_id)
        .where(
            Application.is_enabled,
            or_(
                ReconcilePlan.application_id.is_(None),
                # Also of one that is compared only when somebody asks: somebody did.
                ReconcilePlan.next_run_at <= now,
                and_(
                    ReconcilePlan.every_seconds > 0,
                    or_(
                        ReconcilePlan.next_run_at.is_(None),
                        # Much later than its interval: somebody's clock was wrong.
                        type_coerce(ReconcilePlan.next_run_at, BigInteger)
                        > to_micros(now) + 2 * _SECOND * type_coerce(ReconcilePlan.every_seconds, BigInteger),
                    ),
                ),
            ),
        )
        .order_by(ReconcilePlan.next_run_at.is_not(None), ReconcilePlan.next_run_at, ScimTarget.application_id)
        .limit(limit)
    )
    return list(rows.scalars())
