"""Who visits a page: the signed-in person, their hub roles, and what a refusal looks like."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from idhub.authority import Action, HubRole, Subject, may, roles_of
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials.sessions import SignedIn, authenticate
from idhub.errors import Conflict, IdhubError, Invalid, NotFound, NotPermitted, Unavailable
from idhub.login.addresses import client_address, trusted_networks
from idhub.pages import N_, local_address
from idhub.web.errors import render_error
from idhub.web.frame import Frame, build_frame
from idhub.web.reading import (
    BoundedRequest,
    BrokenForm,
    UploadRequest,
    check_path,
    drop_file,
    read_form,
    read_upload,
    render_broken_form,
)
from idhub.web.services import WebServices

_RACE = N_("Somebody changed the same thing at this moment. Look and try again.")
# Answers of a form that was read and not accepted; other refusals have events of their own.
_REFUSED = frozenset({400, 409, 422})
# DataError: text that the database cannot hold (PostgreSQL: NUL), or a number beyond its column.
_KNOWN = (IdhubError, RequestValidationError, HTTPException, IntegrityError, DataError, OperationalError)
_LOG = structlog.get_logger("idhub.web")

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
    signed_in = authenticate(session, _session_cookie(request, services), now=now)
    if signed_in is None:
        raise SignInRequired
    roles = {role for role, _ in roles_of(session, signed_in.principal_id)}
    return Visitor(
        signed_in=signed_in,
        roles=tuple(role for role in HubRole if role in roles),
        actor=_actor_of(signed_in, address_of(request, services)),
    )


def _actor_of(signed_in: SignedIn, address: str) -> Actor:
    return Actor(
        kind="person",
        id=signed_in.principal_id,
        name=signed_in.display_name,
        session_id=signed_in.session_id,
        ip=address,
    )


def _session_cookie(request: Request, services: WebServices) -> str | None:
    return request.cookies.get(services.pages.cookie_name(SESSION_COOKIE))


def address_of(request: Request, services: WebServices) -> str:
    """Where the request came from, as far as trusted proxies tell."""
    peer = request.client.host if request.client else "unknown"
    trusted = trusted_networks(services.settings.trusted_proxies)
    return client_address(peer, request.headers.getlist("x-forwarded-for"), trusted)


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
        request.scope["path"],
        services.pages.translator(request),
    )


def request_id(request: Request) -> str | None:
    """The request's number, set by the application's middleware."""
    known: str | None = request.scope.get("state", {}).get("request_id")
    return known


Entitled = Callable[[Request], None]
"""Asked before a file is read; raises for whoever may not send one."""


def page_router(services: WebServices, *, uploads: Entitled | None = None) -> APIRouter:
    """A router whose routes answer refusals as pages and ask the signed-out to sign in.

    Args:
        uploads: forms of these routes bring a file, of whom this lets through.
    """
    return APIRouter(include_in_schema=False, route_class=_page_route(services, uploads))


def _page_route(services: WebServices, uploads: Entitled | None) -> type[APIRoute]:
    class PageRoute(APIRoute):
        """A route of pages."""

        def get_route_handler(self) -> Handler:
            return translated(services, super().get_route_handler(), uploads=uploads)

    return PageRoute


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def translated(services: WebServices, handler: Handler, *, uploads: Entitled | None = None) -> Handler:
    """A handler that answers errors of the domain with pages, and records them: the one translator of the web."""

    async def handle(received: Request) -> Response:
        bounded = BoundedRequest if uploads is None else UploadRequest
        request = bounded(received.scope, received.receive)
        try:
            check_path(request)
            if request.method == "POST" and uploads is not None:
                await run_in_threadpool(uploads, request)
                await read_upload(request)
            elif request.method == "POST":
                await read_form(request)
            response = await handler(request)
        except SignInRequired:
            if request.method == "POST":
                await run_in_threadpool(note_refusal, services, request, "sign_in_required")
            return _to_sign_in(request)
        except BrokenForm as broken:
            await run_in_threadpool(note_refusal, services, request, broken.rule, broken.field)
            return render_broken_form(services.pages, request, broken)
        except _KNOWN as error:
            refusal = _as_refusal(error)
            await run_in_threadpool(_note_error, services, request, refusal)
            return render_error(services.pages, request, refusal)
        finally:
            drop_file(request)
        if request.method == "POST" and response.status_code in _REFUSED and not _is_noted(request):
            await run_in_threadpool(note_refusal, services, request, "form.refused")
        return response

    return handle


def _as_refusal(error: Exception) -> IdhubError:
    if isinstance(error, IdhubError):
        return error
    if isinstance(error, IntegrityError):
        _LOG.warning("web.lost_a_race", exc_info=error)
        return Conflict(_RACE, rule="race")
    if isinstance(error, OperationalError):
        _LOG.warning("web.database_unavailable", exc_info=error)
        return Unavailable("The database cannot be reached; try again.")
    if isinstance(error, HTTPException) and error.status_code in {401, 403}:
        return NotPermitted("", rule="request.refused")
    return Invalid("The address or form could not be read.", rule="request.malformed")


def _note_error(services: WebServices, request: Request, error: IdhubError) -> None:
    if isinstance(error, Unavailable):
        return
    rule = error.rule or "invalid"
    is_denied = isinstance(error, NotFound | NotPermitted) and rule.startswith("authority")
    kind = EventType.AUTHORIZATION_DENIED if is_denied else EventType.REQUEST_REFUSED
    note_refusal(services, request, rule, error.field or "", kind=kind)


def note_refusal(
    services: WebServices,
    request: Request,
    reason: str,
    field: str = "",
    *,
    kind: EventType = EventType.REQUEST_REFUSED,
) -> None:
    """Record that a request was refused: of a signed-in person as an event of its own, of anybody else in the count."""
    request.state.is_refusal_noted = True
    now = services.clock()
    route = request.scope.get("route")
    target = f"{request.method} {getattr(route, 'path', 'unknown')}"
    address = address_of(request, services)
    try:
        signed_in = _signed_in(services, request, now=now)
        if signed_in is None:
            services.journal.count(
                kind, door="login", target_kind="page", target_id=target, address=address, now=now, reason=reason
            )
            return
        event = Event(
            type=kind,
            at=now,
            actor=_actor_of(signed_in, address),
            door="console",
            target_kind="page",
            target_id=target,
            outcome="failure",
            reason=reason,
            request_id=request_id(request),
            person_id=signed_in.principal_id,
            details={"field": field} if field else {},
        )
        with services.database.transaction(durable=False) as session:
            record(session, [event])
    except OperationalError as failure:
        _LOG.warning("web.refusal_not_recorded", exc_info=failure)


def _signed_in(services: WebServices, request: Request, *, now: datetime) -> SignedIn | None:
    token = _session_cookie(request, services)
    if token is None:
        return None
    with services.database.read() as session:
        return authenticate(session, token, now=now)


def _is_noted(request: Request) -> bool:
    return getattr(request.state, "is_refusal_noted", False)


def _to_sign_in(request: Request) -> Response:
    # A form whose session ended meanwhile is not repeated after sign-in: its page is shown again instead.
    target = "/"
    if request.method in {"GET", "HEAD"}:
        target = local_address(request)
    response = RedirectResponse("/login?" + urlencode({"return_to": target}), status_code=303)
    response.headers["Cache-Control"] = "no-store"
    return response
