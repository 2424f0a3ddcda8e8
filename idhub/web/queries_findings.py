"""Read-only queries of findings and of the runs that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session, aliased

from idhub.access.tables import Account, Application, ScimTarget
from idhub.authority import Action, Subject, visible_organizations
from idhub.directory.search import named
from idhub.directory.tables import Employment, Organization, Person, Principal
from idhub.provisioning.reconcile import lookup
from idhub.provisioning.reconcile.kinds import LIVE, Kind, State
from idhub.provisioning.reconcile.tables import Finding, ReconcileRun
from idhub.web.listing import Page, Spec, Statement, View, page_of, values
from idhub.web.queries_people import sees_everything

FINDINGS = Spec(
    path="/admin/ghosts",
    sorts=("-found", "found"),
    choices={"class": tuple(Kind), "state": ("dismissed", "done", "accepted", "all")},
    texts=("app",),
)
_owner = aliased(Person)


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One line of the list, with what its sources say."""

    id: str
    kind: str
    source: str
    state: str
    subject: str
    basis: str
    evidence: Mapping[str, Any]
    proposal: str
    organization_id: str
    principal_id: str | None
    external_id: str | None
    deadline_at: datetime
    first_seen_at: datetime
    last_seen_at: datetime
    delivery_id: str | None
    held_at: datetime | None
    slug: str | None
    name: str | None
    name_zh: str | None
    person: str | None
    standing: str | None
    ends_on: date | None
    post_state: str | None
    company: str | None
    company_en: str | None
    owner_id: str | None
    owner: str | None


def findings_statement(session: Session, subject: Subject) -> Statement:
    """Findings within the subject's scope, without order."""
    statement: Statement = (
        select(
            Finding.id,
            Finding.kind,
            Finding.source,
            Finding.state,
            Finding.subject,
            Finding.basis,
            Finding.evidence,
            Finding.proposal,
            Finding.organization_id,
            Finding.principal_id,
            Finding.external_id,
            Finding.deadline_at,
            Finding.first_seen_at,
            Finding.last_seen_at,
            Finding.delivery_id,
            Finding.held_at,
            Application.slug,
            Application.name,
            Application.name_zh,
            Person.display_name,
            Principal.standing,
            Employment.ends_on,
            Employment.state.label("post_state"),
            Organization.name.label("company"),
            Organization.name_en,
            Finding.owner_id,
            _owner.display_name.label("owner"),
        )
        .outerjoin(Application, Application.id == Finding.application_id)
        .outerjoin(Person, Person.id == Finding.principal_id)
        .outerjoin(Principal, Principal.id == Person.id)
        .outerjoin(Employment, Employment.id == Person.main_employment_id)
        .outerjoin(Organization, Organization.id == Employment.organization_id)
        .outerjoin(_owner, _owner.id == Finding.owner_id)
    )
    visible = visible_organizations(session, subject, Action.FINDING_READ)
    return statement if visible is None else statement.where(Finding.organization_id.in_(visible))


def filtered(view: View, session: Session, statement: Statement) -> Statement:
    """What the view asks for; without a state: what is not over."""
    state = view.value("state")
    if state != "all":
        statement = statement.where(Finding.state == state if state else Finding.state.in_(LIVE))
    if kind := view.value("class"):
        statement = statement.where(Finding.kind == kind)
    if slug := view.value("app"):
        statement = statement.where(Application.slug == slug)
    if text := view.value("q"):
        statement = statement.where(
            or_(Finding.subject == text, Finding.id == text, Finding.external_id == text, named(session, text))
        )
    return statement


def list_findings(view: View, session: Session, statement: Statement) -> Page[FindingRow]:
    """One page, newest first."""
    return page_of(
        view,
        lambda s: [FindingRow(*values(row)) for row in session.execute(s)],
        statement,
        by=Finding.first_seen_at.expression,
        id_=Finding.id,
        key=lambda row: (row.first_seen_at, row.id),
    )


def one_finding(statement: Statement, session: Session, finding_id: str) -> FindingRow | None:
    """One finding of the statement."""
    row = session.execute(statement.where(Finding.id == finding_id)).first()
    return None if row is None else FindingRow(*values(row))


def counts(session: Session, subject: Subject) -> dict[str, int]:
    """Live findings by kind, and `dismissed` beside them."""
    statement = select(Finding.kind, Finding.state, func.count()).group_by(Finding.kind, Finding.state)
    statement = statement.where(Finding.state.in_((*LIVE, State.DISMISSED)))
    visible = visible_organizations(session, subject, Action.FINDING_READ)
    if visible is not None:
        statement = statement.where(Finding.organization_id.in_(visible))
    found: dict[str, int] = {}
    for kind, state, count in session.execute(statement):
        name = "dismissed" if state == State.DISMISSED else kind
        found[name] = found.get(name, 0) + count
    return found


