"""The authorization endpoint: checks, the next step of the sign-in, and the code."""

from dataclasses import dataclass
from typing import Literal, cast

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.credentials import transactions
from idhub.credentials.codes import PUBLIC_SECTOR, CodeRequest, issue_code
from idhub.credentials.predicate import Refused, entitled
from idhub.credentials.sessions import SignedIn, authenticate
from idhub.credentials.tables import Consent
from idhub.credentials.transactions import Transaction
from idhub.directory.tables import Principal, SubjectIdentifier
from idhub.login.flow import SessionFacts, TransactionFacts
from idhub.oidc.authorize import (
    NOT_ENTITLED,
    AuthorizationRequest,
    Situation,
    error_url,
    next_page,
    no_entry,
    response_url,
    validate,
    verify_destination,
)
from idhub.oidc.clients import Client, find_client
from idhub.oidc.errors import OAuthError, ShownError
from idhub.oidc.gateway import Browser, Gateway
from idhub.oidc.parameters import Parameters
from idhub.pages import new_browser_token


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of the browser's person towards the client."""

    signed: SignedIn | None
    situation: Situation


class Authorization:
    """Begins and resumes authorization requests."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def begin(self, browser: Browser, parameters: Parameters) -> Response:
        """Answer an authorization request, or send the browser where its person signs in or consents.

        Raises:
            ShownError: client or redirect URI cannot be trusted.
        """
        return self._proceed(browser, parameters, None)

    def resume(self, browser: Browser, parameters: Parameters) -> Response:
        """Go on with a stored request after a page is done; everything is checked again.

        Raises:
            ShownError: the transaction is over, or the client was changed meanwhile.
        """
        transaction = self._gateway.transaction(browser, parameters, "oidc")
        return self._proceed(browser, Parameters(dict(transaction.request)), transaction)

    def _proceed(self, browser: Browser, parameters: Parameters, transaction: Transaction | None) -> Response:
        gateway = self._gateway
        draft = verify_destination(parameters, self._client(parameters))
        signed: SignedIn | None = None
        try:
            request = validate(draft, parameters, gateway.reader)
            known = self._know(browser, request, transaction)
            signed = known.signed
            step = next_page(request, known.situation, now=browser.now)
        except OAuthError as error:
            return self._refuse(browser, draft, transaction, error, signed)
        if step == "no_entry" and signed is not None:
            return self._refuse_entry(browser, request, transaction, signed)
        if step == "issue" and signed is not None:
            return self._issue(browser, request, transaction, signed)
        return self._send(browser, f"/{step}", request, transaction)

    def _client(self, parameters: Parameters) -> Client | None:
        client_id = parameters.values.get("client_id")
        if client_id is None or "client_id" in parameters.faults:
            raise ShownError("unknown_client")
        with self._gateway.database.read() as session:
            return find_client(session, client_id)

    def _know(self, browser: Browser, request: AuthorizationRequest, transaction: Transaction | None) -> _Known:
        client = request.client
        with self._gateway.database.read() as session:
            signed = authenticate(session, browser.session_token, now=browser.now)
            if signed is None:
                return _Known(None, Situation())
            hinted = None if request.hinted_sub is None else self._named(session, client, request.hinted_sub)
            consented = session.execute(
                select(Consent.scope)
                .join(Principal, Principal.id == Consent.principal_id)
                .where(
                    Consent.principal_id == signed.principal_id,
                    Consent.client_id == client.client_id,
                    Consent.enrolment_epoch == Principal.enrolment_epoch,
                )
            ).scalar()
            is_entitled = session.execute(
                select(entitled(browser.now, principal_id=signed.principal_id, application_id=client.application_id))
            ).scalar_one()
        situation = Situation(
            session=SessionFacts(
                session_id=signed.session_id,
                principal_id=signed.principal_id,
                authenticated_at=signed.authenticated_at,
            ),
            transaction=TransactionFacts()
            if transaction is None
            else TransactionFacts(
                session_id=transaction.session_id,
                consent=cast("Literal['allow', 'deny'] | None", transaction.consent),
            ),
            is_entitled=bool(is_entitled),
            hinted_principal_id=hinted,
            remembered_scope=frozenset((consented or "").split()),
        )
        return _Known(signed, situation)

    @staticmethod
    def _named(session: Session, client: Client, sub: str) -> str:
        """The person whom the client knows by `sub`; empty when there is none."""
        found = session.execute(
            select(SubjectIdentifier.principal_id).where(
                SubjectIdentifier.sector == (client.sector or PUBLIC_SECTOR), SubjectIdentifier.sub == sub
            )
        ).scalar()
        return found or ""

    def _issue(
        self, browser: Browser, request: AuthorizationRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Response:
        gateway = self._gateway
        code_request = CodeRequest(
            client_id=request.client.client_id,
            redirect_uri=request.redirect_uri,
            code_challenge=request.code_challenge,
            scope=request.scope,
            nonce=request.nonce,
            ip=browser.ip,
            request_id=browser.request_id,
        )
        with gateway.database.transaction(durable=False) as session:
            code = issue_code(session, signed.session_id, code_request, now=browser.now, settings=gateway.settings)
            if not isinstance(code, Refused) and transaction is not None:
                # Of two resumptions at once only one may answer; the other's code rolls back with this error.
                if not transactions.complete(session, transaction.id, browser.browser_token or "", now=browser.now):
                    raise ShownError("transaction_gone")
                if transaction.consent == "allow":
                    self._remember(session, browser, request, signed)
        if not isinstance(code, Refused):
            return gateway.redirect(response_url(request.redirect_uri, gateway.issuer, request.state, code=code))
        if code.reason == NOT_ENTITLED:
            if "none" in request.prompts:
                return self._refuse(browser, request, transaction, no_entry(), signed)
            return self._refuse_entry(browser, request, transaction, signed)
        if code.reason.endswith("_disabled"):
            raise ShownError("unknown_client")
        # The session ended between the look and the lock: sign in again.
        if "none" in request.prompts:
            error = OAuthError("login_required", "The person must sign in.", reason=code.reason)
            return self._refuse(browser, request, transaction, error, signed)
        return self._send(browser, "/login", request, transaction)

    def _remember(self, session: Session, browser: Browser, request: AuthorizationRequest, signed: SignedIn) -> None:
        if request.client.is_public:
            # Whoever knows the id can speak for it: an answer of today says nothing about who asks tomorrow.
            return
        epoch = session.execute(
            select(Principal.enrolment_epoch).where(Principal.id == signed.principal_id)
        ).scalar_one()
        values = {"scope": request.scope, "enrolment_epoch": epoch, "given_at": browser.now}
        new = sqlite.insert(Consent) if self._gateway.database.dialect == "sqlite" else postgresql.insert(Consent)
        session.execute(
            new.values(
                principal_id=signed.principal_id, client_id=request.client.client_id, **values
            ).on_conflict_do_nothing()
        )
        session.execute(
            update(Consent)
            .where(Consent.principal_id == signed.principal_id, Consent.client_id == request.client.client_id)
            .values(**values)
        )

    def _send(
        self, browser: Browser, page: str, request: AuthorizationRequest, transaction: Transaction | None
    ) -> Response:
        """To one of the hub's own pages, with a transaction that brings the browser back."""
        if transaction is not None:
            return self._gateway.redirect(f"{page}?transaction={transaction.id}")
        transaction_id, new_token = self._store(browser, request)
        return self._gateway.redirect(f"{page}?transaction={transaction_id}", set_browser_token=new_token)

    def _store(self, browser: Browser, request: AuthorizationRequest) -> tuple[str, str | None]:
        known = browser.browser_token
        new_token = None if known else new_browser_token()
        with self._gateway.database.transaction(durable=False) as session:
            transaction_id = transactions.begin(
                session,
                protocol="oidc",
                browser_token=new_token or known or "",
                request=request.raw,
                client_id=request.client.client_id,
                application_id=request.client.application_id,
                now=browser.now,
                settings=self._gateway.settings,
            )
        return transaction_id, new_token

    def _refuse_entry(
        self, browser: Browser, request: AuthorizationRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Response:
        """A person without entitlement gets a page that helps, not an error in an application they cannot enter."""
        client = request.client
        new_token = None
        browser_token = browser.browser_token or ""
        if transaction is None:
            transaction_id, new_token = self._store(browser, request)
            browser_token = new_token or browser_token
        else:
            transaction_id = transaction.id
        with self._gateway.database.transaction(durable=False) as session:
            transactions.refuse(session, transaction_id, browser_token, reason=NOT_ENTITLED, now=browser.now)
        self._gateway.note_refusal(
            browser,
            reason=f"access_denied.{NOT_ENTITLED}",
            client_id=client.client_id,
            signed=signed,
            application_id=client.application_id,
        )
        return self._gateway.redirect(f"/error?transaction={transaction_id}", set_browser_token=new_token)

    def _refuse(
        self,
        browser: Browser,
        draft: AuthorizationRequest,
        transaction: Transaction | None,
        error: OAuthError,
        signed: SignedIn | None,
    ) -> Response:
        """Back to the client with an error, which closes the transaction."""
        gateway = self._gateway
        if transaction is not None:
            with gateway.database.transaction(durable=False) as session:
                is_ours = transactions.complete(session, transaction.id, browser.browser_token or "", now=browser.now)
            if not is_ours:
                raise ShownError("transaction_gone")
        gateway.note_refusal(
            browser,
            reason=error.reason,
            client_id=draft.client.client_id,
            signed=signed,
            application_id=draft.client.application_id,
        )
        return gateway.redirect(error_url(draft, gateway.issuer, error))
