"""Names of the specifications: namespaces, bindings, formats, status codes, algorithms."""

from typing import Final

ASSERTION: Final = "urn:oasis:names:tc:SAML:2.0:assertion"
PROTOCOL: Final = "urn:oasis:names:tc:SAML:2.0:protocol"
METADATA: Final = "urn:oasis:names:tc:SAML:2.0:metadata"
DS: Final = "http://www.w3.org/2000/09/xmldsig#"
XENC: Final = "http://www.w3.org/2001/04/xmlenc#"
XENC11: Final = "http://www.w3.org/2009/xmlenc11#"
XS: Final = "http://www.w3.org/2001/XMLSchema"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
SOAP: Final = "http://schemas.xmlsoap.org/soap/envelope/"
EXCLUSIVE: Final = "http://www.w3.org/2001/10/xml-exc-c14n#"
XML: Final = "http://www.w3.org/XML/1998/namespace"
CAS: Final = "http://www.yale.edu/tp/cas"
"""Answers of CAS, which `writing` writes too: one hand for all XML."""

PREFIXES: Final = {"saml": ASSERTION, "samlp": PROTOCOL, "md": METADATA, "ds": DS}

REDIRECT: Final = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"
POST: Final = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"
ARTIFACT: Final = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Artifact"
SOAP_BINDING: Final = "urn:oasis:names:tc:SAML:2.0:bindings:SOAP"

WSFED: Final = "http://docs.oasis-open.org/wsfed/federation/200706"
"""WS-Federation 1.2: the protocol, and the namespace of its metadata."""
TRUST: Final = "http://schemas.xmlsoap.org/ws/2005/02/trust"
ASSERTION11: Final = "urn:oasis:names:tc:SAML:1.0:assertion"
"""SAML 1.1 kept the namespace of 1.0."""
AUTHORIZATION: Final = "http://docs.oasis-open.org/wsfed/authorization/200706"
UTILITY: Final = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
POLICY: Final = "http://schemas.xmlsoap.org/ws/2004/09/policy"
ADDRESSING: Final = "http://www.w3.org/2005/08/addressing"

UNSPECIFIED: Final = "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified"
EMAIL: Final = "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress"
PERSISTENT: Final = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"
TRANSIENT: Final = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
ENTITY: Final = "urn:oasis:names:tc:SAML:2.0:nameid-format:entity"

BEARER: Final = "urn:oasis:names:tc:SAML:2.0:cm:bearer"
ATTRIBUTE_BASIC: Final = "urn:oasis:names:tc:SAML:2.0:attrname-format:basic"
ATTRIBUTE_URI: Final = "urn:oasis:names:tc:SAML:2.0:attrname-format:uri"

_STATUS: Final = "urn:oasis:names:tc:SAML:2.0:status:"
SUCCESS: Final = _STATUS + "Success"
REQUESTER: Final = _STATUS + "Requester"
RESPONDER: Final = _STATUS + "Responder"
AUTHN_FAILED: Final = _STATUS + "AuthnFailed"
NO_PASSIVE: Final = _STATUS + "NoPassive"
NO_AUTHN_CONTEXT: Final = _STATUS + "NoAuthnContext"
INVALID_NAME_ID_POLICY: Final = _STATUS + "InvalidNameIDPolicy"
REQUEST_DENIED: Final = _STATUS + "RequestDenied"
REQUEST_UNSUPPORTED: Final = _STATUS + "RequestUnsupported"
UNKNOWN_PRINCIPAL: Final = _STATUS + "UnknownPrincipal"
PARTIAL_LOGOUT: Final = _STATUS + "PartialLogout"

PASSWORD11: Final = "urn:oasis:names:tc:SAML:1.0:am:password"
UNSPECIFIED11: Final = "urn:oasis:names:tc:SAML:1.0:am:unspecified"
BEARER11: Final = "urn:oasis:names:tc:SAML:1.0:cm:bearer"
PASSWORD_PROTECTED: Final = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"  # noqa: S105
PASSWORD: Final = "urn:oasis:names:tc:SAML:2.0:ac:classes:Password"  # noqa: S105
CONTEXT_UNSPECIFIED: Final = "urn:oasis:names:tc:SAML:2.0:ac:classes:unspecified"

LOGOUT_USER: Final = "urn:oasis:names:tc:SAML:2.0:logout:user"
LOGOUT_ADMIN: Final = "urn:oasis:names:tc:SAML:2.0:logout:admin"


def tag(prefix: str, name: str) -> str:
    """`{namespace}name` of a usual prefix."""
    return f"{{{PREFIXES[prefix]}}}{name}"
