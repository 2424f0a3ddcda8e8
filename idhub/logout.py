"""How a person leaves because an application asked: they confirm on a page of ours, then go back where that is known.

    request --> AskedLogout.ask --> /logout?transaction= (page; the session ends) --> AskedLogout.resume --> address

Nobody is signed out by a link alone (decision 0025). A protocol makes an `AskedLogout` of its own: how a wish is read,
what of it is stored, and where it leads back to.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.orm import Session
from starlette.responses import Response

from audit.events import JsonValue
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import transactions
from idhub.credentials.sessions import SignedIn
from idhub.credentials.transactions import Transaction
from idhub.gateway import Browser, BrowserGateway, ShownError

SIGNED_OUT_PAGE: Final = "/logout"


@dataclass(frozen=True, kw_only=True, slots=True)
class LogoutWish:
    """A wish whose sender, and the address that it leads back to, are verified.

    Args:
        stored: for the transaction. The confirmation page lets its form end at `post_logout_redirect_uri`.
        return_to: where the browser goes at once when nobody is signed in.
        application_id: whose wish it is; None: nobody's in particular.
        asked_by: the registration, in events.
    """

    stored: Mapping[str, Any]
    return_to: str
    application_id: str | None = None
    client_id: str | None = None
    asked_by: Mapping[str, JsonValue] = field(default_factory=dict)


class AskedLogout(ABC):
    """See the module."""

    protocol: transactions.Protocol

    def __init__(self, gateway: BrowserGateway, *, door: str) -> None:
        self._gateway = gateway
        self._door = door

    # ---------------------------------------------------------------- what a protocol says

    @abstractmethod
    def way_back(self, session: Session, transaction: Transaction, browser: Browser) -> str | ShownError:
        """Where a stored wish leads, checked again; or what is shown because that is registered no more."""

    # ---------------------------------------------------------------- what they share

    def ask(self, browser: Browser, signed: SignedIn | None, wish: LogoutWish) -> Response:
        """Send the browser to the confirmation page."""
        gateway = self._gateway
        if signed is None:
            # Nothing is left to end, so there is nothing to ask.
            return gateway.redirect(wish.return_to)
        token, new_token = browser.token_to_keep()
        with gateway.database.transaction(durable=False) as session:
            transaction_id = transactions.begin(
                session,
                protocol=self.protocol,
                browser_token=token,
                request=dict(wish.stored),
                client_id=wish.client_id,
                application_id=wish.application_id,
                now=browser.now,
                settings=gateway.settings,
            )
            asked = logout_requested(
                browser,
                Actor(kind="person", id=signed.principal_id, session_id=signed.session_id, ip=browser.ip),
                signed.principal_id,
                signed.session_id,
                door=self._door,
                application_id=wish.application_id,
                asked_by=wish.asked_by,
            )
            record(session, [asked])
        return gateway.redirect(f"/logout?transaction={transaction_id}", set_browser_token=new_token)

    def resume(self, browser: Browser, transaction_id: str) -> Response:
        """After the confirmation page: to the application if the session has ended, else to the hub.

        Raises:
            ShownError: transaction_gone; or the address was unregistered meanwhile.
        """
        gateway = self._gateway
        with gateway.database.transaction(durable=False) as session:
            transaction = transactions.load(session, transaction_id, browser.browser_token, now=browser.now)
            if transaction is None or transaction.protocol != self.protocol:
                raise ShownError("transaction_gone")
            if gateway.signed_in(session, browser) is not None:
                # The person stayed: the application asked for a logout that did not happen.
                return gateway.redirect("/")
            if not transactions.complete(session, transaction_id, browser.browser_token or "", now=browser.now):
                raise ShownError("transaction_gone")
            target = self.way_back(session, transaction, browser)
        if isinstance(target, ShownError):
            raise target
        return gateway.redirect(target)


def logout_requested(
    browser: Browser,
    actor: Actor,
    principal_id: str,
    session_id: str,
    *,
    door: str,
    application_id: str | None,
    asked_by: Mapping[str, JsonValue],
) -> Event:
    """What is recorded of a wish to end a session."""
    return Event(
        type=EventType.LOGOUT_REQUESTED,
        at=browser.now,
        actor=actor,
        door=door,
        target_kind="session",
        target_id=session_id,
        request_id=browser.request_id,
        person_id=principal_id,
        application_id=application_id,
        details=asked_by,
    )
