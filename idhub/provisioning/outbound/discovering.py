"""Asking a target what it can do: planned when nothing is known of its address, and once a day after that."""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, delete, exists, insert, literal, or_, select
from sqlalchemy.orm import Session

from idhub.access.tables import Application, ScimTarget
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.delivery import queue
from idhub.delivery.channel import Grade, Outcome, PlannedDelivery
from idhub.delivery.tables import Delivery
from idhub.provisioning.outbound.planner import CHANNEL
from idhub.provisioning.outbound.run import Talk
from idhub.provisioning.outbound.tables import ScimDiscovery
from scim.discovery import Discovery, RemoteAttribute

LASTS: Final = timedelta(days=1)


def lane_of_discovery(application_id: str) -> str:
    """Lane of a target's discoveries."""
    return f"scim:discover:{application_id}"


async def discover(talk: Talk) -> Outcome:
    """Ask, and keep what was said. A target that publishes nothing is asked again tomorrow.

    Raises:
        RemoteError: translated by the channel.
    """
    found = await talk.client.discover()
    now = talk.clock.now()
    await talk.write(lambda session: keep(session, talk.delivery.application_id, talk.target.base_url, found, now=now))
    talk.grade = Grade.E1
    talk.evidence["capabilities"] = found.capabilities.document()
    talk.evidence["attributes"] = len(found.attributes)
    return talk.outcome("done")


def keep(session: Session, application_id: str, base_url: str, found: Discovery, *, now: datetime) -> None:
    """Store a discovery in the place of the one before; news is an event."""
    values: dict[str, Any] = {
        "base_url": base_url,
        "capabilities": found.capabilities.document(),
        "attributes": {path: one.document() for path, one in found.attributes.items()},
    }
    before = session.get(ScimDiscovery, application_id)
    is_news = before is None or any(getattr(before, name) != value for name, value in _as_stored(values).items())
    session.expunge_all()
    session.execute(delete(ScimDiscovery).where(ScimDiscovery.application_id == application_id))
    session.execute(insert(ScimDiscovery).values(application_id=application_id, fetched_at=now, **values))
    if is_news:
        event = Event(
            type=EventType.APPLICATION_DISCOVERED,
            at=now,
            actor=SYSTEM,
            door="worker",
            target_kind="application",
            target_id=application_id,
            application_id=application_id,
            details={"attributes": len(found.attributes)},
        )
        record(session, [event])


def _as_stored(values: dict[str, Any]) -> dict[str, Any]:
    """As the values come back from the database: JSON knows no tuples."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    return {name: plain(value) for name, value in values.items()}


def known(session: Session, application_id: str) -> ScimDiscovery | None:
    """What is known of the target at its present address."""
    return session.scalars(
        select(ScimDiscovery)
        .join(ScimTarget, ScimTarget.application_id == ScimDiscovery.application_id)
        .where(ScimDiscovery.application_id == application_id, ScimDiscovery.base_url == ScimTarget.base_url)
    ).one_or_none()


def attributes_of(discovery: ScimDiscovery | None) -> dict[str, RemoteAttribute]:
    """The attributes of the target's users; empty where it published none."""
    if discovery is None:
        return {}
    fields = RemoteAttribute.__dataclass_fields__
    return {
        path: RemoteAttribute(
            **{
                **{name: value for name, value in one.items() if name in fields},
                "canonical_values": tuple(one.get("canonical_values") or ()),
            }
        )
        for path, one in discovery.attributes.items()
    }


def _due(now: datetime) -> Select[str]:
    return (
        select(ScimTarget.application_id)
        .join(Application, Application.id == ScimTarget.application_id)
        .outerjoin(ScimDiscovery, ScimDiscovery.application_id == ScimTarget.application_id)
        .where(
            Application.is_enabled,
            or_(
                ScimDiscovery.application_id.is_(None),
                ScimDiscovery.base_url != ScimTarget.base_url,
                ScimDiscovery.fetched_at <= now - LASTS,
            ),
            ~exists().where(
                Delivery.lane == literal("scim:discover:").concat(ScimTarget.application_id),
                or_(Delivery.state.in_(("pending", "leased")), Delivery.planned_at > now - LASTS / 24),
            ),
        )
        .order_by(ScimTarget.application_id)
    )


def is_due(session: Session, *, now: datetime) -> bool:
    """Whether `plan_due` would plan anything."""
    return session.execute(_due(now).limit(1)).first() is not None


def plan_due(session: Session, *, now: datetime, limit: int = 50) -> int:
    """Plan discoveries of targets of which nothing is known, or nothing new since a day. Returns how many."""
    return plan(session, list(session.scalars(_due(now).limit(limit))), now=now)


def plan(session: Session, application_ids: list[str], *, now: datetime) -> int:
    """Plan a discovery of each target."""
    planned = [
        PlannedDelivery(
            application_id=application_id,
            channel=CHANNEL,
            lane=lane_of_discovery(application_id),
            operation="discover",
            required_grade=Grade.E1,
        )
        for application_id in application_ids
    ]
    queue.plan(session, planned, now=now)
    return len(planned)
