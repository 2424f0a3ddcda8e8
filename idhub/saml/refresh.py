"""Metadata of service providers that is read again and again, and what an operator should hear of in time.

What was known before stays in force while an address does not answer, until it is no longer valid by its own word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from audit.events import JsonValue
from idhub.access.service_providers import facts_of, take_metadata
from idhub.access.tables import Application, SamlServiceProvider
from idhub.changes import Actor, Event, EventType, record
from idhub.db import Database
from idhub.errors import IdhubError
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.errors import WireError
from providers.saml_wire.metadata import read_service_provider

Fetch = Callable[[str], bytes]
"""Reads an address; raises `IdhubError` when that fails."""
EVERY: Final = timedelta(hours=6)
_AGAIN: Final = timedelta(minutes=15)
_BATCH: Final = 20
CERTIFICATE_WARNING: Final = timedelta(days=30)
METADATA_WARNING: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class _Due:
    id: str
    application_id: str
    entity_id: str
    url: str
    certificate: str | None


def refresh_due(database: Database, fetch: Fetch, *, now: datetime) -> int:
    """Read the metadata that is due; returns how many service providers were looked at. No transaction is open
    while an address is read.
    """
    with database.read() as session:
        rows = session.execute(
            select(
                SamlServiceProvider.id,
                SamlServiceProvider.application_id,
                SamlServiceProvider.entity_id,
                SamlServiceProvider.metadata_url,
                SamlServiceProvider.metadata_certificate,
            )
            .where(SamlServiceProvider.metadata_due_at <= now, SamlServiceProvider.is_enabled)
            .order_by(SamlServiceProvider.metadata_due_at)
            .limit(_BATCH)
        )
        due = [_Due(*row[:3], row.metadata_url, row[4]) for row in rows if row.metadata_url is not None]
    for one in due:
        _refresh(database, one, fetch, now=now)
    return len(due)


def _refresh(database: Database, due: _Due, fetch: Fetch, *, now: datetime) -> None:
    try:
        pinned = [read_certificate(due.certificate).public_key] if due.certificate else []
        metadata = read_service_provider(fetch(due.url), now=now, pinned=pinned, entity_id=due.entity_id)
        facts = facts_of(metadata, field="saml.metadata_url")
    except (WireError, IdhubError) as error:
        _note_failure(database, due, error.description, now=now)
        return
    next_at = now + EVERY
    if facts.valid_until is not None:
        # Well before it is over, and never in a rush.
        next_at = max(min(next_at, now + (facts.valid_until - now) / 2), now + _AGAIN)
    with database.transaction() as session:
        changes = take_metadata(session, due.id, facts, now=now, due_at=next_at)
        if changes:
            details: dict[str, JsonValue] = {
                "service_provider": due.id,
                "changes": [{"field": name, "before": str(b)[:200], "after": str(a)[:200]} for name, b, a in changes],
            }
            record(session, [_event(due, now=now, details=details)])


def _note_failure(database: Database, due: _Due, sentence: str, *, now: datetime) -> None:
    with database.transaction() as session:
        before = session.execute(
            select(SamlServiceProvider.metadata_error).where(SamlServiceProvider.id == due.id).with_for_update()
        ).scalar()
        session.execute(
            update(SamlServiceProvider)
            .where(SamlServiceProvider.id == due.id)
            .values(metadata_error=sentence[:500], metadata_due_at=now + _AGAIN)
        )
        if before != sentence[:500]:
            # Once for each cause, not every quarter of an hour.
            details: dict[str, JsonValue] = {"service_provider": due.id, "error": sentence[:500]}
            record(session, [_event(due, now=now, details=details, reason="saml.metadata")])


def _event(due: _Due, *, now: datetime, details: Mapping[str, JsonValue], reason: str | None = None) -> Event:
    return Event(
        type=EventType.APPLICATION_CHANGED,
        at=now,
        actor=Actor(kind="system", id="worker"),
        door="saml",
        target_kind="application",
        target_id=due.application_id,
        application_id=due.application_id,
        outcome="success" if reason is None else "failure",
        reason=reason,
        details=details,
    )


def warnings(session: Session, *, now: datetime) -> list[str]:
    """What will stop a service provider from signing in unless somebody acts: one sentence each."""
    rows = session.execute(
        select(SamlServiceProvider, Application.slug)
        .join(Application, Application.id == SamlServiceProvider.application_id)
        .where(SamlServiceProvider.is_enabled, Application.is_enabled)
        .order_by(Application.slug)
    )
    found: list[str] = []
    for row, slug in rows:
        found += [f"{slug}: {sentence}" for sentence in warnings_of(row, now=now)]
    return found


def warnings_of(row: SamlServiceProvider, *, now: datetime) -> list[str]:
    """The warnings of one service provider."""
    found = []
    if row.metadata_error is not None:
        found.append(f"its metadata could not be read: {row.metadata_error}")
    if row.metadata_url is not None and not (row.consumer_services or row.artifact_consumers):
        found.append("its metadata was never read; nobody can sign in")
    if row.metadata_valid_until is not None and row.metadata_valid_until - now < METADATA_WARNING:
        is_over = row.metadata_valid_until <= now
        said = f"{row.metadata_valid_until:%Y-%m-%d %H:%M} UTC"
        found.append(f"its metadata {'is no longer valid since' if is_over else 'is valid until'} {said}")
    for kind, certificates in (("signing", row.signing_certificates), ("encryption", row.encryption_certificates)):
        for der in certificates:
            certificate = read_certificate(der)
            if certificate.expires_at - now < CERTIFICATE_WARNING:
                verb = "expired on" if certificate.expires_at <= now else "expires on"
                found.append(
                    f"its {kind} certificate {certificate.fingerprint[:16]} {verb} {certificate.expires_at:%Y-%m-%d}"
                )
    return found
