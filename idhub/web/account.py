"""A person's own sign-ins: `/account/sessions` (devices and sessions) and `/account/security` (password)."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Request
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from idhub.credentials.predicate import usable_session
from idhub.credentials.sessions import end_session
from idhub.credentials.tables import SessionParticipant, SsoSession
from idhub.directory.tables import Principal
from idhub.errors import Invalid, NotFound, Unavailable
from idhub.login import sign_in
from idhub.login.passwords import MAX_PASSWORD_BYTES, check_policy, context_words, normalize, read_password
from idhub.login.sign_in import PasswordChange
from idhub.pages import N_
from idhub.web import links
from idhub.web.browser import DeviceName, browser_of, device_name, give_session
from idhub.web.federation import FederationServices
from idhub.web.forms import Form, form_of, form_router
from idhub.web.hashing import TOO_MANY, LoginServices, busy_page, policy_sentence, wait_words
from idhub.web.visit import Visitor, frame_of, visitor_of

_END_FORM = form_of("session", "csrf_token", limits={"session": 60, "csrf_token": 200})
_END_OTHERS_FORM = form_of("csrf_token", limits={"csrf_token": 200})
_PASSWORD_FORM = form_of(
    "current_password", "new_password", "csrf_token",
    limits={"current_password": MAX_PASSWORD_BYTES, "new_password": 4 * MAX_PASSWORD_BYTES, "csrf_token": 200},
)  # fmt: skip

_WRONG = N_("The current password is wrong.")
_TOO_OFTEN = N_("The current password was wrong too often in this session. Sign out and in again.")
_SAME = N_("The new password is the current one. Choose another.")
_METHODS: Mapping[str, str] = {"pwd": N_("Password"), "fed": N_("Company sign-in")}


@dataclass(frozen=True, slots=True)
class OwnSession:
    """One row of the list of sessions."""

    id: str
    device: DeviceName
    device_words: str
    method: str
    ip: str
    last_seen_at: datetime
    applications: int
    is_this: bool


class AccountServices(LoginServices, FederationServices, Protocol):
    """The part of `idhub.app.Services` that these pages use."""


def create_router(services: AccountServices) -> APIRouter:
    """Routes of `/account`."""
    router = form_router(services)
    pages = services.pages
    security = _Security(services)
    router.routes += links.create_router(services).routes

    @router.get("/account")
    def account() -> Response:
        """The first page of one's own account."""
        return RedirectResponse("/account/sessions", status_code=303)

    @router.get("/account/sessions")
    def show_sessions(request: Request, ended: str = "") -> Response:
        """Where one is signed in, with a way to end each."""
        now = services.clock()
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            listed = _own_sessions(session, visitor, lambda text: pages.gettext(request, text), now=now)
            stored = read_password(session, visitor.principal_id)
        context = {
            "frame": frame_of(visitor, request, services),
            "sessions": listed,
            "others": sum(not own.is_this for own in listed),
            "ended": ended if ended.isdecimal() and len(ended) < 4 else "",
            "password_set_at": stored.set_at if stored else None,
            "now": now,
        }
        return pages.render(request, "account/sessions.html", context, session_id=visitor.session_id)

    @router.post("/account/sessions/end")
    def end_one(request: Request, form: Annotated[Form, Depends(_END_FORM)]) -> Response:
        """End one of one's own sessions; ending this one is a logout."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            owner = session.execute(
                select(SsoSession.principal_id).where(SsoSession.id == form["session"])
            ).scalar_one_or_none()
            # Somebody else's session and none at all are the same answer.
            if owner != visitor.principal_id:
                raise NotFound("Not found, or you may not see it.", field="session", rule="session.unknown")
            if form["session"] != visitor.session_id:
                end_session(session, form["session"], reason="ended_by_person", now=now, actor=visitor.actor)
        if form["session"] == visitor.session_id:
            return RedirectResponse("/logout", status_code=303)
        return RedirectResponse("/account/sessions?ended=1", status_code=303)

    @router.post("/account/sessions/end-others")
    def end_others(request: Request, form: Annotated[Form, Depends(_END_OTHERS_FORM)]) -> Response:
        """End every session of one's own but this."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            # FOR UPDATE first: a sign-in that is being minted elsewhere is either in the list or comes after it.
            session.execute(select(Principal.id).where(Principal.id == visitor.principal_id).with_for_update())
            others = session.execute(
                select(SsoSession.id).where(
                    SsoSession.principal_id == visitor.principal_id,
                    SsoSession.id != visitor.session_id,
                    SsoSession.ended_at.is_(None),
                )
            ).scalars()
            ended = list(others)
            for session_id in ended:
                end_session(session, session_id, reason="ended_by_person", now=now, actor=visitor.actor)
        return RedirectResponse(f"/account/sessions?ended={min(len(ended), 999)}", status_code=303)

    @router.get("/account/security")
    def show_security(request: Request, changed: str = "") -> Response:
        """The password, and when it was set."""
        return security.show(request, is_changed=changed == "1")

    @router.post("/account/security")
    async def change_password(request: Request, form: Annotated[Form, Depends(_PASSWORD_FORM)]) -> Response:
        """Change the password; everything else that is signed in as this person ends."""
        return await security.submit(request, form)

    return router


