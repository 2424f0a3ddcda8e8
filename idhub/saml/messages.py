"""Messages of the hub: responses with their assertion, logout messages. No database, no framework.

SAML Core 2, 3.3.3, 3.7; Profiles 4.1.4.2.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from providers.saml_wire import names
from providers.saml_wire.encryption import encrypt
from providers.saml_wire.signatures import Signer, sign
from providers.saml_wire.writing import Node, instant

ASSERTION_LIFETIME: Final = timedelta(minutes=5)
_BEFORE: Final = timedelta(seconds=60)
"""How far the service provider's clock may be behind."""


def new_id() -> str:
    """ID of a message: 160 random bits; an xs:ID begins with no digit."""
    return f"_{secrets.token_hex(20)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """What an assertion states.

    Args:
        recipient: None: it is not stated.
        attributes: name -> values; none without a value.
        lifetime: how long the assertion is valid; it is to be delivered within the usual time in any case.
    """

    audience: str
    recipient: str | None
    in_response_to: str | None
    name_id: str
    name_id_format: str
    session_index: str
    session_ends_at: datetime
    authenticated_at: datetime
    context: str
    attributes: Mapping[str, Sequence[str]]
    lifetime: timedelta | None = None

    def valid(self, *, now: datetime) -> tuple[datetime, datetime]:
        """Since when and until when the assertion is valid: never longer than the session, where it was made longer."""
        usual = now + ASSERTION_LIFETIME
        wanted = min(now + self.lifetime, self.session_ends_at) if self.lifetime is not None else usual
        return now - _BEFORE, max(usual, wanted)


def assertion(issuer: str, statement: Statement, *, now: datetime) -> Node:
    """An assertion, not signed yet."""
    confirmation = Node(
        "saml:SubjectConfirmation",
        {"Method": names.BEARER},
        [
            Node(
                "saml:SubjectConfirmationData",
                {
                    "NotOnOrAfter": instant(now + ASSERTION_LIFETIME),
                    "Recipient": statement.recipient,
                    "InResponseTo": statement.in_response_to,
                },
            )
        ],
    )
    audience = Node("saml:AudienceRestriction", {}, [Node("saml:Audience", {}, [statement.audience])])
    begin, end = statement.valid(now=now)
    conditions = Node("saml:Conditions", {"NotBefore": instant(begin), "NotOnOrAfter": instant(end)}, [audience])
    context = Node("saml:AuthnContext", {}, [Node("saml:AuthnContextClassRef", {}, [statement.context])])
    authentication = Node(
        "saml:AuthnStatement",
        {
            "AuthnInstant": instant(statement.authenticated_at),
            "SessionIndex": statement.session_index,
            "SessionNotOnOrAfter": instant(statement.session_ends_at),
        },
        [context],
    )
    subject = Node("saml:Subject", {}, [_name_id(issuer, statement), confirmation])
    content = [_issuer(issuer), subject, conditions, authentication]
    if statement.attributes:
        attributes = [_attribute(name, values) for name, values in statement.attributes.items()]
        content.append(Node("saml:AttributeStatement", {}, attributes))
    return Node("saml:Assertion", {"ID": new_id(), "IssueInstant": instant(now), "Version": "2.0"}, content)


def _issuer(issuer: str) -> Node:
    return Node("saml:Issuer", {}, [issuer])


def _name_id(issuer: str, statement: Statement) -> Node:
    return name_id_of(issuer, statement.audience, statement.name_id, statement.name_id_format)


def name_id_of(issuer: str, audience: str, value: str, name_id_format: str) -> Node:
    """A NameID; identifiers that mean something between two partners alone say between which (Core 8.3.7)."""
    is_pairwise = name_id_format in {names.PERSISTENT, names.TRANSIENT}
    qualifiers = {"NameQualifier": issuer, "SPNameQualifier": audience} if is_pairwise else {}
    return Node("saml:NameID", {"Format": name_id_format, **qualifiers}, [value])


def _attribute(name: str, values: Sequence[str]) -> Node:
    is_uri = name.startswith(("urn:", "http://", "https://"))
    return Node(
        "saml:Attribute",
        {"Name": name, "NameFormat": names.ATTRIBUTE_URI if is_uri else names.ATTRIBUTE_BASIC},
        [Node("saml:AttributeValue", {}, [value]) for value in values],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Protection:
    """How a response is protected.

    Args:
        encryption_certificate: base64 DER of whoever alone may read the assertion; None: it is not encrypted.
    """

    signer: Signer
    signs_response: bool
    signs_assertion: bool
    encryption_certificate: str | None = None


def response(issuer: str, statement: Statement, protection: Protection, *, now: datetime) -> Node:
    """A successful response, signed as the service provider wants it: signed first, then encrypted (Core 6.2)."""
    stated = assertion(issuer, statement, now=now)
    if protection.signs_assertion:
        stated = sign(stated, protection.signer)
    if protection.encryption_certificate is not None:
        stated = Node("saml:EncryptedAssertion", {}, [encrypt(stated, protection.encryption_certificate)])
    made = _response(
        issuer, statement.recipient or "", statement.in_response_to, [_status(names.SUCCESS), stated], now=now
    )
    return sign(made, protection.signer) if protection.signs_response else made


def refusal(
    issuer: str,
    recipient: str,
    in_response_to: str | None,
    *,
    status: str,
    detail: str | None,
    signer: Signer,
    now: datetime,
) -> Node:
    """A signed response that says no, and nothing beside the status (Core 3.2.2).

    Args:
        recipient: the assertion consumer service that it goes to, already checked against the registration.
        in_response_to: None: nobody asked.
        status: top-level status code; `detail` the one below it, None for none.
    """
    return sign(_response(issuer, recipient, in_response_to, [_status(status, detail)], now=now), signer)


def _response(
    issuer: str, destination: str, in_response_to: str | None, content: Sequence[Node], *, now: datetime
) -> Node:
    attributes = {
        "ID": new_id(),
        "Version": "2.0",
        "IssueInstant": instant(now),
        "Destination": destination,
        "InResponseTo": in_response_to,
    }
    return Node("samlp:Response", attributes, [_issuer(issuer), *content])


def artifact_response(issuer: str, in_response_to: str, fetched: Node | None, *, now: datetime) -> Node:
    """What an artifact stood for, not signed yet; nothing, when it stands for nothing any more (Core 3.5.2)."""
    attributes = {"ID": new_id(), "Version": "2.0", "IssueInstant": instant(now), "InResponseTo": in_response_to}
    # Core 3.5.3: a success also when there is nothing, so that nobody learns which artifacts there are.
    content = [_issuer(issuer), _status(names.SUCCESS), *([] if fetched is None else [fetched])]
    return Node("samlp:ArtifactResponse", attributes, content)


def _status(code: str, detail: str | None = None) -> Node:
    inner = [] if detail is None else [Node("samlp:StatusCode", {"Value": detail})]
    return Node("samlp:Status", {}, [Node("samlp:StatusCode", {"Value": code}, inner)])


def logout_request(
    issuer: str,
    destination: str,
    *,
    message_id: str,
    audience: str,
    name_id: str,
    name_id_format: str,
    session_index: str,
    reason: str,
    now: datetime,
) -> Node:
    """A logout of one session at one service provider, not signed yet; good for `ASSERTION_LIFETIME` (Core 3.7.1).

    Args:
        audience: the entity id that the name was made for (`SPNameQualifier`).
        session_index: what the assertion called the session.
        reason: a URI of Core 3.7.3.
    """
    attributes = {
        "ID": message_id,
        "Version": "2.0",
        "IssueInstant": instant(now),
        "Destination": destination,
        "NotOnOrAfter": instant(now + ASSERTION_LIFETIME),
        "Reason": reason,
    }
    content = [
        _issuer(issuer),
        name_id_of(issuer, audience, name_id, name_id_format),
        Node("samlp:SessionIndex", {}, [session_index]),
    ]
    return Node("samlp:LogoutRequest", attributes, content)


def logout_response(
    issuer: str, destination: str | None, in_response_to: str, *, status: str, detail: str | None, now: datetime
) -> Node:
    """The answer to a logout request, not signed yet (Core 3.7.2)."""
    attributes = {
        "ID": new_id(),
        "Version": "2.0",
        "IssueInstant": instant(now),
        "Destination": destination,
        "InResponseTo": in_response_to,
    }
    return Node("samlp:LogoutResponse", attributes, [_issuer(issuer), _status(status, detail)])
