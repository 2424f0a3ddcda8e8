"""Metadata of partners in both roles that is read again and again, and what an operator should hear of in time.

What was known before stays in force while an address does not answer, until it is no longer valid by its own word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Select, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from audit.events import JsonValue
from idhub.access import service_providers
from idhub.access.partners import take_metadata
from idhub.access.tables import Application, SamlServiceProvider
from idhub.changes import Actor, Event, EventType, record
from idhub.db import Database
from idhub.errors import IdhubError
from idhub.login import providers
from idhub.login.tables import IdentityProvider
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.errors import WireError
from providers.saml_wire.metadata import read_identity_provider, read_service_provider

Fetch = Callable[[str], bytes]
"""Reads an address; raises `IdhubError` when that fails."""
EVERY: Final = timedelta(hours=6)
_AGAIN: Final = timedelta(minutes=15)
_BATCH: Final = 20
_LOG = structlog.get_logger(__name__)
CERTIFICATE_WARNING: Final = timedelta(days=30)
METADATA_WARNING: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class _Role:
    """What partners in one role are: where they are kept, how what they say is read and stored.

    Args:
        subject: column of what an event about them is about.
        details: what an event calls the partner.
    """

    table: Any
    read: Callable[..., Any]
    facts_of: Callable[..., Any]
    event: EventType
    target_kind: str
    subject: str
    details: str


_SERVICE_PROVIDERS: Final = _Role(
    SamlServiceProvider, read_service_provider, service_providers.facts_of,
    EventType.APPLICATION_CHANGED, "application", "application_id", "service_provider",
)  # fmt: skip
_IDENTITY_PROVIDERS: Final = _Role(
    IdentityProvider, read_identity_provider, providers.facts_of,
    EventType.PROVIDER_CHANGED, "provider", "id", "identity_provider",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Due:
    role: _Role
    id: str
    subject: str
    entity_id: str
    url: str
    certificate: str | None


def refresh_due(database: Database, fetch: Fetch, *, now: datetime) -> int:
    """Read the metadata that is due; returns how many partners were looked at. No transaction is open while an address
    is read.
    """
    due: list[_Due] = []
    with database.read() as session:
        for role in (_SERVICE_PROVIDERS, _IDENTITY_PROVIDERS):
            due_at = role.table.metadata_due_at
            # Later than any is due: somebody's clock was wrong. One question each, for the index.
            for is_due in (due_at <= now, due_at > now + 2 * EVERY):
                rows = session.execute(_waiting(role).where(is_due).order_by(due_at).limit(_BATCH))
                due += [_Due(role, *row) for row in rows]
    for one in due:
        try:
            _refresh(database, one, fetch, now=now)
        except DBAPIError:
            raise
        except Exception as error:
            # One partner's document must keep no other from being read: it would be the first that is due for ever.
            _LOG.exception("saml.metadata_failed", partner=one.id)
            _note_failure(database, one, f"The metadata could not be read ({type(error).__name__}).", now=now)
    return len(due)


def _waiting(role: _Role) -> Select[Any]:
    table = role.table
    return select(
        table.id,
        getattr(table, role.subject).label("subject"),
        table.entity_id,
        table.metadata_url,
        table.metadata_certificate,
    ).where(table.metadata_url.is_not(None), table.is_enabled)


def _refresh(database: Database, due: _Due, fetch: Fetch, *, now: datetime) -> None:
    try:
        pinned = [read_certificate(due.certificate).public_key] if due.certificate else []
        metadata = due.role.read(fetch(due.url), now=now, pinned=pinned, entity_id=due.entity_id)
        facts = due.role.facts_of(metadata, field="saml.metadata_url")
    except (WireError, IdhubError) as error:
        _note_failure(database, due, error.description, now=now)
        return
    next_at = now + EVERY
    if facts.valid_until is not None:
        # Well before it is over, and never in a rush.
        next_at = max(min(next_at, now + (facts.valid_until - now) / 2), now + _AGAIN)
    with database.transaction() as session:
        changes = take_metadata(session, due.role.table, due.id, facts.columns(), now=now, due_at=next_at)
        if changes:
            details: dict[str, JsonValue] = {
                due.role.details: due.id,
                "changes": [{"field": name, "before": str(b)[:200], "after": str(a)[:200]} for name, b, a in changes],
            }
            record(session, [_event(due, now=now, details=details)])


def _note_failure(database: Database, due: _Due, sentence: str, *, now: datetime) -> None:
    table = due.role.table
    with database.transaction() as session:
        before = session.execute(select(table.metadata_error).where(table.id == due.id).with_for_update()).scalar()
        session.execute(
            update(table).where(table.id == due.id).values(metadata_error=sentence[:500], metadata_due_at=now + _AGAIN)
        )
        if before != sentence[:500]:
            # Once for each cause, not every quarter of an hour.
            details: dict[str, JsonValue] = {due.role.details: due.id, "error": sentence[:500]}
            record(session, [_event(due, now=now, details=details, reason="saml.metadata")])


def _event(due: _Due, *, now: datetime, details: Mapping[str, JsonValue], reason: str | None = None) -> Event:
    return Event(
        type=due.role.event,
        at=now,
        actor=Actor(kind="system", id="worker"),
        door="saml",
        target_kind=due.role.target_kind,
        target_id=due.subject,
        application_id=due.subject if due.role.target_kind == "application" else None,
        outcome="success" if reason is None else "failure",
        reason=reason,
        details=details,
    )


def warnings(session: Session, *, now: datetime) -> list[str]:
    """What will stop sign-ins with a partner, in either role, unless somebody acts: one sentence each."""
    rows = session.execute(
        select(SamlServiceProvider, Application.slug)
        .join(Application, Application.id == SamlServiceProvider.application_id)
        .where(SamlServiceProvider.is_enabled, Application.is_enabled)
        .order_by(Application.slug)
    )
    found: list[str] = []
    for row, slug in rows:
        found += [f"{slug}: {sentence}" for sentence in warnings_of(row, now=now)]
    upstream = select(IdentityProvider).where(IdentityProvider.is_enabled).order_by(IdentityProvider.slug)
    for provider in session.scalars(upstream):
        found += [f"provider {provider.slug}: {sentence}" for sentence in warnings_of(provider, now=now)]
    return found


def certificates_of(row: SamlServiceProvider | IdentityProvider) -> list[tuple[str, str]]:
    """(use, base64 DER) of what a partner publishes."""
    found = [("signing", der) for der in row.signing_certificates]
    return found + [("encryption", der) for der in getattr(row, "encryption_certificates", ())]


def was_never_read(row: SamlServiceProvider | IdentityProvider) -> bool:
    """Whether metadata that has an address has not been read once."""
    if isinstance(row, IdentityProvider):
        return row.metadata_url is not None and not row.sign_on_services
    return row.metadata_url is not None and not (row.consumer_services or row.artifact_consumers)


def warnings_of(row: SamlServiceProvider | IdentityProvider, *, now: datetime) -> list[str]:
    """The warnings of one partner."""
    found = []
    if row.metadata_error is not None:
        found.append(f"its metadata could not be read: {row.metadata_error}")
    if was_never_read(row):
        found.append("its metadata was never read; nobody can sign in")
    if row.metadata_valid_until is not None and row.metadata_valid_until - now < METADATA_WARNING:
        is_over = row.metadata_valid_until <= now
        said = f"{row.metadata_valid_until:%Y-%m-%d %H:%M} UTC"
        found.append(f"its metadata {'is no longer valid since' if is_over else 'is valid until'} {said}")
    for kind, der in certificates_of(row):
        certificate = read_certificate(der)
        if certificate.expires_at - now < CERTIFICATE_WARNING:
            verb = "expired on" if certificate.expires_at <= now else "expires on"
            found.append(
                f"its {kind} certificate {certificate.fingerprint[:16]} {verb} {certificate.expires_at:%Y-%m-%d}"
            )
    return found
