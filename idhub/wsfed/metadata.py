"""Metadata of the hub as security token service, signed. WS-Federation 3.

One document for three readers: what speaks WS-Federation 1.2 reads the role of the token service; Shibboleth, which
speaks it as ADFS 1 did, reads an identity provider's. Issuer and keys are SAML's, so the entity is the same.
"""

from typing import Final

from idhub.access.service_providers import DEFAULT_CLAIMS
from idhub.keys import Keyring
from idhub.saml.metadata import CACHE, entity_id, key_descriptors, signer_of
from providers.saml_wire import names
from providers.saml_wire.signatures import sign
from providers.saml_wire.writing import Node, render

PATH: Final = "/wsfed"
RESUME_PATH: Final = "/wsfed/resume"
SIGNED_OUT_PATH: Final = "/wsfed/signout"
METADATA_PATH: Final = "/wsfed/metadata"
WELL_KNOWN_PATH: Final = "/FederationMetadata/2007-06/FederationMetadata.xml"
"""Where applications look that are told the host alone."""
_ADFS1: Final = "http://schemas.xmlsoap.org/ws/2003/07/secext"
"""Protocol and binding, as Shibboleth calls it."""


def metadata_document(issuer: str, keyring: Keyring) -> str:
    """The signed document."""
    address = issuer + PATH
    endpoint = Node("wsa:EndpointReference", {}, [Node("wsa:Address", {}, [address])])
    tokens = [Node("fed:TokenType", {"Uri": uri}) for uri in (names.ASSERTION, names.ASSERTION11)]
    claims = [Node("auth:ClaimType", {"Uri": uri, "Optional": "true"}) for uri in sorted(DEFAULT_CLAIMS)]
    token_service = Node(
        "md:RoleDescriptor",
        {"xsi:type": "fed:SecurityTokenServiceType", "protocolSupportEnumeration": f"{names.TRUST} {names.WSFED}"},
        [
            *key_descriptors(keyring),
            Node("fed:TokenTypesOffered", {}, tokens),
            Node("fed:ClaimTypesOffered", {}, claims),
            # The schema wants one; requests by SOAP are not answered, so it names the same place.
            Node("fed:SecurityTokenServiceEndpoint", {}, [endpoint]),
            Node("fed:PassiveRequestorEndpoint", {}, [endpoint]),
        ],
        declares=("fed",),
    )
    services = [
        Node(f"md:{name}", {"Binding": _ADFS1, "Location": address})
        for name in ("SingleLogoutService", "SingleSignOnService")
    ]
    adfs1 = Node("md:IDPSSODescriptor", {"protocolSupportEnumeration": _ADFS1}, [*key_descriptors(keyring), *services])
    entity = Node(
        "md:EntityDescriptor",
        {"ID": "_idhub", "entityID": entity_id(issuer), "cacheDuration": CACHE},
        [token_service, adfs1],
    )
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + render(sign(entity, signer_of(keyring), inclusive=("fed",)))
