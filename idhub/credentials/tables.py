"""Tables of credentials. Opaque values are stored as SHA-256 hashes; single use is one conditional UPDATE.

Every credential carries the epochs that were read before the proof behind it was checked: `access_epoch` and, where it
survives a suspension, `enrolment_epoch`, and the installation's epoch. None is usable unless they equal the
principal's at the moment of use.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from idhub.db import Base, Instant, JsonText
from idhub.directory import tables as _pointed_to  # noqa: F401 - a column has the type of what it points to

_ALIVE = text("ended_at IS NULL")
_NAMED = text("name_id IS NOT NULL")


class SsoSession(Base):
    """One SSO session of a person in one browser."""

    __tablename__ = "sessions"
    __table_args__ = (
        Index("ix_sessions_principal_alive", "principal_id", sqlite_where=_ALIVE, postgresql_where=_ALIVE),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"))
    access_epoch: Mapped[int] = mapped_column(Integer)
    enrolment_epoch: Mapped[int] = mapped_column(Integer)
    installation_epoch: Mapped[int] = mapped_column(Integer)
    authenticated_at: Mapped[datetime] = mapped_column(Instant)
    amr: Mapped[Any] = mapped_column(JsonText)
    created_at: Mapped[datetime] = mapped_column(Instant)
    last_seen_at: Mapped[datetime] = mapped_column(Instant)
    idle_expires_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    end_reason: Mapped[str | None] = mapped_column(String(40))
    ip: Mapped[str | None] = mapped_column(String(45))
    user_agent: Mapped[str | None] = mapped_column(String(400))


class UpstreamSession(Base):
    """A session that rests on an assertion: by what the provider would ask for its end."""

    __tablename__ = "upstream_sessions"
    __table_args__ = (Index("ix_upstream_sessions_name_id", "provider_id", "name_id"),)

    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), primary_key=True)
    provider_id: Mapped[str] = mapped_column(ForeignKey("identity_providers.id"))
    name_id: Mapped[str] = mapped_column(String(255))
    session_index: Mapped[str | None] = mapped_column(Text)


class SessionParticipant(Base):
    """An application that a session was used for: whom a logout must tell."""

    __tablename__ = "session_participants"
    __table_args__ = (
        Index("uq_session_participants", "session_id", "client_id", unique=True),
        Index("uq_session_participants_saml", "session_id", "service_provider_id", unique=True),
        Index(
            "ix_session_participants_name_id",
            "service_provider_id",
            "name_id",
            sqlite_where=_NAMED,
            postgresql_where=_NAMED,
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"))
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    client_id: Mapped[str | None] = mapped_column(ForeignKey("oidc_clients.client_id"))
    """The OIDC client, or null: then `service_provider_id` or `cas_service_id` says what it is."""
    sid: Mapped[str] = mapped_column(String(64), unique=True)
    """`sid` claim towards this client; SessionIndex towards this service provider; the spent ticket of CAS."""
    sub: Mapped[str] = mapped_column(String(64))
    """Empty of a service provider, which knows the person by `name_id`, and of CAS."""
    service_provider_id: Mapped[str | None] = mapped_column(
        # Named: by the usual pattern it would be longer than PostgreSQL's names may be.
        ForeignKey("saml_service_providers.id", name="fk_session_participants_service_provider")
    )
    name_id: Mapped[str | None] = mapped_column(Text)
    name_id_format: Mapped[str | None] = mapped_column(String(100))
    cas_service_id: Mapped[str | None] = mapped_column(ForeignKey("cas_services.id"))
    """Of CAS each ticket that was asked about is a participant: its application may keep a session for each."""
    service_url: Mapped[str | None] = mapped_column(Text)
    """The address that the ticket was for."""
    joined_at: Mapped[datetime] = mapped_column(Instant)
    last_used_at: Mapped[datetime] = mapped_column(Instant)
    token_expires_at: Mapped[datetime | None] = mapped_column(Instant)
    """When the last self-contained access token issued here expires: the residual a receipt states."""
    ended_at: Mapped[datetime | None] = mapped_column(Instant)


class Grant(Base):
    """What a principal lets a client do for it; rests on an entitlement, ends alone."""

    __tablename__ = "grants"
    __table_args__ = (Index("ix_grants_principal_alive", "principal_id", sqlite_where=_ALIVE, postgresql_where=_ALIVE),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"))
    client_id: Mapped[str] = mapped_column(ForeignKey("oidc_clients.client_id"))
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id"))
    session_id: Mapped[str | None] = mapped_column(ForeignKey("sessions.id"), index=True)
    """The session it lives and dies with; null: client credentials."""
    participant_id: Mapped[str | None] = mapped_column(String(40))
    scope: Mapped[str] = mapped_column(Text)
    access_epoch: Mapped[int] = mapped_column(Integer)
    enrolment_epoch: Mapped[int] = mapped_column(Integer)
    installation_epoch: Mapped[int] = mapped_column(Integer)
    authenticated_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    end_reason: Mapped[str | None] = mapped_column(String(40))


class Consent(Base):
    """Scopes that a person has allowed a client."""

    __tablename__ = "consents"

    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("oidc_clients.client_id"), primary_key=True)
    scope: Mapped[str] = mapped_column(Text)
    enrolment_epoch: Mapped[int] = mapped_column(Integer)
    given_at: Mapped[datetime] = mapped_column(Instant)


class AuthorizationCode(Base):
    """An authorization code, once."""

    __tablename__ = "authorization_codes"

    code_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grants.id"), index=True)
    client_id: Mapped[str] = mapped_column(String(100))
    redirect_uri: Mapped[str] = mapped_column(Text)
    code_challenge: Mapped[str] = mapped_column(String(128))
    nonce: Mapped[str | None] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    spent_at: Mapped[datetime | None] = mapped_column(Instant)


class RefreshToken(Base):
    """One refresh token of a family; spending it makes the next."""

    __tablename__ = "refresh_tokens"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    family_id: Mapped[str] = mapped_column(String(40), index=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grants.id"), index=True)
    client_id: Mapped[str] = mapped_column(String(100))
    scope: Mapped[str] = mapped_column(Text)
    issued_at: Mapped[datetime] = mapped_column(Instant)
    idle_expires_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    spent_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)


class AccessToken(Base):
    """An access token: opaque ones by hash of the value, JWTs by hash of their `jti`."""

    __tablename__ = "access_tokens"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grants.id"), index=True)
    client_id: Mapped[str] = mapped_column(String(100))
    scope: Mapped[str] = mapped_column(Text)
    audience: Mapped[str] = mapped_column(Text)
    issued_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)


class ServiceTicket(Base):
    """A CAS service ticket: an application asks with it, once, who came. It lives in its session, by whose epochs it
    is judged.
    """

    __tablename__ = "service_tickets"

    ticket_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), index=True)
    service_id: Mapped[str] = mapped_column(ForeignKey("cas_services.id"))
    service_url: Mapped[str] = mapped_column(Text)
    """The address that it was sent to, to the letter: another one learns nothing by it."""
    is_fresh: Mapped[bool] = mapped_column(Boolean)
    """Whether the person signed in for it, and not on the strength of an earlier sign-in."""
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    spent_at: Mapped[datetime | None] = mapped_column(Instant)


class LoginTransaction(Base):
    """A sign-in in progress: what asked for it, and where it goes on."""

    __tablename__ = "login_transactions"

    id_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    browser_hash: Mapped[str] = mapped_column(String(64))
    """Hash of the pre-session cookie that it is bound to."""
    protocol: Mapped[str] = mapped_column(String(16))
    """oidc, or none for the hub's own pages."""
    client_id: Mapped[str | None] = mapped_column(String(100))
    application_id: Mapped[str | None] = mapped_column(String(40))
    request: Mapped[Any] = mapped_column(JsonText)
    """Validated parameters of the request, or the local path to go to."""
    session_id: Mapped[str | None] = mapped_column(String(40))
    """The session that this transaction established by a fresh sign-in."""
    refusal: Mapped[str | None] = mapped_column(String(60))
    """Stable code why the sign-in cannot go on (not_entitled, consent_denied, ...); the error page reads it."""
    upstream: Mapped[Any] = mapped_column(JsonText, nullable=True)
    """What an identity provider was asked in this sign-in, and what it answered (`idhub.login.federation`)."""
    consent: Mapped[str | None] = mapped_column(String(8))
    """allow or deny: what the person answered on the consent page of this transaction."""
    consent_session_id: Mapped[str | None] = mapped_column(String(40))
    """The session in which they answered: in another one, of another person perhaps, the answer says nothing."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    completed_at: Mapped[datetime | None] = mapped_column(Instant)


class SamlRequest(Base):
    """ID of a SAML request that was answered or refused: it is not answered again while it could still be valid."""

    __tablename__ = "saml_requests"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 over the service provider and the ID."""
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)


