"""Logout that an application asks for: the person confirms, then goes back to where they came from, if it is known.

/cas/logout --> /logout?transaction= (page; the person confirms, the session ends) --> /cas/logout/resume

CAS 2.3 would end the session at once. A link in a letter could then sign people out: the hub asks, as it does for
every protocol (decision 0025).
"""

from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.access.cas_services import KnownService, find_service
from idhub.cas.gateway import UNKNOWN_SERVICE, Gateway
from idhub.cas.parameters import Parameters
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import transactions
from idhub.credentials.sessions import SignedIn, authenticate
from idhub.gateway import Browser, ShownError
from idhub.pages import new_browser_token

_SIGNED_OUT_PAGE = "/logout"


class Logout:
    """Begins and resumes logouts that applications ask for."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def begin(self, browser: Browser, parameters: Parameters) -> Response:
        """Send the browser to the confirmation page; nobody is signed out by a link alone.

        Raises:
            ShownError: the address belongs to nobody, or the request cannot be read: nothing is redirected.
        """
        gateway = self._gateway
        if not parameters.is_sound:
            raise ShownError("invalid_logout_request", "cas.parameters")
        url = parameters.get("service")
        if url is None:
            return gateway.redirect(_SIGNED_OUT_PAGE)
        with gateway.database.read() as session:
            signed = authenticate(session, browser.session_token, now=browser.now)
            service = find_service(session, url)
        if service is None:
            raise ShownError("invalid_logout_request", UNKNOWN_SERVICE)
        if signed is None:
            # Nothing is left to end, so there is nothing to ask.
            return gateway.redirect(url)
        known = browser.browser_token
        new_token = None if known else new_browser_token()
        with gateway.database.transaction(durable=False) as session:
            transaction_id = transactions.begin(
                session,
                protocol="cas_logout",
                browser_token=new_token or known or "",
                request={"service_url": url},
                application_id=service.application_id,
                now=browser.now,
                settings=gateway.settings,
            )
            _note(session, browser, signed, service)
        return gateway.redirect(f"/logout?transaction={transaction_id}", set_browser_token=new_token)

    def resume(self, browser: Browser, transaction_id: str) -> Response:
        """After the confirmation page: to the application if the session has ended, else to the hub.

        Raises:
            ShownError: transaction_gone; or the address belongs to nobody any more.
        """
        gateway = self._gateway
        with gateway.database.transaction(durable=False) as session:
            transaction = transactions.load(session, transaction_id, browser.browser_token, now=browser.now)
            if transaction is None or transaction.protocol != "cas_logout":
                raise ShownError("transaction_gone")
            if authenticate(session, browser.session_token, now=browser.now) is not None:
                # The person stayed: the application asked for a logout that did not happen.
                return gateway.redirect("/")
            if not transactions.complete(session, transaction.id, browser.browser_token or "", now=browser.now):
                raise ShownError("transaction_gone")
            url = str(transaction.request["service_url"])
            is_known = find_service(session, url) is not None
        if not is_known:
            raise ShownError("invalid_logout_request", UNKNOWN_SERVICE)
        return gateway.redirect(url)


def _note(session: Session, browser: Browser, signed: SignedIn, service: KnownService) -> None:
    event = Event(
        type=EventType.LOGOUT_REQUESTED,
        at=browser.now,
        actor=Actor(kind="person", id=signed.principal_id, session_id=signed.session_id, ip=browser.ip),
        door="cas",
        target_kind="session",
        target_id=signed.session_id,
        request_id=browser.request_id,
        person_id=signed.principal_id,
        application_id=service.application_id,
        details={"cas_service": service.id},
    )
    record(session, [event])
