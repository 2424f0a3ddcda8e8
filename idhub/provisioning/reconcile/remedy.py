"""What is done about findings: accounts switched off, restored or linked, through the delivery lanes.

Switching off is braked: more accounts of one application than plausible, in one go or within 24 hours, are held until
two different people have said so. What is done is a delivery, with its evidence; a leaver's receipt follows it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from idhub import authority
from idhub.access.tables import Account, AccountKind, Application
from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.db import among, new_id
from idhub.directory.tables import Principal
from idhub.errors import Conflict, NotFound
from idhub.lifecycle import contradictions
from idhub.lifecycle.hr_brake import Brake
from idhub.provisioning.outbound.planner import CHANNEL, left_among, plan_endings, plan_provisions
from idhub.provisioning.outbound.records import people_there
from idhub.provisioning.reconcile.findings import DOOR, Place, decided
from idhub.provisioning.reconcile.kinds import DISABLING, LIVE, Kind, Proposal, State
from idhub.provisioning.reconcile.tables import Finding

Action = Literal["disable", "restore", "link"]
BATCH = 100
_DISABLED_BY_HAND = DISABLING | {Kind.DUPLICATE, Kind.ORPHAN, Kind.QUESTION}
_BY_HAND: dict[Action, frozenset[Kind]] = {
    "disable": _DISABLED_BY_HAND,
    "restore": frozenset({Kind.MISSING, Kind.DISABLED_THERE, Kind.DRIFT}),
    "link": frozenset({Kind.ORPHAN}),
}
DEFAULT_BRAKE = Brake()


@dataclass(slots=True)
class Acted:
    """What came of it: findings whose remedy is on its way, and those that the brake holds."""

    deliveries: dict[str, str] = field(default_factory=dict)
    """Finding id to delivery id."""
    held: list[str] = field(default_factory=list)


def actions_for(finding: Finding) -> list[Action]:
    """What the hub could do about it now; the proposed one first."""
    if finding.application_id is None or finding.external_id is None or finding.state not in LIVE:
        return []
    possible = [action for action, kinds in _BY_HAND.items() if finding.kind in kinds]
    return sorted(possible, key=lambda action: action != finding.proposal)


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many accounts of an application may still be switched off in this window."""

    limit: int
    used: int

    @property
    def left(self) -> int:
        """How many more."""
        return max(0, self.limit - self.used)


def allowance(session: Session, application_id: str, *, now: datetime, brake: Brake = DEFAULT_BRAKE) -> Allowance:
    """The brake as it stands."""
    alive = session.execute(
        select(func.count()).where(Account.application_id == application_id, Account.known_state == "active")
    ).scalar_one()
    used = session.execute(
        select(func.count()).where(Finding.application_id == application_id, Finding.acted_at > now - brake.window)
    ).scalar_one()
    return Allowance(brake.limit(alive), used)


def act(
    session: Session,
    found: Sequence[Finding],
    action: Action,
    *,
    now: datetime,
    actor: Actor,
    door: str,
    brake: Brake = DEFAULT_BRAKE,
) -> Acted:
    """Carry out one action for findings of one application; what the brake does not let through is held.

    Runs in the caller's transaction, which has locked the findings (`findings.get`).

    Raises:
        Conflict: one of them is over, has changed since, or the action is none for it.
    """
    for finding in found:
        if action not in actions_for(finding):
            raise Conflict("This cannot be done about this finding (any more).", field="action", rule="finding.action")
    if not found:
        return Acted()
    application_id = _one_application(found)
    if action == "disable":
        # Two at once must not both see room for one.
        session.execute(select(Application.id).where(Application.id == application_id).with_for_update(key_share=True))
        room = allowance(session, application_id, now=now, brake=brake).left
        if _changed(session, found, now=now):
            raise Conflict(
                "This has changed since it was found; the next comparison says how.",
                field="finding",
                rule="finding.changed",
            )
        go, over = list(found[:room]), list(found[room:])
        acted = _disable(session, go, now=now, actor=actor, door=door)
        acted.held = _hold(session, over, now=now, actor=actor, door=door)
        return acted
    if action == "link":
        _ensure_wanted(session, found, now=now)
        for finding in found:
            _link(session, finding, now=now)
    return _provision(session, found, now=now, actor=actor, door=door, action=action)


