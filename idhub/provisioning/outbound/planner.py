"""What a transition means for SCIM targets: account rows and deliveries, planned set by set. Sends nothing."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Account, AccountKind, Application, ScimTarget
from idhub.db import bulk_insert, chunked, new_id
from idhub.delivery import queue
from idhub.delivery.channel import Grade, Operation, PlannedDelivery
from idhub.directory.kinds import Standing
from idhub.directory.tables import Principal
from idhub.kept import Kept
from idhub.lifecycle import contradictions
from idhub.lifecycle.ports import ApplicationTerms, Batch, PreviewRow
from idhub.provisioning.outbound.records import mark_groups

CHANNEL = "scim"
CEILING = Grade.E2
ACTIVE, INACTIVE, ABSENT = "active", "inactive", "absent"


# Made once: building a statement costs more than what it asks.
_TARGETS = Kept(
    select(ScimTarget.application_id).where(ScimTarget.application_id.in_(bindparam("applications", expanding=True)))
)
_ACCOUNTS = Kept(
    select(Account.id, Account.principal_id, Account.application_id, Account.known_state, Account.user_name)
    .where(Account.principal_id.in_(bindparam("people", expanding=True)))
    .order_by(Account.slot != "main", Account.id)
)
_DESIRE = Kept(
    update(Account)
    .where(Account.id.in_(bindparam("keys", expanding=True)))
    .values(desired_state=bindparam("state"), changed_at=bindparam("at"))
)


def lane_of(account_id: str) -> str:
    """Lane of an account: its deliveries go one by one, in order."""
    return f"scim:{account_id}"


def hold_people(session: Session, principal_ids: Iterable[str | None]) -> None:
    """Lock principals, in one order, before anything is planned for them: no transition plans between."""
    ids = sorted({principal_id for principal_id in principal_ids if principal_id is not None})
    session.execute(select(Principal.id).where(Principal.id.in_(ids)).order_by(Principal.id).with_for_update())


def plan_provisions(session: Session, application_id: str, accounts: Iterable[Any], *, now: datetime) -> list[str]:
    """Plan that accounts are looked at and brought up to date: rows of `id` and `principal_id`.

    Returns the deliveries' ids, in order.
    """
    planned = [
        PlannedDelivery(
            application_id=application_id,
            channel=CHANNEL,
            lane=lane_of(account.id),
            operation="provision",
            principal_id=account.principal_id,
            account_id=account.id,
            required_grade=Grade.E1,
        )
        for account in accounts
    ]
    return queue.plan(session, planned, now=now)


def terms_of(session: Session, application_id: str) -> ApplicationTerms:
    """What an application demands of a leave."""
    application = session.execute(
        select(Application.revocation_deadline_seconds, Application.required_grade).where(
            Application.id == application_id
        )
    ).one()
    grade = None if application.required_grade is None else Grade(application.required_grade)
    return ApplicationTerms(application_id, timedelta(seconds=application.revocation_deadline_seconds), grade)


def plan_endings(
    session: Session,
    application_id: str,
    accounts: Sequence[Any],
    *,
    found: Mapping[str, str] | None = None,
    now: datetime,
) -> list[str]:
    """Plan that accounts end, and are read back, whose end no transition sees: rows of `id` and `principal_id`.

    The caller has locked their people (`hold_people`). What the receipt of the last leave said of such an account
    follows its delivery. Returns the deliveries' ids, in order.

    Args:
        found: account id -> person, of accounts without a link that turned out to be somebody's.
    """
    ids, found = [account.id for account in accounts], found or {}
    _desire(session, ids, INACTIVE, now=now)
    terms = terms_of(session, application_id)
    people = {account.id: account.principal_id or found.get(account.id) for account in accounts}
    cases_of = contradictions.open_case_of(session, sorted(left_among(session, filter(None, people.values()))))
    newest = {account_id: cases_of[person] for account_id, person in people.items() if person in cases_of}
    planned = [
        PlannedDelivery(
            application_id=application_id,
            channel=CHANNEL,
            lane=lane_of(account.id),
            operation="deprovision",
            principal_id=account.principal_id,
            account_id=account.id,
            case_id=newest.get(account.id),
            required_grade=terms.required(CEILING),
            deadline_at=now + terms.revocation_deadline,
        )
        for account in accounts
    ]
    deliveries = queue.plan(session, planned, now=now)
    ended = {account_id: delivery for account_id, delivery in zip(ids, deliveries, strict=True) if account_id in newest}
    linked = {account.id for account in accounts if account.principal_id}
    contradictions.prove_anew(session, {key: one for key, one in ended.items() if key in linked}, newest, now=now)
    unlinked = {key: one for key, one in ended.items() if key not in linked}
    contradictions.prove_found(session, application_id, unlinked, newest, now=now)
    return deliveries


def left_among(session: Session, people: Iterable[str]) -> set[str]:
    """Those of these people who have left."""
    found: set[str] = set()
    for part in chunked(sorted(set(people))):
        left = select(Principal.id).where(Principal.id.in_(part), Principal.standing == Standing.LEFT)
        found.update(session.execute(left).scalars())
    return found


class ScimPlanner:
    """Plans the `scim` channel.

    Args:
        attempt_deadline: total deadline of one attempt; the exposure window of a healthy connection.
    """

    channel = CHANNEL
    ceiling = CEILING

    def __init__(self, attempt_deadline: timedelta) -> None:
        self._attempt_deadline = attempt_deadline

    def plan(self, session: Session, batch: Batch, *, now: datetime) -> list[PlannedDelivery]:
        """Provision who gained access or changed; deprovision who lost it; of leavers, every account they ever had."""
        follows = {
            application_id for _, application_id in (*batch.gained, *batch.changed, *batch.lost, *batch.reviewed)
        }
        of_leavers = _accounts(session, sorted(batch.leavers))
        targets = _targets(session, follows | {application_id for _, application_id in of_leavers})
        if not targets:
            return []
        wanted = [pair for pair in (*batch.gained, *batch.changed) if pair[1] in targets]
        lost = [pair for pair in batch.lost if pair[1] in targets]
        reviewed = [pair for pair in batch.reviewed if pair[1] in targets]
        leavers = set(batch.leavers)
        people = {principal_id for principal_id, _ in (*wanted, *lost, *reviewed)} - leavers
        every = of_leavers | _accounts(session, sorted(people))
        accounts = {pair: held[0] for pair, held in every.items()}
        wanted += [pair for pair in reviewed if pair not in accounts]
        new = self._make_accounts(session, [p for p in wanted if p not in accounts], accounts, now=now)
        over = dict.fromkeys(lost)
        over |= dict.fromkeys(pair for pair in sorted(every) if pair[0] in leavers and pair[1] in targets)
        # Access that ends, ends in every account that the person has there, not in the main one alone.
        ending = [account for pair in over for account in every.get(pair, ())]
        _desire(session, [accounts[p].id for p in wanted if p not in new], ACTIVE, now=now)
        _desire(session, [account.id for account in ending], INACTIVE, now=now)
        planned = [self._delivery(accounts[p], "provision", batch, Grade.E1, now=now) for p in dict.fromkeys(wanted)]
        planned += [self._delivery(account, "deprovision", batch, CEILING, now=now) for account in ending]
        mark_groups(session, {application_id for _, application_id in (*wanted, *lost, *reviewed)}, now=now)
        return planned

    def _make_accounts(
        self,
        session: Session,
        pairs: Iterable[tuple[str, str]],
        accounts: dict[tuple[str, str], "_Account"],
        *,
        now: datetime,
    ) -> set[tuple[str, str]]:
        new = dict.fromkeys(pairs)
        for principal_id, application_id in new:
            accounts[principal_id, application_id] = _Account(new_id("acc"), principal_id, application_id)
        bulk_insert(
            session,
            Account,
            (
                {
                    "id": accounts[pair].id,
                    "application_id": pair[1],
                    "principal_id": pair[0],
                    "slot": "main",
                    "kind": AccountKind.LINKED,
                    "external_id": None,
                    "user_name": None,
                    "desired_state": ACTIVE,
                    "known_state": ABSENT,
                    "known_hash": None,
                    "observed_at": None,
                    "created_at": now,
                    "changed_at": now,
                }
                for pair in new
            ),
        )
        return set(new)

    def _delivery(
        self, account: "_Account", operation: Operation, batch: Batch, ceiling: Grade, *, now: datetime
    ) -> PlannedDelivery:
        terms: ApplicationTerms | None = batch.terms.get(account.application_id)
        ends = operation == "deprovision"
        return PlannedDelivery(
            application_id=account.application_id,
            channel=CHANNEL,
            lane=lane_of(account.id),
            operation=operation,
            principal_id=account.principal_id,
            account_id=account.id,
            case_id=batch.cases.get(account.principal_id) if ends else None,
            required_grade=terms.required(ceiling) if terms and ends else ceiling,
            deadline_at=now + terms.revocation_deadline if terms and ends else None,
        )

    def preview(self, session: Session, principal_id: str, *, now: datetime) -> list[PreviewRow]:
        """One row per account the person has or had, and per target entitled to whose account is not made yet."""
        every = sorted(_accounts(session, [principal_id]).items())
        targets = _targets(session, {pair[1] for pair, _ in every})
        held = {hold.application_id for hold in queue.holds(session)}
        rows = []
        for application_id, account in ((pair[1], account) for pair, held_there in every for account in held_there):
            if application_id not in targets:
                continue
            notes = []
            if application_id in held:
                notes.append("held")
            if account.known_state in {ABSENT, "unknown"}:
                notes.append("never_confirmed")
            rows.append(
                PreviewRow(
                    application_id=application_id,
                    channel=CHANNEL,
                    action="deactivate_account",
                    ceiling=CEILING,
                    exposure=None if application_id in held else self._attempt_deadline,
                    account_id=account.id,
                    account_name=account.user_name,
                    notes=notes,
                )
            )
        return rows


def _targets(session: Session, application_ids: Iterable[str]) -> set[str]:
    """Those of the applications that are SCIM targets."""
    found: set[str] = set()
    for part in chunked(sorted(application_ids)):
        found.update(_TARGETS.scalars(session, applications=part))
    return found


class _Account:
    __slots__ = ("application_id", "id", "known_state", "principal_id", "user_name")

    def __init__(
        self,
        account_id: str,
        principal_id: str,
        application_id: str,
        known_state: str = ABSENT,
        user_name: str | None = None,
    ) -> None:
        self.id = account_id
        self.principal_id = principal_id
        self.application_id = application_id
        self.known_state = known_state
        self.user_name = user_name


def _accounts(session: Session, principal_ids: Sequence[str]) -> dict[tuple[str, str], list[_Account]]:
    """Accounts by (principal, application); the main one, which provisioning keeps, first."""
    found: dict[tuple[str, str], list[_Account]] = {}
    for part in chunked(principal_ids):
        rows = _ACCOUNTS.all(session, people=part)
        for account_id, principal_id, application_id, known_state, user_name in rows:
            if principal_id is not None:
                account = _Account(account_id, principal_id, application_id, known_state, user_name)
                found.setdefault((principal_id, application_id), []).append(account)
    return found


def _desire(session: Session, account_ids: Sequence[str], state: str, *, now: datetime) -> None:
    for part in chunked(account_ids):
        _DESIRE.run(session, keys=part, state=state, at=now)
