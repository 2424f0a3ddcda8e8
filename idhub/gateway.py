"""What every sign-in protocol does with a browser: read its cookies, redirect it, record that it was refused.

Protocols (`oidc`, `saml`) make a gateway of their own of it. Pages have theirs in `web.visit`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import transactions
from idhub.credentials.journal import Journal
from idhub.credentials.sessions import SignedIn, authenticate
from idhub.db import Database
from idhub.keys import Keyring
from idhub.login.addresses import client_address, trusted_networks
from idhub.logs import request_id
from idhub.pages.cookies import BROWSER_COOKIE, believed, new_browser_token, set_browser_cookie
from idhub.pages.notices import ErrorNotice
from idhub.settings import Settings


async def read_posted(request: Request, *, most: int) -> bytes | None:
    """What was posted, read piece by piece; None when it is more than `most` bytes, whatever it says of its length."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


class ShownError(Exception):
    """A refusal that is shown to the person and never sent anywhere: who asks, or where the answer goes, is unverified.

    RFC 6749 section 4.1.2.1: the authorization server must not redirect to an invalid redirection URI.

    Args:
        reason: stable code; picks the sentence of the error page.
        cause: finer code for the audit log; never told.
    """

    def __init__(self, reason: str, cause: str | None = None) -> None:
        super().__init__(cause or reason)
        self.reason = reason
        self.cause = cause or reason


class HubServices(Protocol):
    """The part of `idhub.app.Services` that everything which answers requests uses: protocols, pages, the API."""

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""

    @property
    def database(self) -> Database:
        """The one database."""

    @property
    def keyring(self) -> Keyring:
        """Keys by purpose."""

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present, aware UTC. Routes read it once and hand it down as `now`."""

    @property
    def journal(self) -> Journal:
        """Counts refusals of nobody in particular."""


class BrowserServices(HubServices, Protocol):
    """The part of `idhub.app.Services` that every protocol uses."""

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

    def token_to_keep(self) -> tuple[str, str | None]:
        """What this browser is known by from now on, and the same to give it, when it had none."""
        if self.browser_token:
            return self.browser_token, None
        token = new_browser_token()
        return token, token


class BrowserGateway:
    """See the module.

    Args:
        door: of the protocol, in events.
        target_kind: what refusals are about: "client", "service_provider".
    """

    def __init__(self, services: BrowserServices, *, door: str, target_kind: str) -> None:
        self.settings = services.settings
        self.database = services.database
        self.issuer = services.settings.issuer
        self._clock = services.clock
        self._error_page = services.error_page
        self._journal = services.journal
        self._door = door
        self._target_kind = target_kind
        self._prefix = services.settings.cookie_prefix
        self._trusted = trusted_networks(services.settings.trusted_proxies)

    def browser(self, request: Request) -> Browser:
        """What this browser brought."""
        peer = request.client.host if request.client else ""
        return Browser(
            request,
            self._clock(),
            request.cookies.get(f"{self._prefix}session"),
            believed(request.cookies.get(self._prefix + BROWSER_COOKIE)),
            client_address(peer, request.headers.getlist("x-forwarded-for"), self._trusted),
            request_id.get(),
        )

    def signed_in(self, session: Session, browser: Browser) -> SignedIn | None:
        """Who uses this browser."""
        return authenticate(session, browser.session_token, now=browser.now)

    def claim(self, browser: Browser, path: str, transaction_id: str, given: str) -> Response:
        """Let a browser that comes again, now with its cookies, go on at `path` with what it posted without them.

        Raises:
            ShownError: transaction_gone.
        """
        token, new_token = browser.token_to_keep()
        with self.database.transaction(durable=False) as session:
            if not transactions.claim(session, transaction_id, given, token, now=browser.now):
                raise ShownError("transaction_gone")
        return self.redirect(f"{path}?transaction={transaction_id}", set_browser_token=new_token)

    def redirect(self, url: str, *, set_browser_token: str | None = None) -> Response:
        """303, also after a POST: a 307 would carry the form on (RFC 9700 section 4.12)."""
        response = RedirectResponse(url, 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        if set_browser_token is not None:
            self.give_browser_token(response, set_browser_token)
        return response

    def give_browser_token(self, response: Response, token: str) -> None:
        """Give the browser the cookie that tells it from others."""
        set_browser_cookie(response, self._prefix, token, is_secure=self.settings.is_https)

    def show(self, browser: Browser, error: ShownError) -> Response:
        """The error page; nothing is sent anywhere."""
        self.note_refusal(browser, reason=f"shown.{error.cause}", target_id=None, signed=None)
        return self._error_page(browser.request, ErrorNotice(error.reason))

    def note_refusal(
        self,
        browser: Browser,
        *,
        reason: str,
        target_id: str | None,
        signed: SignedIn | None,
        application_id: str | None = None,
    ) -> None:
        """Record a refusal: of a signed-in person as an event of its own, of anybody else in the count."""
        event = self.refusal(browser, reason, target_id, signed, application_id)
        if event is not None:
            with self.database.transaction(durable=False) as session:
                record(session, [event])

    def refusal(
        self, browser: Browser, reason: str, target_id: str | None, signed: SignedIn | None, application_id: str | None
    ) -> Event | None:
        """The event to record; None: it was counted."""
        if signed is None:
            self._journal.count(
                EventType.AUTHORIZATION_REFUSED, door=self._door, target_kind=self._target_kind, target_id=target_id,
                address=browser.ip, now=browser.now, reason=reason,
            )  # fmt: skip
            return None
        return Event(
            type=EventType.AUTHORIZATION_REFUSED,
            at=browser.now,
            actor=Actor(kind="person", id=signed.principal_id, session_id=signed.session_id, ip=browser.ip),
            door=self._door,
            target_kind=self._target_kind,
            target_id=target_id or "unknown",
            outcome="failure",
            reason=reason,
            request_id=browser.request_id,
            person_id=signed.principal_id,
            application_id=application_id,
        )
