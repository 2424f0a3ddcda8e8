"""Validation: an application asks with the ticket that a browser brought it, once, who came. CAS 2.4, 2.5.

Nobody authenticates here: whoever holds the ticket and knows the address it was for is believed to serve that address.
"""

from typing import Final, Literal

from starlette.responses import Response

from idhub.access.attributes import person_values, released
from idhub.cas.answers import Answered, Code, Form, failure, success
from idhub.cas.gateway import Gateway
from idhub.cas.parameters import Parameters
from idhub.credentials.tickets import TicketRefused, looks_like_ticket, validate_ticket
from idhub.gateway import Browser

Version = Literal[1, 2, 3]
"""Of the protocol: 1 tells a name in a line, 2 in XML, 3 attributes with it."""
_MAX_TICKET: Final = 256


class Validation:
    """Answers applications."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def answer(self, browser: Browser, parameters: Parameters, version: Version) -> Response:
        """Who came with the ticket; a refusal is an answer like any other.

        `pgtUrl` is passed over: there are no proxy tickets, and the answer names none (CAS 2.5.4).
        """
        form: Form = "line" if version == 1 else "xml"
        if version != 1 and (parameters.get("format") or "").upper() == "JSON":
            form = "json"
        url, ticket = parameters.get("service"), parameters.get("ticket")
        if not parameters.is_sound or url is None or ticket is None:
            return self._refuse(browser, TicketRefused("request_malformed"), "INVALID_REQUEST", form)
        if len(ticket) > _MAX_TICKET or not looks_like_ticket(ticket):
            return self._refuse(browser, TicketRefused("ticket_unknown"), "INVALID_TICKET_SPEC", form)
        gateway = self._gateway
        with gateway.database.transaction(durable=False) as session:
            found = validate_ticket(
                session,
                ticket,
                url,
                must_be_fresh=parameters.is_set("renew"),
                ip=browser.ip,
                request_id=browser.request_id,
                now=browser.now,
                settings=gateway.settings,
            )
            if isinstance(found, TicketRefused):
                gateway.note_ticket(session, browser, found)
                return failure("INVALID_SERVICE" if found.reason == "wrong_service" else "INVALID_TICKET", form)
            attributes = None
            if version > 2:
                values = person_values(session, found.principal_id, found.application_id, now=browser.now)
                attributes = released(found.released, values)
        return success(
            Answered(
                user=found.user,
                attributes=attributes,
                authenticated_at=found.authenticated_at,
                is_fresh=found.is_fresh,
            ),
            form,
        )

    def _refuse(self, browser: Browser, refused: TicketRefused, code: Code, form: Form) -> Response:
        self._gateway.count_ticket(browser, refused)
        return failure(code, form)
