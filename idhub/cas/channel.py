"""The channel `cas_logout`: tells an application that the session behind one of its tickets has ended.

What it proves is that the application took the message (E1). The protocol defines no answer: what the evidence holds
is the status that came back, and whether the application ended anything it alone knows. CAS 2.3.3.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select

from idhub.access.tables import CasService
from idhub.cas.planner import CHANNEL
from idhub.db import Database
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome
from idhub.delivery.http import OutboundError, OutboundHttp, OutboundRefused, OutboundResponse
from idhub.lifecycle.logouts import CEILING
from providers.saml_wire.writing import Node, render

# CAS 2.3.3: the name is not used, the ticket alone says which session is meant.
_NOBODY: Final = "@NOT_USED@"
_FIRST_ERROR: Final = 400
# Found, and See Other: what was sent has been dealt with. The other redirects want it sent again elsewhere.
_GO_ON: Final = frozenset({302, 303})


class CasLogoutChannel:
    """Sends logout requests. The payload names `service_id`, `logout_url`, `sid` (the ticket).

    Args:
        timeout: total deadline of one request.
    """

    name: Final = CHANNEL
    ceiling: Final = CEILING

    def __init__(self, database: Database, http: OutboundHttp, *, timeout: timedelta) -> None:
        self._database = database
        self._http = http
        self._timeout = timeout

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        """POST a LogoutRequest. Sending again ends what is ended already."""
        evidence: dict[str, Any] = {
            "service_id": delivery.payload["service_id"],
            "sent_at": now.isoformat(),
            "residual_until": None,
        }
        address = await asyncio.to_thread(self._address, delivery)
        if address is None:
            return Outcome(kind="dead", evidence=evidence, error="The application takes no logout any more.")
        form = {"logoutRequest": logout_request(delivery.id, str(delivery.payload["sid"]), now=now)}
        try:
            answer = await self._http.request("POST", address, data=form, timeout=self._timeout)
        except OutboundRefused as refused:
            return Outcome(kind="dead", evidence=evidence, error=refused.description)
        except OutboundError as error:
            return Outcome(kind="retry", evidence=evidence, error=error.description)
        evidence["status"] = answer.status
        problem = _problem(answer)
        if problem is None:
            return Outcome(kind="done", grade=Grade.E1, evidence=evidence, status_code=answer.status)
        return Outcome(
            kind="retry",
            evidence=evidence,
            status_code=answer.status,
            error=problem,
            retry_after=answer.retry_after(now=now),
        )

    def _address(self, delivery: LeasedDelivery) -> str | None:
        """Where it is told now: an address that was changed since the session ended is the better one."""
        with self._database.read() as session:
            row = session.execute(
                select(CasService.logout, CasService.logout_url).where(CasService.id == delivery.payload["service_id"])
            ).first()
        if row is None or row.logout == "none":
            return None
        return row.logout_url if row.logout == "url" else str(delivery.payload["logout_url"])


def _problem(answer: OutboundResponse) -> str | None:
    """Why the message was not taken; None: it was.

    No answer is defined. Success is one. So is a redirect to some page: django-cas-ng and mod_auth_cas end the session
    and send the hub to where their people go, or to its own sign-in.
    """
    if answer.is_success or answer.status in _GO_ON:
        return None
    if answer.status < _FIRST_ERROR:
        return f"The application answered {answer.status}: its address for logouts is another one."
    return f"The application answered {answer.status}."


def logout_request(delivery_id: str, ticket: str, *, now: datetime) -> str:
    """The message: a LogoutRequest of SAML whose SessionIndex is the ticket. CAS appendix C."""
    return render(
        Node(
            "samlp:LogoutRequest",
            {
                "ID": f"_{delivery_id}",
                "Version": "2.0",
                "IssueInstant": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            },
            [Node("saml:NameID", {}, [_NOBODY]), Node("samlp:SessionIndex", {}, [ticket])],
        )
    )
