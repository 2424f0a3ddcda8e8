"""Service providers as the protocol needs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from idhub.access.tables import Application, SamlServiceProvider
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.signatures import PublicKey


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceProvider:
    """A registration that may be used now."""

    id: str
    application_id: str
    slug: str
    entity_id: str
    consumer_services: tuple[Mapping[str, Any], ...]
    logout_services: Mapping[str, Mapping[str, str]]
    """By binding."""
    keys: tuple[PublicKey, ...]
    encryption_certificate: str | None
    name_id_format: str
    attributes: Mapping[str, str]
    signs_response: bool
    signs_assertion: bool
    encrypts_assertion: bool
    wants_signed_requests: bool
    allows_idp_initiated: bool
    answers_not_entitled: bool
    home_url: str | None

    @property
    def default_consumer(self) -> str:
        """Where an answer goes when the request names no place: the default one, else the first (Metadata 2.4.4.1)."""
        services = sorted(self.consumer_services, key=lambda one: (not one["is_default"], one["index"]))
        return str(services[0]["location"])

    def has_consumer(self, location: str) -> bool:
        """Whether exactly this address is registered (S16)."""
        return any(one["location"] == location for one in self.consumer_services)

    def consumer_at(self, index: int) -> str | None:
        """The address of an index."""
        return next((str(one["location"]) for one in self.consumer_services if one["index"] == index), None)

    def logout_address(self, binding: str, *, is_response: bool = False) -> str | None:
        """Where logout messages go by this binding."""
        service = self.logout_services.get(binding)
        if service is None:
            return None
        return (service["response_location"] if is_response else "") or service["location"]


def find_provider(session: Session, entity_id: str, *, now: datetime) -> ServiceProvider | None:
    """The service provider of that entity ID; None when unknown, switched off, or its metadata is not in force."""
    return _find(session, SamlServiceProvider.entity_id == entity_id, now)


def load_provider(session: Session, provider_id: str, *, now: datetime) -> ServiceProvider | None:
    """The service provider of that id; None as `find_provider` says."""
    return _find(session, SamlServiceProvider.id == provider_id, now)


def provider_of(session: Session, slug: str, *, now: datetime) -> ServiceProvider | None:
    """The service provider of the application of that slug; None as `find_provider` says."""
    return _find(session, Application.slug == slug, now)


def _find(session: Session, which: ColumnElement[bool], now: datetime) -> ServiceProvider | None:
    found = session.execute(
        select(SamlServiceProvider, Application.slug, Application.home_url)
        .join(Application, Application.id == SamlServiceProvider.application_id)
        .where(which, SamlServiceProvider.is_enabled, Application.is_enabled)
    ).first()
    if found is None:
        return None
    row: SamlServiceProvider = found[0]
    if not row.consumer_services or (row.metadata_valid_until is not None and row.metadata_valid_until <= now):
        return None
    return ServiceProvider(
        id=row.id,
        application_id=row.application_id,
        slug=found.slug,
        entity_id=row.entity_id,
        consumer_services=tuple(row.consumer_services),
        logout_services={one["binding"]: one for one in row.logout_services},
        keys=tuple(read_certificate(der).public_key for der in row.signing_certificates),
        encryption_certificate=next(iter(row.encryption_certificates), None),
        name_id_format=row.name_id_format,
        attributes=row.attributes,
        signs_response=row.signs_response,
        signs_assertion=row.signs_assertion,
        encrypts_assertion=row.encrypts_assertion,
        wants_signed_requests=row.wants_signed_requests,
        allows_idp_initiated=row.allows_idp_initiated,
        answers_not_entitled=row.answers_not_entitled,
        home_url=found.home_url,
    )