class SamlArtifact(Base):
    """What a SAML service provider fetches by an artifact that a browser brought it, once."""

    __tablename__ = "saml_artifacts"

    artifact_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    service_provider_id: Mapped[str] = mapped_column(ForeignKey("saml_service_providers.id"))
    """Who alone may fetch it."""
    session_id: Mapped[str | None] = mapped_column(String(40))
    """The session that the assertion will be about, if it may be used then; null: the answer is a refusal."""
    principal_id: Mapped[str | None] = mapped_column(String(40))
    answer: Mapped[Any] = mapped_column(JsonText)
    """The request, and the refusal if it is one. The assertion itself is made when it is fetched."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    spent_at: Mapped[datetime | None] = mapped_column(Instant)


class SamlLogout(Base):
    """One application that the browser itself carries a logout to: it takes no message from the worker."""

    __tablename__ = "saml_logouts"

    request_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """ID of our LogoutRequest, which its answer names."""
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), index=True)
    participant_id: Mapped[str] = mapped_column(String(40), index=True)
    service_provider_id: Mapped[str] = mapped_column(ForeignKey("saml_service_providers.id"))
    state: Mapped[str] = mapped_column(String(16))
    """waiting, sent, done, failed."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    changed_at: Mapped[datetime] = mapped_column(Instant)


