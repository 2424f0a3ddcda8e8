"""Who visits a page: the signed-in person, their hub roles, and what a refusal looks like."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse

from idhub.authority import Action, HubRole, Subject, may, roles_of
from idhub.changes import Actor
from idhub.credentials.sessions import SignedIn, authenticate
from idhub.errors import IdhubError, Invalid, NotFound, NotPermitted
from idhub.web.errors import render_error
from idhub.web.frame import Frame, build_frame
from idhub.web.services import WebServices

SESSION_COOKIE = "session"


class SignInRequired(Exception):
    """Nobody is signed in; the page is shown after they are."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The person in front of the page."""

    signed_in: SignedIn
    roles: tuple[HubRole, ...]
    actor: Actor

    @property
    def principal_id(self) -> str:
        """Who they are."""
        return self.signed_in.principal_id

    @property
    def session_id(self) -> str:
        """What form tokens are bound to."""
        return self.signed_in.session_id

    @property
    def subject(self) -> Subject:
        """Who asks `authorize`."""
        return Subject(principal_id=self.principal_id)


def visitor_of(session: Session, request: Request, services: WebServices, *, now: datetime) -> Visitor:
    """The signed-in person of this request; reads only.

    Raises:
        SignInRequired: there is no usable session.
    """
    cookie = request.cookies.get(services.pages.cookie_name(SESSION_COOKIE))
    signed_in = authenticate(session, cookie, now=now)
    if signed_in is None:
        raise SignInRequired
    roles = {role for role, _ in roles_of(session, signed_in.principal_id)}
    return Visitor(
        signed_in=signed_in,
        roles=tuple(role for role in HubRole if role in roles),
        actor=Actor(
            kind="person",
            id=signed_in.principal_id,
            name=signed_in.display_name,
            session_id=signed_in.session_id,
            ip=request.client.host if request.client else None,
        ),
    )


def require(session: Session, visitor: Visitor, action: Action, *, organization_id: str | None = None) -> None:
    """Ask `authorize`; what is outside the visitor's scope does not exist for them.

    Raises:
        NotFound: no role of theirs covers it.
    """
    if not may(session, visitor.subject, action, organization_id=organization_id):
        raise NotFound("Not found, or you may not see it.", rule=f"authority.{action.value}")


def frame_of(visitor: Visitor, request: Request, services: WebServices) -> Frame:
    """The frame around this page for this visitor."""
    return build_frame(
        visitor.signed_in.display_name,
        visitor.roles,
        request.url.path,
        lambda message: services.pages.gettext(request, message),
    )


def request_id(request: Request) -> str | None:
    """The request's number, set by the application's middleware."""
    return getattr(request.state, "request_id", None)


def page_router(services: WebServices) -> APIRouter:
    """A router whose routes answer refusals as pages and ask the signed-out to sign in."""
    return APIRouter(include_in_schema=False, route_class=_page_route(services))


def _page_route(services: WebServices) -> type[APIRoute]:
    class PageRoute(APIRoute):
        """Translates errors of the domain into pages: the one translator of the web."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    return await handler(request)
                except SignInRequired:
                    return _to_sign_in(request)
                except IdhubError as error:
                    return render_error(services.pages, request, error)
                except RequestValidationError:
                    broken = Invalid("The address or form could not be read.", rule="request.malformed")
                    return render_error(services.pages, request, broken)
                except HTTPException as error:
                    if error.status_code in {401, 403}:
                        return render_error(services.pages, request, NotPermitted("", rule="request.refused"))
                    broken = Invalid("The form could not be read.", rule="request.malformed")
                    return render_error(services.pages, request, broken)

            return handle

    return PageRoute


def _to_sign_in(request: Request) -> Response:
    # A form whose session ended meanwhile is not repeated after sign-in: its page is shown again instead.
    target = "/"
    if request.method in {"GET", "HEAD"}:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    response = RedirectResponse("/login?" + urlencode({"return_to": target}), status_code=303)
    response.headers["Cache-Control"] = "no-store"
    return response


def install_translators(app: FastAPI, services: WebServices) -> None:
    """Answer what no route answered: unknown addresses, wrong methods, and faults of ours.

    Each protocol translates its own errors in its routes; these are the last ones. Browsers get a page, machines JSON.
    """

    def domain_error(request: Request, error: Exception) -> Response:
        return _last_resort(services, request, error if isinstance(error, IdhubError) else None)

    def sign_in(request: Request, _: Exception) -> Response:
        return _to_sign_in(request)

    def http_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if not _wants_page(request):
            body = {"error": "not_found" if status == 404 else "invalid_request"}
            headers = error.headers if isinstance(error, HTTPException) else None
            return JSONResponse(body, status_code=status, headers=headers)
        if status == 404:
            return render_error(services.pages, request, NotFound("Not found."))
        response = render_error(services.pages, request, Invalid("The request could not be read."))
        response.status_code = status
        return response

    app.add_exception_handler(SignInRequired, sign_in)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(IdhubError, domain_error)
    app.add_exception_handler(Exception, domain_error)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _last_resort(services: WebServices, request: Request, error: IdhubError | None) -> Response:
    page = render_error(services.pages, request, error)
    if _wants_page(request):
        return page
    code = {400: "invalid_request", 404: "not_found", 409: "conflict", 503: "temporarily_unavailable"}
    body = {"error": code.get(page.status_code, "server_error"), "request_id": request_id(request)}
    return JSONResponse(body, status_code=page.status_code, headers={"Cache-Control": "no-store"})
