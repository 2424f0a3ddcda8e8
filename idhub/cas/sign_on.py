"""Sign-in: an application names its address, and the browser brings a ticket there.

/cas/login --> /login?transaction= ... --> /cas/login/resume --> the application's address with `ticket`

CAS 2.1, 2.2.
"""

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from starlette.responses import Response

from idhub.access.cas_services import KnownService, find_service
from idhub.cas.gateway import UNKNOWN_SERVICE, Gateway
from idhub.cas.parameters import Parameters
from idhub.credentials import transactions
from idhub.credentials.predicate import Refused
from idhub.credentials.sessions import SignedIn
from idhub.credentials.tickets import TicketRequest, issue_ticket
from idhub.credentials.transactions import Transaction
from idhub.entry import Entry
from idhub.gateway import Browser, ShownError
from idhub.login import flow
from idhub.pages.notices import Carried

Method = Literal["GET", "POST"]
_METHODS: dict[str, Method] = {"GET": "GET", "POST": "POST"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketAsked:
    """A request whose address belongs to an application.

    Args:
        service_url: the address, to the letter.
        is_forced: the person must sign in for it (`renew`).
        is_silent: nobody must be asked anything (`gateway`).
    """

    service: KnownService
    service_url: str
    is_forced: bool
    is_silent: bool
    method: Method

    @property
    def application_id(self) -> str:
        """The application that is entered."""
        return self.service.application_id

    @property
    def registration_id(self) -> str:
        """For events."""
        return self.service.id

    @property
    def requirements(self) -> flow.Requirements:
        """CAS 2.1.1: of both switches `renew` is the one that counts."""
        if self.is_forced:
            return flow.Requirements(prompt=frozenset({"login"}))
        return flow.Requirements(prompt=frozenset({"none"} if self.is_silent else ()))

    @property
    def answers_not_entitled(self) -> bool:
        """There is no answer that says no."""
        return False

    def stored(self) -> dict[str, Any]:
        """For the login transaction."""
        return {
            "service_url": self.service_url,
            "is_forced": self.is_forced,
            "is_silent": self.is_silent,
            "method": self.method,
        }


class SignOn(Entry[TicketAsked]):
    """Begins and resumes sign-ins that applications ask for."""

    protocol: transactions.Protocol = "cas"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self._pages = gateway.services

    def begin(self, browser: Browser, parameters: Parameters) -> Response:
        """Answer a request, or send the browser where its person signs in.

        Raises:
            ShownError: the address belongs to nobody, or the request cannot be read.
        """
        if not parameters.is_sound:
            raise ShownError("request_malformed", "cas.parameters")
        url = parameters.get("service")
        if url is None:
            # CAS 2.1.1: nobody asks for a ticket: whoever wants to sign in does so at the hub itself.
            return self._gateway.redirect("/")
        method = _METHODS.get((parameters.get("method") or "GET").upper())
        if method is None:
            raise ShownError("request_malformed", "cas.method")
        request = TicketAsked(
            service=self._service(url),
            service_url=url,
            is_forced=parameters.is_set("renew"),
            is_silent=parameters.is_set("gateway"),
            method=method,
        )
        return self.proceed(browser, request, None)

    def resume(self, browser: Browser, transaction_id: str) -> Response:
        """Go on with a stored request after a page is done; the registration is checked again.

        Raises:
            ShownError: the transaction is over, or the address belongs to nobody any more.
        """
        transaction = self.resumed(browser, transaction_id)
        stored = transaction.request
        return self.proceed(browser, TicketAsked(**stored, service=self._service(stored["service_url"])), transaction)

    def issue(
        self, browser: Browser, request: TicketAsked, transaction: Transaction | None, signed: SignedIn
    ) -> Response | Refused:
        """Bring a ticket to the application's address. CAS 2.2.4."""
        with self._gateway.database.transaction(durable=False) as session:
            ticket = issue_ticket(
                session,
                signed.session_id,
                TicketRequest(
                    service_id=request.service.id,
                    service_url=request.service_url,
                    is_fresh=transaction is not None and transaction.session_id == signed.session_id,
                    ip=browser.ip,
                    request_id=browser.request_id,
                ),
                now=browser.now,
                settings=self._gateway.settings,
            )
            if isinstance(ticket, Refused):
                return ticket
            self.close(session, browser, transaction)
        if request.method == "POST":
            fields = (("ticket", ticket),)
            return self._pages.carrying_page(browser.request, Carried(action=request.service_url, fields=fields))
        return self._gateway.redirect(_with_ticket(request.service_url, ticket))

    def declined(self, browser: Browser, request: TicketAsked, refusal: flow.Refusal) -> Response:
        """CAS 2.1.1: back without a ticket."""
        return self._gateway.redirect(request.service_url)

    def _service(self, url: str) -> KnownService:
        with self._gateway.database.read() as session:
            service = find_service(session, url)
        if service is None:
            raise ShownError(UNKNOWN_SERVICE)
        return service


def _with_ticket(url: str, ticket: str) -> str:
    if url.endswith(("?", "&")):
        return f"{url}ticket={ticket}"
    return f"{url}{'&' if urlsplit(url).query else '?'}ticket={ticket}"
