"""The endpoints of the token service: one for requests, and its metadata."""

from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from idhub.gateway import Browser, ShownError
from idhub.saml.gateway import MAX_QUERY, Gateway, SamlServices, form_of, read_body, read_fields
from idhub.wsfed.metadata import METADATA_PATH, PATH, RESUME_PATH, SIGNED_OUT_PATH, WELL_KNOWN_PATH, metadata_document
from idhub.wsfed.requests import MAX_FIELDS, SIGN_IN, SIGN_OUT
from idhub.wsfed.sign_on import TokenSignOn
from idhub.wsfed.sign_out import SignOut

_METADATA_MAX_AGE = 300
_Body = Annotated[bytes | None, Depends(read_body)]


def _fields(request: Request, body: bytes | None) -> Mapping[str, str]:
    """The parameters of a request, each once.

    Raises:
        ShownError: request_malformed.
    """
    query: bytes = request.scope["query_string"]
    fields = None
    if request.method != "POST":
        fields = read_fields(query, most=MAX_FIELDS) if len(query) <= MAX_QUERY else None
    else:
        fields = form_of(request, body, most=MAX_FIELDS)
    if fields is None:
        raise ShownError("request_malformed", "wsfed.fields")
    return fields


def create_router(services: SamlServices) -> APIRouter:
    """Routes of the token service."""
    gateway = Gateway(services, door="wsfed")
    sign_on, sign_out = TokenSignOn(gateway), SignOut(gateway)
    router = APIRouter(include_in_schema=False)
    metadata = metadata_document(gateway.issuer, services.keyring).encode()

    def answered(request: Request, act: Callable[[Browser], Response]) -> Response:
        browser = gateway.browser(request)
        try:
            return act(browser)
        except ShownError as error:
            return gateway.show(browser, error)

    def act(browser: Browser, fields: Mapping[str, str]) -> Response:
        action = fields.get("wa")
        if action == SIGN_IN:
            return sign_on.ask(browser, fields)
        if action in SIGN_OUT:
            return sign_out.begin(browser, fields)
        raise ShownError("request_malformed", "wsfed.action")

    @router.api_route(PATH, methods=["GET", "POST"])
    def wsfed(request: Request, body: _Body) -> Response:
        return answered(request, lambda b: act(b, _fields(request, body)))

    @router.get(RESUME_PATH)
    def resume(request: Request, transaction: str = "", given: str | None = None) -> Response:
        return answered(request, lambda b: sign_on.resume(b, transaction, given))

    @router.get(SIGNED_OUT_PATH)
    def signed_out(request: Request, transaction: str = "") -> Response:
        return answered(request, lambda b: sign_out.resume(b, transaction))

    def show_metadata() -> Response:
        """Our metadata: made once, for the keys of this process."""
        headers = {"Cache-Control": f"public, max-age={_METADATA_MAX_AGE}"}
        return Response(metadata, media_type="application/xml", headers=headers)

    for path in (METADATA_PATH, WELL_KNOWN_PATH):
        router.add_api_route(path, show_metadata, methods=["GET"])
    return router
