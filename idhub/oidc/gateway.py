"""What the browser endpoints share: reading requests, redirecting, cookies, refusals."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import transactions
from idhub.credentials.journal import Journal
from idhub.credentials.operations import Operation
from idhub.credentials.operations import record as recording
from idhub.credentials.sessions import SignedIn, authenticate
from idhub.credentials.store import Store
from idhub.db import Database
from idhub.keys import Keyring
from idhub.login.throttling import client_address, trusted_networks
from idhub.logs import request_id
from idhub.oidc.errors import OAuthError, ShownError
from idhub.oidc.parameters import MAX_BODY, MAX_QUERY, Parameters, parse
from idhub.oidc.tokens import TokenReader
from idhub.pages.cookies import BROWSER_COOKIE, believed, set_browser_cookie
from idhub.pages.notices import ErrorNotice
from idhub.settings import Settings

_FORM = "application/x-www-form-urlencoded"


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
        """Verifies ID token hints."""

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present, aware UTC."""

    @property
    def store(self) -> Store:
        """The narrow store: what every sign-in passes."""

    @property
    def journal(self) -> Journal:
        """Counts refusals of nobody in particular."""

    def error_page(self, request: Request, notice: ErrorNotice, /) -> Response:
        """The page of an error that is shown."""


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
    """What the browser endpoints share: reading requests, redirecting, cookies, audit, the translator of errors."""

    def __init__(self, services: BrowserServices) -> None:
        self.services = services
        self.settings = services.settings
        self.database = services.database
        self.store = services.store
        self.issuer = services.settings.issuer
        self.reader = TokenReader(services.keyring, services.settings.issuer)
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

    def parameters(self, request: Request, body: bytes | None) -> Parameters:
        """Parameters of the query (GET) or of the form (POST), never of both.

        Raises:
            ShownError: request_malformed.
        """
        query = request.scope["query_string"]
        if request.method == "POST":
            media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
            if body is None or query or media_type != _FORM:
                raise ShownError("request_malformed")
            query = body
        if len(query) > (MAX_BODY if request.method == "POST" else MAX_QUERY):
            raise ShownError("request_malformed")
        try:
            return parse(query)
        except OAuthError as error:
            raise ShownError("request_malformed") from error

    def signed_in(self, browser: Browser) -> SignedIn | None:
        """Who uses this browser."""
        with self.database.read() as session:
            return authenticate(session, browser.session_token, now=browser.now)

    def redirect(self, url: str, *, set_browser_token: str | None = None) -> Response:
        """303, also after a POST: a 307 would carry the form on (RFC 9700 section 4.12)."""
        response = RedirectResponse(url, 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        if set_browser_token is not None:
            set_browser_cookie(response, self._prefix, set_browser_token, is_secure=self.settings.is_https)
        return response

    def show(self, browser: Browser, error: ShownError) -> Response:
        """The error page; nothing is redirected."""
        self.note_refusal(browser, reason=f"shown.{error.reason}", client_id=None, signed=None)
        return self.services.error_page(browser.request, ErrorNotice(error.reason))

    def note_refusal(
        self,
        browser: Browser,
        *,
        reason: str,
        client_id: str | None,
        signed: SignedIn | None,
        application_id: str | None = None,
    ) -> None:
        """Record a refusal: of a signed-in person as an event of its own, of anybody else in the count."""
        event = self._refusal(browser, reason, client_id, signed, application_id)
        if event is not None:
            with self.database.transaction(durable=False) as session:
                record(session, [event])

    async def tell_refusal(
        self,
        browser: Browser,
        *,
        reason: str,
        client_id: str | None,
        signed: SignedIn | None,
        application_id: str | None = None,
    ) -> None:
        """`note_refusal`, on the event loop."""
        event = self._refusal(browser, reason, client_id, signed, application_id)
        if event is not None:
            await self.store.write(lambda: _recording(event))

    def _refusal(
        self,
        browser: Browser,
        reason: str,
        client_id: str | None,
        signed: SignedIn | None,
        application_id: str | None,
    ) -> Event | None:
        """The event to write; None: it was counted."""
        if signed is None:
            self._journal.count(
                EventType.AUTHORIZATION_REFUSED, door="oidc", target_kind="client", target_id=client_id,
                address=browser.ip, now=browser.now, reason=reason,
            )  # fmt: skip
            return None
        return Event(
            type=EventType.AUTHORIZATION_REFUSED,
            at=browser.now,
            actor=Actor(kind="person", id=signed.principal_id, session_id=signed.session_id, ip=browser.ip),
            door="oidc",
            target_kind="client",
            target_id=client_id or "unknown",
            outcome="failure",
            reason=reason,
            request_id=browser.request_id,
            person_id=signed.principal_id,
            application_id=application_id,
        )

    def transaction(self, browser: Browser, parameters: Parameters, protocol: str) -> transactions.Transaction:
        """The login transaction that the browser resumes.

        Raises:
            ShownError: transaction_gone: unknown, of another browser, over, or of another protocol.
        """
        transaction_id = parameters.values.get("transaction", "")
        with self.database.read() as session:
            found = transactions.load(session, transaction_id, browser.browser_token, now=browser.now)
        if found is None or found.protocol != protocol:
            raise ShownError("transaction_gone")
        return found


def _recording(event: Event) -> Operation[None]:
    yield recording([event])
