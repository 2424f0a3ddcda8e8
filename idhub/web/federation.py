"""Signing in with a company's own identity provider: `/login/with/{slug}`, and what it answers, `/login/saml/...`.

    /login --> /login/with/acme --> the provider ... --> POST /login/saml/acs --> /login/saml/finish --> on

The answer is posted by another site and brings no cookies: it is verified and kept, and the next request, which brings
them, takes it up (`idhub.login.federation`). RelayState says nothing to us, so none is sent and none is read (S27).
"""

from collections.abc import Callable
from typing import Annotated, Final, Protocol
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.credentials import transactions
from idhub.credentials.operations import run_in
from idhub.credentials.transactions import Transaction
from idhub.gateway import Browser, BrowserGateway, ShownError
from idhub.login import federation
from idhub.login.federation import Asked, Finished, GoneError, Kept, Refusal
from idhub.login.providers import Provider, find_provider
from idhub.login.upstream_logout import LoggedOut, log_out
from idhub.pages import safe_local_path
from idhub.pages.notices import Carried, ErrorNotice
from idhub.saml.gateway import MAX_QUERY, SamlServices, form_of, read_body, soap_fault
from idhub.saml.messages import logout_response
from idhub.saml.metadata import MEDIA_TYPE, signer_of
from idhub.web.browser import browser_of, give_session
from idhub.web.services import WebServices
from providers import saml
from providers.saml_wire import names, parsing
from providers.saml_wire.bindings import (
    Received,
    post_value,
    read_post,
    read_redirect,
    read_soap,
    write_redirect,
    write_soap,
)
from providers.saml_wire.errors import WireError
from providers.saml_wire.signatures import sign
from providers.saml_wire.writing import Node, render

METADATA_PATH: Final = "/login/saml/metadata"
CONSUMER_PATH: Final = "/login/saml/acs"
FINISH_PATH: Final = "/login/saml/finish"
LOGOUT_PATH: Final = "/login/saml/slo"
SOAP_PATH: Final = "/login/saml/slo/soap"
BEGIN_PATH: Final = "/login/with/{slug}"
_METADATA_MAX_AGE: Final = 300
_CACHE: Final = "PT6H"
_MAX_SLUG: Final = 60
_Body = Annotated[bytes | None, Depends(read_body)]


class FederationServices(WebServices, SamlServices, Protocol):
    """The part of `idhub.app.Services` that these routes use."""


def create_router(services: FederationServices) -> APIRouter:
    """Routes of the service provider that the hub is towards identity providers."""
    desk = Desk(services)
    gateway = desk.gateway
    router = APIRouter(include_in_schema=False)
    document = desk.metadata_document().encode()

    @router.get(METADATA_PATH)
    def show_metadata() -> Response:
        """Our metadata as service provider: made once, for the keys of this process."""
        headers = {"Cache-Control": f"public, max-age={_METADATA_MAX_AGE}"}
        return Response(document, media_type=MEDIA_TYPE, headers=headers)

    def answered(request: Request, act: Callable[[Browser], Response]) -> Response:
        browser = gateway.browser(request)
        try:
            return act(browser)
        except ShownError as error:
            return gateway.show(browser, error)

    @router.get(BEGIN_PATH)
    def begin(request: Request, slug: str, transaction: str = "", return_to: str = "") -> Response:
        """Send the browser to a provider."""
        return answered(request, lambda b: desk.begin(b, slug, transaction, return_to))

    @router.post(CONSUMER_PATH)
    def consume(request: Request, body: _Body) -> Response:
        """Take a provider's answer."""
        return answered(request, lambda b: desk.consume(b, form_of(request, body)))

    @router.api_route(LOGOUT_PATH, methods=["GET", "POST"])
    def log_out(request: Request, body: _Body) -> Response:
        """Take a logout that a provider sends by the browser."""
        return answered(request, lambda b: desk.log_out(b, desk.received(request, body)))

    @router.post(SOAP_PATH)
    def log_out_by_soap(request: Request, body: _Body) -> Response:
        """Take a logout that a provider sends by itself."""
        browser = gateway.browser(request)
        try:
            return desk.log_out_by_soap(browser, body)
        except ShownError as error:
            return soap_fault(gateway, browser, error)

    @router.get(FINISH_PATH)
    def finish(request: Request, transaction: str = "", given: str = "") -> Response:
        """Let in whom the answer that waits for this browser is about."""
        return answered(request, lambda b: desk.finish(b, Kept(transaction, given)))

    return router


