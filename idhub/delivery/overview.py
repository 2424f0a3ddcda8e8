"""What pages and health checks ask of the queue. Pure reads."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session, aliased

from idhub.delivery.holds import EVERY_CHANNEL, holds
from idhub.delivery.leasing import is_head
from idhub.delivery.tables import Delivery
from idhub.errors import Invalid

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class ApplicationQueue:
    """One application's deliveries by state."""

    application_id: str
    waiting: int
    in_flight: int
    dead: int
    oldest_waiting: datetime | None
    """When the oldest unfinished one was planned."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that was given up and needs somebody."""

    id: str
    application_id: str
    channel: str
    operation: str
    principal_id: str | None
    account_id: str | None
    case_id: str | None
    attempts: int
    last_error: str | None
    last_status: int | None
    planned_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Dead letters, newest first; `next_cursor` is None on the last page."""

    rows: Sequence[DeadLetter]
    next_cursor: str | None


def queues(session: Session, application_ids: Collection[str] | None = None) -> list[ApplicationQueue]:
    """Applications that have anything unfinished or dead, by id."""
    statement = (
        select(Delivery.application_id, Delivery.state, func.count(), func.min(Delivery.planned_at))
        .where(Delivery.state.in_(("pending", "leased", "dead")))
        .group_by(Delivery.application_id, Delivery.state)
    )
    if application_ids is not None:
        statement = statement.where(Delivery.application_id.in_(application_ids))
    counts: dict[str, dict[str, int]] = {}
    oldest: dict[str, datetime] = {}
    for application_id, state, count, planned_at in session.execute(statement):
        counts.setdefault(application_id, {})[state] = count
        if state != "dead":
            oldest[application_id] = min(oldest.get(application_id, planned_at), planned_at)
    return [
        ApplicationQueue(
            application_id,
            by_state.get("pending", 0),
            by_state.get("leased", 0),
            by_state.get("dead", 0),
            oldest.get(application_id),
        )
        for application_id, by_state in sorted(counts.items())
    ]


def lag(session: Session, *, now: datetime) -> timedelta:
    """How long the delivery that has been due longest has waited for a worker.

    Tells of workers, not of applications: what waits for its next attempt, behind another of its lane, in a held
    queue, or for an application that is being sent to, is not late. Zero when nothing is.
    """
    held = holds(session)
    whole = [hold.application_id for hold in held if hold.channel == EVERY_CHANNEL]
    queues_held = [(hold.application_id, hold.channel) for hold in held if hold.channel != EVERY_CHANNEL]
    busy = aliased(Delivery)
    statement = (
        select(Delivery.next_attempt_at)
        .where(
            Delivery.state == "pending",
            Delivery.next_attempt_at <= now,
            Delivery.application_id.not_in(select(busy.application_id).where(busy.state == "leased")),
            is_head(Delivery),
        )
        .order_by(Delivery.next_attempt_at)
    )
    if whole:
        statement = statement.where(Delivery.application_id.not_in(whole))
    if queues_held:
        statement = statement.where(tuple_(Delivery.application_id, Delivery.channel).not_in(queues_held))
    oldest = session.execute(statement.limit(1)).scalar()
    return max(now - oldest, timedelta(0)) if oldest is not None else timedelta(0)


def dead_letters(
    session: Session,
    *,
    application_ids: Collection[str] | None = None,
    cursor: str | None = None,
    limit: int = PAGE_SIZE,
) -> DeadLetterPage:
    """One page of dead letters, by keyset.

    Args:
        cursor: `next_cursor` of the page before.

    Raises:
        Invalid: the cursor is not one of ours.
    """
    statement = (
        select(
            Delivery.id,
            Delivery.application_id,
            Delivery.channel,
            Delivery.operation,
            Delivery.principal_id,
            Delivery.account_id,
            Delivery.case_id,
            Delivery.attempts,
            Delivery.last_error,
            Delivery.last_status,
            Delivery.planned_at,
            Delivery.finished_at,
        )
        .where(Delivery.state == "dead")
        .order_by(Delivery.id.desc())
        .limit(limit + 1)
    )
    if application_ids is not None:
        statement = statement.where(Delivery.application_id.in_(application_ids))
    if cursor is not None:
        if not cursor.startswith("dlv_") or len(cursor) > 40 or not cursor.isascii():
            raise Invalid("The cursor is not one of this list.", field="cursor", rule="cursor.form")
        # Ids are ordered by time.
        statement = statement.where(Delivery.id < cursor)
    rows = [DeadLetter(**row._mapping) for row in session.execute(statement)]
    return DeadLetterPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)
