"""The limit of requests that somebody set for an application, shared by every process that asks it.

A row a limited application says when its next request is due (a leaky bucket): a turn is taken by moving it on. Turns
that are asked for in one moment are taken in one short transaction.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from idhub.db import Database
from idhub.delivery.together import Together
from idhub.provisioning.outbound.tables import RequestBudget
from scim.pace import FARTHEST

BURST: Final = 10
"""Requests that may go at once after a pause."""
_MOST_TOGETHER: Final = 100


class _Asked(NamedTuple):
    application_id: str
    interval: timedelta
    now: datetime
    patience: timedelta


class Budgets:
    """Budgets as one event loop takes from them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns = Together(self._take, most=_MOST_TOGETHER)

    def of(self, application_id: str, per_minute: int) -> "ApplicationBudget":
        """The budget of one application: `scim.pace.Budget`."""
        return ApplicationBudget(self._turns.ask, application_id, timedelta(minutes=1) / per_minute)

    def _take(self, asked: Sequence[_Asked]) -> list[timedelta]:
        # A turn that a loss of power forgets is one request too many, no more.
        return self._database.run(lambda session: _take_turns(session, asked), durable=False)


class ApplicationBudget:
    """See `scim.pace.Budget`."""

    def __init__(self, ask: Callable[[_Asked], Any], application_id: str, interval: timedelta) -> None:
        self._ask = ask
        self._application_id = application_id
        self._interval = interval

    async def take(self, now: datetime, *, patience: timedelta) -> timedelta:
        """See `scim.pace.Budget.take`."""
        wait: timedelta = await self._ask(_Asked(self._application_id, self._interval, now, patience))
        return wait


def _take_turns(session: Session, asked: Sequence[_Asked]) -> list[timedelta]:
    """How long each has to wait, in order; whoever would wait too long takes nothing."""
    held = _locked(session, sorted({one.application_id for one in asked}), now=min(one.now for one in asked))
    moved = dict(held)
    waits = []
    for one in asked:
        due_at = moved[one.application_id]
        if due_at > one.now + one.interval * BURST + FARTHEST:
            due_at = one.now
        wait = max(due_at - one.interval * (BURST - 1) - one.now, timedelta(0))
        waits.append(wait)
        if wait < one.patience:
            moved[one.application_id] = max(due_at, one.now) + one.interval
    for application_id, due_at in moved.items():
        if due_at != held[application_id]:
            session.execute(
                update(RequestBudget).where(RequestBudget.application_id == application_id).values(due_at=due_at)
            )
    return waits


def _locked(session: Session, application_ids: Sequence[str], *, now: datetime) -> dict[str, datetime]:
    """When the next request of each is due, with the rows locked; a row is made for who has none."""
    rows = (
        select(RequestBudget.application_id, RequestBudget.due_at)
        .where(RequestBudget.application_id.in_(application_ids))
        .order_by(RequestBudget.application_id)
        .with_for_update()
    )
    found = {row[0]: row[1] for row in session.execute(rows)}
    if len(found) == len(application_ids):
        return found
    make = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    missing = [{"application_id": one, "due_at": now} for one in application_ids if one not in found]
    session.execute(make(RequestBudget).on_conflict_do_nothing(), missing)
    return {row[0]: row[1] for row in session.execute(rows)}
