"""Findings: opened, seen again, closed when they are gone, decided by people. Every step has its event."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Select, bindparam, func, select, update
from sqlalchemy.orm import Session

from idhub.access.reconcile_plan import plan_of
from idhub.access.tables import Account, Application
from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.db import among, bulk_insert, new_ids
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import Standing
from idhub.directory.names import may_name
from idhub.directory.tables import Organization
from idhub.errors import Conflict, Invalid, NotFound
from idhub.lifecycle.contradictions import Ending, contradict, reopen
from idhub.lifecycle.intake import clean_text
from idhub.provisioning.outbound.planner import CEILING, CHANNEL, left_among, terms_of
from idhub.provisioning.reconcile.judge import Verdict
from idhub.provisioning.reconcile.kinds import DEADLINES, LIVE, LONGEST_DEADLINE, Kind, Policy, State
from idhub.provisioning.reconcile.tables import Finding

MAX_REASON = 500
LONGEST_DISMISSAL = timedelta(days=366)
DOOR = "reconcile"
_ALIVE_KINDS = frozenset({Kind.REENABLED, Kind.LEFT_ALIVE, Kind.UNENTITLED})


@dataclass(frozen=True, slots=True)
class Place:
    """Where findings of one run belong."""

    run_id: str
    source: str
    application_id: str | None
    organization_id: str
    owner_id: str | None
    policy: Policy = Policy.REPORT


def fingerprint(source: str, application_id: str | None, kind: str, subject: str) -> str:
    """The same contradiction has the same one, in every run."""
    text = "\0".join((source, application_id or "", kind, subject))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint_of(place: Place, verdict: Verdict) -> str:
    """Of an account, its id there; of a person, theirs."""
    return fingerprint(place.source, place.application_id, verdict.kind, verdict.external_id)


@dataclass(slots=True)
class Written:
    """What a batch of verdicts came to."""

    opened: int = 0
    reopened: int = 0
    again: int = 0


def write(session: Session, place: Place, verdicts: Sequence[Verdict], *, now: datetime) -> Written:
    """Open findings, or note that they still stand. Runs in the caller's transaction."""
    by_print = {fingerprint_of(place, verdict): verdict for verdict in verdicts}
    known = {
        row.fingerprint: row
        for row in session.execute(
            select(Finding.id, Finding.fingerprint, Finding.state, Finding.dismissed_until, Finding.deadline_at)
            .where(Finding.fingerprint.in_(among(session, sorted(by_print))))
            .order_by(Finding.id)
            .with_for_update()
        )
    }
    new = [(key, verdict) for key, verdict in by_print.items() if key not in known]
    ids = new_ids("fnd", len(new))
    rows = [_row(place, key, verdict, finding_id, now=now) for (key, verdict), finding_id in zip(new, ids, strict=True)]
    bulk_insert(session, Finding, rows)
    events = [
        _event(EventType.FINDING_OPENED, row["id"], verdict, place, now=now)
        for row, (_, verdict) in zip(rows, new, strict=True)
    ]
    written, again = Written(opened=len(new)), []
    for key, row in known.items():
        verdict = by_print[key]
        reopens = row.state == State.DONE or (
            row.state == State.DISMISSED and row.dismissed_until is not None and row.dismissed_until <= now
        )
        again.append(
            {
                "key": row.id,
                "new_state": State.REOPENED if reopens else row.state,
                "deadline": now + _time_for(verdict.kind, place.policy) if reopens else row.deadline_at,
                "place": place.organization_id,
                "evidence": dict(verdict.evidence),
                "proposal": verdict.proposal.value,
                "account": verdict.account_id,
                "person": verdict.principal_id,
                "basis": verdict.basis,
                "subject": verdict.subject[:254],
                "owner": place.owner_id,
                "at": now,
                "run": place.run_id,
            }
        )
        written.reopened += reopens
        written.again += not reopens
        if reopens:
            events.append(_event(EventType.FINDING_REOPENED, row.id, verdict, place, now=now))
    if again:
        session.connection().execute(_SEE_AGAIN, again)
    record(session, events)
    _contradict(session, place, verdicts, now=now)
    return written


