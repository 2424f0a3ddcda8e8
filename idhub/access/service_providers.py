"""Whom assertions are made for: SAML service providers and relying parties of WS-Federation, as configuration wants
them and as their metadata says.

Configuration writes a row here; what metadata says is taken up by `idhub.access.partners`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.attributes import DEFAULT_ATTRIBUTES
from idhub.access.partners import Change, assign, due, logout_services
from idhub.access.tables import SamlServiceProvider
from idhub.access.uris import check_web_uri
from idhub.db import new_id
from idhub.errors import Conflict
from providers.saml_wire import names
from providers.saml_wire.metadata import ConsumerService, ServiceProviderMetadata

Spoken = Literal["saml", "wsfed"]
"""The protocol of a registration."""
NAME_ID_FORMATS: Final[Mapping[str, str]] = {
    "persistent": names.PERSISTENT,
    "transient": names.TRANSIENT,
    "email": names.EMAIL,
    "unspecified": names.UNSPECIFIED,
}
"""Names in configuration. `unspecified` is the employee number."""

_CLAIMS: Final = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/"
DEFAULT_CLAIMS: Final[Mapping[str, str]] = {
    f"{_CLAIMS}emailaddress": "email",
    f"{_CLAIMS}name": "name",
    f"{_CLAIMS}givenname": "given_name",
    f"{_CLAIMS}surname": "family_name",
    f"{_CLAIMS}privatepersonalidentifier": "employee_number",
    "http://schemas.microsoft.com/ws/2008/06/identity/claims/role": "roles",
}
"""Attributes under the claim types that applications of WS-Federation know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderFacts:
    """What metadata, or guided entry in its place, says of a service provider; every address has passed its rules."""

    consumer_services: Sequence[Mapping[str, Any]] = ()
    artifact_consumers: Sequence[Mapping[str, Any]] = ()
    logout_services: Sequence[Mapping[str, str]] = ()
    signing_certificates: Sequence[str] = ()
    encryption_certificates: Sequence[str] = ()
    valid_until: datetime | None = None

    @property
    def soap_logout_url(self) -> str | None:
        """Where it can be told of a logout without a browser."""
        found = (one["location"] for one in self.logout_services if one["binding"] == names.SOAP_BINDING)
        return next(found, None)

    def columns(self) -> dict[str, Any]:
        """As they are stored."""
        return {
            "consumer_services": [dict(one) for one in self.consumer_services],
            "artifact_consumers": [dict(one) for one in self.artifact_consumers] or None,
            "logout_services": [dict(one) for one in self.logout_services],
            "soap_logout_url": self.soap_logout_url,
            "signing_certificates": list(self.signing_certificates),
            "encryption_certificates": list(self.encryption_certificates),
            "metadata_valid_until": self.valid_until,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SamlWish:
    """The service provider, or the relying party of WS-Federation, that an application wants.

    Args:
        entity_id: the realm, of WS-Federation.
        facts: of metadata at hand; None: they are read from `metadata_url` by the worker.
        wants_signed_requests: None: as its metadata says (`AuthnRequestsSigned`).
        response_binding: how it is answered when its request does not say.
    """

    protocol: Spoken = "saml"
    entity_id: str
    facts: ProviderFacts | None
    metadata_url: str | None = None
    metadata_certificate: str | None = None
    name_id_format: str = names.PERSISTENT
    attributes: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_ATTRIBUTES))
    signs_response: bool = True
    signs_assertion: bool = True
    encrypts_assertion: bool = False
    wants_signed_requests: bool = False
    allows_idp_initiated: bool = False
    answers_not_entitled: bool = False
    response_binding: Literal["post", "artifact"] = "post"
    assertion_version: Literal["2.0", "1.1"] = "2.0"
    assertion_seconds: int | None = None


