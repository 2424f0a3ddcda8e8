"""Accounts that had to go without their manager, sent once more when the manager's account there is known.

In a first load a report's account often comes before the manager's, whose id in the application nobody knows until it
answers. Whoever writes down what the application said marks the report (`records.note_accounts`); the worker plans.
"""

from datetime import datetime

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Account, Application, ScimTarget
from idhub.provisioning.outbound.planner import ACTIVE, hold_people, plan_provisions
from idhub.provisioning.outbound.sync import room_beside, unfinished_of


def due(session: Session) -> list[str]:
    """Applications that have accounts which are due again."""
    return list(
        session.scalars(
            select(ScimTarget.application_id)
            .join(Application, Application.id == ScimTarget.application_id)
            .where(
                Application.is_enabled,
                exists().where(Account.application_id == ScimTarget.application_id, Account.due_again_at.is_not(None)),
            )
            .order_by(ScimTarget.application_id)
        )
    )


def plan_due(session: Session, application_id: str, *, now: datetime) -> int:
    """Plan some of them, as far as the application has not much to do already. Returns how many deliveries."""
    room = room_beside(unfinished_of(session, application_id))
    if not room:
        return 0
    marked = (
        select(Account.id, Account.principal_id, Account.desired_state)
        .where(Account.application_id == application_id, Account.due_again_at.is_not(None))
        .order_by(Account.id)
        .limit(room)
    )
    people = {row.principal_id for row in session.execute(marked)}
    hold_people(session, people)
    # Read again behind the locks: whoever lost the right meanwhile has a deprovision, which stays the last word.
    rows = [row for row in session.execute(marked) if row.principal_id in people]
    wanted = [row for row in rows if row.principal_id is not None and row.desired_state == ACTIVE]
    planned = len(plan_provisions(session, application_id, wanted, now=now))
    session.execute(update(Account).where(Account.id.in_([row.id for row in rows])).values(due_again_at=None))
    return planned
