"""The endpoints that a browser visits: authorization, its resumption, and RP-initiated logout."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idhub.gateway import Browser, ShownError, read_posted
from idhub.oidc.authorization import Authorization, SignInPage
from idhub.oidc.gateway import Gateway, OidcServices
from idhub.oidc.logout import Logout
from idhub.oidc.metadata import AUTHORIZE_PATH, LOGOUT_PATH, LOGOUT_RESUME_PATH, RESUME_PATH
from idhub.oidc.parameters import MAX_BODY


async def _body(request: Request) -> bytes | None:
    """The form of a POST; None when it is larger than any request."""
    return await read_posted(request, most=MAX_BODY)


_Body = Annotated[bytes | None, Depends(_body)]


def create_authorization(services: OidcServices, sign_in_page: SignInPage | None = None) -> Authorization:
    """What answers authorization requests; see there for `sign_in_page`."""
    return Authorization(Gateway(services), sign_in_page)


def create_entrance(services: OidcServices, authorization: Authorization) -> list[Route]:
    """What everybody passes who enters an application: plain routes, which need nothing of a framework."""
    gateway, lane = Gateway(services), services.admission.sign_ins

    async def authorize(request: Request) -> Response:
        browser = gateway.browser(request)
        try:
            body = await _body(request) if request.method == "POST" else None
            parameters = gateway.parameters(request, body)
            if browser.session_token is not None:
                # Somebody who is signed in already waits for no sign-in.
                return await authorization.begin(browser, parameters)
            async with lane:
                return await authorization.begin(browser, parameters)
        except ShownError as error:
            return await shown(browser, error)

    async def resume(request: Request) -> Response:
        browser = gateway.browser(request)
        try:
            return await authorization.resume(browser, gateway.parameters(request, None))
        except ShownError as error:
            return await shown(browser, error)

    async def shown(browser: Browser, error: ShownError) -> Response:
        async with services.admission.sign_ins_aside:
            return await run_in_threadpool(gateway.show, browser, error)

    return [
        Route(AUTHORIZE_PATH, authorize, methods=["GET", "POST"], include_in_schema=False),
        Route(RESUME_PATH, resume, methods=["GET"], include_in_schema=False),
    ]


def create_router(services: OidcServices) -> APIRouter:
    """Routes of the browser endpoints."""
    gateway = Gateway(services)
    logout = Logout(gateway)
    router = APIRouter(include_in_schema=False)
    for route in create_entrance(services, create_authorization(services)):
        router.add_route(route.path, route.endpoint, list(route.methods or ()), include_in_schema=False)

    @router.api_route(LOGOUT_PATH, methods=["GET", "POST"])
    def end_session(request: Request, body: _Body) -> Response:
        browser = gateway.browser(request)
        try:
            return logout.begin(browser, gateway.parameters(request, body))
        except ShownError as error:
            return gateway.show(browser, error)

    @router.get(LOGOUT_RESUME_PATH)
    def resume_logout(request: Request) -> Response:
        browser = gateway.browser(request)
        try:
            return logout.resume(browser, gateway.parameters(request, None).values.get("transaction", ""))
        except ShownError as error:
            return gateway.show(browser, error)

    return router