_SEE_AGAIN = (
    update(Finding)
    .where(Finding.id == bindparam("key"))
    .values(
        state=bindparam("new_state"),
        deadline_at=bindparam("deadline"),
        organization_id=bindparam("place"),
        evidence=bindparam("evidence"),
        proposal=bindparam("proposal"),
        account_id=func.coalesce(bindparam("account"), Finding.account_id),
        principal_id=bindparam("person"),
        basis=bindparam("basis"),
        subject=bindparam("subject"),
        owner_id=bindparam("owner"),
        last_seen_at=bindparam("at"),
        last_run_id=bindparam("run"),
        closed_at=None,
    )
)


def _row(place: Place, key: str, verdict: Verdict, finding_id: str, *, now: datetime) -> dict[str, Any]:
    return {
        "id": finding_id,
        "fingerprint": key,
        "kind": verdict.kind.value,
        "source": place.source,
        "organization_id": place.organization_id,
        "application_id": place.application_id,
        "account_id": verdict.account_id,
        "external_id": verdict.external_id[:255] if place.application_id else None,
        "principal_id": verdict.principal_id,
        "subject": verdict.subject[:254],
        "basis": verdict.basis,
        "evidence": dict(verdict.evidence),
        "proposal": verdict.proposal.value,
        "owner_id": place.owner_id,
        "deadline_at": now + _time_for(verdict.kind, place.policy),
        "state": State.OPEN.value,
        "reason": None,
        "dismissed_until": None,
        "decided_by": None,
        "decided_at": None,
        "acted_at": None,
        "delivery_id": None,
        "held_at": None,
        "first_approver": None,
        "first_seen_at": now,
        "last_seen_at": now,
        "closed_at": None,
        "last_run_id": place.run_id,
    }


def _time_for(kind: Kind, policy: Policy) -> timedelta:
    time = DEADLINES.get(kind, LONGEST_DEADLINE)
    return time if policy == Policy.REPORT else time / 2


def _contradict(session: Session, place: Place, verdicts: Iterable[Verdict], *, now: datetime) -> None:
    """Somebody's end was proven and an account of theirs lives: receipts say so, and the hub knows it as on."""
    living = [v for v in verdicts if v.kind in _ALIVE_KINDS and v.evidence.get("account", {}).get("active")]
    seen = {id(verdict): datetime.fromisoformat(verdict.evidence["seen_at"]) for verdict in living}
    unlinked = {
        verdict.principal_id: seen[id(verdict)]
        for verdict in living
        if verdict.basis != "link"
        and verdict.principal_id
        and verdict.evidence.get("register", {}).get("standing") == Standing.LEFT
    }
    if unlinked and place.application_id is not None:
        terms = terms_of(session, place.application_id)
        ending = Ending(CHANNEL, CEILING, terms.required(CEILING), terms.revocation_deadline)
        gone = left_among(session, unlinked)
        reopen(session, place.application_id, ending, {one: unlinked[one] for one in gone}, now=now)
    alive = {verdict.account_id: seen[id(verdict)] for verdict in living if verdict.account_id}
    if not alive:
        return
    session.connection().execute(
        _SEEN_ALIVE, [{"key": account_id, "seen": at, "at": now} for account_id, at in sorted(alive.items())]
    )
    contradict(session, alive, now=now)


_SEEN_ALIVE = (
    update(Account)
    .where(
        Account.id == bindparam("key"),
        Account.known_state != "active",
        func.coalesce(Account.observed_at, bindparam("seen", type_=Account.observed_at.type))
        <= bindparam("seen", type_=Account.observed_at.type),
    )
    .values(
        known_state="active", observed_at=bindparam("seen", type_=Account.observed_at.type), changed_at=bindparam("at")
    )
)


def live(session: Session, place: Place, *, after: str, limit: int) -> Sequence[Any]:
    """Findings of the place's source that are not over, in order of their ids."""
    return session.execute(
        select(Finding.id, Finding.fingerprint, Finding.external_id, Finding.kind, Finding.organization_id)
        .where(
            Finding.application_id == place.application_id
            if place.application_id
            else Finding.application_id.is_(None),
            Finding.source == place.source,
            Finding.state.in_(LIVE),
            Finding.id > after,
        )
        .order_by(Finding.id)
        .limit(limit)
    ).all()


