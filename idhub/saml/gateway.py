"""What the SAML endpoints share: the browser, redirects, forms that the browser carries, refusals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from idhub.changes import Actor, Event, EventType, record
from idhub.credentials.journal import Journal
from idhub.credentials.sessions import SignedIn, authenticate
from idhub.db import Database
from idhub.keys import Keyring
from idhub.login.throttling import client_address, trusted_networks
from idhub.logs import request_id
from idhub.pages.cookies import BROWSER_COOKIE, believed, set_browser_cookie
from idhub.pages.notices import Carried, ErrorNotice
from idhub.saml.errors import ShownError
from idhub.saml.metadata import entity_id, signer_of
from idhub.settings import Settings
from providers.saml_wire.bindings import MAX_RELAY_STATE, Received, read_post, read_redirect
from providers.saml_wire.errors import WireError
from providers.saml_wire.parsing import MAX_MESSAGE
from providers.saml_wire.writing import Node, render

MAX_BODY: Final = MAX_MESSAGE * 4 // 3 + 8_192
"""Bytes of the largest form: a message in base64, and its relay state."""
MAX_QUERY: Final = 32_768
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FIELDS: Final = 10


class BrowserServices(Protocol):
    """The part of `idhub.app.Services` that these endpoints use."""

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""

    @property
    def database(self) -> Database:
        """The one database."""

    @property
    def keyring(self) -> Keyring:
        """Signs messages."""

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present, aware UTC."""

    @property
    def journal(self) -> Journal:
        """Counts refusals of nobody in particular."""

    def error_page(self, request: Request, notice: ErrorNotice, /) -> Response:
        """The page of an error that is shown."""

    def carrying_page(self, request: Request, carried: Carried, /) -> Response:
        """The page whose form the browser carries to an application."""


@dataclass(frozen=True, slots=True)
class Browser:
    """One request of a browser, and what its cookies say."""

    request: Request
    now: datetime
    session_token: str | None
    browser_token: str | None
    ip: str
    request_id: str | None


class Gateway:
    """What the endpoints share."""

    def __init__(self, services: BrowserServices) -> None:
        self.services = services
        self.settings = services.settings
        self.database = services.database
        self.issuer = services.settings.issuer
        self.entity_id = entity_id(services.settings.issuer)
        self.signer = signer_of(services.keyring)
        self._journal = services.journal
        self._prefix = services.settings.cookie_prefix
        self._trusted = trusted_networks(services.settings.trusted_proxies)

    def browser(self, request: Request) -> Browser:
        """What this browser brought."""
        peer = request.client.host if request.client else ""
        return Browser(
            request,
            self.services.clock(),
            request.cookies.get(f"{self._prefix}session"),
            believed(request.cookies.get(self._prefix + BROWSER_COOKIE)),
            client_address(peer, request.headers.getlist("x-forwarded-for"), self._trusted),
            request_id.get(),
        )

    def received(self, request: Request, form: Mapping[str, str] | None) -> Received:
        """The message that a browser carried, by Redirect (GET) or POST.

        Raises:
            ShownError: request_malformed.
        """
        try:
            if request.method != "POST":
                query: bytes = request.scope["query_string"]
                if len(query) > MAX_QUERY:
                    raise WireError("xml.size", "The address is too long.")
                return read_redirect(query)
            if form is None:
                raise WireError("binding.form", "The form cannot be read.")
            return read_post(form)
        except WireError as error:
            raise ShownError("request_malformed", error.reason) from error

    def signed_in(self, session: Session, browser: Browser) -> SignedIn | None:
        """Who uses this browser."""
        return authenticate(session, browser.session_token, now=browser.now)

    def redirect(self, url: str, *, set_browser_token: str | None = None) -> Response:
        """303, also after a POST: a 307 would carry the form on."""
        response = RedirectResponse(url, 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        if set_browser_token is not None:
            set_browser_cookie(response, self._prefix, set_browser_token, is_secure=self.settings.is_https)
        return response

    def show(self, browser: Browser, error: ShownError) -> Response:
        """The error page; nothing is sent anywhere."""
        self.note_refusal(browser, reason=f"shown.{error.cause}", provider_id=None, signed=None)
        return self.services.error_page(browser.request, ErrorNotice(error.reason))

    def fault(self, browser: Browser, error: ShownError) -> Response:
        """What a machine gets in place of a page: a SOAP fault without the reason (SAML Bindings 3.2.3.3)."""
        self.note_refusal(browser, reason=f"shown.{error.cause}", provider_id=None, signed=None)
        content = [Node("soap:faultcode", {}, ["Client"]), Node("soap:faultstring", {}, ["The request was refused."])]
        envelope = Node("soap:Envelope", {}, [Node("soap:Body", {}, [Node("soap:Fault", {}, content)])])
        return Response(render(envelope), 400, media_type="text/xml")

    def note_refusal(
        self,
        browser: Browser,
        *,
        reason: str,
        provider_id: str | None,
        signed: SignedIn | None,
        application_id: str | None = None,
    ) -> None:
        """Record a refusal: of a signed-in person as an event of its own, of anybody else in the count."""
        if signed is None:
            self._journal.count(
                EventType.AUTHORIZATION_REFUSED, door="saml", target_kind="service_provider", target_id=provider_id,
                address=browser.ip, now=browser.now, reason=reason,
            )  # fmt: skip
            return
        event = Event(
            type=EventType.AUTHORIZATION_REFUSED,
            at=browser.now,
            actor=Actor(kind="person", id=signed.principal_id, session_id=signed.session_id, ip=browser.ip),
            door="saml",
            target_kind="service_provider",
            target_id=provider_id or "unknown",
            outcome="failure",
            reason=reason,
            request_id=browser.request_id,
            person_id=signed.principal_id,
            application_id=application_id,
        )
        with self.database.transaction(durable=False) as session:
            record(session, [event])


def read_form(content_type: str, body: bytes) -> dict[str, str] | None:
    """The fields of a form that was posted; None when it is none, holds a field twice, or what is not text."""
    from urllib.parse import parse_qsl

    if content_type.split(";", 1)[0].strip().lower() != _FORM:
        return None
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        return None
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None


__all__ = ["MAX_BODY", "MAX_RELAY_STATE", "Browser", "BrowserServices", "Gateway", "read_form"]
