"""What a service provider is answered, by a browser or by SOAP: an assertion about who is signed in, or a status."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from idhub.access.attributes import person_values, released
from idhub.credentials.assertions import AssertionRequest, IssuedAssertion, NameIdKind, issue_assertion
from idhub.credentials.predicate import Refused
from idhub.saml import messages
from idhub.saml.errors import SamlError
from idhub.saml.gateway import Gateway
from idhub.saml.requests import AuthnRequest
from providers.saml_wire import names
from providers.saml_wire.writing import Node

_KINDS: dict[str, NameIdKind] = {
    names.PERSISTENT: "persistent",
    names.TRANSIENT: "transient",
    names.EMAIL: "email",
    names.UNSPECIFIED: "employee_number",
}


@dataclass(frozen=True, slots=True)
class Issued:
    """What a response is made of."""

    assertion: IssuedAssertion
    attributes: dict[str, tuple[str, ...]]


def issue(
    gateway: Gateway,
    session: Session,
    request: AuthnRequest,
    *,
    session_id: str,
    principal_id: str,
    ip: str | None,
    request_id: str | None,
    now: datetime,
) -> Issued | Refused:
    """Let the service provider join the session, and gather what it is told; or which criterion failed."""
    provider = request.provider
    values = person_values(session, principal_id, provider.application_id, now=now)
    issued = issue_assertion(
        session,
        session_id,
        AssertionRequest(
            service_provider_id=provider.id,
            name_id_kind=_KINDS[request.name_id_format],
            name_id_format=request.name_id_format,
            employee_number=next(iter(values.get("employee_number", ())), None),
            in_response_to=request.id,
            ip=ip,
            request_id=request_id,
            door=gateway.door,
        ),
        now=now,
        settings=gateway.settings,
    )
    if isinstance(issued, Refused):
        return issued
    return Issued(issued, {name: tuple(found) for name, found in released(provider.attributes, values).items()})


def statement(request: AuthnRequest, issued: Issued) -> messages.Statement:
    """What its assertion states."""
    return messages.Statement(
        audience=request.provider.entity_id,
        recipient=request.consumer,
        in_response_to=request.id,
        name_id=issued.assertion.name_id,
        name_id_format=request.name_id_format,
        session_index=issued.assertion.session_index,
        session_ends_at=issued.assertion.session_ends_at,
        authenticated_at=issued.assertion.authenticated_at,
        context=request.stated(issued.assertion.amr),
        attributes=issued.attributes,
        lifetime=request.provider.assertion_lifetime,
    )


def response(gateway: Gateway, request: AuthnRequest, issued: Issued, *, now: datetime) -> Node:
    """The response that says it, protected as the service provider wants."""
    provider = request.provider
    return messages.response(
        gateway.entity_id,
        statement(request, issued),
        messages.Protection(
            signer=gateway.signer,
            signs_response=provider.signs_response,
            signs_assertion=provider.signs_assertion,
            encryption_certificate=provider.encryption_certificate if provider.encrypts_assertion else None,
        ),
        now=now,
    )


def refusal(gateway: Gateway, request: AuthnRequest, error: SamlError, *, now: datetime) -> Node:
    """The response that says no."""
    return messages.refusal(
        gateway.entity_id,
        request.consumer,
        request.id,
        status=error.status,
        detail=error.detail,
        signer=gateway.signer,
        now=now,
    )
