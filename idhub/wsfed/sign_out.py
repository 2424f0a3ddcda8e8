"""Sign-out: what a relying party asks, the person confirms; then the browser tells every application.

/wsfed?wa=wsignout1.0 --> /logout?transaction= (page) --> /saml/logout (applications) --> /wsfed/signout --> wreply

WS-Federation 13.2.4.
"""

from collections.abc import Mapping
from urllib.parse import urlencode

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.access.tables import SamlServiceProvider
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import transactions
from idhub.credentials.sessions import SignedIn
from idhub.credentials.tables import SessionParticipant
from idhub.gateway import Browser, ShownError
from idhub.pages import new_browser_token
from idhub.saml.gateway import Gateway
from idhub.saml.providers import ServiceProvider, find_provider, load_provider
from idhub.wsfed.metadata import PATH
from idhub.wsfed.requests import may_return, read_sign_out

_SIGNED_OUT_PAGE = "/logout"


class SignOut:
    """Begins and resumes sign-outs that relying parties ask for."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def begin(self, browser: Browser, fields: Mapping[str, str]) -> Response:
        """Check the wish and send the browser to the confirmation page: nobody is signed out by a link alone.

        Without `wtrealm`, `wreply` must belong to an application that this very session was used for.

        Raises:
            ShownError: invalid_logout_request: nothing is redirected, nobody signed out.
        """
        gateway, (realm, reply) = self._gateway, read_sign_out(fields)
        if browser.request.method == "POST":
            # Another site's form brings no cookies (SameSite): the browser comes again, with them.
            wanted = {name: fields[name] for name in ("wa", "wtrealm", "wreply") if name in fields}
            return gateway.redirect(f"{PATH}?{urlencode(wanted)}")
        with gateway.database.read() as session:
            signed = gateway.signed_in(session, browser)
            provider = self._provider(session, browser, realm, reply, signed)
        if signed is None:
            # Nothing is left to end, so there is nothing to ask.
            return gateway.redirect(reply if reply is not None and provider is not None else _SIGNED_OUT_PAGE)
        known = browser.browser_token
        new_token = None if known else new_browser_token()
        # Under the name by which the confirmation page knows where its form may end.
        request = {"post_logout_redirect_uri": reply, "provider": provider.id if provider is not None else None}
        with gateway.database.transaction(durable=False) as session:
            transaction_id = transactions.begin(
                session,
                protocol="wsfed_logout",
                browser_token=new_token or known or "",
                request={name: value for name, value in request.items() if value is not None},
                application_id=provider.application_id if provider is not None else None,
                now=browser.now,
                settings=gateway.settings,
            )
            _note(session, browser, signed, provider)
        return gateway.redirect(f"/logout?transaction={transaction_id}", set_browser_token=new_token)

    def resume(self, browser: Browser, transaction_id: str) -> Response:
        """After the confirmation page: to the application if the session has ended, else to the hub.

        Raises:
            ShownError: transaction_gone; or the address was unregistered meanwhile.
        """
        gateway = self._gateway
        with gateway.database.transaction(durable=False) as session:
            transaction = transactions.load(session, transaction_id, browser.browser_token, now=browser.now)
            if transaction is None or transaction.protocol != "wsfed_logout":
                raise ShownError("transaction_gone")
            if gateway.signed_in(session, browser) is not None:
                # The person stayed.
                return gateway.redirect("/")
            if not transactions.complete(session, transaction_id, browser.browser_token or "", now=browser.now):
                raise ShownError("transaction_gone")
            reply = transaction.request.get("post_logout_redirect_uri")
            known = transaction.request.get("provider")
            provider = load_provider(session, known, now=browser.now, protocol="wsfed") if known else None
        if reply is None:
            return gateway.redirect(_SIGNED_OUT_PAGE)
        if provider is None or not may_return(provider, reply):
            raise ShownError("invalid_logout_request", "wsfed.reply")
        return gateway.redirect(reply)

    def _provider(
        self, session: Session, browser: Browser, realm: str | None, reply: str | None, signed: SignedIn | None
    ) -> ServiceProvider | None:
        """Who asks: the one of that realm, or else the one of this session that `reply` belongs to."""
        if realm is not None:
            found = find_provider(session, realm, now=browser.now, protocol="wsfed")
            if found is None:
                raise ShownError("invalid_logout_request", "wsfed.realm")
            candidates = [found]
        else:
            candidates = _of_session(session, signed, browser) if signed is not None else []
        if reply is None:
            return candidates[0] if realm is not None else None
        fitting = next((one for one in candidates if may_return(one, reply)), None)
        if fitting is None and (realm is not None or signed is not None):
            raise ShownError("invalid_logout_request", "wsfed.reply")
        return fitting


def _of_session(session: Session, signed: SignedIn, browser: Browser) -> list[ServiceProvider]:
    """The relying parties that this session was used for."""
    ids = session.execute(
        select(SamlServiceProvider.id)
        .join(SessionParticipant, SessionParticipant.service_provider_id == SamlServiceProvider.id)
        .where(SessionParticipant.session_id == signed.session_id, SamlServiceProvider.protocol == "wsfed")
        .order_by(SamlServiceProvider.id)
    ).scalars()
    loaded = [load_provider(session, one, now=browser.now, protocol="wsfed") for one in ids]
    return [one for one in loaded if one is not None]


def _note(session: Session, browser: Browser, signed: SignedIn, provider: ServiceProvider | None) -> None:
    asked = Event(
        type=EventType.LOGOUT_REQUESTED,
        at=browser.now,
        actor=Actor(kind="person", id=signed.principal_id, session_id=signed.session_id, ip=browser.ip),
        door="wsfed",
        target_kind="session",
        target_id=signed.session_id,
        request_id=browser.request_id,
        person_id=signed.principal_id,
        application_id=provider.application_id if provider is not None else None,
        details={"service_provider": provider.id} if provider is not None else {},
    )
    record(session, [asked])
