"""Composition root: a hub's services, its routers, its error translators, and the ASGI application they make."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Protocol

import anyio.to_thread
import structlog
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as DatabaseTimeout
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from idhub import health
from idhub.admission import Admission, Admitted
from idhub.api.errors import error_response
from idhub.api.routes import create_router as create_api
from idhub.api.scim import create_router as create_scim
from idhub.cas.routes import create_router as create_cas
from idhub.changes import EventType
from idhub.credentials.journal import Journal
from idhub.credentials.revoke import EndedParticipant
from idhub.credentials.store import Store, create_store
from idhub.db import Database
from idhub.delivery.http import OutboundHttp
from idhub.errors import IdhubError, Invalid, NotFound, Unavailable
from idhub.hr_process import HrProcess
from idhub.keys import Keyring
from idhub.login.addresses import client_address, trusted_networks
from idhub.login.passwords import HashingPool
from idhub.logs import RequestLog
from idhub.oidc.front import Direct, create_hot
from idhub.oidc.metadata import AUTHORIZE_PATH, HOT_PATHS, RESUME_PATH
from idhub.oidc.routes import create_authorization
from idhub.oidc.routes import create_entrance as create_oidc_entrance
from idhub.oidc.routes import create_router as create_oidc
from idhub.pages import Pages
from idhub.pages.direct import DirectPage, ErrorTranslator
from idhub.pages.notices import Carried, ErrorNotice
from idhub.pages.render import create_pages
from idhub.pages.security import SecurityHeaders, add_missing_headers
from idhub.relief import Relief
from idhub.saml.routes import create_router as create_saml
from idhub.services import Hub, utc_now
from idhub.settings import Settings
from idhub.web import login, protocol_pages
from idhub.web.errors import render_error
from idhub.web.routes import create_router as create_pages_router
from idhub.worker import Worker
from idhub.wsfed.routes import create_router as create_wsfed

PUBLISHED_KEYS = "/.well-known/idhub-keys"
_KEYS_MAX_AGE = 300
_BUSY_FOR = timedelta(seconds=1)
_MACHINE_PATHS = ("/api/", "/scim/", "/oauth2/", "/.well-known/", "/healthz", "/readyz", "/metrics")
# Nothing in these was chosen by a caller.
_PLAIN_PATHS = (*HOT_PATHS, AUTHORIZE_PATH, RESUME_PATH, "/login")
_LOG = structlog.get_logger(__name__)


class HubApp(FastAPI):
    """FastAPI behind the endpoints that machines call at high rate: those pass none of its layers."""

    front: Mapping[str, ASGIApp] = MappingProxyType({})
    direct: Mapping[bytes, Direct | DirectPage] = MappingProxyType({})
    """The same endpoints, for the embedded server: by what stands in the request line."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self.front.get(scope["path"]) if scope["type"] == "http" else None
        await (endpoint or super().__call__)(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Services:
    """What routers share. Each area names the part it uses by a protocol of its own."""

    hub: Hub
    pages: Pages
    hashing: HashingPool
    store: Store
    http: OutboundHttp
    journal: Journal
    admission: Admission

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""
        return self.hub.settings

    @property
    def database(self) -> Database:
        """The one database."""
        return self.hub.database

    @property
    def keyring(self) -> Keyring:
        """Keys by purpose."""
        return self.hub.keyring

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present; read once a request and handed down as `now`."""
        return self.hub.clock

    def tell_participants(self, session: Session, participants: Sequence[EndedParticipant], *, now: datetime) -> None:
        """Plan the logouts of sessions that ended otherwise than by a transition."""
        self.hub.tell_participants(session, participants, now=now)

    def error_page(self, request: Request, notice: ErrorNotice) -> Response:
        """The page for a protocol error that must not be redirected."""
        return protocol_pages.notice(self, request, status=notice.status, reason=notice.reason)

    def carrying_page(self, request: Request, carried: Carried) -> Response:
        """The page whose form the browser carries to an application."""
        return protocol_pages.carrying(self, request, carried)

    def cleaning_page(self, request: Request, addresses: Sequence[str], go_on: str) -> Response:
        """The page that calls the clean-up addresses of applications and then leads on."""
        return protocol_pages.cleaning(self, request, addresses, go_on)


def create_services(hub: Hub) -> Services:
    """Make what routers share."""
    store = create_store(hub.settings, hub.database, hub.keyring)
    return Services(
        hub=hub,
        pages=create_pages(hub.settings, hub.keyring.master.csrf_secret),
        hashing=HashingPool(hub.settings),
        store=store,
        http=OutboundHttp(hub.settings),
        journal=Journal(store),
        admission=Admission(hub.settings.database_pool_size, clock=hub.clock),
    )


def create_app(hub: Hub, *, with_worker: bool = True) -> FastAPI:
    """The ASGI application of an open hub.

    Args:
        with_worker: run the worker in this process, as the embedded default does.
    """
    services = create_services(hub)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Threads and pooled connections are set together: a request thread never waits for a connection.
        anyio.to_thread.current_default_thread_limiter().total_tokens = services.admission.threads
        # Other processes have the system's clock.
        reliever = Relief(hub.settings) if hub.clock is utc_now else None
        importer = HrProcess(hub.settings, hub.database) if hub.clock is utc_now else None
        worker = Worker(hub, services.http, reliever=reliever, importer=importer) if with_worker else None
        if worker is not None:
            await worker.start()
        counting = asyncio.create_task(services.journal.run())
        try:
            yield
        finally:
            counting.cancel()
            await asyncio.wait([counting])
            if worker is not None:
                await worker.stop()
            await services.store.close()
            await services.http.close()
            services.hashing.close()

    app = HubApp(
        title="idhub",
        version="1",
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    log = partial(RequestLog, settings=hub.settings, plain_paths=_PLAIN_PATHS)
    hot = create_hot(services)[1]
    app.front = {path: log(endpoint) for path, endpoint in hot.items()}
    app.direct = {path.encode(): Direct(endpoint, log(endpoint), path) for path, endpoint in hot.items()}
    # Nor does what everybody passes in the morning: their routes are also among the others, for whoever reads those.
    authorization = create_authorization(services, login.create_sign_in_page(services))
    routes = [*create_oidc_entrance(services, authorization), *login.create_entrance(services, authorization)]
    entrance = Starlette(routes=routes)
    translate = _protect(entrance, services)
    for path in (AUTHORIZE_PATH, RESUME_PATH, "/login"):
        app.front = {**app.front, path: entrance}
        handlers = {method: one.endpoint for one in routes if one.path == path for method in one.methods or ()}
        handlers.pop("HEAD", None)
        page = DirectPage(path, handlers, translate, log(entrance), is_https=hub.settings.is_https)
        app.direct = {**app.direct, path.encode(): page}
    # Routes are taken over as they are: a router that is included has every route analysed a second time.
    for create_router in (
        create_oidc,
        create_saml,
        create_wsfed,
        create_cas,
        login.create_router,
        create_api,
        create_scim,
        create_pages_router,
        health.create_router,
    ):
        app.router.routes += create_router(services).routes
    _publish_keys(app, services)
    # Innermost: what is refused here has its headers and its line in the log.
    app.add_middleware(Admitted, admission=services.admission, refuse=_busy(services))
    _protect(app, services)
    return app


def _busy(services: Services) -> ASGIApp:
    """What a request gets for which there is no room."""
    error = Unavailable("Too much is being asked for at once; try again.", retry_after=_BUSY_FOR)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await _answer(services.pages, request, error)(scope, receive, send)

    return answer


def _protect(app: Starlette, services: Services) -> ErrorTranslator:
    """What is around every route: the last translators, protecting headers, the log. Returns the translators."""
    translate = translate_the_rest(app, services)
    app.add_middleware(SecurityHeaders, is_https=services.settings.is_https)
    app.add_middleware(RequestLog, settings=services.settings, plain_paths=_PLAIN_PATHS)
    return translate


class RestServices(Protocol):
    """What the last translators use."""

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""

    @property
    def pages(self) -> Pages:
        """What renders."""

    @property
    def journal(self) -> Journal:
        """Counts refusals."""

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present."""


def translate_the_rest(app: Starlette, services: RestServices) -> ErrorTranslator:
    """Answer what no area's own translator saw: addresses that nobody serves, and faults of ours.

    Browsers get a page, machines JSON; which of them is asking, the address tells. Returns the same for who calls
    handlers without the application around them.
    """
    trusted = trusted_networks(services.settings.trusted_proxies)

    answer = partial(_answer, services.pages)

    async def on_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        peer = request.client.host if request.client else "unknown"
        services.journal.count(
            EventType.REQUEST_REFUSED, door="api" if request.scope["path"].startswith("/api/") else "login",
            target_kind="address", target_id=None, reason=f"route.{status}", now=services.clock(),
            address=client_address(peer, request.headers.getlist("x-forwarded-for"), trusted),
        )  # fmt: skip
        if status not in {404, 405}:
            return answer(request, Invalid("This cannot be read.", rule="request.form"))
        known = NotFound("There is no such address, or it takes another method.", rule="route")
        response = answer(request, known)
        response.status_code = status
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    async def on_domain(request: Request, error: Exception) -> Response:
        return answer(request, error if isinstance(error, IdhubError) else None)

    async def on_database(request: Request, error: Exception) -> Response:
        _LOG.warning("request.database_unavailable", exc_info=error)
        return answer(request, Unavailable("The database cannot be reached; try again."))

    async def on_broken_off(request: Request, _: Exception) -> Response:
        # Nobody hears it; it is no fault of ours.
        return answer(request, Invalid("The request was cut off.", rule="request.cut"))

    async def on_unexpected(request: Request, error: Exception) -> Response:
        _LOG.error("request.failed", exc_info=error)
        response = answer(request, None)
        # Nothing of ours is around this one: it is given outside of every middleware.
        add_missing_headers(response.raw_headers, is_https=services.settings.is_https)
        number = getattr(request.state, "request_id", None)
        if number is not None:
            response.headers["X-Request-Id"] = number
        return response

    handlers: dict[type[Exception], ErrorTranslator] = {
        HTTPException: on_http, IdhubError: on_domain, OperationalError: on_database, DatabaseTimeout: on_database,
        ClientDisconnect: on_broken_off, Exception: on_unexpected,
    }  # fmt: skip
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)

    async def translate(request: Request, error: Exception) -> Response:
        return await next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)(request, error)

    return translate


def _answer(pages: Pages, request: Request, error: IdhubError | None) -> Response:
    if request.scope["path"].startswith(_MACHINE_PATHS):
        return error_response(request, error)
    return render_error(pages, request, error)


def _publish_keys(app: FastAPI, services: Services) -> None:
    @app.get(PUBLISHED_KEYS, include_in_schema=False)
    def published_keys() -> Response:
        """Public keys of receipts and checkpoints, apart from the token keys; retired ones stay for years."""
        return JSONResponse(
            services.keyring.jwks("receipt", "checkpoint"),
            headers={"Cache-Control": f"public, max-age={_KEYS_MAX_AGE}", "X-Content-Type-Options": "nosniff"},
            media_type="application/jwk-set+json",
        )
