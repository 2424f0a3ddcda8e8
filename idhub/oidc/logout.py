"""RP-initiated logout (OIDC RP-Initiated Logout 1.0): what the application asks, the person confirms.

/oauth2/logout --> /logout?transaction= (page; the person confirms, the session ends) --> /oauth2/logout/resume
"""

from urllib.parse import urlencode

from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.credentials.transactions import Transaction
from idhub.gateway import Browser, ShownError
from idhub.logout import SIGNED_OUT_PAGE, AskedLogout, LogoutWish
from idhub.oidc.clients import Client, find_client
from idhub.oidc.errors import OAuthError
from idhub.oidc.gateway import Gateway
from idhub.oidc.metadata import LOGOUT_PATH
from idhub.oidc.parameters import Parameters


class Logout(AskedLogout):
    """Begins and resumes logouts that applications ask for."""

    protocol = "oidc_logout"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, door="oidc")
        self._reader = gateway.reader

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
            claims = self._reader.id_token_hint(hint)
            # Section 2: the client named is the one that the ID token was issued to.
            if claims is None or (client_id is not None and client_id != claims["aud"]):
                raise ShownError("invalid_logout_request")
            client_id = str(claims["aud"])
        with gateway.database.read() as session:
            client = find_client(session, client_id) if client_id is not None else None
        if client_id is not None and client is None:
            raise ShownError("invalid_logout_request")
        if not _may_return(client, target):
            raise ShownError("invalid_logout_request")
        with gateway.database.read() as session:
            signed = gateway.signed_in(session, browser)
        request = {"post_logout_redirect_uri": target, "state": state}
        if browser.request.method == "POST" and browser.session_token is None:
            # Another site's form brings no cookies (SameSite): the browser comes again, with them. The hint has said
            # who asks, and stays out of the address.
            named = {"client_id": client_id, **request}
            wanted = urlencode({name: value for name, value in named.items() if value is not None})
            return gateway.redirect(f"{LOGOUT_PATH}?{wanted}")
        wish = LogoutWish(
            stored={name: value for name, value in request.items() if value is not None},
            return_to=_target_url(target, state),
            application_id=client.application_id if client is not None else None,
            client_id=client_id,
            asked_by={"client": client.client_id} if client is not None else {},
        )
        return self.ask(browser, signed, wish)

    def way_back(self, session: Session, transaction: Transaction, browser: Browser) -> str | ShownError:
        """To the address, if the client still has it."""
        client = find_client(session, transaction.client_id) if transaction.client_id is not None else None
        target = transaction.request.get("post_logout_redirect_uri")
        if not _may_return(client, target):
            return ShownError("invalid_logout_request")
        return _target_url(target, transaction.request.get("state"))


def _may_return(client: Client | None, target: str | None) -> bool:
    """Section 3: exactly one of those that this client registered; without a client there is none."""
    return target is None or (client is not None and target in client.post_logout_redirect_uris)


def _target_url(target: str | None, state: str | None) -> str:
    if target is None:
        return SIGNED_OUT_PAGE
    if state is None:
        return target
    return target + ("&" if "?" in target else "?") + urlencode({"state": state})
