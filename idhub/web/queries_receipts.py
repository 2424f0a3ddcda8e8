"""Read-only queries of cases and receipts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, or_, select
from sqlalchemy.orm import Session

from idhub.access.tables import Application
from idhub.authority import Action, Subject, visible_organizations
from idhub.delivery.tables import Delivery
from idhub.directory.search import named
from idhub.directory.tables import Organization, Person
from idhub.lifecycle.tables import Case, CaseRow, Receipt
from idhub.web.listing import Page, Spec, Statement, View, page_of, values

RECEIPTS = Spec(
    path="/hr/receipts",
    sorts=("-effective", "effective"),
    choices={"state": ("scheduled", "running", "complete", "cancelled")},
    texts=("month",),
)


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """One line of the receipts list."""

    case_id: str
    number: str
    person_id: str
    person: str
    organization: str
    organization_en: str | None
    state: str
    is_emergency: bool
    effective_at: datetime
    completed_at: datetime | None


def receipts_statement(view: View, session: Session, subject: Subject) -> Statement:
    """Leaver's cases within the subject's scope that the view asks for, without order."""
    statement: Statement = (
        select(
            Case.id,
            Case.number,
            Case.principal_id,
            Person.display_name,
            Organization.name,
            Organization.name_en,
            Case.state,
            Case.is_emergency,
            Case.effective_at,
            Case.completed_at,
        )
        .join(Person, Person.id == Case.principal_id)
        .join(Organization, Organization.id == Case.organization_id)
        .where(Case.kind == "leaver")
    )
    visible = visible_organizations(session, subject, Action.RECEIPT_READ)
    if visible is not None:
        statement = statement.where(Case.organization_id.in_(visible))
    if state := view.value("state"):
        statement = statement.where(Case.state == state)
    if month := view.value("month"):
        statement = statement.where(Case.number.like(f"R-{month[:7]}-%")) if _is_month(month) else statement
    if text := view.value("q"):
        statement = statement.where(or_(named(session, text), Case.number == text.upper()))
    return statement


def _is_month(text: str) -> bool:
    year, dash, month = text.partition("-")
    return bool(dash) and year.isdecimal() and len(year) == 4 and month in {f"{m:02d}" for m in range(1, 13)}


def list_receipts(view: View, session: Session, statement: Statement) -> Page[ReceiptRow]:
    """One page of receipts."""
    return page_of(
        view,
        lambda s: [ReceiptRow(*values(row)) for row in session.execute(s)],
        statement,
        by=Case.effective_at.expression,
        id_=Case.id,
        key=lambda row: (row.effective_at, row.case_id),
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """How many rows of a case are done."""

    rows: int = 0
    done: int = 0
    overdue: int = 0


def progress_of(session: Session, case_ids: Sequence[str], *, now: datetime) -> dict[str, Progress]:
    """Progress by case, in one query."""
    # The same verdict as `lifecycle.receipts`, in SQL: a list must not read every row of every receipt.
    has_ended = CaseRow.delivery_id.is_(None) & (CaseRow.residual_until.is_(None) | (CaseRow.residual_until <= now))
    grade = case((Delivery.grade < CaseRow.ceiling, Delivery.grade), else_=CaseRow.ceiling)
    proven = case((Delivery.id.is_(None), 0), else_=grade) >= CaseRow.required_grade
    contradicted = CaseRow.contradicted_at.is_not(None) & (
        Delivery.finished_at.is_(None) | (Delivery.finished_at <= CaseRow.contradicted_at)
    )
    is_done = ((Delivery.state == "done") | has_ended) & proven & ~contradicted
    rows = session.execute(
        select(
            CaseRow.case_id,
            func.count(),
            func.sum(case((is_done, 1), else_=0)),
            func.sum(case((is_done, 0), (CaseRow.deadline_at < now, 1), else_=0)),
        )
        .outerjoin(Delivery, Delivery.id == CaseRow.delivery_id)
        .where(CaseRow.case_id.in_(case_ids))
        .group_by(CaseRow.case_id)
    )
    return {case_id: Progress(total, int(done or 0), int(overdue or 0)) for case_id, total, done, overdue in rows}


@dataclass(frozen=True, slots=True)
class Version:
    """One signed version of a receipt."""

    version: int
    is_complete: bool
    signed_at: datetime
    log_size: int | None
    jws: str


def versions_of(session: Session, case_id: str) -> list[Version]:
    """Signed versions, newest first; at most 100."""
    rows = session.execute(
        select(Receipt.version, Receipt.is_complete, Receipt.signed_at, Receipt.log_size, Receipt.jws)
        .where(Receipt.case_id == case_id)
        .order_by(Receipt.version.desc())
        .limit(100)
    )
    return [Version(*values(row)) for row in rows]


def application_names(session: Session, slugs: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """English and Chinese names of applications, by slug."""
    rows = session.execute(
        select(Application.slug, Application.name, Application.name_zh).where(Application.slug.in_(slugs))
    )
    return {slug: (name, name_zh) for slug, name, name_zh in rows}
