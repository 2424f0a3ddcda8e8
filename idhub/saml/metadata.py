"""Metadata of the hub as identity provider, signed. SAML Metadata 2.4.3."""

from typing import Final

from idhub.keys import Keyring
from providers.saml_wire import names
from providers.saml_wire.signatures import Signer, sign
from providers.saml_wire.writing import Node, render

METADATA_PATH: Final = "/saml/metadata"
SSO_PATH: Final = "/saml/sso"
RESUME_PATH: Final = "/saml/sso/resume"
LAUNCH_PATH: Final = "/saml/launch/{slug}"
LOGOUT_PATH: Final = "/saml/slo"
SOAP_PATH: Final = "/saml/slo/soap"
ARTIFACT_PATH: Final = "/saml/artifact"
CHAIN_PATH: Final = "/saml/logout"
MEDIA_TYPE: Final = "application/samlmetadata+xml"
CACHE: Final = "PT6H"


def entity_id(issuer: str) -> str:
    """The hub's entity ID: the address of its metadata (Metadata 4.1)."""
    return issuer + METADATA_PATH


def signer_of(keyring: Keyring) -> Signer:
    """Who signs SAML messages now."""
    key = keyring.signing_key("saml")
    return Signer(key.private, str(key.public_jwk["x5c"][0]))


def key_descriptors(keyring: Keyring) -> list[Node]:
    """Every certificate that signs or soon will, the present one first."""
    return [
        Node(
            "md:KeyDescriptor",
            {"use": "signing"},
            [Node("ds:KeyInfo", {}, [Node("ds:X509Data", {}, [Node("ds:X509Certificate", {}, [certificate])])])],
        )
        for certificate in keyring.certificates("saml")
    ]


def metadata_document(issuer: str, keyring: Keyring) -> str:
    """The signed document."""
    logout = [
        Node("md:SingleLogoutService", {"Binding": binding, "Location": issuer + path})
        for binding, path in (
            (names.REDIRECT, LOGOUT_PATH),
            (names.POST, LOGOUT_PATH),
            (names.SOAP_BINDING, SOAP_PATH),
        )
    ]
    artifacts = Node(
        "md:ArtifactResolutionService",
        {"Binding": names.SOAP_BINDING, "Location": issuer + ARTIFACT_PATH, "index": "0", "isDefault": "true"},
    )
    formats = [
        Node("md:NameIDFormat", {}, [name])
        for name in (names.PERSISTENT, names.TRANSIENT, names.EMAIL, names.UNSPECIFIED)
    ]
    sign_on = [
        Node("md:SingleSignOnService", {"Binding": binding, "Location": issuer + SSO_PATH})
        for binding in (names.REDIRECT, names.POST)
    ]
    descriptor = Node(
        "md:IDPSSODescriptor",
        # Whether requests are signed is agreed with each application: products take a `false` here for an order.
        {"protocolSupportEnumeration": names.PROTOCOL},
        [*key_descriptors(keyring), artifacts, *logout, *formats, *sign_on],
    )
    entity = Node(
        "md:EntityDescriptor",
        {"ID": "_idhub", "entityID": entity_id(issuer), "cacheDuration": CACHE},
        [descriptor],
    )
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + render(sign(entity, signer_of(keyring)))
