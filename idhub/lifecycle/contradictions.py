"""What contradicts a signed receipt, and what proves it anew.

A leaver's account whose end was proven is seen alive, or one comes to light that the hub knew nothing of: the rows of
the receipt are pending from then on, and follow the delivery that ends the account. Owns: those rows after the leave.
Does not own: how they are made with it (`cases`), nor what is seen (reconciliation).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Account
from idhub.db import bulk_insert, chunked, new_ids
from idhub.delivery.channel import Grade
from idhub.delivery.tables import Delivery
from idhub.lifecycle.cases import COMPLETE, LEAVER, RUNNING, touch
from idhub.lifecycle.tables import Case, CaseRow

FOUND = "found"
"""Note of a row that came to be after the leave."""

# From the account by its person to their cases: rows are not looked for by account alone.
_PROVEN = (
    select(CaseRow.id, CaseRow.case_id, CaseRow.account_id, Delivery.finished_at)
    .join(Case, Case.id == CaseRow.case_id)
    .join(Account, Account.principal_id == Case.principal_id)
    .join(Delivery, Delivery.id == CaseRow.delivery_id)
    .where(
        Account.id.in_(bindparam("accounts", expanding=True)),
        CaseRow.account_id == Account.id,
        Delivery.state == "done",
    )
)
_CONTRADICT = (
    update(CaseRow)
    .where(CaseRow.id == bindparam("key"))
    .values(contradicted_at=bindparam("seen", type_=CaseRow.contradicted_at.type))
)
_FOLLOW = (
    update(CaseRow)
    .where(
        CaseRow.case_id.in_(
            select(Case.id)
            .join(Account, Account.principal_id == Case.principal_id)
            .where(Account.id == bindparam("account"))
        ),
        CaseRow.account_id == bindparam("account"),
        or_(CaseRow.contradicted_at.is_not(None), CaseRow.case_id == bindparam("newest")),
    )
    .values(delivery_id=bindparam("delivery"))
    .returning(CaseRow.case_id)
)
_FOLLOW_FOUND = (
    update(CaseRow)
    .where(
        CaseRow.case_id == bindparam("newest"),
        CaseRow.application_id == bindparam("application"),
        CaseRow.contradicted_at.is_not(None),
    )
    .values(delivery_id=bindparam("delivery"), account_id=func.coalesce(CaseRow.account_id, bindparam("account")))
    .returning(CaseRow.case_id)
)
_THERE = (
    select(
        CaseRow.id,
        CaseRow.case_id,
        CaseRow.account_id,
        CaseRow.contradicted_at,
        Delivery.state.label("delivery_state"),
        Delivery.finished_at,
    )
    .outerjoin(Delivery, Delivery.id == CaseRow.delivery_id)
    .where(
        CaseRow.case_id.in_(bindparam("cases", expanding=True)),
        CaseRow.application_id == bindparam("application"),
        CaseRow.channel == bindparam("channel"),
    )
)
_RAN = (
    select(Case.principal_id, Case.id)
    .where(
        Case.principal_id.in_(bindparam("people", expanding=True)),
        Case.kind == LEAVER,
        Case.state.in_((RUNNING, COMPLETE)),
    )
    .order_by(Case.opened_at, Case.id)
)


def contradict(session: Session, alive: Mapping[str, datetime], *, now: datetime) -> int:
    """Accounts were seen alive: rows of receipts that had proven their end before do not stand. Returns how many.

    Args:
        alive: account id -> instant of the look that showed it alive.
    """
    contradicted: set[str] = set()
    for part in chunked(sorted(alive)):
        rows = session.connection().execute(_PROVEN, {"accounts": part}).all()
        marks = [
            {"key": row.id, "seen": alive[row.account_id]} for row in rows if row.finished_at < alive[row.account_id]
        ]
        if marks:
            session.connection().execute(_CONTRADICT, marks)
            marked = {mark["key"] for mark in marks}
            contradicted |= {row.case_id for row in rows if row.id in marked}
    touch(session, sorted(contradicted), now=now)
    return len(contradicted)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an application ends accounts: through which channel, and what an end must prove, and how soon."""

    channel: str
    ceiling: Grade
    required_grade: Grade
    deadline: timedelta


