"""Tables of the directory.

Principals carry what every use of a credential reads: standing, access window, epochs. People, employments and
organizations carry the rest. Employments have two time axes: `EmploymentPeriod` rows say from when to when something
held (`valid_`), and from when to when the hub believed so (`recorded_at`, `superseded_at`); they are never edited
except to close `superseded_at`.
"""

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement

from idhub.db import Base, Instant, JsonText, by_bytes
from idhub.directory.kinds import EmploymentState, EmploymentType, OrganizationKind, PrincipalKind, Standing

_STAGED = text("state = 'staged'")
_LIVE_WITH_END = text("state <> 'ended' AND ends_at IS NOT NULL")
_OWNED = text("owner_id IS NOT NULL")
_BELIEVED = text("superseded_at IS NULL")
_NOT_INDEXED = text("search_place IS NULL")
_NOT_ACTIVE = text("standing <> 'active'")

_Surrogate = BigInteger().with_variant(Integer(), "sqlite")
# SQLite compares bytes by itself; PostgreSQL by the rules of a language unless told not to.
ByteOrdered = Text().with_variant(Text(collation="C"), "postgresql")


class _Folded(FunctionElement[str]):
    """A text in lower case, as the database folds it, ordered by bytes: what an index walks by."""

    type = ByteOrdered
    inherit_cache = True


@compiles(_Folded)
def _folded(element: Any, compiler: Any, **how: Any) -> str:
    folded = f"lower({compiler.process(element.clauses, **how)})"
    return f'({folded} COLLATE "C")' if compiler.dialect.name == "postgresql" else folded


class Installation(Base):
    """The one row of this installation."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """Always 1."""
    epoch: Mapped[int] = mapped_column(Integer, default=1)
    """Goes up after a restored backup or a lost master key; every credential carries it."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    rules_version: Mapped[int] = mapped_column(Integer, default=1)
    """Goes up whenever configuration (applications, clients, rules) changes; caches are bound to it."""
    evaluated_version: Mapped[int] = mapped_column(Integer, default=1)
    """The `rules_version` for which everybody's entitlements were last looked at."""
    evaluated_up_to: Mapped[str | None] = mapped_column(String(40))
    """Principal id up to which a running re-evaluation has come; it goes on there after a restart."""
    recovery_reason: Mapped[str | None] = mapped_column(Text)
    """Set while the hub is in recovery mode (behind its witness)."""
    schema_before: Mapped[str | None] = mapped_column(String(32))
    """The revision from which the last migration began (`migrations`)."""


class Organization(Base):
    """Group, company, subsidiary, dealer, supplier: a tree."""

    __tablename__ = "organizations"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("organizations.id"), index=True)
    kind: Mapped[OrganizationKind] = mapped_column(String(16))
    code: Mapped[str] = mapped_column(String(60), unique=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    name_en: Mapped[str | None] = mapped_column(String(200))
    time_zone: Mapped[str] = mapped_column(String(64))
    contract_starts_on: Mapped[date | None] = mapped_column(Date)
    contract_ends_on: Mapped[date | None] = mapped_column(Date)
    sponsor_id: Mapped[str | None] = mapped_column(String(40))
    quota: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant)


class OrganizationClosure(Base):
    """Every (ancestor, descendant) pair of the organization tree, itself included at depth 0."""

    __tablename__ = "organization_closure"

    ancestor_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), primary_key=True)
    descendant_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), primary_key=True, index=True)
    depth: Mapped[int] = mapped_column(Integer)


