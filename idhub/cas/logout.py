"""Logout that an application asks for: the person confirms, then goes back to where they came from, if it is known.

/cas/logout --> /logout?transaction= (page; the person confirms, the session ends) --> /cas/logout/resume

CAS 2.3 would end the session at once. A link in a letter could then sign people out: the hub asks, as it does for
every protocol (decision 0025).
"""

from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.access.cas_services import find_service
from idhub.cas.gateway import UNKNOWN_SERVICE, Gateway
from idhub.cas.parameters import Parameters
from idhub.credentials.transactions import Transaction
from idhub.gateway import Browser, ShownError
from idhub.logout import SIGNED_OUT_PAGE, AskedLogout, LogoutWish


class Logout(AskedLogout):
    """Begins and resumes logouts that applications ask for."""

    protocol = "cas_logout"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, door="cas")

    def begin(self, browser: Browser, parameters: Parameters) -> Response:
        """Send the browser to the confirmation page; nobody is signed out by a link alone.

        Raises:
            ShownError: the address belongs to nobody, or the request cannot be read: nothing is redirected.
        """
        if not parameters.is_sound:
            raise ShownError("invalid_logout_request", "cas.parameters")
        url = parameters.get("service")
        if url is None:
            return self._gateway.redirect(SIGNED_OUT_PAGE)
        with self._gateway.database.read() as session:
            signed = self._gateway.signed_in(session, browser)
            service = find_service(session, url)
        if service is None:
            raise ShownError("invalid_logout_request", UNKNOWN_SERVICE)
        wish = LogoutWish(
            stored={"service_url": url},
            return_to=url,
            application_id=service.application_id,
            asked_by={"cas_service": service.id},
        )
        return self.ask(browser, signed, wish)

    def way_back(self, session: Session, transaction: Transaction, browser: Browser) -> str | ShownError:
        """To the address, if it is still somebody's."""
        url = str(transaction.request["service_url"])
        if find_service(session, url) is None:
            return ShownError("invalid_logout_request", UNKNOWN_SERVICE)
        return url
