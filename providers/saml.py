"""SAML 2.0 service provider towards an upstream identity provider: requests written, responses read and verified.

Owns what a response must be before it is believed. Does not own where a request is remembered, whose an assertion is,
or whether it was seen before: the hub does. Keys are handed in, from the provider's metadata alone.

Entry points: `authn_request`, `metadata`; `peek`, `read_response`; `read_logout_request`.

SAML Core 2, 3.2, 3.4; Profiles 4.1.4; Bindings 3.4, 3.5; SAML security considerations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from xml.sax.saxutils import quoteattr

from cryptography.hazmat.primitives.asymmetric import rsa

from providers.saml_wire import encryption, names, parsing, signatures
from providers.saml_wire.bindings import Received
from providers.saml_wire.errors import WireError
from providers.saml_wire.names import tag
from providers.saml_wire.parsing import Element
from providers.saml_wire.signatures import PublicKey
from providers.saml_wire.writing import Node, instant

SKEW: Final = timedelta(seconds=60)
"""How far the provider's clock may be off."""
LIFETIME: Final = timedelta(minutes=5)
"""How old a response may be, whatever it says of itself; so long its assertion is remembered."""
MAX_SUBJECT: Final = 255
_MAX_VALUE: Final = 1_000
_KNOWN_CONDITIONS: Final = frozenset(
    tag("saml", name) for name in ("AudienceRestriction", "OneTimeUse", "ProxyRestriction")
)

SignaturePolicy = Literal["any", "assertion", "response", "both"]
"""What must be signed. Always: a signature that is there must hold, and one must cover the assertion."""


