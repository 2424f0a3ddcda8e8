"""Tables of reconciliation: runs, and what they found."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText


class ReconcileRun(Base):
    """One look at a source: an application's accounts, a payroll file, or the register itself."""

    __tablename__ = "reconcile_runs"
    __table_args__ = (Index("ix_reconcile_runs_newest", "source", "application_id", "started_at"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    source: Mapped[str] = mapped_column(String(16))
    """scim, payroll, register."""
    application_id: Mapped[str | None] = mapped_column(ForeignKey("applications.id"))
    state: Mapped[str] = mapped_column(String(16))
    """running, complete, incomplete."""
    started_at: Mapped[datetime] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)
    total: Mapped[int | None] = mapped_column(Integer)
    """How many the source says it has."""
    read: Mapped[int] = mapped_column(Integer, default=0)
    gaps: Mapped[Any] = mapped_column(JsonText, default=list)
    """Why it is not complete, in words; bounded."""
    counts: Mapped[Any] = mapped_column(JsonText, default=dict)
    """What it found, by kind; what was opened, closed, disabled and held."""
    started_by: Mapped[str] = mapped_column(String(60))


class Finding(Base):
    """Something that does not agree: what, where, by which evidence, whose move it is, and what came of it."""

    __tablename__ = "findings"
    __table_args__ = (
        Index("uq_findings_fingerprint", "fingerprint", unique=True),
        Index("ix_findings_state", "state", "last_seen_at"),
        Index("ix_findings_application", "application_id", "state", "id"),
        Index("ix_findings_acted", "application_id", "acted_at"),
        Index("ix_findings_person", "principal_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """Of kind, place and subject: the same contradiction found again is the same finding."""
    kind: Mapped[str] = mapped_column(String(24))
    source: Mapped[str] = mapped_column(String(16))
    """Of the runs that find it: scim, payroll, register."""
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    """Scope of authority over it: the application's, or the person's."""
    application_id: Mapped[str | None] = mapped_column(ForeignKey("applications.id"))
    account_id: Mapped[str | None] = mapped_column(String(40))
    external_id: Mapped[str | None] = mapped_column(String(255))
    """The application's own id of the account."""
    principal_id: Mapped[str | None] = mapped_column(String(40))
    """The person that it is about, where one is known by a strong key."""
    subject: Mapped[str] = mapped_column(String(254))
    """What the account, or the row of a file, is called there."""
    basis: Mapped[str] = mapped_column(String(24))
    """By what the person was matched: link, external_id, employee_number, mail, national_id, none, several."""
    evidence: Mapped[Any] = mapped_column(JsonText)
    proposal: Mapped[str] = mapped_column(String(24))
    """disable, restore, link, ask, stop_pay, merge."""
    owner_id: Mapped[str | None] = mapped_column(String(40))
    deadline_at: Mapped[datetime] = mapped_column(Instant)
    state: Mapped[str] = mapped_column(String(16))
    """open, accepted, done, dismissed, reopened."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it was dismissed."""
    dismissed_until: Mapped[datetime | None] = mapped_column(Instant)
    decided_by: Mapped[str | None] = mapped_column(String(60))
    decided_at: Mapped[datetime | None] = mapped_column(Instant)
    acted_at: Mapped[datetime | None] = mapped_column(Instant)
    """When an account was last switched off because of it: what the brake counts."""
    delivery_id: Mapped[str | None] = mapped_column(String(40))
    """The delivery that carries out what was decided."""
    held_at: Mapped[datetime | None] = mapped_column(Instant)
    """Since when the brake holds its disabling back."""
    first_approver: Mapped[str | None] = mapped_column(String(60))
    first_seen_at: Mapped[datetime] = mapped_column(Instant)
    last_seen_at: Mapped[datetime] = mapped_column(Instant)
    closed_at: Mapped[datetime | None] = mapped_column(Instant)
    last_run_id: Mapped[str] = mapped_column(String(40))
