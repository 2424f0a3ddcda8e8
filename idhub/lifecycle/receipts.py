"""Receipts: signed, versioned, never ahead of the evidence.

A receipt line follows its delivery; whoever settles one marks the case due (`cases.touch`), and `sign_due` signs the
next version. Older versions stay readable; a later contradiction makes a later version that says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import BindParameter, bindparam, delete, exists, func, literal_column, or_, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Account, Application, ReconcilePlan, ScimTarget
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.db import Database, Instant, bulk_insert
from idhub.delivery.channel import Grade
from idhub.delivery.tables import Delivery
from idhub.directory.names import LONGEST, may_name
from idhub.directory.people import show_people
from idhub.errors import NotFound
from idhub.keys import Keyring
from idhub.lifecycle import cases
from idhub.lifecycle.pace import GoesOn, nobody_else
from idhub.lifecycle.receipt_document import TYP, ReceiptRow, commit, digest, is_complete, payload, wrap
from idhub.lifecycle.tables import Case, CaseRow, Receipt, ReceiptDue

# What is signed in one commit, after which others may write.
_BATCH = 4
# While somebody stands in line for that.
_BATCH_SHARED = 2
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
        rows=_rows(session, [case_id], now=now)[case_id],
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


# Made once: building a statement costs more than what it asks.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_ROWS = (
    select(
        CaseRow.case_id,
        CaseRow.id,
        CaseRow.application_id,
        CaseRow.account_id,
        CaseRow.participant_id,
        CaseRow.channel,
        CaseRow.ceiling,
        CaseRow.required_grade,
        CaseRow.delivery_id,
        CaseRow.deadline_at,
        CaseRow.residual_until,
        CaseRow.note,
        CaseRow.contradicted_at,
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
    .where(CaseRow.case_id.in_(_IDS))
    .order_by(Application.slug, CaseRow.channel.desc(), CaseRow.id)
)
_CASES = select(
    Case.id,
    Case.number,
    Case.kind,
    Case.principal_id,
    Case.organization_id,
    Case.state,
    Case.effective_at,
    Case.local_done_at,
    Case.ended,
).where(Case.id.in_(_IDS))
_VERSIONS = (
    select(Receipt.case_id, func.max(Receipt.version)).where(Receipt.case_id.in_(_IDS)).group_by(Receipt.case_id)
)
_UNFINISHED = exists().where(Delivery.case_id == ReceiptDue.case_id, Delivery.state.in_(("pending", "leased")))
_COMPARED = (
    # Of the applications that could be asked for all their accounts, the one that was asked longest ago.
    select(
        CaseRow.case_id,
        func.min(ReconcilePlan.completed_at).label("at"),
        func.count(ReconcilePlan.completed_at).label("compared"),
        func.count().label("asked"),
    )
    .join(ScimTarget, ScimTarget.application_id == CaseRow.application_id)
    .outerjoin(ReconcilePlan, ReconcilePlan.application_id == CaseRow.application_id)
    .where(CaseRow.case_id.in_(_IDS))
    .group_by(CaseRow.case_id)
)
_DUE = (
    select(ReceiptDue.case_id)
    .where(
        ReceiptDue.case_id.not_in(bindparam("failed", expanding=True)),
        or_(ReceiptDue.since <= bindparam("before", type_=Instant()), ~_UNFINISHED),
    )
    .order_by(ReceiptDue.since)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True, of=ReceiptDue)
)
_TAKE = delete(ReceiptDue).where(ReceiptDue.case_id.in_(_IDS)).returning(ReceiptDue.case_id)
_SET_STATE = update(Case).where(Case.id == bindparam("key")).values(state=bindparam("to"), completed_at=bindparam("at"))


_ELAPSED = (
    # From the cases that are open to their few rows of this kind: closed ones are never looked at again.
    select(CaseRow.case_id)
    .join(Case, Case.id == CaseRow.case_id)
    .where(
        Case.kind == literal_column(f"'{cases.LEAVER}'"),
        Case.state == literal_column(f"'{cases.RUNNING}'"),
        CaseRow.delivery_id.is_(None),
        CaseRow.residual_until.is_not(None),
        CaseRow.residual_until <= bindparam("now", type_=Instant()),
    )
    .distinct()
)


def _rows(session: Session, case_ids: Sequence[str], *, now: datetime) -> dict[str, list[ReceiptRow]]:
    found: dict[str, list[ReceiptRow]] = {case_id: [] for case_id in case_ids}
    for row in session.connection().execute(_ROWS, {"ids": list(case_ids)}).all():
        found[row.case_id].append(_row(row, now=now))
    return found


def _row(row: Any, *, now: datetime) -> ReceiptRow:
    if row.delivery_id is None:
        # Nothing is sent for this row: either nothing is known to end, or only expiry ends it.
        elapsed = row.residual_until is None or now >= row.residual_until
        state, grade = ("done" if elapsed else "pending"), Grade.E0
    else:
        state = _DELIVERY_STATES.get(row.delivery_state, "pending")
        grade = Grade(min(row.grade or 0, row.ceiling))
        if state == "done" and grade < row.required_grade:
            state = "pending"
    error = row.last_error if state != "done" else None
    if _is_contradicted(row):
        # What was proven was so; it is not so any more.
        state, grade = "pending", Grade.E0
        error = f"The account was seen alive at {_iso(row.contradicted_at)}, after its end had been proven."
    return ReceiptRow(
        id=row.id,
        application=row.slug,
        application_name=row.name,
        channel=row.channel,
        account=row.user_name or row.account_id or row.participant_id,
        state=state,
        grade=int(grade),
        required_grade=row.required_grade,
        ceiling=row.ceiling,
        planned_at=_iso(row.planned_at),
        sent_at=_iso(row.first_sent_at),
        answered_at=_iso(row.answered_at),
        finished_at=_iso(row.finished_at),
        deadline_at=_iso(row.deadline_at),
        attempts=row.attempts or 0,
        residual_until=_iso(row.residual_until),
        note=row.note,
        error=error,
        evidence=row.evidence or {},
    )


def _is_contradicted(row: Any) -> bool:
    return row.contradicted_at is not None and (row.finished_at is None or row.finished_at <= row.contradicted_at)


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def sign_due(
    database: Database,
    keyring: Keyring,
    *,
    issuer: str,
    now: datetime,
    log_size: int | None = None,
    patience: timedelta = timedelta(0),
    goes_on: GoesOn = nobody_else,
) -> int:
    """Sign the next version of every receipt whose evidence changed. Returns how many were signed.

    Args:
        log_size: size of the sealed audit log, stated in the receipt as its position.
        goes_on: see `idhub.lifecycle.pace.GoesOn`; receipts count as nobody.
        patience: how long a receipt waits, since its evidence first changed, for what is still under way; one that has
            nothing under way is signed at once. A leave in 300 applications is thus one version, not 300.
    """
    signed = 0
    failed: list[str] = []
    alone: list[str] = []
    while True:
        taken: list[str] = []
        try:
            with database.transaction() as session:
                # Claimed before the deliveries are read: a settle in between waits, and marks the case due again.
                if alone:
                    taken = [alone.pop()]
                else:
                    most = _BATCH_SHARED if database.is_shared() else _BATCH
                    values = {"failed": failed, "before": now - patience, "most": most}
                    taken = list(session.connection().execute(_DUE, values).scalars())
                if not taken:
                    return signed
                mine = sorted(session.connection().execute(_TAKE, {"ids": taken}).scalars())
                _sign(session, keyring, mine, issuer=issuer, now=now, log_size=log_size)
            signed += len(mine)
        except Exception:
            # One receipt that cannot be signed stays due, and holds up no other.
            if len(taken) > 1:
                alone = taken
                continue
            if not taken:
                raise
            failed += taken
            _LOG.exception("receipt.not_signed", case=taken[0])
        if not goes_on(0):
            return signed
        database.give_way()


def _sign(
    session: Session, keyring: Keyring, case_ids: Sequence[str], *, issuer: str, now: datetime, log_size: int | None
) -> None:
    """Sign the next version of these cases' receipts, in a few statements however many they are."""
    connection, ids = session.connection(), {"ids": list(case_ids)}
    running = [case for case in connection.execute(_CASES, ids) if case.local_done_at is not None]
    rows = _rows(session, case_ids, now=now)
    newest = {row[0]: row[1] for row in connection.execute(_VERSIONS, ids)}
    people = show_people(session, sorted({case.principal_id for case in running}))
    compared = {row.case_id: row.at for row in connection.execute(_COMPARED, ids) if row.compared == row.asked}
    key = keyring.signing_key("receipt")
    receipts: list[dict[str, Any]] = []
    states: list[dict[str, Any]] = []
    events: list[Event] = []
    for case in running:
        # An answer may have been recorded since `now` was read: a receipt is never older than what it states.
        as_of = max([now, *(datetime.fromisoformat(row.finished_at) for row in rows[case.id] if row.finished_at)])
        person = people[case.principal_id]
        commitments, disclosures = commit({"name": person.display_name, "employee_number": person.employee_number})
        version = newest.get(case.id, 0) + 1
        claims = payload(
            issuer=issuer,
            case_id=case.id,
            number=case.number,
            version=version,
            kind=case.kind,
            person_id=case.principal_id,
            commitments=commitments,
            effective_at=case.effective_at,
            local_done_at=case.local_done_at,
            ended=case.ended,
            rows=rows[case.id],
            as_of=as_of,
            log={"size": log_size} if log_size is not None else None,
            last_reconcile_at=compared.get(case.id),
        )
        complete = is_complete(rows[case.id])
        token = keyring.sign_jws("receipt", TYP, claims)
        receipts.append(
            {
                "case_id": case.id,
                "version": version,
                "is_complete": complete,
                "signed_at": as_of,
                "jws": token,
                "disclosures": disclosures,
                "log_size": log_size,
            }
        )
        said = {"version": version, "complete": complete, "kid": key.kid, "sha256": digest(token)}
        events.append(_event(EventType.RECEIPT_ISSUED, case, as_of, said))
        if complete and case.state != cases.COMPLETE:
            states.append({"key": case.id, "to": cases.COMPLETE, "at": as_of})
            events.append(_event(EventType.CASE_COMPLETED, case, as_of, {"rows": len(rows[case.id])}))
        elif not complete and case.state == cases.COMPLETE:
            # Later evidence contradicts: the case is open again and its newest version says so.
            states.append({"key": case.id, "to": cases.RUNNING, "at": None})
    bulk_insert(session, Receipt, receipts)
    if states:
        connection.execute(_SET_STATE, states)
    record(session, events)


def _event(kind: EventType, case: Any, now: datetime, details: Mapping[str, Any]) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=SYSTEM,
        door="worker",
        target_kind="case",
        target_id=case.id,
        person_id=case.principal_id,
        organization_id=case.organization_id,
        case_id=case.id,
        details={"number": case.number, **details},
    )


def mark_elapsed(session: Session, *, now: datetime) -> int:
    """Mark cases due whose rows end by expiry alone and have come to it. Returns how many."""
    rows = session.connection().execute(_ELAPSED, {"now": now}).scalars().all()
    if not rows:
        return 0
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
