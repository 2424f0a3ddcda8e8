"""The endpoints of the CAS server: sign-in, logout, validation."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from idhub.cas import answers
from idhub.cas.gateway import (
    LOGIN_PATH,
    LOGOUT_PATH,
    LOGOUT_RESUME_PATH,
    RESUME_PATH,
    CasServices,
    Gateway,
)
from idhub.cas.logout import Logout
from idhub.cas.parameters import Parameters, read_query
from idhub.cas.sign_on import SignOn
from idhub.cas.validation import Validation, Version
from idhub.credentials.tickets import TicketRefused
from idhub.gateway import Browser, ShownError

# CAS 2.6: whoever asks there gets the same; a proxy ticket is one that nobody has issued.
_VALIDATING: dict[str, Version] = {
    "/cas/validate": 1,
    "/cas/serviceValidate": 2,
    "/cas/proxyValidate": 2,
    "/cas/p3/serviceValidate": 3,
    "/cas/p3/proxyValidate": 3,
}


def create_router(services: CasServices) -> APIRouter:
    """Routes of the CAS server."""
    gateway = Gateway(services)
    sign_on, logout, validation = SignOn(gateway), Logout(gateway), Validation(gateway)
    router = APIRouter(include_in_schema=False)

    def parameters(request: Request) -> Parameters:
        return read_query(request.scope["query_string"])

    def shown(request: Request, act: Callable[[Browser], Response]) -> Response:
        browser = gateway.browser(request)
        try:
            return act(browser)
        except ShownError as error:
            return gateway.show(browser, error)

    @router.get(LOGIN_PATH)
    def login(request: Request) -> Response:
        return shown(request, lambda browser: sign_on.begin(browser, parameters(request)))

    @router.get(RESUME_PATH)
    def resume(request: Request, transaction: str = "") -> Response:
        return shown(request, lambda browser: sign_on.resume(browser, transaction))

    @router.get(LOGOUT_PATH)
    def log_out(request: Request) -> Response:
        return shown(request, lambda browser: logout.begin(browser, parameters(request)))

    @router.get(LOGOUT_RESUME_PATH)
    def logged_out(request: Request, transaction: str = "") -> Response:
        return shown(request, lambda browser: logout.resume(browser, transaction))

    def validating(version: Version) -> Callable[[Request], Response]:
        def validate(request: Request) -> Response:
            return validation.answer(gateway.browser(request), parameters(request), version)

        return validate

    for path, version in _VALIDATING.items():
        router.get(path)(validating(version))

    @router.get("/cas/proxy")
    def proxy(request: Request) -> Response:
        """Proxy tickets are not issued."""
        gateway.count_ticket(gateway.browser(request), TicketRefused("proxy_unsupported"))
        return answers.no_proxy_ticket()

    return router
