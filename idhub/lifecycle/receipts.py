"""Receipts: signed, versioned, never ahead of the evidence.

A receipt line follows its delivery; whoever settles one marks the case due (`cases.touch`), and `sign_due` signs the
next version. Older versions stay readable; a later contradiction makes a later version that says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Account, Application
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.db import Database
from idhub.delivery.channel import Grade
from idhub.delivery.tables import Delivery
from idhub.directory.names import LONGEST, may_name
from idhub.directory.people import show_person
from idhub.errors import NotFound
from idhub.keys import Keyring
from idhub.lifecycle import cases
from idhub.lifecycle.receipt_document import TYP, ReceiptRow, commit, is_complete, payload, wrap
from idhub.lifecycle.tables import Case, CaseRow, Receipt, ReceiptDue

_LOG = structlog.get_logger(__name__)
_DELIVERY_STATES: Mapping[str, str] = {"done": "done", "dead": "dead"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptView:
    """A case with its current rows and its newest signed version, as pages and commands show it."""

    case_id: str
    number: str
    kind: str
    person_id: str
    organization_id: str
    state: str
    is_emergency: bool
    reason: str | None
    effective_at: datetime
    local_done_at: datetime | None
    completed_at: datetime | None
    opened_at: datetime
    opened_by: str
    plan: Mapping[str, Any]
    ended: Mapping[str, Any]
    rows: Sequence[ReceiptRow]
    version: int
    signed_at: datetime | None
    jws: str | None
    disclosures: Mapping[str, Sequence[str]]

    @property
    def is_complete(self) -> bool:
        """Whether every row has reached its required grade."""
        return self.local_done_at is not None and is_complete(self.rows)

    @property
    def done(self) -> int:
        """How many rows have."""
        return sum(row.is_done for row in self.rows)


def find_case(session: Session, text: str) -> str:
    """Case id of a receipt number, case id, or of a person's newest leaver case.

    Raises:
        NotFound: there is none.
    """
    found = None
    if may_name(text):
        found = session.execute(select(Case.id).where((Case.id == text) | (Case.number == text))).scalar()
        found = found or cases.latest_case(session, text)
    if found is None:
        raise NotFound(f"There is no receipt {text[:LONGEST]!r}.", field="receipt", rule="receipt.unknown")
    return found


def current(session: Session, case_id: str, *, now: datetime) -> ReceiptView:
    """The case as it stands, beside its newest signed version.

    Raises:
        NotFound: there is no such case.
    """
    case = session.execute(select(Case).where(Case.id == case_id)).scalar_one_or_none()
    if case is None:
        raise NotFound("There is no such receipt.", field="receipt", rule="receipt.unknown")
    newest = session.execute(
        select(Receipt).where(Receipt.case_id == case_id).order_by(Receipt.version.desc()).limit(1)
    ).scalar_one_or_none()
    view = ReceiptView(
        case_id=case.id,
        number=case.number,
        kind=case.kind,
        person_id=case.principal_id,
        organization_id=case.organization_id,
        state=case.state,
        is_emergency=case.is_emergency,
        reason=case.reason,
        effective_at=case.effective_at,
        local_done_at=case.local_done_at,
        completed_at=case.completed_at,
        opened_at=case.opened_at,
        opened_by=case.opened_by,
        plan=case.plan,
        ended=case.ended,
        rows=_rows(session, case_id, now=now),
        version=newest.version if newest else 0,
        signed_at=newest.signed_at if newest else None,
        jws=newest.jws if newest else None,
        disclosures=newest.disclosures if newest else {},
    )
    session.expunge_all()
    return view


def export(view: ReceiptView) -> bytes:
    """The newest signed version as the file that anybody can verify.

    Raises:
        NotFound: nothing has been signed yet.
    """
    if view.jws is None:
        raise NotFound("This receipt has no signed version yet.", field="receipt", rule="receipt.unsigned")
    return wrap(view.jws, view.disclosures)


def _rows(session: Session, case_id: str, *, now: datetime) -> list[ReceiptRow]:
    rows = session.execute(
        select(
            CaseRow,
            Application.slug,
            Application.name,
            Account.user_name,
            Delivery.state.label("delivery_state"),
            Delivery.grade,
            Delivery.planned_at,
            Delivery.first_sent_at,
            Delivery.answered_at,
            Delivery.finished_at,
            Delivery.attempts,
            Delivery.evidence,
            Delivery.last_error,
        )
        .join(Application, Application.id == CaseRow.application_id)
        .outerjoin(Delivery, Delivery.id == CaseRow.delivery_id)
        .outerjoin(Account, Account.id == CaseRow.account_id)
        .where(CaseRow.case_id == case_id)
        .order_by(Application.slug, CaseRow.channel.desc(), CaseRow.id)
    ).all()
    return [_row(row, now=now) for row in rows]


def _row(row: Any, *, now: datetime) -> ReceiptRow:
    frozen: CaseRow = row.CaseRow
    if frozen.delivery_id is None:
        # Nothing is sent for this row: either nothing is known to end, or only expiry ends it.
        elapsed = frozen.residual_until is None or now >= frozen.residual_until
        state, grade = ("done" if elapsed else "pending"), Grade.E0
    else:
        state = _DELIVERY_STATES.get(row.delivery_state, "pending")
        grade = Grade(min(row.grade or 0, frozen.ceiling))
        if state == "done" and grade < frozen.required_grade:
            state = "pending"
    return ReceiptRow(
        id=frozen.id,
        application=row.slug,
        application_name=row.name,
        channel=frozen.channel,
        account=row.user_name or frozen.account_id or frozen.participant_id,
        state=state,
        grade=int(grade),
        required_grade=frozen.required_grade,
        ceiling=frozen.ceiling,
        planned_at=_iso(row.planned_at),
        sent_at=_iso(row.first_sent_at),
        answered_at=_iso(row.answered_at),
        finished_at=_iso(row.finished_at),
        deadline_at=_iso(frozen.deadline_at),
        attempts=row.attempts or 0,
        residual_until=_iso(frozen.residual_until),
        note=frozen.note,
        error=row.last_error if state != "done" else None,
        evidence=row.evidence or {},
    )


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def sign_due(database: Database, keyring: Keyring, *, issuer: str, now: datetime, log_size: int | None = None) -> int:
    """Sign the next version of every receipt whose evidence changed. Returns how many were signed.

    Args:
        log_size: size of the sealed audit log, stated in the receipt as its position.
    """
    signed = 0
    failed: list[str] = []
    while True:
        case_id: str | None = None
        try:
            with database.transaction() as session:
                # Claimed before the deliveries are read: a settle in between waits, and marks the case due again.
                case_id = session.execute(
                    select(ReceiptDue.case_id)
                    .where(ReceiptDue.case_id.not_in(failed))
                    .order_by(ReceiptDue.since)
                    .limit(1)
                    .with_for_update(skip_locked=True)
                ).scalar()
                if case_id is None:
                    return signed
                session.execute(
                    delete(ReceiptDue).where(ReceiptDue.case_id == case_id).execution_options(synchronize_session=False)
                )
                _sign(session, keyring, case_id, issuer=issuer, now=now, log_size=log_size)
            signed += 1
        except Exception:
            # One receipt that cannot be signed stays due, and holds up no other.
            if case_id is None:
                raise
            failed.append(case_id)
            _LOG.exception("receipt.not_signed", case=case_id)


def _sign(
    session: Session, keyring: Keyring, case_id: str, *, issuer: str, now: datetime, log_size: int | None
) -> None:
    view = current(session, case_id, now=now)
    if view.local_done_at is None:
        return
    # An answer may have been recorded since `now` was read: a receipt is never older than what it states.
    now = max([now, *(datetime.fromisoformat(row.finished_at) for row in view.rows if row.finished_at)])
    person = show_person(session, view.person_id)
    commitments, disclosures = commit({"name": person.display_name, "employee_number": person.employee_number})
    version = view.version + 1
    key = keyring.signing_key("receipt")
    claims = payload(
        issuer=issuer,
        case_id=case_id,
        number=view.number,
        version=version,
        kind=view.kind,
        person_id=view.person_id,
        commitments=commitments,
        effective_at=view.effective_at,
        local_done_at=view.local_done_at,
        ended=view.ended,
        rows=view.rows,
        as_of=now,
        log={"size": log_size} if log_size is not None else None,
        last_reconcile_at=None,
    )
    token = keyring.sign_jws("receipt", TYP, claims)
    complete = view.is_complete
    session.add(
        Receipt(
            case_id=case_id,
            version=version,
            is_complete=complete,
            signed_at=now,
            jws=token,
            disclosures=disclosures,
            log_size=log_size,
        )
    )
    events = [_event(EventType.RECEIPT_ISSUED, view, now, {"version": version, "complete": complete, "kid": key.kid})]
    if complete and view.state != cases.COMPLETE:
        _set_state(session, case_id, cases.COMPLETE, completed_at=now)
        events.append(_event(EventType.CASE_COMPLETED, view, now, {"rows": len(view.rows)}))
    elif not complete and view.state == cases.COMPLETE:
        # Later evidence contradicts: the case is open again and its newest version says so.
        _set_state(session, case_id, cases.RUNNING, completed_at=None)
    session.flush()
    record(session, events)


def _set_state(session: Session, case_id: str, state: str, *, completed_at: datetime | None) -> None:
    session.execute(
        update(Case)
        .where(Case.id == case_id)
        .values(state=state, completed_at=completed_at)
        .execution_options(synchronize_session=False)
    )


def _event(kind: EventType, view: ReceiptView, now: datetime, details: Mapping[str, Any]) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=SYSTEM,
        door="worker",
        target_kind="case",
        target_id=view.case_id,
        person_id=view.person_id,
        organization_id=view.organization_id,
        case_id=view.case_id,
        details={"number": view.number, **details},
    )


def mark_elapsed(session: Session, *, now: datetime) -> int:
    """Mark cases due whose rows end by expiry alone and have come to it. Returns how many."""
    rows = (
        session.execute(
            select(CaseRow.case_id)
            .join(Case, Case.id == CaseRow.case_id)
            .where(
                Case.state == cases.RUNNING,
                CaseRow.delivery_id.is_(None),
                CaseRow.residual_until.is_not(None),
                CaseRow.residual_until <= now,
            )
            .distinct()
        )
        .scalars()
        .all()
    )
    newest = (
        select(Receipt.case_id, func.max(Receipt.signed_at).label("signed_at"))
        .where(Receipt.case_id.in_(rows))
        .group_by(Receipt.case_id)
    )
    signed = {row.case_id: row.signed_at for row in session.execute(newest)}
    ends = session.execute(
        select(CaseRow.case_id, func.max(CaseRow.residual_until).label("until"))
        .where(CaseRow.case_id.in_(rows), CaseRow.delivery_id.is_(None), CaseRow.residual_until <= now)
        .group_by(CaseRow.case_id)
    )
    due = [row.case_id for row in ends if row.case_id not in signed or signed[row.case_id] < row.until]
    cases.touch(session, due, now=now)
    return len(due)
