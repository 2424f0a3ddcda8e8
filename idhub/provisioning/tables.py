"""What the SCIM server keeps beside the directory: how senders name people, and what the directory has no place for."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText


class ScimUser(Base):
    """A person as SCIM senders see them. People whom no sender has touched have no row."""

    __tablename__ = "scim_users"

    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    user_name: Mapped[str] = mapped_column(String(254))
    user_name_key: Mapped[str] = mapped_column(String(254), unique=True)
    """`userName` in the one form in which it is compared: no two people have the same."""
    extras: Mapped[Any] = mapped_column(JsonText)
    """What was said and the directory does not model: nick name, further addresses, roles as the sender knows them."""
    version: Mapped[int] = mapped_column(Integer, default=1)
    """Goes up with every change of this row; with the principal's version it makes the entity tag."""
    changed_at: Mapped[datetime] = mapped_column(Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)
    """When a sender deleted the resource; it stays out of sight until the person comes back."""


class ScimValue(Base):
    """One value out of `extras`, so that a filter finds it: further mail addresses and telephone numbers."""

    __tablename__ = "scim_values"
    __table_args__ = (Index("ix_scim_values_lookup", "name", "value"),)

    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(String(254), primary_key=True)


class ScimExternalId(Base):
    """What a sender calls a person or a group: unique for each sender, so that it can find them again."""

    __tablename__ = "scim_external_ids"
    __table_args__ = (Index("uq_scim_external_ids_value", "provider", "kind", "external_id", unique=True),)

    provider: Mapped[str] = mapped_column(String(60), primary_key=True)
    resource_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    """User or Group."""
    external_id: Mapped[str] = mapped_column(String(255))
