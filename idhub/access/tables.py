"""Tables of access: applications and their channels, rules, entitlements on two time axes, accounts."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Boolean, ForeignKey, Index, Integer, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText
from idhub.directory import tables as _pointed_to  # noqa: F401 - a column has the type of what it points to

_CURRENT = text("superseded_at IS NULL AND valid_to IS NULL")
_UNENDED = text("valid_to IS NULL")
_AWAITS = text("awaited_manager_id IS NOT NULL")
_DUE_AGAIN = text("due_again_at IS NOT NULL")
_ALIVE = text("known_state = 'active' AND external_id IS NOT NULL")
"""Accounts that may serve as the control of a read-back, and those that are about to end: what a leave changes of an
account is in no index, so that it writes no page of every application's."""


class Criticality(StrEnum):
    """How much an application matters; decides the revocation deadline unless one is named."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


class Application(Base):
    """What people get into."""

    __tablename__ = "applications"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    slug: Mapped[str] = mapped_column(String(60), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    """English."""
    name_zh: Mapped[str | None] = mapped_column(String(120))
    description: Mapped[str | None] = mapped_column(Text)
    home_url: Mapped[str | None] = mapped_column(Text)
    """Where the portal tile leads."""
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("principals.id"))
    criticality: Mapped[Criticality] = mapped_column(String(16))
    revocation_deadline_seconds: Mapped[int] = mapped_column(Integer)
    required_grade: Mapped[int | None] = mapped_column(Integer)
    """Evidence that a leave needs; null: the ceiling of each channel."""
    is_enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)


class OidcClient(Base):
    """An OAuth/OIDC registration of an application or of a service identity."""

    __tablename__ = "oidc_clients"

    client_id: Mapped[str] = mapped_column(String(100), primary_key=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), index=True)
    service_principal_id: Mapped[str | None] = mapped_column(ForeignKey("principals.id"), index=True)
    """The service identity that acts in client_credentials; null: that grant is refused."""
    auth_method: Mapped[str] = mapped_column(String(32))
    """client_secret_basic, client_secret_post, none."""
    secret_hash: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of a random secret of at least 256 bits."""
    redirect_uris: Mapped[Any] = mapped_column(JsonText)
    post_logout_redirect_uris: Mapped[Any] = mapped_column(JsonText)
    grant_types: Mapped[Any] = mapped_column(JsonText)
    scopes: Mapped[Any] = mapped_column(JsonText)
    """Scopes it may ask for."""
    access_token_format: Mapped[str] = mapped_column(String(16))
    """jwt or opaque."""
    access_token_seconds: Mapped[int | None] = mapped_column(Integer)
    id_token_alg: Mapped[str] = mapped_column(String(16))
    audience: Mapped[str | None] = mapped_column(Text)
    """`aud` of access tokens; null: the client's own resource, named by its client_id."""
    rotates_refresh: Mapped[bool] = mapped_column(Boolean, default=True)
    requires_consent: Mapped[bool] = mapped_column(Boolean, default=False)
    sector: Mapped[str | None] = mapped_column(String(255))
    """Sector of pairwise `sub` (OIDC Core section 8.1); null: public, one `sub` for all such clients."""
    is_native: Mapped[bool] = mapped_column(Boolean, default=False)
    """Installed application: the port of loopback redirect URIs may vary (RFC 8252 section 7.3)."""
    backchannel_logout_uri: Mapped[str | None] = mapped_column(Text)
    backchannel_logout_session_required: Mapped[bool] = mapped_column(Boolean, default=True)
    is_enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)


class SamlPartner:
    """What is known of whoever speaks SAML with the hub, in either role: keys, logout, where its metadata is read."""

    logout_services: Mapped[Any] = mapped_column(JsonText)
    """Where logout messages go: [{binding, location, response_location}]; of WS-Federation the clean-up address."""
    signing_certificates: Mapped[Any] = mapped_column(JsonText)
    """Base64 DER. Keys of these alone verify what it sends."""
    metadata_url: Mapped[str | None] = mapped_column(Text)
    """Where its metadata is read again and again; null: it was handed over once, or entered by hand."""
    metadata_certificate: Mapped[str | None] = mapped_column(Text)
    """Base64 DER of whoever must have signed the metadata; null: nobody."""
    metadata_valid_until: Mapped[datetime | None] = mapped_column(Instant)
    metadata_read_at: Mapped[datetime | None] = mapped_column(Instant)
    metadata_due_at: Mapped[datetime | None] = mapped_column(Instant, index=True)
    metadata_error: Mapped[str | None] = mapped_column(Text)
    """Why it could not be read last time; what was known before stays in force until it is no longer valid."""
    is_enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)


