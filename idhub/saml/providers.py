"""Service providers as the protocols need them; one that speaks another protocol is not found."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from idhub.access.service_providers import Spoken
from idhub.access.tables import Application, SamlServiceProvider
from providers.saml_wire import names
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.signatures import PublicKey


@dataclass(frozen=True, slots=True)
class Consumer:
    """A place that answers go to: the response by POST, or an artifact that stands for it."""

    location: str
    binding: str
    index: int
    is_default: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceProvider:
    """A registration that may be used now."""

    id: str
    application_id: str
    slug: str
    entity_id: str
    consumers: tuple[Consumer, ...]
    response_binding: str
    """How it is answered when its request does not say, where it takes that."""
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
    assertion_version: str
    assertion_lifetime: timedelta | None

    def default_consumer(self, binding: str | None = None) -> Consumer | None:
        """Where an answer goes when the request names no place: the default one, else the first (Metadata 2.4.4.1).

        Args:
            binding: that the request names; None: the one that is preferred, or the other where there is no other.
        """
        wanted = binding or self.response_binding
        found = [one for one in self.consumers if one.binding == wanted or binding is None]
        order = sorted(found, key=lambda one: (one.binding != wanted, not one.is_default, one.index))
        return order[0] if order else None

    def consumer(self, location: str, binding: str | None = None) -> Consumer | None:
        """The registered place of exactly this address (S16); by the binding, or as `default_consumer` chooses one."""
        found = [one for one in self.consumers if one.location == location and binding in {None, one.binding}]
        return min(found, key=lambda one: one.binding != self.response_binding, default=None)

    def consumer_at(self, index: int) -> Consumer | None:
        """The place of an index."""
        return next((one for one in self.consumers if one.index == index), None)

    def logout_address(self, binding: str, *, is_response: bool = False) -> str | None:
        """Where logout messages go by this binding."""
        service = self.logout_services.get(binding)
        if service is None:
            return None
        return (service["response_location"] if is_response else "") or service["location"]


def find_provider(
    session: Session, entity_id: str, *, now: datetime, protocol: Spoken = "saml"
) -> ServiceProvider | None:
    """The service provider of that entity ID; None when unknown, switched off, or its metadata is not in force."""
    return _find(session, SamlServiceProvider.entity_id == entity_id, protocol, now)


def load_provider(
    session: Session, provider_id: str, *, now: datetime, protocol: Spoken = "saml"
) -> ServiceProvider | None:
    """The service provider of that id; None as `find_provider` says."""
    return _find(session, SamlServiceProvider.id == provider_id, protocol, now)


def provider_of(session: Session, slug: str, *, now: datetime) -> ServiceProvider | None:
    """The service provider of the application of that slug; None as `find_provider` says."""
    return _find(session, Application.slug == slug, "saml", now)


def _find(session: Session, which: ColumnElement[bool], protocol: Spoken, now: datetime) -> ServiceProvider | None:
    found = session.execute(
        select(SamlServiceProvider, Application.slug, Application.home_url)
        .join(Application, Application.id == SamlServiceProvider.application_id)
        .where(which, SamlServiceProvider.protocol == protocol, SamlServiceProvider.is_enabled, Application.is_enabled)
    ).first()
    if found is None:
        return None
    row: SamlServiceProvider = found[0]
    consumers = (*_consumers(row.consumer_services, names.POST), *_consumers(row.artifact_consumers, names.ARTIFACT))
    if not consumers or (row.metadata_valid_until is not None and row.metadata_valid_until <= now):
        return None
    return ServiceProvider(
        id=row.id,
        application_id=row.application_id,
        slug=found.slug,
        entity_id=row.entity_id,
        consumers=consumers,
        response_binding=names.ARTIFACT if row.response_binding == "artifact" else names.POST,
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
        assertion_version=row.assertion_version,
        assertion_lifetime=timedelta(seconds=row.assertion_seconds) if row.assertion_seconds else None,
    )


def _consumers(stored: Sequence[Mapping[str, Any]] | None, binding: str) -> Iterator[Consumer]:
    for one in stored or ():
        yield Consumer(str(one["location"]), binding, int(one["index"]), bool(one["is_default"]))
