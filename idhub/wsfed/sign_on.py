"""Sign-in: a request, the next step, and the token. What lies between is `idhub.saml.sign_on`.

/wsfed?wa=wsignin1.0 --> /login?transaction= ... --> /wsfed/resume --> a form that the browser carries on
"""

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from idhub.gateway import Browser
from idhub.login.contexts import OTHERS_SIGN_INS, OWN_SIGN_INS
from idhub.login.providers import has_providers
from idhub.pages.notices import ErrorNotice
from idhub.saml import answers
from idhub.saml.answers import Issued
from idhub.saml.errors import SamlError
from idhub.saml.providers import find_provider
from idhub.saml.requests import AuthnRequest
from idhub.saml.sign_on import SignOn
from idhub.wsfed.metadata import RESUME_PATH
from idhub.wsfed.requests import SIGN_IN, read_sign_in
from idhub.wsfed.tokens import response
from providers.saml_wire import names
from providers.saml_wire.writing import render

_NOTICES: Final[Mapping[str | None, str]] = {
    names.NO_AUTHN_CONTEXT: "unsupported_authentication",
    names.INVALID_NAME_ID_POLICY: "nameless",
}


class TokenSignOn(SignOn):
    """Sign-ins that relying parties ask for, answered by a token."""

    protocol = "wsfed"
    resume_path = RESUME_PATH

    def ask(self, browser: Browser, fields: Mapping[str, str]) -> Response:
        """Answer a request, or send the browser where its person signs in.

        Raises:
            ShownError: the relying party, where the answer would go, or what is asked for cannot be trusted.
        """
        with self._gateway.database.read() as session:
            request = read_sign_in(
                fields,
                lambda realm: find_provider(session, realm, now=browser.now, protocol="wsfed"),
                sign_ins=[*OWN_SIGN_INS, *(OTHERS_SIGN_INS if has_providers(session) else ())],
            )
        return self._begun(browser, request)

    def _deliver(self, browser: Browser, request: AuthnRequest, issued: Issued) -> Response:
        gateway = self._gateway
        stated = answers.statement(request, issued)
        token = response(gateway.entity_id, stated, request.provider.assertion_version, gateway.signer, now=browser.now)
        # Browsers change the line ends of a field that is sent; written so, they are the same to whoever reads XML.
        fields = [("wa", SIGN_IN), ("wresult", render(token).replace("\n", "&#xA;"))]
        if request.relay_state is not None:
            fields.append(("wctx", request.relay_state))
        return self._form(browser, request, fields)

    def _answer_no(self, browser: Browser, request: AuthnRequest, error: SamlError) -> Response:
        """There is no answer that says no: the person reads it here."""
        return self._gateway.services.error_page(browser.request, ErrorNotice(_NOTICES.get(error.detail, "")))
