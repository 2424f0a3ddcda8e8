"""What a relying party gets: a RequestSecurityTokenResponse with a signed assertion in it. No database, no framework.

The assertion is that of SAML 2.0 (`idhub.saml.messages`), or says the same in SAML 1.1, for applications that read
nothing newer. WS-Trust February 2005 section 4; SAML 1.1 Core 2.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from idhub.saml import messages
from idhub.saml.messages import Statement
from providers.saml_wire import names
from providers.saml_wire.signatures import Signer, sign
from providers.saml_wire.writing import Node, instant

# Others are named alike in both versions.
_METHODS: Final = {
    names.CONTEXT_UNSPECIFIED: names.UNSPECIFIED11,
    names.PASSWORD: names.PASSWORD11,
    names.PASSWORD_PROTECTED: names.PASSWORD11,
}


def response(issuer: str, statement: Statement, version: str, signer: Signer, *, now: datetime) -> Node:
    """The token response for `wresult`."""
    begin, end = statement.valid(now=now)
    stated = _assertion11(issuer, statement, now=now) if version == "1.1" else _assertion(issuer, statement, now=now)
    address = Node("wsa:EndpointReference", {}, [Node("wsa:Address", {}, [statement.audience])])
    return Node(
        "t:RequestSecurityTokenResponse",
        {},
        [
            Node(
                "t:Lifetime",
                {},
                [Node("wsu:Created", {}, [instant(begin)]), Node("wsu:Expires", {}, [instant(end)])],
            ),
            Node("wsp:AppliesTo", {}, [address]),
            Node("t:RequestedSecurityToken", {}, [sign(stated, signer)]),
            Node("t:TokenType", {}, [names.ASSERTION11 if version == "1.1" else names.ASSERTION]),
            Node("t:RequestType", {}, [names.TRUST + "/Issue"]),
            Node("t:KeyType", {}, ["http://schemas.xmlsoap.org/ws/2005/05/identity/NoProofKey"]),
        ],
    )


def _assertion(issuer: str, statement: Statement, *, now: datetime) -> Node:
    # Windows Identity Foundation refuses a token that names a Recipient; audience and exact reply address bind it.
    return messages.assertion(issuer, replace(statement, recipient=None), now=now)


def _assertion11(issuer: str, statement: Statement, *, now: datetime) -> Node:
    begin, end = statement.valid(now=now)
    audience = Node("saml1:AudienceRestrictionCondition", {}, [Node("saml1:Audience", {}, [statement.audience])])
    content = [
        Node("saml1:Conditions", {"NotBefore": instant(begin), "NotOnOrAfter": instant(end)}, [audience]),
        Node(
            "saml1:AuthenticationStatement",
            {
                "AuthenticationMethod": _METHODS.get(statement.context, statement.context),
                "AuthenticationInstant": instant(statement.authenticated_at),
            },
            [_subject(issuer, statement)],
        ),
    ]
    if statement.attributes:
        attributes = [_attribute(name, values) for name, values in statement.attributes.items()]
        content.append(Node("saml1:AttributeStatement", {}, [_subject(issuer, statement), *attributes]))
    return Node(
        "saml1:Assertion",
        {
            "AssertionID": messages.new_id(),
            "Issuer": issuer,
            "IssueInstant": instant(now),
            "MajorVersion": "1",
            "MinorVersion": "1",
        },
        content,
    )


def _subject(issuer: str, statement: Statement) -> Node:
    is_pairwise = statement.name_id_format in {names.PERSISTENT, names.TRANSIENT}
    name = Node(
        "saml1:NameIdentifier",
        {"Format": statement.name_id_format, "NameQualifier": issuer if is_pairwise else None},
        [statement.name_id],
    )
    method = Node("saml1:ConfirmationMethod", {}, [names.BEARER11])
    return Node("saml1:Subject", {}, [name, Node("saml1:SubjectConfirmation", {}, [method])])


def _attribute(name: str, values: Sequence[str]) -> Node:
    # Applications put the two together again, with a slash: that is the claim type.
    namespace, _, local = name.rpartition("/")
    content = [Node("saml1:AttributeValue", {}, [value]) for value in values]
    return Node("saml1:Attribute", {"AttributeName": local, "AttributeNamespace": namespace}, content)
