"""Signing in: `/login`. A plain form that works without script.

Everybody passes here each morning, so the way that succeeds runs on the event loop and the narrow store (design, "Two
speeds"), as plain routes. What is rare (refusals, a browser that is somebody else's) runs in threads; waiting in the
hashing queue holds none of them. Whether there is room in that queue is asked before anything is looked up or counted,
so that whoever is told to come back costs next to nothing and has used up no try.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode, urlsplit

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from idhub.credentials import transactions
from idhub.credentials.codes import asking_entry, entry_of
from idhub.credentials.operations import Operation, Step, Taken, both, run_in
from idhub.credentials.sessions import SignedIn, authenticate, authenticating
from idhub.credentials.transactions import Transaction
from idhub.errors import Invalid, NotPermitted, Unavailable
from idhub.login import sign_in, throttling
from idhub.login.passwords import MAX_PASSWORD_BYTES, Place, Verification, normalize
from idhub.login.providers import Choice, ChoiceCache, choosing
from idhub.login.sign_in import MAX_USERNAME, Browser, Minted, Prepared, Refusal
from idhub.login.throttling import Admission
from idhub.oidc.authorization import Authorization, SignInPage, Started
from idhub.pages import BROWSER_COOKIE, N_, Language, form_target, safe_local_path
from idhub.pages.notices import ErrorNotice
from idhub.pages.render import Composed
from idhub.web import account, federation, first_sign_in, protocol_pages
from idhub.web.account import AccountServices
from idhub.web.browser import browser_of, cookie, form_targets, give_session, see_other
from idhub.web.forms import Form, form_of, form_router
from idhub.web.hashing import OPEN_TOO_LONG, TOO_MANY, LoginServices, busy_page, wait_words
from idhub.web.services import WebServices
from idhub.web.visit import SESSION_COOKIE, note_refusal, translated

_NO_MATCH = N_("Sign-in name or password is wrong. Check both and try again.")
_CLOSED = N_(
    "Too many wrong passwords in a row. Sign in on a device that you used before, or ask HR or the service desk for a "
    "one-time link."
)
_NAME_MISSING = N_("Enter your employee number, mobile or mail address.")
_PASSWORD_MISSING = N_("Enter your password.")
_PASSWORD_UNUSABLE = N_("The password is longer than any that can be set, or has characters that no keyboard types.")

_LOGIN_FORM = form_of(
    "username", "password", "csrf_token",
    limits={"username": MAX_USERNAME, "password": MAX_PASSWORD_BYTES, "csrf_token": 200},
    optional={"transaction": transactions.MAX_ID, "return_to": 2048, "remember": 8},
)  # fmt: skip


def create_entrance(services: LoginServices, authorization: Authorization | None = None) -> list[Route]:
    """`/login`: plain routes, which need nothing of a framework, with the translator of every page.

    Args:
        authorization: answers an application in the transaction that signs its person in; None: the browser is sent on.
    """
    entrance = _Entrance(services, authorization)

    async def show_sign_in(request: Request) -> Response:
        """The sign-in page; straight on for somebody who needs no sign-in."""
        query = request.query_params
        return await entrance.show(request, query.get("transaction", ""), query.get("return_to", ""))

    async def sign_in_with_password(request: Request) -> Response:
        """Sign in, or say in one sentence that it did not work."""
        return await entrance.submit(request)

    return [
        Route("/login", translated(services, show_sign_in), methods=["GET"], include_in_schema=False),
        Route("/login", translated(services, sign_in_with_password), methods=["POST"], include_in_schema=False),
    ]


def create_router(services: AccountServices) -> APIRouter:
    """Routes of `/login`, `/login/first`, of the pages around them (`protocol_pages`) and of `/account`."""
    router = form_router(services)
    for route in create_entrance(services):
        router.add_route(route.path, route.endpoint, list(route.methods or ()), include_in_schema=False)

    first_sign_in.add_routes(router, services)
    protocol_pages.add_routes(router, services)
    router.routes += federation.create_router(services).routes
    router.routes += account.create_router(services).routes
    return router


def create_sign_in_page(services: LoginServices) -> SignInPage:
    """The sign-in page of a transaction that was begun for this browser just now, for whom it is new here."""
    entrance, offered = _Entrance(services), ChoiceCache(services.store)

    async def sign_in_page(request: Request, transaction: Transaction, browser_token: str) -> Response:
        choices = await offered.current(now=transaction.created_at)
        return entrance.page(request, transaction, choices, username=_hint(transaction), browser_token=browser_token)

    return sign_in_page


def error_page(services: WebServices, request: Request, shown: ErrorNotice) -> Response:
    """The page for a protocol error that must not be redirected."""
    return protocol_pages.notice(services, request, status=shown.status, reason=shown.reason)


@dataclass(frozen=True, slots=True)
class _Visit:
    """One submitted sign-in form."""

    request: Request
    browser: Browser
    username: str
    transaction: str
    return_to: str
    remember: bool


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A try that may be made, and the place where its password will be looked at."""

    visit: _Visit
    password: str
    prepared: Prepared
    transaction: Transaction | None
    place: Place


