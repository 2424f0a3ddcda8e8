"""Metadata of a partner in either role: read hardened, signature checked when a certificate is pinned, validity told.

SAML Metadata 2.3, 2.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from providers.saml_wire import names, parsing
from providers.saml_wire.certificates import Certificate, read_certificate
from providers.saml_wire.errors import WireError
from providers.saml_wire.names import tag
from providers.saml_wire.parsing import MAX_METADATA, Element, required
from providers.saml_wire.signatures import PublicKey, verify

MAX_ENTITY_ID: Final = 1024
_MAX_LISTED: Final = 100
_MAX_INDEX: Final = 65_535
_MOST_DIGITS: Final = 6
_ROLES: Final = {"SPSSODescriptor": "service provider", "IDPSSODescriptor": "identity provider"}
_SIGN_ON_BINDINGS: Final = frozenset({names.REDIRECT, names.POST})
_CONSUMER_BINDINGS: Final = frozenset({names.POST, names.ARTIFACT})
_LOGOUT_BINDINGS: Final = frozenset({names.REDIRECT, names.POST, names.SOAP_BINDING})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a message is sent.

    Args:
        response_location: where an answer goes; empty: to `location`.
    """

    binding: str
    location: str
    response_location: str = ""


@dataclass(frozen=True, slots=True)
class ConsumerService:
    """An assertion consumer service that takes responses by POST, or artifacts."""

    index: int
    location: str
    is_default: bool = False
    binding: str = names.POST


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceProviderMetadata:
    """What a service provider says of itself.

    Args:
        valid_until: the earliest of what applies to it; None: it names none.
        signs_requests: it says that its requests are signed.
        wants_signed_assertions: it says that assertions must be signed.
    """

    entity_id: str
    consumer_services: Sequence[ConsumerService]
    logout_services: Sequence[Endpoint] = ()
    signing: Sequence[Certificate] = ()
    encryption: Sequence[Certificate] = ()
    name_id_formats: Sequence[str] = ()
    valid_until: datetime | None = None
    signs_requests: bool = False
    wants_signed_assertions: bool = False
    is_signed_by_pinned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentityProviderMetadata:
    """What an identity provider says of itself.

    Args:
        valid_until: the earliest of what applies to it; None: it names none.
        wants_signed_requests: it says that requests must be signed.
    """

    entity_id: str
    sign_on_services: Sequence[Endpoint]
    logout_services: Sequence[Endpoint] = ()
    signing: Sequence[Certificate] = ()
    valid_until: datetime | None = None
    wants_signed_requests: bool = False


def read_identity_provider(
    document: bytes, *, now: datetime, pinned: Sequence[PublicKey] = (), entity_id: str | None = None
) -> IdentityProviderMetadata:
    """Read the metadata of one identity provider; see `read_service_provider`.

    Raises:
        WireError: unreadable, about another or nobody, over, without an address to ask at or a key, or not signed.
    """
    entity, descriptor, valid_until = _described("IDPSSODescriptor", document, pinned, entity_id, now)
    signing, _ = _certificates(descriptor)
    if not signing:
        raise WireError("metadata.certificate", "The identity provider publishes no certificate that it signs with.")
    sign_on = _endpoints(descriptor, "SingleSignOnService", _SIGN_ON_BINDINGS)
    if not sign_on:
        raise WireError("metadata.sso", "The identity provider names no sign-on service with Redirect or POST.")
    return IdentityProviderMetadata(
        entity_id=_entity_id(entity),
        sign_on_services=sign_on,
        logout_services=_endpoints(descriptor, "SingleLogoutService", _LOGOUT_BINDINGS),
        signing=signing,
        valid_until=valid_until,
        wants_signed_requests=parsing.read_bool(descriptor.get("WantAuthnRequestsSigned"), "WantAuthnRequestsSigned"),
    )


def read_service_provider(
    document: bytes, *, now: datetime, pinned: Sequence[PublicKey] = (), entity_id: str | None = None
) -> ServiceProviderMetadata:
    """Read the metadata of one service provider.

    Args:
        pinned: keys of which one must have signed the document; empty: a signature is neither asked for nor believed.
        entity_id: whom it must be about; None: whoever the document is about.

    Raises:
        WireError: unreadable, about another or nobody, over, without an address to answer to, or not signed.
    """
    entity, descriptor, valid_until = _described("SPSSODescriptor", document, pinned, entity_id, now)
    signing, encryption = _certificates(descriptor)
    return ServiceProviderMetadata(
        entity_id=_entity_id(entity),
        consumer_services=_consumer_services(descriptor),
        logout_services=_endpoints(descriptor, "SingleLogoutService", _LOGOUT_BINDINGS),
        signing=signing,
        encryption=encryption,
        name_id_formats=[parsing.text_of(one) for one in descriptor.iterchildren(tag("md", "NameIDFormat"))],
        valid_until=valid_until,
        signs_requests=parsing.read_bool(descriptor.get("AuthnRequestsSigned"), "AuthnRequestsSigned"),
        wants_signed_assertions=parsing.read_bool(descriptor.get("WantAssertionsSigned"), "WantAssertionsSigned"),
        is_signed_by_pinned=bool(pinned),
    )


