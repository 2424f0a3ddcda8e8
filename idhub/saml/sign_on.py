"""Single Sign-On: a request, the next step of the sign-in, and the response.

/saml/sso --> /login?transaction= ... --> /saml/sso/resume --> a form, or an artifact, that the browser carries to the
application
"""

from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from idhub.access.service_providers import Spoken
from idhub.credentials.assertions import is_first_use
from idhub.credentials.predicate import Refused
from idhub.credentials.sessions import SignedIn
from idhub.credentials.transactions import Transaction
from idhub.entry import NOT_ENTITLED, Entry
from idhub.gateway import Browser, ShownError
from idhub.login import flow
from idhub.login.contexts import OTHERS_SIGN_INS, OWN_SIGN_INS
from idhub.login.providers import has_providers
from idhub.pages import new_browser_token
from idhub.pages.notices import Carried
from idhub.saml import answers
from idhub.saml.answers import Issued
from idhub.saml.artifacts import leave_answer
from idhub.saml.errors import UNNAMED, SamlError, responder
from idhub.saml.gateway import Gateway
from idhub.saml.metadata import RESUME_PATH, SSO_PATH
from idhub.saml.providers import find_provider, load_provider, provider_of
from idhub.saml.requests import (
    REQUEST_LIFETIME,
    SKEW,
    AuthnRequest,
    open_message,
    read_authn_request,
    restored,
)
from providers.saml_wire import names
from providers.saml_wire.bindings import Received, post_value, write_artifact
from providers.saml_wire.writing import Node, render

_SWITCHED_OFF: Final = frozenset({"client_disabled", "application_disabled"})
_REFUSALS: Final = {
    flow.Refusal.LOGIN_REQUIRED: responder(names.NO_PASSIVE, "login_required"),
    flow.Refusal.CONTEXT_UNMET: responder(names.NO_AUTHN_CONTEXT, "saml.context"),
    flow.Refusal.ACCESS_DENIED: responder(names.REQUEST_DENIED, f"access_denied.{NOT_ENTITLED}"),
}


