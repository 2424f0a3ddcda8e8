"""Preview of a leave: what would happen, application by application. Writes nothing.

The same rows that a receipt will prove, so that plan and result can be compared line by line; the fingerprint names
exactly this plan, and the case keeps it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import BindParameter, bindparam, func, select
from sqlalchemy.orm import Session

from idhub.access.tables import Application, Entitlement
from idhub.credentials.tables import Grant, RefreshToken, SsoSession
from idhub.db import Instant
from idhub.delivery.channel import Grade
from idhub.directory.people import PersonView, show_person
from idhub.directory.tables import Principal
from idhub.lifecycle.cases import NO_ACCOUNT, scheduled_case
from idhub.lifecycle.ports import PreviewRow, planners_of


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRow:
    """One line of a plan."""

    application_id: str
    application: str
    application_name: str
    application_name_zh: str | None
    channel: str
    action: str
    account: str | None
    is_entitled: bool
    ceiling: Grade
    required: Grade
    exposure: timedelta | None
    """Worst case until nothing works there any more; None: unknown, `notes` say why."""
    deadline: timedelta
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a leave at `effective_at` would do, as the hub knows things at `as_of`."""

    person: PersonView
    as_of: datetime
    effective_at: datetime
    rows: Sequence[PlanRow]
    sessions: int
    grants: int
    refresh_tokens: int
    owned: int
    """Services and devices that would get a new owner."""
    scheduled_case: str | None
    fingerprint: str


# Made once: building a statement costs more than what it asks.
_WHOSE: BindParameter[Any] = bindparam("whose")
_NOW = bindparam("now", type_=Instant())
_ENTITLED = select(Entitlement.application_id).where(
    Entitlement.principal_id == _WHOSE, Entitlement.superseded_at.is_(None), Entitlement.valid_to.is_(None)
)
_WILL_END = select(
    select(func.count())
    .where(SsoSession.principal_id == _WHOSE, SsoSession.ended_at.is_(None), SsoSession.expires_at > _NOW)
    .scalar_subquery()
    .label("sessions"),
    select(func.count())
    .where(Grant.principal_id == _WHOSE, Grant.ended_at.is_(None))
    .scalar_subquery()
    .label("grants"),
    select(func.count())
    .select_from(RefreshToken)
    .join(Grant, Grant.id == RefreshToken.grant_id)
    .where(
        Grant.principal_id == _WHOSE,
        Grant.ended_at.is_(None),
        RefreshToken.spent_at.is_(None),
        RefreshToken.revoked_at.is_(None),
        RefreshToken.expires_at > _NOW,
    )
    .scalar_subquery()
    .label("refresh_tokens"),
    select(func.count()).where(Principal.owner_id == _WHOSE).scalar_subquery().label("owned"),
)
_APPLICATIONS = select(
    Application.id,
    Application.slug,
    Application.name,
    Application.name_zh,
    Application.required_grade,
    Application.revocation_deadline_seconds,
).where(Application.id.in_(bindparam("ids", expanding=True)))


def preview(
    session: Session,
    principal_id: str,
    *,
    effective_at: datetime | None,
    now: datetime,
) -> Plan:
    """The plan of a leave of one person, in a bounded number of queries.

    Raises:
        NotFound: there is no such person.
    """
    person = show_person(session, principal_id)
    known = [row for planner in planners_of(session) for row in planner.preview(session, principal_id, now=now)]
    connection = session.connection()
    entitled = set(connection.execute(_ENTITLED, {"whose": principal_id}).scalars())
    bare = entitled - {row.application_id for row in known}
    known += [
        PreviewRow(
            application_id=application_id,
            channel="none",
            action="nothing_known",
            ceiling=Grade.E0,
            exposure=timedelta(),
            notes=(NO_ACCOUNT,),
        )
        for application_id in sorted(bare)
    ]
    rows = _rows(session, known, entitled)
    ends = connection.execute(_WILL_END, {"whose": principal_id, "now": now}).one()
    at = effective_at if effective_at is not None and effective_at > now else now
    return Plan(
        person=person,
        as_of=now,
        effective_at=at,
        rows=rows,
        sessions=ends.sessions,
        grants=ends.grants,
        refresh_tokens=ends.refresh_tokens,
        owned=ends.owned,
        scheduled_case=scheduled_case(session, principal_id),
        fingerprint=fingerprint(person, rows),
    )


def _rows(session: Session, known: Sequence[PreviewRow], entitled: set[str]) -> list[PlanRow]:
    applications = {
        row.id: row
        for row in session.connection().execute(_APPLICATIONS, {"ids": sorted({row.application_id for row in known})})
    }
    rows = []
    for row in known:
        application = applications[row.application_id]
        demanded = row.ceiling if application.required_grade is None else Grade(application.required_grade)
        rows.append(
            PlanRow(
                application_id=row.application_id,
                application=application.slug,
                application_name=application.name,
                application_name_zh=application.name_zh,
                channel=row.channel,
                action=row.action,
                account=row.account_name or row.account_id,
                is_entitled=row.application_id in entitled,
                ceiling=row.ceiling,
                required=min(demanded, row.ceiling),
                exposure=row.exposure,
                deadline=timedelta(seconds=application.revocation_deadline_seconds),
                notes=tuple(row.notes),
            )
        )
    return sorted(rows, key=lambda r: (r.application, r.channel, r.account or ""))


def fingerprint(person: PersonView, rows: Sequence[PlanRow]) -> str:
    """Twelve hex digits that name this plan: who, and what would happen where, to which required grade."""
    facts = [person.id, [[r.application_id, r.channel, r.action, r.account, int(r.required)] for r in rows]]
    digest = hashlib.sha256(orjson.dumps(facts)).hexdigest()[:12]
    return f"{digest[:4]} {digest[4:8]} {digest[8:]}"
