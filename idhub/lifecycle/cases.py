"""Cases: one joiner, mover or leaver run, its number, its frozen plan rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from idhub.credentials.revoke import EndedParticipant
from idhub.db import bulk_insert, chunked, new_ids, upsert_on
from idhub.delivery.channel import Grade, PlannedDelivery
from idhub.delivery.wake import announce_receipts
from idhub.kept import Answer, Kept
from idhub.lifecycle.intake import Offboard
from idhub.lifecycle.ports import ApplicationTerms
from idhub.lifecycle.rules import Post
from idhub.lifecycle.tables import Case, CaseNumber, CaseRow, ReceiptDue

LEAVER = "leaver"
SCHEDULED, RUNNING, COMPLETE, CANCELLED = "scheduled", "running", "complete", "cancelled"
NO_ACCOUNT, NOT_TOLD = "no_account", "not_told"
_DEFAULT_DEADLINE = timedelta(hours=24)


# Made once: building a statement costs more than what it asks.
_SCHEDULED = Kept(
    select(Case.principal_id, Case.id, Case.effective_at, Case.plan)
    .where(Case.principal_id.in_(bindparam("people", expanding=True)), Case.kind == LEAVER, Case.state == SCHEDULED)
    .with_for_update()
)
_SCHEDULED_OF = select(Case.id).where(
    Case.principal_id == bindparam("person"), Case.kind == LEAVER, Case.state == SCHEDULED
)
_START = Kept(
    update(Case)
    .where(Case.id == bindparam("key"))
    .values(state=RUNNING, local_done_at=bindparam("at"), ended=bindparam("counts"))
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewCase:
    """A leaver's case to open."""

    principal_id: str
    organization_id: str
    effective_at: datetime
    is_emergency: bool = False
    reason: str | None = None
    plan: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """Cases that have ids and numbers, and no rows yet.

    Args:
        ids: principal id -> case id.
        last: the last of the numbers, which are consecutive.
    """

    cases: Sequence[NewCase]
    ids: Mapping[str, str]
    last: Answer | None


def begin_cases(session: Session, wanted: Sequence[NewCase], *, now: datetime) -> Opening:
    """Give cases that are about to open their ids and numbers; `open_cases` stores them."""
    if not wanted:
        return Opening([], {}, None)
    ids = dict(zip([case.principal_id for case in wanted], new_ids("cas", len(wanted)), strict=True))
    return Opening(wanted, ids, _NEXT_NUMBER.ask(session, month=f"{now:%Y-%m}", last=len(wanted)))