class SamlServiceProvider(SamlPartner, Base):
    """Whom assertions are made for: a SAML 2.0 service provider of an application, or a relying party of
    WS-Federation; what metadata and configuration say of it.
    """

    __tablename__ = "saml_service_providers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), index=True)
    protocol: Mapped[str] = mapped_column(String(16), server_default="saml")
    """How it speaks: saml, wsfed."""
    entity_id: Mapped[str] = mapped_column(Text, unique=True)
    """Of WS-Federation the realm (`wtrealm`). One audience is one registration, whatever it speaks: with the same key
    behind both, an assertion for one must not do for another."""
    consumer_services: Mapped[Any] = mapped_column(JsonText)
    """Where assertions go, by POST: [{index, location, is_default}]. Empty: its metadata was not read yet."""
    artifact_consumers: Mapped[Any] = mapped_column(JsonText, nullable=True)
    """Where artifacts go, in the same form; null: nowhere. Apart, because the version before sends responses to all of
    the others."""
    response_binding: Mapped[str | None] = mapped_column(String(16))
    """post or artifact: how it is answered when its request does not say; null: post."""
    soap_logout_url: Mapped[str | None] = mapped_column(Text)
    """The one of them that takes SOAP: the worker tells it without a browser."""
    encryption_certificates: Mapped[Any] = mapped_column(JsonText)
    assertion_version: Mapped[str] = mapped_column(String(8), server_default="2.0")
    """2.0; 1.1 for relying parties of WS-Federation that read nothing newer."""
    assertion_seconds: Mapped[int | None] = mapped_column(Integer)
    """How long an assertion is valid, where its end is the end of the application's own session; null: as usual."""
    name_id_format: Mapped[str] = mapped_column(String(100))
    attributes: Mapped[Any] = mapped_column(JsonText)
    """Name in the assertion -> name of a value of the person (`idhub.access.attributes`)."""
    signs_response: Mapped[bool] = mapped_column(Boolean)
    signs_assertion: Mapped[bool] = mapped_column(Boolean)
    encrypts_assertion: Mapped[bool] = mapped_column(Boolean)
    wants_signed_requests: Mapped[bool] = mapped_column(Boolean)
    allows_idp_initiated: Mapped[bool] = mapped_column(Boolean)
    answers_not_entitled: Mapped[bool] = mapped_column(Boolean)
    """Who may not enter is told so by the application (a status), not by a page of the hub."""


class CasService(Base):
    """What an application is to CAS: how it names people, what it is told of them, and where it is told of logouts."""

    __tablename__ = "cas_services"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), unique=True)
    user_value: Mapped[str] = mapped_column(String(16))
    """What a person is called there: employee_number, email, pairwise."""
    attributes: Mapped[Any] = mapped_column(JsonText)
    """Name in the answer -> name of a value of the person (`idhub.access.attributes`)."""
    logout: Mapped[str] = mapped_column(String(16))
    """Where a logout request goes: none, service (to the address that the ticket was for), url."""
    logout_url: Mapped[str | None] = mapped_column(Text)
    is_enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)


class CasAddress(Base):
    """An address that tickets may be sent to. Each belongs to one application at a time."""

    __tablename__ = "cas_addresses"

    url: Mapped[str] = mapped_column(Text, primary_key=True)
    """In one writing: scheme and host in small letters, the port always named."""
    origin: Mapped[str] = mapped_column(String(300), index=True)
    service_id: Mapped[str] = mapped_column(ForeignKey("cas_services.id"), index=True)
    match: Mapped[str] = mapped_column(String(8))
    """exact; query: with any query; below: and any path beneath."""
    registered: Mapped[str] = mapped_column(Text)
    """As it was written in the configuration."""


class ScimTarget(Base):
    """SCIM service provider of an application, towards which accounts are provisioned."""

    __tablename__ = "scim_targets"

    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), primary_key=True)
    base_url: Mapped[str] = mapped_column(Text)
    token_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Bearer token, sealed with context `scim_targets:{application_id}:token`."""
    token_hash: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of the token, so that configuration can tell whether it changed."""
    user_name_attribute: Mapped[str] = mapped_column(String(32))
    """email or employee_number: what becomes userName."""
    dialect: Mapped[str] = mapped_column(String(32))
    control_user_name: Mapped[str | None] = mapped_column(String(254))
    """A live account for control reads; null: another active account of this application is used."""
    options: Mapped[Any] = mapped_column(JsonText, nullable=True)
    """Mapping, groups, adoption, retention, pace, way out: see `provisioning.outbound.options`; null: all defaults."""
    token_expires_at: Mapped[datetime | None] = mapped_column(Instant)
    """When the token stops working, as far as somebody has said."""
    next_token_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    """A token that is to take the place of the present one once it was tried; sealed like it."""
    next_token_expires_at: Mapped[datetime | None] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)


