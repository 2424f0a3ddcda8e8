"""The channel `saml_logout`: tells a service provider by SOAP that a session has ended.

What it proves is that the service provider said it ended its session (E1): its word, no look at its own access.

SAML Bindings 3.2; Profiles 4.4.3.3.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Any, Final

from idhub.db import Database
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome
from idhub.delivery.http import OutboundError, OutboundHttp, OutboundRefused, OutboundResponse
from idhub.keys import Keyring
from idhub.lifecycle.logouts import CEILING
from idhub.saml import messages
from idhub.saml.metadata import entity_id, signer_of
from idhub.saml.planner import CHANNEL
from idhub.saml.providers import ServiceProvider, load_provider
from providers.saml_wire import names, parsing, signatures
from providers.saml_wire.bindings import read_soap, write_soap
from providers.saml_wire.errors import WireError
from providers.saml_wire.names import tag

_HEADERS: Final = {
    "Content-Type": "text/xml; charset=utf-8",
    "SOAPAction": '"http://www.oasis-open.org/committees/security"',
}


class SamlLogoutChannel:
    """Sends logout requests. The payload names `service_provider_id`, `name_id`, `name_id_format`, `sid`.

    Args:
        timeout: total deadline of one request.
    """

    name: Final = CHANNEL
    ceiling: Final = CEILING

    def __init__(
        self, database: Database, keyring: Keyring, http: OutboundHttp, *, issuer: str, timeout: timedelta
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._http = http
        self._entity_id = entity_id(issuer)
        self._timeout = timeout

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        """POST a signed LogoutRequest and read the answer. Sending again ends what is ended already."""
        provider = await asyncio.to_thread(self._provider, str(delivery.payload["service_provider_id"]), now)
        evidence: dict[str, Any] = {
            "service_provider_id": delivery.payload["service_provider_id"],
            "sent_at": now.isoformat(),
            "residual_until": delivery.payload.get("residual_until"),
        }
        address = provider.logout_address(names.SOAP_BINDING) if provider is not None else None
        if provider is None or address is None:
            return Outcome(
                kind="dead", evidence=evidence, error="The service provider takes no logout by SOAP any more."
            )
        request_id = f"_{delivery.id}.{delivery.attempt}"
        document = await asyncio.to_thread(self._document, delivery, provider, address, request_id, now)
        try:
            answer = await self._http.request("POST", address, headers=_HEADERS, data=document, timeout=self._timeout)
        except OutboundRefused as refused:
            return Outcome(kind="dead", evidence=evidence, error=refused.description)
        except OutboundError as error:
            return Outcome(kind="retry", evidence=evidence, error=error.description)
        evidence["status"] = answer.status
        return self._outcome(answer, provider, request_id, evidence, now=now)

    def _outcome(
        self,
        answer: OutboundResponse,
        provider: ServiceProvider,
        request_id: str,
        evidence: dict[str, Any],
        *,
        now: datetime,
    ) -> Outcome:
        if not answer.is_success:
            return Outcome(
                kind="retry",
                evidence=evidence,
                status_code=answer.status,
                error=f"The service provider answered {answer.status}.",
                retry_after=answer.retry_after(now=now),
            )
        try:
            said, evidence["is_signed"] = _said(answer.body, provider, request_id)
        except WireError as error:
            return Outcome(kind="retry", evidence=evidence, status_code=answer.status, error=error.description)
        evidence["saml_status"] = said
        if said == names.SUCCESS:
            evidence["residual_until"] = None
            return Outcome(kind="done", grade=Grade.E1, evidence=evidence, status_code=answer.status)
        return Outcome(
            kind="retry",
            evidence=evidence,
            status_code=answer.status,
            error=f"The service provider did not end the session: {said.rpartition(':')[2]}.",
        )

    def _provider(self, provider_id: str, now: datetime) -> ServiceProvider | None:
        with self._database.read() as session:
            return load_provider(session, provider_id, now=now)

    def _document(
        self, delivery: LeasedDelivery, provider: ServiceProvider, address: str, request_id: str, now: datetime
    ) -> bytes:
        request = messages.logout_request(
            self._entity_id,
            address,
            message_id=request_id,
            audience=provider.entity_id,
            name_id=str(delivery.payload["name_id"]),
            name_id_format=str(delivery.payload["name_id_format"]),
            session_index=str(delivery.payload["sid"]),
            reason=names.LOGOUT_ADMIN,
            now=now,
        )
        return write_soap(signatures.sign(request, signer_of(self._keyring)))


def _said(body: bytes, provider: ServiceProvider, request_id: str) -> tuple[str, bool]:
    """The status of an answer to our request, and whether it was signed; a signature that is there must hold.

    One by an algorithm that proves nothing counts as none: whoever could forge it could as well leave it away.
    Shibboleth answers by SOAP with SHA-1 unless `signingAlg` tells it otherwise.

    Raises:
        WireError: no LogoutResponse, of somebody else, or to another request.
    """
    element = read_soap(body)
    is_signed = signatures.is_signed(element)
    if is_signed:
        try:
            element = signatures.verify(element, provider.keys)
        except WireError as error:
            if error.reason != "signature.algorithm":
                raise
            is_signed = False
    if element.tag != tag("samlp", "LogoutResponse"):
        raise WireError("saml.message", "The service provider answered with something else than a LogoutResponse.")
    if parsing.text_of(parsing.required_child(element, tag("saml", "Issuer"))) != provider.entity_id:
        raise WireError("saml.issuer", "The answer is of somebody else.")
    if element.get("InResponseTo") != request_id:
        raise WireError("saml.in_response_to", "The answer is to another request.")
    status = parsing.required_child(element, tag("samlp", "Status"))
    code = parsing.required_child(status, tag("samlp", "StatusCode"))
    said = code.get("Value") or ""
    if said == names.SUCCESS and any(one.get("Value") == names.PARTIAL_LOGOUT for one in code):
        said = names.PARTIAL_LOGOUT
    return said[:200], is_signed