class _Entrance:
    """`/login`."""

    def __init__(self, services: LoginServices, authorization: Authorization | None = None) -> None:
        self.services = services
        self.pages = services.pages
        self.host = urlsplit(services.settings.issuer).netloc
        self._authorization = authorization
        self._lane = services.admission.sign_ins

    async def show(self, request: Request, transaction_id: str, return_to: str) -> Response:
        async with self._lane:
            shown = await self._show(request, transaction_id, return_to)
        return shown if isinstance(shown, Response) else await self._in_thread(shown)

    async def _show(self, request: Request, transaction_id: str, return_to: str) -> Response | Callable[[], Response]:
        now, target = self.services.clock(), _local(return_to)
        token = cookie(request, self.pages, SESSION_COOKIE)
        browser_token = cookie(request, self.pages, BROWSER_COOKIE)

        def looking() -> "Operation[tuple[SignedIn | None, Transaction | None, list[Choice]]]":
            visiting = both(authenticating(token, now=now), self._finding(transaction_id, browser_token, now=now))
            (signed_in, transaction), choices = yield from both(visiting, choosing(now=now))
            return signed_in, transaction, choices

        signed_in, transaction, choices = await self.services.store.read(looking)
        if transaction_id and transaction is None:
            return partial(protocol_pages.notice, self.services, request, status=400, reason="transaction_gone")
        if signed_in is not None:
            if transaction is None:
                return see_other(target)
            # Somebody who was refused comes here to be somebody else.
            if transaction.session_id == signed_in.session_id and transaction.refusal is None:
                return see_other(transactions.resume_url(transaction))
        name = signed_in.display_name if signed_in else ""
        return self.page(
            request, transaction, choices, return_to=target, username=_hint(transaction), signed_in_name=name
        )

    async def submit(self, request: Request) -> Response:
        async with self._lane:
            form = await _LOGIN_FORM(request)
            begun = await self._begin(request, form)
        if isinstance(begun, Unavailable):
            await self.services.admission.turn_away()
            back = _here(form["transaction"], _local(form["return_to"]))
            return busy_page(self.services, request, begun, back=back)
        if not isinstance(begun, _Admitted):
            return await self._in_thread(begun)
        with begun.place as place:
            verifying = place.verify(begun.password, begun.prepared.stored_hash)
            verification = await asyncio.wrap_future(verifying)
        if verification.matches and cookie(request, self.pages, SESSION_COOKIE) is not None:
            # What the browser still has must be ended, and perhaps others told: not for the event loop.
            return await self._in_thread(partial(self._finish, begun.visit, begun.prepared, verification))
        return await self._finish_at_once(begun, verification)

    async def _in_thread(self, work: Callable[[], Response]) -> Response:
        async with self.services.admission.sign_ins_aside:
            return await run_in_threadpool(work)

    async def _begin(self, request: Request, form: Form) -> _Admitted | Unavailable | Callable[[], Response]:
        """Find out whose try it is and whether it may be made; or that there is no room, or what answers instead."""
        visit = _Visit(
            request=request,
            browser=browser_of(request, self.services),
            username=form["username"].strip(),
            transaction=form["transaction"],
            return_to=_local(form["return_to"]),
            remember=bool(form["remember"]),
        )
        checked = self._check(visit, form)
        if not isinstance(checked, str):
            return checked
        try:
            place = self.services.hashing.enter()
        except Unavailable as busy:
            return busy
        now, keyring = self.services.clock(), self.services.keyring
        browser_token = cookie(request, self.pages, BROWSER_COOKIE)

        def preparing() -> "Operation[tuple[Prepared, Transaction | None]]":
            looking = sign_in.preparing(keyring, visit.username, browser=visit.browser, now=now, password=checked)
            if transactions.is_sealed(visit.transaction):
                return (yield from looking), self._held(visit.transaction, browser_token, now=now)
            return (yield from both(looking, transactions.loading(visit.transaction, browser_token, now=now)))

        try:
            prepared, transaction = await self.services.store.read(preparing)
            if not prepared.admission.is_admitted:
                told = await self._refused(visit, prepared, prepared.admission)
                place.leave()
                return partial(self._told, visit, told)
        except BaseException:
            place.leave()
            raise
        return _Admitted(visit, checked, prepared, transaction, place)

    async def _refused(self, visit: _Visit, prepared: Prepared, cause: Refusal | Admission) -> Refusal | Admission:
        """Count and record a try that failed or was not admitted; returns what is told.

        Two transactions: counters that many share are not held while the event waits for the disk.
        """
        store, keyring, now = self.services.store, self.services.keyring, self.services.clock()
        admission = await store.write(lambda: throttling.claiming(keyring, prepared.attempt, now=now))
        return await store.write(lambda: sign_in.refusing(prepared, cause, admission, browser=visit.browser, now=now))

    def _check(self, visit: _Visit, form: Form) -> str | Callable[[], Response]:
        """The password in the form that is hashed, or what answers instead (in a thread).

        Raises:
            NotPermitted: the form came from another site.
        """
        gettext = partial(self.pages.gettext, visit.request)
        try:
            self.pages.check_form(visit.request, form["csrf_token"])
        except NotPermitted as refused:
            if refused.rule == "csrf.cross_site":
                raise
            return partial(self._noted, visit, refused.rule or "csrf", "csrf_token", {"": gettext(OPEN_TOO_LONG)}, 403)
        missing = {"username": _NAME_MISSING} if not visit.username else {}
        missing |= {"password": _PASSWORD_MISSING} if not form["password"] else {}
        if missing:
            sentences = {name: gettext(sentence) for name, sentence in missing.items()}
            return partial(self._incomplete, visit, sentences)
        try:
            return normalize(form["password"])
        except Invalid as refused:
            unusable = {"password": gettext(_PASSWORD_UNUSABLE)}
            return partial(self._noted, visit, refused.rule or "password", "password", unusable, 400)

    def _incomplete(self, visit: _Visit, sentences: Mapping[str, str]) -> Response:
        """A mail address alone leads to whoever is authoritative for its domain; otherwise say what is missing."""
        domain = visit.username.rpartition("@")[2].lower() if "@" in visit.username else ""
        if domain:
            with self.services.database.read() as session:
                choices = run_in(session, choosing(now=self.services.clock()))
            slug = next((one.slug for one in choices if domain in one.domains), None)
            if slug is not None:
                return see_other(federation.begin_url(slug, visit.transaction, visit.return_to))
        return self._again(visit, sentences, 400)

    def _noted(self, visit: _Visit, rule: str, field: str, errors: Mapping[str, str], status: int) -> Response:
        note_refusal(self.services, visit.request, rule, field)
        return self._again(visit, errors, status)

    def _told(self, visit: _Visit, told: Refusal | Admission) -> Response:
        """What whoever was refused is told: one sentence for every cause, another when too many have failed."""
        if isinstance(told, Refusal):
            return self._again(visit, {"": self.pages.gettext(visit.request, _NO_MATCH)}, 403)
        if told.retry_after is None:
            return self._again(visit, {"": self.pages.gettext(visit.request, _CLOSED)}, 429)
        words, headers = wait_words(self.services, visit.request, TOO_MANY, told.retry_after)
        return self._again(visit, {"": words}, 429, headers)

    async def _finish_at_once(self, admitted: _Admitted, verification: Verification) -> Response:
        services, now = self.services, self.services.clock()
        visit, prepared, transaction = admitted.visit, admitted.prepared, admitted.transaction
        browser_token, authorization = cookie(visit.request, self.pages, BROWSER_COOKIE), self._authorization
        pending = None if authorization is None else await authorization.pending(transaction)

        def finishing(*, is_first: bool) -> "Operation[tuple[Minted | Refusal | Admission, str | None]]":
            asked: list[Step] = []
            if pending is not None and prepared.principal_id is not None:
                # The person is locked first, so that this is what holds until the end of the transaction.
                asked.append(asking_entry(prepared.principal_id, pending.client.client_id, now=now))
            outcome, answers = yield from sign_in.finishing(
                services.keyring, services.settings, prepared, verification, browser=visit.browser,
                remember=visit.remember, now=now, also=asked,
            )  # fmt: skip
            if not isinstance(outcome, Minted):
                return outcome, None
            if transaction is None or browser_token is None:
                return outcome, None
            if authorization is not None and pending is not None and prepared.epochs is not None:
                started = Started(
                    session_id=outcome.session_id, principal_id=outcome.principal_id, epochs=prepared.epochs,
                    amr=sign_in.PASSWORD_AMR,
                    ip=visit.browser.address, request_id=visit.browser.request_id, now=now,
                )  # fmt: skip
                answer = yield from authorization.answering(
                    pending, transaction, browser_token, started, entry_of(answers[0]), is_first=is_first
                )
                if answer is not None:
                    return outcome, answer
            goes_on = yield from transactions.establishing_one(
                transaction, browser_token, session_id=outcome.session_id, now=now
            )
            return outcome, goes_on

        try:
            outcome, goes_on = await services.store.write(partial(finishing, is_first=True))
        except Taken:
            # The page was sent twice, or something was noted of its sign-in.
            outcome, goes_on = await services.store.write(partial(finishing, is_first=False))
        if not isinstance(outcome, Minted):
            told = await self._refused(visit, prepared, outcome)
            return await self._in_thread(partial(self._told, visit, told))
        return self._welcome(visit, outcome, goes_on)

    def _welcome(self, visit: _Visit, minted: Minted, goes_on: str | None) -> Response:
        response = see_other(visit.return_to if goes_on is None else goes_on)
        give_session(response, self.pages, minted, is_secure=self.services.settings.is_https)
        return response

    def _finish(self, visit: _Visit, prepared: Prepared, verification: Verification) -> Response:
        services, now = self.services, self.services.clock()
        goes_on: str | None = None
        with services.database.transaction(durable=False) as session:
            old = authenticate(session, cookie(visit.request, self.pages, SESSION_COOKIE), now=now)
            outcome = sign_in.finish(
                session, services.keyring, services.settings, prepared, verification, browser=visit.browser,
                old_session_id=old.session_id if old else None, remember=visit.remember, now=now,
            )  # fmt: skip
            if isinstance(outcome, Minted):
                browser_token = cookie(visit.request, self.pages, BROWSER_COOKIE)
                held = self._held(visit.transaction, browser_token, now=now)
                if held is not None and browser_token is not None:
                    transactions.keep(session, held, browser_token)
                goes_on = transactions.establish(
                    session, visit.transaction, browser_token, session_id=outcome.session_id, now=now
                )
        if not isinstance(outcome, Minted):
            return self._told(visit, outcome)
        return self._welcome(visit, outcome, goes_on)

    def _held(self, transaction_id: str, browser_token: str | None, *, now: datetime) -> Transaction | None:
        services = self.services
        return transactions.unsealed(
            services.keyring, transaction_id, browser_token, now=now, settings=services.settings
        )

    def _finding(
        self, transaction_id: str, browser_token: str | None, *, now: datetime
    ) -> Operation[Transaction | None]:
        """The sign-in that is in progress, for its page: whether it is a row or its browser holds it."""
        found = yield from transactions.loading(transaction_id, browser_token, now=now)
        if found is not None or not transactions.is_sealed(transaction_id):
            return found
        held = self._held(transaction_id, browser_token, now=now)
        if held is None or (yield from transactions.is_known(transaction_id)):
            return None
        return (yield from transactions.naming(held))

    def _load(self, session: Session, request: Request, transaction_id: str) -> Transaction | None:
        browser_token = cookie(request, self.pages, BROWSER_COOKIE)
        return run_in(session, self._finding(transaction_id, browser_token, now=self.services.clock()))

    def _again(
        self, visit: _Visit, errors: Mapping[str, str], status: int, headers: Mapping[str, str] | None = None
    ) -> Response:
        with self.services.database.read() as session:
            transaction = self._load(session, visit.request, visit.transaction)
            choices = run_in(session, choosing(now=self.services.clock()))
        return self.page(
            visit.request, transaction, choices, return_to=visit.return_to, username=visit.username,
            remember=visit.remember, errors=errors, status=status, headers=headers,
        )  # fmt: skip

    def page(
        self,
        request: Request,
        transaction: Transaction | None,
        choices: Sequence[Choice],
        *,
        return_to: str = "/",
        username: str,
        remember: bool = False,
        signed_in_name: str = "",
        errors: Mapping[str, str] | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        browser_token: str | None = None,
    ) -> Response:
        """The sign-in page.

        Args:
            browser_token: given to the browser with the page, when that does not bring one.
        """
        return_to = "" if transaction else return_to
        about = _About(
            return_to,
            protocol_pages.named_in(transaction),
            tuple(choices),
            form_targets(transaction),
            self.host,
        )
        own = {
            "transaction": transaction.id if transaction else "",
            "here": _here(transaction.id if transaction else "", return_to),
        }
        if not (return_to or username or remember or signed_in_name or errors):
            return self.pages.render_kept(
                request, "login/sign_in.html", about, _composed, own, status, headers=headers,
                browser_token=browser_token,
            )  # fmt: skip
        context, form_action = _composed(self.pages.language(request), about)
        said = {
            **context, **own, "username": username, "remember": remember, "signed_in_name": signed_in_name,
            "errors": errors or {},
        }  # fmt: skip
        return self.pages.render(
            request, "login/sign_in.html", said, status, headers=headers, form_action=form_action,
            browser_token=browser_token,
        )  # fmt: skip


