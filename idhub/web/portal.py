"""`/`: the applications that the visitor may open, and what they should know."""

from collections.abc import Callable
from datetime import timedelta

from fastapi import APIRouter, Request
from sqlalchemy import func, select
from starlette.responses import RedirectResponse, Response

from audit.tables import audit_events
from idhub.db import to_micros
from idhub.directory.people import show_person
from idhub.pages import N_
from idhub.web import queries_access, queries_people
from idhub.web.drawing import mark_of
from idhub.web.services import WebServices
from idhub.web.visit import frame_of, page_router, visitor_of

_VIEWS_SINCE = timedelta(days=30)
_GREETINGS = ((5, N_("Good night")), (12, N_("Good morning")), (18, N_("Good afternoon")), (24, N_("Good evening")))


def create_router(services: WebServices) -> APIRouter:
    """Routes of the portal, and the addresses of the consoles' front doors."""
    router = page_router(services)
    pages = services.pages

    @router.get("/")
    def portal(request: Request, q: str = "") -> Response:
        """Own applications; search works without script."""
        now = services.clock()
        text = "".join(c for c in q if c.isprintable()).strip()[:100]
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            person = show_person(session, visitor.principal_id)
            everything = queries_access.portal_tiles(session, visitor.principal_id)
            sessions = queries_people.live_sessions(session, visitor.principal_id, now)
            # Who looked at the record: access events about this person that others caused.
            events = audit_events.c
            views = session.execute(
                select(func.count()).where(
                    events.person_id == visitor.principal_id,
                    events.type == "page.viewed",
                    events.actor_id != visitor.principal_id,
                    events.at >= to_micros(now - _VIEWS_SINCE),
                )
            ).scalar_one()
        english = pages.language(request) == "en"
        wanted = text.casefold()
        tiles = [
            tile
            for tile in everything
            if wanted in f"{tile.slug} {tile.name} {tile.name_zh or ''} {tile.description or ''}".casefold()
        ]
        hour = pages.formatter(request).local(now).hour
        names = {tile.slug: tile.name if english else tile.name_zh or tile.name for tile in everything}
        context = {
            "frame": frame_of(visitor, request, services),
            "greeting": pages.gettext(request, next(words for limit, words in _GREETINGS if hour < limit)),
            "name": person.display_name if not english else person.given_name or person.display_name,
            "now": now,
            "signed_in": visitor.signed_in,
            "tiles": tiles,
            "total": len(everything),
            "opening": [t for t in everything if t.has_account and t.account_state != "active"],
            "names": names,
            "marks": {slug: mark_of(name, slug) for slug, name in names.items()},
            "q": text,
            "sessions": sessions,
            "views": views,
        }
        return pages.render(request, "portal.html", context, session_id=visitor.session_id)

    for path, target in (("/hr", "/hr/people"), ("/admin", "/admin/apps"), ("/audit", "/audit/events")):
        router.add_api_route(path, _redirect_to(target), methods=["GET"])
    return router


def _redirect_to(target: str) -> Callable[[], Response]:
    def redirect() -> Response:
        return RedirectResponse(target, status_code=303)

    return redirect
