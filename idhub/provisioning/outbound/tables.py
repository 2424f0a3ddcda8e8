"""What provisioning keeps beside accounts: how targets are and their limits, groups there, reviews, full runs."""

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText


class ScimDiscovery(Base):
    """What a target says of itself: /ServiceProviderConfig, /ResourceTypes, /Schemas."""

    __tablename__ = "scim_discoveries"

    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), primary_key=True)
    base_url: Mapped[str] = mapped_column(Text)
    """Asked there; after a change of address it is asked again."""
    capabilities: Mapped[Any] = mapped_column(JsonText)
    """As `scim.discovery.Capabilities.document` writes them."""
    attributes: Mapped[Any] = mapped_column(JsonText)
    """Attributes of its users by SCIM path; empty where it publishes no schema."""
    fetched_at: Mapped[datetime] = mapped_column(Instant)


class RequestBudget(Base):
    """When an application for which somebody set a limit may be asked next; see `provisioning.outbound.budget`."""

    __tablename__ = "request_budgets"

    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(Instant)


class OutboundGroup(Base):
    """A group that an application is to have: out of a group of the directory, or of everybody in a role there."""

    __tablename__ = "outbound_groups"
    __table_args__ = (Index("uq_outbound_groups_source", "application_id", "source_kind", "source_ref", unique=True),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    source_kind: Mapped[str] = mapped_column(String(16))
    """group, role."""
    source_ref: Mapped[str] = mapped_column(String(100))
    """Id of the group, name of the role."""
    name: Mapped[str] = mapped_column(String(200))
    """What it is to be called there."""
    is_wanted: Mapped[bool] = mapped_column(Boolean, default=True)
    """False: configuration names it no more; it is emptied and removed there."""
    external_id: Mapped[str | None] = mapped_column(String(255))
    """The application's own id of it."""
    known_name: Mapped[str | None] = mapped_column(String(200))
    known_version: Mapped[int] = mapped_column(Integer, default=0)
    """Version of the directory's group when it was last looked at."""
    dirty_at: Mapped[datetime | None] = mapped_column(Instant)
    """Since when something about it may have changed that has not been planned."""
    synced_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)


class OutboundMember(Base):
    """An account that a group there has, as the application last accepted it."""

    __tablename__ = "outbound_members"

    group_id: Mapped[str] = mapped_column(ForeignKey("outbound_groups.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    """The application's own id of the account."""


class AdoptionReview(Base):
    """An account found there that may be a person's, or nobody's: somebody decides, nothing is taken over before."""

    __tablename__ = "adoption_reviews"
    __table_args__ = (
        Index("uq_adoption_reviews_user", "application_id", "user_id", unique=True),
        Index("ix_adoption_reviews_state", "state", "application_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    user_id: Mapped[str] = mapped_column(String(255))
    """The application's own id of the account."""
    user_name: Mapped[str | None] = mapped_column(String(254))
    email: Mapped[str | None] = mapped_column(String(254))
    rule: Mapped[str | None] = mapped_column(String(24))
    """Which rule found a person; null: none did."""
    problem: Mapped[str] = mapped_column(String(16))
    """review (the rule asks for a look), ambiguous (several people), unmatched (nobody)."""
    candidates: Mapped[Any] = mapped_column(JsonText)
    """Ids of the people that it may belong to."""
    state: Mapped[str] = mapped_column(String(16))
    """open, confirmed, rejected."""
    principal_id: Mapped[str | None] = mapped_column(String(40))
    """Whose it is, once confirmed."""
    decided_by: Mapped[str | None] = mapped_column(String(60))
    decided_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)


class SyncRun(Base):
    """A run over every account of an application: the initial load, or a full resync."""

    __tablename__ = "sync_runs"
    __table_args__ = (Index("ix_sync_runs_application", "application_id", "started_at"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    state: Mapped[str] = mapped_column(String(16))
    """running, paused, done, cancelled."""
    total: Mapped[int] = mapped_column(Integer)
    planned: Mapped[int] = mapped_column(Integer, default=0)
    cursor: Mapped[str | None] = mapped_column(String(40))
    """Id of the last account that was planned."""
    started_by: Mapped[str] = mapped_column(String(60))
    started_at: Mapped[datetime] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)
