"""What the SCIM server keeps beside the directory: how senders name people, and what the directory has no place for."""

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ForeignKey, Index, Integer, LargeBinary, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText, Utf8, by_bytes


class ScimUser(Base):
    """A person as SCIM senders see them. People whom no sender has touched have no row."""

    __tablename__ = "scim_users"

    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    user_name: Mapped[str] = mapped_column(String(254))
    user_name_key: Mapped[str] = mapped_column(by_bytes(254), unique=True)
    """`userName` in the one form in which it is compared: no two people have the same."""
    extras: Mapped[Any] = mapped_column(JsonText)
    """What was said and the directory does not model: nick name, further addresses, roles as the sender knows them."""
    version: Mapped[int] = mapped_column(Integer, default=1)
    """Goes up with every change of this row; with the principal's version it makes the entity tag."""
    changed_at: Mapped[datetime] = mapped_column(Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)
    """When a sender deleted the resource; it stays out of sight until the person comes back."""
    ended_by: Mapped[str | None] = mapped_column(String(60))
    """The sender that suspended or ended the person last; null: none did, or the person has come back since."""
    ended_epoch: Mapped[int | None] = mapped_column(Integer)
    """The person's access epoch after that: another one now means that somebody else has ended something since."""


class ScimDocument(Base):
    """A person as SCIM shows them, ready-made (`documents`). Nobody who changes a person writes here: a document says
    what it was made of, and whoever reads it sees by that whether it still holds.
    """

    __tablename__ = "scim_documents"

    # No foreign key: keeping a document must not wait for, nor hold up, whoever changes the person.
    principal_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    person_version: Mapped[int] = mapped_column(Integer)
    """`Principal.version` when it was made."""
    said_version: Mapped[int] = mapped_column(Integer)
    """`ScimUser.version` when it was made; 0: no sender had named the person."""
    names_version: Mapped[int] = mapped_column(Integer)
    """`ScimNames.version` when it was made."""
    rules: Mapped[str] = mapped_column(String(16))
    """`documents.Form`: what documents are made by."""
    mail_key: Mapped[str | None] = mapped_column(String(254))
    """A mail address that is the person's `userName`, or would be, were it nobody else's; null: it does not matter."""
    is_mail_taken: Mapped[bool | None] = mapped_column(Boolean)
    """Whether it was somebody else's, too."""
    is_plain: Mapped[bool] = mapped_column(Boolean)
    """Whether it has nothing but what RFC 7643 names and shows by default."""
    is_all: Mapped[bool] = mapped_column(Boolean)
    """Whether filters see nothing else of the person, but what differs from sender to sender."""
    digest: Mapped[str] = mapped_column(String(16))
    body: Mapped[bytes] = mapped_column(Utf8)
    """JSON, complete but for what differs from sender to sender (`externalId`, `groups`); in its short form."""


class ScimNames(Base):
    """One row: how often companies and departments were given other names. Triggers of the database count."""

    __tablename__ = "scim_names"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """Always 1."""
    version: Mapped[int] = mapped_column(Integer)


class ScimValue(Base):
    """One value out of `extras`, so that a filter finds it: further mail addresses and telephone numbers."""

    __tablename__ = "scim_values"
    __table_args__ = (Index("ix_scim_values_lookup", "name", "value"),)

    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(String(254), primary_key=True)


class ScimUniqueValue(Base):
    """A value of an extension's attribute that no two people may have; hashed, so that it has one length."""

    __tablename__ = "scim_unique_values"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)


class ScimExtension(Base):
    """A schema that this installation registered for attributes of its own (RFC 7643 section 3.3)."""

    __tablename__ = "scim_extensions"

    schema: Mapped[str] = mapped_column(String(200), primary_key=True)
    body: Mapped[Any] = mapped_column(JsonText)
    """Its description, as `scim.extensions` reads it."""
    changed_at: Mapped[datetime] = mapped_column(Instant)


class ScimExternalId(Base):
    """What a sender calls a person or a group: unique for each sender, so that it can find them again."""

    __tablename__ = "scim_external_ids"
    __table_args__ = (Index("uq_scim_external_ids_value", "provider", "kind", "external_id", unique=True),)

    provider: Mapped[str] = mapped_column(String(60), primary_key=True)
    resource_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    """User or Group."""
    external_id: Mapped[str] = mapped_column(String(255))


class ScimJob(Base):
    """A bulk request that is worked later, operation by operation."""

    __tablename__ = "scim_jobs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    token_id: Mapped[str] = mapped_column(String(40), index=True)
    """The token that asked: it must still work when an operation is done."""
    request_id: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(12), index=True)
    """waiting, running, done or cancelled."""
    reason: Mapped[str | None] = mapped_column(String(120))
    total: Mapped[int] = mapped_column(Integer)
    done: Mapped[int] = mapped_column(Integer, default=0)
    errors: Mapped[int] = mapped_column(Integer, default=0)
    fail_on_errors: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)


class ScimJobOperation(Base):
    """One operation of a job, and what became of it."""

    __tablename__ = "scim_job_operations"
    __table_args__ = (Index("ix_scim_job_operations_turn", "job_id", "is_done", "turn"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("scim_jobs.id"), primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    """As it was sent, from 0."""
    turn: Mapped[int] = mapped_column(Integer)
    """In the order of doing: what others name is made before them."""
    sent: Mapped[bytes | None] = mapped_column(LargeBinary)
    """What was sent, sealed: personal data. Gone when it is done."""
    bulk_id: Mapped[str | None] = mapped_column(Text)
    is_done: Mapped[bool] = mapped_column(Boolean, server_default=false(), default=False)
    resource_id: Mapped[str | None] = mapped_column(String(40))
    """What a POST made."""
    result: Mapped[Any] = mapped_column(JsonText, nullable=True)
    """As a BulkResponse shows it."""