def facts_of(metadata: ServiceProviderMetadata, *, field: str) -> ProviderFacts:
    """What is kept of metadata that was read.

    Raises:
        Invalid: an address in it is none that the hub sends anything to (`javascript:`, plain http, ...).
    """
    for service in metadata.consumer_services:
        check_web_uri(service.location, field=f"{field}.AssertionConsumerService")
    return ProviderFacts(
        consumer_services=consumer_columns(metadata.consumer_services, names.POST),
        artifact_consumers=consumer_columns(metadata.consumer_services, names.ARTIFACT),
        logout_services=logout_services(metadata.logout_services, field=field),
        signing_certificates=[one.der for one in metadata.signing],
        encryption_certificates=[one.der for one in metadata.encryption],
        valid_until=metadata.valid_until,
    )


def consumer_columns(services: Sequence[ConsumerService], binding: str) -> list[dict[str, Any]]:
    """Those of the binding, as they are stored."""
    return [
        {"index": one.index, "location": one.location, "is_default": one.is_default}
        for one in services
        if one.binding == binding
    ]


def configure_service_providers(
    session: Session, application_id: str, wishes: Sequence[SamlWish], *, now: datetime
) -> list[Change]:
    """Make the application's registrations what `wishes` says, at most one for each protocol; returns (field, before,
    after).

    One that is not wanted any more is switched off, never deleted: history names it.

    Raises:
        Conflict: an entity ID belongs to another application, or to both protocols of this one.
    """
    changes: list[Change] = []
    wanted = {wish.entity_id: wish for wish in wishes}
    if len(wanted) < len(wishes):
        raise _taken(wishes[-1])
    after: dict[str, str] = {wish.protocol: wish.entity_id for wish in wishes}
    known: dict[str, SamlServiceProvider] = {}
    held = session.execute(
        select(SamlServiceProvider).where(SamlServiceProvider.application_id == application_id).with_for_update()
    ).scalars()
    for row in held:
        if row.entity_id in wanted:
            known[row.entity_id] = row
        elif row.is_enabled:
            row.is_enabled, row.changed_at = False, now
            changes.append((f"{row.protocol}.entity_id", row.entity_id, after.get(row.protocol)))
    for wish in wishes:
        changes += _configure(session, application_id, wish, known.get(wish.entity_id), now=now)
    return changes


def _configure(
    session: Session, application_id: str, wish: SamlWish, known: SamlServiceProvider | None, *, now: datetime
) -> list[Change]:
    values = _columns(wish)
    if known is not None:
        return assign(known, values | due(known, values["metadata_url"], now=now), now=now)
    taken = select(SamlServiceProvider.id).where(SamlServiceProvider.entity_id == wish.entity_id)
    if session.execute(taken).first() is not None:
        raise _taken(wish)
    empty = ProviderFacts().columns() if wish.facts is None else {}
    session.add(
        SamlServiceProvider(
            id=new_id("sp"),
            application_id=application_id,
            created_at=now,
            changed_at=now,
            **empty,
            **values,
            **due(None, wish.metadata_url, now=now),
        )
    )
    return [(wish.protocol, None, wish.entity_id)]


def _taken(wish: SamlWish) -> Conflict:
    name = "entity_id" if wish.protocol == "saml" else "realm"
    what = "entity ID" if wish.protocol == "saml" else "realm"
    return Conflict(
        f"The {what} {wish.entity_id!r} belongs to another registration.",
        field=f"{wish.protocol}.{name}",
        rule=f"{wish.protocol}.taken",
    )


def _columns(wish: SamlWish) -> dict[str, Any]:
    return {
        **(wish.facts.columns() if wish.facts is not None else {}),
        "protocol": wish.protocol,
        "entity_id": wish.entity_id,
        "metadata_url": wish.metadata_url,
        "metadata_certificate": wish.metadata_certificate,
        "name_id_format": wish.name_id_format,
        "attributes": dict(wish.attributes),
        "signs_response": wish.signs_response,
        "signs_assertion": wish.signs_assertion,
        "encrypts_assertion": wish.encrypts_assertion,
        "wants_signed_requests": wish.wants_signed_requests,
        "allows_idp_initiated": wish.allows_idp_initiated,
        "answers_not_entitled": wish.answers_not_entitled,
        # Null as in rows of the version before: else each of them would be told as changed.
        "response_binding": None if wish.response_binding == "post" else wish.response_binding,
        "assertion_version": wish.assertion_version,
        "assertion_seconds": wish.assertion_seconds,
        "is_enabled": True,
    }
