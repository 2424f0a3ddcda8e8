"""What pages and health checks ask of the queue. Pure reads."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session, aliased

from idhub.delivery.holds import EVERY_CHANNEL, holds
from idhub.delivery.leasing import is_head
from idhub.delivery.tables import Delivery


@dataclass(frozen=True, slots=True)
class ApplicationQueue:
    """One application's deliveries by state."""

    application_id: str
    waiting: int
    in_flight: int
    reviewing: int
    """Nothing is wrong with them: somebody has to say first whose an account is."""
    dead: int
    oldest_waiting: datetime | None
    """When the oldest unfinished one was planned."""


def queues(session: Session, application_ids: Collection[str] | None = None) -> list[ApplicationQueue]:
    """Applications that have anything unfinished, in review or dead, by id."""
    statement = (
        select(Delivery.application_id, Delivery.state, func.count(), func.min(Delivery.planned_at))
        .where(Delivery.state.in_(("pending", "leased", "review", "dead")))
        .group_by(Delivery.application_id, Delivery.state)
    )
    if application_ids is not None:
        statement = statement.where(Delivery.application_id.in_(application_ids))
    counts: dict[str, dict[str, int]] = {}
    oldest: dict[str, datetime] = {}
    for application_id, state, count, planned_at in session.execute(statement):
        counts.setdefault(application_id, {})[state] = count
        if state in {"pending", "leased"}:
            oldest[application_id] = min(oldest.get(application_id, planned_at), planned_at)
    return [
        ApplicationQueue(
            application_id,
            by_state.get("pending", 0),
            by_state.get("leased", 0),
            by_state.get("review", 0),
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
