"""Shorthand of the queue's tests: plan, look at rows, read events."""

from typing import Any

from sqlalchemy import select

from audit.tables import audit_events
from idhub.db import Database
from idhub.delivery.channel import Grade, Outcome, PlannedDelivery
from idhub.delivery.queue import plan
from idhub.delivery.tables import Delivery, DeliveryAttempt
from tests.support.clock import Clock

DONE = Outcome(kind="done", grade=Grade.E1, status_code=200, evidence={"status": 200})
BROKEN = Outcome(kind="retry", status_code=503, error="503 Service Unavailable")
SILENT = Outcome(kind="retry", error="no answer within 10 s")
UNAUTHORIZED = Outcome(kind="retry", status_code=401, error="401 Unauthorized")


def delivery(lane: str = "acc_1", **values: Any) -> PlannedDelivery:
    """A planned delivery of application app_a, with what the test names."""
    defaults: dict[str, Any] = {"application_id": "app_a", "channel": "scim", "operation": "deprovision", "lane": lane}
    return PlannedDelivery(**{**defaults, **values})


def put(database: Database, clock: Clock, *planned: PlannedDelivery) -> list[str]:
    """Plan in a transaction of its own."""
    with database.transaction() as session:
        return plan(session, planned, now=clock())


def row(database: Database, delivery_id: str) -> Any:
    """A delivery as it lies in the database."""
    with database.read() as session:
        return session.execute(select(*Delivery.__table__.columns).where(Delivery.id == delivery_id)).one()


def attempts(database: Database, delivery_id: str) -> list[Any]:
    """The attempts of a delivery, in order."""
    with database.read() as session:
        statement = select(*DeliveryAttempt.__table__.columns).where(DeliveryAttempt.delivery_id == delivery_id)
        return list(session.execute(statement.order_by(DeliveryAttempt.number)))


def recorded(database: Database, delivery_id: str) -> list[str]:
    """Types of the events about a delivery, in order."""
    with database.read() as session:
        found = session.execute(
            select(audit_events.c.type).where(audit_events.c.delivery_id == delivery_id).order_by(audit_events.c.id)
        )
        return [str(value) for value in found.scalars()]