class NotSignedInError(WireError):
    """The provider answered that it signed nobody in.

    Args:
        code: last part of the deepest status code it gave; an XML name, or empty.
    """

    def __init__(self, code: str) -> None:
        super().__init__("saml.status", "The identity provider signed nobody in.")
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class Trusted:
    """Whom an answer must come from.

    Args:
        keys: of the provider's metadata; one of them must have signed.
    """

    entity_id: str
    keys: Sequence[PublicKey]
    policy: SignaturePolicy = "any"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What an answer must be to.

    Args:
        entity_id: ours, which the audience must name.
        consumer: the address of ours that it came to.
        request_id: of the request that is open.
        asked_at: when it was made.
        is_forced: it asked for a fresh proof (ForceAuthn).
        max_age: longest time since the person proved to the provider who they are; None: any.
        contexts: authentication contexts of which one must be stated; empty: any.
        decryption_keys: ours, every one that metadata publishes or lately did.
    """

    entity_id: str
    consumer: str
    request_id: str
    asked_at: datetime
    is_forced: bool = False
    max_age: timedelta | None = None
    contexts: frozenset[str] = frozenset()
    decryption_keys: Sequence[rsa.RSAPrivateKey] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asserted:
    """What a provider said of somebody, every check passed but whether it said so before.

    Args:
        assertion_id: to be remembered until `expires_at`.
        name_id_format: URN; empty: none was given.
        attributes: values that are text, by the attribute's name.
        session_ends_at: when the provider's own session ends; None: it does not say.
    """

    assertion_id: str
    name_id: str
    name_id_format: str
    attributes: Mapping[str, Sequence[str]]
    authenticated_at: datetime
    context: str
    session_index: str | None
    session_ends_at: datetime | None
    expires_at: datetime


# ---------------------------------------------------------------- writing


def authn_request(
    entity_id: str,
    consumer: str,
    *,
    request_id: str,
    destination: str,
    now: datetime,
    is_forced: bool = False,
    name_id_format: str | None = None,
    contexts: Sequence[str] = (),
) -> Node:
    """A request to sign somebody in, not signed yet (Core 3.4.1). Without a format the provider decides on one."""
    content = [Node("saml:Issuer", {}, [entity_id])]
    if name_id_format is not None:
        content.append(Node("samlp:NameIDPolicy", {"Format": name_id_format, "AllowCreate": "true"}))
    if contexts:
        listed = [Node("saml:AuthnContextClassRef", {}, [one]) for one in contexts]
        content.append(Node("samlp:RequestedAuthnContext", {"Comparison": "exact"}, listed))
    attributes = {
        "ID": request_id,
        "Version": "2.0",
        "IssueInstant": instant(now),
        "Destination": destination,
        "AssertionConsumerServiceURL": consumer,
        "ProtocolBinding": names.POST,
        "ForceAuthn": "true" if is_forced else None,
    }
    return Node("samlp:AuthnRequest", attributes, content)


def metadata(
    entity_id: str, consumer: str, certificates: Sequence[str], *, logout: Mapping[str, str], cache: str
) -> Node:
    """Our metadata as service provider, not signed yet.

    Args:
        certificates: the one that signs, then those to come. Encrypted for is the last of them: it opens what a
            provider sends that reads this document only once in a while.
        logout: addresses by binding.
    """
    keys = [_key("signing", one) for one in certificates]
    keys.append(_key("encryption", certificates[-1], encryption.READ))
    logouts = [Node("md:SingleLogoutService", {"Binding": name, "Location": url}) for name, url in logout.items()]
    formats = [Node("md:NameIDFormat", {}, [one]) for one in (names.PERSISTENT, names.UNSPECIFIED, names.EMAIL)]
    consumer_service = Node(
        "md:AssertionConsumerService", {"Binding": names.POST, "Location": consumer, "index": "0", "isDefault": "true"}
    )
    descriptor = Node(
        "md:SPSSODescriptor",
        {
            "protocolSupportEnumeration": names.PROTOCOL,
            "AuthnRequestsSigned": "true",
            "WantAssertionsSigned": "true",
        },
        [*keys, *logouts, *formats, consumer_service],
    )
    attributes = {"ID": "_idhub_sp", "entityID": entity_id, "cacheDuration": cache}
    return Node("md:EntityDescriptor", attributes, [descriptor])


def _key(use: str, certificate: str, methods: Sequence[str] = ()) -> Node:
    carried = Node("ds:X509Data", {}, [Node("ds:X509Certificate", {}, [certificate])])
    listed = [Node("md:EncryptionMethod", {"Algorithm": one}) for one in methods]
    return Node("md:KeyDescriptor", {"use": use}, [Node("ds:KeyInfo", {}, [carried]), *listed])


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Unverified:
    """What an answer says of itself: enough to look up what it would answer, and to be believed in nothing.

    Args:
        request_id: None: it says it answers none (IdP-initiated).
    """

    issuer: str
    request_id: str | None


def peek(document: bytes) -> Unverified:
    """Look who says to answer what.

    Raises:
        WireError: it is no Response.
    """
    root = _response(document)
    issuer = parsing.only_child(root, tag("saml", "Issuer"))
    if issuer is None:
        # Core 3.2.2: the Response may go without; the assertion may not.
        assertion = parsing.only_child(root, tag("saml", "Assertion"))
        issuer = None if assertion is None else parsing.only_child(assertion, tag("saml", "Issuer"))
    return Unverified("" if issuer is None else parsing.text_of(issuer), root.get("InResponseTo"))


def read_response(document: bytes, trusted: Trusted, expected: Expected, *, now: datetime) -> Asserted:
    """Verify an answer and read what it asserts. What is read is read from the verified element alone (S01).

    Raises:
        NotSignedInError: a sound answer that signs nobody in.
        WireError: anything about it that does not hold; the first that was found.
    """
    response, is_signed = _verified(_response(document), trusted.keys)
    _check_envelope(response, trusted, now=now)
    if response.get("InResponseTo") != expected.request_id:
        raise WireError("saml.in_response_to", "The response answers another request.")
    destination = response.get("Destination")
    # Bindings 3.5.5.2: a signed message names where it goes, so that it cannot be carried elsewhere.
    if (destination is None and is_signed) or (destination is not None and destination != expected.consumer):
        raise WireError("saml.destination", "The response was made for another address.")
    _check_status(response)
    assertion = _assertion(response, trusted, expected, response_is_signed=is_signed)
    _check_envelope(assertion, trusted, now=now)
    name_id = _subject(assertion, expected, now=now)
    _check_conditions(assertion, expected, now=now)
    statement = _authentication(assertion, expected, now=now)
    ends_at = statement.get("SessionNotOnOrAfter")
    return Asserted(
        assertion_id=parsing.read_id(assertion),
        name_id=parsing.text_of(name_id),
        name_id_format=name_id.get("Format") or "",
        attributes=_attributes(assertion),
        authenticated_at=_instant(statement, "AuthnInstant"),
        context=_context(statement),
        session_index=statement.get("SessionIndex"),
        session_ends_at=None if ends_at is None else parsing.read_instant(ends_at, "SessionNotOnOrAfter"),
        expires_at=now + LIFETIME + 2 * SKEW,
    )


def _response(document: bytes) -> Element:
    root = parsing.parse(document)
    if root.tag != tag("samlp", "Response"):
        raise WireError("saml.message", "The message is no Response.")
    return root


def _verified(element: Element, keys: Sequence[PublicKey]) -> tuple[Element, bool]:
    """The element that may be read, and whether it is signed itself. A signature that is there must hold."""
    if not signatures.is_signed(element):
        return element, False
    return signatures.verify(element, keys), True


def _check_envelope(element: Element, trusted: Trusted, *, now: datetime) -> None:
    """What Response and Assertion have alike: version, identifier, issuer, age."""
    if element.get("Version") != "2.0":
        raise WireError("saml.version", "Version must be 2.0.")
    parsing.read_id(element)
    issuer = parsing.only_child(element, tag("saml", "Issuer"))
    is_optional = element.tag == tag("samlp", "Response")
    if issuer is None and not is_optional:
        raise WireError("saml.issuer", "The assertion names no issuer.")
    if issuer is not None and (
        issuer.get("Format") not in {None, names.ENTITY} or parsing.text_of(issuer) != trusted.entity_id
    ):
        raise WireError("saml.issuer", "The message is of another issuer than was asked.")
    if not now - LIFETIME - SKEW <= _instant(element, "IssueInstant") <= now + SKEW:
        raise WireError("saml.issue_instant", "The message was issued too long ago, or the provider's clock is wrong.")


def _check_status(response: Element) -> None:
    status = parsing.required_child(response, tag("samlp", "Status"))
    code = parsing.required_child(status, tag("samlp", "StatusCode"))
    if code.get("Value") == names.SUCCESS:
        return
    inner = parsing.only_child(code, tag("samlp", "StatusCode"))
    said = ((code if inner is None else inner).get("Value") or "").rpartition(":")[2]
    raise NotSignedInError(said[:60] if parsing.is_name(said) else "")


def _assertion(response: Element, trusted: Trusted, expected: Expected, *, response_is_signed: bool) -> Element:
    """The one assertion, decrypted and verified, covered by a signature as the policy wants it."""
    plain = list(response.iterchildren(tag("saml", "Assertion")))
    encrypted = list(response.iterchildren(tag("saml", "EncryptedAssertion")))
    if len(plain) + len(encrypted) != 1:
        # S07: of several the signed one and the one that is read would have to be told apart.
        raise WireError("saml.assertions", "The response must hold exactly one assertion.")
    found = plain[0] if plain else _decrypted(encrypted[0], expected)
    assertion, is_signed = _verified(found, trusted.keys)
    # Who can encrypt for us is anybody: what is encrypted must be signed within (security considerations 6.1.3).
    is_covered = is_signed or (response_is_signed and not encrypted)
    holds = {
        "any": is_covered,
        "assertion": is_signed,
        "response": is_covered and response_is_signed,
        "both": is_signed and response_is_signed,
    }
    if not holds[trusted.policy]:
        raise WireError("signature.missing", "The assertion is not signed as it has to be.")
    return assertion


def _decrypted(encrypted: Element, expected: Expected) -> Element:
    if not expected.decryption_keys:
        raise WireError("encryption.form", "No key of ours can decrypt an assertion.")
    octets = encryption.decrypt(encrypted, expected.decryption_keys)
    # XML Encryption 4.3.3: it stands where the encrypted element stood, and may use the namespaces that were declared
    # around that. What is no single element there is not well-formed, or refused.
    declared = "".join(
        f" xmlns{':' if prefix else ''}{prefix or ''}={quoteattr(name)}" for prefix, name in encrypted.nsmap.items()
    )
    inner = list(parsing.parse(f"<within{declared}>".encode() + octets + b"</within>"))
    if [one.tag for one in inner] != [tag("saml", "Assertion")]:
        raise WireError("encryption.form", "What was encrypted is no assertion.")
    return inner[0]


def _subject(assertion: Element, expected: Expected, *, now: datetime) -> Element:
    """The NameID, confirmed by a bearer confirmation that is for us and for this request (Profiles 4.1.4.3)."""
    subject = parsing.required_child(assertion, tag("saml", "Subject"))
    name_id = parsing.only_child(subject, tag("saml", "NameID"))
    if name_id is None:
        raise WireError("saml.subject", "The assertion names its subject by no NameID.")
    text = parsing.text_of(name_id)
    if not text or len(text) > MAX_SUBJECT:
        raise WireError("saml.subject", f"NameID must have 1 to {MAX_SUBJECT} characters.")
    problem: WireError | None = None
    for confirmation in subject.iterchildren(tag("saml", "SubjectConfirmation")):
        if confirmation.get("Method") != names.BEARER:
            continue
        try:
            _check_confirmation(confirmation, expected, now=now)
        except WireError as error:
            problem = problem or error
        else:
            return name_id
    raise problem or WireError("saml.confirmation", "The assertion has no bearer confirmation.")


def _check_confirmation(confirmation: Element, expected: Expected, *, now: datetime) -> None:
    data = parsing.required_child(confirmation, tag("saml", "SubjectConfirmationData"))
    if data.get("Recipient") != expected.consumer:
        raise WireError("saml.recipient", "The assertion is for another recipient.")
    if data.get("NotBefore") is not None:
        raise WireError("saml.confirmation", "A bearer confirmation must not have NotBefore.")
    if _instant(data, "NotOnOrAfter") <= now - SKEW:
        raise WireError("saml.expired", "The assertion is over (NotOnOrAfter).")
    if data.get("InResponseTo") != expected.request_id:
        raise WireError("saml.in_response_to", "The assertion answers another request.")


def _check_conditions(assertion: Element, expected: Expected, *, now: datetime) -> None:
    conditions = parsing.required_child(assertion, tag("saml", "Conditions"))
    begins, ends = conditions.get("NotBefore"), conditions.get("NotOnOrAfter")
    if begins is not None and parsing.read_instant(begins, "NotBefore") > now + SKEW:
        raise WireError("saml.not_before", "The assertion is not valid yet (NotBefore).")
    if ends is not None and parsing.read_instant(ends, "NotOnOrAfter") <= now - SKEW:
        raise WireError("saml.expired", "The assertion is over (NotOnOrAfter).")
    if any(one.tag not in _KNOWN_CONDITIONS for one in conditions):
        # Core 2.5.1.1: an assertion with a condition that is not understood is of no use.
        raise WireError("saml.condition", "The assertion has a condition that is not understood.")
    restrictions = list(conditions.iterchildren(tag("saml", "AudienceRestriction")))
    for restriction in restrictions:
        # Core 2.5.1.4: every restriction must hold, by one of its audiences.
        audiences = [parsing.text_of(one) for one in restriction.iterchildren(tag("saml", "Audience"))]
        if expected.entity_id not in audiences:
            raise WireError("saml.audience", "The assertion is for another audience.")
    if not restrictions:
        # Profiles 4.1.4.2: it must say whom it is for.
        raise WireError("saml.audience", "The assertion does not say whom it is for.")


def _authentication(assertion: Element, expected: Expected, *, now: datetime) -> Element:
    statements = list(assertion.iterchildren(tag("saml", "AuthnStatement")))
    if len(statements) != 1:
        raise WireError("saml.authentication", "The assertion must hold one authentication statement.")
    statement = statements[0]
    at = _instant(statement, "AuthnInstant")
    if at > now + SKEW:
        raise WireError("saml.authn_instant", "The person proved themself in the future, or the clock is wrong.")
    is_stale = expected.is_forced and at < expected.asked_at - SKEW
    if is_stale or (expected.max_age is not None and now - at > expected.max_age + SKEW):
        raise WireError("saml.authn_age", "The person proved themself to the provider too long ago.")
    ends_at = statement.get("SessionNotOnOrAfter")
    if ends_at is not None and parsing.read_instant(ends_at, "SessionNotOnOrAfter") <= now - SKEW:
        raise WireError("saml.expired", "The provider's session is over (SessionNotOnOrAfter).")
    if expected.contexts and _context(statement) not in expected.contexts:
        raise WireError("saml.context", "The person did not prove themself in the way that was asked for.")
    return statement


def _context(statement: Element) -> str:
    context = parsing.required_child(statement, tag("saml", "AuthnContext"))
    named = parsing.only_child(context, tag("saml", "AuthnContextClassRef"))
    return "" if named is None else parsing.text_of(named)[:_MAX_VALUE]


def _attributes(assertion: Element) -> dict[str, tuple[str, ...]]:
    """Values that are text. Others (an identifier as an element) are for nobody here."""
    found: dict[str, list[str]] = {}
    for statement in assertion.iterchildren(tag("saml", "AttributeStatement")):
        for attribute in statement.iterchildren(tag("saml", "Attribute")):
            values = found.setdefault(attribute.get("Name") or "", [])
            values += [
                text
                for one in attribute.iterchildren(tag("saml", "AttributeValue"))
                if not len(one) and len(text := parsing.text_of(one)) <= _MAX_VALUE
            ]
    return {name: tuple(values) for name, values in found.items()}


def _instant(element: Element, name: str) -> datetime:
    return parsing.read_instant(parsing.required(element, name), name)


# ---------------------------------------------------------------- logout


@dataclass(frozen=True, kw_only=True, slots=True)
class LogoutAsked:
    """Whom a provider wants signed out. Its signature was verified.

    Args:
        session_indexes: empty: every session of the subject.
    """

    id: str
    name_id: str
    session_indexes: frozenset[str]


def unverified_issuer(message: Element) -> str:
    """Who a logout message says it is of: enough to look up whose keys must hold, and to be believed in nothing.

    Raises:
        WireError: it is no LogoutRequest, or names nobody.
    """
    if message.tag != tag("samlp", "LogoutRequest"):
        raise WireError("saml.message", "The message is no LogoutRequest.")
    return parsing.text_of(parsing.required_child(message, tag("saml", "Issuer")))


def read_logout_request(
    message: Element, received: Received | None, trusted: Trusted, destination: str, *, now: datetime
) -> LogoutAsked:
    """Verify and read a LogoutRequest, which is always signed (Core 3.7.1; Profiles 4.4.3.1; S18).

    Args:
        received: how a browser brought it; None: it came by SOAP.

    Raises:
        WireError: anything about it that does not hold.
    """
    if received is not None and received.has_query_signature:
        received.verify_query(trusted.keys)
        element = message
    else:
        element = signatures.verify(message, trusted.keys)
    if parsing.only_child(element, tag("saml", "Issuer")) is None:
        raise WireError("saml.issuer", "The message names no issuer.")
    _check_envelope(element, trusted, now=now)
    if element.get("Destination") != destination:
        raise WireError("saml.destination", "The message was made for another address.")
    limit = element.get("NotOnOrAfter")
    if limit is not None and parsing.read_instant(limit, "NotOnOrAfter") <= now - SKEW:
        raise WireError("saml.expired", "The request is over (NotOnOrAfter).")
    return LogoutAsked(
        id=parsing.read_id(element),
        name_id=parsing.text_of(parsing.required_child(element, tag("saml", "NameID"))),
        session_indexes=frozenset(parsing.text_of(one) for one in element.iterchildren(tag("samlp", "SessionIndex"))),
    )