class ReconcilePlan(Base):
    """How often an application's accounts are compared with what they should be, and what follows by itself.

    An application without a row is compared once a day, and what is found is reported.
    """

    __tablename__ = "reconcile_plans"

    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), primary_key=True)
    every_seconds: Mapped[int] = mapped_column(Integer)
    """0: only when somebody asks."""
    policy: Mapped[str] = mapped_column(String(16))
    """report, ask, disable."""
    service_accounts: Mapped[Any] = mapped_column(JsonText, default=list)
    """userNames of accounts that are nobody's by intention."""
    next_run_at: Mapped[datetime | None] = mapped_column(Instant)
    completed_at: Mapped[datetime | None] = mapped_column(Instant)
    """When the last complete read of all accounts began: what the scope line of receipts states."""


class EntitlementRule(Base):
    """Birthright: who is entitled to a role of an application, in SCIM filter syntax over the person."""

    __tablename__ = "entitlement_rules"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"), index=True)
    role: Mapped[str] = mapped_column(String(100))
    rule: Mapped[str] = mapped_column(Text)
    valid_from: Mapped[datetime] = mapped_column(Instant)
    valid_to: Mapped[datetime | None] = mapped_column(Instant)
    recorded_at: Mapped[datetime] = mapped_column(Instant)
    superseded_at: Mapped[datetime | None] = mapped_column(Instant)


class Entitlement(Base):
    """The right of a principal to a role in an application, on both time axes.

    The row that holds now has `superseded_at` and `valid_to` null. A withdrawal closes the belief (`superseded_at`)
    and inserts the same row with its end; both answers ("as it was", "as it was known") stay readable.
    """

    __tablename__ = "entitlements"
    __table_args__ = (
        Index(
            "uq_entitlements_current",
            "principal_id",
            "application_id",
            "role",
            unique=True,
            sqlite_where=_CURRENT,
            postgresql_where=_CURRENT,
        ),
        # SQLite takes what is superseded out of an index of what is current, one page for each application; PostgreSQL
        # leaves that to its vacuum, and would put the superseded row into one of what has no end.
        Index("ix_entitlements_application", "application_id", sqlite_where=_UNENDED, postgresql_where=_CURRENT),
        Index("ix_entitlements_history", "principal_id", "application_id", "recorded_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"))
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    role: Mapped[str] = mapped_column(String(100))
    reason_kind: Mapped[str] = mapped_column(String(16))
    """rule, group, request, direct."""
    reason_ref: Mapped[str | None] = mapped_column(String(100))
    """Id of the rule, group, request; of a direct one, words."""
    valid_from: Mapped[datetime] = mapped_column(Instant)
    valid_to: Mapped[datetime | None] = mapped_column(Instant)
    recorded_at: Mapped[datetime] = mapped_column(Instant)
    superseded_at: Mapped[datetime | None] = mapped_column(Instant)


class AccountKind(StrEnum):
    """Whose an account is."""

    LINKED = "linked"
    ORPHAN = "orphan"
    SERVICE = "service"


class Account(Base):
    """A principal's record in another system: what we want of it, what we last knew, what we last saw."""

    __tablename__ = "accounts"
    __table_args__ = (
        Index("uq_accounts_principal", "application_id", "principal_id", "slot", unique=True),
        Index("ix_accounts_external", "application_id", "external_id"),
        Index("ix_accounts_alive", "application_id", "observed_at", sqlite_where=_ALIVE, postgresql_where=_ALIVE),
        Index(
            "ix_accounts_awaits",
            "application_id",
            "awaited_manager_id",
            sqlite_where=_AWAITS,
            postgresql_where=_AWAITS,
        ),
        Index("ix_accounts_due_again", "application_id", "id", sqlite_where=_DUE_AGAIN, postgresql_where=_DUE_AGAIN),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    principal_id: Mapped[str | None] = mapped_column(ForeignKey("principals.id"), index=True)
    slot: Mapped[str] = mapped_column(String(40), default="main")
    """Tells several accounts of one person in one application apart."""
    kind: Mapped[AccountKind] = mapped_column(String(16))
    external_id: Mapped[str | None] = mapped_column(String(255))
    """The application's own id of it (SCIM `id`)."""
    user_name: Mapped[str | None] = mapped_column(String(254))
    desired_state: Mapped[str] = mapped_column(String(16))
    """active, inactive."""
    known_state: Mapped[str] = mapped_column(String(16))
    """What the application last confirmed: absent, active, inactive, unknown."""
    known_hash: Mapped[str | None] = mapped_column(String(64))
    """Hash of the attributes that it last confirmed."""
    known_attributes: Mapped[Any] = mapped_column(JsonText, nullable=True)
    """The attributes themselves, by SCIM path, as we last sent them and it accepted them."""
    off_since: Mapped[datetime | None] = mapped_column(Instant)
    """Since when the application shows it inactive, as far as we have seen; null while it is active."""
    observed_at: Mapped[datetime | None] = mapped_column(Instant)
    awaited_manager_id: Mapped[str | None] = mapped_column(String(40))
    """The manager, whose account there was not known when this one was last sent; it goes without until it is."""
    due_again_at: Mapped[datetime | None] = mapped_column(Instant)
    """Since when what it went without is there; null: nothing is."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)
