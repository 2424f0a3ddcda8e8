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
from idhub.credentials.sessions import SignedIn
from idhub.credentials.tables import SessionParticipant
from idhub.credentials.transactions import Transaction
from idhub.gateway import Browser, ShownError
from idhub.logout import SIGNED_OUT_PAGE, AskedLogout, LogoutWish
from idhub.saml.gateway import Gateway
from idhub.saml.providers import ServiceProvider, find_provider, load_provider
from idhub.wsfed.metadata import PATH
from idhub.wsfed.requests import may_return, read_sign_out


class SignOut(AskedLogout):
    """Begins and resumes sign-outs that relying parties ask for."""

    protocol = "wsfed_logout"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, door="wsfed")

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
        request = {"post_logout_redirect_uri": reply, "provider": provider.id if provider is not None else None}
        wish = LogoutWish(
            stored={name: value for name, value in request.items() if value is not None},
            return_to=reply if reply is not None and provider is not None else SIGNED_OUT_PAGE,
            application_id=provider.application_id if provider is not None else None,
            asked_by={"service_provider": provider.id} if provider is not None else {},
        )
        return self.ask(browser, signed, wish)

    def way_back(self, session: Session, transaction: Transaction, browser: Browser) -> str | ShownError:
        """To the reply address, if it is still one of the relying party's."""
        reply, known = (transaction.request.get(name) for name in ("post_logout_redirect_uri", "provider"))
        if reply is None:
            return SIGNED_OUT_PAGE
        provider = load_provider(session, known, now=browser.now, protocol="wsfed") if known else None
        if provider is None or not may_return(provider, reply):
            return ShownError("invalid_logout_request", "wsfed.reply")
        return str(reply)

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