def _one_application(found: Iterable[Finding]) -> str:
    named = {finding.application_id for finding in found}
    if len(named) != 1 or None in named:
        raise Conflict("These findings are not of one application.", field="finding", rule="finding.application")
    return str(named.pop())


def automatic(
    session: Session, place: Place, *, now: datetime, brake: Brake = DEFAULT_BRAKE, limit: int = BATCH
) -> Acted:
    """Switch off, by policy, what nobody may have and nothing speaks for; the next batch of it."""
    found = (
        session.execute(
            select(Finding)
            .where(
                Finding.application_id == place.application_id,
                Finding.state.in_((State.OPEN, State.REOPENED)),
                Finding.kind.in_(DISABLING),
                Finding.proposal == Proposal.DISABLE,
                Finding.held_at.is_(None),
                Finding.last_run_id == place.run_id,
            )
            .order_by(Finding.id)
            .limit(limit)
            .with_for_update()
        )
        .scalars()
        .all()
    )
    changed = _changed(session, found, now=now)
    still = [finding for finding in found if finding.id not in changed]
    return act(session, still, "disable", now=now, actor=SYSTEM, door=DOOR, brake=brake)


_OF_A_PERSON = frozenset({Kind.LEFT_ALIVE, Kind.REENABLED, Kind.UNENTITLED})


def _changed(session: Session, found: Sequence[Finding], *, now: datetime) -> set[str]:
    """Those whose account somebody may have by now: hired again, entitled, or linked since it was looked at.

    Locks the people, so that the answer holds until the caller's transaction ends.
    """
    if not found:
        return set()
    application_id = _one_application(found)
    linked = {
        row.external_id: row.principal_id
        for row in session.execute(
            select(Account.external_id, Account.principal_id).where(
                Account.application_id == application_id,
                Account.external_id.in_(among(session, [finding.external_id or "" for finding in found])),
                Account.principal_id.is_not(None),
            )
        )
    }
    people = {person for person in linked.values() if person}
    people |= {finding.principal_id for finding in found if finding.principal_id and finding.kind in _OF_A_PERSON}
    _lock_people(session, sorted(people))
    there = people_there(session, sorted(people), application_id, now=now)
    wanted = {person for person, each in there.items() if each.is_wanted}
    return {
        finding.id
        for finding in found
        if linked.get(finding.external_id) in wanted
        or (finding.kind in _OF_A_PERSON and finding.principal_id in wanted)
        # Nobody was behind it, and now somebody is.
        or (finding.account_id is None and finding.external_id in linked)
    }


def _disable(session: Session, found: Sequence[Finding], *, now: datetime, actor: Actor, door: str) -> Acted:
    if not found:
        return Acted()
    accounts = {finding.id: _account_for(session, finding, now=now) for finding in found}
    session.flush()
    rows = _locked(session, sorted(set(accounts.values())))
    ended = [rows[accounts[finding.id]] for finding in found]
    ids = plan_endings(session, _one_application(found), ended, found=_whose(found, accounts), now=now)
    acted = Acted({finding.id: delivery_id for finding, delivery_id in zip(found, ids, strict=True)})
    for finding in found:
        finding.acted_at, finding.held_at, finding.first_approver = now, None, None
    _accepted(session, found, acted, now=now, actor=actor, door=door, action="disable")
    return acted


def _whose(found: Iterable[Finding], accounts: Mapping[str, str]) -> dict[str, str]:
    """Whose accounts without a link are, by what was found: account -> person."""
    return {accounts[f.id]: f.principal_id for f in found if f.principal_id and f.kind in _OF_A_PERSON}


