"""Deleting accounts whose time after the leave is over: planned by a due list, proven by reading them back.

The receipt of the leave stays as it is: it says that the account was inactive at its instant, and deleting it later
takes nothing from that.
"""

from datetime import datetime, timedelta

from sqlalchemy import exists, func, literal, select
from sqlalchemy.orm import Session

from idhub.access.tables import Account, Application, ScimTarget
from idhub.changes import EventType
from idhub.delivery import queue
from idhub.delivery.channel import Grade, Outcome, PlannedDelivery
from idhub.delivery.tables import Delivery
from idhub.provisioning.outbound.options import TargetOptions
from idhub.provisioning.outbound.planner import CHANNEL, hold_people, lane_of
from idhub.provisioning.outbound.run import NeedsSomebody, Run
from scim.errors import RemoteNotFound
from scim.schemas import is_active


async def delete_account(run: Run) -> Outcome:
    """Delete the linked account, if it is still nobody's wish that it lives and the application still shows it off.

    Raises:
        RemoteError, NeedsSomebody: translated by the channel.
    """
    situation, account = run.situation, run.situation.account
    run.grade = Grade.E1
    if situation.is_wanted or account.external_id is None:
        run.evidence["reason"] = "entitled_again" if situation.is_wanted else "no_account_known"
        run.evidence["action"] = "none"
        return run.outcome("done")
    if run.client.dialect.deletes != "removes":
        raise NeedsSomebody("This application deletes no accounts; it keeps them switched off.")
    try:
        user = await run.client.get_user(account.external_id)
    except RemoteNotFound:
        return await _gone(run, was_there=False)
    await run.ensure_ours(user)
    if is_active(user) is not False:
        # Somebody switched it on by hand since the leave: that is drift to be looked at, nothing to be deleted.
        raise NeedsSomebody("The account is active there. It is deleted only after it was switched off.")
    await run.ensure_unchanged()
    await run.client.delete_user(account.external_id)
    try:
        await run.client.get_user(account.external_id)
    except RemoteNotFound:
        return await _gone(run, was_there=True)
    return run.outcome("retry", "The application accepted the deletion, but the account is still there.")


async def _gone(run: Run, *, was_there: bool) -> Outcome:
    run.evidence["action"] = "deleted" if was_there else "was_gone"
    values = {"known_state": "absent", "known_hash": None, "known_attributes": None, "external_id": None}
    await run.note(values, seen_at=run.clock.now(), events=[EventType.ACCOUNT_DELETED])
    return run.outcome("done")


def due(session: Session, application_id: str, *, before: datetime, limit: int) -> list[tuple[str, str | None]]:
    """(account, principal) of accounts that have been off since `before`, and have nothing to be delivered."""
    since = func.coalesce(Account.off_since, Account.observed_at)
    rows = session.execute(
        select(Account.id, Account.principal_id)
        .where(
            Account.application_id == application_id,
            Account.desired_state == "inactive",
            Account.known_state == "inactive",
            Account.external_id.is_not(None),
            since <= before,
            ~exists().where(
                Delivery.lane == literal("scim:").concat(Account.id),
                Delivery.state.in_(("pending", "leased", "dead")),
            ),
        )
        .order_by(since)
        .limit(limit)
    )
    return [(row.id, row.principal_id) for row in rows]


def _kept_for(session: Session) -> list[tuple[str, timedelta]]:
    """Targets whose accounts are deleted some time after the leave, with that time."""
    targets = session.execute(
        select(ScimTarget.application_id, ScimTarget.options)
        .join(Application, Application.id == ScimTarget.application_id)
        .where(Application.is_enabled, ScimTarget.options.is_not(None))
    ).all()
    kept = [(row[0], TargetOptions.of_document(row[1]).delete_after) for row in targets]
    return [(application_id, kept_for) for application_id, kept_for in kept if kept_for is not None]


def is_due(session: Session, *, now: datetime) -> bool:
    """Whether `plan_due` would plan anything."""
    return any(due(session, one, before=now - kept_for, limit=1) for one, kept_for in _kept_for(session))


def plan_due(session: Session, *, now: datetime, limit: int = 100) -> int:
    """Plan the deletions that are due, application by application. Returns how many."""
    count = 0
    for application_id, kept_for in _kept_for(session):
        if count >= limit:
            break
        found = due(session, application_id, before=now - kept_for, limit=limit - count)
        people = sorted({principal_id for _, principal_id in found if principal_id})
        if people:
            hold_people(session, people)
            # Whoever came back while the locks were awaited is not in the list any more.
            found = due(session, application_id, before=now - kept_for, limit=limit - count)
        planned = [
            PlannedDelivery(
                application_id=application_id,
                channel=CHANNEL,
                lane=lane_of(account_id),
                operation="delete",
                principal_id=principal_id,
                account_id=account_id,
                required_grade=Grade.E1,
            )
            for account_id, principal_id in found
            if principal_id in people
        ]
        queue.plan(session, planned, now=now)
        count += len(planned)
    return count
