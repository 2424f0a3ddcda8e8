"""RP-initiated logout (OIDC RP-Initiated Logout 1.0): what the application asks, the person confirms.

/oauth2/logout --> /logout?transaction= (page; the person confirms, the session ends) --> /oauth2/logout/resume
"""

from urllib.parse import urlencode

from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import transactions
from idhub.credentials.sessions import SignedIn
from idhub.gateway import Browser, ShownError
from idhub.oidc.clients import Client, find_client
from idhub.oidc.errors import OAuthError
from idhub.oidc.gateway import Gateway
from idhub.oidc.parameters import Parameters
from idhub.pages import new_browser_token

_SIGNED_OUT_PAGE = "/logout"


class Logout:
    """Begins and resumes logouts that applications ask for."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def begin(self, browser: Browser, parameters: Parameters) -> Response:
        """Check the wish and send the browser to the confirmation page; nobody is signed out by a link alone.

        Raises:
            ShownError: invalid_logout_request: nothing is redirected, nobody signed out.
        """
        gateway = self._gateway
        try:
            parameters.check()
            hint = parameters.get("id_token_hint")
            client_id = parameters.get("client_id")
            target = parameters.get("post_logout_redirect_uri")
            state = parameters.get("state")
        except OAuthError as error:
            raise ShownError("invalid_logout_request") from error
        if hint is not None:
            claims = gateway.reader.id_token_hint(hint)
            # Section 2: the client named is the one that the ID token was issued to.
            if claims is None or (client_id is not None and client_id != claims["aud"]):
                raise ShownError("invalid_logout_request")
            client_id = str(claims["aud"])
        with gateway.database.read() as session:
            client = find_client(session, client_id) if client_id is not None else None
        if client_id is not None and client is None:
            raise ShownError("invalid_logout_request")
        # Section 3: exactly one of those that this client registered; without a client there is none.
        if target is not None and (client is None or target not in client.post_logout_redirect_uris):
            raise ShownError("invalid_logout_request")
        signed = gateway.signed_in(browser)
        if signed is None:
            # Nothing is left to end, so there is nothing to ask.
            return gateway.redirect(_target_url(target, state))
        known = browser.browser_token
        new_token = None if known else new_browser_token()
        request = {"post_logout_redirect_uri": target, "state": state}
        with gateway.database.transaction(durable=False) as session:
            transaction_id = transactions.begin(
                session,
                protocol="oidc_logout",
                browser_token=new_token or known or "",
                request={name: value for name, value in request.items() if value is not None},
                client_id=client_id,
                application_id=client.application_id if client is not None else None,
                now=browser.now,
                settings=gateway.settings,
            )
            _note(session, browser, signed, client)
        return gateway.redirect(f"/logout?transaction={transaction_id}", set_browser_token=new_token)

    def resume(self, browser: Browser, parameters: Parameters) -> Response:
        """After the confirmation page: to the application if the session has ended, else to the hub.

        Raises:
            ShownError: transaction_gone; or the address was unregistered meanwhile.
        """
        gateway = self._gateway
        transaction = gateway.transaction(browser, parameters, "oidc_logout")
        if gateway.signed_in(browser) is not None:
            # The person stayed: the application asked for a logout that did not happen (section 3).
            return gateway.redirect("/")
        target = transaction.request.get("post_logout_redirect_uri")
        with gateway.database.transaction(durable=False) as session:
            if not transactions.complete(session, transaction.id, browser.browser_token or "", now=browser.now):
                raise ShownError("transaction_gone")
            client = find_client(session, transaction.client_id) if transaction.client_id is not None else None
        if target is not None and (client is None or target not in client.post_logout_redirect_uris):
            raise ShownError("invalid_logout_request")
        return gateway.redirect(_target_url(target, transaction.request.get("state")))


def _target_url(target: str | None, state: str | None) -> str:
    if target is None:
        return _SIGNED_OUT_PAGE
    if state is None:
        return target
    return target + ("&" if "?" in target else "?") + urlencode({"state": state})


def _note(session: Session, browser: Browser, signed: SignedIn, client: Client | None) -> None:
    event = Event(
        type=EventType.LOGOUT_REQUESTED,
        at=browser.now,
        actor=Actor(kind="person", id=signed.principal_id, session_id=signed.session_id, ip=browser.ip),
        door="oidc",
        target_kind="session",
        target_id=signed.session_id,
        request_id=browser.request_id,
        person_id=signed.principal_id,
        application_id=client.application_id if client is not None else None,
        details={"client": client.client_id} if client is not None else {},
    )
    record(session, [event])