def prove_gone(session: Session, place: Place, ids: Sequence[str], *, now: datetime) -> int:
    """Have it proven of these findings, which do not stand any more, that the leavers' accounts are off: somebody
    switched them off there, and the receipts that they had contradicted wait. Returns how many are looked at.
    """
    found = (
        session.execute(
            select(Finding).where(
                Finding.id.in_(among(session, list(ids))),
                Finding.kind.in_(_OF_A_PERSON),
                Finding.principal_id.is_not(None),
            )
        )
        .scalars()
        .all()
    )
    if not found or place.application_id is None:
        return 0
    changed = _changed(session, found, now=now)
    found = [finding for finding in found if finding.id not in changed]
    people = left_among(session, (finding.principal_id for finding in found if finding.principal_id))
    newest = contradictions.open_case_of(session, sorted(people))
    waiting = contradictions.unproven(session, newest.values(), place.application_id, CHANNEL)
    accounts: dict[str, str] = {}
    for finding in found:
        case_id = newest.get(finding.principal_id or "")
        if case_id in waiting:
            accounts[finding.id] = waiting.pop(case_id) or _account_for(session, finding, now=now)
    if not accounts:
        return 0
    session.flush()
    rows = _locked(session, sorted(set(accounts.values())))
    looked_at = [finding for finding in found if finding.id in accounts and accounts[finding.id] in rows]
    ended = [rows[accounts[finding.id]] for finding in looked_at]
    plan_endings(session, place.application_id, ended, found=_whose(looked_at, accounts), now=now)
    return len(ended)


def _provision(
    session: Session, found: Sequence[Finding], *, now: datetime, actor: Actor, door: str, action: Action
) -> Acted:
    accounts = {finding.id: finding.account_id or "" for finding in found}
    rows = _locked(session, sorted(set(accounts.values())))
    if missing := [finding for finding in found if accounts[finding.id] not in rows]:
        raise Conflict(
            f"The account of finding {missing[0].id} is not known any more.", field="finding", rule="finding.account"
        )
    ids = plan_provisions(session, _one_application(found), [rows[accounts[one.id]] for one in found], now=now)
    acted = Acted({finding.id: delivery_id for finding, delivery_id in zip(found, ids, strict=True)})
    _accepted(session, found, acted, now=now, actor=actor, door=door, action=action)
    return acted


def _account_for(session: Session, finding: Finding, *, now: datetime) -> str:
    """The account row of a finding: one without a person, where the hub had none; nothing else is touched by it."""
    if finding.account_id is not None:
        return finding.account_id
    known = session.execute(
        select(Account.id)
        .where(Account.application_id == finding.application_id, Account.external_id == finding.external_id)
        .limit(1)
    ).scalar()
    if known is None:
        known = new_id("acc")
        session.add(
            Account(
                id=known,
                application_id=finding.application_id,
                principal_id=None,
                slot="found",
                kind=AccountKind.ORPHAN,
                external_id=finding.external_id,
                user_name=finding.subject[:254],
                desired_state="inactive",
                known_state="active",
                known_hash=None,
                observed_at=finding.last_seen_at,
                created_at=now,
                changed_at=now,
            )
        )
    finding.account_id = known
    return known


def _ensure_wanted(session: Session, found: Sequence[Finding], *, now: datetime) -> None:
    """Refuse to link accounts to people who may not have one there (any more).

    Raises:
        Conflict: one of them may not; the next comparison says what is to be done.
    """
    people = sorted({finding.principal_id for finding in found if finding.principal_id})
    _lock_people(session, people)
    there = people_there(session, people, _one_application(found), now=now)
    if any(finding.principal_id not in there or not there[finding.principal_id].is_wanted for finding in found):
        raise Conflict(
            "Its person may not have an account there any more; compare the application again.",
            field="finding",
            rule="finding.changed",
        )


def _link(session: Session, finding: Finding, *, now: datetime) -> None:
    """The account is its person's: the next provisioning adopts it and brings it up to date.

    Raises:
        Conflict: its person has another account there.
    """
    held = session.execute(
        select(Account.id, Account.external_id, Account.known_state)
        .where(
            Account.application_id == finding.application_id,
            Account.principal_id == finding.principal_id,
            Account.slot == "main",
        )
        .with_for_update()
    ).one_or_none()
    if held is not None and held.external_id not in (None, finding.external_id) and held.known_state != "absent":
        raise Conflict("The person has another account in this application.", field="finding", rule="finding.linked")
    if held is None:
        finding.account_id = new_id("acc")
        session.add(
            Account(
                id=finding.account_id,
                application_id=finding.application_id,
                principal_id=finding.principal_id,
                slot="main",
                kind=AccountKind.LINKED,
                external_id=finding.external_id,
                user_name=finding.subject[:254],
                desired_state="active",
                known_state="active",
                known_hash=None,
                observed_at=finding.last_seen_at,
                created_at=now,
                changed_at=now,
            )
        )
    else:
        finding.account_id = held.id
        session.execute(
            update(Account)
            .where(Account.id == held.id)
            .values(external_id=finding.external_id, known_state="active", desired_state="active", changed_at=now)
            .execution_options(synchronize_session=False)
        )
    session.flush()


