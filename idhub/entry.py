"""How a person enters an application that asked, by whatever protocol: sign-in, entitlement, pages on the way, answer.

    request --> Entry.proceed --> /login?transaction= ... --> Entry.resumed, proceed --> what the protocol answers

A protocol makes an `Entry` of its own: how a request is stored, what is issued, what a refusal looks like there.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar
from typing import Protocol as Shape

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.credentials import transactions
from idhub.credentials.predicate import Refused, entitled
from idhub.credentials.sessions import SignedIn
from idhub.credentials.transactions import Transaction
from idhub.gateway import Browser, BrowserGateway, ShownError
from idhub.login import flow
from idhub.login.flow import SessionFacts, TransactionFacts

NOT_ENTITLED: Final = "not_entitled"
ENDED_REASONS: Final = frozenset({"session_ended", "session_expired", "standing", "epoch"})
"""Why a session that was there at the look is none at the lock: its person signs in again."""


class Asked(Shape):
    """A request whose sender and destination of the answer are verified."""

    @property
    def application_id(self) -> str:
        """The application that is entered."""

    @property
    def registration_id(self) -> str:
        """What it is registered as: for events."""

    @property
    def requirements(self) -> flow.Requirements:
        """What it asks of the sign-in; whether the person may enter is asked here."""

    @property
    def answers_not_entitled(self) -> bool:
        """Whether the application hears of somebody who may not enter; else they read it on a page of ours."""

    def stored(self) -> dict[str, Any]:
        """For the login transaction."""


_Request = TypeVar("_Request", bound=Asked)


class Gone(Exception):
    """Another resumption of the same transaction was faster: what this one wrote must vanish."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of the browser's person towards the application."""

    signed: SignedIn | None
    is_entitled: bool


