"""`/hr/people/{id}/links/{provider}`: taking away somebody's link to their company's own sign-in."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action, cover
from idhub.directory.people import PersonView
from idhub.errors import Conflict
from idhub.login.links import HeldLink, find_link, unlink
from idhub.pages import N_
from idhub.web.forms import Form, form_of, form_router
from idhub.web.person import DOOR, record_visit, visible_person
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, request_id, visitor_of

PATH = "/hr/people/{person_id}/links/{provider_id}"
_FORM = form_of("csrf_token")


def create_router(services: WebServices) -> APIRouter:
    """Routes of taking a link away."""
    router = form_router(services)

    @router.get(PATH)
    def show(request: Request, person_id: str, provider_id: str) -> Response:
        """Ask whether it is meant. Visits are events."""
        now = services.clock()
        with services.database.transaction(durable=False) as session:
            visitor = visitor_of(session, request, services, now=now)
            person, link = _of_another(session, visitor, person_id, provider_id)
            record_visit(session, visitor, person, request, "person.link", now)
        is_chinese = services.pages.language(request) == "zh-CN"
        context = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "person": person,
            "link": link,
            "provider": (link.name_zh if is_chinese else None) or link.name,
        }
        return services.pages.render(request, "unlink.html", context, session_id=visitor.session_id)

    @router.post(PATH)
    def take_away(
        request: Request, person_id: str, provider_id: str, form: Annotated[Form, Depends(_FORM)]
    ) -> Response:
        """Take it away; the sessions that rest on it end."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            services.pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            person, link = _of_another(session, visitor, person_id, provider_id)
            unlink(
                session, link.id, link.slug, person.id, actor=visitor.actor, door=DOOR,
                request_id=request_id(request), now=now,
            )  # fmt: skip
        return RedirectResponse(f"/hr/people/{person.id}", status_code=303)

    return router


def _of_another(session: Session, visitor: Visitor, person_id: str, provider_id: str) -> tuple[PersonView, HeldLink]:
    person = visible_person(session, visitor, person_id, Action.PEOPLE_INVITE)
    if person.id == visitor.principal_id:
        raise Conflict(N_("Your own links are under Company sign-in in your account."), rule="self")
    cover(session, visitor.subject, Action.PEOPLE_INVITE, person.id)
    return person, find_link(session, person.id, provider_id)
