"""The endpoints of the identity provider: metadata, sign-on, artifacts, logout."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from idhub.gateway import Browser, ShownError
from idhub.saml.artifacts import ArtifactResolver
from idhub.saml.gateway import Gateway, SamlServices, form_of, read_body
from idhub.saml.logout import SingleLogout
from idhub.saml.metadata import (
    ARTIFACT_PATH,
    CHAIN_PATH,
    LAUNCH_PATH,
    LOGOUT_PATH,
    MEDIA_TYPE,
    METADATA_PATH,
    RESUME_PATH,
    SOAP_PATH,
    SSO_PATH,
    metadata_document,
)
from idhub.saml.sign_on import SignOn

_METADATA_MAX_AGE = 300


_Body = Annotated[bytes | None, Depends(read_body)]


def _form(request: Request, body: bytes | None) -> dict[str, str] | None:
    return None if request.method != "POST" else form_of(request, body)


def create_router(services: SamlServices) -> APIRouter:
    """Routes of the identity provider."""
    gateway = Gateway(services)
    sign_on, single_logout, resolver = SignOn(gateway), SingleLogout(gateway), ArtifactResolver(gateway)
    router = APIRouter(include_in_schema=False)
    metadata = metadata_document(gateway.issuer, services.keyring).encode()

    @router.get(METADATA_PATH)
    def show_metadata() -> Response:
        """Our metadata: made once, for the keys of this process."""
        headers = {"Cache-Control": f"public, max-age={_METADATA_MAX_AGE}"}
        return Response(metadata, media_type=MEDIA_TYPE, headers=headers)

    def answered(
        request: Request,
        act: Callable[[Browser], Response],
        refuse: Callable[[Browser, ShownError], Response] = gateway.show,
    ) -> Response:
        browser = gateway.browser(request)
        try:
            return act(browser)
        except ShownError as error:
            return refuse(browser, error)

    @router.api_route(SSO_PATH, methods=["GET", "POST"])
    def sso(request: Request, body: _Body) -> Response:
        return answered(request, lambda b: sign_on.begin(b, gateway.received(request, _form(request, body))))

    @router.get(RESUME_PATH)
    def resume(request: Request, transaction: str = "", given: str | None = None) -> Response:
        return answered(request, lambda b: sign_on.resume(b, transaction, given))

    @router.get(LAUNCH_PATH)
    def launch(request: Request, slug: str) -> Response:
        return answered(request, lambda b: sign_on.launch(b, slug))

    @router.api_route(LOGOUT_PATH, methods=["GET", "POST"])
    def slo(request: Request, body: _Body) -> Response:
        return answered(request, lambda b: single_logout.receive(b, gateway.received(request, _form(request, body))))

    @router.post(SOAP_PATH)
    def soap(request: Request, body: _Body) -> Response:
        return answered(request, lambda b: single_logout.receive_soap(b, body), gateway.fault)

    @router.post(ARTIFACT_PATH)
    def artifact(request: Request, body: _Body) -> Response:
        return answered(request, lambda b: resolver.receive(b, body), gateway.fault)

    @router.get(CHAIN_PATH)
    def go_on(request: Request, transaction: str = "", given: str | None = None) -> Response:
        return answered(request, lambda b: single_logout.go_on(b, transaction, given))

    return router
