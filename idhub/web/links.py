"""`/account/links`: a person's own accounts at their companies' identity providers, linked by themself."""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.credentials import transactions
from idhub.errors import Invalid
from idhub.login import federation
from idhub.login.links import own_links, unlink
from idhub.login.providers import Provider, find_provider
from idhub.pages import form_target
from idhub.web.federation import Desk, FederationServices
from idhub.web.forms import Form, form_of, form_router
from idhub.web.visit import frame_of, request_id, visitor_of

PATH: Final = "/account/links"
_FRESH: Final = timedelta(minutes=10)
"""How long ago somebody who links an account may have proven who they are: a link is another way in, for good."""
_MAX_SLUG: Final = 60
_FORM: Final = form_of("provider", "csrf_token", limits={"provider": _MAX_SLUG, "csrf_token": 200})


def create_router(services: FederationServices) -> APIRouter:
    """Routes of `/account/links`."""
    router = form_router(services)
    pages, desk = services.pages, Desk(services)

    @router.get(PATH)
    def show_links(request: Request, done: str = "") -> Response:
        """Which of one's companies' sign-ins are linked."""
        now = services.clock()
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            own = own_links(session, visitor.principal_id, now=now)
        is_chinese = pages.language(request) == "zh-CN"
        targets = []
        for one in own:
            with suppress(ValueError):
                targets.append(form_target(one.sign_on))
        context = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "links": [(one, (one.name_zh if is_chinese else None) or one.name) for one in own],
            "done": done if done in {"linked", "unlinked"} else "",
        }
        return pages.render(
            request, "account/links.html", context, session_id=visitor.session_id, form_action=sorted(set(targets))
        )

    @router.post(PATH + "/add")
    def add_link(request: Request, form: Annotated[Form, Depends(_FORM)]) -> Response:
        """Go to the provider and prove which account there is one's own; before that sign in, unless just done."""
        now, browser = services.clock(), desk.gateway.browser(request)
        token, new_token = browser.token_to_keep()
        with services.database.transaction(durable=False) as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            provider = _wanted(session, form["provider"], now)
            is_fresh = now - visitor.signed_in.authenticated_at <= _FRESH
            transaction_id = transactions.begin(
                session, protocol="none", browser_token=token, now=now, settings=services.settings,
                request={"path": f"{PATH}?done=linked" if is_fresh else PATH},
            )  # fmt: skip
            asked = federation.ask(
                session, transaction_id, token, provider, is_forced=False, now=now, linking=visitor.signed_in
            ) if is_fresh else None  # fmt: skip
        if asked is not None:
            return desk.send(browser, provider, asked, new_token)
        return desk.gateway.redirect(f"/login?transaction={transaction_id}", set_browser_token=new_token)

    @router.post(PATH + "/remove")
    def remove_link(request: Request, form: Annotated[Form, Depends(_FORM)]) -> Response:
        """Take the link away."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            provider = _wanted(session, form["provider"], now)
            unlink(
                session, provider.id, provider.slug, visitor.principal_id, actor=visitor.actor,
                request_id=request_id(request), now=now,
            )  # fmt: skip
        return RedirectResponse(f"{PATH}?done=unlinked", status_code=303)

    return router


def _wanted(session: Session, slug: str, now: datetime) -> Provider:
    # PostgreSQL takes no NUL in a text, not even to look for it.
    provider = find_provider(session, now=now, slug=slug) if slug.isprintable() else None
    if provider is None:
        raise Invalid("There is no such identity provider.", field="provider", rule="provider.unknown")
    return provider