def _locked(session: Session, account_ids: Sequence[str]) -> dict[str, Any]:
    """Accounts by id, after the locks of their people (design, invariant 2)."""
    rows = session.execute(
        select(Account.id, Account.principal_id, Account.application_id, Account.external_id).where(
            Account.id.in_(among(session, account_ids))
        )
    ).all()
    _lock_people(session, sorted({row.principal_id for row in rows if row.principal_id}))
    return {row.id: row for row in rows}


def _lock_people(session: Session, people: Sequence[str]) -> None:
    if people:
        session.execute(
            select(Principal.id)
            .where(Principal.id.in_(among(session, people)))
            .order_by(Principal.id)
            .with_for_update(key_share=True)
        )


def _accepted(
    session: Session, found: Sequence[Finding], acted: Acted, *, now: datetime, actor: Actor, door: str, action: str
) -> None:
    events = []
    for finding in found:
        finding.state, finding.decided_by, finding.decided_at = State.ACCEPTED.value, actor.id, now
        finding.delivery_id = acted.deliveries[finding.id]
        events.append(decided(EventType.FINDING_ACCEPTED, finding, now=now, actor=actor, door=door, action=action))
    session.flush()
    record(session, events)


def _hold(session: Session, found: Sequence[Finding], *, now: datetime, actor: Actor, door: str) -> list[str]:
    fresh = [finding for finding in found if finding.held_at is None]
    for finding in fresh:
        finding.held_at, finding.first_approver = now, None
    session.flush()
    record(session, [decided(EventType.FINDING_HELD, f, now=now, actor=actor, door=door) for f in fresh])
    return [finding.id for finding in found]


@dataclass(frozen=True, slots=True)
class Release:
    """What an approval came to: `waiting` for another person, or `released`."""

    state: Literal["waiting", "released"]
    findings: int


def approve(session: Session, application_id: str, *, approver: Actor, now: datetime, door: str) -> Release:
    """Say yes to what the brake holds of an application. The first yes waits; the second, of another person, acts.

    A first yes of somebody who has left since, or lost the right to it, is none: this one is the first then. Who may
    approve is the caller's to ask of `authorize` (`finding.release`).

    Raises:
        NotFound: nothing is held.
        Conflict: the same person approved before.
    """
    found = (
        session.execute(
            select(Finding)
            .where(Finding.application_id == application_id, Finding.held_at.is_not(None), Finding.state.in_(LIVE))
            .order_by(Finding.id)
            .with_for_update()
        )
        .scalars()
        .all()
    )
    if not found:
        raise NotFound("The brake holds nothing of this application.", field="application", rule="release.nothing_held")
    first = next((finding.first_approver for finding in found if finding.first_approver), None)
    if first == approver.id:
        raise Conflict("A second person must approve this release.", field="approver", rule="release.same_person")
    if first is not None:
        place = session.execute(
            select(Application.organization_id).where(Application.id == application_id)
        ).scalar_one()
        if not authority.still_counts(session, first, authority.Action.FINDING_RELEASE, organization_id=place):
            first = None
    if first is None:
        for finding in found:
            finding.first_approver = approver.id
        session.flush()
        record(session, [_released(application_id, "waiting", len(found), approver, now=now, door=door)])
        return Release("waiting", len(found))
    # What came to be held after the first yes has one yes only, and waits.
    both = [finding for finding in found if finding.first_approver]
    changed = _changed(session, both, now=now)
    for finding in both:
        if finding.id in changed:
            finding.held_at = finding.first_approver = None
    both = [finding for finding in both if finding.id not in changed]
    record(session, [_released(application_id, "released", len(both), approver, now=now, door=door)])
    for start in range(0, len(both), BATCH):
        _disable(session, both[start : start + BATCH], now=now, actor=approver, door=door)
    return Release("released", len(both))


def _released(application_id: str, state: str, count: int, approver: Actor, *, now: datetime, door: str) -> Event:
    return Event(
        type=EventType.FINDING_RELEASED,
        at=now,
        actor=approver,
        door=door,
        target_kind="application",
        target_id=application_id,
        application_id=application_id,
        details={"state": state, "findings": count},
    )
