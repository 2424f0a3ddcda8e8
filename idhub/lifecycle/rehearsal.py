"""Preview of a start, a move or a rehire: the change itself is made, looked at and taken back. Nothing is left of it.

What is shown is therefore what the one door does, not a second opinion of it. For somebody whose first day is still to
come, the first day is rehearsed too: that is when rules begin to entitle.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.entitlements import held_by
from idhub.access.tables import Account, Application
from idhub.changes import SYSTEM
from idhub.delivery import queue
from idhub.delivery.holds import EVERY_CHANNEL
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import Standing
from idhub.directory.people import PersonView, show_people, show_person
from idhub.lifecycle.intake import Reevaluate
from idhub.lifecycle.transition import transition

ChangeOfAccess = Literal["gained", "lost", "kept"]
_ORDER: Sequence[ChangeOfAccess] = ("gained", "lost", "kept")
_PROVISIONING: Mapping[str, str] = {
    "absent": "create_account",
    "inactive": "reactivate_account",
    "active": "update_account",
}
"""What provisioning an account means, by what its application last confirmed."""
Act = Callable[[], str]
"""Makes the change and returns the principal's id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountAction:
    """One delivery that would be planned."""

    channel: str
    action: str
    """create_account, reactivate_account, update_account, deactivate_account, end_sessions; provision_account where the
    application has not said what it has."""
    account: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """What the change means in one application."""

    application_id: str
    application: str
    application_name: str
    application_name_zh: str | None
    change: ChangeOfAccess
    roles: Sequence[str]
    actions: Sequence[AccountAction]
    is_held: bool
    """The application's queue stands still: what is planned waits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What a change would come to, as the hub knows things now.

    Args:
        before: the person as they are; None when the change makes them.
        after: as they would be right after the change.
        takes_effect_at: the instant of which `effects` speak: now, or the start of somebody who has not begun.
        fingerprint: names exactly this outcome; what is confirmed is what was read.
    """

    before: PersonView | None
    after: PersonView
    takes_effect_at: datetime
    effects: Sequence[Effect]
    fingerprint: str

    def count(self, change: ChangeOfAccess) -> int:
        """Applications with this change."""
        return sum(effect.change == change for effect in self.effects)

    @property
    def deliveries(self) -> int:
        """How many deliveries would be planned, on the first day included."""
        return sum(len(effect.actions) for effect in self.effects)


@dataclass(frozen=True, slots=True)
class _Outlook:
    person: PersonView
    at: datetime
    roles: dict[str, tuple[str, ...]]
    """Roles by application."""


def rehearse(session: Session, act: Act, *, principal_id: str | None, now: datetime) -> Rehearsal:
    """Run `act` and take it back; what it raises passes through, and nothing of it stays either.

    Runs in the caller's write transaction, inside a savepoint.

    Args:
        principal_id: whom the change is about; None when it makes somebody.
    """
    before = None
    if principal_id is not None:
        savepoint = session.begin_nested()
        try:
            before = _outlook(session, principal_id, now=now)
        finally:
            savepoint.rollback()
    deliveries = _deliveries(session, principal_id)
    accounts = _accounts(session, principal_id)
    savepoint = session.begin_nested()
    try:
        changed_id = act()
        after = show_person(session, changed_id)
        outlook = _outlook(session, changed_id, now=now)
        planned = {key: row for key, row in _deliveries(session, changed_id).items() if key not in deliveries}
        effects = _effects(session, before.roles if before else {}, outlook.roles, list(planned.values()), accounts)
    finally:
        savepoint.rollback()
    return Rehearsal(
        before=before.person if before else None,
        after=after,
        takes_effect_at=outlook.at,
        effects=effects,
        fingerprint=_fingerprint(after, outlook.at, effects),
    )


def _outlook(session: Session, principal_id: str, *, now: datetime) -> _Outlook:
    """The person and what they are entitled to: now or, before they begin, on their first day."""
    person = show_people(session, [principal_id])[principal_id]
    at = now
    if person.standing == Standing.STAGED:
        at = max(now, person.access_starts_at)
        transition(session, [Reevaluate(principal_id=principal_id)], now=at, actor=SYSTEM, door="schedule").only()
    roles: dict[str, tuple[str, ...]] = {}
    for held in held_by(session, [principal_id]).get(principal_id, ()):
        roles[held.application_id] = tuple(sorted({*roles.get(held.application_id, ()), held.role}))
    return _Outlook(person, at, roles)


