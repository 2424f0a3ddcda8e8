"""Signing in behind a one-time link, for the first time or anew: `/login/first`. A plain form, without script."""

import asyncio
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from idhub.credentials.sessions import end_session
from idhub.errors import Invalid, NotPermitted, Unavailable
from idhub.login import invitations
from idhub.login.invitations import Invited
from idhub.login.passwords import MAX_PASSWORD_BYTES, check_policy, context_words, normalize
from idhub.pages import N_
from idhub.web import protocol_pages
from idhub.web.browser import browser_of, give_session, see_other, signed_in_as
from idhub.web.forms import Form, form_of
from idhub.web.hashing import OPEN_TOO_LONG, LoginServices, busy_page, policy_sentence
from idhub.web.visit import note_refusal

_LINK_TITLE = N_("This link cannot be used")
_LINK_SENTENCE = N_("It was used already, has expired, or was replaced by a newer one. Nothing was changed.")
_LINK_NEXT = N_("If you have a password, sign in with it. Otherwise ask HR or the service desk for a new link.")
_SET_TITLE = N_("Your password is set")
_SET_SENTENCE = N_("Your access has not begun yet. From your first day on, sign in with the password you just chose.")
_MAX_TOKEN = 100

_FIRST_FORM = form_of(
    "token", "password", "csrf_token",
    limits={"token": _MAX_TOKEN, "password": 4 * MAX_PASSWORD_BYTES, "csrf_token": 200},
)  # fmt: skip


def add_routes(router: APIRouter, services: LoginServices) -> None:
    """Routes of `/login/first`."""
    first = _FirstSignIn(services)

    @router.get("/login/first")
    def show_first_sign_in(request: Request, token: str = "") -> Response:
        """The form behind a one-time link. Opening it spends nothing."""
        return first.show(request, token)

    @router.post("/login/first")
    async def set_first_password(request: Request, form: Annotated[Form, Depends(_FIRST_FORM)]) -> Response:
        """Spend the link: set the password and sign in."""
        return await first.submit(request, form)


class _FirstSignIn:
    """`/login/first`."""

    def __init__(self, services: LoginServices) -> None:
        self.services = services
        self.pages = services.pages
        self.host = urlsplit(services.settings.issuer).netloc

    def show(self, request: Request, token: str) -> Response:
        with self.services.database.read() as session:
            invited = invitations.look_up(session, token, now=self.services.clock())
        return self._unusable(request) if invited is None else self._page(request, invited, token)

    async def submit(self, request: Request, form: Form) -> Response:
        try:
            place = self.services.hashing.enter()
        except Unavailable as busy:
            back = "/login/first?" + urlencode({"token": form["token"]})
            return busy_page(self.services, request, busy, back=back)
        with place:
            checked = await run_in_threadpool(self._check, request, form)
            if isinstance(checked, Response):
                return checked
            new_hash = await asyncio.wrap_future(place.hash(checked))
        return await run_in_threadpool(self._redeem, request, form["token"], new_hash)

    def _is_forged(self, request: Request, token: str) -> bool:
        """Whether the form token is not this browser's; records it. A request of another site is refused outright.

        Raises:
            NotPermitted: rule `csrf.cross_site` (T03).
        """
        try:
            self.pages.check_form(request, token)
        except NotPermitted as refused:
            if refused.rule == "csrf.cross_site":
                raise
            note_refusal(self.services, request, refused.rule or "csrf", "csrf_token")
            return True
        return False

    def _check(self, request: Request, form: Form) -> str | Response:
        is_forged = self._is_forged(request, form["csrf_token"])
        with self.services.database.read() as session:
            invited = invitations.look_up(session, form["token"], now=self.services.clock())
            if invited is None:
                words: frozenset[str] = frozenset()
            else:
                words = context_words(session, invited.principal_id, site_name=self.services.settings.login_name)
        if invited is None:
            note_refusal(self.services, request, "invitation.unusable", "token")
            return self._unusable(request)
        if is_forged:
            errors = {"": self.pages.gettext(request, OPEN_TOO_LONG)}
            return self._page(request, invited, form["token"], errors=errors, status=403)
        try:
            password = normalize(form["password"])
            check_policy(password, min_length=self.services.settings.password_min_length, context=words)
        except Invalid as refused:
            errors = {"password": policy_sentence(self.services, request, refused)}
            return self._page(request, invited, form["token"], errors=errors, status=400)
        return password

    def _redeem(self, request: Request, token: str, new_hash: str) -> Response:
        services, now = self.services, self.services.clock()
        browser = browser_of(request, self.services)
        old = signed_in_as(services.database, request, self.pages, now=now)
        with services.database.transaction() as session:
            outcome = invitations.redeem(session, services.settings, token, new_hash, browser=browser, now=now)
        if outcome is None:
            return self._unusable(request)
        if isinstance(outcome, Invited):
            return protocol_pages.sentence_page(services, request, _SET_TITLE, _SET_SENTENCE, status=200)
        if old is not None and old.principal_id != outcome.principal_id:
            # The browser was somebody else's: nothing of theirs stays in it (T10).
            with services.database.transaction() as session:
                end_session(session, old.session_id, reason="replaced", now=now)
        response = see_other("/")
        give_session(response, self.pages, outcome, is_secure=services.settings.is_https)
        return response

    def _unusable(self, request: Request) -> Response:
        link = ("/login", self.pages.gettext(request, N_("Sign in")))
        return protocol_pages.sentence_page(
            self.services, request, _LINK_TITLE, _LINK_SENTENCE, next_step=_LINK_NEXT, link=link, status=410
        )

    def _page(
        self,
        request: Request,
        invited: Invited,
        token: str,
        *,
        errors: Mapping[str, str] | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        context = {
            "invited": invited,
            "token": token,
            "errors": errors or {},
            "minimum": self.services.settings.password_min_length,
            "host": self.host,
            "here": "/login/first?" + urlencode({"token": token}),
        }
        return self.pages.render(request, "login/first.html", context, status, headers=headers)