class SignOn(Entry[AuthnRequest]):
    """Begins and resumes sign-ins that service providers ask for.

    `idhub.wsfed` stands on it: another form of request and answer, the same rules between them.
    """

    protocol: Spoken = "saml"
    resume_path: str = RESUME_PATH

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self._gateway: Gateway = gateway

    def begin(self, browser: Browser, received: Received) -> Response:
        """Answer a request, or send the browser where its person signs in.

        Raises:
            ShownError: the service provider, or where the answer would go, cannot be trusted.
        """
        gateway = self._gateway
        if received.kind != "SAMLRequest":
            raise ShownError("request_malformed", "saml.message")
        with gateway.database.read() as session:
            envelope = open_message(
                received,
                ["AuthnRequest"],
                gateway.issuer + SSO_PATH,
                lambda entity_id: find_provider(session, entity_id, now=browser.now),
                now=browser.now,
            )
            sign_ins = [*OWN_SIGN_INS, *(OTHERS_SIGN_INS if has_providers(session) else ())]
        request = read_authn_request(envelope, received.relay_state, sign_ins=sign_ins)
        with gateway.database.transaction(durable=False) as session:
            # Last of the checks, because it writes: what was refused before may come again, repaired.
            expires_at = browser.now + REQUEST_LIFETIME + SKEW
            if not is_first_use(session, request.provider.id, envelope.id, expires_at=expires_at):
                raise ShownError("request_replayed")
        return self._begun(browser, request)

    def _begun(self, browser: Browser, request: AuthnRequest) -> Response:
        """Go on with a request that was read just now."""
        if request.refusal is not None:
            return self._refuse(browser, request, None, request.refusal, None)
        if browser.request.method == "POST":
            # Another site's form brings no cookies (SameSite): the browser comes again, with them.
            return self._ask_again(browser, request)
        return self.proceed(browser, request, None)

    def launch(self, browser: Browser, slug: str) -> Response:
        """Sign in to an application without its asking (IdP-initiated), where it allows that.

        Raises:
            ShownError: there is no such application, or it does not allow it.
        """
        provider = None
        # PostgreSQL takes no NUL in a text, not even to look for it.
        if slug.isprintable():
            with self._gateway.database.read() as session:
                provider = provider_of(session, slug, now=browser.now)
        if provider is None or not provider.allows_idp_initiated:
            raise ShownError("unknown_service_provider", "saml.launch")
        consumer = provider.default_consumer()
        if consumer is None:
            raise ShownError("invalid_consumer", "saml.launch")
        request = AuthnRequest(
            id=None,
            provider=provider,
            consumer=consumer.location,
            binding=consumer.binding,
            relay_state=None,
            name_id_format=provider.name_id_format,
        )
        return self.proceed(browser, request, None)

    def resume(self, browser: Browser, transaction_id: str, given: str | None) -> Response:
        """Go on with a stored request after a page is done; the registration is checked again.

        Args:
            given: binds a request that came by POST to the browser that brought it.

        Raises:
            ShownError: the transaction is over, or the registration was changed meanwhile.
        """
        if given is not None:
            return self._gateway.claim(browser, self.resume_path, transaction_id, given)
        transaction = self.resumed(browser, transaction_id)
        with self._gateway.database.read() as session:
            provider = load_provider(session, transaction.request["provider"], now=browser.now, protocol=self.protocol)
        return self.proceed(browser, restored(transaction.request, provider), transaction)

    def issue(
        self, browser: Browser, request: AuthnRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Response | Refused:
        """Let the service provider join the session, and hand the browser what it carries there.

        Returns what was refused where the person, not the request, is the reason: the caller shows that page.

        Raises:
            ShownError: the application was switched off meanwhile.
        """
        if request.binding == names.ARTIFACT:
            return self._carry_artifact(browser, request, transaction, signed=signed)
        with self._gateway.database.transaction(durable=False) as session:
            issued = answers.issue(
                self._gateway,
                session,
                request,
                session_id=signed.session_id,
                principal_id=signed.principal_id,
                ip=browser.ip,
                request_id=browser.request_id,
                now=browser.now,
            )
            if isinstance(issued, Issued):
                self.close(session, browser, transaction)
        if isinstance(issued, Issued):
            return self._deliver(browser, request, issued)
        if issued.reason in UNNAMED:
            return self._refuse(browser, request, transaction, UNNAMED[issued.reason], signed)
        if issued.reason in _SWITCHED_OFF:
            raise ShownError("unknown_service_provider", issued.reason)
        return issued

    def declined(self, browser: Browser, request: AuthnRequest, refusal: flow.Refusal) -> Response:
        """A response with a status in place of an assertion. Core 3.2.2.2, 3.4.1."""
        return self._answer_no(browser, request, _REFUSALS[refusal])

    def _deliver(self, browser: Browser, request: AuthnRequest, issued: Issued) -> Response:
        """The page that carries the answer to the service provider."""
        return self._carry(browser, request, answers.response(self._gateway, request, issued, now=browser.now))

    def _carry(self, browser: Browser, request: AuthnRequest, response: Node) -> Response:
        fields = [("SAMLResponse", post_value(render(response)))]
        if request.relay_state is not None:
            fields.append(("RelayState", request.relay_state))
        return self._form(browser, request, fields)

    def _form(self, browser: Browser, request: AuthnRequest, fields: Sequence[tuple[str, str]]) -> Response:
        provider = request.provider
        others = [one.location for one in provider.consumers]
        targets = [*others, provider.home_url] if provider.home_url else others
        carried = Carried(action=request.consumer, fields=tuple(fields), targets=tuple(targets))
        return self._gateway.services.carrying_page(browser.request, carried)

    def _carry_artifact(
        self,
        browser: Browser,
        request: AuthnRequest,
        transaction: Transaction | None,
        *,
        signed: SignedIn | None = None,
        refusal: SamlError | None = None,
    ) -> Response:
        """The browser carries a reference; what it stands for is decided when it is fetched."""
        with self._gateway.database.transaction(durable=False) as session:
            self.close(session, browser, transaction)
            artifact = leave_answer(self._gateway, session, browser, request, signed=signed, refusal=refusal)
        url = write_artifact(request.consumer, artifact, relay_state=request.relay_state)
        # By a page of its own: the policy of the form that began this names no address of other applications.
        return self._gateway.services.carrying_page(browser.request, Carried(action=url, fields=()))

    def _ask_again(self, browser: Browser, request: AuthnRequest) -> Response:
        given = new_browser_token()
        with self._gateway.database.transaction(durable=False) as session:
            transaction_id = self.store(session, browser, request, given)
        return self._gateway.redirect(f"{self.resume_path}?transaction={transaction_id}&given={given}")

    def _refuse(
        self,
        browser: Browser,
        request: AuthnRequest,
        transaction: Transaction | None,
        error: SamlError,
        signed: SignedIn | None,
    ) -> Response:
        """Back to the service provider with a status, which closes the transaction."""
        self.end(browser, request, transaction, signed, error.reason)
        return self._answer_no(browser, request, error)

    def _answer_no(self, browser: Browser, request: AuthnRequest, error: SamlError) -> Response:
        """What carries the refusal to the service provider."""
        if request.binding == names.ARTIFACT:
            return self._carry_artifact(browser, request, None, refusal=error)
        return self._carry(browser, request, answers.refusal(self._gateway, request, error, now=browser.now))