def reopen(
    session: Session, application_id: str, ending: Ending, alive: Mapping[str, datetime], *, now: datetime
) -> int:
    """Living accounts that the hub knew nothing of turned out to be people's who have left: the receipt of the last
    leave of each says so, in the row of their account there, or in one more. Returns how many receipts.

    Args:
        alive: principal id -> instant of the look that showed the account alive.
    """
    newest = open_case_of(session, sorted(alive))
    seen = {case_id: alive[principal_id] for principal_id, case_id in newest.items()}
    rows = [row for part in chunked(sorted(seen)) for row in _rows_there(session, part, application_id, ending.channel)]
    marks = [
        {"key": row.id, "seen": seen[row.case_id]}
        for row in rows
        if row.delivery_state == "done" and row.finished_at < seen[row.case_id]
    ]
    if marks:
        session.connection().execute(_CONTRADICT, marks)
    further = sorted(seen.keys() - {row.case_id for row in rows})
    bulk_insert(
        session,
        CaseRow,
        [
            {
                "id": key,
                "case_id": case_id,
                "application_id": application_id,
                "channel": ending.channel,
                "ceiling": int(ending.ceiling),
                "required_grade": int(ending.required_grade),
                "deadline_at": now + ending.deadline,
                "account_id": None,
                "participant_id": None,
                "delivery_id": None,
                "residual_until": None,
                "note": FOUND,
                "contradicted_at": seen[case_id],
            }
            for key, case_id in zip(new_ids("row", len(further)), further, strict=True)
        ],
    )
    marked = {mark["key"] for mark in marks}
    changed = sorted({*further, *(row.case_id for row in rows if row.id in marked)})
    touch(session, changed, now=now)
    return len(changed)


def unproven(session: Session, case_ids: Iterable[str], application_id: str, channel: str) -> dict[str, str | None]:
    """Rows that were contradicted and have neither been proven since nor anything under way: case -> account."""
    return {
        row.case_id: row.account_id
        for part in chunked(sorted(set(case_ids)))
        for row in _rows_there(session, part, application_id, channel)
        if row.contradicted_at is not None
        and row.delivery_state not in {"pending", "leased"}
        and (row.finished_at is None or row.finished_at <= row.contradicted_at)
    }


def _rows_there(session: Session, case_ids: Sequence[str], application_id: str, channel: str) -> Sequence[Any]:
    asked = {"cases": list(case_ids), "application": application_id, "channel": channel}
    return session.connection().execute(_THERE, asked).all()


def prove_found(
    session: Session, application_id: str, deliveries: Mapping[str, str], newest: Mapping[str, str], *, now: datetime
) -> None:
    """Rows that were contradicted by an account of their person that had no link follow the delivery that ends it.

    Args:
        deliveries: account id -> id of the delivery.
        newest: account id -> case of its person's last leave.
    """
    touched: list[str] = []
    for account_id, delivery_id in deliveries.items():
        follows = {"account": account_id, "delivery": delivery_id, "newest": newest[account_id]}
        touched += session.connection().execute(_FOLLOW_FOUND, {**follows, "application": application_id}).scalars()
    touch(session, sorted(set(touched)), now=now)


def prove_anew(session: Session, deliveries: Mapping[str, str], newest: Mapping[str, str], *, now: datetime) -> None:
    """Rows of leavers' receipts follow the delivery that ends their account again: those that were contradicted, and
    those of the last leave, whose proof did not know of it.

    Args:
        deliveries: account id -> id of the new delivery.
        newest: account id -> case of its person's last leave.
    """
    touched: list[str] = []
    for account_id, delivery_id in deliveries.items():
        follows = {"account": account_id, "delivery": delivery_id, "newest": newest[account_id]}
        touched += session.connection().execute(_FOLLOW, follows).scalars()
    touch(session, sorted(set(touched)), now=now)


def open_case_of(session: Session, principal_ids: Sequence[str]) -> dict[str, str]:
    """The newest leaver's case that ran, by principal: its receipt is what a later end of an account belongs to."""
    found: dict[str, str] = {}
    for part in chunked(sorted(set(principal_ids))):
        found.update({row.principal_id: row.id for row in session.connection().execute(_RAN, {"people": part})})
    return found
