"""What the CAS endpoints share beside `idhub.gateway`: pages, and how refusals of tickets are recorded."""

from typing import Final, Protocol

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from idhub.changes import Actor, Event, EventType, record
from idhub.credentials.tickets import TicketRefused
from idhub.gateway import Browser, BrowserGateway, BrowserServices
from idhub.pages.notices import Carried

LOGIN_PATH: Final = "/cas/login"
RESUME_PATH: Final = "/cas/login/resume"
LOGOUT_PATH: Final = "/cas/logout"
LOGOUT_RESUME_PATH: Final = "/cas/logout/resume"
UNKNOWN_SERVICE: Final = "unknown_service"
_KIND: Final = "cas_service"


class CasServices(BrowserServices, Protocol):
    """The part of `idhub.app.Services` that these endpoints use."""

    def carrying_page(self, request: Request, carried: Carried, /) -> Response:
        """The page whose form the browser carries to an application."""


class Gateway(BrowserGateway):
    """See the module."""

    def __init__(self, services: CasServices) -> None:
        super().__init__(services, door="cas", target_kind=_KIND)
        self.services = services

    def note_ticket(self, session: Session, browser: Browser, refused: TicketRefused) -> None:
        """Record a refusal: of a ticket that was good until now as an event of its own, of any other in the count."""
        if refused.principal_id is None:
            self.count_ticket(browser, refused)
            return
        event = Event(
            type=EventType.TICKET_REFUSED,
            at=browser.now,
            actor=Actor(kind="client", id=refused.service_id or "unknown", ip=browser.ip),
            door="cas",
            target_kind=_KIND,
            target_id=refused.service_id or "unknown",
            outcome="failure",
            reason=refused.reason,
            request_id=browser.request_id,
            person_id=refused.principal_id,
            application_id=refused.application_id,
        )
        record(session, [event])

    def count_ticket(self, browser: Browser, refused: TicketRefused) -> None:
        """Count a refusal that says nothing of anybody: whoever repeats it fills no disk."""
        self._journal.count(
            EventType.TICKET_REFUSED, door="cas", target_kind=_KIND, target_id=refused.service_id,
            address=browser.ip, now=browser.now, reason=refused.reason,
        )  # fmt: skip
