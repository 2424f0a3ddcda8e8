"""Tables of delivery: one row per effect, one per attempt, and what holds a queue up."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText

_FINISHED = text("finished_at IS NOT NULL")
ENDINGS = ("deprovision", "logout")
"""Operations that end somebody's access; leased before others."""
# A tuple of texts is written in SQL as in Python. Questions are put in the same words (`leasing`).
_AFTER_ENDINGS = text(f"(CASE WHEN operation IN {ENDINGS} THEN 0 ELSE 1 END)")


class Delivery(Base):
    """One durable effect towards one account (or session participant).

    States: pending, leased, done, review (somebody has to say first whose an account is; their decision plans anew),
    dead (given up, needs somebody), superseded (a later delivery of the lane made it moot).
    Within a lane only the oldest unfinished row may be leased.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("uq_deliveries_lane", "lane", "seq", unique=True),
        Index("ix_deliveries_case", "case_id"),
        Index("ix_deliveries_state", "state", "application_id", _AFTER_ENDINGS, "next_attempt_at"),
        Index("ix_deliveries_planned", "planned_at", "id"),
        Index("ix_deliveries_application", "application_id", "planned_at", "id"),
        Index("ix_deliveries_finished", "state", "finished_at", sqlite_where=_FINISHED, postgresql_where=_FINISHED),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer)
    """Order of planning within the lane."""
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    channel: Mapped[str] = mapped_column(String(40))
    lane: Mapped[str] = mapped_column(String(100))
    operation: Mapped[str] = mapped_column(String(24))
    payload: Mapped[Any] = mapped_column(JsonText)
    principal_id: Mapped[str | None] = mapped_column(String(40), index=True)
    account_id: Mapped[str | None] = mapped_column(String(40))
    participant_id: Mapped[str | None] = mapped_column(String(40))
    case_id: Mapped[str | None] = mapped_column(String(40))
    required_grade: Mapped[int] = mapped_column(Integer)
    deadline_at: Mapped[datetime | None] = mapped_column(Instant)
    state: Mapped[str] = mapped_column(String(16))
    grade: Mapped[int] = mapped_column(Integer, default=0)
    """Best grade proven so far."""
    evidence: Mapped[Any] = mapped_column(JsonText, default=dict)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(Instant)
    quiet_after: Mapped[datetime | None] = mapped_column(Instant)
    leased_until: Mapped[datetime | None] = mapped_column(Instant)
    lease_token: Mapped[int] = mapped_column(Integer, default=0)
    """Fencing: goes up with every lease; a settle with an older one changes nothing."""
    leased_by: Mapped[str | None] = mapped_column(String(60))
    last_error: Mapped[str | None] = mapped_column(Text)
    last_status: Mapped[int | None] = mapped_column(Integer)
    planned_at: Mapped[datetime] = mapped_column(Instant)
    first_sent_at: Mapped[datetime | None] = mapped_column(Instant)
    answered_at: Mapped[datetime | None] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)


class DeliveryAttempt(Base):
    """One try of a delivery."""

    __tablename__ = "delivery_attempts"

    delivery_id: Mapped[str] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    started_at: Mapped[datetime] = mapped_column(Instant)
    deadline_at: Mapped[datetime] = mapped_column(Instant)
    """When it was over at the latest, whatever the network did."""
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    outcome: Mapped[str | None] = mapped_column(String(16))
    grade: Mapped[int | None] = mapped_column(Integer)
    status_code: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)
    evidence: Mapped[Any] = mapped_column(JsonText, default=dict)


class Lease(Base):
    """A singleton's lease (sequencer, scheduler): fencing instead of session locks, so that poolers work."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    holder: Mapped[str] = mapped_column(String(60))
    token: Mapped[int] = mapped_column(Integer)
    until: Mapped[datetime] = mapped_column(Instant)


class DeliveryHold(Base):
    """Why deliveries of an application wait. A row with `held_since` null only counts refusals."""

    __tablename__ = "delivery_holds"

    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), primary_key=True)
    channel: Mapped[str] = mapped_column(String(40), primary_key=True)
    """Name of the channel whose credential is refused; * for a pause of the whole application."""
    reason: Mapped[str] = mapped_column(String(24))
    """unauthorized (its credential is refused), tls, unreachable, failing (5xx), rate_limit, paused (by a person)."""
    note: Mapped[str | None] = mapped_column(Text)
    refusals: Mapped[int] = mapped_column(Integer, default=0)
    """Failures of that kind in a row, each of another delivery than the one before; 401s all count."""
    last_delivery: Mapped[str | None] = mapped_column(String(40))
    """The delivery that failed last."""
    held_since: Mapped[datetime | None] = mapped_column(Instant)
    next_probe_at: Mapped[datetime | None] = mapped_column(Instant)
    """When one delivery is let through to see; null: never, somebody must resume it."""
    held_by: Mapped[str] = mapped_column(String(60))