def alive_accounts(session: Session, people: Sequence[str]) -> dict[str, int]:
    """How many accounts of each are alive, as far as the hub knows."""
    rows = session.execute(
        select(Account.principal_id, func.count())
        .where(Account.principal_id.in_(people), Account.known_state == "active")
        .group_by(Account.principal_id)
    )
    return {str(row[0]): row[1] for row in rows}


@dataclass(frozen=True, slots=True)
class SourceCell:
    """One source in the strip: how many, and whether it was read whole. `problem` names the first that was not."""

    key: str
    count: int | None
    complete: bool
    number: int = 1
    incomplete: int = 0
    as_of: datetime | None = None
    problem: tuple[str, str, str | None, str] | None = None
    """Slug, name, Chinese name and first gap of the application that was not read whole."""


def sources(session: Session, subject: Subject) -> list[SourceCell]:
    """The register, the applications, the payroll: what each said last.

    A payroll file speaks of its companies together: whoever sees some of them is not told of the others.
    """
    sees_all = sees_everything(session, subject, Action.FINDING_READ)
    visible = None if sees_all else visible_organizations(session, subject, Action.FINDING_READ)
    register = lookup.register(session, within=visible)
    cells = [SourceCell("register", register.active, register.is_complete, as_of=register.as_of)]
    runs = session.execute(_newest_runs(visible)).all()
    broken = [run for run in runs if run.state != "complete"]
    first = next(((run.slug, run.name, run.name_zh, (run.gaps or ("",))[0]) for run in broken), None)
    cells.append(
        SourceCell(
            "applications",
            sum(run.read for run in runs) if runs else None,
            bool(runs) and not broken,
            number=len(runs),
            incomplete=len(broken),
            as_of=min((run.started_at for run in runs), default=None),
            problem=first,
        )
    )
    if not sees_all:
        return cells
    payroll = session.execute(
        select(ReconcileRun.read, ReconcileRun.state, ReconcileRun.started_at)
        .where(ReconcileRun.source == "payroll")
        .order_by(ReconcileRun.started_at.desc())
        .limit(1)
    ).first()
    if payroll is not None:
        cells.append(SourceCell("payroll", payroll.read, payroll.state == "complete", as_of=payroll.started_at))
    return cells


def _newest_runs(visible: Select[str] | None) -> Statement:
    newest = (
        select(ReconcileRun.application_id, func.max(ReconcileRun.started_at).label("at"))
        .where(ReconcileRun.source == "scim", ReconcileRun.state != "running")
        .group_by(ReconcileRun.application_id)
        .subquery()
    )
    statement: Statement = (
        select(
            ReconcileRun.state,
            ReconcileRun.read,
            ReconcileRun.gaps,
            ReconcileRun.started_at,
            Application.slug,
            Application.name,
            Application.name_zh,
        )
        .join(
            newest,
            (newest.c.application_id == ReconcileRun.application_id) & (newest.c.at == ReconcileRun.started_at),
        )
        .join(Application, Application.id == ReconcileRun.application_id)
        .join(ScimTarget, ScimTarget.application_id == Application.id)
        .where(ReconcileRun.source == "scim")
        .order_by(Application.slug)
    )
    return statement if visible is None else statement.where(Application.organization_id.in_(visible))


def held(session: Session, subject: Subject, action: Action) -> Sequence[Any]:
    """What the brake holds, by application, where the subject may do `action`."""
    statement = (
        select(
            Finding.application_id,
            func.count().label("findings"),
            func.max(Finding.first_approver).label("first_approver"),
            Application.slug,
            Application.name,
            Application.name_zh,
        )
        .join(Application, Application.id == Finding.application_id)
        .where(Finding.held_at.is_not(None), Finding.state.in_(LIVE))
        .group_by(Finding.application_id, Application.slug, Application.name, Application.name_zh)
        .order_by(Application.slug)
    )
    visible = visible_organizations(session, subject, action)
    if visible is not None:
        statement = statement.where(Application.organization_id.in_(visible))
    return session.execute(statement).all()


def application_options(session: Session, subject: Subject) -> Sequence[Any]:
    """Applications with live findings: (slug, name, Chinese name), for the filter; at most 300."""
    statement = (
        select(Application.slug, Application.name, Application.name_zh)
        .join(ScimTarget, ScimTarget.application_id == Application.id)
        .order_by(Application.slug)
        .limit(300)
    )
    visible = visible_organizations(session, subject, Action.FINDING_READ)
    if visible is not None:
        statement = statement.where(Application.organization_id.in_(visible))
    return session.execute(statement).all()