def open_cases(
    session: Session,
    opening: Opening,
    *,
    state: str,
    now: datetime,
    actor: str,
    ended: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Store leaver cases.

    Args:
        ended: of cases that run: principal id -> counts of sessions, grants, entitlements that ended.
    """
    if opening.last is None:
        return
    first = int(opening.last.rows()[0][0]) - len(opening.cases) + 1
    bulk_insert(
        session,
        Case,
        [
            {
                "id": opening.ids[case.principal_id],
                "number": f"R-{now:%Y-%m}-{first + offset:04d}",
                "kind": LEAVER,
                "principal_id": case.principal_id,
                "organization_id": case.organization_id,
                "state": state,
                "is_emergency": case.is_emergency,
                "reason": case.reason,
                "effective_at": case.effective_at,
                "local_done_at": None if ended is None else now,
                "completed_at": None,
                "opened_at": now,
                "opened_by": actor,
                "plan": dict(case.plan or {}),
                "ended": {} if ended is None else dict(ended.get(case.principal_id, {})),
            }
            for offset, case in enumerate(opening.cases)
        ],
    )


def skip_numbers(session: Session, count: int, *, now: datetime) -> None:
    """Let this month's numbers go on behind so many: others know receipts by them that are not here any more."""
    _NEXT_NUMBER.ask(session, month=f"{now:%Y-%m}", last=count).rows()


def _next_number(dialect: str) -> Any:
    statement = upsert_on(dialect, CaseNumber).values(month=bindparam("month"), last=bindparam("last"))
    statement = statement.on_conflict_do_update(
        index_elements=["month"], set_={"last": CaseNumber.last + statement.excluded.last}
    )
    return statement.returning(CaseNumber.last)


_NEXT_NUMBER = Kept(_next_number)


@dataclass(slots=True)
class Scheduled:
    """A leaver's case whose time has not come."""

    id: str
    effective_at: datetime
    plan: dict[str, Any]
    is_amended: bool = False

    def note_end(self, employment_id: str, last_day: date | None) -> None:
        """A last working day that was said after the schedule: it holds if the offboarding is cancelled."""
        self.plan = {
            **self.plan,
            "previous_ends": {
                **self.plan.get("previous_ends", {}),
                employment_id: None if last_day is None else last_day.isoformat(),
            },
            "previous_instants": {
                key: value for key, value in self.plan.get("previous_instants", {}).items() if key != employment_id
            },
        }
        self.is_amended = True

    def note_further(self, plan: Mapping[str, Any]) -> None:
        """Ends of posts that a repeated offboarding ends and the first did not know."""
        for name in ("previous_ends", "previous_instants"):
            self.plan = {**self.plan, name: {**plan.get(name, {}), **self.plan.get(name, {})}}
        self.is_amended = True


def ask_scheduled(session: Session, principal_ids: Sequence[str]) -> list[Answer]:
    """Ask for the scheduled leaver cases of these people (`scheduled_of`), and lock them."""
    return [_SCHEDULED.ask(session, people=part) for part in chunked(principal_ids)]


def scheduled_of(answers: Iterable[Answer]) -> dict[str, Scheduled]:
    """Scheduled leaver cases by principal."""
    return {
        row.principal_id: Scheduled(row.id, row.effective_at, row.plan) for asked in answers for row in asked.rows()
    }


def amend(session: Session, scheduled: Scheduled) -> None:
    """Store what was noted in a scheduled case's plan."""
    session.execute(
        update(Case)
        .where(Case.id == scheduled.id)
        .values(plan=scheduled.plan)
        .execution_options(synchronize_session=False)
    )


def scheduled_case(session: Session, principal_id: str) -> str | None:
    """Id of the person's scheduled leaver case."""
    return session.connection().execute(_SCHEDULED_OF, {"person": principal_id}).scalar()


def take_over(session: Session, case_id: str, *, effective_at: datetime, wish: Offboard | None) -> None:
    """A scheduled case runs now, or at another time; a later wish may make it an emergency."""
    values: dict[str, Any] = {"effective_at": effective_at}
    if wish is not None:
        values |= {"is_emergency": wish.is_emergency, "reason": wish.reason}
    session.execute(
        update(Case).where(Case.id == case_id).values(**values).execution_options(synchronize_session=False)
    )


def cancel(session: Session, case_id: str, *, now: datetime) -> None:
    """A scheduled case will not run."""
    session.execute(
        update(Case)
        .where(Case.id == case_id, Case.state == SCHEDULED)
        .values(state=CANCELLED, completed_at=now)
        .execution_options(synchronize_session=False)
    )


def latest_case(session: Session, principal_id: str) -> str | None:
    """Id of the person's newest leaver case that was not cancelled."""
    return session.execute(
        select(Case.id)
        .where(Case.principal_id == principal_id, Case.kind == LEAVER, Case.state != CANCELLED)
        .order_by(Case.opened_at.desc(), Case.id.desc())
        .limit(1)
    ).scalar()


def start_cases(
    session: Session,
    cases: Mapping[str, str],
    opening: Opening,
    ended: Mapping[str, Mapping[str, int]],
    *,
    now: datetime,
    actor: str,
) -> None:
    """The leave has taken place here: cases run, what ended at once is counted.

    Args:
        cases: principal id -> case id, those of `opening` among them.
        ended: principal id -> counts of sessions, grants, entitlements that ended.
    """
    open_cases(session, opening, state=RUNNING, now=now, actor=actor, ended=ended)
    _START.each(
        session,
        [
            {"key": case_id, "at": now, "counts": dict(ended.get(principal_id, {}))}
            for principal_id, case_id in cases.items()
            if principal_id not in opening.ids
        ],
    )


def freeze_rows(
    session: Session,
    cases: Mapping[str, str],
    *,
    deliveries: Sequence[tuple[str, PlannedDelivery]],
    untold: Sequence[EndedParticipant],
    entitled: Mapping[str, set[str]],
    ceilings: Mapping[str, Grade],
    terms: Mapping[str, ApplicationTerms],
    now: datetime,
) -> None:
    """Write the plan rows of cases: one per delivery, per participant nobody can be told of, and per application
    that the person was entitled to without any account or session known.

    Args:
        deliveries: (delivery id, what was planned), those with a case among `cases`.
        entitled: principal id -> applications entitled at the moment of leaving.
    """
    rows: list[dict[str, Any]] = []
    covered: dict[str, set[str]] = {}
    principal_of = {case_id: principal_id for principal_id, case_id in cases.items()}

    def add(case_id: str, application_id: str, channel: str, ceiling: Grade, required: Grade, **values: Any) -> None:
        covered.setdefault(principal_of[case_id], set()).add(application_id)
        demands = terms.get(application_id)
        deadline = now + (demands.revocation_deadline if demands else _DEFAULT_DEADLINE)
        rows.append(
            {
                "case_id": case_id,
                "application_id": application_id,
                "channel": channel,
                "ceiling": int(ceiling),
                "required_grade": int(required),
                "deadline_at": deadline,
                "account_id": None,
                "participant_id": None,
                "delivery_id": None,
                "residual_until": None,
                "note": None,
                **values,
            }
        )

    for delivery_id, planned in deliveries:
        if planned.case_id is None or planned.case_id not in principal_of:
            continue
        add(
            planned.case_id,
            planned.application_id,
            planned.channel,
            ceilings.get(planned.channel, planned.required_grade),
            planned.required_grade,
            account_id=planned.account_id,
            participant_id=planned.participant_id,
            delivery_id=delivery_id,
            residual_until=_instant(planned.payload.get("residual_until")),
        )
    for participant in untold:
        if participant.principal_id in cases:
            add(
                cases[participant.principal_id],
                participant.application_id,
                "none",
                Grade.E0,
                Grade.E0,
                participant_id=participant.id,
                residual_until=participant.token_expires_at,
                note=NOT_TOLD,
            )
    for principal_id, case_id in cases.items():
        for application_id in sorted(entitled.get(principal_id, set()) - covered.get(principal_id, set())):
            add(case_id, application_id, "none", Grade.E0, Grade.E0, note=NO_ACCOUNT)
    for key, row in zip(new_ids("row", len(rows)), rows, strict=True):
        row["id"] = key
    bulk_insert(session, CaseRow, rows)


def _instant(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None


def touch(session: Session, case_ids: Sequence[str], *, now: datetime) -> None:
    """The receipts of these cases must be signed again; waits for whoever is signing them now.

    The instant of the first change since the last version stays: a receipt does not wait longer because more changes.
    """
    if case_ids:
        _DUE.each(session, [{"case_id": case_id, "since": now} for case_id in sorted(case_ids)])
        announce_receipts(session)


def _due(dialect: str) -> Any:
    statement = upsert_on(dialect, ReceiptDue).values(
        case_id=bindparam("case_id"), since=bindparam("since", type_=ReceiptDue.since.type)
    )
    return statement.on_conflict_do_update(index_elements=["case_id"], set_={"since": ReceiptDue.since})


_DUE = Kept(_due)


def plan_of(posts: Iterable[Post], fingerprint: str | None) -> dict[str, Any]:
    """What a case keeps of the moment it was opened: the preview that was confirmed, and the ends it overwrites.

    A post that ends at an instant of its own is among the `previous_instants` too.
    """
    live = [post for post in posts if post.is_live]
    return {
        "fingerprint": fingerprint,
        "previous_ends": {p.id: None if p.ends_on is None else p.ends_on.isoformat() for p in live},
        "previous_instants": {p.id: p.ends_at.isoformat() for p in live if p.ends_at is not None},
    }


def previous_ends(plan: Mapping[str, Any]) -> dict[str, date | None]:
    """Last working days that a scheduled case overwrote, by employment."""
    stored: Mapping[str, str | None] = plan.get("previous_ends", {})
    return {key: None if value is None else date.fromisoformat(value) for key, value in stored.items()}


def previous_instants(plan: Mapping[str, Any]) -> dict[str, datetime]:
    """Instants at which posts would have ended that a scheduled case overwrote, by employment."""
    return {key: datetime.fromisoformat(value) for key, value in plan.get("previous_instants", {}).items()}