class Password(Base):
    """A person's password hash; usable only within its enrolment epoch."""

    __tablename__ = "passwords"

    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    hash: Mapped[str] = mapped_column(Text)
    enrolment_epoch: Mapped[int] = mapped_column(Integer)
    set_at: Mapped[datetime] = mapped_column(Instant)


class Invitation(Base):
    """A one-time link: first sign-in or password reset."""

    __tablename__ = "invitations"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    purpose: Mapped[str] = mapped_column(String(24))
    """first_password, reset_password."""
    enrolment_epoch: Mapped[int] = mapped_column(Integer)
    access_epoch: Mapped[int] = mapped_column(Integer)
    installation_epoch: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant)
    spent_at: Mapped[datetime | None] = mapped_column(Instant)


class RememberedDevice(Base):
    """A browser that signed in before: its attempts are counted apart, so that strangers cannot lock its owner out."""

    __tablename__ = "remembered_devices"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    principal_id: Mapped[str] = mapped_column(ForeignKey("principals.id"), index=True)
    enrolment_epoch: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant)


class Throttle(Base):
    """Counter of failures in a sliding window; key is a keyed hash, never a name."""

    __tablename__ = "throttles"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    window_started_at: Mapped[datetime] = mapped_column(Instant)
    failures: Mapped[int] = mapped_column(Integer)


class ApiToken(Base):
    """A token for the administration API or SCIM, with scopes and an optional company limit."""

    __tablename__ = "api_tokens"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    principal_id: Mapped[str | None] = mapped_column(ForeignKey("principals.id"), index=True)
    """Whose token: a person's personal key dies with the enrolment epoch; null: made by the command line."""
    enrolment_epoch: Mapped[int | None] = mapped_column(Integer)
    installation_epoch: Mapped[int] = mapped_column(Integer)
    scopes: Mapped[Any] = mapped_column(JsonText)
    organization_id: Mapped[str | None] = mapped_column(ForeignKey("organizations.id"))
    terms: Mapped[Any] = mapped_column(JsonText, nullable=True)
    """What a SCIM sender's words end and how far they reach, where that differs from the defaults."""
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)
    is_local: Mapped[bool] = mapped_column(Boolean, default=False)