def close(session: Session, place: Place, ids: Sequence[str], *, now: datetime, why: str) -> int:
    """Close findings that do not stand any more, with an event each. Returns how many were still open.

    Args:
        why: what the event gives as reason: `gone` or `delivered`.
    """
    if not ids:
        return 0
    rows = session.execute(
        update(Finding)
        .where(Finding.id.in_(among(session, list(ids))), Finding.state.in_(LIVE))
        .values(state=State.DONE, closed_at=now, held_at=None, first_approver=None, last_run_id=place.run_id)
        .returning(Finding.id, Finding.kind, Finding.application_id, Finding.organization_id, Finding.principal_id)
        .execution_options(synchronize_session=False)
    ).all()
    record(session, [_closed(row, why, now=now) for row in rows])
    return len(rows)


def has_delivered(session: Session) -> bool:
    """Whether `settle_delivered` has something to do."""
    return session.execute(_DELIVERED.limit(1)).first() is not None


def settle_delivered(session: Session, *, now: datetime, limit: int = 500) -> int:
    """Accepted findings whose delivery reached its grade are done. Returns how many."""
    rows = session.execute(_DELIVERED.limit(limit))
    return close(session, _NOWHERE, [row.id for row in rows], now=now, why="delivered")


_DELIVERED = (
    select(Finding.id)
    .join(Delivery, Delivery.id == Finding.delivery_id)
    .where(Finding.state == State.ACCEPTED, Delivery.state == "done", Delivery.finished_at >= Finding.decided_at)
)


_NOWHERE = Place("delivery", "scim", None, "", None)


def get(session: Session, finding_id: str, *, lock: bool = True) -> Finding:
    """One finding, locked for a decision.

    Args:
        lock: False to look at it only, in a transaction that reads.

    Raises:
        NotFound: there is none.
    """
    statement = select(Finding).where(Finding.id == finding_id)
    if lock:
        statement = statement.with_for_update()
    found = session.execute(statement).scalar_one_or_none() if may_name(finding_id) else None
    if found is None:
        raise NotFound("There is no such finding.", field="finding", rule="finding.unknown")
    return found


def page(
    session: Session,
    *,
    kinds: Sequence[Kind] = (),
    states: Sequence[State] = (),
    application_id: str | None = None,
    organizations: Select[str] | None = None,
    after: str | None = None,
    limit: int,
) -> tuple[Sequence[Finding], str | None]:
    """Findings in order of discovery, and the `after` of the next page, if there is one.

    Args:
        kinds: Of these; empty: of all. `states` likewise.
        organizations: Subquery of the ids of those that count; None: all do.
        after: Id of the last finding of the page before.
    """
    statement = select(Finding).order_by(Finding.id).limit(limit + 1)
    if kinds:
        statement = statement.where(Finding.kind.in_(kinds))
    if states:
        statement = statement.where(Finding.state.in_(states))
    if application_id is not None:
        statement = statement.where(Finding.application_id == application_id)
    if organizations is not None:
        statement = statement.where(Finding.organization_id.in_(organizations))
    if after is not None:
        statement = statement.where(Finding.id > after)
    found = session.execute(statement).scalars().all()
    return found[:limit], found[limit - 1].id if len(found) > limit else None


def accept(session: Session, finding: Finding, *, now: datetime, actor: Actor, door: str) -> None:
    """Somebody sees to it, outside of the hub.

    Raises:
        Conflict: it is over, or somebody sees to it already.
    """
    _require_open(finding)
    finding.state, finding.decided_by, finding.decided_at = State.ACCEPTED.value, actor.id, now
    session.flush()
    record(session, [decided(EventType.FINDING_ACCEPTED, finding, now=now, actor=actor, door=door)])


def dismiss(
    session: Session, finding: Finding, *, reason: str, until: date, now: datetime, actor: Actor, door: str
) -> None:
    """It is right as it is, for a stated reason, up to and with a stated day at the place of its organization.

    Raises:
        Conflict: it is over.
        Invalid: no reason, one with control or direction characters, or no day within a year.
    """
    _require_open(finding, but_accepted=True)
    reason = " ".join(reason.split())
    if not reason or len(reason) > MAX_REASON:
        raise Invalid(f"Say why, in at most {MAX_REASON} characters.", field="reason", rule="finding.reason")
    reason = clean_text(reason, field_name="reason", limit=MAX_REASON) or ""
    ends_at = _end_of(session, finding.organization_id, until)
    if not now < ends_at <= now + LONGEST_DISMISSAL:
        raise Invalid("An exception ends: on a day within the next year.", field="until", rule="finding.until")
    finding.state, finding.reason, finding.dismissed_until = State.DISMISSED.value, reason, ends_at
    finding.decided_by, finding.decided_at, finding.held_at, finding.first_approver = actor.id, now, None, None
    session.flush()
    details = {"reason": reason, "until": until.isoformat()}
    record(session, [decided(EventType.FINDING_DISMISSED, finding, now=now, actor=actor, door=door, **details)])


