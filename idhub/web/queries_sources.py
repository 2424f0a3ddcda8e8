"""Read-only queries of what sources said last, and of what the brake holds of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from idhub.authority import Action, Subject, visible_organizations
from idhub.directory.tables import Employment, Organization, Person
from idhub.lifecycle.hr_brake import HELD
from idhub.lifecycle.hr_release import HeldGroup, held_groups
from idhub.lifecycle.hr_runs import State, state_of
from idhub.lifecycle.tables import HeldChange, SourceRun
from idhub.web.listing import Page, Spec, Statement, View, page_of, values

HELD_CHANGES = Spec(
    path="/hr/sources",
    sorts=("-held", "held"),
    choices={"kind": ("absent", "left", "suspended", "put_off")},
    texts=("company", "run"),
)
_RUNS = 20
_approver = aliased(Person)


@dataclass(frozen=True, slots=True)
class HeldRow:
    """One held change: of whom, what, and who has said yes."""

    id: str
    principal_id: str
    person: str
    number: str
    company: str
    company_en: str | None
    kind: str
    held_at: datetime
    approver: str | None


@dataclass(frozen=True, slots=True)
class RunRow:
    """One read of a source."""

    id: str
    started_at: datetime
    finished_at: datetime | None
    is_complete: bool
    is_snapshot: bool
    counts: Mapping[str, Any]
    problems: Sequence[Mapping[str, Any]]
    started_by: str
    person: str | None
    seen_at: datetime | None
    broken_at: datetime | None

    def state(self, now: datetime) -> State:
        """Whether it is under way."""
        return state_of(self, now=now)


@dataclass(frozen=True, slots=True)
class Stop:
    """What the brake holds of one company, or is being released of it."""

    group: HeldGroup
    company: str
    company_en: str | None
    approver: str | None


def stops(session: Session, subject: Subject) -> list[Stop]:
    """Where the brake holds, within the subject's scope; the newest run first."""
    groups = held_groups(session)
    if not groups:
        return []
    names = select(Organization.id, Organization.name, Organization.name_en).where(
        Organization.id.in_({group.organization_id for group in groups})
    )
    visible = visible_organizations(session, subject, Action.PEOPLE_READ)
    if visible is not None:
        names = names.where(Organization.id.in_(visible))
    companies = {row.id: (row.name, row.name_en) for row in session.execute(names)}
    asked = {group.first_approver for group in groups if group.first_approver}
    people = select(Person.id, Person.display_name).where(Person.id.in_(asked))
    approvers = {row.id: row.display_name for row in session.execute(people)}
    return [
        Stop(group, *companies[group.organization_id], approvers.get(group.first_approver or ""))
        for group in groups
        if group.organization_id in companies
    ]


def held_statement(session: Session, subject: Subject) -> Statement:
    """Held changes within the subject's scope, without order."""
    statement: Statement = (
        select(
            HeldChange.id,
            HeldChange.principal_id,
            Person.display_name,
            Employment.employee_number,
            Organization.name,
            Organization.name_en,
            HeldChange.kind,
            HeldChange.held_at,
            _approver.display_name.label("approver"),
        )
        .join(Person, Person.id == HeldChange.principal_id)
        .join(Employment, Employment.id == HeldChange.employment_id)
        .join(Organization, Organization.id == HeldChange.organization_id)
        .outerjoin(_approver, _approver.id == HeldChange.first_approver)
        .where(HeldChange.state == HELD)
    )
    visible = visible_organizations(session, subject, Action.PEOPLE_READ)
    return statement if visible is None else statement.where(HeldChange.organization_id.in_(visible))


def list_held(view: View, session: Session, statement: Statement) -> Page[HeldRow]:
    """One page of held changes."""
    if kind := view.value("kind"):
        statement = statement.where(HeldChange.kind == kind)
    if company := view.value("company"):
        statement = statement.where(HeldChange.organization_id == company)
    if run := view.value("run"):
        statement = statement.where(HeldChange.run_id == run)
    return page_of(
        view,
        lambda s: [HeldRow(*values(row)) for row in session.execute(s)],
        statement,
        by=HeldChange.held_at.expression,
        id_=HeldChange.id,
        key=lambda row: (row.held_at, row.id),
    )


def last_runs(session: Session) -> list[RunRow]:
    """The last reads of the HR file, newest first."""
    statement = (
        select(
            SourceRun.id,
            SourceRun.started_at,
            SourceRun.finished_at,
            SourceRun.is_complete,
            SourceRun.is_snapshot,
            SourceRun.counts,
            SourceRun.problems,
            SourceRun.started_by,
            Person.display_name,
            SourceRun.seen_at,
            SourceRun.broken_at,
        )
        .outerjoin(Person, Person.id == SourceRun.started_by)
        .order_by(SourceRun.started_at.desc(), SourceRun.id.desc())
        .limit(_RUNS)
    )
    return [RunRow(*values(row)) for row in session.execute(statement)]