class Entry(ABC, Generic[_Request]):
    """See the module."""

    protocol: transactions.Protocol

    def __init__(self, gateway: BrowserGateway) -> None:
        self._gateway = gateway

    # ---------------------------------------------------------------- what a protocol says

    @abstractmethod
    def issue(
        self, browser: Browser, request: _Request, transaction: Transaction | None, signed: SignedIn
    ) -> Response | Refused:
        """Answer the application, in one transaction that calls `close`; or the reason why not."""

    @abstractmethod
    def declined(self, browser: Browser, request: _Request, refusal: flow.Refusal) -> Response:
        """What the application gets in place of what it asked for."""

    # ---------------------------------------------------------------- what they share

    def proceed(self, browser: Browser, request: _Request, transaction: Transaction | None) -> Response:
        """The next step: a page of ours, or the answer.

        Raises:
            ShownError: transaction_gone; or the registration cannot be used any more.
        """
        known = self._look(browser, request)
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
            replace(request.requirements, is_entitled=known.is_entitled),
            now=browser.now,
        )
        if decision.step is flow.Step.SIGN_IN:
            return self._send(browser, "/login", request, transaction)
        if decision.step is flow.Step.RESUME and signed is not None:
            return self._enter(browser, request, transaction, signed)
        if decision.reason is flow.Refusal.ACCESS_DENIED and signed is not None:
            return self._turn_away(browser, request, transaction, signed, NOT_ENTITLED)
        # Must not be asked; or has signed in for this very request, and not as it asks: again would change nothing.
        refusal = decision.reason or flow.Refusal.LOGIN_REQUIRED
        return self._decline(browser, request, transaction, signed, refusal, refusal.value)

    def resumed(self, browser: Browser, transaction_id: str) -> Transaction:
        """The transaction that a browser comes back with.

        Raises:
            ShownError: transaction_gone.
        """
        with self._gateway.database.read() as session:
            transaction = transactions.load(session, transaction_id, browser.browser_token, now=browser.now)
        if transaction is None or transaction.protocol != self.protocol:
            raise ShownError("transaction_gone")
        return transaction

    def close(self, session: Session, browser: Browser, transaction: Transaction | None) -> None:
        """Close the transaction, if there is one: of two resumptions at once only one may answer.

        Raises:
            Gone: the other was faster.
        """
        if transaction is not None and not transactions.complete(
            session, transaction.id, browser.browser_token or "", now=browser.now
        ):
            raise Gone

    def _look(self, browser: Browser, request: _Request) -> _Known:
        with self._gateway.database.read() as session:
            signed = self._gateway.signed_in(session, browser)
            if signed is None:
                return _Known(None, False)
            holds = entitled(browser.now, principal_id=signed.principal_id, application_id=request.application_id)
            return _Known(signed, bool(session.execute(select(holds)).scalar()))

    def _enter(
        self, browser: Browser, request: _Request, transaction: Transaction | None, signed: SignedIn
    ) -> Response:
        try:
            answer = self.issue(browser, request, transaction, signed)
        except Gone as error:
            raise ShownError("transaction_gone") from error
        if not isinstance(answer, Refused):
            return answer
        if answer.reason not in ENDED_REASONS:
            return self._turn_away(browser, request, transaction, signed, answer.reason)
        if _is_silent(request):
            return self._decline(browser, request, transaction, signed, flow.Refusal.LOGIN_REQUIRED, answer.reason)
        return self._send(browser, "/login", request, transaction)

    def _send(self, browser: Browser, page: str, request: _Request, transaction: Transaction | None) -> Response:
        """To one of the hub's own pages, with a transaction that brings the browser back."""
        transaction_id, new_token = self._kept(browser, request, transaction)
        return self._gateway.redirect(f"{page}?transaction={transaction_id}", set_browser_token=new_token)

    def _kept(self, browser: Browser, request: _Request, transaction: Transaction | None) -> tuple[str, str | None]:
        """The transaction that holds the request, and the token to give this browser, if it has none."""
        if transaction is not None:
            return transaction.id, None
        token, new_token = browser.token_to_keep()
        with self._gateway.database.transaction(durable=False) as session:
            return self.store(session, browser, request, token), new_token

    def store(self, session: Session, browser: Browser, request: _Request, browser_token: str) -> str:
        """Begin the transaction that brings the browser with this token back to the request."""
        return transactions.begin(
            session,
            protocol=self.protocol,
            browser_token=browser_token,
            request=request.stored(),
            application_id=request.application_id,
            now=browser.now,
            settings=self._gateway.settings,
        )

    def _turn_away(
        self, browser: Browser, request: _Request, transaction: Transaction | None, signed: SignedIn, reason: str
    ) -> Response:
        """Who may not enter gets a page that helps; an application that wanted none, or to hear of it, its answer."""
        refusal = f"access_denied.{reason}"
        if request.answers_not_entitled or _is_silent(request):
            return self._decline(browser, request, transaction, signed, flow.Refusal.ACCESS_DENIED, refusal)
        transaction_id, new_token = self._kept(browser, request, transaction)
        token = new_token or browser.browser_token or ""
        with self._gateway.database.transaction(durable=False) as session:
            transactions.refuse(session, transaction_id, token, reason=reason, now=browser.now)
        self._note(browser, request, signed, refusal)
        return self._gateway.redirect(f"/error?transaction={transaction_id}", set_browser_token=new_token)

    def _decline(
        self,
        browser: Browser,
        request: _Request,
        transaction: Transaction | None,
        signed: SignedIn | None,
        refusal: flow.Refusal,
        reason: str,
    ) -> Response:
        self.end(browser, request, transaction, signed, reason)
        return self.declined(browser, request, refusal)

    def end(
        self, browser: Browser, request: _Request, transaction: Transaction | None, signed: SignedIn | None, reason: str
    ) -> None:
        """Close the transaction and note why: the application gets no more than a refusal.

        Raises:
            ShownError: transaction_gone.
        """
        if transaction is not None:
            try:
                with self._gateway.database.transaction(durable=False) as session:
                    self.close(session, browser, transaction)
            except Gone as error:
                raise ShownError("transaction_gone") from error
        self._note(browser, request, signed, reason)

    def _note(self, browser: Browser, request: _Request, signed: SignedIn | None, reason: str) -> None:
        self._gateway.note_refusal(
            browser,
            reason=reason,
            target_id=request.registration_id,
            signed=signed,
            application_id=request.application_id,
        )


def _is_silent(request: Asked) -> bool:
    return "none" in request.requirements.prompt