class Desk:
    """What the routes do; `idhub.web.links` sends people to providers too."""

    def __init__(self, services: FederationServices) -> None:
        self.services = services
        self.gateway = BrowserGateway(services, door="login", target_kind="provider")
        issuer = services.settings.issuer
        self.entity_id = issuer + METADATA_PATH
        self.consumer = issuer + CONSUMER_PATH

    def metadata_document(self) -> str:
        """Signed; every certificate that signs or soon will is in it."""
        keyring, issuer = self.services.keyring, self.services.settings.issuer
        logout = dict.fromkeys((names.REDIRECT, names.POST), issuer + LOGOUT_PATH)
        logout[names.SOAP_BINDING] = issuer + SOAP_PATH
        node = saml.metadata(self.entity_id, self.consumer, keyring.certificates("saml"), logout=logout, cache=_CACHE)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + render(sign(node, signer_of(keyring)))

    # ------------------------------------------------------------------ asking

    def begin(self, browser: Browser, slug: str, transaction_id: str, return_to: str) -> Response:
        """Ask a provider, within the sign-in that is in progress, or in one that leads to a page of the hub.

        Raises:
            ShownError: there is no such provider, or the sign-in is over.
        """
        gateway = self.gateway
        token, new_token = browser.token_to_keep()
        with gateway.database.transaction(durable=False) as session:
            provider = self._provider(session, slug, browser)
            transaction = self._transaction(session, browser, transaction_id)
            if transaction is not None:
                transaction_id = transaction.id
            else:
                path = safe_local_path(return_to)
                transaction_id = transactions.begin(
                    session, protocol="none", browser_token=token, now=browser.now, settings=gateway.settings,
                    request={"path": "/" if path.startswith(("/login", "/logout")) else path},
                )  # fmt: skip
            asked = federation.ask(
                session, transaction_id, token, provider, is_forced=_is_forced(transaction), now=browser.now
            )
        if asked is None:
            raise ShownError("transaction_gone")
        return self.send(browser, provider, asked, new_token)

    def _provider(self, session: Session, slug: str, browser: Browser) -> Provider:
        provider = None
        # PostgreSQL takes no NUL in a text, not even to look for it.
        if slug.isprintable() and len(slug) <= _MAX_SLUG:
            provider = find_provider(session, now=browser.now, slug=slug)
        if provider is None:
            raise ShownError("unknown_provider")
        return provider

    def _transaction(self, session: Session, browser: Browser, transaction_id: str) -> Transaction | None:
        if not transaction_id:
            return None
        token, gateway = browser.browser_token, self.gateway
        held = transactions.unsealed(
            self.services.keyring, transaction_id, token, now=browser.now, settings=gateway.settings
        )
        if held is not None and token is not None:
            is_open = transactions.load(session, transaction_id, token, now=browser.now) is not None
            if not is_open and run_in(session, transactions.is_known(transaction_id)):
                raise ShownError("transaction_gone")
            # What is asked of the provider is noted of a row, whose name the request bears: an id of a few letters. The
            # page stays, for who comes back and types a password.
            transaction_id = transactions.begin(
                session, protocol=held.protocol, browser_token=token, request=held.request, client_id=held.client_id,
                application_id=held.application_id, now=browser.now, settings=gateway.settings,
            )  # fmt: skip
        found = transactions.load(session, transaction_id, token, now=browser.now)
        if found is None:
            raise ShownError("transaction_gone")
        return found

    def send(self, browser: Browser, provider: Provider, asked: Asked, new_token: str | None) -> Response:
        """Send the browser to the provider with a request that is remembered already."""
        binding, destination = provider.sign_on
        request = saml.authn_request(
            self.entity_id, self.consumer, request_id=asked.request_id, destination=destination, now=browser.now,
            is_forced=asked.is_forced, name_id_format=provider.name_id_format, contexts=provider.contexts,
        )  # fmt: skip
        signer = signer_of(self.services.keyring)
        if binding == names.REDIRECT:
            url = write_redirect(destination, "SAMLRequest", render(request), relay_state=None, signer=signer)
            return self.gateway.redirect(url, set_browser_token=new_token)
        return self._carry(browser, destination, sign(request, signer), new_token)

    def _carry(self, browser: Browser, destination: str, request: Node, new_token: str | None) -> Response:
        fields = (("SAMLRequest", post_value(render(request))),)
        page = self.services.carrying_page(browser.request, Carried(action=destination, fields=fields))
        if new_token is not None:
            self.gateway.give_browser_token(page, new_token)
        return page

    # ------------------------------------------------------------------ answers

    def consume(self, browser: Browser, form: dict[str, str] | None) -> Response:
        """Verify an answer and keep it for the browser that asked.

        Raises:
            ShownError: it is none, to nothing that is open, or does not hold; nothing was written.
        """
        try:
            received = read_post(form or {})
            if received.kind != "SAMLResponse":
                raise WireError("saml.message", "The message is no Response.")
            said = saml.peek(received.document)
        except WireError as error:
            raise ShownError("upstream_answer", error.reason) from error
        if said.request_id is None:
            return self._unsolicited(browser, said.issuer)
        with self.gateway.database.read() as session:
            asked = federation.find_asked(session, said.request_id, now=browser.now)
            provider = None if asked is None else find_provider(session, now=browser.now, id=asked.provider_id)
        if asked is None or provider is None:
            raise ShownError("upstream_answer", "saml.unknown_request")
        asserted = self._verified(browser, received.document, provider, asked)
        with self.gateway.database.transaction(durable=False) as session:
            kept = federation.keep(session, asked, provider, asserted, now=browser.now)
        if kept is None:
            raise ShownError("upstream_answer", "saml.replayed")
        return self.gateway.redirect(f"{FINISH_PATH}?transaction={kept.transaction_id}&given={kept.token}")

    def _verified(self, browser: Browser, document: bytes, provider: Provider, asked: Asked) -> saml.Asserted:
        expected = saml.Expected(
            entity_id=self.entity_id,
            consumer=self.consumer,
            request_id=asked.request_id,
            asked_at=asked.asked_at,
            is_forced=asked.is_forced,
            max_age=provider.max_age,
            contexts=frozenset(provider.contexts),
            decryption_keys=self.services.keyring.private_keys("saml"),
        )
        try:
            return saml.read_response(document, provider.trusted, expected, now=browser.now)
        except saml.NotSignedInError as error:
            raise ShownError("upstream_refused", f"saml.status.{error.code}") from error
        except WireError as error:
            raise ShownError("upstream_answer", error.reason) from error

    def _unsolicited(self, browser: Browser, issuer: str) -> Response:
        """What nobody asked for is believed by nobody: at best it begins a sign-in that asks (login CSRF, S10)."""
        with self.gateway.database.read() as session:
            provider = find_provider(session, now=browser.now, entity_id=issuer)
        if provider is None or not provider.allows_unsolicited:
            raise ShownError("upstream_answer", "saml.unsolicited")
        return self.gateway.redirect(BEGIN_PATH.format(slug=provider.slug))

    # ------------------------------------------------------------------ finishing

    def finish(self, browser: Browser, kept: Kept) -> Response:
        """Give the browser its session.

        Raises:
            ShownError: no answer waits for this browser, or whom it is about may not sign in.
        """
        services = self.services
        try:
            with services.database.transaction(durable=False) as session:
                outcome = federation.finish(
                    session, services.keyring, services.settings, kept, browser.browser_token,
                    browser=browser_of(browser.request, services),
                    old=self.gateway.signed_in(session, browser), now=browser.now,
                )  # fmt: skip
        except GoneError as error:
            raise ShownError("transaction_gone", "federation.gone") from error
        if isinstance(outcome, Refusal):
            # Recorded already, with the person it is about.
            return services.error_page(browser.request, ErrorNotice("upstream_person", 403))
        return self._goes_on(outcome)

    # ------------------------------------------------------------------ logout

    def received(self, request: Request, body: bytes | None) -> Received:
        """The logout message that a browser carried.

        Raises:
            ShownError: it cannot be read.
        """
        try:
            if request.method == "POST":
                return read_post(form_of(request, body) or {})
            query: bytes = request.scope["query_string"]
            if len(query) > MAX_QUERY:
                raise WireError("xml.size", "The address is too long.")
            return read_redirect(query)
        except WireError as error:
            raise ShownError("request_malformed", error.reason) from error

    def log_out(self, browser: Browser, received: Received) -> Response:
        """End what rests on the provider's word, and answer by the browser.

        Raises:
            ShownError: the request does not hold, or there is nowhere to answer to; nothing was ended.
        """
        provider, asked, done = self._logged_out(browser, received, LOGOUT_PATH)
        for binding in (names.REDIRECT, names.POST):
            service = provider.logout_services.get(binding)
            if service is None:
                continue
            destination = service["response_location"] or service["location"]
            answer = self._logout_answer(asked.id, destination, done, browser)
            signer, state = signer_of(self.services.keyring), received.relay_state
            if binding == names.REDIRECT:
                url = write_redirect(destination, "SAMLResponse", render(answer), relay_state=state, signer=signer)
                return self.gateway.redirect(url)
            fields = [("SAMLResponse", post_value(render(sign(answer, signer))))]
            fields += [] if state is None else [("RelayState", state)]
            carried = Carried(action=destination, fields=tuple(fields), purpose="logout")
            return self.services.carrying_page(browser.request, carried)
        # Ended all the same; its provider takes no answer.
        return self.gateway.redirect("/logout")

    def log_out_by_soap(self, browser: Browser, body: bytes | None) -> Response:
        """The same, of a provider that asks by itself.

        Raises:
            ShownError: the request does not hold; nothing was ended.
        """
        _, asked, done = self._logged_out(browser, body, SOAP_PATH)
        answer = sign(self._logout_answer(asked.id, None, done, browser), signer_of(self.services.keyring))
        return Response(write_soap(answer), media_type="text/xml; charset=utf-8")

    def _logged_out(
        self, browser: Browser, sent: Received | bytes | None, path: str
    ) -> tuple[Provider, saml.LogoutAsked, LoggedOut]:
        received = sent if isinstance(sent, Received) else None
        try:
            if sent is None:
                raise WireError("xml.size", "The message is too large.")
            message = read_soap(sent) if isinstance(sent, bytes) else parsing.parse(sent.document)
            issuer = saml.unverified_issuer(message)
            with self.gateway.database.read() as session:
                provider = find_provider(session, now=browser.now, entity_id=issuer)
            if provider is None:
                raise ShownError("unknown_provider")
            address = self.services.settings.issuer + path
            asked = saml.read_logout_request(message, received, provider.trusted, address, now=browser.now)
        except WireError as error:
            shown = "invalid_signature" if error.reason.startswith("signature.") else "request_malformed"
            raise ShownError(shown, error.reason) from error
        with self.gateway.database.transaction() as session:
            done = log_out(session, provider, asked, ip=browser.ip, request_id=browser.request_id, now=browser.now)
        if done is None:
            raise ShownError("request_replayed", "saml.replayed")
        return provider, asked, done

    def _logout_answer(self, request_id: str, destination: str | None, done: LoggedOut, browser: Browser) -> Node:
        status, detail = names.SUCCESS, None if done.is_whole else names.PARTIAL_LOGOUT
        if not done.is_known:
            status, detail = names.REQUESTER, names.UNKNOWN_PRINCIPAL
        return logout_response(self.entity_id, destination, request_id, status=status, detail=detail, now=browser.now)

    def _goes_on(self, outcome: Finished) -> Response:
        response = self.gateway.redirect(outcome.goes_on)
        if outcome.minted is not None:
            give_session(response, self.services.pages, outcome.minted, is_secure=self.services.settings.is_https)
        return response


def begin_url(slug: str, transaction_id: str, return_to: str) -> str:
    """The address that begins a sign-in with a provider."""
    query = {"transaction": transaction_id} if transaction_id else {"return_to": return_to} if return_to else {}
    return BEGIN_PATH.format(slug=slug) + (f"?{urlencode(query)}" if query else "")


def _is_forced(transaction: Transaction | None) -> bool:
    """Whether what asked wants the person to prove anew who they are (OIDC Core 3.1.2.1; SAML Core 3.4.1)."""
    if transaction is None:
        return False
    request = transaction.request
    prompts = set(str(request.get("prompt") or "").split())
    return bool(prompts & {"login", "select_account"} or request.get("max_age") is not None or request.get("is_forced"))
