"""Tables of cases, receipts, runs of a source and what the brake holds."""

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ForeignKey, Index, Integer, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText
from idhub.directory import tables as _pointed_to  # noqa: F401 - a column has the type of what it points to

_ELAPSES = text("delivery_id IS NULL AND residual_until IS NOT NULL")
"""Rows that end by expiry alone."""
_OPEN = text("finished_at IS NULL AND broken_at IS NULL")
"""Runs that have not come to their end: looked for each second, however many there were in years."""


class Case(Base):
    """One joiner, mover or leaver run, with its plan; a leaver's case has a receipt."""

    __tablename__ = "cases"
    __table_args__ = (
        Index("ix_cases_open", "kind", "state", "effective_at"),
        Index("ix_cases_effective", "kind", "effective_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    number: Mapped[str] = mapped_column(String(24), unique=True)
    """What people call it: R-2026-11-0387."""
    kind: Mapped[str] = mapped_column(String(16))
    """joiner, mover, leaver, suspension."""
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    state: Mapped[str] = mapped_column(String(16))
    """scheduled, running, complete, cancelled."""
    is_emergency: Mapped[bool] = mapped_column(Boolean, default=False)
    reason: Mapped[str | None] = mapped_column(Text)
    effective_at: Mapped[datetime] = mapped_column(Instant)
    local_done_at: Mapped[datetime | None] = mapped_column(Instant)
    """When nothing here worked any more."""
    completed_at: Mapped[datetime | None] = mapped_column(Instant)
    opened_at: Mapped[datetime] = mapped_column(Instant)
    opened_by: Mapped[str] = mapped_column(String(60))
    plan: Mapped[Any] = mapped_column(JsonText)
    """What was shown before: rows, fingerprint, as-of; compared with what happened."""
    ended: Mapped[Any] = mapped_column(JsonText, default=dict)
    """What ended at once: counts of sessions, grants, tokens."""


class CaseRow(Base):
    """One line of a case's plan, frozen when the case runs; its receipt line follows the delivery it names."""

    __tablename__ = "case_rows"
    __table_args__ = (Index("ix_case_rows_elapsing", "case_id", sqlite_where=_ELAPSES, postgresql_where=_ELAPSES),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.id"), index=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    account_id: Mapped[str | None] = mapped_column(String(40))
    participant_id: Mapped[str | None] = mapped_column(String(40))
    channel: Mapped[str] = mapped_column(String(40))
    """scim, backchannel_logout; or none: there was nothing to end, or nobody to tell."""
    ceiling: Mapped[int] = mapped_column(Integer)
    required_grade: Mapped[int] = mapped_column(Integer)
    delivery_id: Mapped[str | None] = mapped_column(String(40))
    deadline_at: Mapped[datetime] = mapped_column(Instant)
    residual_until: Mapped[datetime | None] = mapped_column(Instant)
    """When the last self-contained token issued for this row expires."""
    note: Mapped[str | None] = mapped_column(String(60))
    """no_account, not_told; found: an account that came to light after the leave."""
    contradicted_at: Mapped[datetime | None] = mapped_column(Instant)
    """When the account was seen alive although its end had been proven; what is proven later counts again."""


class Receipt(Base):
    """One signed version of a case's receipt; the highest version is current, older ones stay readable."""

    __tablename__ = "receipts"

    case_id: Mapped[str] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    is_complete: Mapped[bool] = mapped_column(Boolean)
    signed_at: Mapped[datetime] = mapped_column(Instant)
    jws: Mapped[str] = mapped_column(Text)
    disclosures: Mapped[Any] = mapped_column(JsonText)
    """Salts of the personal commitments; erasable without touching the signature."""
    log_size: Mapped[int | None] = mapped_column(Integer)
    """Size of the audit log when it was signed."""


class ReceiptDue(Base):
    """A case whose deliveries changed since its receipt was last signed; the worker signs and removes it."""

    __tablename__ = "receipts_due"

    case_id: Mapped[str] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    since: Mapped[datetime] = mapped_column(Instant)


class CaseNumber(Base):
    """Last number given out in a month."""

    __tablename__ = "case_numbers"

    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    last: Mapped[int] = mapped_column(Integer)


class SourceRun(Base):
    """One read of a source: what it said, whether it was complete, what was done."""

    __tablename__ = "source_runs"
    __table_args__ = (Index("ix_source_runs_open", "provider", sqlite_where=_OPEN, postgresql_where=_OPEN),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    provider: Mapped[str] = mapped_column(String(60), index=True)
    started_at: Mapped[datetime] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)
    is_complete: Mapped[bool] = mapped_column(Boolean, default=False)
    is_snapshot: Mapped[bool] = mapped_column(Boolean, default=True)
    content_hash: Mapped[str | None] = mapped_column(String(64))
    counts: Mapped[Any] = mapped_column(JsonText, default=dict)
    problems: Mapped[Any] = mapped_column(JsonText, default=list)
    """Refused rows: line, field, rule; bounded."""
    started_by: Mapped[str] = mapped_column(String(60))
    seen_at: Mapped[datetime | None] = mapped_column(Instant)
    """When its process last said that it goes on (`hr_runs`); NULL: begun by an older version, which does not."""
    broken_at: Mapped[datetime | None] = mapped_column(Instant)
    """When it was found to have ended before its end; `finished_at` stays NULL then."""
    within: Mapped[Any | None] = mapped_column(JsonText, nullable=True)
    """Organizations that it may speak for; NULL: all."""


class HeldChange(Base):
    """A change that the mass-change brake holds back until two people release it."""

    __tablename__ = "held_changes"
    __table_args__ = (Index("ix_held_changes_state", "state", "organization_id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("source_runs.id"), index=True)
    provider: Mapped[str] = mapped_column(String(60))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"))
    employment_id: Mapped[str | None] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(24))
    """left, absent."""
    change_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(String(16))
    """held, released, dropped."""
    held_at: Mapped[datetime] = mapped_column(Instant)
    first_approver: Mapped[str | None] = mapped_column(String(60))
    second_approver: Mapped[str | None] = mapped_column(String(60))
    decided_at: Mapped[datetime | None] = mapped_column(Instant)


class UnevaluatedPerson(Base):
    """Somebody whom the look after a change of rules failed on; it is tried again."""

    __tablename__ = "unevaluated_people"

    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    error: Mapped[str] = mapped_column(String(120))
    """Kind of the error alone: its words may hold values of the person."""
    attempts: Mapped[int] = mapped_column(Integer)
    since: Mapped[datetime] = mapped_column(Instant)
    again_at: Mapped[datetime] = mapped_column(Instant)


class LeaveCount(Base):
    """Leaves that a source caused, per organization and department: the brake's rolling 24 hours."""

    __tablename__ = "leave_counts"
    __table_args__ = (Index("ix_leave_counts_window", "provider", "organization_id", "at"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    provider: Mapped[str] = mapped_column(String(60))
    organization_id: Mapped[str] = mapped_column(String(40))
    department_id: Mapped[str | None] = mapped_column(String(40))
    at: Mapped[datetime] = mapped_column(Instant)
    leaves: Mapped[int] = mapped_column(Integer)


class HrUpload(Base):
    """An HR file that somebody brought by a page: previewed, confirmed, taken in by the worker, and forgotten."""

    __tablename__ = "hr_uploads"
    __table_args__ = (Index("ix_hr_uploads_state", "state", "created_at"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    uploaded_by: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    epoch: Mapped[int] = mapped_column(Integer)
    """The installation's when it came: what lay there before a backup was restored is not taken in after."""
    file_name: Mapped[str] = mapped_column(String(120))
    size: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(String(64))
    is_snapshot: Mapped[bool] = mapped_column(Boolean)
    state: Mapped[str] = mapped_column(String(16))
    """receiving, waiting, previewed, confirmed, done, refused, cancelled, expired, failed."""
    claim: Mapped[str | None] = mapped_column(String(40))
    """The process that works on it; another one ends it by taking its place."""
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    rows: Mapped[int] = mapped_column(Integer, default=0)
    """Read so far, by whoever has the claim."""
    preview: Mapped[Any] = mapped_column(JsonText, default=dict)
    """What it would do: numbers, ids of those who lose access, refused rows by line; no value of the file."""
    outcome: Mapped[Any] = mapped_column(JsonText, default=dict)
    """What it did, or why nothing of it goes in."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant)
    """When it is forgotten, if nothing else happens."""
    confirmed_at: Mapped[datetime | None] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)


class HrUploadPart(Base):
    """A part of such a file, sealed under the master key with context `hr_upload_parts:{upload}:{place}`."""

    __tablename__ = "hr_upload_parts"

    upload_id: Mapped[str] = mapped_column(ForeignKey("hr_uploads.id"), primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
