"""The authorization endpoint: checks, the next step of the sign-in, and the code.

On the event loop and the narrow store (design, "Two speeds"): every application that somebody enters passes here.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from starlette.requests import Request
from starlette.responses import Response

from idhub.credentials import transactions
from idhub.credentials.codes import CodeRequest, issuing_code, issuing_first_code
from idhub.credentials.operations import Operation, Row
from idhub.credentials.predicate import Refused
from idhub.credentials.sessions import Epochs, SignedIn, entering
from idhub.credentials.statements_browser import PUBLIC_SECTOR
from idhub.credentials.transactions import Transaction
from idhub.gateway import Browser, ShownError
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
from idhub.oidc.clients import Client, ClientCache, reading_client
from idhub.oidc.errors import OAuthError
from idhub.oidc.gateway import Gateway
from idhub.oidc.parameters import Parameters
from idhub.pages.cookies import new_browser_token


class _Gone(Exception):
    """Another resumption of the same transaction was faster: what this one wrote must vanish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A session that the open transaction starts."""

    session_id: str
    principal_id: str
    epochs: Epochs
    amr: Sequence[str]
    ip: str | None
    request_id: str | None
    now: datetime


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of the browser's person towards the client."""

    signed: SignedIn | None
    situation: Situation


_NOBODY = _Known(None, Situation())
SignInPage = Callable[[Request, Transaction, str], Awaitable[Response]]
"""The sign-in page of a transaction, for the browser with this token: shown without sending the browser to it."""


