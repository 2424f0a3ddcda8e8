"""Single Sign-On: a request, the next step of the sign-in, and the response.

/saml/sso --> /login?transaction= ... --> /saml/sso/resume --> a form, or an artifact, that the browser carries to the
application
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.access.service_providers import Spoken
from idhub.credentials import transactions
from idhub.credentials.assertions import is_first_use
from idhub.credentials.predicate import Refused, entitled
from idhub.credentials.sessions import SignedIn
from idhub.credentials.transactions import Transaction
from idhub.gateway import Browser, ShownError
from idhub.login import flow
from idhub.login.contexts import OTHERS_SIGN_INS, OWN_SIGN_INS
from idhub.login.flow import SessionFacts, TransactionFacts
from idhub.login.providers import has_providers
from idhub.pages import new_browser_token
from idhub.pages.notices import Carried
from idhub.saml import answers
from idhub.saml.answers import Issued
from idhub.saml.artifacts import leave_answer
from idhub.saml.errors import NO_NAME_ID, NOT_ENTITLED, SamlError, responder
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

_ENDED_REASONS = frozenset({"session_ended", "session_expired", "standing", "epoch"})


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of the browser's person towards the service provider."""

    signed: SignedIn | None
    is_entitled: bool


class SignOn:
    """Begins and resumes sign-ins that service providers ask for.

    `idhub.wsfed` stands on it: another form of request and answer, the same rules between them.
    """

    protocol: Spoken = "saml"
    resume_path: str = RESUME_PATH

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

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
        return self._proceed(browser, request, None)

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
        return self._proceed(browser, request, None)

    def resume(self, browser: Browser, transaction_id: str, given: str | None) -> Response:
        """Go on with a stored request after a page is done; the registration is checked again.

        Args:
            given: binds a request that came by POST to the browser that brought it.

        Raises:
            ShownError: the transaction is over, or the registration was changed meanwhile.
        """
        gateway = self._gateway
        if given is not None:
            token = browser.browser_token
            new_token = None if token else new_browser_token()
            with gateway.database.transaction(durable=False) as session:
                if not transactions.claim(session, transaction_id, given, new_token or token or "", now=browser.now):
                    raise ShownError("transaction_gone")
            url = f"{self.resume_path}?transaction={transaction_id}"
            return gateway.redirect(url, set_browser_token=new_token)
        with gateway.database.read() as session:
            transaction = transactions.load(session, transaction_id, browser.browser_token, now=browser.now)
            if transaction is None or transaction.protocol != self.protocol:
                raise ShownError("transaction_gone")
            provider = load_provider(session, transaction.request["provider"], now=browser.now, protocol=self.protocol)
        return self._proceed(browser, restored(transaction.request, provider), transaction)

    def _proceed(self, browser: Browser, request: AuthnRequest, transaction: Transaction | None) -> Response:
        known = self._know(browser, request)
        signed = known.signed
        decision = flow.next_step(
            TransactionFacts(session_id=transaction.session_id if transaction else None),
            SessionFacts(
                session_id=signed.session_id,
                principal_id=signed.principal_id,
                authenticated_at=signed.authenticated_at,
                amr=signed.amr,
            )
            if signed is not None
            else None,
            flow.Requirements(
                prompt=_prompt(request),
                max_age=request.max_age,
                context=request.context,
                is_entitled=known.is_entitled,
            ),
            now=browser.now,
        )
        if decision.step is flow.Step.SIGN_IN:
            return self._send(browser, "/login", request, transaction)
        if decision.step is flow.Step.RESUME and signed is not None:
            return self._issue(browser, request, transaction, signed)
        if decision.reason is flow.Refusal.ACCESS_DENIED and signed is not None:
            return self._refuse_entry(browser, request, transaction, signed)
        if decision.reason is flow.Refusal.CONTEXT_UNMET:
            # Signed in anew for this very request, and still not so: asking again would change nothing.
            unmet = responder(names.NO_AUTHN_CONTEXT, "saml.context")
            return self._refuse(browser, request, transaction, unmet, signed)
        # Core 3.4.1: who must not be asked and is not signed in (well enough).
        return self._refuse(browser, request, transaction, responder(names.NO_PASSIVE, "login_required"), signed)

    def _know(self, browser: Browser, request: AuthnRequest) -> _Known:
        with self._gateway.database.read() as session:
            signed = self._gateway.signed_in(session, browser)
            if signed is None:
                return _Known(None, False)
            holds = entitled(
                browser.now, principal_id=signed.principal_id, application_id=request.provider.application_id
            )
            return _Known(signed, bool(session.execute(select(holds)).scalar()))

    def _issue(
        self, browser: Browser, request: AuthnRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Response:
        if request.binding == names.ARTIFACT:
            return self._carry_artifact(browser, request, transaction, signed=signed)
        issued = self._mint(browser, request, transaction, signed)
        if isinstance(issued, Issued):
            return self._deliver(browser, request, issued)
        reason = issued.reason
        if reason == NOT_ENTITLED:
            return self._refuse_entry(browser, request, transaction, signed)
        if reason == NO_NAME_ID.reason:
            return self._refuse(browser, request, transaction, NO_NAME_ID, signed)
        if reason not in _ENDED_REASONS:
            raise ShownError("unknown_service_provider", reason)
        # The session ended between the look and the lock: sign in again.
        if request.is_passive:
            return self._refuse(browser, request, transaction, responder(names.NO_PASSIVE, reason), signed)
        return self._send(browser, "/login", request, transaction)

    def _mint(
        self, browser: Browser, request: AuthnRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Issued | Refused:
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
            if isinstance(issued, Refused):
                return issued
            # Of two resumptions at once only one may answer; what the other wrote rolls back with this error.
            self._complete(session, browser, transaction)
            return issued

    def _complete(self, session: Session, browser: Browser, transaction: Transaction | None) -> None:
        if transaction is not None and not transactions.complete(
            session, transaction.id, browser.browser_token or "", now=browser.now
        ):
            raise ShownError("transaction_gone")

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
            self._complete(session, browser, transaction)
            artifact = leave_answer(self._gateway, session, browser, request, signed=signed, refusal=refusal)
        url = write_artifact(request.consumer, artifact, relay_state=request.relay_state)
        # By a page of its own: the policy of the form that began this names no address of other applications.
        return self._gateway.services.carrying_page(browser.request, Carried(action=url, fields=()))

    def _send(self, browser: Browser, page: str, request: AuthnRequest, transaction: Transaction | None) -> Response:
        """To one of the hub's own pages, with a transaction that brings the browser back."""
        if transaction is not None:
            return self._gateway.redirect(f"{page}?transaction={transaction.id}")
        known = browser.browser_token
        new_token = None if known else new_browser_token()
        transaction_id = self._store(browser, request, new_token or known or "")
        return self._gateway.redirect(f"{page}?transaction={transaction_id}", set_browser_token=new_token)

    def _ask_again(self, browser: Browser, request: AuthnRequest) -> Response:
        given = new_browser_token()
        transaction_id = self._store(browser, request, given)
        return self._gateway.redirect(f"{self.resume_path}?transaction={transaction_id}&given={given}")

    def _store(self, browser: Browser, request: AuthnRequest, browser_token: str) -> str:
        with self._gateway.database.transaction(durable=False) as session:
            return transactions.begin(
                session,
                protocol=self.protocol,
                browser_token=browser_token,
                request=request.stored(),
                application_id=request.provider.application_id,
                now=browser.now,
                settings=self._gateway.settings,
            )

    def _refuse_entry(
        self, browser: Browser, request: AuthnRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Response:
        """A person without entitlement gets a page that helps; the application hears of it where it wants to."""
        gateway, provider = self._gateway, request.provider
        if provider.answers_not_entitled or request.is_passive:
            error = responder(names.REQUEST_DENIED, f"access_denied.{NOT_ENTITLED}")
            return self._refuse(browser, request, transaction, error, signed)
        known = browser.browser_token
        new_token = None if known else new_browser_token()
        token = new_token or known or ""
        transaction_id = transaction.id if transaction is not None else self._store(browser, request, token)
        with gateway.database.transaction(durable=False) as session:
            transactions.refuse(session, transaction_id, token, reason=NOT_ENTITLED, now=browser.now)
        gateway.note_refusal(
            browser,
            reason=f"access_denied.{NOT_ENTITLED}",
            target_id=provider.id,
            signed=signed,
            application_id=provider.application_id,
        )
        return gateway.redirect(f"/error?transaction={transaction_id}", set_browser_token=new_token)

    def _refuse(
        self,
        browser: Browser,
        request: AuthnRequest,
        transaction: Transaction | None,
        error: SamlError,
        signed: SignedIn | None,
    ) -> Response:
        """Back to the service provider with a status, which closes the transaction."""
        gateway = self._gateway
        page: Response | None = None
        if request.binding == names.ARTIFACT:
            page = self._carry_artifact(browser, request, transaction, refusal=error)
        elif transaction is not None:
            with gateway.database.transaction(durable=False) as session:
                self._complete(session, browser, transaction)
        gateway.note_refusal(
            browser,
            reason=error.reason,
            target_id=request.provider.id,
            signed=signed,
            application_id=request.provider.application_id,
        )
        return page or self._decline(browser, request, error)

    def _decline(self, browser: Browser, request: AuthnRequest, error: SamlError) -> Response:
        """The page that carries the refusal to the service provider."""
        return self._carry(browser, request, answers.refusal(self._gateway, request, error, now=browser.now))


def _prompt(request: AuthnRequest) -> frozenset[str]:
    values = {"login": request.is_forced, "none": request.is_passive}
    return frozenset(name for name, holds in values.items() if holds)
