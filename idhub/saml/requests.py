"""Requests of service providers: read and checked in order. No database, no framework.

Before the service provider and its consumer service are verified an error is shown (`ShownError`); afterwards it is
answered (`SamlError`). What is read is read from the verified element where there is a signature.

SAML Core 3.4.1; Profiles 4.1.4.1; Bindings 3.4, 3.5.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from idhub.gateway import ShownError
from idhub.login import contexts, flow
from idhub.login.contexts import ContextRequest
from idhub.saml.errors import SamlError, requester, responder
from idhub.saml.providers import Consumer, ServiceProvider
from providers.saml_wire import names, parsing, signatures
from providers.saml_wire.bindings import Received, read_soap
from providers.saml_wire.errors import WireError
from providers.saml_wire.names import tag
from providers.saml_wire.parsing import Element

SKEW: Final = timedelta(seconds=60)
"""How far the clock of a service provider may be off."""
REQUEST_LIFETIME: Final = timedelta(minutes=5)
"""How old a request may be; so long its ID is remembered."""
_MAX_INDEX: Final = 65_535
_MOST_DIGITS: Final = 6
_MAX_CONTEXTS: Final = 20
_SUPPORTED_FORMATS: Final = frozenset({names.PERSISTENT, names.TRANSIENT, names.EMAIL, names.UNSPECIFIED})

_RESOLVE: Final = tag("samlp", "ArtifactResolve")
_ALWAYS_SIGNED: Final = frozenset({tag("samlp", "LogoutRequest"), _RESOLVE})

Find = Callable[[str], ServiceProvider | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """What every message of a service provider has, verified as far as its signature goes."""

    id: str
    provider: ServiceProvider
    element: Element
    issued_at: datetime
    is_signed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthnRequest:
    """A request whose sender and destination of the answer are verified.

    Args:
        id: None: there was no request (IdP-initiated).
        binding: how the answer goes to `consumer`: POST, or by artifact.
        context: how well the person must have proved who they are; None: any way.
        max_age: longest time since the person proved who they are; None: any.
        refusal: what it asks for beyond what can be given; to be answered.
    """

    id: str | None
    provider: ServiceProvider
    consumer: str
    relay_state: str | None
    name_id_format: str
    binding: str = names.POST
    context: ContextRequest | None = None
    is_forced: bool = False
    is_passive: bool = False
    max_age: timedelta | None = None
    refusal: SamlError | None = None

    @property
    def application_id(self) -> str:
        """The application that is entered."""
        return self.provider.application_id

    @property
    def registration_id(self) -> str:
        """For events."""
        return self.provider.id

    @property
    def requirements(self) -> flow.Requirements:
        """What it asks of the sign-in."""
        wanted = {"login": self.is_forced, "none": self.is_passive}
        prompt = frozenset(name for name, holds in wanted.items() if holds)
        return flow.Requirements(prompt=prompt, max_age=self.max_age, context=self.context)

    @property
    def answers_not_entitled(self) -> bool:
        """As the registration says."""
        return self.provider.answers_not_entitled

    def stored(self) -> dict[str, Any]:
        """For the login transaction."""
        return {
            "id": self.id,
            "provider": self.provider.id,
            "consumer": self.consumer,
            "relay_state": self.relay_state,
            "name_id_format": self.name_id_format,
            # What the version before would state; it knows no step-up.
            "context": contexts.PASSWORD_PROTECTED,
            "is_forced": self.is_forced,
            "is_passive": self.is_passive,
            # Left out where it is what the version before knows.
            **({} if self.binding == names.POST else {"binding": self.binding}),
            **({} if self.max_age is None else {"max_age": self.max_age.total_seconds()}),
            **({} if self.context is None else {"wanted": [self.context.comparison, *self.context.classes]}),
        }

    def stated(self, amr: Sequence[str]) -> str:
        """The authentication context to state of a session: one that it holds, whatever is asked for."""
        wanted = self.context.stated(amr) if self.context is not None else contexts.achieved(amr)
        return wanted or contexts.UNSPECIFIED


def restored(stored: Mapping[str, Any], provider: ServiceProvider | None) -> AuthnRequest:
    """The request of a login transaction, checked again against what is registered now.

    Raises:
        ShownError: the service provider or its consumer service is registered no more.
    """
    if provider is None:
        raise ShownError("unknown_service_provider")
    if provider.consumer(stored["consumer"], stored.get("binding", names.POST)) is None:
        raise ShownError("invalid_consumer")
    seconds, (comparison, *classes) = stored.get("max_age"), stored.get("wanted", [""])
    read = {
        "provider": provider,
        "max_age": None if seconds is None else timedelta(seconds=seconds),
        "context": ContextRequest(tuple(classes), comparison) if classes else None,
    }
    return AuthnRequest(**{**{name: value for name, value in stored.items() if name != "wanted"}, **read})


# ---------------------------------------------------------------- what every message has


def open_message(
    received: Received, expected: Iterable[str], destination: str, find: Find, *, now: datetime
) -> Envelope:
    """Parse a message and verify who sent it, in this order: form, sender, signature, destination, age.

    Args:
        expected: local names of protocol messages that may come here.
        destination: our own address that it was sent to.

    Raises:
        ShownError: any of these does not hold.
    """
    try:
        root = parsing.parse(received.document)
    except WireError as error:
        raise ShownError("request_malformed", error.reason) from error
    return open_element(root, received, expected, destination, find, now=now)


def open_soap(
    document: bytes | None, expected: Iterable[str], destination: str, find: Find, *, now: datetime
) -> Envelope:
    """`open_message`, of one that a service provider sent by SOAP (Bindings 3.2).

    Args:
        document: None: it was larger than any message.

    Raises:
        ShownError: as `open_message`.
    """
    try:
        if document is None:
            raise WireError("xml.size", "The message is too large.")
        element = read_soap(document)
    except WireError as error:
        raise ShownError("request_malformed", error.reason) from error
    return open_element(element, None, expected, destination, find, now=now)


def open_element(
    root: Element, received: Received | None, expected: Iterable[str], destination: str, find: Find, *, now: datetime
) -> Envelope:
    """`open_message`, of an element that is parsed already.

    Args:
        received: None: it came by SOAP, without a binding's signature.

    Raises:
        ShownError: as `open_message`.
    """
    try:
        if root.tag not in {tag("samlp", name) for name in expected}:
            raise ShownError("request_malformed", "saml.message")
        provider = find(_issuer(root))
        if provider is None:
            raise ShownError("unknown_service_provider")
        verified, is_signed = _verified(root, received, provider, is_required=root.tag in _ALWAYS_SIGNED)
        return Envelope(
            id=_checked(verified, destination, must_be_addressed=is_signed and root.tag != _RESOLVE, now=now),
            provider=provider,
            element=verified,
            issued_at=now,
            is_signed=is_signed,
        )
    except WireError as error:
        shown = "invalid_signature" if error.reason.startswith("signature.") else "request_malformed"
        raise ShownError(shown, error.reason) from error


def _issuer(root: Element) -> str:
    issuer = parsing.required_child(root, tag("saml", "Issuer"))
    # Profiles 4.1.4.1: the format is entity, or not given.
    if issuer.get("Format") not in {None, names.ENTITY}:
        raise WireError("saml.issuer", "Issuer is no entity.")
    return parsing.text_of(issuer)


def _verified(
    root: Element, received: Received | None, provider: ServiceProvider, *, is_required: bool
) -> tuple[Element, bool]:
    """The element that may be read, and whether its sender is proven. What is signed must hold, wanted or not."""
    if received is not None and received.has_query_signature:
        received.verify_query(provider.keys)
        return root, True
    # Bindings 3.4.4.1: by Redirect the message itself carries no signature; one that is there proves nothing.
    is_enveloped = signatures.is_signed(root)
    if is_enveloped:
        return signatures.verify(root, provider.keys), True
    if provider.wants_signed_requests or is_required:
        raise WireError("signature.missing", "The message is not signed.")
    return root, False


def _checked(element: Element, destination: str, *, must_be_addressed: bool, now: datetime) -> str:
    if element.get("Version") != "2.0":
        raise WireError("saml.version", "Version must be 2.0.")
    given = element.get("Destination")
    # Bindings 3.4.5.2, 3.5.5.2: a signed message names where it goes, so that it cannot be carried elsewhere. What asks
    # for an artifact names us by that: elsewhere it means nothing.
    if (given is not None and given != destination) or (given is None and must_be_addressed):
        raise ShownError("request_malformed", "saml.destination")
    issued_at = parsing.read_instant(parsing.required(element, "IssueInstant"), "IssueInstant")
    if not now - REQUEST_LIFETIME <= issued_at <= now + SKEW:
        raise ShownError("request_expired", "saml.issue_instant")
    return parsing.read_id(element)


# ---------------------------------------------------------------- AuthnRequest


def read_authn_request(
    envelope: Envelope, relay_state: str | None, *, sign_ins: Sequence[Sequence[str]] = contexts.OWN_SIGN_INS
) -> AuthnRequest:
    """Check where the answer goes, then what is asked for.

    Args:
        sign_ins: methods of the sign-ins that could be asked for.

    Raises:
        ShownError: the place is not registered; nothing is sent anywhere.
    """
    element, provider = envelope.element, envelope.provider
    try:
        consumer = _consumer(element, provider)
        is_forced = parsing.read_bool(element.get("ForceAuthn"), "ForceAuthn")
        is_passive = parsing.read_bool(element.get("IsPassive"), "IsPassive")
        refusal: SamlError | None = None
        name_id_format, context = provider.name_id_format, None
        try:
            if parsing.only_child(element, tag("saml", "Subject")) is not None:
                raise requester(names.REQUEST_UNSUPPORTED, "saml.subject")
            name_id_format = _name_id_format(element, provider)
            context = _context(element, sign_ins)
        except SamlError as error:
            refusal = error
    except WireError as error:
        raise ShownError("request_malformed", error.reason) from error
    return AuthnRequest(
        id=envelope.id,
        provider=provider,
        consumer=consumer.location,
        binding=consumer.binding,
        relay_state=relay_state,
        name_id_format=name_id_format,
        context=context,
        is_forced=is_forced,
        is_passive=is_passive,
        refusal=refusal,
    )


def _consumer(element: Element, provider: ServiceProvider) -> Consumer:
    # Core 3.4.1: URL and index exclude each other; the URL must be one that metadata names, to the letter.
    url, index = element.get("AssertionConsumerServiceURL"), element.get("AssertionConsumerServiceIndex")
    binding = element.get("ProtocolBinding")
    if binding not in {None, names.POST, names.ARTIFACT}:
        raise ShownError("invalid_consumer", "saml.binding")
    if url is not None and index is not None:
        raise ShownError("invalid_consumer", "saml.consumer_twice")
    found, cause = None, "saml.binding"
    if url is not None:
        if provider.consumer(url) is None:
            raise ShownError("invalid_consumer", "saml.consumer_url")
        found = provider.consumer(url, binding)
    elif index is not None:
        cause = "saml.consumer_index"
        if index.isascii() and index.isdigit() and len(index) <= _MOST_DIGITS and int(index) <= _MAX_INDEX:
            found = provider.consumer_at(int(index))
        if found is not None and binding not in {None, found.binding}:
            found, cause = None, "saml.binding"
    else:
        found = provider.default_consumer(binding)
    if found is None:
        raise ShownError("invalid_consumer", cause)
    if found.binding == names.ARTIFACT and not provider.keys:
        # Nothing could ever be fetched: whoever asks proves by a signature who it is.
        raise ShownError("invalid_consumer", "saml.artifact_key")
    return found


def _name_id_format(element: Element, provider: ServiceProvider) -> str:
    policy = parsing.only_child(element, tag("samlp", "NameIDPolicy"))
    if policy is None:
        return provider.name_id_format
    qualifier = policy.get("SPNameQualifier")
    if qualifier not in {None, "", provider.entity_id}:
        # Affiliations share identifiers; none is registered.
        raise requester(names.INVALID_NAME_ID_POLICY, "saml.qualifier")
    wanted = policy.get("Format")
    if wanted in {None, names.UNSPECIFIED, provider.name_id_format}:
        return provider.name_id_format
    # Core 3.4.1.1. The address is told only to whom the administrator wants it told.
    is_told_the_address = "email" in provider.attributes.values()
    if wanted not in _SUPPORTED_FORMATS or (wanted == names.EMAIL and not is_told_the_address):
        raise requester(names.INVALID_NAME_ID_POLICY, "saml.name_id_format")
    return str(wanted)


def _context(element: Element, sign_ins: Sequence[Sequence[str]]) -> ContextRequest | None:
    """What is asked of the sign-in (Core 3.3.2.2.1); refused at once when no sign-in could give it."""
    requested = parsing.only_child(element, tag("samlp", "RequestedAuthnContext"))
    if requested is None:
        return None
    named = [parsing.text_of(one) for one in requested.iterchildren(tag("saml", "AuthnContextClassRef"))]
    comparison = requested.get("Comparison") or "exact"
    if comparison not in contexts.COMPARISONS:
        raise responder(names.NO_AUTHN_CONTEXT, "saml.context")
    wanted = ContextRequest(tuple(named[:_MAX_CONTEXTS]), cast("contexts.Comparison", comparison))
    if len(named) > _MAX_CONTEXTS or not wanted.is_within_reach(sign_ins):
        raise responder(names.NO_AUTHN_CONTEXT, "saml.context")
    return wanted


# ---------------------------------------------------------------- LogoutRequest and LogoutResponse


@dataclass(frozen=True, kw_only=True, slots=True)
class LogoutRequest:
    """Whom a service provider wants signed out. Its signature was verified.

    Args:
        session_indexes: empty: every session of the person there.
    """

    id: str
    provider: ServiceProvider
    name_id: str
    session_indexes: frozenset[str]
    relay_state: str | None = None


def read_logout_request(envelope: Envelope, relay_state: str | None, *, now: datetime) -> LogoutRequest:
    """Core 3.7.1.

    Raises:
        ShownError: it is over, or names nobody.
    """
    element = envelope.element
    try:
        limit = element.get("NotOnOrAfter")
        if limit is not None and parsing.read_instant(limit, "NotOnOrAfter") <= now - SKEW:
            raise ShownError("request_expired", "saml.not_on_or_after")
        name_id = parsing.text_of(parsing.required_child(element, tag("saml", "NameID")))
        indexes = [parsing.text_of(one) for one in element.iterchildren(tag("samlp", "SessionIndex"))]
    except WireError as error:
        raise ShownError("request_malformed", error.reason) from error
    return LogoutRequest(
        id=envelope.id,
        provider=envelope.provider,
        name_id=name_id,
        session_indexes=frozenset(indexes),
        relay_state=relay_state,
    )


@dataclass(frozen=True, slots=True)
class LogoutResponse:
    """How a service provider took a logout."""

    provider: ServiceProvider
    in_response_to: str
    is_success: bool


def read_logout_response(envelope: Envelope) -> LogoutResponse:
    """Core 3.7.2. Only a whole success counts as one.

    Raises:
        ShownError: it is no answer to anything.
    """
    try:
        in_response_to = parsing.required(envelope.element, "InResponseTo")
        status = parsing.required_child(envelope.element, tag("samlp", "Status"))
        code = parsing.required_child(status, tag("samlp", "StatusCode"))
        is_partial = any(one.get("Value") == names.PARTIAL_LOGOUT for one in code)
    except WireError as error:
        raise ShownError("request_malformed", error.reason) from error
    return LogoutResponse(envelope.provider, in_response_to, code.get("Value") == names.SUCCESS and not is_partial)


# ---------------------------------------------------------------- ArtifactResolve


def read_artifact_resolve(envelope: Envelope) -> str:
    """The artifact as it was sent. Core 3.5.1.

    Raises:
        ShownError: it names none.
    """
    try:
        return parsing.text_of(parsing.required_child(envelope.element, tag("samlp", "Artifact")))
    except WireError as error:
        raise ShownError("request_malformed", error.reason) from error