class Authorization:
    """Begins and resumes authorization requests, and answers one in the transaction that signs its person in.

    Args:
        sign_in_page: what somebody is shown who is not signed in; None: they are sent to it.
    """

    def __init__(self, gateway: Gateway, sign_in_page: SignInPage | None = None) -> None:
        self._gateway = gateway
        self._clients = ClientCache(gateway.store)
        self._sign_in_page = sign_in_page

    async def begin(self, browser: Browser, parameters: Parameters) -> Response:
        """Answer an authorization request, or send the browser where its person signs in or consents.

        Raises:
            ShownError: client or redirect URI cannot be trusted.
        """
        return await self._proceed(browser, parameters, None)

    async def resume(self, browser: Browser, parameters: Parameters) -> Response:
        """Go on with a stored request after a page is done; everything is checked again.

        Raises:
            ShownError: the transaction is over, or the client was changed meanwhile.
        """
        transaction_id = parameters.values.get("transaction", "")
        transaction = await self._gateway.store.read(
            lambda: transactions.loading(transaction_id, browser.browser_token, now=browser.now)
        )
        if transaction is None or transaction.protocol != "oidc":
            raise ShownError("transaction_gone")
        return await self._proceed(browser, Parameters(dict(transaction.request)), transaction)

    # ------------------------------------------------------------------ where somebody signs in

    async def pending(self, transaction: Transaction | None) -> AuthorizationRequest | None:
        """The stored request, checked again, if whoever signs in may get its answer at once; None: they resume it."""
        if transaction is None or transaction.protocol != "oidc" or transaction.refusal is not None:
            return None
        parameters = Parameters(dict(transaction.request))
        try:
            client = await self._clients.find(parameters.values.get("client_id", ""))
            request = validate(verify_destination(parameters, client), parameters, self._gateway.reader)
        except (ShownError, OAuthError):
            return None
        return request if request.hinted_sub is None else None

    def answering(
        self,
        request: AuthorizationRequest,
        transaction: Transaction,
        browser_token: str,
        started: Started,
        entry: Row | Refused,
        *,
        is_first: bool,
    ) -> Operation[str | None]:
        """Issue the code in the transaction that starts the session; returns where the browser goes with it.

        None, with nothing written: the browser resumes the request, which then says what is missing.

        Args:
            entry: of `entry_of`, as it is in this transaction.
            is_first: see `transactions.completing_one`.
        """
        now = started.now
        situation = Situation(
            session=SessionFacts(
                session_id=started.session_id,
                principal_id=started.principal_id,
                authenticated_at=now,
                amr=started.amr,
            ),
            transaction=TransactionFacts(session_id=started.session_id),
            # Asked of the database: `entry`.
            is_entitled=True,
        )
        try:
            if next_page(request, situation, now=now) != "issue":
                return None
        except OAuthError:
            return None
        if isinstance(entry, Refused):
            return None
        if not (yield from transactions.completing_one(transaction, browser_token, now=now, is_first=is_first)):
            return None
        code = yield from issuing_first_code(
            entry, started.session_id, self._code_request(request, started.ip, started.request_id),
            principal_id=started.principal_id, epochs=started.epochs, now=now, settings=self._gateway.settings,
        )  # fmt: skip
        return response_url(request.redirect_uri, self._gateway.issuer, request.state, code=code)

    @staticmethod
    def _code_request(request: AuthorizationRequest, ip: str | None, request_id: str | None) -> CodeRequest:
        return CodeRequest(
            client_id=request.client.client_id,
            redirect_uri=request.redirect_uri,
            code_challenge=request.code_challenge,
            scope=request.scope,
            nonce=request.nonce,
            ip=ip,
            request_id=request_id,
        )

    # ------------------------------------------------------------------ steps

    async def _proceed(self, browser: Browser, parameters: Parameters, transaction: Transaction | None) -> Response:
        gateway = self._gateway
        draft = verify_destination(parameters, await self._client(parameters, is_resumed=transaction is not None))
        signed: SignedIn | None = None
        try:
            request = validate(draft, parameters, gateway.reader)
            known = _NOBODY
            if browser.session_token is not None:
                known = await gateway.store.read(lambda: _knowing(browser, request, transaction))
            signed = known.signed
            step = next_page(request, known.situation, now=browser.now)
        except OAuthError as error:
            return await self._refuse(browser, draft, transaction, error, signed)
        if step == "no_entry" and signed is not None:
            return await self._refuse_entry(browser, request, transaction, signed)
        if step == "issue" and signed is not None:
            return await self._issue(browser, request, transaction, signed)
        return await self._send(browser, f"/{step}", request, transaction)

    async def _client(self, parameters: Parameters, *, is_resumed: bool) -> Client | None:
        client_id = parameters.values.get("client_id")
        if client_id is None or "client_id" in parameters.faults:
            raise ShownError("unknown_client")
        # Configuration may be a second old. What is resumed is checked anew; whether there may be a code, always.
        if is_resumed:
            return await self._gateway.store.read(lambda: reading_client(client_id))
        return await self._clients.find(client_id)

    async def _issue(
        self, browser: Browser, request: AuthorizationRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Response:
        gateway = self._gateway
        try:
            code = await gateway.store.write(self._issuing(browser, request, transaction, signed))
        except _Gone as error:
            raise ShownError("transaction_gone") from error
        if not isinstance(code, Refused):
            return gateway.redirect(response_url(request.redirect_uri, gateway.issuer, request.state, code=code))
        if code.reason == NOT_ENTITLED:
            if "none" in request.prompts:
                return await self._refuse(browser, request, transaction, no_entry(), signed)
            return await self._refuse_entry(browser, request, transaction, signed)
        if code.reason.endswith("_disabled"):
            raise ShownError("unknown_client")
        # The session ended between the look and the lock: sign in again.
        if "none" in request.prompts:
            ended = OAuthError("login_required", "The person must sign in.", reason=code.reason)
            return await self._refuse(browser, request, transaction, ended, signed)
        return await self._send(browser, "/login", request, transaction)

    def _issuing(
        self, browser: Browser, request: AuthorizationRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Callable[[], Operation[str | Refused]]:
        code_request = self._code_request(request, browser.ip, browser.request_id)
        settings, now = self._gateway.settings, browser.now

        def issuing() -> "Operation[str | Refused]":
            code = yield from issuing_code(signed.session_id, code_request, now=now, settings=settings)
            if isinstance(code, Refused) or transaction is None:
                return code
            # Of two resumptions at once only one may answer; the other's code rolls back with this error.
            if not (yield from transactions.completing(transaction.id, browser.browser_token or "", now=now)):
                raise _Gone
            # Whoever knows a public client's id can speak for it: an answer of today says nothing about who asks
            # tomorrow.
            has_allowed = transactions.consent_of(transaction, signed.session_id) == "allow"
            if has_allowed and not request.client.is_public:
                yield from _remembering(browser, request, signed)
            return code

        return issuing

    async def _send(
        self, browser: Browser, page: str, request: AuthorizationRequest, transaction: Transaction | None
    ) -> Response:
        """To one of the hub's own pages, with a transaction that brings the browser back."""
        if transaction is not None:
            return self._gateway.redirect(f"{page}?transaction={transaction.id}")
        if page == "/login" and self._sign_in_page is not None and _is_new_here(browser):
            # Nothing is to be remembered of somebody who has only come: the page holds the request.
            token = browser.browser_token or new_browser_token()
            held = self._sealed(browser, request, token)
            if held is not None:
                return await self._sign_in_page(browser.request, self._begun(held, request, browser), token)
        transaction_id, new_token = await self._store(browser, request)
        return self._gateway.redirect(f"{page}?transaction={transaction_id}", set_browser_token=new_token)

    def _sealed(self, browser: Browser, request: AuthorizationRequest, browser_token: str) -> str | None:
        return transactions.sealed(
            self._gateway.services.keyring,
            protocol="oidc",
            browser_token=browser_token,
            request=request.raw,
            client_id=request.client.client_id,
            application_id=request.client.application_id,
            now=browser.now,
        )

    def _begun(self, transaction_id: str, request: AuthorizationRequest, browser: Browser) -> Transaction:
        client = request.client
        return transactions.begun(
            transaction_id,
            protocol="oidc",
            request=request.raw,
            client_id=client.client_id,
            application_id=client.application_id,
            application_name=client.application_name,
            application_name_zh=client.application_name_zh,
            application_owner=client.application_owner,
            now=browser.now,
            settings=self._gateway.settings,
        )

    async def _store(self, browser: Browser, request: AuthorizationRequest) -> tuple[str, str | None]:
        token, new_token = browser.token_to_keep()
        transaction_id = await self._gateway.store.write(
            lambda: transactions.beginning(
                protocol="oidc",
                browser_token=token,
                request=request.raw,
                client_id=request.client.client_id,
                application_id=request.client.application_id,
                now=browser.now,
                settings=self._gateway.settings,
            )
        )
        return transaction_id, new_token

    async def _refuse_entry(
        self, browser: Browser, request: AuthorizationRequest, transaction: Transaction | None, signed: SignedIn
    ) -> Response:
        """A person without entitlement gets a page that helps, not an error in an application they cannot enter."""
        client = request.client
        new_token = None
        browser_token = browser.browser_token or ""
        if transaction is None:
            transaction_id, new_token = await self._store(browser, request)
            browser_token = new_token or browser_token
        else:
            transaction_id = transaction.id
        await self._gateway.store.write(
            lambda: transactions.refusing(transaction_id, browser_token, reason=NOT_ENTITLED, now=browser.now)
        )
        await self._gateway.tell_refusal(
            browser,
            reason=f"access_denied.{NOT_ENTITLED}",
            target_id=client.client_id,
            signed=signed,
            application_id=client.application_id,
        )
        return self._gateway.redirect(f"/error?transaction={transaction_id}", set_browser_token=new_token)

    async def _refuse(
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
            transaction_id = transaction.id
            is_ours = await gateway.store.write(
                lambda: transactions.completing(transaction_id, browser.browser_token or "", now=browser.now)
            )
            if not is_ours:
                raise ShownError("transaction_gone")
        await gateway.tell_refusal(
            browser,
            reason=error.reason,
            target_id=draft.client.client_id,
            signed=signed,
            application_id=draft.client.application_id,
        )
        return gateway.redirect(error_url(draft, gateway.issuer, error))


def _is_new_here(browser: Browser) -> bool:
    """Whether nobody is signed in, as far as can be told: a form of another site comes without the cookies."""
    return browser.session_token is None and browser.request.method == "GET"


def _knowing(browser: Browser, request: AuthorizationRequest, transaction: Transaction | None) -> Operation[_Known]:
    client = request.client
    entry = yield from entering(
        browser.session_token, client_id=client.client_id, application_id=client.application_id, now=browser.now
    )
    if entry is None:
        return _NOBODY
    signed = entry.signed_in
    hinted: str | None = None
    if request.hinted_sub is not None:
        # The person whom the client knows by this `sub`; empty when there is none.
        named = yield "subject.named", {"sector": client.sector or PUBLIC_SECTOR, "sub": request.hinted_sub}
        hinted = named[0]["principal_id"] if named else ""
    situation = Situation(
        session=SessionFacts(
            session_id=signed.session_id,
            principal_id=signed.principal_id,
            authenticated_at=signed.authenticated_at,
            amr=signed.amr,
        ),
        transaction=TransactionFacts()
        if transaction is None
        else TransactionFacts(
            session_id=transaction.session_id,
            consent=cast("Literal['allow', 'deny'] | None", transactions.consent_of(transaction, signed.session_id)),
        ),
        is_entitled=entry.is_entitled,
        hinted_principal_id=hinted,
        remembered_scope=frozenset(entry.consented_scope.split()),
    )
    return _Known(signed, situation)


def _remembering(browser: Browser, request: AuthorizationRequest, signed: SignedIn) -> Operation[None]:
    epoch = (yield "principal.enrolment", {"principal_id": signed.principal_id})[0]["enrolment_epoch"]
    yield (
        "consent.give",
        {
            "principal_id": signed.principal_id,
            "client_id": request.client.client_id,
            "scope": request.scope,
            "enrolment_epoch": epoch,
            "given_at": browser.now,
        },
    )