def _described(
    role: str, document: bytes, pinned: Sequence[PublicKey], wanted: str | None, now: datetime
) -> tuple[Element, Element, datetime | None]:
    """The entity that is meant, what it says of itself in that role, and until when."""
    root = parsing.parse(document, max_bytes=MAX_METADATA)
    if pinned:
        root = verify(root, pinned)
    entity, limits = _entity(root, wanted)
    descriptor = _descriptor(entity, role)
    limits += [found for found in (_valid_until(entity), _valid_until(descriptor)) if found is not None]
    valid_until = min(limits) if limits else None
    if valid_until is not None and valid_until <= now:
        raise WireError("metadata.expired", "The metadata is no longer valid (validUntil).")
    return entity, descriptor, valid_until


def _entity(root: Element, wanted: str | None) -> tuple[Element, list[datetime]]:
    """The one entity that is meant, and the validity of what surrounds it."""
    if root.tag == tag("md", "EntityDescriptor"):
        if wanted is not None and root.get("entityID") != wanted:
            raise WireError("metadata.entity", "The metadata is about another entity.")
        return root, []
    if root.tag != tag("md", "EntitiesDescriptor"):
        raise WireError("metadata.form", "The document is no SAML metadata.")
    entities = [
        one for one in root.iter(tag("md", "EntityDescriptor")) if wanted is None or one.get("entityID") == wanted
    ]
    if len(entities) != 1:
        raise WireError("metadata.entity", "The metadata must be about one entity; name the one that is meant.")
    around = [_valid_until(one) for one in entities[0].iterancestors(tag("md", "EntitiesDescriptor"))]
    return entities[0], [found for found in around if found is not None]


def _entity_id(entity: Element) -> str:
    value = required(entity, "entityID")
    if len(value) > MAX_ENTITY_ID or value != value.strip() or not value.isprintable():
        raise WireError("metadata.entity", f"entityID must have 1 to {MAX_ENTITY_ID} printable characters.")
    return value


def _descriptor(entity: Element, role: str) -> Element:
    found = [
        one
        for one in entity.iterchildren(tag("md", role))
        if names.PROTOCOL in (one.get("protocolSupportEnumeration") or "").split()
    ]
    if len(found) != 1:
        raise WireError("metadata.role", f"The entity is no SAML 2.0 {_ROLES[role]}.")
    return found[0]


def _valid_until(element: Element) -> datetime | None:
    value = element.get("validUntil")
    return None if value is None else parsing.read_instant(value, "validUntil")


def _certificates(descriptor: Element) -> tuple[list[Certificate], list[Certificate]]:
    """Certificates for signing and for encryption; one without `use` serves both (SAML Metadata 2.4.1.1)."""
    signing: dict[str, Certificate] = {}
    encryption: dict[str, Certificate] = {}
    for key in descriptor.iterchildren(tag("md", "KeyDescriptor")):
        use = key.get("use")
        if use not in {None, "signing", "encryption"}:
            raise WireError("metadata.form", "KeyDescriptor has an unknown use.")
        for element in key.iter(tag("ds", "X509Certificate")):
            certificate = read_certificate("".join(parsing.text_of(element).split()))
            if use != "encryption":
                signing[certificate.der] = certificate
            if use != "signing":
                encryption[certificate.der] = certificate
    return list(signing.values()), list(encryption.values())


def _consumer_services(descriptor: Element) -> list[ConsumerService]:
    found: dict[int, ConsumerService] = {}
    for element in descriptor.iterchildren(tag("md", "AssertionConsumerService")):
        # Others (PAOS, SimpleSign) are not sent to; they do not make the document unusable.
        binding = element.get("Binding") or ""
        if binding not in _CONSUMER_BINDINGS:
            continue
        text = required(element, "index")
        # Python refuses to read numbers of thousands of digits, zeros before them included.
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) <= _MAX_INDEX):
            raise WireError("metadata.form", "AssertionConsumerService has an index that is no number.")
        index = int(text)
        if index in found:
            raise WireError("metadata.form", "Two assertion consumer services have the same index.")
        is_default = parsing.read_bool(element.get("isDefault"), "isDefault")
        found[index] = ConsumerService(index, required(element, "Location"), is_default, binding)
    if not found:
        raise WireError(
            "metadata.acs", "The service provider names no assertion consumer service with HTTP-POST or HTTP-Artifact."
        )
    if len(found) > _MAX_LISTED:
        raise WireError("metadata.form", f"More than {_MAX_LISTED} assertion consumer services.")
    return list(found.values())


def _endpoints(descriptor: Element, name: str, bindings: frozenset[str]) -> list[Endpoint]:
    """The first endpoint of each binding that is used; others do not make the document unusable."""
    found: dict[str, Endpoint] = {}
    for element in descriptor.iterchildren(tag("md", name)):
        binding = required(element, "Binding")
        if binding in bindings and binding not in found:
            found[binding] = Endpoint(binding, required(element, "Location"), element.get("ResponseLocation") or "")
    return list(found.values())