def _own_sessions(
    session: Session, visitor: Visitor, translate: Callable[[str], str], *, now: datetime
) -> list[OwnSession]:
    applications = (
        select(func.count(SessionParticipant.application_id.distinct()))
        .where(SessionParticipant.session_id == SsoSession.id, SessionParticipant.ended_at.is_(None))
        .scalar_subquery()
    )
    rows = session.execute(
        select(
            SsoSession.id, SsoSession.user_agent, SsoSession.amr, SsoSession.ip, SsoSession.last_seen_at,
            applications.label("applications"),
        )
        .join(Principal, Principal.id == SsoSession.principal_id)
        .where(SsoSession.principal_id == visitor.principal_id, usable_session(now))
        .order_by(SsoSession.last_seen_at.desc(), SsoSession.id)
        .limit(200)
    ).all()  # fmt: skip
    listed = []
    for row in rows:
        device = device_name(row.user_agent)
        methods = [translate(_METHODS[value]) for value in row.amr if value in _METHODS]
        listed.append(
            OwnSession(
                id=row.id, device=device, device_words=device.words(translate), method=" · ".join(methods),
                ip=row.ip or "", last_seen_at=row.last_seen_at, applications=row.applications,
                is_this=row.id == visitor.session_id,
            )
        )  # fmt: skip
    return sorted(listed, key=lambda own: not own.is_this)


class _Security:
    """`/account/security`."""

    def __init__(self, services: LoginServices) -> None:
        self._services = services
        self._pages = services.pages

    def show(self, request: Request, *, is_changed: bool) -> Response:
        with self._services.database.read() as session:
            visitor = visitor_of(session, request, self._services, now=self._services.clock())
        return self._page(request, visitor, is_changed=is_changed)

    async def submit(self, request: Request, form: Form) -> Response:
        try:
            # Before the try is counted: who is told to come back has used up none.
            place = self._services.hashing.enter()
        except Unavailable as busy:
            return busy_page(self._services, request, busy, back="/account/security")
        with place:
            checked = await run_in_threadpool(self._check, request, form)
            if isinstance(checked, Response):
                return checked
            visitor, change, current, new = checked
            verified = await asyncio.wrap_future(place.verify(current, change.stored_hash))
            if not verified.matches:
                return await run_in_threadpool(self._refuse, request, visitor, change)
            new_hash = await asyncio.wrap_future(place.hash(new))
        return await run_in_threadpool(self._change, request, change, new_hash)

    def _check(self, request: Request, form: Form) -> tuple[Visitor, PasswordChange, str, str] | Response:
        services, now = self._services, self._services.clock()
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            words = context_words(session, visitor.principal_id, site_name=services.settings.login_name)
        self._pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
        try:
            current, new = normalize(form["current_password"]), normalize(form["new_password"])
            check_policy(new, min_length=services.settings.password_min_length, context=words)
        except Invalid as refused:
            errors = {"new_password": policy_sentence(services, request, refused)}
            return self._page(request, visitor, errors=errors, status=400)
        if current == new:
            errors = {"new_password": self._pages.gettext(request, _SAME)}
            return self._page(request, visitor, errors=errors, status=400)
        with services.database.transaction(durable=False) as session:
            change = sign_in.prepare_change(
                session, services.keyring, visitor.principal_id, visitor.session_id,
                browser=browser_of(request, self._services), now=now,
            )  # fmt: skip
        if change.admission.retry_after is not None:
            sentence, headers = wait_words(services, request, TOO_MANY, change.admission.retry_after)
            return self._page(request, visitor, errors={"": sentence}, status=429, headers=headers)
        if not change.admission.is_admitted:
            return self._page(request, visitor, errors={"": self._pages.gettext(request, _TOO_OFTEN)}, status=429)
        return visitor, change, current, new

    def _refuse(self, request: Request, visitor: Visitor, change: PasswordChange) -> Response:
        with self._services.database.transaction(durable=False) as session:
            browser = browser_of(request, self._services)
            sign_in.refuse_change(session, change, browser=browser, now=self._services.clock())
        errors = {"current_password": self._pages.gettext(request, _WRONG)}
        return self._page(request, visitor, errors=errors, status=403)

    def _change(self, request: Request, change: PasswordChange, new_hash: str) -> Response:
        services = self._services
        with services.database.transaction() as session:
            minted = sign_in.change_password(
                session, services.keyring, services.settings, change, new_hash,
                browser=browser_of(request, self._services), now=services.clock(),
            )  # fmt: skip
        response = RedirectResponse("/account/security?changed=1", status_code=303)
        give_session(response, self._pages, minted, is_secure=services.settings.is_https)
        return response

    def _page(
        self,
        request: Request,
        visitor: Visitor,
        *,
        is_changed: bool = False,
        errors: Mapping[str, str] | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        with self._services.database.read() as session:
            stored = read_password(session, visitor.principal_id)
        context = {
            "frame": frame_of(visitor, request, self._services),
            "errors": errors or {},
            "is_changed": is_changed,
            "set_at": stored.set_at if stored else None,
            "minimum": self._services.settings.password_min_length,
        }
        return self._pages.render(
            request, "account/security.html", context, status, session_id=visitor.session_id, headers=headers
        )