def _deliveries(session: Session, principal_id: str | None) -> dict[str, tuple[str, str, str, str | None]]:
    """(application, channel, operation, account) of everything ever planned for the person, by id."""
    rows = session.execute(
        select(Delivery.id, Delivery.application_id, Delivery.channel, Delivery.operation, Delivery.account_id).where(
            Delivery.principal_id == principal_id
        )
    )
    return {row.id: (row.application_id, row.channel, row.operation, row.account_id) for row in rows}


def _accounts(session: Session, principal_id: str | None) -> dict[str, tuple[str, str | None]]:
    """(what provisioning would be of it now, name there) by account."""
    rows = session.execute(
        select(Account.id, Account.desired_state, Account.known_state, Account.user_name).where(
            Account.principal_id == principal_id
        )
    )
    found: dict[str, tuple[str, str | None]] = {}
    for row in rows:
        action = _PROVISIONING.get(row.known_state, "provision_account")
        if action == "update_account" and row.desired_state == "inactive":
            action = "reactivate_account"
        found[row.id] = (action, row.user_name)
    return found


def _effects(
    session: Session,
    before: dict[str, tuple[str, ...]],
    after: dict[str, tuple[str, ...]],
    planned: Sequence[tuple[str, str, str, str | None]],
    accounts: dict[str, tuple[str, str | None]],
) -> list[Effect]:
    touched = {*before, *after, *(application_id for application_id, *_ in planned)}
    held = {(hold.application_id, hold.channel) for hold in queue.holds(session)}
    rows = session.execute(
        select(Application.id, Application.slug, Application.name, Application.name_zh).where(
            Application.id.in_(touched)
        )
    )
    effects = []
    for row in rows:
        change: ChangeOfAccess = "kept"
        if row.id not in before and row.id in after:
            change = "gained"
        elif row.id not in after:
            change = "lost"
        mine = sorted(delivery for delivery in planned if delivery[0] == row.id)
        effects.append(
            Effect(
                application_id=row.id,
                application=row.slug,
                application_name=row.name,
                application_name_zh=row.name_zh,
                change=change,
                roles=after.get(row.id) or before.get(row.id, ()),
                actions=[_action(channel, operation, accounts.get(key or "")) for _, channel, operation, key in mine],
                is_held=any({(row.id, channel), (row.id, EVERY_CHANNEL)} & held for _, channel, _, _ in mine),
            )
        )
    return sorted(effects, key=lambda effect: (_ORDER.index(effect.change), effect.application))


def _action(channel: str, operation: str, account: tuple[str, str | None] | None) -> AccountAction:
    provisioning, name = account or ("create_account", None)
    if operation == "provision":
        action = provisioning
    else:
        action = "deactivate_account" if operation == "deprovision" else "end_sessions"
    return AccountAction(channel=channel, action=action, account=name)


def _fingerprint(after: PersonView, at: datetime, effects: Sequence[Effect]) -> str:
    """Twelve hex digits over who they would be, from when, and what would happen where."""
    facts = [
        [after.display_name, after.given_name, after.family_name, after.email, after.mobile, after.standing],
        # Of an act that happens at once, the minute at which it was read is no part of what is confirmed.
        at if after.standing == Standing.STAGED else None,
        [
            [
                post.organization_id, post.employee_number, post.type, post.department, post.title, post.manager_id,
                post.starts_on, post.ends_on, post.ends_at, post.state,
            ]
            for post in after.employments
        ],
        [
            [e.application, e.change, e.roles, [[a.channel, a.action, a.account] for a in e.actions]]
            for e in effects
        ],
    ]  # fmt: skip
    digest = hashlib.sha256(orjson.dumps(facts)).hexdigest()[:12]
    return f"{digest[:4]} {digest[4:8]} {digest[8:]}"
