"""Answers by artifact: the browser carries a reference, and the service provider fetches by SOAP what it stands for.

    /saml/sso ... --> consumer service?SAMLart=... ; service provider --ArtifactResolve--> /saml/artifact

SAML Bindings 3.6; Core 3.5; Profiles 5.
"""

from typing import Any

from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.credentials import artifacts
from idhub.credentials.artifacts import Kept
from idhub.credentials.predicate import Refused
from idhub.credentials.sessions import SignedIn
from idhub.gateway import Browser, ShownError
from idhub.saml import answers, messages
from idhub.saml.errors import UNNAMED, SamlError
from idhub.saml.gateway import Gateway
from idhub.saml.metadata import ARTIFACT_PATH
from idhub.saml.providers import ServiceProvider, find_provider
from idhub.saml.requests import AuthnRequest, open_soap, read_artifact_resolve, restored
from providers.saml_wire.artifacts import check_artifact, make_artifact
from providers.saml_wire.bindings import write_soap
from providers.saml_wire.errors import WireError
from providers.saml_wire.signatures import sign
from providers.saml_wire.writing import Node


def leave_answer(
    gateway: Gateway,
    session: Session,
    browser: Browser,
    request: AuthnRequest,
    *,
    signed: SignedIn | None = None,
    refusal: SamlError | None = None,
) -> str:
    """Keep what the service provider will be answered, and return the artifact that its browser carries there.

    Args:
        signed: whose assertion it will be.
        refusal: that it will hear instead.
    """
    artifact = make_artifact(gateway.entity_id)
    answer: dict[str, Any] = {"request": request.stored(), "ip": browser.ip}
    if refusal is not None:
        signed = None
        answer["refusal"] = {"status": refusal.status, "detail": refusal.detail, "reason": refusal.reason}
    artifacts.keep(
        session,
        artifact,
        request.provider.id,
        session_id=signed.session_id if signed else None,
        principal_id=signed.principal_id if signed else None,
        answer=answer,
        now=browser.now,
    )
    return artifact


class ArtifactResolver:
    """Answers service providers that ask what an artifact stands for."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def receive(self, browser: Browser, document: bytes | None) -> Response:
        """An ArtifactResolve by SOAP, signed by a service provider.

        Raises:
            ShownError: it is not signed by whom it says, or not meant for here.
        """
        gateway, now = self._gateway, browser.now
        with gateway.database.read() as session:
            envelope = open_soap(
                document,
                ["ArtifactResolve"],
                gateway.issuer + ARTIFACT_PATH,
                lambda entity_id: find_provider(session, entity_id, now=now),
                now=now,
            )
        fetched = self._fetch(browser, envelope.provider, read_artifact_resolve(envelope))
        if isinstance(fetched, Refused):
            provider = envelope.provider
            gateway.note_refusal(
                browser,
                reason=f"saml.{fetched.reason}",
                target_id=provider.id,
                signed=None,
                application_id=provider.application_id,
            )
        answer = messages.artifact_response(
            gateway.entity_id, envelope.id, None if isinstance(fetched, Refused) else fetched, now=now
        )
        body = write_soap(sign(answer, gateway.signer))
        return Response(body, media_type="text/xml", headers={"Cache-Control": "no-store"})

    def _fetch(self, browser: Browser, provider: ServiceProvider, text: str) -> Node | Refused:
        """What the artifact stands for now; it is spent, whatever comes of it."""
        try:
            artifact = check_artifact(text, self._gateway.entity_id)
        except WireError as error:
            return Refused(error.reason)
        with self._gateway.database.transaction(durable=False) as session:
            kept = artifacts.spend(session, artifact, provider.id, now=browser.now)
            if isinstance(kept, Refused):
                return kept
            return self._answer(session, browser, provider, kept)

    def _answer(self, session: Session, browser: Browser, provider: ServiceProvider, kept: Kept) -> Node | Refused:
        gateway, now = self._gateway, browser.now
        try:
            request = restored(kept.answer["request"], provider)
        except ShownError as error:
            # The registration was changed meanwhile.
            return Refused(error.cause)
        if kept.session_id is None or kept.principal_id is None:
            return answers.refusal(gateway, request, SamlError(**kept.answer["refusal"]), now=now)
        issued = answers.issue(
            gateway,
            session,
            request,
            session_id=kept.session_id,
            principal_id=kept.principal_id,
            ip=kept.answer["ip"],
            request_id=browser.request_id,
            now=now,
        )
        if not isinstance(issued, Refused):
            return answers.response(gateway, request, issued, now=now)
        if issued.reason in UNNAMED:
            return answers.refusal(gateway, request, UNNAMED[issued.reason], now=now)
        return issued