def take_back(session: Session, finding: Finding, *, now: datetime, actor: Actor, door: str) -> None:
    """What was decided does not hold: it is open again, and what its application's policy says applies.

    An exception was right for a time, so that the time to see to it begins anew; who had taken it on had that time.

    Raises:
        Conflict: nothing was decided, or a remedy is on its way: that is undone by another, if at all.
    """
    if finding.state not in {State.ACCEPTED, State.DISMISSED}:
        raise Conflict("Nothing was decided about this finding.", field="finding", rule="finding.undecided")
    if finding.state == State.ACCEPTED and finding.delivery_id is not None:
        raise Conflict(
            "Its remedy is on its way; that cannot be taken back.", field="finding", rule="finding.under_way"
        )
    was = finding.state
    if was == State.DISMISSED:
        policy = plan_of(session, finding.application_id).policy if finding.application_id else Policy.REPORT
        finding.deadline_at = now + _time_for(Kind(finding.kind), Policy(policy))
    finding.state, finding.reason, finding.dismissed_until = State.REOPENED.value, None, None
    finding.decided_by, finding.decided_at = actor.id, now
    session.flush()
    record(session, [decided(EventType.FINDING_TAKEN_BACK, finding, now=now, actor=actor, door=door, was=was)])


def _end_of(session: Session, organization_id: str, day: date) -> datetime:
    zone = session.execute(select(Organization.time_zone).where(Organization.id == organization_id)).scalar_one()
    return datetime.combine(day + timedelta(days=1), time(), ZoneInfo(zone)).astimezone(UTC)


def _require_open(finding: Finding, *, but_accepted: bool = False) -> None:
    allowed = {State.OPEN, State.REOPENED, *([State.ACCEPTED] if but_accepted else [])}
    if finding.state not in allowed:
        raise Conflict("This finding has been decided already.", field="finding", rule="finding.decided")


def place_of(session: Session, application_id: str, *, run_id: str, policy: Policy) -> Place:
    """Where findings about an application belong."""
    row = session.execute(
        select(Application.organization_id, Application.owner_id).where(Application.id == application_id)
    ).one()
    return Place(run_id, "scim", application_id, row.organization_id, row.owner_id, policy)


def decided(kind: EventType, finding: Finding, *, now: datetime, actor: Actor, door: str, **details: Any) -> Event:
    """The event of what somebody decided."""
    return Event(
        type=kind,
        at=now,
        actor=actor,
        door=door,
        target_kind="finding",
        target_id=finding.id,
        person_id=finding.principal_id,
        organization_id=finding.organization_id,
        application_id=finding.application_id,
        delivery_id=finding.delivery_id,
        details={"kind": finding.kind, **details},
    )


def _event(kind: EventType, finding_id: str, verdict: Verdict, place: Place, *, now: datetime) -> Event:
    details: dict[str, Any] = {"kind": verdict.kind.value, "basis": verdict.basis, "run": place.run_id}
    if differences := verdict.evidence.get("differences"):
        details["differs"] = sorted(differences)
    return Event(
        type=kind,
        at=now,
        actor=SYSTEM,
        door=DOOR,
        target_kind="finding",
        target_id=finding_id,
        person_id=verdict.principal_id,
        organization_id=place.organization_id,
        application_id=place.application_id,
        details=details,
    )


def _closed(row: Any, why: str, *, now: datetime) -> Event:
    return Event(
        type=EventType.FINDING_DONE,
        at=now,
        actor=SYSTEM,
        door=DOOR,
        target_kind="finding",
        target_id=row.id,
        person_id=row.principal_id,
        organization_id=row.organization_id,
        application_id=row.application_id,
        details={"kind": row.kind, "why": why},
    )


def as_data(finding: Finding) -> Mapping[str, Any]:
    """A finding as plain data, for the API and the command line."""
    names = (
        *("id", "kind", "state", "application_id", "external_id", "account_id", "principal_id", "subject", "basis"),
        *("evidence", "proposal", "owner_id", "deadline_at", "reason", "dismissed_until", "decided_by", "decided_at"),
        *("delivery_id", "held_at", "first_seen_at", "last_seen_at", "closed_at"),
    )
    return {name: getattr(finding, name) for name in names}
