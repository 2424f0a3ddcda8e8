"""Tables of SCIM events: who hears of what, and what waits to be heard."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, ForeignKey, Identity, Index, Integer, LargeBinary, String, Text, true
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText


class EventStream(Base):
    """A receiver of SCIM events. It sees what its token may see: of that name and company, the newest that works."""

    __tablename__ = "scim_event_streams"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    token_name: Mapped[str] = mapped_column(String(120))
    organization_id: Mapped[str | None] = mapped_column(ForeignKey("organizations.id"))
    """The company that the token is limited to."""
    requested: Mapped[Any] = mapped_column(JsonText)
    """URIs of events that the receiver wants."""
    audience: Mapped[str | None] = mapped_column(Text)
    """`aud` of the tokens; null: the stream's own address."""
    push_url: Mapped[str | None] = mapped_column(Text)
    """Where they are sent; null: the receiver fetches them."""
    authorization_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(Instant)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    """Attempts in a row that came to nothing."""
    next_attempt_at: Mapped[datetime] = mapped_column(Instant)
    heard_at: Mapped[datetime | None] = mapped_column(Instant)
    """When the receiver took something last."""
    last_error: Mapped[str | None] = mapped_column(Text)
    refused: Mapped[int] = mapped_column(Integer, default=0)
    """Tokens that the receiver would not have."""
    lost: Mapped[int] = mapped_column(Integer, default=0)
    """Events that waited longer than they are kept."""
    paused_at: Mapped[datetime | None] = mapped_column(Instant)
    """Since when nothing is told, until somebody says go on; what happens meanwhile waits."""


class EventRow(Base):
    """Something that happened to a resource, for one stream. What one transaction did to one resource is one token."""

    __tablename__ = "scim_events"
    __table_args__ = (
        Index("ix_scim_events_stream", "stream_id", "place"),
        Index("ix_scim_events_token", "token_id"),
        Index("ix_scim_events_happened", "happened_at"),
    )

    place: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), Identity(always=False), primary_key=True
    )
    """Order of writing; of one resource, the order in which it changed: whoever changes it holds its lock."""
    # No foreign key: who writes must not wait for who looks after the stream.
    stream_id: Mapped[str] = mapped_column(String(40))
    token_id: Mapped[str] = mapped_column(String(40))
    """`jti`, the same however often it is sent."""
    transaction_id: Mapped[str] = mapped_column(String(60))
    """`txn`."""
    resource: Mapped[str] = mapped_column(String(12))
    """Name of the resource type."""
    resource_id: Mapped[str] = mapped_column(String(60))
    kind: Mapped[str] = mapped_column(String(24))
    """`scim.events.Kind`."""
    details: Mapped[Any] = mapped_column(JsonText)
    """Paths of attributes; of an answer, the operation as a BulkResponse shows it."""
    happened_at: Mapped[datetime] = mapped_column(Instant)
    is_ready: Mapped[bool] = mapped_column(Boolean, server_default=true(), default=True)
    """An answer is written with the effect, and told when all of it is known."""