class Department(Base):
    """Node of an organization's department tree."""

    __tablename__ = "departments"
    __table_args__ = (Index("uq_departments_path", "organization_id", "path", unique=True),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("departments.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    path: Mapped[str] = mapped_column(String(1000))
    """Names from the root, joined with /."""
    created_at: Mapped[datetime] = mapped_column(Instant)


class DepartmentClosure(Base):
    """Every (ancestor, descendant) pair of the department trees, itself included at depth 0."""

    __tablename__ = "department_closure"

    ancestor_id: Mapped[str] = mapped_column(ForeignKey("departments.id"), primary_key=True)
    descendant_id: Mapped[str] = mapped_column(ForeignKey("departments.id"), primary_key=True, index=True)
    depth: Mapped[int] = mapped_column(Integer)


class Principal(Base):
    """What can act. Standing, window and epochs are written by `lifecycle.transition` alone."""

    __tablename__ = "principals"
    __table_args__ = (
        CheckConstraint("standing IN ('staged','active','suspended','left')", name="standing"),
        Index("ix_principals_not_active", "standing", "id", sqlite_where=_NOT_ACTIVE, postgresql_where=_NOT_ACTIVE),
        Index("ix_principals_organization", "organization_id", "id"),
        Index("ix_principals_owner_id", "owner_id", sqlite_where=_OWNED, postgresql_where=_OWNED),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[PrincipalKind] = mapped_column(String(16))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    """Scope of authority over this principal: of a person, the organization of the main employment."""
    standing: Mapped[Standing] = mapped_column(String(16))
    access_epoch: Mapped[int] = mapped_column(Integer, default=1)
    enrolment_epoch: Mapped[int] = mapped_column(Integer, default=1)
    access_starts_at: Mapped[datetime] = mapped_column(Instant)
    access_ends_at: Mapped[datetime | None] = mapped_column(Instant)
    """First instant without access; null: no end is known."""
    epoch_raised_at: Mapped[datetime | None] = mapped_column(Instant)
    """When `access_epoch` last went up: a proof that was asked for before then is none any more. Null: never, as far
    as this was recorded."""
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("principals.id"))
    """Person who answers for a service identity or device."""
    rotation_due_at: Mapped[datetime | None] = mapped_column(Instant)
    """Set when the owner left: by then the credentials of this service or device must be replaced."""
    version: Mapped[int] = mapped_column(Integer, default=1)
    """Goes up with every change of this principal or of the person behind it; gates late deliveries."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)


class Person(Base):
    """One human, for life. `id` is the principal's."""

    __tablename__ = "people"
    __table_args__ = (
        Index("uq_people_search_place", "search_place", unique=True),
        Index("ix_people_not_indexed", "id", sqlite_where=_NOT_INDEXED, postgresql_where=_NOT_INDEXED),
    )

    id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    display_name: Mapped[str] = mapped_column(String(200))
    given_name: Mapped[str | None] = mapped_column(String(100))
    family_name: Mapped[str | None] = mapped_column(String(100))
    email: Mapped[str | None] = mapped_column(String(254))
    mobile: Mapped[str | None] = mapped_column(String(32))
    locale: Mapped[str | None] = mapped_column(String(16))
    national_id_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    """Keyed hash; correlates one human across companies. The value itself is not kept."""
    main_employment_id: Mapped[str | None] = mapped_column(String(40))
    search_terms: Mapped[str] = mapped_column(Text, default="")
    """Terms as `directory.search_terms` writes them; what stands in the index of this person."""
    search_place: Mapped[int | None] = mapped_column(BigInteger)
    """How the index names this person; null: not in it yet (`search_index.index_missing`)."""
    attribute_sources: Mapped[Any] = mapped_column(JsonText, default=dict)
    """Attribute name -> provider that won it by precedence."""


DISPLAY_NAME_KEY = _Folded(Person.__table__.c.display_name)
"""By which lists go that begin with a part of the name that is shown."""
Index("ix_people_display_name", DISPLAY_NAME_KEY, Person.__table__.c.id)


class SearchShelf(Base):
    """A part of the search index: people indexed together. Shelf 0 takes the few who come one by one."""

    __tablename__ = "search_shelves"

    id: Mapped[int] = mapped_column(_Surrogate, primary_key=True)
    people: Mapped[int] = mapped_column(Integer)
    """How many were put there; tells small shelves, which are merged, from full ones."""
    tags: Mapped[str] = mapped_column(Text)
    """Ends of the ids of their organizations, blank-separated; empty: any."""


class SearchRun(Base):
    """Places given out at once, `search_index.RUN` at most, and the shelf where their terms are now."""

    __tablename__ = "search_runs"

    id: Mapped[int] = mapped_column(_Surrogate, primary_key=True)
    shelf_id: Mapped[int] = mapped_column(BigInteger, index=True)
    people: Mapped[int] = mapped_column(Integer)


class SearchBlock(Base):
    """Sorted lines of a shelf, some fifty together (`search_index`). Personal data: it goes with the person."""

    __tablename__ = "search_blocks"

    shelf_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    first: Mapped[str] = mapped_column(ByteOrdered, primary_key=True)
    """The first line."""
    body: Mapped[str] = mapped_column(Text)
    """Every line."""


class LoginName(Base):
    """What a person may type to name themself: employee number, mail, mobile; one normal form.

    A value may belong to several people (the same number in two companies); then it signs in nobody, or the one of them
    whose hub role reaches furthest.
    """

    __tablename__ = "login_names"

    value: Mapped[str] = mapped_column(by_bytes(254), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    """employee_number, email, mobile."""


class Employment(Base):
    """A person's post in an organization, as it is believed now. History is in `EmploymentPeriod`."""

    __tablename__ = "employments"
    __table_args__ = (
        Index("uq_employments_number", "organization_id", "employee_number", unique=True),
        CheckConstraint("state IN ('staged','active','suspended','ended')", name="state"),
        Index("ix_employments_starts_at", "starts_at"),
        Index("ix_employments_starts_due", "starts_at", sqlite_where=_STAGED, postgresql_where=_STAGED),
        Index("ix_employments_ends_due", "ends_at", sqlite_where=_LIVE_WITH_END, postgresql_where=_LIVE_WITH_END),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    department_id: Mapped[str | None] = mapped_column(ForeignKey("departments.id"))
    employee_number: Mapped[str] = mapped_column(String(64), index=True)
    type: Mapped[EmploymentType] = mapped_column(String(16))
    title: Mapped[str | None] = mapped_column(String(200))
    manager_id: Mapped[str | None] = mapped_column(ForeignKey("principals.id"))
    state: Mapped[EmploymentState] = mapped_column(String(16))
    starts_on: Mapped[date] = mapped_column(Date)
    ends_on: Mapped[date | None] = mapped_column(Date)
    """Last working day; access ends at 00:00 of the next day at the company's place."""
    starts_at: Mapped[datetime] = mapped_column(Instant)
    """00:00 of `starts_on` at the company's place."""
    ends_at: Mapped[datetime | None] = mapped_column(Instant)
    """First instant without this post: the one an offboarding named, else derived from `ends_on`."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)


class EmploymentPeriod(Base):
    """One stretch of an employment's history, on both time axes. Append-only but for `superseded_at`."""

    __tablename__ = "employment_periods"
    __table_args__ = (
        Index("ix_employment_periods_current", "employment_id", sqlite_where=_BELIEVED, postgresql_where=_BELIEVED),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    employment_id: Mapped[str] = mapped_column(ForeignKey("employments.id"))
    valid_from: Mapped[datetime] = mapped_column(Instant)
    valid_to: Mapped[datetime | None] = mapped_column(Instant)
    recorded_at: Mapped[datetime] = mapped_column(Instant)
    superseded_at: Mapped[datetime | None] = mapped_column(Instant)
    facts: Mapped[Any] = mapped_column(JsonText)
    """organization_id, department_id, employee_number, type, title, manager_id, state."""


class SourceRecord(Base):
    """What a provider said of somebody, last."""

    __tablename__ = "source_records"
    __table_args__ = (Index("ix_source_records_scope", "provider", "scope", "key"),)

    provider: Mapped[str] = mapped_column(String(60), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    """The provider's own key; of an HR file `company code/employee number`."""
    scope: Mapped[str] = mapped_column(String(40))
    """Organization that the record speaks for."""
    principal_id: Mapped[str | None] = mapped_column(ForeignKey("principals.id"), index=True)
    employment_id: Mapped[str | None] = mapped_column(String(40))
    raw_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    """What was said, sealed; personal data."""
    content_hash: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    """present, left, unknown."""
    generation: Mapped[str] = mapped_column(String(40))
    """The run that last saw it."""
    seen_at: Mapped[datetime] = mapped_column(Instant)


class IdentityLink(Base):
    """(provider, upstream subject) of a person; dies with the enrolment epoch."""

    __tablename__ = "identity_links"

    provider: Mapped[str] = mapped_column(String(60), primary_key=True)
    upstream_subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    enrolment_epoch: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant)


class SubjectIdentifier(Base):
    """`sub` of a principal towards a sector; stored, never reused."""

    __tablename__ = "subject_identifiers"

    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    sector: Mapped[str] = mapped_column(String(255), primary_key=True)
    sub: Mapped[str] = mapped_column(String(64), unique=True)
    is_active: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime] = mapped_column(Instant)


class Group(Base):
    """Static group, or dynamic by a rule in SCIM filter syntax."""

    __tablename__ = "groups"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    """Of an ended group, its id."""
    rule: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer, default=1, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime | None] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)


class GroupMember(Base):
    """Membership, with both time axes."""

    __tablename__ = "group_members"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    group_id: Mapped[str] = mapped_column(ForeignKey("groups.id"), index=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    valid_from: Mapped[datetime] = mapped_column(Instant)
    valid_to: Mapped[datetime | None] = mapped_column(Instant)
    recorded_at: Mapped[datetime] = mapped_column(Instant)
    superseded_at: Mapped[datetime | None] = mapped_column(Instant)