class _About(NamedTuple):
    """What decides how a sign-in page looks and is the same for many: the page may be kept."""

    return_to: str
    application: protocol_pages.Named | None
    choices: tuple[Choice, ...]
    form_targets: tuple[str, ...]
    host: str


def _composed(language: Language, about: _About) -> Composed:
    """The sign-in page's context and policy as long as nothing was typed."""
    is_chinese = language == "zh-CN"
    # The transaction's name is put in by the page.
    providers = [
        (federation.begin_url(one.slug, "", about.return_to), (one.name_zh if is_chinese else None) or one.name)
        for one in about.choices
        if one.is_shown
    ]
    context: dict[str, Any] = {
        "return_to": about.return_to,
        "application": protocol_pages.shown_as(about.application, language),
        "username": "",
        "remember": False,
        "signed_in_name": "",
        "errors": {},
        "providers": providers,
        "host": about.host,
    }
    return context, (*about.form_targets, *_origins(about.choices))


def _here(transaction_id: str, return_to: str) -> str:
    """The address of the sign-in page."""
    return (
        f"/login?transaction={quote_plus(transaction_id)}"
        if transaction_id
        else f"/login?{urlencode({'return_to': return_to})}"
    )


def _hint(transaction: Transaction | None) -> str:
    return str((transaction.request.get("login_hint") if transaction else None) or "")[:MAX_USERNAME]


def _local(return_to: str) -> str:
    """Where to go after signing in: a path of this hub that is not itself about signing in or out (T12)."""
    path = safe_local_path(return_to)
    return "/" if path.startswith(("/login", "/logout")) else path


def _origins(choices: Sequence[Choice]) -> list[str]:
    """Where the form may end when a mail address leads to a provider."""
    found: set[str] = set()
    for one in choices:
        with suppress(ValueError):
            if one.domains:
                found.add(form_target(one.origin))
    return sorted(found)
